//! The parts of services and their deployments that runner uses.

use crate::text::listed;
use jiff::Timestamp;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) arn: String,
    pub(crate) name: String,
    pub(crate) cluster: String,
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub(crate) status: String,
    /// The desired number of tasks.
    pub(crate) desired: i32,
    pub(crate) running: i32,
    /// The number of starting tasks.
    pub(crate) pending: i32,
    /// The ARN of its current revision.
    pub(crate) task_definition: String,
    pub(crate) controller: ControllerType,
    /// Its deployments. The latest is `PRIMARY`.
    pub(crate) deployments: Vec<Deployment>,
    /// Its task sets, if its controller is not ECS.
    pub(crate) task_sets: Vec<TaskSet>,
    /// Recent events, newest first.
    pub(crate) events: Vec<Event>,
    /// The ARN of the service deployment in progress.
    pub(crate) current_deployment: Option<String>,
    /// How long its deployments shift traffic and then keep the earlier tasks, by its configuration.
    pub(crate) shifting: Duration,
    /// The lifecycle stages at which its deployments pause until someone continues them.
    pub(crate) pauses: Vec<String>,
    /// The circuit breaker rolls back failed deployments.
    pub(crate) breaker_rolls_back: bool,
    /// The target groups of its tasks.
    pub(crate) targets: Vec<TargetGroup>,
    pub(crate) placement: Placement,
}

impl Service {
    pub(crate) fn primary(&self) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| deployment.status == "PRIMARY")
    }

    /// The ARNs of the revisions that it runs or will run.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &String> {
        let deployed = self.deployments.iter().map(|deployment| &deployment.task_definition);
        std::iter::once(&self.task_definition)
            .chain(deployed)
            .chain(self.task_sets.iter().map(|set| &set.task_definition))
    }
}

/// The deployment controller of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ControllerType {
    #[default]
    Ecs,
    CodeDeploy,
    /// An external controller with task sets.
    External,
}

/// A deployment in a service's own list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// The id `ecs-svc/…` in the `startedBy` field of its tasks.
    pub(crate) id: String,
    /// `PRIMARY`, `ACTIVE` or `INACTIVE`.
    pub(crate) status: String,
    /// The ARN of its revision.
    pub(crate) task_definition: String,
    pub(crate) counts: Counts,
    /// The number of tasks that failed consecutively.
    pub(crate) failed: i32,
    /// `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    pub(crate) rollout: Option<String>,
    /// ECS's reason for the rollout state.
    pub(crate) reason: Option<String>,
    pub(crate) created: Option<Timestamp>,
}

/// A task set, which a controller other than ECS created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TaskSet {
    /// The id in the `startedBy` field of its tasks.
    pub(crate) id: String,
    /// The ARN of its revision.
    pub(crate) task_definition: String,
    /// The id of the `CodeDeploy` deployment that created it.
    pub(crate) made_by: Option<String>,
    pub(crate) created: Option<Timestamp>,
}

/// Numbers of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) desired: i32,
    pub(crate) running: i32,
    pub(crate) pending: i32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} running", self.running, self.desired)?;
        if self.pending > 0 {
            write!(f, ", {} starting", self.pending)?;
        }
        Ok(())
    }
}

/// A service event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) message: String,
}

/// A target group of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TargetGroup {
    /// The ARN of the target group.
    pub(crate) group: String,
    /// The container behind it.
    pub(crate) container: String,
    pub(crate) port: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// `FARGATE`, `EC2` or `EXTERNAL`; `None` if capacity providers decide.
    pub(crate) launch_type: Option<String>,
    /// Capacity providers with weight and base.
    pub(crate) capacity_providers: Vec<(String, i32, i32)>,
    /// The Fargate platform version.
    pub(crate) platform_version: Option<String>,
    /// The network configuration in the mode `awsvpc`.
    pub(crate) network: Option<Network>,
}

/// The network configuration of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) subnets: Vec<String>,
    pub(crate) security_groups: Vec<String>,
    pub(crate) public_address: bool,
}

/// The state of a service deployment. Source: API reference of ECS, `ServiceDeployment.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum DeploymentState {
    #[default]
    Pending,
    InProgress,
    Successful,
    /// Stopped before it finished.
    Stopped,
    StopRequested,
    RollbackRequested,
    /// ECS is deploying the last revision that was deployed successfully.
    RollbackInProgress,
    /// The deployment failed, and the earlier revision runs again.
    RollbackSuccessful,
    /// The deployment failed, and so did its rollback.
    RollbackFailed,
    Other(String),
}

