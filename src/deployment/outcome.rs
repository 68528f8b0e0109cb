//! What has become of deployments, in words and as an exit code.

use super::short;
use crate::ecs::diagnosis::{Group, Kind};
use crate::exit::{Exit, Failure};
use serde::Serialize;
use std::time::Duration;

/// How a deployment ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The service runs the revision.
    Deployed,
    /// It did so before.
    Unchanged,
    /// The service is to run the revision; ECS shows no deployment that could be followed.
    Unconfirmed,
    /// It failed, and the service runs the earlier revision again.
    RolledBack,
    /// It failed, and so did the way back.
    RollbackFailed,
    /// It failed, and was left as it is.
    #[default]
    Left,
    /// It took too long, and was left as it is.
    TimedOut,
    /// Somebody else's deployment has taken its place.
    Superseded,
    /// The run was stopped in the middle of it.
    Stopped,
    /// It could not be followed any more.
    Lost,
    /// It could not begin.
    NotBegun,
}

/// What has become of one service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) service: String,
    /// The revision that it was to get, as an ARN.
    pub(crate) revision: String,
    /// The revision that it can go back to, as an ARN.
    pub(crate) previous: Option<String>,
    /// The ARN of the service deployment, where ECS tells; the id of the deployment, where `CodeDeploy` deploys.
    pub(crate) deployment: Option<String>,
    pub(crate) outcome: Outcome,
    /// Why, in ECS's words.
    pub(crate) reason: Option<String>,
    /// The tasks that failed, by their cause.
    pub(crate) groups: Vec<Group>,
    /// What kept it from beginning, or from being followed.
    pub(crate) failure: Option<Failure>,
    /// What to do about it, where no cause tells.
    pub(crate) advice: Option<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Report {
    pub(crate) fn new(service: &str, revision: &str, previous: Option<String>) -> Self {
        let (service, revision) = (service.to_owned(), revision.to_owned());
        Self { service, revision, previous, ..Self::default() }
    }

    /// One that could not begin.
    pub(crate) fn not_begun(service: &str, revision: &str, failure: Failure) -> Self {
        let mut report = Self::new(service, revision, None);
        report.failed(Outcome::NotBegun, failure);
        report
    }

    pub(crate) fn failed(&mut self, outcome: Outcome, failure: Failure) {
        (self.outcome, self.failure) = (outcome, Some(failure));
    }

    pub(crate) fn diagnosed(&mut self, groups: Vec<Group>, reason: Option<String>) {
        (self.groups, self.reason) = (groups, reason);
    }

    /// The exit code that it leads to.
    pub(crate) fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Deployed | Outcome::Unchanged | Outcome::Unconfirmed => Exit::Done,
            Outcome::RolledBack => Exit::RolledBack,
            Outcome::RollbackFailed | Outcome::Left => Exit::NotRolledBack,
            Outcome::TimedOut => Exit::Timeout,
            Outcome::Superseded => Exit::Superseded,
            Outcome::Stopped | Outcome::Lost | Outcome::NotBegun => {
                self.failure.as_ref().map_or(Exit::Environment, |failure| failure.exit)
            }
        }
    }

    /// What happened, in one sentence that names the probable cause.
    pub(crate) fn sentence(&self) -> String {
        let Self { service, failure, .. } = self;
        let revision = short(&self.revision);
        let before = self.previous.as_deref().map_or_else(|| "the revision before".to_owned(), short);
        let cause = self.cause();
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let told = || failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
        match self.outcome {
            Outcome::Deployed => format!("{service} runs {revision}"),
            Outcome::Unchanged => format!("{service} ran {revision} already"),
            Outcome::Unconfirmed => format!("{service} is to run {revision}"),
            Outcome::RolledBack => {
                format!(
                    "{service}: the deployment of {revision} failed and was rolled back to {before}{cause}"
                )
            }
            Outcome::RollbackFailed => format!(
                "{service}: the deployment of {revision} failed, and so did the rollback to {before}{cause}"
            ),
            Outcome::Left => {
                format!("{service}: the deployment of {revision} failed and was not rolled back{cause}")
            }
            Outcome::TimedOut => {
                format!("{service}: the deployment of {revision} is not through, and goes on{cause}")
            }
            Outcome::Superseded => {
                format!("{service}: the deployment of {revision} was superseded by another one{cause}")
            }
            Outcome::Stopped => format!("{service}: the run was stopped while {revision} was deployed"),
            Outcome::Lost => {
                format!("{service}: the deployment of {revision} goes on, but cannot be followed: {}", told())
            }
            Outcome::NotBegun => format!("{service}: {}", told()),
        }
    }

    /// What the tasks tell, and ECS's own words. An event that only says that something failed tells less than those.
    fn cause(&self) -> Option<String> {
        let tells = |group: &&Group| !group.tasks.is_empty() || group.cause.kind != Kind::Unknown;
        let sentence = self.groups.iter().find(tells).map(|group| &group.cause.sentence);
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
        of_failure
            .or_else(|| self.groups.first()?.cause.help.clone())
            .or_else(|| self.advice.clone())
            .or_else(|| match self.outcome {
                Outcome::Superseded => {
                    Some("the newer deployment decides; nothing of it was touched".to_owned())
                }
                Outcome::TimedOut => Some("`runner ecs status` tells how far it is".to_owned()),
                Outcome::Left
                    if self.previous.as_ref().is_some_and(|previous| *previous != self.revision) =>
                {
                    Some("`runner ecs rollback` goes back by hand".to_owned())
                }
                _ => None,
            })
    }
}

/// The failure that several reports make together; nothing where all went well.
pub(crate) fn failure_of(reports: &[Report]) -> Option<Failure> {
    // The worst of them decides.
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Superseded => 1,
        Exit::RolledBack => 3,
        Exit::Timeout => 4,
        Exit::NotRolledBack => 5,
        _ => 2,
    };
    let failed: Vec<&Report> = reports.iter().filter(|report| report.exit() != Exit::Done).collect();
    let worst = failed.iter().map(|report| report.exit()).max_by_key(|exit| rank(*exit))?;
    if failed.iter().all(|report| report.outcome == Outcome::Stopped) {
        return Some(Failure::stopped());
    }
    // What brought the others down comes first.
    let mut told = failed.clone();
    told.sort_by_key(|report| report.groups.is_empty());
    let sentences: Vec<String> = told.iter().map(|report| report.sentence()).collect();
    let failure = Failure::new(worst, sentences.join("; "));
    Some(match told.iter().find_map(|report| report.help()) {
        Some(help) => failure.help(help),
        None => failure,
    })
}
