//! `runner run`.

use super::load::{self, Loaded};
use super::{facts, stdio};
use crate::duration;
use crate::engine::Cancellation;
use crate::event::Events;
use crate::exit::{Exit, Failure};
use crate::language::diagnostic;
use crate::language::pipeline::model::PhaseName;
use crate::plan;
use crate::process::Stopping;
use crate::report::console::Console;
use crate::report::json_lines::JsonLines;
use crate::report::notify::{Deliveries, Notifier};
use crate::report::{Reports, Sink};
use crate::run::{self, Job};
use crate::secret::Masks;
use crate::step::Project;
use clap::{Args, ValueEnum};
use rustix::process::Pid;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// Print the events of the run as JSON lines instead of the log; `output` adds the output of commands
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "events")]
    json: Option<Json>,
}

/// Which events `--json` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Json {
    /// All but the output of commands
    Events,
    /// The output of commands as well
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

/// Reads, plans and runs. Failures that come before the run has begun are errors; later ones are in the log and the code.
pub(crate) fn main(arguments: &Arguments, no_color: bool) -> Result<Exit, Failure> {
    let job = job(arguments, no_color)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("cannot start: {error}")))?;
    let result = runtime.block_on(run(job, arguments.grace, arguments.json, no_color));
    // Blocking work that was stopped in the middle must not delay the end.
    runtime.shutdown_background();
    result
}

async fn run(job: Job, grace: Duration, json: Option<Json>, no_color: bool) -> Result<Exit, Failure> {
    let cancellation =
        Cancellation { stopping: Stopping { grace, ..Stopping::default() }, ..Cancellation::default() };
    watch_signals(&cancellation)?;
    let masks = job.project.masks.clone();
    mask_panics(&masks);
    let prepared = tokio::select! {
        prepared = run::prepare(job) => prepared.map_err(|failure| masked(&failure, &masks))?,
        () = cancellation.stopping.soft.cancelled() => {
            let signal = cancellation.signal().unwrap_or_default();
            return Err(Failure::new(Exit::Signal(signal), "stopped before anything ran"));
        }
    };
    let receivers = prepared.receivers().map_err(|failure| masked(&failure, &masks))?;
    let deliveries = Deliveries::default();
    let log: Box<dyn Sink> = match json {
        Some(json) => Box::new(JsonLines::new(stdio::Log::new(), json == Json::Output)),
        None => console(no_color),
    };
    let sinks = vec![log, Box::new(Notifier::new(receivers, &deliveries))];
    let (call, last) = prepared.numbers();
    let (events, reports) =
        Reports::start(sinks, |wants, capacity| Events::open(wants, capacity, &masks, call, last));
    let result = prepared.run(&events, &cancellation).await;
    // If the reader of the log has stopped reading and the run was to end, the rest of the log is not waited for.
    let patience = events.is_stalled().then_some(Duration::ZERO);
    drop(events);
    reports.finish(patience).await;
    for warning in deliveries.finish().await {
        stdio::text(&masks.text(&format!("warning: {warning}")));
    }
    Ok(result.map_or_else(|failure| failure.exit, |()| Exit::Done))
}

fn console(no_color: bool) -> Box<dyn Sink> {
    let console = Console::new(stdio::Log::new(), stdio::color(&std::io::stdout(), no_color));
    Box::new(if stdio::is_screen() { console.on_terminal(stdio::size) } else { console })
}

fn masked(failure: &Failure, masks: &Masks) -> Failure {
    Failure {
        message: masks.text(&failure.message),
        help: failure.help.as_ref().map(|help| masks.text(help)),
        ..failure.clone()
    }
}

/// What a defect of this program says goes through the masks like everything else.
fn mask_panics(masks: &Masks) {
    let masks = masks.clone();
    std::panic::set_hook(Box::new(move |panic| {
        stdio::text(&masks.text(&format!("runner has a defect, please report it: {panic}")));
    }));
}

