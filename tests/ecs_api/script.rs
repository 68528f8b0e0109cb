//! The scripts of the stand-in: services, their deployments, standalone tasks and faults.

use crate::bed::{ecs, ecs_service};
use serde_json::{Value, json};

/// A service. It starts with one successful deployment.
#[derive(Clone)]
pub struct Service {
    pub cluster: String,
    pub name: String,
    /// The revision that it runs, as an ARN.
    pub definition: String,
    pub desired: i64,
    pub(super) circuit_breaker: (bool, bool),
    pub(super) controller: String,
    pub(super) scripts: Vec<Script>,
    /// More of its fields, as `DescribeServices` returns them.
    pub(super) more: Vec<(String, Value)>,
}

impl Service {
    pub fn new(cluster: &str, name: &str, definition: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            definition: definition.to_owned(),
            desired: 1,
            circuit_breaker: (true, true),
            controller: "ECS".to_owned(),
            scripts: Vec::new(),
            more: Vec::new(),
        }
    }

    /// A service with a unique name, which is also its cluster's and its family's. The family is registered at the bed.
    pub fn fresh() -> Self {
        let name = ecs_service();
        Self::new(&name, &name, &revision(&name, 1))
    }

    /// A service that exists at the bed, with its revision, its count and its launch type.
    pub fn at_bed(cluster: &str, name: &str) -> Self {
        let found =
            ecs("DescribeServices", &json!({ "cluster": cluster, "services": [name] }))["services"][0].take();
        let definition = found["taskDefinition"].as_str();
        let definition = definition.unwrap_or_else(|| panic!("the bed has no service {name} in {cluster}"));
        Self::new(cluster, name, definition)
            .desired(found["desiredCount"].as_i64().unwrap_or(1))
            .with("launchType", found["launchType"].clone())
    }

    pub fn desired(mut self, count: i64) -> Self {
        self.desired = count;
        self
    }

    /// Whether there is a circuit breaker and whether it rolls back. Both by default.
    pub fn circuit_breaker(mut self, enable: bool, rollback: bool) -> Self {
        self.circuit_breaker = (enable, rollback);
        self
    }

    /// `BLUE_GREEN`, `LINEAR`, `CANARY`; otherwise it is `ROLLING`.
    pub fn strategy(self, strategy: &str) -> Self {
        self.configuration(json!({ "strategy": strategy }))
    }

    /// More of the deployment configuration, such as `{ "alarms": … }`.
    pub fn configuration(mut self, more: Value) -> Self {
        self.more.push(("deploymentConfiguration".to_owned(), more));
        self
    }

    pub fn alarms(self, names: &[&str]) -> Self {
        self.configuration(json!({ "alarms": { "alarmNames": names, "rollback": true, "enable": true } }))
    }

    /// `CODE_DEPLOY` or `EXTERNAL`; otherwise it is `ECS`.
    pub fn controller(mut self, controller: &str) -> Self {
        controller.clone_into(&mut self.controller);
        self
    }

    /// A field of it: `launchType`, `networkConfiguration`, `platformVersion`, `capacityProviderStrategy`, `loadBalancers`,
    /// `healthCheckGracePeriodSeconds`, `schedulingStrategy`, …
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.more.push((field.to_owned(), value));
        self
    }

    /// On Fargate, in a subnet.
    pub fn fargate(self) -> Self {
        let network = json!({ "awsvpcConfiguration": { "subnets": ["subnet-1"], "securityGroups": ["sg-1"], "assignPublicIp": "DISABLED" } });
        self.with("launchType", json!("FARGATE"))
            .with("platformVersion", json!("LATEST"))
            .with("platformFamily", json!("Linux"))
            .with("networkConfiguration", network)
    }

    /// The script of its next deployment. The last one is repeated; without any, a deployment succeeds at once.
    pub fn deploys(mut self, script: impl Into<Script>) -> Self {
        self.scripts.push(script.into());
        self
    }
}

/// The ARN of a revision.
pub fn revision(family: &str, number: u32) -> String {
    format!("arn:aws:ecs:us-east-1:123456789012:task-definition/{family}:{number}")
}

