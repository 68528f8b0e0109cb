//! Services and their deployments, as far as runner has to know them.

use crate::text::listed;
use jiff::Timestamp;
use std::fmt;
use std::time::Duration;

/// A service of Amazon ECS.
#[derive(Debug, Clone, Default)]
pub struct Service {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its cluster's ARN.
    pub cluster: String,
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub status: String,
    /// How many tasks it is to run.
    pub desired: i32,
    /// How many run.
    pub running: i32,
    /// How many are starting.
    pub pending: i32,
    /// The revision that it is to run, as an ARN.
    pub task_definition: String,
    /// Who deploys it.
    pub controller: Controller,
    /// Its deployments, the one that is to stay being `PRIMARY`.
    pub deployments: Vec<Deployment>,
    /// Its sets of tasks, where ECS does not deploy it itself.
    pub task_sets: Vec<TaskSet>,
    /// What happened lately, newest first.
    pub events: Vec<Event>,
    /// The ARN of the service deployment under way.
    pub current_deployment: Option<String>,
    /// How long its deployments shift traffic and keep the earlier tasks then, by its configuration.
    pub shifting: Duration,
    /// The circuit breaker rolls back what fails.
    pub breaker_rolls_back: bool,
    /// The target groups that its tasks are registered with.
    pub targets: Vec<Target>,
    /// Where its tasks run.
    pub placement: Placement,
}

impl Service {
    /// The deployment that is to stay.
    pub fn primary(&self) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| deployment.status == "PRIMARY")
    }

    /// The revisions that it runs, or is about to, as ARNs.
    pub fn definitions(&self) -> impl Iterator<Item = &String> {
        let deployed = self.deployments.iter().map(|deployment| &deployment.task_definition);
        std::iter::once(&self.task_definition)
            .chain(deployed)
            .chain(self.task_sets.iter().map(|set| &set.task_definition))
    }
}

/// Who deploys a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Controller {
    /// ECS itself.
    #[default]
    Ecs,
    /// AWS CodeDeploy.
    CodeDeploy,
    /// Somebody else, by task sets.
    External,
}

/// A deployment as the service lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployment {
    /// Its id, `ecs-svc/…`, which its tasks name in `startedBy`.
    pub id: String,
    /// `PRIMARY`, `ACTIVE` or `INACTIVE`.
    pub status: String,
    /// The revision that it brings, as an ARN.
    pub task_definition: String,
    /// How many tasks are wanted, run and start.
    pub counts: Counts,
    /// How many tasks have failed in a row.
    pub failed: i32,
    /// `IN_PROGRESS`, `COMPLETED` or `FAILED`.
    pub rollout: Option<String>,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// When it began.
    pub created: Option<Timestamp>,
}

/// A set of tasks that another controller than ECS has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskSet {
    /// Its id, which its tasks name in `startedBy`.
    pub id: String,
    /// Its revision, as an ARN.
    pub task_definition: String,
    /// The deployment of `CodeDeploy` that has made it.
    pub made_by: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// How many tasks there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// That are wanted.
    pub desired: i32,
    /// That run.
    pub running: i32,
    /// That are starting.
    pub pending: i32,
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
pub struct Event {
    /// Its id.
    pub id: String,
    /// What happened.
    pub message: String,
}

/// A target group of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The target group's ARN.
    pub group: String,
    /// The container whose port it reaches.
    pub container: String,
    /// That port.
    pub port: i32,
}

/// Where tasks run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// `FARGATE`, `EC2` or `EXTERNAL`; nothing where capacity providers decide.
    pub launch_type: Option<String>,
    /// Capacity providers with their weight and base.
    pub capacity_providers: Vec<(String, i32, i32)>,
    /// The version of the Fargate platform.
    pub platform_version: Option<String>,
    /// The network of tasks that have one of their own.
    pub network: Option<Network>,
}

/// The network of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Subnet ids.
    pub subnets: Vec<String>,
    /// Security group ids.
    pub security_groups: Vec<String>,
    /// A public address.
    pub public_address: bool,
}

/// The state of a service deployment. Source: API reference of ECS, `ServiceDeployment.status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// It waits to begin.
    #[default]
    Pending,
    /// It is under way.
    InProgress,
    /// It is through.
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
    /// Any other word.
    Other(String),
}

impl State {
    /// The state that ECS's word stands for.
    pub fn read(word: &str) -> Self {
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

    /// Whether it stays.
    pub fn is_final(&self) -> bool {
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
pub struct ServiceDeployment {
    /// Its ARN.
    pub arn: String,
    /// How far it is.
    pub state: State,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// The stage of its lifecycle, such as `BAKE_TIME`.
    pub stage: Option<String>,
    /// When it was asked for.
    pub created: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// The ARN of the service revision that it brings.
    pub target: Option<String>,
    /// The tasks of that revision.
    pub counts: Counts,
    /// How much of the production traffic that revision gets, in per cent.
    pub traffic: Option<f64>,
    /// Its circuit breaker: failures and how many are too many.
    pub breaker: Option<(i32, i32)>,
    /// The names of the alarms that watch it.
    pub alarms: Vec<String>,
    /// Those of them that have gone off.
    pub triggered: Vec<String>,
    /// The ids of hooks at which it is paused until somebody decides.
    pub paused_by: Vec<String>,
    /// Why it was rolled back.
    pub rollback_reason: Option<String>,
}

impl ServiceDeployment {
    /// The reasons that ECS gives for its end.
    pub fn reasons(&self) -> Vec<&str> {
        let mut reasons: Vec<&str> =
            [&self.reason, &self.rollback_reason].into_iter().flatten().map(String::as_str).collect();
        reasons.dedup();
        reasons
    }

    /// Where it stands, for people: what changes from one look to the next.
    pub fn progress(&self) -> String {
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
