//! A run in progress: phases, items and their attempts, `finally`, stopping. It sends events and saves the state.

use super::deadline::Deadline;
use super::state::State;
use super::{Attempt, Cancellation, Item, Phase, Task, Work};
use crate::event::{Ending, Events, Id, Kind, Node, SkipCode, SkipReason, StepStarted};
use crate::exit::{Exit, Failure};
use crate::files::Directory;
use crate::process::Stopping;
use crate::secret::{Masks, Shown};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long `finally` may take once the run has been stopped.
const FINALLY_AFTER_STOP: Duration = Duration::from_mins(1);
/// The time of a hosted build that is reserved for `finally` and reports, in addition to the grace of commands.
const RESERVE: Duration = Duration::from_secs(FINALLY_AFTER_STOP.as_secs() + 15);

/// Resolves with the reason when the host is about to end the build.
pub(crate) type EndsSoon = BoxFuture<'static, Option<String>>;

/// Everything that a run needs in addition to its phases.
pub(crate) struct Setup<'r> {
    pub(crate) events: &'r Events,
    pub(crate) cancellation: &'r Cancellation,
    pub(crate) masks: &'r Masks,
    pub(crate) state: State,
    /// The directory of the state file.
    pub(crate) work: Directory,
    /// Returns the results of steps, for the state file. The keys are those that [`State::join`] returned.
    pub(crate) results: Box<dyn Fn() -> Map<String, Value> + 'r>,
    /// The names of all phases of the file, including those of other calls.
    pub(crate) all_phases: Vec<String>,
    /// When the run has to end. It has started with the call.
    pub(crate) deadline: Deadline,
    /// Creates the future that resolves when the host is about to end the build. Its argument is how long before the
    /// end.
    pub(crate) ends_soon: Option<Box<dyn FnOnce(Duration) -> EndsSoon + 'r>>,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct CallEnd {
    /// The first failure of the build, or the signal that stopped this call.
    pub(crate) failure: Option<Failure>,
    /// The whole build has ended with this call.
    pub(crate) last: bool,
}

/// A run in progress. Parallel items share it, so its state is behind a lock, which is never held across an await.
pub(crate) struct Run<'r> {
    events: &'r Events,
    cancellation: &'r Cancellation,
    masks: &'r Masks,
    state: Mutex<State>,
    work: Directory,
    results: Box<dyn Fn() -> Map<String, Value> + 'r>,
    all_phases: Vec<String>,
    deadline: Deadline,
    /// Stops the items of `finally`.
    finally: CancellationToken,
}

/// The phase, `finally` or parallel group that contains an item.
struct Enclosing<'a> {
    /// The deadlines that apply to all its items.
    deadlines: &'a [&'a Deadline],
    /// Stops it.
    token: CancellationToken,
    /// The item belongs to `finally`, so it runs whatever happened.
    finally: bool,
    /// The item runs in parallel with others.
    beside: bool,
}

/// Returns the token that stops `finally`: on a hard stop, or when the time for `finally` after a stop has passed.
/// After a stop, reports must not delay the run.
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