/// The steps of a deployment. Every successful `DescribeServices` of the service takes the next one; the last one stays.
#[derive(Clone)]
pub struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) when_stopped: Vec<Step>,
    pub(super) seconds: f64,
}

impl Script {
    /// A rollout that succeeds after this many seconds, or at once.
    pub fn rollout(seconds: f64, desired: i64) -> Self {
        let mut script = Self::from([steps::progress(0, desired), steps::succeed()]);
        if seconds <= 0.0 {
            script.steps.remove(0);
        }
        script.seconds = seconds;
        script
    }

    /// The steps that follow a `StopServiceDeployment`, instead of a rollback that succeeds.
    pub fn when_stopped(mut self, steps: impl Into<Vec<Step>>) -> Self {
        self.when_stopped = steps.into();
        self
    }
}

impl From<Vec<Step>> for Script {
    fn from(steps: Vec<Step>) -> Self {
        Self { steps, when_stopped: steps::rollback_on_request(), seconds: 0.0 }
    }
}

impl<const N: usize> From<[Step; N]> for Script {
    fn from(steps: [Step; N]) -> Self {
        Vec::from(steps).into()
    }
}

/// The changes of a step; other values stay.
#[derive(Clone, Default)]
pub struct Step {
    pub(super) status: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) stage: Option<String>,
    pub(super) running: Option<i64>,
    pub(super) pending: Option<i64>,
    pub(super) old_running: Option<i64>,
    pub(super) weight: Option<f64>,
    pub(super) breaker: Option<Value>,
    pub(super) alarms: Option<Value>,
    pub(super) events: Vec<String>,
    pub(super) tasks: Vec<TaskOutcome>,
    pub(super) foreign: Option<String>,
    pub(super) deleted: bool,
    pub(super) paused: Option<String>,
}

impl Step {
    pub fn status(status: &str) -> Self {
        Self { status: Some(status.to_owned()), ..Self::default() }
    }

    /// `statusReason` of the service deployment.
    pub fn reason(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// `lifecycleStage` of the service deployment.
    pub fn stage(mut self, stage: &str) -> Self {
        self.stage = Some(stage.to_owned());
        self
    }

    /// How many tasks of the new revision run and are pending. Tasks start and stop to match.
    pub fn tasks(mut self, running: i64, pending: i64) -> Self {
        (self.running, self.pending) = (Some(running), Some(pending));
        self
    }

    /// A lifecycle hook of this id pauses the deployment during this step.
    pub fn paused(mut self, hook: &str) -> Self {
        self.paused = Some(hook.to_owned());
        self
    }

    /// How many tasks of the earlier revision still run.
    pub fn old_tasks(mut self, running: i64) -> Self {
        self.old_running = Some(running);
        self
    }

    /// The share of production traffic that goes to the new revision, in percent.
    pub fn weight(mut self, percent: f64) -> Self {
        self.weight = Some(percent);
        self
    }

    /// The circuit breaker: `MONITORING`, `TRIGGERED`, … Failures are otherwise counted by the tasks that stopped.
    pub fn breaker(mut self, status: &str, failures: i64, threshold: i64) -> Self {
        self.breaker = Some(json!({ "status": status, "failureCount": failures, "threshold": threshold }));
        self
    }

    /// The alarms: `MONITORING`, `TRIGGERED`, …
    pub fn alarms(mut self, status: &str, names: &[&str], triggered: &[&str]) -> Self {
        self.alarms =
            Some(json!({ "status": status, "alarmNames": names, "triggeredAlarmNames": triggered }));
        self
    }

    /// An event of the service. `(service NAME) ` is put in front of its text.
    pub fn event(mut self, text: &str) -> Self {
        self.events.push(text.to_owned());
        self
    }

    /// A task of the deployment appears, running or stopped.
    pub fn task(mut self, task: TaskOutcome) -> Self {
        self.tasks.push(task);
        self
    }
}

/// The usual steps of deployments.
pub mod steps {
    use super::{Step, TaskOutcome};

    /// The deployment has not started.
    pub fn pending() -> Step {
        Step::status("PENDING")
    }

    /// Tasks start.
    pub fn progress(running: i64, pending: i64) -> Step {
        Step::status("IN_PROGRESS").tasks(running, pending)
    }

