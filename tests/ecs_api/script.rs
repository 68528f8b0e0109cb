//! What the stand-in is told to play: services, what becomes of their deployments, tasks of their own, and faults.

use crate::bed::{ecs, ecs_service};
use serde_json::{Value, json};

/// A service. It begins with one successful deployment.
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
    /// More fields of it, as `DescribeServices` answers them.
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

    /// One with a name of its own, which is also its cluster's and its family's; the family is registered at the bed.
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

    /// The circuit breaker: whether there is one, and whether it rolls back. Without this call, both.
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

    /// What becomes of the next deployment of it that starts; the last of these goes for all that come after. Without any,
    /// a deployment succeeds at once.
    pub fn deploys(mut self, script: impl Into<Script>) -> Self {
        self.scripts.push(script.into());
        self
    }
}

/// The ARN of a revision.
pub fn revision(family: &str, number: u32) -> String {
    format!("arn:aws:ecs:us-east-1:123456789012:task-definition/{family}:{number}")
}

/// What becomes of a deployment. Every answered `DescribeServices` that names the service is one step further; the last step
/// stays.
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

/// What changes with a step; the rest stays as it is.
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

    /// How many tasks of the new revision run and are on their way. Tasks come and go to match what runs.
    pub fn tasks(mut self, running: i64, pending: i64) -> Self {
        (self.running, self.pending) = (Some(running), Some(pending));
        self
    }

    /// How many tasks of the earlier revision still run.
    pub fn old_tasks(mut self, running: i64) -> Self {
        self.old_running = Some(running);
        self
    }

    /// How much of the traffic of production goes to the new revision, in percent.
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

    /// An event of the service; its text begins with `(service NAME) ` by itself.
    pub fn event(mut self, text: &str) -> Self {
        self.events.push(text.to_owned());
        self
    }

    /// A task of the deployment comes, running or stopped.
    pub fn task(mut self, task: TaskOutcome) -> Self {
        self.tasks.push(task);
        self
    }
}

/// The steps that deployments usually take.
pub mod steps {
    use super::{Step, TaskOutcome};

    /// The deployment has not begun.
    pub fn pending() -> Step {
        Step::status("PENDING")
    }

    /// Tasks come up.
    pub fn progress(running: i64, pending: i64) -> Step {
        Step::status("IN_PROGRESS").tasks(running, pending)
    }

    /// The deployment succeeds: all its tasks run, the earlier ones are gone.
    pub fn succeed() -> Step {
        Step::status("SUCCESSFUL")
    }

    /// A task of the deployment stops.
    pub fn fail_task(task: TaskOutcome) -> Step {
        Step::status("IN_PROGRESS").task(task)
    }

    /// The circuit breaker triggers and ECS goes back to the revision before.
    pub fn rolling_back(reason: &str) -> Step {
        Step::status("ROLLBACK_IN_PROGRESS").breaker("TRIGGERED", 3, 3).reason(reason)
    }

    /// ECS is back at the revision before.
    pub fn rolled_back(reason: &str) -> Step {
        Step::status("ROLLBACK_SUCCESSFUL").reason(reason)
    }

    /// ECS could not go back.
    pub fn rollback_failed(reason: &str) -> Step {
        Step::status("ROLLBACK_FAILED").reason(reason)
    }

    /// The circuit breaker triggers and does not roll back: nothing more is started.
    pub fn stopped(reason: &str) -> Step {
        Step::status("STOPPED").breaker("TRIGGERED", 3, 3).reason(reason)
    }

    /// An alarm goes off, and ECS goes back.
    pub fn alarmed(name: &str) -> Step {
        Step::status("ROLLBACK_IN_PROGRESS")
            .alarms("TRIGGERED", &[name], &[name])
            .reason("Service deployment rolled back because a CloudWatch alarm was triggered.")
    }

    /// Somebody else deploys this revision (an ARN), which then succeeds with the step after the next.
    pub fn superseded(definition: &str) -> Step {
        Step { foreign: Some(definition.to_owned()), ..Step::default() }
    }

