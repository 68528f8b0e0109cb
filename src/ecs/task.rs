//! Tasks, as far as runner has to know them.

use crate::address::short_name;
use jiff::Timestamp;

/// A task of Amazon ECS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) arn: String,
    /// The revision that it runs, as an ARN.
    pub(crate) definition: String,
    /// Who started it: the id of a deployment (`ecs-svc/…`) for tasks of services.
    pub(crate) started_by: Option<String>,
    /// `PROVISIONING`, `PENDING`, `ACTIVATING`, `RUNNING`, `DEACTIVATING`, `STOPPING`, `DEPROVISIONING`, `STOPPED`.
    pub(crate) last_status: String,
    /// When it was created.
    pub(crate) created: Option<Timestamp>,
    /// `TaskFailedToStart`, `EssentialContainerExited`, `UserInitiated`, `ServiceSchedulerInitiated`, `SpotInterruption`,
    /// `TerminationNotice`, `InfrastructureHealth`.
    pub(crate) stop_code: Option<String>,
    /// Why it was stopped, in ECS's words.
    pub(crate) stopped_reason: Option<String>,
    pub(crate) containers: Vec<Container>,
}

impl Task {
    /// The last part of its ARN, which is also the last part of its log streams.
    pub(crate) fn id(&self) -> &str {
        short_name(&self.arn)
    }
}

/// A container of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Container {
    /// Its name in the task definition.
    pub(crate) name: String,
    /// The manifest's digest of the image that it runs, once that is pulled.
    pub(crate) digest: Option<String>,
    /// What it ended with.
    pub(crate) exit_code: Option<i32>,
    /// Why it did not start, or was ended, in the agent's words.
    pub(crate) reason: Option<String>,
    /// `HEALTHY`, `UNHEALTHY` or `UNKNOWN`.
    pub(crate) health: Option<String>,
}

/// Why ECS did not start a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotStarted {
    /// ECS's word, such as `RESOURCE:MEMORY`.
    pub(crate) reason: String,
    /// More of its words.
    pub(crate) detail: Option<String>,
}

impl NotStarted {
    /// What that means. Source: "API failures messages" in the developer guide of ECS.
    pub(crate) fn sentence(&self) -> String {
        let meaning = match self.reason.as_str() {
            "AGENT" => "the ECS agent of the container instance is not connected",
            "ATTRIBUTE" => "no container instance has an attribute that the task definition needs",
            "LOCATION" => "no container instance is in the placement constraint's location",
            "INACTIVE" => "the cluster or the task definition is not active",
            "MISSING" => "something that the task names does not exist",
            reason => super::diagnosis::no_room(reason).unwrap_or_default(),
        };
        let detail = self.detail.as_deref().filter(|detail| !detail.is_empty());
        let word = match detail {
            Some(detail) => format!("{}: {detail}", self.reason),
            None => self.reason.clone(),
        };
        if meaning.is_empty() { word } else { format!("{meaning} ({word})") }
    }
}