impl<'r> Run<'r> {
    /// Starts with the first phase.
    pub(crate) fn start(setup: Setup<'r>) -> Self {
        let Setup { events, cancellation, masks, state, work, results, all_phases, mut deadline, ends_soon } =
            setup;
        if let Some(ends_soon) = ends_soon {
            deadline.expire_after(ends_soon(RESERVE + cancellation.stopping.grace));
        }
        Self {
            finally: finally_token(&deadline.token, &cancellation.stopping.hard, events),
            events,
            cancellation,
            masks,
            state: Mutex::new(state),
            work,
            results,
            all_phases,
            deadline,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces the phases and items of this call.
    pub(crate) async fn announce(&self, phases: &[Phase<'_>]) {
        let mut nodes = Vec::new();
        for phase in phases {
            nodes.push(Node {
                id: Id::phase(&phase.name),
                kind: "phase",
                title: self.events.shown(&phase.name),
                when: phase.when.named(),
            });
            for item in phase.items.iter().chain(&phase.finally) {
                self.node(item, &mut nodes);
            }
        }
        self.events.send(Kind::BuildPlanned(nodes)).await;
    }

    fn node(&self, item: &Item<'_>, nodes: &mut Vec<Node>) {
        nodes.push(Node {
            id: item.id.clone(),
            kind: item.kind,
            title: self.events.shown((item.title)()),
            when: item.when.and_then(super::When::named),
        });
        if let Work::Group(members) = &item.work {
            for member in members {
                self.node(member, nodes);
            }
        }
    }

    /// Runs the phases. Fails only if the state cannot be written.
    pub(crate) async fn phases(&self, phases: &[Phase<'_>]) -> Result<(), Failure> {
        let stopped = async {
            self.deadline.token.cancelled().await;
            let by = self.stopped().or_else(|| self.deadline.failure());
            let by = by.map_or_else(|| "runner".to_owned(), |failure| failure.message);
            self.events.send(Kind::StopRequested { by: self.events.shown(by) }).await;
            std::future::pending().await
        };
        let run = async {
            for phase in phases {
                self.phase(phase).await?;
            }
            Ok(())
        };
        tokio::select! {
            result = run => result,
            never = stopped => never,
        }
    }

    async fn phase(&self, phase: &Phase<'_>) -> Result<(), Failure> {
        let events = self.events.of(Id::phase(&phase.name));
        let failed = self.state().failure.is_some();
        let runs = |item: &Item<'_>| item.when.unwrap_or(phase.when).allows(failed);
        let skip = if self.cancellation.signal().is_some() {
            Some(SkipCode::Stopping)
        } else if !phase.items.iter().any(runs) && (failed || !phase.items.is_empty()) {
            Some(if failed { SkipCode::FailedBefore } else { SkipCode::NotFailed })
        } else {
            None
        };
        if let Some(code) = skip {
            events.send(Kind::PhaseSkipped { reason: self.reason(code) }).await;
            if code != SkipCode::Stopping {
                self.state().phases.push(phase.name.clone());
            }
            return self.save();
        }
        let start = Instant::now();
        self.state().phases.push(phase.name.clone());
        self.state().running = Some(phase.name.clone());
        self.save()?;
        events.send(Kind::PhaseStarted).await;
        let failure = self.items(phase, failed).await;
        let ending = events.end(self.stopped().filter(|_| failure.is_none()).or(failure).as_ref());
        events.send(Kind::PhaseFinished { ending, elapsed: start.elapsed() }).await;
        self.state().running = None;
        self.save()
    }

    /// Runs the items of a phase and its `finally`. `failed` is whether something failed before the phase.
    async fn items(&self, phase: &Phase<'_>, failed: bool) -> Option<Failure> {
        let mut failure = None;
        let deadline = Deadline::start("the phase", phase.timeout, &self.deadline.token);
        for item in &phase.items {
            // A failed item ends the others, whatever the phase's `when` is; an item's own overrides that.
            let default = phase.when.allows(failed) && failure.is_none();
            // After a deadline, items that still run (`when: failure`) are stopped with `finally`.
            let expired = deadline.token.is_cancelled();
            let token = if expired { &self.finally } else { &deadline.token };
            let enclosing = Enclosing {
                deadlines: &[&deadline, &self.deadline],
                token: token.clone(),
                finally: false,
                beside: false,
            };
            if let Err(failed) = self.item(&phase.name, item, default, &enclosing).await {
                failure.get_or_insert(failed);
            }
        }
        drop(deadline);
        for item in &phase.finally {
            let enclosing =
                Enclosing { deadlines: &[], token: self.finally.clone(), finally: true, beside: false };
            if let Err(failed) = self.item(&phase.name, item, true, &enclosing).await {
                failure.get_or_insert(failed);
            }
        }
        failure
    }

    /// Runs an item, or reports why it is skipped. `default` is whether it runs if it has no `when`.
    async fn item(
        &self,
        phase: &str,
        item: &Item<'_>,
        default: bool,
        enclosing: &Enclosing<'_>,
    ) -> Result<(), Failure> {
        let title = (item.title)();
        let place = format!("{phase} › {title}");
        let result = self.try_item(&title, item, default, enclosing).await;
        self.record(&result, &place);
        // The state must have the item's results before anything else starts.
        let saved = self.save();
        self.record(&saved, &place);
        result.and(saved)
    }

    /// Runs a member of a parallel group. The group decides what its failure means: the group may be retried.
    async fn member(&self, item: &Item<'_>, enclosing: &Enclosing<'_>) -> Result<(), Failure> {
        let title = (item.title)();
        let result = self.try_item(&title, item, true, enclosing).await;
        let result = result.and(self.save());
        result.map_err(|failure| match failure.exit {
            Exit::Signal(_) => failure,
            _ => Failure { message: format!("{title}: {}", failure.message), ..failure },
        })
    }

    /// The first failure decides how the build ends.
    fn record(&self, result: &Result<(), Failure>, place: &str) {
        match (result, self.stopped()) {
            (Ok(()), _) => {}
            (Err(_), Some(stopped)) => self.state().record(&stopped, None, self.masks),
            (Err(failure), None) => self.state().record(failure, Some(place), self.masks),
        }
    }

    fn reason(&self, code: SkipCode) -> SkipReason {
        let text = match code {
            SkipCode::Stopping => "the run is being stopped",
            SkipCode::FailedBefore => "something failed before",
            SkipCode::NotFailed => "nothing has failed",
            SkipCode::Condition | SkipCode::PullRequest => "",
        };
        SkipReason { code, text: self.events.shown(text) }
    }

    fn skip_reason(&self, item: &Item<'_>, default: bool, enclosing: &Enclosing<'_>) -> Option<SkipReason> {
        let failed = self.state().failure.is_some();
        if self.cancellation.signal().is_some() && !enclosing.finally {
            Some(self.reason(SkipCode::Stopping))
        } else if let Some((code, text)) = &item.skip {
            Some(SkipReason { code: *code, text: self.events.shown(text) })
        } else if !item.when.map_or(default, |when| when.allows(failed)) {
            Some(self.reason(if failed { SkipCode::FailedBefore } else { SkipCode::NotFailed }))
        } else {
            None
        }
    }

    async fn try_item(
        &self,
        title: &str,
        item: &Item<'_>,
        default: bool,
        enclosing: &Enclosing<'_>,
    ) -> Result<(), Failure> {
        let events = self.events.of(item.id.clone());
        if let Some(reason) = self.skip_reason(item, default, enclosing) {
            events.send(Kind::StepSkipped { title: events.shown(title), reason }).await;
            return Ok(());
        }
        let start = Instant::now();
        let shown = events.shown(title);
        events.send(started(item, shown.clone(), enclosing)).await;
        let (attempts, result) = self.attempts(item, &events, enclosing).await;
        let result = result.map_err(|failure| failure.at(item.id.as_str()));
        let ending = self.ending(&result, enclosing);
        let elapsed = start.elapsed();
        let finished = match &item.work {
            Work::Group(_) => Kind::GroupFinished { title: shown, ending, elapsed },
            Work::Task(_) => Kind::StepFinished { title: shown, ending, elapsed, attempts },
        };
        events.send(finished).await;
        result
    }

    /// How an item or an attempt ended.
    fn ending(&self, result: &Result<(), Failure>, enclosing: &Enclosing<'_>) -> Ending {
        match result {
            Err(failure)
                if enclosing.beside && failure.is_stopped() && self.cancellation.signal().is_none() =>
            {
                Ending::Cancelled
            }
            result => self.events.end(result.as_ref().err()),
        }
    }

    /// Tries an item as often as it allows. Returns the number of attempts.
    async fn attempts(
        &self,
        item: &Item<'_>,
        events: &Events,
        enclosing: &Enclosing<'_>,
    ) -> (u32, Result<(), Failure>) {
        let expired = || enclosing.deadlines.iter().find_map(|deadline| deadline.failure());
        // A deadline may have passed between two items.
        if let Some(expired) = expired().filter(|_| self.state().failure.is_none()) {
            return (0, Err(expired));
        }
        let allowed = 1 + item.retry.map_or(0, |retry| retry.attempts);
        let mut number = 0;
        loop {
            number += 1;
            let start = Instant::now();
            let events = events.of(item.id.attempt(number));
            events.send(Kind::AttemptStarted { number }).await;
            let deadline = Deadline::start("the step", item.timeout, &enclosing.token);
            let result = self.attempt(item, &events, &deadline.token, enclosing).await;
            let is_stopped = enclosing.token.is_cancelled();
            let result = result.map_err(|failure| {
                let own = deadline.failure().filter(|_| !is_stopped);
                let failure = own.or_else(|| expired().filter(|_| is_stopped)).unwrap_or(failure);
                // The signal is why it was stopped.
                let signal = self.stopped().filter(|_| failure.is_stopped());
                signal.unwrap_or(failure).at(item.id.as_str())
            });
            // A retry can neither correct the file nor undo a newer deployment.
            let is_final = |failure: &Failure| matches!(failure.exit, Exit::Usage | Exit::Superseded);
            let retry = item.retry.filter(|_| number < allowed && !is_stopped);
            let retry_in = match (&result, retry) {
                (Err(failure), Some(retry)) if !is_final(failure) => Some(retry.backoff.delay(number)),
                _ => None,
            };
            let ending = self.ending(&result, enclosing);
            let elapsed = start.elapsed();
            events.send(Kind::AttemptFinished { ending, elapsed, retry_in, allowed }).await;
            let (Err(failure), Some(delay)) = (&result, retry_in) else { return (number, result) };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = enclosing.token.cancelled() => {
                    return (number, Err(expired().unwrap_or_else(|| failure.clone())));
                }
            }
        }
    }

    /// Runs one attempt. The token stops it.
    async fn attempt(
        &self,
        item: &Item<'_>,
        events: &Events,
        stop: &CancellationToken,
        enclosing: &Enclosing<'_>,
    ) -> Result<(), Failure> {
        let stopping = Stopping { soft: stop.clone(), ..self.cancellation.stopping.clone() };
        match &item.work {
            Work::Task(task) => self.task(task, events, stopping).await,
            // A group may hold groups, so its future has no fixed size.
            Work::Group(members) => Box::pin(self.group(members, stop, enclosing.finally)).await,
        }
    }

    async fn task(&self, task: &Task<'_>, events: &Events, stopping: Stopping) -> Result<(), Failure> {
        let (output, stream) = events.output();
        let soft = stopping.soft.clone();
        // A stopped task ends by itself. One that waits for a response that never comes is dropped.
        let too_late = async {
            soft.cancelled().await;
            tokio::time::sleep(task.stop_timeout).await;
        };
        let result = tokio::select! {
            result = (task.run)(Attempt { events: events.clone(), output, stopping }) => result,
            () = too_late => Err(Failure::stopped()),
        };
        stream.close().await;
        result
    }

    /// Runs items in parallel. The first that fails ends the others.
    async fn group(
        &self,
        members: &[Item<'_>],
        stop: &CancellationToken,
        finally: bool,
    ) -> Result<(), Failure> {
        let token = stop.child_token();
        // Members share the group's deadline, which the group reports itself.
        let enclosing = Enclosing { deadlines: &[], token: token.clone(), finally, beside: true };
        let mut running: FuturesUnordered<_> =
            members.iter().map(|member| self.member(member, &enclosing)).collect();
        let mut first = None;
        while let Some(result) = running.next().await {
            if let Err(failure) = result {
                first.get_or_insert(failure);
                token.cancel();
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The failure of a run that a signal stopped.
    pub(crate) fn stopped(&self) -> Option<Failure> {
        let number = self.cancellation.signal()?;
        let name = match number {
            1 => "SIGHUP: the terminal or the process that started runner is gone".to_owned(),
            2 => "SIGINT".to_owned(),
            15 => "SIGTERM".to_owned(),
            other => format!("signal {other}"),
        };
        Some(Failure::new(Exit::Signal(number), format!("stopped by {name}")))
    }

    /// The failure with which the build would end now. `unsaved` is the failure to write the state.
    pub(crate) fn failure(&self, unsaved: Option<Failure>) -> Option<Failure> {
        let recorded = || self.state().failure.as_ref().map(super::state::RecordedFailure::to_failure);
        // A signal overrides everything.
        self.stopped().or(unsaved).or_else(recorded)
    }

    /// Records the end of the call in the state, and returns its outcome.
    pub(crate) fn end(&self, failure: Option<Failure>) -> CallEnd {
        let mut state = self.state();
        if let Some(failure) = &failure {
            // A signal may have come between two items.
            state.record(failure, None, self.masks);
        }
        let is_complete = self.all_phases.iter().all(|phase| state.phases.contains(phase));
        let last = !state.ended && (failure.is_some() || is_complete);
        state.ended |= last;
        drop(state);
        // The outcome is known, and the last item has reported a state that cannot be written.
        let _ = self.save();
        CallEnd { failure, last }
    }

    /// Keeps the number of the last event for the next call, after all events of this one.
    pub(crate) fn close(self) {
        // What happened is in the state already.
        let _ = self.save();
    }

    fn save(&self) -> Result<(), Failure> {
        let results = (self.results)();
        let mut state = self.state();
        state.events = self.events.last_number();
        Ok(state.save(&self.work, results)?)
    }
}

/// The event for the start of an item.
fn started(item: &Item<'_>, title: Shown, enclosing: &Enclosing<'_>) -> Kind {
    let (finally, beside) = (enclosing.finally, enclosing.beside);
    match &item.work {
        Work::Group(members) => {
            let members = members.iter().map(|member| member.id.clone()).collect();
            Kind::GroupStarted { title, finally, beside, members }
        }
        Work::Task(_) => Kind::StepStarted(StepStarted {
            kind: item.kind,
            title,
            finally,
            beside,
            attempts_allowed: 1 + item.retry.map_or(0, |retry| retry.attempts),
            timeout: item.timeout,
            line: item.line,
        }),
    }
}
