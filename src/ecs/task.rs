//! The parts of tasks that runner uses.

use crate::address::short_name;
use jiff::Timestamp;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) arn: String,
    /// The ARN of its revision.
    pub(crate) definition: String,
    /// The id of the deployment (`ecs-svc/…`) that started it, for tasks of services.
    pub(crate) started_by: Option<String>,
    /// `PROVISIONING`, `PENDING`, `ACTIVATING`, `RUNNING`, `DEACTIVATING`, `STOPPING`, `DEPROVISIONING` or `STOPPED`.
    pub(crate) last_status: String,
    pub(crate) created: Option<Timestamp>,
    /// `TaskFailedToStart`, `EssentialContainerExited`, `UserInitiated`, `ServiceSchedulerInitiated`, `SpotInterruption`,
    /// `TerminationNotice` or `InfrastructureHealth`.
    pub(crate) stop_code: Option<String>,
    /// ECS's message.
    pub(crate) stopped_reason: Option<String>,
    pub(crate) containers: Vec<Container>,
}

impl Task {
    /// The last segment of its ARN and of its log stream names.
    pub(crate) fn id(&self) -> &str {
        short_name(&self.arn)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Container {
    /// Its name in the task definition.
    pub(crate) name: String,
    /// The manifest digest of its image, once pulled.
    pub(crate) digest: Option<String>,
    pub(crate) exit_code: Option<i32>,
    /// The ECS agent's message if it did not start or was stopped.
    pub(crate) reason: Option<String>,
    /// `HEALTHY`, `UNHEALTHY` or `UNKNOWN`.
    pub(crate) health: Option<String>,
}

/// Why ECS did not start a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotStarted {
    /// ECS's code, such as `RESOURCE:MEMORY`.
    pub(crate) reason: String,
    pub(crate) detail: Option<String>,
}

impl NotStarted {
    /// Explains the code. Source: "API failures messages" in the developer guide of ECS.
    pub(crate) fn sentence(&self) -> String {
        let meaning = match self.reason.as_str() {
            "AGENT" => "the ECS agent of the container instance is not connected",
            "ATTRIBUTE" => "no container instance has an attribute that the task definition needs",
            "LOCATION" => "no container instance is in the placement constraint's location",
            "INACTIVE" => "the cluster or the task definition is not active",
            "MISSING" => "a resource that the task names does not exist",
            reason => super::diagnosis::capacity_reason(reason).unwrap_or_default(),
        };
        let detail = self.detail.as_deref().filter(|detail| !detail.is_empty());
        let word = match detail {
            Some(detail) => format!("{}: {detail}", self.reason),
            None => self.reason.clone(),
        };
        if meaning.is_empty() { word } else { format!("{meaning} ({word})") }
    }
}
