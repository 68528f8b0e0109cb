//! The state of a deployment, judged from successive polls. What earlier polls showed is remembered here.

use super::code_deploy::{self, LifecycleEvent, Progress, Status};
use super::service::{Counts, Deployment, DeploymentState, Service, ServiceDeployment};
use std::collections::HashSet;

/// Polls that may list no deployment of the revision before it counts as untraceable.
const MAX_UNSEEN: u32 = 3;
/// Polls in a row in which ECS may show the service as it was before the deployment.
const MAX_STALE: u32 = 5;
/// `NotFound` responses in a row that are tolerated: `CodeDeploy` may know a new deployment a moment later.
const MAX_MISSING: u32 = 5;
/// Polls in a row that must show the service as deleted, or another deployment in place of ours. One may be stale.
const MIN_GONE: u32 = 3;
const MIN_REPLACED: u32 = 2;

/// The state of a deployment at one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    InProgress,
    RollingBack,
    /// All traffic goes to the new tasks; only the end of the earlier tasks is pending.
    TrafficMoved,
    /// The response may be stale or incomplete. A later poll decides.
    Unclear,
    Ended(Ending),
}

/// How a deployment ended. Reasons are in the words of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    /// The service is meant to run the revision, but ECS lists no deployment of it.
    Untraceable,
    /// It failed, and the controller has not rolled it back.
    Failed(Option<String>),
    RolledBack(Option<String>),
    RollbackFailed(Option<String>),
    /// A deployment of this revision replaced it.
    Superseded(String),
    /// The service was deleted.
    Deleted,
}

/// The state of a rollout as users see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RolloutState {
    pub(crate) text: String,
    /// The tasks of the new revision, if the controller reports them.
    pub(crate) counts: Option<Counts>,
}

/// The result of one poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assessment {
    pub(crate) verdict: Verdict,
    /// New events of the service, oldest first.
    pub(crate) messages: Vec<String>,
    /// New changes of lifecycle stages.
    pub(crate) stages: Vec<String>,
    /// The state of the rollout, if it changed.
    pub(crate) state: Option<RolloutState>,
}

impl From<Verdict> for Assessment {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, messages: Vec::new(), stages: Vec::new(), state: None }
    }
}

/// The ids of the service events that were reported.
#[derive(Debug, Default)]
pub(crate) struct SeenEvents(HashSet<String>);

impl SeenEvents {
    /// Everything up to now counts as seen.
    fn of(service: &Service) -> Self {
        Self(service.events.iter().map(|event| event.id.clone()).collect())
    }

    /// Returns new messages, oldest first, and remembers them.
    fn take(&mut self, service: &Service) -> Vec<String> {
        let messages = self.unseen(service);
        self.0.extend(service.events.iter().map(|event| event.id.clone()));
        messages
    }

    /// Returns new messages, oldest first.
    pub(crate) fn unseen(&self, service: &Service) -> Vec<String> {
        let unseen = service.events.iter().filter(|event| !self.0.contains(&event.id));
        unseen.rev().map(|event| event.message.trim().to_owned()).collect()
    }
}

/// The last reported state.
#[derive(Debug, Default)]
struct LastState(RolloutState);

impl LastState {
    /// Returns the state if it differs from the last one.
    fn change(&mut self, state: RolloutState) -> Option<RolloutState> {
        (state != self.0).then(|| {
            self.0.clone_from(&state);
            state
        })
    }
}

/// Judges the deployment of one revision that ECS itself rolls out.
#[derive(Debug)]
pub(crate) struct EcsJudge {
    /// The revision that it brings, as an ARN.
    revision: String,
    /// Its id among the service's deployments, if known.
    id: Option<String>,
    /// The ids of the deployments that existed before it.
    earlier: Vec<String>,
    /// The revision to which ECS rolls back, as an ARN.
    pub(crate) previous: Option<String>,
    /// Tasks of our deployment have failed.
    has_failures: bool,
    pub(crate) seen: SeenEvents,
    /// ECS was seen rolling back, or announced it.
    rolling_back: bool,
    /// Polls that listed no deployment of the revision.
    unseen: u32,
    /// Polls in a row that showed another deployment in its place.
    replaced: u32,
    /// Polls in a row in which the service was missing or not active.
    gone: u32,
    state: LastState,
}

