//! What keeps tasks from being placed.

use super::{Cause, Kind};

/// What keeps a task from being placed, from a message in lower case.
pub(super) fn no_room(lower: &str) -> Cause {
    let known: [(&str, &str, &str); 14] = [
        ("insufficient cpu", "no instance has enough CPU left", LARGER),
        ("resource:cpu", "no instance has enough CPU left", LARGER),
        ("insufficient memory", "no instance has enough memory left", LARGER),
        ("resource:memory", "no instance has enough memory left", LARGER),
        ("already using a port", "the host port is taken on every instance", PORTS),
        ("resource:port", "the host port is taken on every instance", PORTS),
        ("resource:eni", "no instance can take another network interface", LARGER),
        ("resource:gpu", "no instance has a GPU left", LARGER),
        ("missing an attribute", "no instance has what the task definition requires", ATTRIBUTE),
        ("no container instances were found", "the cluster or capacity provider has no instances", INSTANCES),
        ("capacity is unavailable", "AWS has no such capacity at the moment", ZONES),
        ("limit on the number of", "the account's limit of tasks or vCPUs is reached", QUOTA),
        ("above your limit", "the task asks for more CPU or memory than the account's limit", QUOTA),
        (
            "minimumhealthypercent",
            "the service's minimum and maximum percent leave no room to replace a task",
            PERCENT,
        ),
    ];
    let found = known.iter().find(|(marker, _, _)| lower.contains(marker));
    let (what, help) =
        found.map_or(("no instance meets what it requires", ATTRIBUTE), |(_, what, help)| (*what, *help));
    Cause::new(Kind::NoCapacity, None, format!("ECS cannot place a task: {what}")).help(help)
}

const LARGER: &str = "add instances, ask for less in the task definition, or lower \
 `minimumHealthyPercent` so that old tasks make room first";
const PORTS: &str = "add instances, use the dynamic host port 0 or the network mode `awsvpc`, or lower \
 `minimumHealthyPercent`";
const ATTRIBUTE: &str = "compare the task definition's requirements and placement constraints with the \
 attributes, subnets and processor of the instances";
const INSTANCES: &str = "start instances that register with the cluster, or use a capacity provider \
 that does, or Fargate";
const ZONES: &str = "wait, add subnets in other zones, or use on-demand capacity besides spot";
const QUOTA: &str = "ask for a larger quota in Service Quotas, or run less at a time";
const PERCENT: &str =
    "lower `minimumHealthyPercent` or raise `maximumPercent`, so that one task can stop or start";
