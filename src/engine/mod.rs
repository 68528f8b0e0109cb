//! Runs a plan: phases, steps, `finally`, stopping; tells events what happens and keeps the state.

mod failure;
mod limit;
mod output;
mod secrets;
mod services;
mod state;
mod step;

use crate::event::{Event, Events, RunFinished, RunStarted, Status};
use crate::exit::{Exit, Failure};
use crate::files;
use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::model::{Action, AwsAccess, Phase, PhaseName, Pipeline, Step};
use crate::pipeline::source::SourceFile;
use crate::pipeline::template::{Builtin, Template, Undefined};
use crate::plan::context::BuildContext;
use crate::plan::scope::Values;
use crate::plan::{self, Mode, Plan};
use crate::process::Stopping;
use crate::secret::Masks;
use limit::Limit;
use output::Output;
pub use services::Settings;
use services::{Access, Services};
use state::{Identity, RecordedFailure, State};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long `finally` may take once the run has been stopped.
const FINALLY_AFTER_STOP: Duration = Duration::from_mins(1);
/// How long a step may take to end once it has been stopped.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// The directory for everything that runner writes.
const WORK_DIRECTORY: &str = ".runner";

/// Everything that a run is made from.
#[derive(Debug, Clone)]
pub struct Job {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Its file, for errors that show up while it runs.
    pub source: SourceFile,
    /// What will run.
    pub plan: Plan,
    /// The values of `${…}` and the environment of commands.
    pub values: Values,
    /// What is being built.
    pub context: BuildContext,
    /// Where effects go.
    pub mode: Mode,
    /// The pipeline file, as a full path: calls of one build share it.
    pub pipeline_file: PathBuf,
    /// The pipeline file's directory.
    pub directory: PathBuf,
    /// Where the files for CodePipeline go when publishing.
    pub artifacts: PathBuf,
    /// How connections are made.
    pub settings: Settings,
    /// The secrets of the run.
    pub masks: Masks,
    /// How long this call may take; the pipeline's own `timeout` holds beside it.
    pub timeout: Option<Duration>,
}

impl Job {
    /// `.runner/` of this pipeline.
    pub fn work_directory(&self) -> PathBuf {
        self.directory.join(WORK_DIRECTORY)
    }

    /// A template's text; its failure names the place in the file.
    pub fn resolve(&self, values: &Values, template: &Template) -> Result<String, Failure> {
        template.resolve(values).map_err(|undefined| self.undefined(&undefined, values))
    }

    /// Where AWS calls go, with values in the place of `${…}`.
    fn access(&self, values: &Values, access: &AwsAccess) -> Result<Access, Failure> {
        // An empty value is no value: `${ROLE:-}` asks for none.
        let resolve = |template: &Option<Template>| {
            let text = template.as_ref().map(|template| self.resolve(values, template)).transpose();
            text.map(|text| text.filter(|text| !text.is_empty()))
        };
        Ok(Access {
            region: resolve(&access.region)?,
            role: resolve(&access.role_arn)?,
            external_id: resolve(&access.external_id)?,
        })
    }

    fn undefined(&self, undefined: &Undefined, values: &Values) -> Failure {
        self.located(&plan::undefined(undefined, values))
    }

    /// A mistake in the file that only showed up now.
    fn located(&self, problem: &Diagnostic) -> Failure {
        let (line, column) = self.source.line_column(problem.span.start);
        let message = format!("{}:{line}:{column}: {}", self.source.name, problem.message);
        let failure = Failure::usage(message);
        match &problem.help {
            Some(help) => failure.help(help.as_str()),
            None => failure,
        }
    }
}

/// How a run is stopped from outside.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    /// What running commands are told.
    pub stopping: Stopping,
    /// The signal that asked for it; 0 while none has.
    pub signal: Arc<AtomicU8>,
}

/// A job that can begin: `.runner/` is ours, earlier calls are remembered, secrets have their values.
pub struct Prepared {
    job: Job,
    state: State,
    services: Services,
    warnings: Vec<String>,
    work: PathBuf,
    /// Held until the run is through.
    _lock: std::fs::File,
}