/// One poll of the service, and of its service deployment if ECS reports it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EcsPoll<'a> {
    pub(crate) service: &'a Service,
    /// The service deployment as last read.
    pub(crate) deployment: Option<&'a ServiceDeployment>,
    /// The service deployment was read after the service, or cannot be read at all.
    pub(crate) is_current: bool,
}

/// What a single poll shows, without regard to earlier ones.
enum PollResult {
    InProgress,
    RollingBack,
    Unseen,
    Ended(Ending),
}

impl EcsJudge {
    /// `before` is the service before the deployment.
    pub(crate) fn new(before: &Service, revision: &str) -> Self {
        Self {
            revision: revision.to_owned(),
            id: None,
            earlier: before.deployments.iter().map(|deployment| deployment.id.clone()).collect(),
            previous: Some(before.task_definition.clone()),
            has_failures: false,
            seen: SeenEvents::of(before),
            rolling_back: false,
            unseen: 0,
            replaced: 0,
            gone: 0,
            state: LastState::default(),
        }
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The deployment has started under this id.
    pub(crate) fn started(&mut self, id: Option<String>) {
        self.id = id;
    }

    /// A deployment of another revision takes its place, and is judged from now on.
    pub(crate) fn switch_to(&mut self, revision: String) -> String {
        self.rolling_back = false;
        self.previous = None;
        self.state = LastState::default();
        self.clear_doubts();
        std::mem::replace(&mut self.revision, revision)
    }

    /// Forgets polls that may have been stale.
    pub(crate) fn clear_doubts(&mut self) {
        (self.unseen, self.replaced, self.gone) = (0, 0, 0);
    }

    /// Whether a deployment existed before this one.
    pub(crate) fn is_earlier(&self, id: &str) -> bool {
        self.earlier.iter().any(|earlier| earlier == id)
    }

    /// The revision of a deployment that has replaced this one.
    pub(crate) fn replaced_by(&self, service: &Service) -> Option<String> {
        let primary = service.primary()?;
        let is_other = primary.task_definition != self.revision && self.id.as_ref() != Some(&primary.id);
        // An earlier deployment may still be shown for a moment after ours has started.
        (is_other && !self.is_earlier(&primary.id)).then(|| primary.task_definition.clone())
    }

    pub(crate) fn observe(&mut self, poll: EcsPoll<'_>) -> Assessment {
        let messages = self.seen.take(poll.service);
        self.rolling_back |= messages.iter().any(|message| announces_rollback(message));
        let state = self.state_of(poll).and_then(|state| self.state.change(state));
        let own = poll.service.deployments.iter().find(|own| Some(&own.id) == self.id.as_ref());
        self.has_failures |= own.is_some_and(|own| own.failed > 0);
        let reading = self.read(poll);
        let verdict = self.weigh(reading, poll);
        Assessment { verdict, messages, stages: Vec::new(), state }
    }

    fn state_of(&self, poll: EcsPoll<'_>) -> Option<RolloutState> {
        if let Some(deployment) = poll.deployment {
            return Some(RolloutState { text: deployment.progress(), counts: Some(deployment.counts) });
        }
        let own = poll.service.deployments.iter().find(|own| Some(&own.id) == self.id.as_ref())?;
        let state = own.rollout.as_deref().unwrap_or(&own.status).to_lowercase().replace('_', " ");
        let failed = if own.failed > 0 { format!(" · {} failed", own.failed) } else { String::new() };
        Some(RolloutState { text: format!("{state} · {}{failed}", own.counts), counts: Some(own.counts) })
    }

    /// ECS does not know the service, or shows it as inactive.
    pub(crate) fn missing(&mut self) -> Verdict {
        self.gone += 1;
        if self.gone >= MIN_GONE { Verdict::Ended(Ending::Deleted) } else { Verdict::Unclear }
    }

    /// Weighs what one poll shows against earlier polls.
    fn weigh(&mut self, reading: PollResult, poll: EcsPoll<'_>) -> Verdict {
        if let PollResult::Ended(Ending::Deleted) = reading {
            return self.missing();
        }
        self.gone = 0;
        match reading {
            PollResult::Ended(Ending::Superseded(by)) => {
                self.replaced += 1;
                let is_other = self.replaced_by(poll.service).is_some() && self.replaced >= MIN_REPLACED;
                if !is_other && self.replaced < MAX_STALE {
                    return Verdict::Unclear;
                }
                match self.unannounced_rollback(&by, poll) {
                    Some(verdict) => verdict,
                    None => Verdict::Ended(Ending::Superseded(by)),
                }
            }
            PollResult::Ended(ending) => Verdict::Ended(ending),
            PollResult::Unseen => {
                self.replaced = 0;
                self.unseen += 1;
                if self.unseen == MAX_UNSEEN { Verdict::Ended(Ending::Untraceable) } else { Verdict::Unclear }
            }
            PollResult::RollingBack => {
                (self.unseen, self.replaced) = (0, 0);
                self.rolling_back = true;
                Verdict::RollingBack
            }
            PollResult::InProgress => {
                self.unseen = 0;
                let by = self.replaced_by(poll.service).filter(|_| poll.is_current);
                self.replaced = if by.is_some() { self.replaced + 1 } else { 0 };
                match by {
                    Some(by) if self.replaced >= MIN_REPLACED => Verdict::Ended(Ending::Superseded(by)),
                    _ => Verdict::InProgress,
                }
            }
        }
    }

    /// Without service deployments, a rollback by ECS may show only in that the service runs the previous revision again:
    /// in its earlier deployment, or in a new one after tasks of ours have failed.
    fn unannounced_rollback(&self, by: &str, poll: EcsPoll<'_>) -> Option<Verdict> {
        if poll.deployment.is_some() || self.previous.as_deref() != Some(by) {
            return None;
        }
        let primary = poll.service.primary();
        let is_resumed = primary.is_some_and(|primary| self.is_earlier(&primary.id));
        if !(is_resumed || self.has_failures) {
            return None;
        }
        let reason = || primary.and_then(|primary| primary.reason.clone());
        Some(match primary.and_then(|primary| primary.rollout.as_deref()) {
            Some("IN_PROGRESS") => Verdict::RollingBack,
            Some("FAILED") => Verdict::Ended(Ending::RollbackFailed(reason())),
            _ => Verdict::Ended(Ending::RolledBack(reason())),
        })
    }

    fn read(&self, poll: EcsPoll<'_>) -> PollResult {
        if poll.service.status != "ACTIVE" {
            return PollResult::Ended(Ending::Deleted);
        }
        match poll.deployment {
            Some(deployment) => self.read_service_deployment(poll.service, deployment),
            None => self.read_service(poll.service),
        }
    }

    fn read_service_deployment(&self, service: &Service, deployment: &ServiceDeployment) -> PollResult {
        let reason = || {
            let reasons = deployment.reasons();
            (!reasons.is_empty()).then(|| reasons.join("; "))
        };
        PollResult::Ended(match &deployment.state {
            DeploymentState::Successful => Ending::Succeeded,
            DeploymentState::RollbackSuccessful => Ending::RolledBack(reason()),
            DeploymentState::RollbackFailed => Ending::RollbackFailed(reason()),
            DeploymentState::Stopped => match self.other_revision(service) {
                Some(by) => Ending::Superseded(by),
                None => Ending::Failed(reason()),
            },
            DeploymentState::RollbackRequested | DeploymentState::RollbackInProgress => {
                return PollResult::RollingBack;
            }
            DeploymentState::Pending
            | DeploymentState::InProgress
            | DeploymentState::StopRequested
            | DeploymentState::Other(_) => {
                return PollResult::InProgress;
            }
        })
    }

    /// The revision that the service is meant to run, if it is another one.
    fn other_revision(&self, service: &Service) -> Option<String> {
        let is_own = |deployment: &Deployment| match &self.id {
            Some(id) => deployment.id == *id,
            None => deployment.task_definition == self.revision,
        };
        match self.deployments(service).find(|one| one.status == "PRIMARY") {
            Some(primary) if !is_own(primary) => Some(primary.task_definition.clone()),
            Some(_) => None,
            None => Some(&service.task_definition).filter(|other| **other != self.revision).cloned(),
        }
    }

    /// The service's deployments. While ours has no id, an earlier one of the same revision must not pass for
    /// it.
    fn deployments<'s>(&self, service: &'s Service) -> impl Iterator<Item = &'s Deployment> {
        let is_mistakable = |one: &Deployment| {
            self.id.is_none() && one.task_definition == self.revision && self.is_earlier(&one.id)
        };
        service.deployments.iter().filter(move |one| !is_mistakable(one))
    }

    /// Without service deployments only the service's own list remains.
    fn read_service(&self, service: &Service) -> PollResult {
        let own = self.deployments(service).find(|deployment| match &self.id {
            Some(id) => deployment.id == *id,
            None => deployment.task_definition == self.revision,
        });
        let is_rollout = |wanted: &str| own.is_some_and(|own| own.rollout.as_deref() == Some(wanted));
        let reason = own.and_then(|own| own.reason.clone());
        let primary = self.deployments(service).find(|deployment| deployment.status == "PRIMARY");
        let Some(primary) = primary else { return PollResult::Unseen };
        if own.is_some_and(|own| own.id == primary.id) {
            return match (is_rollout("COMPLETED"), is_rollout("FAILED")) {
                (true, _) => PollResult::Ended(Ending::Succeeded),
                (_, true) if service.breaker_rolls_back => PollResult::RollingBack,
                (_, true) => PollResult::Ended(Ending::Failed(reason)),
                _ => PollResult::InProgress,
            };
        }
        if own.is_none() && self.id.is_none() && service.task_definition == self.revision {
            return PollResult::Unseen;
        }
        // ECS announces a rollback in the reason of the deployment that rolls back.
        let rolling_back = self.rolling_back || primary.reason.as_deref().is_some_and(announces_rollback);
        if !(is_rollout("FAILED") || rolling_back) {
            return PollResult::Ended(Ending::Superseded(primary.task_definition.clone()));
        }
        match primary.rollout.as_deref() {
            Some("COMPLETED") => {
                PollResult::Ended(Ending::RolledBack(reason.or_else(|| primary.reason.clone())))
            }
            Some("FAILED") => PollResult::Ended(Ending::RollbackFailed(primary.reason.clone())),
            _ => PollResult::RollingBack,
        }
    }
}

