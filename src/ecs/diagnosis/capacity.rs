//! Reasons why tasks cannot be placed.

use super::{Cause, CauseKind};

/// Why a task cannot be placed, from a message in lower case.
pub(crate) fn no_capacity(lower: &str) -> Cause {
    let (what, help) = lacking(lower).unwrap_or(("no container instance meets its requirements", ATTRIBUTE));
    Cause::new(CauseKind::NoCapacity, None, format!("ECS cannot place a task: {what}")).help(help)
}

/// The missing capacity and the help.
fn lacking(lower: &str) -> Option<(&'static str, &'static str)> {
    let known: [(&str, &str, &str); 15] = [
        ("insufficient cpu", "no container instance has enough CPU left", LARGER),
        ("resource:cpu", "no container instance has enough CPU left", LARGER),
        ("insufficient memory", "no container instance has enough memory left", LARGER),
        ("resource:memory", "no container instance has enough memory left", LARGER),
        ("already using a port", "the host port is taken on every container instance", PORTS),
        ("resource:port", "the host port is taken on every container instance", PORTS),
        ("resource:eni", "no container instance can take another network interface", LARGER),
        ("resource:gpu", "no container instance has a GPU left", LARGER),
        (
            "missing an attribute",
            "no container instance has the attributes that the task definition requires",
            ATTRIBUTE,
        ),
        ("no container instances were found", "the cluster or capacity provider has no instances", INSTANCES),
        ("resource:fargate", "Fargate has no capacity for a task of this size at the moment", ZONES),
        ("capacity is unavailable", "AWS has no such capacity at the moment", ZONES),
        ("limit on the number of", "the account's limit of tasks or vCPUs is reached", QUOTA),
        ("above your limit", "the task asks for more CPU or memory than the account's limit", QUOTA),
        (
            "minimumhealthypercent",
            "the service's minimum and maximum percent leave no room to replace a task",
            PERCENT,
        ),
    ];
    known.iter().find(|(marker, _, _)| lower.contains(marker)).map(|(_, what, help)| (*what, *help))
}

/// Explains ECS's code for a task that did not start, if the code is about capacity.
pub(crate) fn meaning(reason: &str) -> Option<&'static str> {
    lacking(&reason.to_lowercase()).map(|(what, _)| what)
}

const LARGER: &str = "add instances, request less in the task definition, or lower \
 `minimumHealthyPercent` so that old tasks make room first";
const PORTS: &str = "add instances, use the dynamic host port 0 or the network mode `awsvpc`, or lower \
 `minimumHealthyPercent`";
const ATTRIBUTE: &str = "compare the task definition's requirements and placement constraints with the \
 attributes, subnets and processor of the instances";
const INSTANCES: &str = "start instances that register with the cluster, or use a capacity provider \
 that does, or Fargate";
const ZONES: &str = "wait, add subnets in other zones, or use on-demand capacity in addition to spot";
const QUOTA: &str = "request a larger quota in Service Quotas, or run fewer tasks";
const PERCENT: &str =
    "lower `minimumHealthyPercent` or raise `maximumPercent`, so that one task can stop or start";
