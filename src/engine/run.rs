//! A run under way: phases, steps and their attempts, `finally`, stopping; tells events what happens and keeps the state.

use super::deadline::{self, Limit};
use super::output::Output;
use super::state::State;
use super::{Cancellation, Job};
use crate::connections::dockerd::Surroundings;
use crate::connections::{Access, Services};
use crate::duration;
use crate::event::{Event, Events, RunStarted, Status};
use crate::exit::{Exit, Failure};
use crate::files;
use crate::language::pipeline::model::{Action, Phase, PhaseName, Step};
use crate::plan::scope::Values;
use crate::plan::{self, Mode};
use crate::process::{Guards, Stopping};
use crate::step;
use crate::step::mask_files::RegisteredFiles;
use crate::step::transfer::Brought;
use crate::work::Work;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;

/// How long `finally` may take once the run has been stopped.
const FINALLY_AFTER_STOP: Duration = Duration::from_mins(1);
/// What is left of a build's time when its steps are ended, besides their grace: for `finally`, and for reports.
const RESERVE: Duration = Duration::from_secs(FINALLY_AFTER_STOP.as_secs() + 15);
/// How long a guard may take, after the grace, to end what it can and to say what it cannot.
const LAST_PROCESSES: Duration = Duration::from_secs(10);
/// How long a step may take to end once it has been stopped.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// Waits until CodeBuild would soon end the build, and with it all that is still to be done, and says so. Where CodeBuild does
/// not tell its time, which takes the permission `codebuild:BatchGetBuilds`, this is never.
async fn codebuild_ends(services: Services, build: String, reserve: Duration) -> Option<String> {
    let aws = services.aws(&Access::default()).await.ok()?;
    let (end, time) = aws.codebuild_timeout(&build).await.ok()??;
    let left = end.duration_since(SystemTime::now()).ok()?;
    tokio::time::sleep(left.saturating_sub(reserve.min(left / 2))).await;
    let time = duration::display(time);
    Some(format!("the build has {time} in CodeBuild, and what is left of them is for `finally` and reports"))
}

/// A run under way. Steps that run side by side share it, so what changes is behind locks, which nobody holds for long.
pub(crate) struct Run {
    pub(crate) job: Job,
    pub(crate) state: Mutex<State>,
    /// The values of `${…}` and the environment of commands, which steps add to.
    pub(crate) values: Mutex<Values>,
    pub(crate) services: Services,
    pub(crate) guards: Guards,
    pub(crate) events: Events,
    pub(crate) cancellation: Cancellation,
    pub(crate) began: jiff::Timestamp,
    /// The time that the run may take.
    pub(crate) limit: Limit,
    /// Stops the steps of `finally`.
    pub(crate) finally: CancellationToken,
    pub(crate) work: Work,
    /// What commands under way want to be masked.
    pub(crate) registered: RegisteredFiles,
    /// Held while an image layout changes, because images may share one.
    pub(crate) layouts: tokio::sync::Mutex<()>,
    /// What pushes have brought into registries, by host. One push at a time: its work takes all cores, and the next one may need
    /// less for it.
    pub(crate) brought: tokio::sync::Mutex<HashMap<String, Brought>>,
}

/// What a step runs in the midst of: a phase, its `finally`, or a parallel group.
pub(crate) struct Around<'a> {
    pub(crate) phase: PhaseName,
    /// The limits whose time it shares.
    pub(crate) limits: &'a [&'a Limit],
    pub(crate) token: CancellationToken,
    /// It belongs to `finally`, and so runs whatever happened.
    pub(crate) finally: bool,
    /// It runs beside other steps.
    pub(crate) beside: bool,
}

/// A token that is cancelled with everything else at once, or when the time for `finally` after a stop is over. From that
/// stop on reports must not hold up the run.
fn finally_token(
    stopped: &CancellationToken,
    hard: &CancellationToken,
    events: &Events,
) -> CancellationToken {
    let token = hard.child_token();
    let (stopped, timeout, ending) = (stopped.clone(), token.clone(), events.ending());
    tokio::spawn(async move {
        stopped.cancelled().await;
        ending.cancel();
        tokio::time::sleep(FINALLY_AFTER_STOP).await;
        timeout.cancel();
    });
    token
}