/// Whether the words of an event or a deployment announce a rollback.
fn announces_rollback(words: &str) -> bool {
    words.to_lowercase().contains("rolling back")
}

/// Judges a deployment of `CodeDeploy`.
#[derive(Debug)]
pub(crate) struct CodeDeployJudge {
    pub(crate) seen: SeenEvents,
    /// `NotFound` responses that are still tolerated.
    missing_left: u32,
    stages: HashSet<String>,
    state: LastState,
}

impl CodeDeployJudge {
    /// `before` is the service before the deployment.
    pub(crate) fn new(before: &Service) -> Self {
        Self {
            seen: SeenEvents::of(before),
            missing_left: MAX_MISSING,
            stages: HashSet::new(),
            state: LastState::default(),
        }
    }

    /// Another deployment, which rolls back, is judged from now on.
    pub(crate) fn switch(&mut self) {
        self.stages.clear();
        self.state = LastState::default();
        self.clear_doubts();
    }

    pub(crate) fn clear_doubts(&mut self) {
        self.missing_left = MAX_MISSING;
    }

    /// `CodeDeploy` does not know the deployment. Returns whether that is tolerated.
    pub(crate) fn missing(&mut self) -> bool {
        let is_tolerated = self.missing_left > 0;
        self.missing_left = self.missing_left.saturating_sub(1);
        is_tolerated
    }

    /// `service` is `None` if it could not be read, or no longer matters.
    pub(crate) fn observe(
        &mut self,
        deployment: &code_deploy::Deployment,
        progress: Option<&Progress>,
        service: Option<&Service>,
    ) -> Assessment {
        self.clear_doubts();
        let messages = service.map(|service| self.seen.take(service)).unwrap_or_default();
        let stages = progress.into_iter().flat_map(|progress| &progress.events);
        let stages = stages.filter_map(LifecycleEvent::line);
        let stages = stages.filter(|line| self.stages.insert(line.clone())).collect();
        let counts = progress.and_then(Progress::new_set).map(|set| set.counts);
        let text = code_deploy::standing(deployment, progress);
        let verdict = match deployment.status {
            Status::Succeeded => Verdict::Ended(Ending::Succeeded),
            Status::Failed | Status::Stopped => Verdict::Ended(Ending::Failed(deployment.reason())),
            _ if deployment.keeps_earlier => Verdict::TrafficMoved,
            _ => Verdict::InProgress,
        };
        Assessment { verdict, messages, stages, state: self.state.change(RolloutState { text, counts }) }
    }
}

#[cfg(test)]
mod tests;
