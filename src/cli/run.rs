//! `runner run`.

use super::load::{self, Loaded};
use super::session::{Session, cancel_on_signals};
use super::{facts, stdio};
use crate::duration;
use crate::engine::Deadline;
use crate::event::Events;
use crate::exit::{Exit, Failure};
use crate::language::diagnostic;
use crate::language::pipeline::Pipeline;
use crate::language::pipeline::model::{Action, Image, PhaseName};
use crate::origin;
use crate::plan::context::BuildContext;
use crate::plan::scope::Values;
use crate::plan::{self, Plan};
use crate::process::Stopping;
use crate::report::console::Console;
use crate::report::json_lines::JsonLines;
use crate::report::notify::{Deliveries, Notifier};
use crate::report::{Reports, Sink};
use crate::run::{self, Job};
use crate::step::Project;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Run the pipeline, or some of its phases
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "one for each flag")]
#[command(after_help = "\
Examples:
  runner run                  run the whole pipeline; publish in CodeBuild, stay local elsewhere
  runner run --phase build    run one phase; later calls continue with its results
  runner run --local --env-file .env")]
pub(crate) struct Arguments {
    /// The pipeline file; paths in it are relative to its directory
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
    /// Run only this phase; can be given several times
    #[arg(long = "phase", value_name = "PHASE", value_parser = phase)]
    phases: Vec<PhaseName>,
    /// Push, register, deploy and notify (the default inside CodeBuild)
    #[arg(long, conflicts_with = "local")]
    publish: bool,
    /// Connect only to Docker, and write to .runner/ what would be published (the default elsewhere)
    #[arg(long)]
    local: bool,
    /// Skip the steps that publish, for a project that only tests
    #[arg(long)]
    no_publish: bool,
    /// Push although the working tree differs from its commit
    #[arg(long)]
    allow_dirty: bool,
    /// Take variables and secrets from a file of KEY=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Stop the run after this time, such as 45m; `finally` steps and reports still run
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    timeout: Option<Duration>,
    /// The time between TERM and KILL when processes are stopped
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument, default_value = "10s")]
    grace: Duration,
    /// Print the events of the run as JSON lines instead of the log; `output` adds the output of commands
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "events")]
    json: Option<Json>,
}

/// Which events `--json` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Json {
    Events,
    Output,
}

pub(crate) fn phase(name: &str) -> Result<PhaseName, String> {
    PhaseName::ALL.into_iter().find(|phase| phase.as_str() == name).ok_or_else(|| {
        let names = PhaseName::ALL.map(PhaseName::as_str);
        let known = crate::text::listed(names);
        match crate::text::closest(name, names) {
            Some(candidate) => format!("did you mean `{candidate}`?"),
            None => format!("the phases are {known}"),
        }
    })
}

/// Reads, plans and runs the pipeline. A failure before the run is returned; a later one is in the log and the exit code.
pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let Session { masks, printer } = session;
    let stopping = Stopping { grace: arguments.grace, ..Stopping::default() };
    let cancellation = cancel_on_signals(stopping)?;
    let deadline = Deadline::start("the run", arguments.timeout, &cancellation.stopping.soft);
    let job = job(arguments, session);
    let job = cancellation.prepare(&deadline, "reading the pipeline file and asking git", job).await?;
    let prepared = run::prepare(job, &cancellation, deadline).await?;
    let receivers = prepared.receivers()?;
    let deliveries = Deliveries::default();
    let log: Box<dyn Sink> = match arguments.json {
        Some(json) => Box::new(JsonLines::new(stdio::Log::new(), json == Json::Output)),
        None => console(printer.color),
    };
    let sinks = vec![log, Box::new(Notifier::new(receivers, &deliveries))];
    let (call, last) = prepared.numbers();
    let (events, reports) =
        Reports::start(sinks, |wants, capacity| Events::open(wants, capacity, masks, call, last))?;
    let result = prepared.run(&events, &cancellation).await;
    // If the reader of the log has stopped reading, the rest of the log is dropped.
    let timeout = events.is_stalled().then_some(Duration::ZERO);
    drop(events);
    reports.finish(timeout).await;
    for warning in deliveries.finish().await {
        printer.warning(&warning);
    }
    Ok(result.map_or_else(|failure| failure.exit, |()| Exit::Done))
}

fn console(color: bool) -> Box<dyn Sink> {
    let console = Console::new(stdio::Log::new(), color);
    Box::new(if stdio::is_screen() { console.on_terminal(stdio::size) } else { console })
}

/// Turns raw arguments and the environment into a job.
async fn job(arguments: &Arguments, session: &Session) -> Result<Job, Failure> {
    let request = load::Request {
        file: &arguments.file,
        mode: load::mode(arguments.publish, arguments.local),
        no_publish: arguments.no_publish,
        env_file: arguments.env_file.as_deref(),
        elsewhere: false,
        json: false,
    };
    let loaded = load::load(&request, session).await?;
    let settings = loaded.settings()?;
    let Loaded { pipeline, source, file, directory, process, context, mode, values } = loaded;
    let planned = plan::plan(&pipeline, &arguments.phases, &context, mode, &values);
    let plan = match planned {
        Ok(plan) if pipeline.unready.is_empty() => plan,
        planned => {
            let mut problems = planned.err().unwrap_or_default();
            problems.extend(pipeline.unready);
            diagnostic::sort(&mut problems);
            return Err(load::refuse(&source, &problems, false, &session.printer));
        }
    };
    let artifacts = load::artifacts(&process, &directory);
    let changes = changes(&pipeline, &plan, &context, &values, &directory).await?;
    let facts = facts::facts(&pipeline, &values, &directory);
    let ecs_poll = settings.ecs_poll;
    let project = Project {
        pipeline,
        source,
        file,
        context,
        mode,
        // CodeBuild's, or the one that the state gives.
        build_id: String::new(),
        directory,
        artifacts,
        not_text: load::not_text(),
        ecs_poll,
        masks: session.masks.clone(),
        dirty: false,
    };
    Ok(Job {
        project,
        plan,
        facts,
        values,
        settings,
        changes,
        allow_dirty: arguments.allow_dirty,
        arguments: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
    })
}

/// The files that differ from the commit, if this build pushes images under its name.
async fn changes(
    pipeline: &Pipeline,
    plan: &Plan,
    context: &BuildContext,
    values: &Values,
    directory: &Path,
) -> Result<Vec<String>, Failure> {
    let pushes = pipeline.steps().filter(|step| plan.skip_reason(step).is_none());
    let pushed = pushes.filter_map(|step| match &step.action {
        Action::Push(images) => Some(images),
        _ => None,
    });
    let images: Vec<&Image> = pushed.flatten().filter_map(|name| pipeline.images.get(&name.value)).collect();
    let Some(commit) = context.commit.as_ref().filter(|_| !images.is_empty()) else { return Ok(Vec::new()) };
    let contexts = images.into_iter().flat_map(|image| image.contexts.values().chain([&image.context]));
    let contexts = contexts.filter_map(|context| Some(context.resolve(values).ok()?.expose().to_owned()));
    let contexts: Vec<PathBuf> =
        contexts.filter(|context| !context.contains("://")).map(|context| directory.join(context)).collect();
    origin::changes(directory, commit, &contexts).await
}