impl Prepared {
    /// The job, its values complete.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Runs the job to its end. The error is the first failure, or the signal that stopped the run.
    pub async fn run(self, events: &Events, cancellation: &Cancellation) -> Result<(), Failure> {
        let begin = Instant::now();
        // The shorter of the two.
        let time = self.job.timeout.into_iter().chain(self.job.pipeline.timeout).min();
        let limit = Limit::begin("the run", time, &cancellation.stopping.soft);
        let mut run = Run {
            finally: finally_token(&limit.token, &cancellation.stopping.hard),
            limit,
            job: self.job,
            state: self.state,
            services: self.services,
            events: events.clone(),
            cancellation: cancellation.clone(),
            work: self.work,
        };
        run.begin(self.warnings).await;
        let failure = match run.phases().await {
            Ok(()) => run.state.failure.as_ref().map(RecordedFailure::to_failure),
            Err(failure) => Some(failure),
        };
        // A signal beats all.
        let failure = run.stopped().or(failure);
        let last = run.end(failure.as_ref());
        let failure = run.export(last).await.err().or(failure);
        let finished = RunFinished { failure: failure.clone(), last, elapsed: begin.elapsed() };
        events.send(Event::RunFinished(finished)).await;
        failure.map_or(Ok(()), Err)
    }
}

/// Prepares a job. Nothing has run yet, so a failure needs no report.
pub async fn prepare(mut job: Job) -> Result<Prepared, Failure> {
    let work = job.work_directory();
    let lock = lock(&work)?;
    let identity = Identity {
        build_id: job.context.build_id.clone(),
        pipeline: job.pipeline_file.display().to_string(),
        commit: job.context.commit.clone(),
        mode: job.mode,
        continues: job.plan.single_phases,
    };
    let mut state = State::join(&work.join("state.json"), &identity, &job.plan.phases);
    job.values.set_builtin(Builtin::BuildId, state.build_id.clone());
    let services = Services::new(&job);
    if job.context.failing {
        let failure = Failure::step("an earlier command of this CodeBuild build has failed");
        state.record(&failure, None, &job.masks);
    }
    let warnings = match resolve(&mut job, &services).await {
        Ok(warnings) => warnings,
        Err(failure) => {
            // CodeBuild may call for the next phase all the same, which must not run as if nothing had failed.
            state.phases.extend(&job.plan.phases);
            state.record(&failure, None, &job.masks);
            state.save(&work.join("state.json"))?;
            return Err(failure);
        }
    };
    Ok(Prepared { job, state, services, warnings, work, _lock: lock })
}

/// Asks for what has to be known before anything runs.
async fn resolve(job: &mut Job, services: &Services) -> Result<Vec<String>, Failure> {
    let warnings = secrets::resolve(job, services).await?;
    if job.mode == Mode::Publish {
        // A missing region, missing credentials or a role that may not be assumed should not cost an image build first.
        for access in step::accesses(job) {
            services.aws(&access).await?;
        }
    }
    Ok(warnings)
}

/// Makes `.runner/`, invisible to git, and takes its lock: two runs would overwrite each other's state.
fn lock(work: &Path) -> Result<std::fs::File, Failure> {
    let unusable = |error: std::io::Error| {
        Failure::environment(format!("cannot use {}: {error}", work.display()))
            .help("is the disk full, or the directory not writable?")
    };
    std::fs::create_dir_all(work).map_err(unusable)?;
    let ignore = work.join(".gitignore");
    if !ignore.exists() {
        files::write_whole(&ignore, b"*\n", files::Access::Everybody)?;
    }
    let lock = std::fs::File::create(work.join("lock")).map_err(unusable)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::environment(format!("another runner is at work in {}", work.display()))
            .help("wait for it to end, or run in another copy of the source")
    })?;
    Ok(lock)
}

/// A run under way.
struct Run {
    job: Job,
    state: State,
    services: Services,
    events: Events,
    cancellation: Cancellation,
    /// The time that the run may take.
    limit: Limit,
    /// Stops the steps of `finally`.
    finally: CancellationToken,
    work: PathBuf,
}

/// A token that is cancelled with everything else at once, or when the time for `finally` after a stop is over.
fn finally_token(stopped: &CancellationToken, hard: &CancellationToken) -> CancellationToken {
    let token = hard.child_token();
    let (stopped, timeout) = (stopped.clone(), token.clone());
    tokio::spawn(async move {
        stopped.cancelled().await;
        tokio::time::sleep(FINALLY_AFTER_STOP).await;
        timeout.cancel();
    });
    token
}

impl Run {
    async fn begin(&mut self, warnings: Vec<String>) {
        let first = !self.state.announced;
        self.state.announced = true;
        let started = RunStarted {
            pipeline: self.job.pipeline.name.clone(),
            build_id: self.state.build_id.clone(),
            mode: self.job.mode.as_str(),
            source: self.job.context.summary(),
            first,
        };
        if first && self.job.mode == Mode::Local {
            // What an earlier build would have sent or changed says nothing about this one.
            for stale in ["notifications", "ecs"] {
                let _ = std::fs::remove_dir_all(self.work.join(stale));
            }
        }
        self.events.send(Event::RunStarted(started)).await;
        for warning in warnings {
            self.events.warn(warning).await;
        }
        for (name, value) in &self.state.variables {
            self.job.values.set(name, value);
        }
        // The built-ins of images that an earlier call pushed.
        for (name, image) in &self.state.images {
            if let (Some(uri), Some(digest)) = (&image.uri, &image.digest) {
                self.job.values.set_image(name, uri, digest);
            }
        }
    }

