//! Interprets service events.

use super::balancer::load_balancer_check;
use super::capacity::no_capacity;
use super::definition::Definition;
use super::excerpt::{between, excerpt, group_name};
use super::reason::read;
use super::{Cause, CauseKind};
use serde_json::Value;

/// The failure that a service event reports. Returns `None` for events about progress.
pub(crate) fn diagnose_event(message: &str) -> Option<Cause> {
    let lower = message.to_lowercase();
    let has = |marker: &str| lower.contains(marker);
    if has("is unhealthy in (") || has("is unhealthy in target-group") || has("is unhealthy in elb") {
        return Some(load_balancer_check(message, None));
    }
    if has("failed to register targets") {
        return Some(not_registered(message));
    }
    if has("failed container health checks") {
        return Some(
            Cause::new(CauseKind::HealthCheck, None, "a container failed its own health check")
                .help("the check runs inside the container, so its command must be in the image"),
        );
    }
    if has("unable to place a task") || has("failed to launch a task") || has("unable to assume") {
        return Some(not_placed(message, &lower));
    }
    if has("no container instances were found") || has("unable to stop or start tasks during a deployment") {
        return Some(no_capacity(&lower));
    }
    general(message, &lower)
}

/// Failures without a specific cause.
fn general(message: &str, lower: &str) -> Option<Cause> {
    let has = |marker: &str| lower.contains(marker);
    if has("unable to consistently start tasks") {
        let sentence = "the service's tasks keep failing, and ECS starts new ones with increasing \
         delays";
        return Some(
            Cause::new(CauseKind::Unknown, None, sentence).help("see the stopped tasks for the cause"),
        );
    }
    if has("being throttled") {
        let sentence = "ECS's own calls for the service are being throttled";
        return Some(Cause::new(CauseKind::Infrastructure, None, sentence).help("ECS retries automatically"));
    }
    if has("deployment failed:") || has("unable to reach steady state") {
        return Some(Cause::new(CauseKind::Unknown, None, excerpt(without_service(message))));
    }
    None
}

/// A task that could not be placed, for any cause of a failing start.
fn not_placed(message: &str, lower: &str) -> Cause {
    let null = Value::Null;
    let definition = Definition(&null);
    if let Some(cause) = read(message, None, &definition) {
        return cause;
    }
    if lower.contains("error \"agent\"") || lower.contains("agent disconnected") {
        return Cause::new(
            CauseKind::Infrastructure,
            None,
            "ECS cannot place a task: the agent of the matching instance is disconnected",
        )
        .help("check that the instance and its ECS agent run");
    }
    let about_room = [
        "met all of its requirements",
        "you've reached",
        "you’ve reached",
        "above your limit",
        "no container instances",
    ];
    if about_room.iter().any(|marker| lower.contains(marker)) {
        return no_capacity(lower);
    }
    let reason = lower.find("reason: ").and_then(|start| message.get(start + "reason: ".len()..));
    let reason =
        reason.or_else(|| between(message, "(error ", &[')'])).unwrap_or_else(|| without_service(message));
    Cause::new(CauseKind::Unknown, None, format!("ECS cannot start a task: {}", excerpt(reason)))
}

fn not_registered(message: &str) -> Cause {
    let group = between(message, "target-group ", &[')', ' ']).map_or("", group_name);
    let error = message
        .split_once("(error ")
        .map_or(message, |(_, error)| error.rfind(')').map_or(error, |end| &error[..end]));
    let sentence = format!("ECS cannot register the task with target group `{group}`: {}", excerpt(error));
    if error.contains("not authorized to perform") {
        return Cause::new(CauseKind::RoleDenied, None, sentence)
            .help("allow the role that ECS uses for the load balancer elasticloadbalancing:RegisterTargets");
    }
    Cause::new(CauseKind::LoadBalancerCheck, None, sentence).help(
        "the target group must exist, be in the VPC of the tasks, and have the target type `ip` for \
         the network mode `awsvpc`",
    )
}

/// Removes `(service NAME)` at the start.
fn without_service(message: &str) -> &str {
    let rest = message.strip_prefix("(service ").and_then(|rest| rest.split_once(") "));
    rest.map_or(message, |(_, rest)| rest)
}
