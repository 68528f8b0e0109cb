//! Diagnoses stopped tasks from ECS's messages, the task definition and the last log lines.

mod balancer;
mod capacity;
mod common;
mod definition;
mod event;
mod excerpt;
mod exit;
mod group;
mod reason;
mod secret;

use super::task::{Container, Task};
use definition::Definition;
use serde_json::Value;

pub(crate) use capacity::meaning as capacity_reason;
pub(crate) use event::diagnose_event;
pub(crate) use group::{CauseGroup, group};

/// Whether a container is essential, by a `taskDefinition` object from `DescribeTaskDefinition`.
pub(crate) fn is_essential(definition: &Value, container: &str) -> bool {
    Definition(definition).is_essential(container)
}

/// A failed task with everything that helps to diagnose it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    /// The stopped task.
    pub(crate) task: &'a Task,
    /// The `taskDefinition` object from `DescribeTaskDefinition`.
    pub(crate) definition: &'a Value,
    /// The last log lines of its containers.
    pub(crate) logs: &'a [ContainerLog],
    /// The path of the target group's health check.
    pub(crate) health_path: Option<&'a str>,
}

/// The last lines of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerLog {
    /// The name in the task definition.
    pub(crate) container: String,
    pub(crate) lines: Vec<String>,
}

/// Why a task stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) kind: CauseKind,
    /// The container that caused it, if it is known.
    pub(crate) container: Option<String>,
    /// A sentence fragment.
    pub(crate) sentence: String,
    pub(crate) help: Option<String>,
}

impl Cause {
    fn new(kind: CauseKind, container: Option<&str>, sentence: impl Into<String>) -> Self {
        Self { kind, container: container.map(ToOwned::to_owned), sentence: sentence.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The kind of failure that stopped a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CauseKind {
    ImageMissing,
    /// The task has no permission to pull the image.
    ImageDenied,
    /// The registry cannot be reached or limits the rate of requests.
    ImageUnreachable,
    /// The secret or parameter, or its JSON key, does not exist.
    SecretMissing,
    /// The task has no permission to read or decrypt the secret or parameter.
    SecretDenied,
    LogGroupMissing,
    /// A role cannot be assumed, or lacks a permission that is not about images or secrets.
    RoleDenied,
    /// A container exceeded its memory limit.
    OutOfMemory,
    HealthCheck,
    /// The load balancer's health check failed, or the task could not be registered with it.
    LoadBalancerCheck,
    /// The image is built for another CPU architecture.
    WrongArchitecture,
    /// The container's command does not exist or is not executable.
    NoSuchCommand,
    /// The port of a container is in use.
    PortInUse,
    /// No capacity for the task.
    NoCapacity,
    /// A network interface or an AWS service is not available to the task.
    Network,
    /// The disk is full or a volume cannot be mounted.
    Disk,
    /// A container exited.
    Exited,
    /// The host or its runtime failed: spot interruption, maintenance, a terminated instance.
    Infrastructure,
    /// Stopped on purpose by a user or the scheduler, so not a failure.
    Stopped,
    Unknown,
}

impl CauseKind {
    /// After how many such failures further tasks are certain to fail, too.
    pub(crate) fn hopeless_after(self) -> Option<usize> {
        match self {
            Self::ImageMissing
            | Self::SecretMissing
            | Self::LogGroupMissing
            | Self::WrongArchitecture
            | Self::NoSuchCommand => Some(1),
            // Changes in IAM take effect with a delay.
            Self::ImageDenied | Self::SecretDenied | Self::RoleDenied => Some(2),
            _ => None,
        }
    }
}

/// Finds out why a task stopped.
pub(crate) fn diagnose(evidence: &Evidence<'_>) -> Cause {
    let definition = Definition(evidence.definition);
    host(evidence.task)
        .or_else(|| requested(evidence.task))
        .or_else(|| messages(evidence, &definition))
        .or_else(|| health(evidence, &definition))
        .or_else(|| scheduled(evidence.task))
        .or_else(|| exit::essential(evidence, &definition))
        .or_else(|| messages_about_others(evidence.task, &definition))
        .or_else(|| exit::other(evidence, &definition))
        .unwrap_or_else(|| unknown(evidence.task))
}

/// ECS's message in lower case.
fn stopped_reason(task: &Task) -> String {
    task.stopped_reason.as_deref().unwrap_or_default().to_lowercase()
}

/// A failure of the host.
fn host(task: &Task) -> Option<Cause> {
    let reason = stopped_reason(task);
    let code = task.stop_code.as_deref().unwrap_or_default();
    let sentence = if code == "SpotInterruption" || reason.contains("spot task was interrupted") {
        "AWS reclaimed the spot capacity of the task"
    } else if reason.contains("host ec2 (instance") {
        "the EC2 instance that the task ran on was stopped or terminated"
    } else if reason.contains("container instance")
        && (reason.contains("drain") || reason.contains("deregist"))
    {
        "the container instance that the task ran on was drained or deregistered"
    } else if code == "TerminationNotice"
        || code == "InfrastructureHealth"
        || reason.contains("underlying infrastructure")
    {
        "AWS stopped the task because of its underlying infrastructure"
    } else {
        return None;
    };
    Some(
        Cause::new(CauseKind::Infrastructure, None, sentence)
            .help("this is not the application's fault: ECS starts another task"),
    )
}

/// A stop by a user or by scaling.
fn requested(task: &Task) -> Option<Cause> {
    let reason = stopped_reason(task);
    if reason.contains("scaling activity initiated by") {
        return Some(scheduler());
    }
    let by_user =
        task.stop_code.as_deref() == Some("UserInitiated") || reason.contains("task stopped by user");
    by_user.then(|| Cause::new(CauseKind::Stopped, None, "a user stopped the task"))
}

/// Any other stop by the scheduler is not a failure.
fn scheduled(task: &Task) -> Option<Cause> {
    (task.stop_code.as_deref() == Some("ServiceSchedulerInitiated")).then(scheduler)
}

fn scheduler() -> Cause {
    Cause::new(CauseKind::Stopped, None, "the service's scheduler stopped the task on purpose")
}

/// The messages about essential containers and the task. A recognised message has precedence.
fn messages(evidence: &Evidence<'_>, definition: &Definition<'_>) -> Option<Cause> {
    let task = evidence.task;
    let of_containers = reasons(task, definition, true);
    let of_task = task.stopped_reason.as_deref().map(|reason| (None, reason));
    understood(of_containers.chain(of_task), definition)
}

/// The messages about other containers, which count only if there is no other cause.
fn messages_about_others(task: &Task, definition: &Definition<'_>) -> Option<Cause> {
    understood(reasons(task, definition, false), definition)
}

fn reasons<'a>(
    task: &'a Task,
    definition: &Definition<'_>,
    essential: bool,
) -> impl Iterator<Item = (Option<&'a str>, &'a str)> {
    containers(task, definition, essential)
        .filter_map(|container| Some((Some(container.name.as_str()), container.reason.as_deref()?)))
}

fn understood<'a>(
    texts: impl Iterator<Item = (Option<&'a str>, &'a str)>,
    definition: &Definition<'_>,
) -> Option<Cause> {
    let causes: Vec<Cause> =
        texts.filter_map(|(container, text)| reason::read(text, container, definition)).collect();
    causes.iter().find(|cause| cause.kind != CauseKind::Unknown).or(causes.first()).cloned()
}

fn containers<'a>(
    task: &'a Task,
    definition: &Definition<'_>,
    essential: bool,
) -> impl Iterator<Item = &'a Container> {
    task.containers.iter().filter(move |container| definition.is_essential(&container.name) == essential)
}