    /// Somebody deletes the service: it is `INACTIVE` now, and unknown after that.
    pub fn deleted() -> Step {
        Step { deleted: true, ..Step::default() }
    }

    /// What follows a `StopServiceDeployment` that goes well.
    pub(in super::super) fn rollback_on_request() -> Vec<Step> {
        let reason = "Service deployment rolled back because of a user request.";
        vec![Step::status("ROLLBACK_IN_PROGRESS").reason(reason), rolled_back(reason)]
    }
}

/// A task: how it ends, or that it runs.
#[derive(Clone, Default)]
pub struct TaskOutcome {
    /// Stop code and reason; a task that runs has none.
    pub(super) stopped: Option<(String, String)>,
    pub(super) containers: Vec<ContainerOutcome>,
}

/// A container of it. What is not said here comes from the task definition.
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

    /// Why the container did not start or was ended, in the agent's words.
    pub fn reason(self, container: &str, reason: &str) -> Self {
        self.container(container, |it| it.reason = Some(reason.to_owned()))
    }

    pub fn digest(self, container: &str, digest: &str) -> Self {
        self.container(container, |it| it.digest = Some(digest.to_owned()))
    }

    pub fn health(self, container: &str, health: &str) -> Self {
        self.container(container, |it| it.health = Some(health.to_owned()))
    }

    /// What it writes to its log: the stream `PREFIX/CONTAINER/TASK` of the group that its task definition names.
    pub fn logs(self, container: &str, lines: &[&str]) -> Self {
        self.container(container, |it| it.lines.extend(lines.iter().map(|line| (*line).to_owned())))
    }
}

/// A task that `RunTask` starts, or does not. Every answered `DescribeTasks` of it is one step further.
#[derive(Clone, Default)]
pub struct OneOff {
    pub(super) refused: Option<(String, String)>,
    pub(super) states: Vec<(String, TaskOutcome)>,
}

impl OneOff {
    /// It is not started: `RESOURCE:MEMORY`, `AGENT`, `Capacity is unavailable at this time.`, …
    pub fn refused(reason: &str, detail: &str) -> Self {
        Self { refused: Some((reason.to_owned(), detail.to_owned())), states: Vec::new() }
    }

    /// It comes up.
    pub fn starts() -> Self {
        Self::default().state("PROVISIONING").state("PENDING")
    }

    pub fn state(mut self, status: &str) -> Self {
        self.states.push((status.to_owned(), TaskOutcome::running()));
        self
    }

    /// It runs, and its container writes these lines.
    pub fn runs(mut self, container: &str, lines: &[&str]) -> Self {
        self.states.push(("RUNNING".to_owned(), TaskOutcome::running().logs(container, lines)));
        self
    }

    pub fn ends(mut self, outcome: TaskOutcome) -> Self {
        self.states.push(("STOPPED".to_owned(), outcome));
        self
    }

    /// The whole of a task that comes up, writes lines and exits.
    pub fn whole(container: &str, lines: &[&str], code: i64) -> Self {
        Self::starts().runs(container, lines).ends(TaskOutcome::exited(container, code))
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Throttled,
    ServerError,
    Lost,
    Denied,
    Garbage,
    Stale,
}

/// Calls of an action that go wrong: the first of them, if nothing else is said.
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

    /// What is asked for happens, and the caller hears `ServerException`.
    pub fn lost(action: &str) -> Self {
        Self::new(action, Kind::Lost)
    }

    /// `AccessDeniedException`, always.
    pub fn denied(action: &str) -> Self {
        Self::new(action, Kind::Denied).always()
    }

    /// Half of a JSON document.
    pub fn garbage(action: &str) -> Self {
        Self::new(action, Kind::Garbage)
    }

    /// What the same call before it was answered: ECS does not show at once what has changed.
    pub fn stale(action: &str) -> Self {
        Self::new(action, Kind::Stale)
    }

    /// The calls that it strikes, counted from one.
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