    /// The deployment succeeds: all its tasks run, and the earlier ones have stopped.
    pub fn succeed() -> Step {
        Step::status("SUCCESSFUL")
    }

    /// A task of the deployment stops.
    pub fn fail_task(task: TaskOutcome) -> Step {
        Step::status("IN_PROGRESS").task(task)
    }

    /// The circuit breaker triggers, and ECS rolls back to the previous revision.
    pub fn rolling_back(reason: &str) -> Step {
        Step::status("ROLLBACK_IN_PROGRESS").breaker("TRIGGERED", 3, 3).reason(reason)
    }

    /// The rollback has succeeded.
    pub fn rolled_back(reason: &str) -> Step {
        Step::status("ROLLBACK_SUCCESSFUL").reason(reason)
    }

    /// The rollback has failed.
    pub fn rollback_failed(reason: &str) -> Step {
        Step::status("ROLLBACK_FAILED").reason(reason)
    }

    /// The circuit breaker triggers without a rollback: no more tasks are started.
    pub fn stopped(reason: &str) -> Step {
        Step::status("STOPPED").breaker("TRIGGERED", 3, 3).reason(reason)
    }

    /// An alarm triggers, and ECS rolls back.
    pub fn alarmed(name: &str) -> Step {
        Step::status("ROLLBACK_IN_PROGRESS")
            .alarms("TRIGGERED", &[name], &[name])
            .reason("Service deployment rolled back because a CloudWatch alarm was triggered.")
    }

    /// Another client deploys this revision (an ARN), which succeeds two steps later.
    pub fn superseded(definition: &str) -> Step {
        Step { foreign: Some(definition.to_owned()), ..Step::default() }
    }

    /// The service is deleted: `INACTIVE` now, and unknown afterwards.
    pub fn deleted() -> Step {
        Step { deleted: true, ..Step::default() }
    }

    /// The steps after a successful `StopServiceDeployment`.
    pub(in super::super) fn rollback_on_request() -> Vec<Step> {
        let reason = "Service deployment rolled back because of a user request.";
        vec![Step::status("ROLLBACK_IN_PROGRESS").reason(reason), rolled_back(reason)]
    }
}

/// The end of a task, or that it runs.
#[derive(Clone, Default)]
pub struct TaskOutcome {
    /// Stop code and reason; a task that runs has none.
    pub(super) stopped: Option<(String, String)>,
    pub(super) containers: Vec<ContainerOutcome>,
}

/// One of its containers. Missing values come from the task definition.
#[derive(Clone, Default)]
pub struct ContainerOutcome {
    pub(super) name: String,
    pub(super) digest: Option<String>,
    pub(super) exit_code: Option<i64>,
    pub(super) reason: Option<String>,
    pub(super) health: Option<String>,
    pub(super) lines: Vec<String>,
}

impl TaskOutcome {
    pub fn running() -> Self {
        Self::default()
    }

    /// `TaskFailedToStart`, `EssentialContainerExited`, … and the reason.
    pub fn stopped(code: &str, reason: &str) -> Self {
        Self { stopped: Some((code.to_owned(), reason.to_owned())), containers: Vec::new() }
    }

    /// Its container exits by itself.
    pub fn exited(container: &str, code: i64) -> Self {
        Self::stopped("EssentialContainerExited", "Essential container in task exited").exit(container, code)
    }

    fn container(mut self, name: &str, change: impl FnOnce(&mut ContainerOutcome)) -> Self {
        if !self.containers.iter().any(|container| container.name == name) {
            self.containers.push(ContainerOutcome { name: name.to_owned(), ..ContainerOutcome::default() });
        }
        change(self.containers.iter_mut().find(|container| container.name == name).unwrap());
        self
    }

    pub fn exit(self, container: &str, code: i64) -> Self {
        self.container(container, |it| it.exit_code = Some(code))
    }

    /// The agent's reason why the container did not start or was stopped.
    pub fn reason(self, container: &str, reason: &str) -> Self {
        self.container(container, |it| it.reason = Some(reason.to_owned()))
    }

    pub fn digest(self, container: &str, digest: &str) -> Self {
        self.container(container, |it| it.digest = Some(digest.to_owned()))
    }

