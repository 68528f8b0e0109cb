//! The parts of `CodeDeploy` deployments that runner uses.

use super::service::Counts;
use jiff::Timestamp;
use std::fmt;

/// The state of a deployment. Source: API reference of `CodeDeploy`, `DeploymentInfo.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Status {
    #[default]
    Created,
    Queued,
    InProgress,
    /// Deployed, and monitored for the bake time.
    Baking,
    /// Waits for a confirmation or a timeout to shift the traffic.
    Ready,
    Succeeded,
    Failed,
    /// Stopped by a user or an alarm.
    Stopped,
    Other(String),
}

impl Status {
    /// Parses `CodeDeploy`'s status.
    pub(crate) fn read(word: &str) -> Self {
        match word {
            "Created" => Self::Created,
            "Queued" => Self::Queued,
            "InProgress" => Self::InProgress,
            "Baking" => Self::Baking,
            "Ready" => Self::Ready,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            "Stopped" => Self::Stopped,
            other => Self::Other(other.to_owned()),
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Queued => "queued",
            Self::InProgress => "in progress",
            Self::Baking => "baking",
            Self::Ready => "ready: it waits for the traffic to be moved",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Other(word) => word,
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeploymentGroup {
    /// The cluster and name of each service that it deploys to.
    pub(crate) services: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) status: Status,
    /// `CodeDeploy`'s error code and message.
    pub(crate) error: Option<(String, String)>,
    /// Additional status messages.
    pub(crate) messages: Vec<String>,
    pub(crate) description: String,
    /// The hash of its `AppSpec`.
    pub(crate) sha256: Option<String>,
    pub(crate) created: Option<Timestamp>,
    /// It rolls back another deployment.
    pub(crate) is_rollback: bool,
    /// `CodeDeploy` rolls it back if it fails.
    pub(crate) rolls_back: bool,
    /// The id of the deployment that rolls it back.
    pub(crate) rollback: Option<String>,
    /// `CodeDeploy`'s message about the rollback.
    pub(crate) rollback_message: Option<String>,
    /// All traffic has shifted, and the earlier tasks wait for termination.
    pub(crate) keeps_earlier: bool,
    /// The minutes until their termination.
    pub(crate) keeps_for: Option<i32>,
    /// The number of targets in each state.
    pub(crate) targets: Vec<(&'static str, i64)>,
}

impl Deployment {
    /// `CodeDeploy`'s reason for the failure.
    pub(crate) fn reason(&self) -> Option<String> {
        let (code, message) = self.error.as_ref()?;
        let mut reason = if message.is_empty() { code.clone() } else { format!("{code}: {message}") };
        for message in self.messages.iter().filter(|own| !own.is_empty() && *own != message) {
            reason.push_str("; ");
            reason.push_str(message);
        }
        Some(reason)
    }
}

/// The progress of a deployment at its target service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    /// In chronological order.
    pub(crate) events: Vec<LifecycleEvent>,
    pub(crate) sets: Vec<TaskSet>,
}

/// A lifecycle event, such as `BeforeInstall` or `AllowTraffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LifecycleEvent {
    pub(crate) name: String,
    /// `Pending`, `InProgress`, `Succeeded`, `Failed`, `Skipped` or `Unknown`.
    pub(crate) status: String,
    pub(crate) message: Option<String>,
}

impl LifecycleEvent {
    /// A line for the log. Returns `None` for events that are pending or skipped.
    pub(crate) fn line(&self) -> Option<String> {
        let word = match self.status.as_str() {
            "InProgress" => "in progress",
            "Succeeded" => "succeeded",
            "Failed" => "failed",
            _ => return None,
        };
        let why = self.message.as_ref().filter(|_| word == "failed");
        let why = why.map(|message| format!(": {message}")).unwrap_or_default();
        Some(format!("{} {word}{why}", self.name))
    }
}

/// The tasks of one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TaskSet {
    /// The id in the `startedBy` field of its tasks.
    pub(crate) id: String,
    /// It belongs to the new revision.
    pub(crate) is_new: bool,
    pub(crate) counts: Counts,
    /// Its percentage of the traffic.
    pub(crate) traffic: f64,
}