impl Run {
    /// Begins to count its time.
    pub(crate) fn new(
        mut job: Job,
        state: State,
        services: Services,
        work: Work,
        events: &Events,
        cancellation: &Cancellation,
    ) -> Self {
        // The shorter of the two.
        let time = job.timeout.into_iter().chain(job.pipeline.timeout).min();
        let mut limit = Limit::begin("the run", time, &cancellation.stopping.soft);
        if let (Mode::Publish, Some(build)) = (job.mode, &job.context.build_id) {
            let reserve = RESERVE + cancellation.stopping.grace;
            limit.pass_after(codebuild_ends(services.clone(), build.clone(), reserve));
        }
        let surroundings = Surroundings {
            events: events.clone(),
            stopping: cancellation.stopping.clone(),
            work: work.path.clone(),
        };
        Self {
            finally: finally_token(&limit.token, &cancellation.stopping.hard, events),
            began: jiff::Timestamp::now(),
            limit,
            // From here on there is one set of values: the one that steps add to.
            values: Mutex::new(std::mem::take(&mut job.values)),
            job,
            state: Mutex::new(state),
            services: services.within(surroundings),
            guards: Guards::new(&work.lock),
            events: events.clone(),
            cancellation: cancellation.clone(),
            work,
            registered: RegisteredFiles::default(),
            layouts: tokio::sync::Mutex::default(),
            brought: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn begin(&self, warnings: Vec<String>) {
        let first = !std::mem::replace(&mut self.state().announced, true);
        let started = RunStarted {
            pipeline: self.job.pipeline.name.clone(),
            build_id: self.state().build_id.clone(),
            mode: self.job.mode.as_str(),
            source: self.job.context.summary(),
            first,
        };
        if first && self.job.mode == Mode::Local {
            // What an earlier build would have sent or changed says nothing about this one.
            for stale in ["notifications", "ecs"] {
                let _ = std::fs::remove_dir_all(self.work.path.join(stale));
            }
        }
        self.events.send(Event::RunStarted(started)).await;
        for warning in warnings {
            self.events.warn(warning).await;
        }
        let (state, mut values) = (self.state(), self.values());
        for (name, value) in &state.variables {
            values.set(name, value);
        }
        // The built-ins of images that an earlier call pushed.
        for (name, image) in &state.images {
            if let (Some(uri), Some(digest)) = (&image.uri, &image.digest) {
                values.set_image(name, uri, digest);
            }
        }
    }

    pub(crate) async fn phases(&self) -> Result<(), Failure> {
        for name in &self.job.plan.phases {
            if let Some(phase) = self.job.pipeline.phase(*name) {
                self.phase(phase).await?;
            }
        }
        Ok(())
    }

    async fn phase(&self, phase: &Phase) -> Result<(), Failure> {
        let failed = self.state().failure.is_some();
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
                self.state().phases.push(phase);
            }
            return self.save();
        }
        let begin = Instant::now();
        self.state().phases.push(phase.name);
        self.state().running = Some(phase.name);
        self.save()?;
        self.events.send(Event::PhaseStarted { phase: phase.name }).await;
        let mut failure = None;
        let limit = Limit::begin("the phase", phase.timeout, &self.limit.token);
        for step in &phase.steps {
            // A failed step ends the others, whatever the phase's `when` is; a step's own overrides that.
            let default = phase.when.allows(failed) && failure.is_none();
            // Once a time is over, what runs all the same (`when: failure`) is stopped with `finally`.
            let over = limit.token.is_cancelled();
            let token = if over { &self.finally } else { &limit.token };
            let around = Around {
                phase: phase.name,
                limits: &[&limit, &self.limit],
                token: token.clone(),
                finally: false,
                beside: false,
            };
            if let Err(failed) = self.step(step, default, &around).await {
                failure.get_or_insert(failed);
            }
        }
        drop(limit);
        for step in &phase.finally {
            let around = Around {
                phase: phase.name,
                limits: &[],
                token: self.finally.clone(),
                finally: true,
                beside: false,
            };
            if let Err(failed) = self.step(step, true, &around).await {
                failure.get_or_insert(failed);
            }
        }
        let status = failure.or_else(|| self.stopped()).map_or(Status::Succeeded, Status::Failed);
        self.events.send(Event::PhaseFinished { phase: phase.name, status, elapsed: begin.elapsed() }).await;
        self.state().running = None;
        self.save()
    }

    /// Runs a step, or says why not. `default` is whether it runs where it has no `when` of its own.
    async fn step(&self, step: &Step, default: bool, around: &Around<'_>) -> Result<(), Failure> {
        let title = self.title(step);
        let place = format!("{} › {title}", around.phase);
        let result = self.try_step(title, step, default, around).await;
        self.record(&result, &place);
        // What the step did is in the state before anything else begins.
        let saved = self.save();
        self.record(&saved, &place);
        result.and(saved)
    }

    /// Masked before it is cut: half a secret is no secret to the masks any more.
    fn title(&self, step: &Step) -> String {
        plan::title(step, &self.values(), &|text| self.job.masks.text(text))
    }

    /// Runs a step of a parallel group. How it ends is up to the group: that may be tried again.
    pub(crate) async fn member(&self, step: &Step, around: &Around<'_>) -> Result<(), Failure> {
        let title = self.title(step);
        let result = self.try_step(title.clone(), step, true, around).await;
        let result = result.and(self.save());
        result.map_err(|failure| Failure { message: format!("{title}: {}", failure.message), ..failure })
    }

    /// The first failure decides how the build ends.
    fn record(&self, result: &Result<(), Failure>, place: &str) {
        match (result, self.stopped()) {
            (Ok(()), _) => {}
            (Err(_), Some(stopped)) => self.state().record(&stopped, None, &self.job.masks),
            (Err(failure), None) => self.state().record(failure, Some(place), &self.job.masks),
        }
    }