/// A failed health check.
fn health(evidence: &Evidence<'_>, definition: &Definition<'_>) -> Option<Cause> {
    let reason = stopped_reason(evidence.task);
    if reason.contains("failed container health checks") {
        return Some(container_check(evidence.task, definition));
    }
    let message = evidence.task.stopped_reason.as_deref()?;
    ["failed elb health checks", "lattice health checks"]
        .iter()
        .any(|words| reason.contains(words))
        .then(|| balancer::load_balancer_check(message, evidence.health_path))
}

fn container_check(task: &Task, definition: &Definition<'_>) -> Cause {
    let checked = |container: &&Container| definition.health_command(&container.name).is_some();
    let unhealthy = |container: &&Container| container.health.as_deref() == Some("UNHEALTHY");
    let container = containers(task, definition, true)
        .find(unhealthy)
        .or_else(|| task.containers.iter().find(unhealthy))
        .or_else(|| containers(task, definition, true).find(checked))
        .map(|container| container.name.as_str());
    let command = container.and_then(|name| definition.health_command(name));
    let check =
        command.map_or_else(|| "its health check".to_owned(), |it| format!("its health check `{it}`"));
    let subject = container.map_or_else(|| "a container".to_owned(), |name| format!("container `{name}`"));
    Cause::new(CauseKind::HealthCheck, container, format!("{subject} failed {check}")).help(
        "the check runs inside the container, so its command must be in the image; a slow start needs a \
         longer `startPeriod`",
    )
}

fn unknown(task: &Task) -> Cause {
    let sentence = match task.stopped_reason.as_deref() {
        Some(reason) if !reason.trim().is_empty() => {
            format!("the task stopped: {}", excerpt::excerpt(reason))
        }
        _ => "the task stopped, and ECS reports no reason".to_owned(),
    };
    Cause::new(CauseKind::Unknown, None, sentence)
}

#[cfg(test)]
mod tests;