impl Progress {
    pub(crate) fn new_set(&self) -> Option<&TaskSet> {
        self.sets.iter().find(|set| set.is_new)
    }
}

/// A short description of a deployment's state for the log. It changes whenever the deployment progresses.
pub(crate) fn standing(deployment: &Deployment, progress: Option<&Progress>) -> String {
    let mut parts = vec![deployment.status.to_string()];
    if let Some(set) = progress.and_then(Progress::new_set) {
        parts.push(set.counts.to_string());
        parts.push(format!("{:.0} % of the traffic", set.traffic));
    } else {
        let counts: Vec<String> = deployment
            .targets
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        if !counts.is_empty() && !deployment.status.is_final() {
            parts.push(format!("services: {}", counts.join(", ")));
        }
    }
    if deployment.keeps_earlier && !deployment.status.is_final() {
        let time = deployment.keeps_for.map(|minutes| format!(" for {minutes} min")).unwrap_or_default();
        parts.push(format!("the earlier tasks are kept{time}"));
    }
    parts.join(" · ")
}

/// The id of the active deployment in `CodeDeploy`'s error message: `… already has an active Deployment 'd-ABC123'`.
pub(crate) fn active_in(message: &str) -> Option<&str> {
    let from = message.find("d-")?;
    let before = message[..from].chars().next_back();
    if before.is_some_and(char::is_alphanumeric) {
        return None;
    }
    let rest = &message[from..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|id| id.len() > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_active_deployment() {
        let message = "The Deployment Group 'webapp-prod' already has an active Deployment 'd-9XKLM12AB'";
        assert_eq!(active_in(message), Some("d-9XKLM12AB"));
        assert_eq!(active_in("the group has an active deployment"), None);
    }

    #[test]
    fn only_active_and_finished_events_have_a_line() {
        let event = |status: &str, message: Option<&str>| LifecycleEvent {
            name: "AllowTraffic".to_owned(),
            status: status.to_owned(),
            message: message.map(ToOwned::to_owned),
        };
        assert_eq!(event("Pending", None).line(), None);
        assert_eq!(event("Succeeded", Some("")).line().as_deref(), Some("AllowTraffic succeeded"));
        assert_eq!(event("Failed", Some("no")).line().as_deref(), Some("AllowTraffic failed: no"));
    }

    #[test]
    fn the_standing_has_tasks_and_traffic() {
        let mut deployment = Deployment { status: Status::InProgress, ..Deployment::default() };
        deployment.targets = vec![("in progress", 1), ("failed", 0)];
        assert_eq!(standing(&deployment, None), "in progress · services: 1 in progress");
        let counts = Counts { desired: 2, running: 1, pending: 1 };
        let set = TaskSet { id: "ecs-svc/2".to_owned(), is_new: true, counts, traffic: 10.0 };
        let progress = Progress { events: Vec::new(), sets: vec![TaskSet::default(), set] };
        assert_eq!(
            standing(&deployment, Some(&progress)),
            "in progress · 1 of 2 running, 1 starting · 10 % of the traffic"
        );
        deployment.keeps_earlier = true;
        deployment.keeps_for = Some(60);
        assert!(standing(&deployment, None).ends_with("the earlier tasks are kept for 60 min"));
    }

    #[test]
    fn a_reason_has_code_and_messages() {
        let error = Some(("ALARM_ACTIVE".to_owned(), "One or more alarms.".to_owned()));
        let deployment = Deployment { error, messages: vec!["more".to_owned()], ..Deployment::default() };
        assert_eq!(deployment.reason().as_deref(), Some("ALARM_ACTIVE: One or more alarms.; more"));
        assert_eq!(Deployment::default().reason(), None);
    }
}