    async fn try_step(
        &self,
        title: String,
        step: &Step,
        default: bool,
        around: &Around<'_>,
    ) -> Result<(), Failure> {
        let failed = self.state().failure.is_some();
        let skip = if self.signal() != 0 && !around.finally {
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
        let (id, finally, beside) = (step.id, around.finally, around.beside);
        self.events.send(Event::StepStarted { step: id, title: title.clone(), finally, beside }).await;
        let result = self.attempts(step, around).await;
        let status = match &result {
            Ok(()) => Status::Succeeded,
            Err(failure) if beside && failure.stopped && self.signal() == 0 => Status::Cancelled,
            Err(failure) => Status::Failed(failure.clone()),
        };
        self.events.send(Event::StepFinished { step: id, title, status, elapsed: begin.elapsed() }).await;
        result
    }

    /// Tries a step as often as it may be tried.
    async fn attempts(&self, step: &Step, around: &Around<'_>) -> Result<(), Failure> {
        let over = || around.limits.iter().find_map(|limit| limit.failure());
        // Its time may have passed between two steps.
        if let Some(over) = over().filter(|_| self.state().failure.is_none()) {
            return Err(over);
        }
        let retries = step.retry.map_or(0, |retry| retry.attempts);
        let mut number = 0;
        loop {
            let limit = Limit::begin("the step", step.timeout, &around.token);
            let result = self.attempt(step, &limit.token, around).await;
            let Err(failure) = result else { return Ok(()) };
            if around.token.is_cancelled() {
                return Err(over().unwrap_or(failure));
            }
            let failure = limit.failure().unwrap_or(failure);
            // What is wrong with the file is wrong the next time as well, and a newer deployment stays newer.
            let is_final = matches!(failure.exit, Exit::Usage | Exit::Superseded);
            let (Some(retry), true) = (&step.retry, number < retries && !is_final) else {
                return Err(failure);
            };
            number += 1;
            let delay = deadline::delay(retry, number);
            let note = format!(
                "attempt {number} of {} failed: {}; the next one in {:.1} s",
                retries + 1,
                failure.message,
                delay.as_secs_f64()
            );
            self.events.of(step.id).warn(note).await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = around.token.cancelled() => return Err(over().unwrap_or(failure)),
            }
        }
    }

    /// Tries a step once; the token stops it.
    async fn attempt(
        &self,
        step: &Step,
        stop: &CancellationToken,
        around: &Around<'_>,
    ) -> Result<(), Failure> {
        let (output, log) = Output::open(&self.events, step.id);
        let stopping = Stopping { soft: stop.clone(), ..self.cancellation.stopping.clone() };
        // A step ends by itself when it is stopped; one that waits for an answer that never comes is left behind.
        let patience = match step.action {
            Action::Run(_) => stopping.grace + LAST_PROCESSES,
            // ECS is asked to go back, or to end a task.
            Action::Deploy(_) | Action::RunTask(_) => stopping.grace + LEFT_BEHIND,
            // Each of its steps has its own.
            Action::Parallel(_) => Duration::MAX,
            _ => LEFT_BEHIND,
        };
        let left_behind = async {
            stopping.soft.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        let result = tokio::select! {
            result = step::run(self, step, &output, &stopping, around) => result,
            () = left_behind => Err(Failure::stopped()),
        };
        drop(output);
        log.close().await;
        result
    }

    fn signal(&self) -> u8 {
        self.cancellation.signal.load(Ordering::SeqCst)
    }

    /// The failure that a signal makes of the run.
    pub(crate) fn stopped(&self) -> Option<Failure> {
        let number = self.signal();
        let name = match number {
            0 => return None,
            1 => "SIGHUP: the terminal or the process that started runner is gone".to_owned(),
            2 => "SIGINT".to_owned(),
            15 => "SIGTERM".to_owned(),
            other => format!("signal {other}"),
        };
        Some(Failure::new(Exit::Signal(number), format!("stopped by {name}")))
    }

    /// Notes the end in the state. The answer is whether this call ended the whole pipeline.
    pub(crate) fn end(&self, failure: Option<&Failure>) -> bool {
        let mut state = self.state();
        if let Some(failure) = failure {
            // A signal may have come between two steps.
            state.record(failure, None, &self.job.masks);
        }
        let phases = &self.job.pipeline.phases;
        let through = phases.iter().all(|phase| state.phases.contains(&phase.name));
        let last = !state.ended && (failure.is_some() || through);
        state.ended |= last;
        drop(state);
        // The result is known; a state that cannot be written has been reported by the step before.
        let _ = self.save();
        last
    }

    /// Writes the exported variables for a buildspec to source.
    pub(crate) async fn export(&self, last: bool) -> Result<(), Failure> {
        let exported = &self.job.pipeline.env.exported;
        if exported.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for name in exported {
            let value = self.values().get(name).map(ToOwned::to_owned);
            match value {
                Some(value) if self.job.masks.text(&value) != value => {
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
        Ok(files::write_whole(&self.work.path.join("exports.sh"), text.as_bytes(), files::Access::Owner)?)
    }

    fn save(&self) -> Result<(), Failure> {
        // What was handed on before it was said to be a secret.
        self.state().variables.retain(|_, value| self.job.masks.text(value) == *value);
        Ok(self.state().save(&self.work.state())?)
    }
}