    async fn phases(&mut self) -> Result<(), Failure> {
        let pipeline = self.job.pipeline.clone();
        for name in self.job.plan.phases.clone() {
            if let Some(phase) = pipeline.phase(name) {
                self.phase(phase).await?;
            }
        }
        Ok(())
    }

    async fn phase(&mut self, phase: &Phase) -> Result<(), Failure> {
        let failed = self.state.failure.is_some();
        let runs = |step: &Step| step.when.unwrap_or(phase.when).allows(failed);
        let reason = if self.signal() != 0 {
            Some("the run is being stopped")
        } else if !phase.steps.iter().any(runs) && (failed || !phase.steps.is_empty()) {
            Some(if failed { "something failed before" } else { "nothing has failed" })
        } else {
            None
        };
        if let Some(reason) = reason {
            let reason = reason.to_owned();
            let phase = phase.name;
            self.events.send(Event::PhaseSkipped { phase, reason }).await;
            if self.signal() == 0 {
                self.state.phases.push(phase);
            }
            return self.save();
        }
        let begin = Instant::now();
        self.state.phases.push(phase.name);
        self.state.running = Some(phase.name);
        self.save()?;
        self.events.send(Event::PhaseStarted { phase: phase.name }).await;
        let mut failure = None;
        let limit = Limit::begin("the phase", phase.timeout, &self.limit.token);
        for step in &phase.steps {
            // A failed step ends the others, whatever the phase's `when` is; a step's own overrides that.
            let default = phase.when.allows(failed) && failure.is_none();
            if let Err(failed) = self.step(phase.name, step, default, Some(&limit)).await {
                failure.get_or_insert(failed);
            }
        }
        drop(limit);
        for step in &phase.finally {
            if let Err(failed) = self.step(phase.name, step, true, None).await {
                failure.get_or_insert(failed);
            }
        }
        let status = failure.or_else(|| self.stopped()).map_or(Status::Succeeded, Status::Failed);
        self.events.send(Event::PhaseFinished { phase: phase.name, status, elapsed: begin.elapsed() }).await;
        self.state.running = None;
        self.save()
    }

    /// Runs a step, or says why not. `default` is whether it runs where it has no `when` of its own, `phase_limit` the time of
    /// its phase, which steps of `finally` do not share.
    async fn step(
        &mut self,
        phase: PhaseName,
        step: &Step,
        default: bool,
        phase_limit: Option<&Limit>,
    ) -> Result<(), Failure> {
        let title = plan::title(step, &self.job.values);
        let place = format!("{phase} › {title}");
        let result = self.try_step(title, step, default, phase_limit).await;
        self.record(&result, &place);
        // What the step did is in the state before anything else begins.
        let saved = self.save();
        self.record(&saved, &place);
        result.and(saved)
    }

    /// The first failure decides how the build ends.
    fn record(&mut self, result: &Result<(), Failure>, place: &str) {
        match (result, self.stopped()) {
            (Ok(()), _) => {}
            (Err(_), Some(stopped)) => self.state.record(&stopped, None, &self.job.masks),
            (Err(failure), None) => self.state.record(failure, Some(place), &self.job.masks),
        }
    }

    async fn try_step(
        &mut self,
        title: String,
        step: &Step,
        default: bool,
        phase_limit: Option<&Limit>,
    ) -> Result<(), Failure> {
        let failed = self.state.failure.is_some();
        let finally = phase_limit.is_none();
        let skip = if self.signal() != 0 && !finally {
            Some("the run is being stopped")
        } else if let Some(reason) = self.job.plan.skip_reason(step) {
            Some(reason)
        } else if !step.when.map_or(default, |when| when.allows(failed)) {
            Some(if failed { "something failed before" } else { "nothing has failed" })
        } else {
            None
        };
        if let Some(reason) = skip {
            let reason = reason.to_owned();
            self.events.send(Event::StepSkipped { title, reason }).await;
            return Ok(());
        }
        let begin = Instant::now();
        let started = Event::StepStarted { title: title.clone(), finally };
        self.events.send(started).await;
        let result = self.attempts(step, phase_limit).await;
        let status = match &result {
            Ok(()) => Status::Succeeded,
            Err(failure) => Status::Failed(failure.clone()),
        };
        self.events.send(Event::StepFinished { title, status, elapsed: begin.elapsed() }).await;
        result
    }