impl DeploymentState {
    /// Parses ECS's status.
    pub(crate) fn read(word: &str) -> Self {
        match word {
            "PENDING" => Self::Pending,
            "IN_PROGRESS" => Self::InProgress,
            "SUCCESSFUL" => Self::Successful,
            "STOPPED" => Self::Stopped,
            "STOP_REQUESTED" => Self::StopRequested,
            "ROLLBACK_REQUESTED" => Self::RollbackRequested,
            "ROLLBACK_IN_PROGRESS" => Self::RollbackInProgress,
            "ROLLBACK_SUCCESSFUL" => Self::RollbackSuccessful,
            "ROLLBACK_FAILED" => Self::RollbackFailed,
            other => Self::Other(other.to_owned()),
        }
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Successful | Self::Stopped | Self::RollbackSuccessful | Self::RollbackFailed)
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::InProgress => "in progress",
            Self::Successful => "successful",
            Self::Stopped => "stopped",
            Self::StopRequested => "to be stopped",
            Self::RollbackRequested => "to be rolled back",
            Self::RollbackInProgress => "being rolled back",
            Self::RollbackSuccessful => "rolled back",
            Self::RollbackFailed => "rollback failed",
            Self::Other(word) => word,
        })
    }
}

/// A service deployment, ECS's record of deploying one service revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ServiceDeployment {
    pub(crate) arn: String,
    pub(crate) state: DeploymentState,
    /// ECS's reason for the state.
    pub(crate) reason: Option<String>,
    /// The lifecycle stage, such as `BAKE_TIME`.
    pub(crate) stage: Option<String>,
    pub(crate) created: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    /// The ARN of the service revision that it deploys.
    pub(crate) target: Option<String>,
    /// The tasks of that revision.
    pub(crate) counts: Counts,
    /// The percentage of production traffic to that revision.
    pub(crate) traffic: Option<f64>,
    /// The circuit breaker's number of failures and its threshold.
    pub(crate) breaker: Option<(i32, i32)>,
    /// The names of the alarms that monitor it.
    pub(crate) alarms: Vec<String>,
    /// The names of the triggered alarms.
    pub(crate) triggered: Vec<String>,
    /// The ids of lifecycle hooks that wait for a confirmation.
    pub(crate) paused_by: Vec<String>,
    /// ECS's reason for the rollback.
    pub(crate) rollback_reason: Option<String>,
}

impl ServiceDeployment {
    /// The commands that continue the deployment, if lifecycle hooks pause it.
    pub(crate) fn continuing(&self) -> Option<String> {
        let commands: Vec<String> = self.paused_by.iter().map(|hook| continuing(&self.arn, hook)).collect();
        (!commands.is_empty()).then(|| commands.join(" and "))
    }

    /// ECS's reasons for the end of the deployment.
    pub(crate) fn reasons(&self) -> Vec<&str> {
        let mut reasons: Vec<&str> =
            [&self.reason, &self.rollback_reason].into_iter().flatten().map(String::as_str).collect();
        reasons.dedup();
        reasons
    }

    /// A short description of the state for the log. It changes whenever the deployment progresses.
    pub(crate) fn progress(&self) -> String {
        let mut parts = vec![self.state.to_string()];
        parts.extend(self.stage.as_ref().map(|stage| stage.to_lowercase().replace('_', " ")));
        parts.push(self.counts.to_string());
        parts.extend(self.traffic.map(|per_cent| format!("{per_cent:.0} % of the traffic")));
        if let Some((failures, threshold)) = self.breaker.filter(|(failures, _)| *failures > 0) {
            parts.push(format!("{failures} failed (threshold {threshold})"));
        }
        if !self.paused_by.is_empty() {
            parts.push(format!(
                "paused by {} until it is continued",
                listed(self.paused_by.iter().map(String::as_str))
            ));
        }
        if !self.triggered.is_empty() {
            parts.push(format!("alarm: {}", self.triggered.join(", ")));
        } else if !self.alarms.is_empty() {
            parts.push(format!("alarms quiet: {}", self.alarms.join(", ")));
        }
        parts.join(" · ")
    }
}

/// The command that continues a service deployment. With `--action ROLLBACK` it rolls back.
pub(crate) fn continuing(deployment: &str, hook: &str) -> String {
    format!("`aws ecs continue-service-deployment --service-deployment-arn {deployment} --hook-id {hook}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_counts_traffic_breaker_alarms_and_hooks() {
        let counts = Counts { desired: 3, running: 1, pending: 2 };
        let mut deployment =
            ServiceDeployment { state: DeploymentState::InProgress, counts, ..Default::default() };
        assert_eq!(deployment.progress(), "in progress · 1 of 3 running, 2 starting");
        deployment.stage = Some("PRODUCTION_TRAFFIC_SHIFT".to_owned());
        deployment.traffic = Some(10.0);
        deployment.breaker = Some((0, 3));
        deployment.alarms = vec!["errors".to_owned(), "latency".to_owned()];
        assert_eq!(
            deployment.progress(),
            "in progress · production traffic shift · 1 of 3 running, 2 starting · 10 % of the traffic · alarms quiet: errors, latency"
        );
        deployment.breaker = Some((2, 3));
        deployment.triggered = vec!["latency".to_owned()];
        assert!(deployment.progress().ends_with("2 failed (threshold 3) · alarm: latency"));
        deployment.paused_by = vec!["hook-1".to_owned()];
        assert!(deployment.progress().contains("paused by `hook-1` until it is continued"));
    }
}