    pub fn health(self, container: &str, health: &str) -> Self {
        self.container(container, |it| it.health = Some(health.to_owned()))
    }

    /// Its log lines, in the stream `PREFIX/CONTAINER/TASK` of the group in its task definition.
    pub fn logs(self, container: &str, lines: &[&str]) -> Self {
        self.container(container, |it| it.lines.extend(lines.iter().map(|line| (*line).to_owned())))
    }
}

/// A task that `RunTask` starts or refuses. Every successful `DescribeTasks` of it takes the next state.
#[derive(Clone, Default)]
pub struct OneOff {
    pub(super) refused: Option<(String, String)>,
    pub(super) states: Vec<(String, TaskOutcome)>,
}

impl OneOff {
    /// It is refused: `RESOURCE:MEMORY`, `AGENT`, `Capacity is unavailable at this time.`, …
    pub fn refused(reason: &str, detail: &str) -> Self {
        Self { refused: Some((reason.to_owned(), detail.to_owned())), states: Vec::new() }
    }

    /// It starts.
    pub fn starts() -> Self {
        Self::default().state("PROVISIONING").state("PENDING")
    }

    pub fn state(mut self, status: &str) -> Self {
        self.states.push((status.to_owned(), TaskOutcome::running()));
        self
    }

    /// It runs, and its container logs these lines.
    pub fn runs(mut self, container: &str, lines: &[&str]) -> Self {
        self.states.push(("RUNNING".to_owned(), TaskOutcome::running().logs(container, lines)));
        self
    }

    pub fn ends(mut self, outcome: TaskOutcome) -> Self {
        self.states.push(("STOPPED".to_owned(), outcome));
        self
    }

    /// A task that starts, logs lines and exits.
    pub fn whole(container: &str, lines: &[&str], code: i64) -> Self {
        Self::starts().runs(container, lines).ends(TaskOutcome::exited(container, code))
    }
}

/// The kind of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Throttled,
    ServerError,
    Lost,
    Denied,
    Garbage,
    Stale,
    /// A status and a code, without an effect.
    Error(u16, &'static str),
    /// It takes effect, but the response is this error.
    LostTo(u16, &'static str),
}

/// Failing calls of an action: by default the first one.
#[derive(Clone)]
pub struct Fault {
    pub(super) action: String,
    pub(super) kind: Kind,
    times: Option<Vec<usize>>,
}

impl Fault {
    fn new(action: &str, kind: Kind) -> Self {
        Self { action: action.to_owned(), kind, times: Some(vec![1]) }
    }

    /// `ThrottlingException`, without an effect. The action is spelt as in IAM: `ecs:UpdateService`.
    pub fn throttled(action: &str) -> Self {
        Self::new(action, Kind::Throttled)
    }

    /// `ServerException`, without an effect.
    pub fn server_error(action: &str) -> Self {
        Self::new(action, Kind::ServerError)
    }

    /// The call takes effect, but the caller gets `ServerException`.
    pub fn lost(action: &str) -> Self {
        Self::new(action, Kind::Lost)
    }

    /// `AccessDeniedException`, always.
    pub fn denied(action: &str) -> Self {
        Self::new(action, Kind::Denied).always()
    }

    /// An error with this status and code, without an effect.
    pub fn error(action: &str, status: u16, code: &'static str) -> Self {
        Self::new(action, Kind::Error(status, code))
    }

    /// The call takes effect, but the caller gets an error with this status and code.
    pub fn lost_to(action: &str, status: u16, code: &'static str) -> Self {
        Self::new(action, Kind::LostTo(status, code))
    }

    /// Half of a JSON document.
    pub fn garbage(action: &str) -> Self {
        Self::new(action, Kind::Garbage)
    }

    /// The response to the same call before: ECS shows changes with a delay.
    pub fn stale(action: &str) -> Self {
        Self::new(action, Kind::Stale)
    }

    /// The failing calls, counted from one.
    pub fn at(mut self, calls: impl IntoIterator<Item = usize>) -> Self {
        self.times = Some(calls.into_iter().collect());
        self
    }

    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    pub(super) fn strikes(&self, action: &str, call: usize) -> bool {
        self.action == action && self.times.as_ref().is_none_or(|times| times.contains(&call))
    }
}
