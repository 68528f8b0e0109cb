//! Why tasks ended: from what ECS says of them, the definition that they run and the last lines of their logs.

mod balancer;
mod common;
mod definition;
mod event;
mod exit;
mod group;
mod reason;
mod room;
mod secret;
mod words;

use super::task::{Container, Task};
use definition::Definition;
use serde_json::Value;

pub(crate) use event::diagnose_event;
pub(crate) use group::{Group, group};
pub(crate) use room::meaning as no_room;

/// Whether a task of a definition, as `DescribeTaskDefinition` gives it, ends with this container.
pub(crate) fn is_essential(definition: &Value, container: &str) -> bool {
    Definition(definition).is_essential(container)
}

/// What is known about a failed task beside the task itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    /// The task, as ECS describes it once it is stopped.
    pub(crate) task: &'a Task,
    /// The `taskDefinition` object, as `DescribeTaskDefinition` gives it.
    pub(crate) definition: &'a Value,
    /// The last lines of its containers.
    pub(crate) logs: &'a [ContainerLog],
    /// The path that the load balancer's target group checks.
    pub(crate) health_path: Option<&'a str>,
}

/// The end of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerLog {
    /// Its name in the task definition.
    pub(crate) container: String,
    pub(crate) lines: Vec<String>,
}

/// Why a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// What sort of trouble it is.
    pub(crate) kind: Kind,
    /// The container that it is about, where it is about one.
    pub(crate) container: Option<String>,
    /// What happened, as part of a sentence.
    pub(crate) sentence: String,
    pub(crate) help: Option<String>,
}

impl Cause {
    fn new(kind: Kind, container: Option<&str>, sentence: impl Into<String>) -> Self {
        Self { kind, container: container.map(ToOwned::to_owned), sentence: sentence.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What sort of trouble ended a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry has no such image.
    ImageMissing,
    /// The registry does not let the task have the image.
    ImageDenied,
    /// The registry cannot be reached, or has had too many requests.
    ImageUnreachable,
    /// There is no such secret or parameter, or nothing of that name inside it.
    SecretMissing,
    /// The secret or parameter may not be read, or not be decrypted.
    SecretDenied,
    /// The log group does not exist.
    LogGroupMissing,
    /// A role cannot be assumed, or lacks a permission for something else than images and secrets.
    RoleDenied,
    /// A container took more memory than it may have.
    OutOfMemory,
    /// A container's own health check failed.
    HealthCheck,
    /// The load balancer's health check failed, or the load balancer does not take the task.
    LoadBalancerCheck,
    /// The image is built for another processor.
    WrongArchitecture,
    /// The container's command does not exist, or cannot be run.
    NoSuchCommand,
    /// The port that a container listens on is taken.
    PortInUse,
    /// There is no room for the task.
    NoCapacity,
    /// A network interface or a service of AWS is out of reach.
    Network,
    /// The disk is full, or a volume cannot be mounted.
    Disk,
    /// A container ended, with a code or by a signal.
    Exited,
    /// The host or its runtime went away or does not answer: spot, maintenance, a terminated instance.
    Infrastructure,
    /// Stopped on purpose, by a person or the scheduler: not a failure.
    Stopped,
    Unknown,
}

impl Kind {
    /// After how many tasks that failed like this it makes no sense to wait for another one.
    pub(crate) fn hopeless_after(self) -> Option<usize> {
        match self {
            Self::ImageMissing
            | Self::SecretMissing
            | Self::LogGroupMissing
            | Self::WrongArchitecture
            | Self::NoSuchCommand => Some(1),
            // A change of IAM may need a moment.
            Self::ImageDenied | Self::SecretDenied | Self::RoleDenied => Some(2),
            _ => None,
        }
    }
}

/// Says why a task ended.
pub(crate) fn diagnose(evidence: &Evidence<'_>) -> Cause {
    let definition = Definition(evidence.definition);
    host(evidence.task)
        .or_else(|| asked_for(evidence.task))
        .or_else(|| written(evidence, &definition))
        .or_else(|| health(evidence, &definition))
        .or_else(|| scheduled(evidence.task))
        .or_else(|| exit::essential(evidence, &definition))
        .or_else(|| written_of_others(evidence.task, &definition))
        .or_else(|| exit::other(evidence, &definition))
        .unwrap_or_else(|| unknown(evidence.task))
}

/// What ECS says, in lower case.
fn stopped_reason(task: &Task) -> String {
    task.stopped_reason.as_deref().unwrap_or_default().to_lowercase()
}

/// The host that went away.
fn host(task: &Task) -> Option<Cause> {
    let reason = stopped_reason(task);
    let code = task.stop_code.as_deref().unwrap_or_default();
    let sentence = if code == "SpotInterruption" || reason.contains("spot task was interrupted") {
        "AWS took back the spot capacity that the task ran on"
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
        "AWS ended the task because of the infrastructure that it ran on"
    } else {
        return None;
    };
    Some(
        Cause::new(Kind::Infrastructure, None, sentence)
            .help("this is not the application's fault: ECS starts another task"),
    )
}

/// Whoever asked for the end of the task.
fn asked_for(task: &Task) -> Option<Cause> {
    let reason = stopped_reason(task);
    if reason.contains("scaling activity initiated by") {
        return Some(scheduler());
    }
    let by_someone =
        task.stop_code.as_deref() == Some("UserInitiated") || reason.contains("task stopped by user");
    by_someone.then(|| Cause::new(Kind::Stopped, None, "somebody stopped the task"))
}

/// What else the scheduler stops is not a failure.
fn scheduled(task: &Task) -> Option<Cause> {
    (task.stop_code.as_deref() == Some("ServiceSchedulerInitiated")).then(scheduler)
}

fn scheduler() -> Cause {
    Cause::new(Kind::Stopped, None, "the service's scheduler stopped the task on purpose")
}

/// What is written of essential containers, and of the task; what is understood goes first.
fn written(evidence: &Evidence<'_>, definition: &Definition<'_>) -> Option<Cause> {
    let task = evidence.task;
    let of_containers = reasons(task, definition, true);
    let of_task = task.stopped_reason.as_deref().map(|reason| (None, reason));
    understood(of_containers.chain(of_task), definition)
}

/// What is written of the other containers counts when nothing else does.
fn written_of_others(task: &Task, definition: &Definition<'_>) -> Option<Cause> {
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
    causes.iter().find(|cause| cause.kind != Kind::Unknown).or(causes.first()).cloned()
}

fn containers<'a>(
    task: &'a Task,
    definition: &Definition<'_>,
    essential: bool,
) -> impl Iterator<Item = &'a Container> {
    task.containers.iter().filter(move |container| definition.is_essential(&container.name) == essential)
}

/// The health check that failed.
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
    Cause::new(Kind::HealthCheck, container, format!("{subject} did not pass {check}")).help(
        "the check runs inside the container: its command has to be in the image; a slow start takes a \
         longer `startPeriod`",
    )
}

fn unknown(task: &Task) -> Cause {
    let sentence = match task.stopped_reason.as_deref() {
        Some(reason) if !reason.trim().is_empty() => format!("the task stopped: {}", words::words(reason)),
        _ => "the task stopped, and ECS does not say why".to_owned(),
    };
    Cause::new(Kind::Unknown, None, sentence)
}

#[cfg(test)]
mod tests;
