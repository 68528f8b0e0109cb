//! `runner run`.

use super::stdio;
use crate::engine::{self, Cancellation, Job, Settings};
use crate::event::Events;
use crate::exit::{Exit, Failure};
use crate::origin;
use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::model::{NotifyTarget, PhaseName};
use crate::pipeline::source::SourceFile;
use crate::pipeline::template::Builtin;
use crate::pipeline::{self, MAX_BYTES};
use crate::plan::context::BuildContext;
use crate::plan::scope::{Sources, Values};
use crate::plan::{self, Mode, environment};
use crate::process::Stopping;
use crate::report::console::Console;
use crate::report::notify::{Deliveries, Delivery, Notifier, Target, TargetKind};
use crate::report::{self, Sink};
use crate::secret::{Masks, Secret};
use crate::tls::{self, Redirects};
use clap::Args;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time between TERM and KILL for commands that are being stopped.
const GRACE: Duration = Duration::from_secs(10);
/// How many events may wait for the log.
const EVENTS: usize = 256;

/// Run the pipeline, or some of its phases
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  runner run                      the whole pipeline; in CodeBuild it publishes, elsewhere it stays local\n  runner run --phase build        one phase; a later call goes on with what it built\n  runner run --local --env-file .env"
)]
pub(super) struct Arguments {
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
}

fn phase(name: &str) -> Result<PhaseName, String> {
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
pub(super) fn main(arguments: &Arguments, no_color: bool) -> Result<Exit, Failure> {
    let job = job(arguments, no_color)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("cannot start: {error}")))?;
    let result = runtime.block_on(run(job, no_color));
    // Blocking work that was stopped in the middle must not delay the end.
    runtime.shutdown_background();
    result
}

async fn run(job: Job, no_color: bool) -> Result<Exit, Failure> {
    let cancellation = Cancellation {
        stopping: Stopping { grace: GRACE, ..Stopping::default() },
        ..Cancellation::default()
    };
    watch_signals(&cancellation)?;
    let masks = job.masks.clone();
    let prepared = tokio::select! {
        prepared = engine::prepare(job) => prepared.map_err(|failure| masked(&failure, &masks))?,
        () = cancellation.stopping.soft.cancelled() => {
            let signal = cancellation.signal.load(Ordering::SeqCst);
            return Err(Failure::new(Exit::Signal(signal), "stopped before anything ran"));
        }
    };
    let (events, receiver) = Events::channel(EVENTS);
    let deliveries = Deliveries::default();
    let notifier = notifier(prepared.job(), &deliveries).map_err(|failure| masked(&failure, &masks))?;
    let out = std::io::stdout();
    let color = stdio::color(&out, no_color);
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(Console::new(out, color, &masks)), Box::new(notifier)];
    let reporter = report::start(receiver, sinks);
    let result = prepared.run(&events, &cancellation).await;
    drop(events);
    let _ = tokio::task::spawn_blocking(move || reporter.join()).await;
    for warning in deliveries.finish().await {
        stdio::text(&masks.text(&format!("warning: {warning}")));
    }
    Ok(result.map_or_else(|failure| failure.exit, |()| Exit::Done))
}

fn masked(failure: &Failure, masks: &Masks) -> Failure {
    Failure {
        exit: failure.exit,
        message: masks.text(&failure.message),
        help: failure.help.as_ref().map(|help| masks.text(help)),
    }
}

/// The first signal stops the run in order, the second at once.
fn watch_signals(cancellation: &Cancellation) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::environment(format!("cannot listen to signals: {error}")))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let cancellation = cancellation.clone();
    tokio::spawn(async move {
        let number = next_signal(&mut interrupt, &mut terminate, &mut hangup).await;
        cancellation.signal.store(number, Ordering::SeqCst);
        cancellation.stopping.soft.cancel();
        next_signal(&mut interrupt, &mut terminate, &mut hangup).await;
        cancellation.stopping.hard.cancel();
        // What is still to be said gets a moment; then nobody waits any longer.
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::process::exit(i32::from(Exit::Signal(number).code()));
    });
    Ok(())
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) -> u8 {
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hangup.recv() => 1,
    }
}

