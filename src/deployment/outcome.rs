//! The outcome of deployments, in words and as an exit code.

use super::short;
use crate::ecs::diagnosis::{CauseGroup, CauseKind};
use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Deployed,
    /// The service ran the revision already.
    Unchanged,
    /// The service is meant to run the revision, but ECS lists no deployment to follow.
    Unconfirmed,
    /// The deployment failed, and the service runs the previous revision again.
    RolledBack,
    RollbackFailed,
    /// The deployment failed and was left as it is.
    #[default]
    Left,
    /// The deployment took too long and was left running.
    TimedOut,
    /// Another deployment has replaced it.
    Superseded,
    /// The run was stopped during the deployment.
    Stopped,
    /// The deployment could not be followed any more.
    Lost,
    NotStarted,
}

/// The deployment of one service.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceReport {
    pub(crate) service: String,
    /// The deployed revision, as an ARN.
    pub(crate) revision: String,
    /// The revision to roll back to, as an ARN.
    pub(crate) previous: Option<String>,
    /// The ARN of the service deployment, or the id of `CodeDeploy`'s deployment.
    pub(crate) deployment: Option<String>,
    pub(crate) outcome: Outcome,
    /// Why, in the words of AWS.
    pub(crate) reason: Option<String>,
    /// The failed tasks by cause.
    pub(crate) groups: Vec<CauseGroup>,
    /// Why it could not be started or followed.
    pub(crate) failure: Option<Failure>,
    /// The next step to take if no cause suggests one.
    pub(crate) advice: Option<String>,
    pub(crate) elapsed: Duration,
    /// The desired count of the service is 0, so that no task was started.
    pub(crate) is_idle: bool,
}

impl ServiceReport {
    pub(crate) fn new(service: &str, revision: &str, previous: Option<String>) -> Self {
        let (service, revision) = (service.to_owned(), revision.to_owned());
        Self { service, revision, previous, ..Self::default() }
    }

    pub(crate) fn not_started(service: &str, revision: &str, failure: Failure) -> Self {
        let mut report = Self::new(service, revision, None);
        report.fail(Outcome::NotStarted, failure);
        report
    }

    pub(crate) fn fail(&mut self, outcome: Outcome, failure: Failure) {
        (self.outcome, self.failure) = (outcome, Some(failure));
    }

    pub(crate) fn diagnose(&mut self, groups: Vec<CauseGroup>, reason: Option<String>) {
        (self.groups, self.reason) = (groups, reason);
    }

    pub(crate) fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Deployed | Outcome::Unchanged | Outcome::Unconfirmed => Exit::Done,
            Outcome::RolledBack => Exit::RolledBack,
            Outcome::RollbackFailed | Outcome::Left => Exit::NotRolledBack,
            Outcome::TimedOut => Exit::Timeout,
            Outcome::Superseded => Exit::Superseded,
            Outcome::Lost => Exit::Environment,
            Outcome::Stopped | Outcome::NotStarted => {
                self.failure.as_ref().map_or(Exit::Environment, |failure| failure.exit)
            }
        }
    }

    /// Describes the outcome and its probable cause in one sentence.
    pub(crate) fn sentence(&self) -> String {
        let Self { service, failure, .. } = self;
        let revision = short(&self.revision);
        let previous = self.previous.as_deref().map_or_else(|| "the previous revision".to_owned(), short);
        let cause = self.cause();
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let failure = failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
        match self.outcome {
            Outcome::Deployed | Outcome::Unchanged if self.is_idle => {
                format!("{service} is set to {revision}, but no task was started: its desired count is 0")
            }
            Outcome::Deployed => format!("{service} runs {revision}"),
            Outcome::Unchanged => format!("{service} already ran {revision}"),
            Outcome::Unconfirmed => format!("{service} is meant to run {revision}"),
            Outcome::RolledBack => format!(
                "{service}: the deployment of {revision} failed and was rolled back to {previous}{cause}"
            ),
            Outcome::RollbackFailed => format!(
                "{service}: the deployment of {revision} failed, and so did the rollback to {previous}{cause}"
            ),
            Outcome::Left => {
                format!("{service}: the deployment of {revision} failed and was not rolled back{cause}")
            }
            Outcome::TimedOut => format!("{service}: {revision} is still deploying{cause}"),
            Outcome::Superseded => {
                format!("{service}: the deployment of {revision} was superseded by another one{cause}")
            }
            Outcome::Stopped => format!("{service}: the run was stopped during the deployment of {revision}"),
            Outcome::Lost => format!(
                "{service}: the deployment of {revision} continues, but runner cannot follow it: {failure}"
            ),
            Outcome::NotStarted => format!("{service}: {failure}"),
        }
    }

    /// The cause by failed tasks, and the reason in the words of AWS. An event that only reports a failure is
    /// worth less than both.
    fn cause(&self) -> Option<String> {
        let is_specific =
            |group: &&CauseGroup| !group.tasks.is_empty() || group.cause.kind != CauseKind::Unknown;
        let sentence = self.groups.iter().find(is_specific).map(|group| &group.cause.sentence);
        match (sentence, &self.reason) {
            (Some(sentence), Some(reason)) if !reason.contains(sentence) => {
                Some(format!("{sentence} ({})", reason.trim_end_matches('.')))
            }
            (_, Some(reason)) => Some(reason.trim_end_matches('.').to_owned()),
            (Some(sentence), None) => Some(sentence.clone()),
            (None, None) => self.groups.first().map(|group| group.cause.sentence.clone()),
        }
    }

    fn help(&self) -> Option<String> {
        let of_failure = self.failure.as_ref().and_then(|failure| failure.help.clone());
        let has_previous = self.previous.as_ref().is_some_and(|previous| *previous != self.revision);
        of_failure
            .or_else(|| self.groups.first()?.cause.help.clone())
            .or_else(|| self.advice.clone())
            .or_else(|| match self.outcome {
                Outcome::Superseded => Some("the newer deployment was left alone".to_owned()),
                Outcome::TimedOut => Some("`runner ecs status` shows its progress".to_owned()),
                Outcome::Left if has_previous => {
                    Some("`runner ecs rollback` rolls the service back".to_owned())
                }
                _ => None,
            })
    }
}

/// Returns the failure of several deployments together, or `None` if all succeeded. The worst outcome decides
/// the exit code.
pub(crate) fn failure_of(reports: &[ServiceReport]) -> Option<Failure> {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Superseded => 1,
        Exit::RolledBack => 3,
        Exit::Timeout => 4,
        Exit::NotRolledBack => 5,
        _ => 2,
    };
    let mut failed: Vec<&ServiceReport> =
        reports.iter().filter(|report| report.exit() != Exit::Done).collect();
    let worst = failed.iter().map(|report| report.exit()).max_by_key(|exit| rank(*exit))?;
    if failed.iter().all(|report| report.outcome == Outcome::Stopped) {
        return Some(Failure::stopped());
    }
    // A service with failed tasks has caused the failure of the others, so it comes first.
    failed.sort_by_key(|report| report.groups.is_empty());
    let sentences: Vec<String> = failed.iter().map(|report| report.sentence()).collect();
    let failure = Failure::new(worst, sentences.join("; "));
    Some(match failed.iter().find_map(|report| report.help()) {
        Some(help) => failure.help(help),
        None => failure,
    })
}