/// How far apart two signals are at least that are two wishes.
const ONE_WISH: Duration = Duration::from_millis(200);
/// How often the parent process is looked at.
const PARENT: Duration = Duration::from_millis(200);

/// The first signal stops the run in order, the second at once. The death of the parent process counts as a hang-up: nobody
/// waits for the result any more. Whoever has SIGHUP ignored, as `nohup` does, wants the run to go on without them.
pub(crate) fn watch_signals(cancellation: &Cancellation) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::environment(format!("cannot listen to signals: {error}")))
    };
    let hears_hangup = !ignores_hangup();
    let hangup = if hears_hangup { Some(listen(SignalKind::hangup())?) } else { None };
    let mut signals = Signals {
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
        hangup,
        parent: rustix::process::getppid(),
        watches_parent: hears_hangup,
    };
    let cancellation = cancellation.clone();
    tokio::spawn(async move {
        let number = signals.next().await;
        cancellation.signal.store(number, Ordering::SeqCst);
        cancellation.stopping.soft.cancel();
        // Some send two signals at once, TERM and HUP, and mean one end.
        tokio::time::sleep(ONE_WISH).await;
        signals.forget();
        signals.next().await;
        cancellation.stopping.hard.cancel();
        // What is still to be said gets a moment; then nobody waits any longer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::process::exit(i32::from(Exit::Signal(number).code()));
    });
    Ok(())
}

/// Whether SIGHUP was ignored when this process began, as proc(5) shows it.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// What stops a run from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    /// The process that started this one.
    parent: Option<Pid>,
    /// Whether its end matters.
    watches_parent: bool,
}

impl Signals {
    async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let orphaned = async {
            // There is no way to be told of it that does not depend on the parent's threads (prctl(2), PR_SET_PDEATHSIG).
            while !self.watches_parent || rustix::process::getppid() == self.parent {
                tokio::time::sleep(PARENT).await;
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
            _ = hangup => 1,
            () = orphaned => 1,
        }
    }

    /// Forgets what has come since the first signal. From now on a hang-up is no wish: what stops this process often ends its
    /// terminal and its parent as well.
    fn forget(&mut self) {
        use futures_util::FutureExt;
        while self.terminate.recv().now_or_never().is_some() || self.interrupt.recv().now_or_never().is_some()
        {
        }
        self.hangup = None;
        self.watches_parent = false;
    }
}

/// From raw arguments and the environment to a job.
fn job(arguments: &Arguments, no_color: bool) -> Result<Job, Failure> {
    let show = load::Show::Text { no_color };
    let loaded = load::load(&load::Request {
        file: &arguments.file,
        mode: load::mode(arguments.publish, arguments.local),
        env_file: arguments.env_file.as_deref(),
        elsewhere: false,
        show,
    })?;
    let settings = loaded.settings()?;
    let Loaded { pipeline, source, file, directory, process, context, mode, values } = loaded;
    let planned = plan::plan(&pipeline, &arguments.phases, &context, mode, &values);
    let plan = match planned {
        Ok(plan) if pipeline.unready.is_empty() => plan,
        planned => {
            let mut problems = planned.err().unwrap_or_default();
            problems.extend(pipeline.unready);
            diagnostic::sort(&mut problems);
            return Err(load::refuse(&source, &problems, show));
        }
    };
    let artifacts = load::artifacts(&process, &directory);
    let facts = facts::facts(&pipeline, &values, &directory);
    let ecs_poll = settings.ecs_poll;
    let project = Project {
        pipeline,
        source,
        context,
        mode,
        // CodeBuild's, or the one that the state gives.
        build_id: String::new(),
        directory,
        artifacts,
        not_text: load::not_text(),
        ecs_poll,
        masks: Masks::default(),
        started: jiff::Timestamp::now(),
    };
    Ok(Job {
        project,
        plan,
        facts,
        values,
        pipeline_file: file,
        settings,
        timeout: arguments.timeout,
        arguments: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
    })
}
