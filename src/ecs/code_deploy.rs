//! Deployments by AWS `CodeDeploy`, as far as runner has to know them.

use super::service::Counts;
use jiff::Timestamp;
use std::fmt;

/// The state of a deployment. Source: API reference of `CodeDeploy`, `DeploymentInfo.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was asked for.
    #[default]
    Created,
    /// It waits to begin.
    Queued,
    /// It is under way.
    InProgress,
    /// It is through, and is watched for a while.
    Baking,
    /// It waits for somebody, or for the time, to move the traffic.
    Ready,
    Succeeded,
    Failed,
    /// Somebody, or an alarm, has ended it.
    Stopped,
    Other(String),
}

impl Status {
    /// The state that `CodeDeploy`'s word stands for.
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
pub(crate) struct Group {
    /// The services that it deploys to: cluster and name.
    pub(crate) services: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// How far it is.
    pub(crate) status: Status,
    /// Why it failed: `CodeDeploy`'s code and words.
    pub(crate) error: Option<(String, String)>,
    /// More of its words.
    pub(crate) messages: Vec<String>,
    /// What its maker says of it.
    pub(crate) description: String,
    /// The hash of its `AppSpec`.
    pub(crate) sha256: Option<String>,
    /// When it was asked for.
    pub(crate) created: Option<Timestamp>,
    /// It takes another one back.
    pub(crate) is_rollback: bool,
    /// It is taken back where it fails.
    pub(crate) rolls_back: bool,
    /// The deployment that takes it back.
    pub(crate) rollback: Option<String>,
    /// How that goes, in `CodeDeploy`'s words.
    pub(crate) rollback_message: Option<String>,
    /// All traffic has moved; the earlier tasks wait for their end.
    pub(crate) keeps_earlier: bool,
    /// How many minutes they wait.
    pub(crate) keeps_for: Option<i32>,
    /// Targets by their state: word and how many there are.
    pub(crate) targets: Vec<(&'static str, i64)>,
}

impl Deployment {
    /// Why it ended, in `CodeDeploy`'s words.
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

/// What a deployment does to the service.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    /// The events of its lifecycle, in order.
    pub(crate) events: Vec<LifecycleEvent>,
    /// The service's sets of tasks.
    pub(crate) sets: Vec<TaskSet>,
}

/// A step on the way, such as `BeforeInstall` or `AllowTraffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LifecycleEvent {
    pub(crate) name: String,
    /// `Pending`, `InProgress`, `Succeeded`, `Failed`, `Skipped` or `Unknown`.
    pub(crate) status: String,
    pub(crate) message: Option<String>,
}

impl LifecycleEvent {
    /// What is worth a line; nothing for what has not begun.
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

/// A set of tasks of one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TaskSet {
    /// Its id, which its tasks name in `startedBy`.
    pub(crate) id: String,
    /// It is the new one.
    pub(crate) is_new: bool,
    /// How many tasks are wanted, run and start.
    pub(crate) counts: Counts,
    /// How much of the traffic it gets, in per cent.
    pub(crate) traffic: f64,
}

impl Progress {
    /// The set of the new revision.
    pub(crate) fn new_set(&self) -> Option<&TaskSet> {
        self.sets.iter().find(|set| set.is_new)
    }
}

/// Where a deployment stands, for people: what changes from one look to the next.
pub(crate) fn standing(deployment: &Deployment, progress: Option<&Progress>) -> String {
    let mut parts = vec![deployment.status.to_string()];
    if let Some(set) = progress.and_then(Progress::new_set) {
        parts.push(set.counts.to_string());
        parts.push(format!("{:.0} % of the traffic", set.traffic));
    } else {
        let told: Vec<String> = deployment
            .targets
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        if !told.is_empty() && !deployment.status.is_final() {
            parts.push(format!("services: {}", told.join(", ")));
        }
    }
    if deployment.keeps_earlier && !deployment.status.is_final() {
        let time = deployment.keeps_for.map(|minutes| format!(" for {minutes} min")).unwrap_or_default();
        parts.push(format!("the earlier tasks are kept{time}"));
    }
    parts.join(" · ")
}

/// The id of the deployment that a refusal names: `… already has an active Deployment 'd-ABC123'`.
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
    fn the_refusal_names_the_deployment_under_way() {
        let said = "The Deployment Group 'webapp-prod' already has an active Deployment 'd-9XKLM12AB'";
        assert_eq!(active_in(said), Some("d-9XKLM12AB"));
        assert_eq!(active_in("the group has an active deployment"), None);
    }

    #[test]
    fn only_what_happens_is_a_line() {
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
    fn the_standing_names_tasks_and_traffic() {
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
    fn a_reason_has_all_that_codedeploy_says() {
        let error = Some(("ALARM_ACTIVE".to_owned(), "One or more alarms.".to_owned()));
        let deployment = Deployment { error, messages: vec!["more".to_owned()], ..Deployment::default() };
        assert_eq!(deployment.reason().as_deref(), Some("ALARM_ACTIVE: One or more alarms.; more"));
        assert_eq!(Deployment::default().reason(), None);
    }
}