/// From raw arguments and the environment to a job.
fn job(arguments: &Arguments, no_color: bool) -> Result<Job, Failure> {
    let source = read(&arguments.file)?;
    let invalid = |problems: &[Diagnostic]| refuse(&source, problems, no_color);
    let pipeline = pipeline::parse(&source).map_err(|problems| invalid(&problems))?;
    let pipeline_file = arguments
        .file
        .canonicalize()
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", arguments.file.display())))?;
    let directory = pipeline_file.parent().unwrap_or(Path::new("/")).to_owned();
    let process: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let context = origin::detect(&process, &directory);
    let mode = match (arguments.publish, arguments.local) {
        (true, _) => Mode::Publish,
        (_, true) => Mode::Local,
        _ if context.in_codebuild() => Mode::Publish,
        _ => Mode::Local,
    };
    let artifacts = process
        .get("CODEBUILD_SRC_DIR")
        .filter(|_| context.in_codebuild())
        .map_or_else(|| directory.clone(), PathBuf::from);
    let settings = settings(&process);
    let sources = Sources {
        process: process.into_iter().collect(),
        env_file: env_file(arguments.env_file.as_deref())?,
        process_wins: context.in_codebuild(),
    };
    let (mut values, problems) = Values::new(&pipeline, &sources, context.builtins());
    let problems: Vec<_> = problems.iter().map(|problem| plan::undefined(problem, &values)).collect();
    if !problems.is_empty() {
        return Err(invalid(&problems));
    }
    // A build that CodeBuild did not start gets its id when it begins.
    values.promise_builtin(Builtin::BuildId);
    if mode == Mode::Publish {
        promise(&mut values, &pipeline, &context);
    }
    let plan = plan::plan(&pipeline, &arguments.phases, &context, mode, &values)
        .map_err(|problems| invalid(&problems))?;
    Ok(Job {
        pipeline,
        source,
        plan,
        values,
        context,
        mode,
        pipeline_file,
        directory,
        artifacts,
        settings,
        masks: Masks::default(),
    })
}

/// Publishing asks AWS for what is not known yet.
fn promise(values: &mut Values, pipeline: &pipeline::Pipeline, context: &BuildContext) {
    for name in pipeline.env.secret_names() {
        values.promise(name);
    }
    if context.region.is_none() {
        values.promise_builtin(Builtin::AwsRegion);
    }
    if context.account.is_none() {
        values.promise_builtin(Builtin::AwsAccount);
    }
}

/// Reads the pipeline file.
fn read(path: &Path) -> Result<SourceFile, Failure> {
    let unreadable =
        |reason: &str| Failure::usage(format!("cannot read the pipeline file {}: {reason}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| {
        unreadable(&error.to_string())
            .help("go to the directory that holds pipeline.yml, or name the file with --file")
    })?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory").help("name the file in it with --file"));
    }
    let too_large = || unreadable(&format!("it is larger than {} KiB", MAX_BYTES / 1024));
    if metadata.len() > MAX_BYTES {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error.to_string()))?;
    // What is no regular file has no size that could be trusted.
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large());
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(SourceFile::new(path.display().to_string(), text)),
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(unreadable(&format!("line {line} is not UTF-8")).help("save the file as UTF-8"))
        }
    }
}

/// Shows everything that is wrong with the file.
fn refuse(source: &SourceFile, problems: &[Diagnostic], no_color: bool) -> Failure {
    let color = stdio::color(&std::io::stderr(), no_color);
    for problem in problems {
        stdio::text(&format!("{}\n", problem.render(source, color)));
    }
    let count = match problems.len() {
        1 => "an error".to_owned(),
        count => format!("{count} errors"),
    };
    Failure::usage(format!("{} has {count}; nothing was run", source.name))
}

fn env_file(path: Option<&Path>) -> Result<Vec<(String, String)>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let unreadable = |reason: String| {
        Failure::usage(format!("cannot read the environment file {}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    environment::parse(&text).map_err(|error| unreadable(error.to_string()))
}

fn settings(process: &HashMap<String, String>) -> Settings {
    let get = |name: &str| process.get(name).filter(|value| !value.is_empty());
    let docker_config = get("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| get("HOME").map(|home| Path::new(home).join(".docker")))
        .map(|directory| directory.join("config.json"));
    Settings {
        docker_host: get("DOCKER_HOST").cloned(),
        docker_config,
        aws_ca_bundle: get("AWS_CA_BUNDLE").map(PathBuf::from),
    }
}

/// Who is told, their addresses resolved.
fn notifier(job: &Job, deliveries: &Deliveries) -> Result<Notifier, Failure> {
    let mut targets = Vec::new();
    for notify in &job.pipeline.notify {
        let secret = |template| match job.mode {
            // Nothing is sent, so nothing has to have a value.
            Mode::Local => Ok(Secret::new("")),
            Mode::Publish => job.resolve(&job.values, template).map(Secret::new),
        };
        let (kind, url) = match &notify.target {
            NotifyTarget::Slack { url } => (TargetKind::Slack, secret(url)?),
            NotifyTarget::Webhook { url, headers } => {
                let headers = headers
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), secret(value)?)))
                    .collect::<Result<Vec<_>, Failure>>()?;
                for (_, value) in &headers {
                    job.masks.add(value);
                }
                (TargetKind::Webhook(headers), secret(url)?)
            }
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
