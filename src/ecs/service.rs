//! Services and their deployments, as far as runner has to know them.

use crate::text::listed;
use jiff::Timestamp;
use std::fmt;
use std::time::Duration;

/// A service of Amazon ECS.
#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) arn: String,
    pub(crate) name: String,
    pub(crate) cluster: String,
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub(crate) status: String,
    /// How many tasks it is to run.
    pub(crate) desired: i32,
    pub(crate) running: i32,
    /// How many are starting.
    pub(crate) pending: i32,
    /// The revision that it is to run, as an ARN.
    pub(crate) task_definition: String,
    pub(crate) controller: Controller,
    /// Its deployments, the one that is to stay being `PRIMARY`.
    pub(crate) deployments: Vec<Deployment>,
    /// Its sets of tasks, where ECS does not deploy it itself.
    pub(crate) task_sets: Vec<TaskSet>,
    /// What happened lately, newest first.
    pub(crate) events: Vec<Event>,
    /// The ARN of the service deployment under way.
    pub(crate) current_deployment: Option<String>,
    /// How long its deployments shift traffic and keep the earlier tasks then, by its configuration.
    pub(crate) shifting: Duration,
    /// The circuit breaker rolls back what fails.
    pub(crate) breaker_rolls_back: bool,
    /// The target groups that its tasks are registered with.
    pub(crate) targets: Vec<Target>,
    /// Where its tasks run.
    pub(crate) placement: Placement,
}

impl Service {
    /// The deployment that is to stay.
    pub(crate) fn primary(&self) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| deployment.status == "PRIMARY")
    }

    /// The revisions that it runs, or is about to, as ARNs.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &String> {
        let deployed = self.deployments.iter().map(|deployment| &deployment.task_definition);
        std::iter::once(&self.task_definition)
            .chain(deployed)
            .chain(self.task_sets.iter().map(|set| &set.task_definition))
    }
}

/// Who deploys a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Controller {
    #[default]
    Ecs,
    CodeDeploy,
    /// Somebody else, by task sets.
    External,
}

/// A deployment as the service lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// Its id, `ecs-svc/…`, which its tasks name in `startedBy`.
    pub(crate) id: String,
    /// `PRIMARY`, `ACTIVE` or `INACTIVE`.
    pub(crate) status: String,
    /// The revision that it brings, as an ARN.
    pub(crate) task_definition: String,
    /// How many tasks are wanted, run and start.
    pub(crate) counts: Counts,
    /// How many tasks have failed in a row.
    pub(crate) failed: i32,
    /// `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    pub(crate) rollout: Option<String>,
    /// Why it is in that state.
    pub(crate) reason: Option<String>,
    pub(crate) created: Option<Timestamp>,
}

/// A set of tasks that another controller than ECS has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TaskSet {
    /// Its id, which its tasks name in `startedBy`.
    pub(crate) id: String,
    /// Its revision, as an ARN.
    pub(crate) task_definition: String,
    /// The deployment of `CodeDeploy` that has made it.
    pub(crate) made_by: Option<String>,
    /// When it was made.
    pub(crate) created: Option<Timestamp>,
}

/// How many tasks there are.
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

/// Something that ECS has to say about a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) message: String,
}

/// A target group of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// The target group's ARN.
    pub(crate) group: String,
    /// The container whose port it reaches.
    pub(crate) container: String,
    pub(crate) port: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// `FARGATE`, `EC2` or `EXTERNAL`; nothing where capacity providers decide.
    pub(crate) launch_type: Option<String>,
    /// Capacity providers with their weight and base.
    pub(crate) capacity_providers: Vec<(String, i32, i32)>,
    /// The version of the Fargate platform.
    pub(crate) platform_version: Option<String>,
    /// The network of tasks that have one of their own.
    pub(crate) network: Option<Network>,
}

/// The network of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) subnets: Vec<String>,
    pub(crate) security_groups: Vec<String>,
    pub(crate) public_address: bool,
}

/// The state of a service deployment. Source: API reference of ECS, `ServiceDeployment.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It waits to begin.
    #[default]
    Pending,
    /// It is under way.
    InProgress,
    Successful,
    /// It has ended in the middle.
    Stopped,
    /// Somebody has asked for its end.
    StopRequested,
    /// Somebody has asked for the way back.
    RollbackRequested,
    /// The last revision that was deployed successfully is on its way.
    RollbackInProgress,
    /// That revision runs again: the deployment has failed.
    RollbackSuccessful,
    /// Nor could that be done.
    RollbackFailed,
    Other(String),
}

impl State {
    /// The state that ECS's word stands for.
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

impl fmt::Display for State {
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

/// A service deployment: the way of one revision from its start to its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ServiceDeployment {
    pub(crate) arn: String,
    /// How far it is.
    pub(crate) state: State,
    /// Why it is in that state.
    pub(crate) reason: Option<String>,
    /// The stage of its lifecycle, such as `BAKE_TIME`.
    pub(crate) stage: Option<String>,
    /// When it was asked for.
    pub(crate) created: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    /// The ARN of the service revision that it brings.
    pub(crate) target: Option<String>,
    /// The tasks of that revision.
    pub(crate) counts: Counts,
    /// How much of the production traffic that revision gets, in per cent.
    pub(crate) traffic: Option<f64>,
    /// Its circuit breaker: failures and how many are too many.
    pub(crate) breaker: Option<(i32, i32)>,
    /// The names of the alarms that watch it.
    pub(crate) alarms: Vec<String>,
    /// Those of them that have gone off.
    pub(crate) triggered: Vec<String>,
    /// The ids of hooks at which it is paused until somebody decides.
    pub(crate) paused_by: Vec<String>,
    /// Why it was rolled back.
    pub(crate) rollback_reason: Option<String>,
}

impl ServiceDeployment {
    /// The reasons that ECS gives for its end.
    pub(crate) fn reasons(&self) -> Vec<&str> {
        let mut reasons: Vec<&str> =
            [&self.reason, &self.rollback_reason].into_iter().flatten().map(String::as_str).collect();
        reasons.dedup();
        reasons
    }

    /// Where it stands, for people: what changes from one look to the next.
    pub(crate) fn progress(&self) -> String {
        let mut parts = vec![self.state.to_string()];
        parts.extend(self.stage.as_ref().map(|stage| stage.to_lowercase().replace('_', " ")));
        parts.push(self.counts.to_string());
        parts.extend(self.traffic.map(|per_cent| format!("{per_cent:.0} % of the traffic")));
        if let Some((failures, threshold)) = self.breaker.filter(|(failures, _)| *failures > 0) {
            parts.push(format!("{failures} failed, {threshold} are too many"));
        }
        if !self.paused_by.is_empty() {
            parts.push(format!(
                "paused by {} until somebody continues it",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_a_deployment_has_all_that_moves() {
        let counts = Counts { desired: 3, running: 1, pending: 2 };
        let mut deployment = ServiceDeployment { state: State::InProgress, counts, ..Default::default() };
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
        assert!(deployment.progress().ends_with("2 failed, 3 are too many · alarm: latency"));
        deployment.paused_by = vec!["hook-1".to_owned()];
        assert!(deployment.progress().contains("paused by `hook-1` until somebody continues it"));
    }
}
