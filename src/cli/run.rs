//! `runner run`.

use super::load::{self, Loaded};
use super::session::{Session, cancel_on_signals};
use super::stdio;
use crate::duration;
use crate::engine::{self, Job};
use crate::exit::{Exit, Failure};
use crate::language::diagnostic;
use crate::language::pipeline::model::{NotifyTarget, PhaseName};
use crate::plan::{self, Mode};
use crate::process::Stopping;
use crate::report::console::Console;
use crate::report::notify::{Deliveries, Delivery, Notifier, Target, TargetKind};
use crate::report::{Reports, Sink};
use crate::secret::Secret;
use crate::tls::{self, Redirects};
use clap::Args;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Run the pipeline, or some of its phases
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  runner run                      the whole pipeline; in CodeBuild it publishes, elsewhere it stays local\n  runner run --phase build        one phase; a later call goes on with what it built\n  runner run --local --env-file .env"
)]
pub(crate) struct Arguments {
    /// The pipeline file; paths in it start from its directory
    #[arg(long, short, default_value = "pipeline.yml", value_name = "FILE")]
    file: PathBuf,
    /// Run only this phase; may be given several times
    #[arg(long = "phase", value_name = "PHASE", value_parser = phase)]
    phases: Vec<PhaseName>,
    /// Push, register, deploy and notify (the default inside CodeBuild)
    #[arg(long, conflicts_with = "local")]
    publish: bool,
    /// Connect to nothing but Docker, and write what would be published to .runner/ (the default elsewhere)
    #[arg(long)]
    local: bool,
    /// Take variables and secrets from a file of KEY=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// End the run after this time, such as 45m, with finally and reports still to come
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// The time between TERM and KILL for what is being stopped
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "10s")]
    grace: Duration,
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

/// Reads, plans and runs. Failures that come before the run has begun are errors; later ones are in the log and the code.
pub(crate) async fn main(arguments: &Arguments, session: &Session) -> Result<Exit, Failure> {
    let job = job(arguments, session)?;
    let Session { masks, printer } = session;
    let stopping = Stopping { grace: arguments.grace, ..Stopping::default() };
    let cancellation = cancel_on_signals(stopping)?;
    let prepared = tokio::select! {
        prepared = engine::prepare(job) => prepared?,
        () = cancellation.stopping.soft.cancelled() => {
            let signal = cancellation.signal.load(Ordering::SeqCst);
            return Err(Failure::new(Exit::Signal(signal), "stopped before anything ran"));
        }
    };
    let deliveries = Deliveries::default();
    let notifier = notifier(prepared.job(), &deliveries)?;
    let mut console = Console::new(stdio::Log::new(), printer.color, masks);
    if stdio::is_screen() {
        console = console.on_terminal(stdio::size);
    }
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(console), Box::new(notifier)];
    let (events, reports) = Reports::start(sinks);
    let result = prepared.run(&events, &cancellation).await;
    // The log has no reader any more, and the run was to end: the rest of it is not waited for.
    let patience = events.is_stalled().then_some(Duration::ZERO);
    drop(events);
    reports.finish(patience).await;
    for warning in deliveries.finish().await {
        printer.warning(&warning);
    }
    Ok(result.map_or_else(|failure| failure.exit, |()| Exit::Done))
}

/// From raw arguments and the environment to a job.
fn job(arguments: &Arguments, session: &Session) -> Result<Job, Failure> {
    let request = load::Request {
        file: &arguments.file,
        mode: load::mode(arguments.publish, arguments.local),
        env_file: arguments.env_file.as_deref(),
        elsewhere: false,
        json: false,
    };
    let loaded = load::load(&request, session)?;
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
    Ok(Job {
        pipeline,
        source,
        plan,
        values,
        context,
        mode,
        pipeline_file: file,
        directory,
        artifacts,
        settings,
        masks: session.masks.clone(),
        not_text: load::not_text(),
        timeout: arguments.timeout,
    })
}

/// Who is told, their addresses resolved.
fn notifier(job: &Job, deliveries: &Deliveries) -> Result<Notifier, Failure> {
    let mut targets = Vec::new();
    for notify in job.pipeline.notify.iter().filter(|notify| plan::condition::is_told(notify, &job.context)) {
        let secret = |template| match job.mode {
            // Nothing is sent, so nothing has to have a value.
            Mode::Local => Ok(Secret::new("")),
            Mode::Publish => job.resolve(&job.values, template).map(Secret::new),
        };
        let (kind, url) = match &notify.target {
            NotifyTarget::Slack { url } => (TargetKind::Slack, secret(url)?),
            NotifyTarget::Webhook { url, headers, .. } => {
                let headers = headers
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), secret(value)?)))
                    .collect::<Result<Vec<_>, Failure>>()?;
                for (_, value) in &headers {
                    job.masks.add(value);
                }
                (TargetKind::Webhook(headers), secret(url)?)
            }
            // Files with one are refused before anything runs.
            NotifyTarget::Sns(_) => continue,
        };
        // Whoever knows the address of a webhook can post to it.
        job.masks.add(&url);
        let on = notify.on.clone();
        targets.push(Target { kind, url, on });
    }
    let delivery = match job.mode {
        Mode::Local => Delivery::Write(job.work_directory().join("notifications")),
        Mode::Publish => Delivery::Send(
            tls::http_client(&job.settings.authorities(), Redirects::Refuse)
                .map_err(|error| Failure::environment(crate::exit::chain(&error)))?,
        ),
    };
    Ok(Notifier::new(targets, delivery, &job.masks, deliveries))
}