    /// Tries a step as often as it may be tried.
    async fn attempts(&mut self, step: &Step, phase_limit: Option<&Limit>) -> Result<(), Failure> {
        // Its time may have passed between two steps.
        let over = phase_limit.and_then(|limit| limit.failure().or_else(|| self.limit.failure()));
        if let Some(over) = over.filter(|_| self.state.failure.is_none()) {
            return Err(over);
        }
        // Once a time is over, what runs all the same (`when: failure`, `finally`) is stopped with `finally`.
        let around = match phase_limit {
            Some(limit) if !limit.token.is_cancelled() => limit.token.clone(),
            _ => self.finally.clone(),
        };
        let retries = step.retry.map_or(0, |retry| retry.attempts);
        let mut number = 0;
        loop {
            let limit = Limit::begin("the step", step.timeout, &around);
            let result = self.attempt(step, &limit.token).await;
            let Err(failure) = result else { return Ok(()) };
            let around_it = phase_limit.and_then(Limit::failure).or_else(|| self.limit.failure());
            if around.is_cancelled() {
                return Err(around_it.unwrap_or(failure));
            }
            let failure = limit.failure().unwrap_or(failure);
            // What is wrong with the file is wrong the next time as well.
            let (Some(retry), true) = (&step.retry, number < retries && failure.exit != Exit::Usage) else {
                return Err(failure);
            };
            number += 1;
            let delay = limit::delay(retry, number);
            let note = format!(
                "attempt {number} of {} failed: {}; the next one in {:.1} s",
                retries + 1,
                failure.message,
                delay.as_secs_f64()
            );
            self.events.warn(note).await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = around.cancelled() => return Err(failure),
            }
        }
    }

    /// Tries a step once; the token stops it.
    async fn attempt(&mut self, step: &Step, stop: &CancellationToken) -> Result<(), Failure> {
        let (output, log) = Output::open(&self.events);
        let stopping = Stopping { soft: stop.clone(), ..self.cancellation.stopping.clone() };
        // A step ends by itself when it is stopped; one that waits for an answer that never comes is left behind.
        let patience = match step.action {
            Action::Run(_) => stopping.grace + LEFT_BEHIND,
            _ => LEFT_BEHIND,
        };
        let left_behind = async {
            stopping.soft.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let result = tokio::select! {
            result = step::run(self, step, &output, &stopping) => result,
            () = left_behind => Err(Failure::environment(failure::STOPPED)),
        };
        drop(output);
        log.close().await;
        result
    }

    fn signal(&self) -> u8 {
        self.cancellation.signal.load(Ordering::SeqCst)
    }

    /// The failure that a signal makes of the run.
    fn stopped(&self) -> Option<Failure> {
        let number = self.signal();
        let name = match number {
            0 => return None,
            2 => "SIGINT".to_owned(),
            15 => "SIGTERM".to_owned(),
            other => format!("signal {other}"),
        };
        Some(Failure::new(Exit::Signal(number), format!("stopped by {name}")))
    }

    /// Notes the end in the state. The answer is whether this call ended the whole pipeline.
    fn end(&mut self, failure: Option<&Failure>) -> bool {
        if let Some(failure) = failure {
            // A signal may have come between two steps.
            self.state.record(failure, None, &self.job.masks);
        }
        let through = || {
            let phases = &self.job.pipeline.phases;
            phases.iter().all(|phase| self.state.phases.contains(&phase.name))
        };
        let last = !self.state.ended && (failure.is_some() || through());
        self.state.ended |= last;
        // The result is known; a state that cannot be written has been reported by the step before.
        let _ = self.save();
        last
    }

    /// Writes the exported variables for a buildspec to source.
    async fn export(&self, last: bool) -> Result<(), Failure> {
        let exported = &self.job.pipeline.env.exported;
        if exported.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for name in exported {
            match self.job.values.get(name) {
                Some(value) if self.job.masks.text(value) != value => {
                    self.events.warn(format!("{} holds a secret and is not exported", name.value)).await;
                }
                // The value is data to the shell, whatever it holds.
                Some(value) => {
                    text.push_str(&format!("export {}='{}'\n", name.value, value.replace('\'', "'\\''")));
                }
                None if last => {
                    self.events.warn(format!("{} has no value and is not exported", name.value)).await;
                }
                None => {}
            }
        }
        Ok(files::write_whole(&self.work.join("exports.sh"), text.as_bytes(), files::Access::Owner)?)
    }

    fn save(&self) -> Result<(), Failure> {
        Ok(self.state.save(&self.work.join("state.json"))?)
    }
}
