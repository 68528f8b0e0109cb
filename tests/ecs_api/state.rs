//! The state machine: services, their deployments and the effects of steps.

use super::script::{OneOff, Script, Service, Step, TaskOutcome, steps};
use super::tasks::{Logs, Task, described};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// A response, or the status and text of an error.
pub(super) type Said = Result<Value, (u16, String)>;

pub(super) fn refusal(kind: &str, message: &str) -> Said {
    Err((400, json!({ "__type": kind, "message": message }).to_string()))
}

/// Seconds since 1970, as AWS writes times.
pub(super) fn now() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (now.as_secs_f64() * 1000.0).floor() / 1000.0
}

/// A unique number.
pub(super) fn ids() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(7_654_321, Ordering::SeqCst) + 1_234_567_890_123_456_789
}

/// The last part of a name or an ARN.
pub(super) fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

pub(super) struct State {
    pub services: Vec<Playing>,
    pub tasks: Vec<Task>,
    pub logs: Logs,
    pub one_offs: VecDeque<OneOff>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Active,
    Inactive,
    Gone,
}

/// A service as it is now.
pub(super) struct Playing {
    pub service: Service,
    pub life: Life,
    /// Its service deployments, oldest first.
    pub deployments: Vec<Deployment>,
    /// Those of them that `DescribeServices` shows, the primary one first.
    pub rows: Vec<usize>,
    /// Oldest first.
    pub events: Vec<Value>,
    pub created: f64,
    /// How many deployments `UpdateService` has started.
    updates: usize,
}

/// A service deployment, and its row in `deployments` of `DescribeServices`.
pub(super) struct Deployment {
    /// `ecs-svc/…`
    pub id: String,
    pub arn: String,
    pub revision: String,
    pub definition: String,
    pub images: Vec<Value>,
    /// The deployment that it replaces.
    pub source: Option<usize>,
    pub created: f64,
    pub started: Option<f64>,
    pub finished: Option<f64>,
    pub stopped: Option<f64>,
    pub updated: f64,
    pub status: String,
    pub reason: Option<String>,
    pub stage: Option<String>,
    pub rollout: (String, String),
    pub requested: i64,
    pub running: i64,
    pub pending: i64,
    pub failed: i64,
    pub weight: Option<f64>,
    pub breaker: Value,
    pub alarms: Value,
    /// The hook that pauses it.
    pub paused: Option<String>,
    pub rollback: Option<Value>,
    pub configuration: Value,
    steps: VecDeque<Step>,
    /// The last step is not taken before this time.
    not_before: f64,
    pub when_stopped: Vec<Step>,
}

impl Deployment {
    fn new(service: &Service, definition: &str, source: Option<usize>, script: Script) -> Self {
        let number = ids();
        let arn = |kind: &str, id: &str| {
            format!("arn:aws:ecs:us-east-1:123456789012:{kind}/{}/{}/{id}", service.cluster, service.name)
        };
        let id = format!("ecs-svc/{number}");
        let found = described(definition).unwrap_or_default();
        let containers = found["containerDefinitions"].as_array().into_iter().flatten();
        let image = |it: &Value| {
            let image = it["image"].as_str().unwrap_or_default();
            let mut found = json!({ "containerName": it["name"], "image": image });
            if let Some((_, digest)) = image.split_once('@') {
                found["imageDigest"] = json!(digest);
            }
            found
        };
        let configuration = super::answers::configuration(service);
        let watches = |enabled: &Value| if *enabled == true { "MONITORING" } else { "DISABLED" };
        let threshold = (service.desired + 1) / 2;
        Self {
            rollout: ("IN_PROGRESS".to_owned(), format!("ECS deployment {id} in progress.")),
            arn: arn("service-deployment", &format!("Dep{:x}", number % 0xffff_ffff_ffff)),
            revision: arn("service-revision", &number.to_string()),
            definition: definition.to_owned(),
            images: containers.map(image).collect(),
            source,
            created: now(),
            started: None,
            finished: None,
            stopped: None,
            updated: now(),
            status: "PENDING".to_owned(),
            reason: None,
            stage: None,
            requested: service.desired,
            running: 0,
            pending: 0,
            failed: 0,
            weight: None,
            breaker: json!({
                "status": watches(&configuration["deploymentCircuitBreaker"]["enable"]), "failureCount": 0,
                "threshold": threshold.clamp(3, 200),
            }),
            alarms: json!({
                "status": watches(&configuration["alarms"]["enable"]), "alarmNames": configuration["alarms"]["alarmNames"],
                "triggeredAlarmNames": [],
            }),
            paused: None,
            rollback: None,
            configuration,
            steps: script.steps.into(),
            not_before: now() + script.seconds,
            when_stopped: script.when_stopped,
            id,
        }
    }

    pub fn is_final(&self) -> bool {
        ["SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED"].contains(&self.status.as_str())
    }

    /// Replaces its remaining steps.
    pub fn follow(&mut self, steps: Vec<Step>) {
        self.steps = steps.into();
        self.not_before = 0.0;
    }

    /// Takes the next of its steps, unless the last one is left and its time has not come.
    fn next_step(&mut self) -> Option<Step> {
        if self.steps.len() == 1 && now() < self.not_before {
            return None;
        }
        self.steps.pop_front()
    }

    /// Ends it.
    fn finish(&mut self) {
        self.finished = Some(now());
        self.pending = 0;
        for monitor in [&mut self.breaker, &mut self.alarms] {
            if monitor["status"] == "MONITORING" {
                monitor["status"] = json!("MONITORING_COMPLETE");
            }
        }
    }
}

impl Playing {
    /// The service with its first deployment, which succeeded an hour ago.
    fn new(service: Service) -> Self {
        let definition = service.definition.clone();
        let mut first = Deployment::new(&service, &definition, None, Vec::new().into());
        let before = now() - 3600.0;
        (first.created, first.started, first.updated) = (before, Some(before + 1.0), before + 60.0);
        (first.running, first.requested) = (service.desired, service.desired);
        "SUCCESSFUL".clone_into(&mut first.status);
        first.rollout = ("COMPLETED".to_owned(), format!("ECS deployment {} completed.", first.id));
        first.finish();
        first.finished = Some(before + 60.0);
        let (life, deployments, rows) = (Life::Active, vec![first], vec![0]);
        let mut playing =
            Self { service, life, deployments, rows, events: Vec::new(), created: before, updates: 0 };
        playing.event("has reached a steady state.");
        playing.events[0]["createdAt"] = json!(before + 60.0);
        playing
    }

    pub fn event(&mut self, text: &str) {
        let message = format!("(service {}) {text}", self.service.name);
        let number = ids();
        let id = format!("{:08x}-0000-4000-8000-{:012x}", number >> 32, number & 0xffff_ffff);
        self.events.push(json!({ "id": id, "createdAt": now(), "message": message }));
    }

    pub fn current(&self) -> &Deployment {
        &self.deployments[self.rows[0]]
    }

    /// The last successful one before this one.
    fn last_good(&self, before: usize) -> Option<usize> {
        (0..before).rev().find(|at| self.deployments[*at].status == "SUCCESSFUL")
    }
}

impl State {
    pub fn new(services: Vec<Service>, one_offs: Vec<OneOff>) -> Self {
        let mut state = Self {
            services: services.into_iter().map(Playing::new).collect(),
            tasks: Vec::new(),
            logs: Logs::default(),
            one_offs: one_offs.into(),
        };
        for at in 0..state.services.len() {
            state.match_tasks(at, 0);
            // The tasks are as old as the deployment.
            state.services[at].events.truncate(1);
        }
        for task in &mut state.tasks {
            task.created -= 3600.0;
            task.started = Some(task.created + 30.0);
        }
        state
    }

    /// `UpdateService` starts a deployment of this revision.
    pub fn deploy(&mut self, at: usize, definition: &str) {
        let playing = &mut self.services[at];
        let scripts = &playing.service.scripts;
        let script = scripts.get(playing.updates).or(scripts.last()).cloned();
        playing.updates += 1;
        self.begin(at, definition, script.unwrap_or_else(|| [steps::succeed()].into()));
    }

    /// Starts a deployment, which stops the current one.
    fn begin(&mut self, at: usize, definition: &str, script: Script) {
        let playing = &mut self.services[at];
        for earlier in playing.deployments.iter_mut().filter(|earlier| !earlier.is_final()) {
            "STOPPED".clone_into(&mut earlier.status);
            earlier.reason =
                Some("Service deployment stopped because a newer service deployment started.".to_owned());
            earlier.stopped = Some(now());
            earlier.finish();
        }
        let source = playing.last_good(playing.deployments.len());
        definition.clone_into(&mut playing.service.definition);
        playing.rows.insert(0, playing.deployments.len());
        playing.deployments.push(Deployment::new(&playing.service, definition, source, script));
    }

    /// The service's current deployment takes its next step.
    pub fn advance(&mut self, at: usize) {
        let playing = &mut self.services[at];
        if playing.life == Life::Inactive {
            playing.life = Life::Gone;
            return;
        }
        let Some(number) = playing.deployments.iter().rposition(|it| !it.is_final()) else { return };
        let Some(step) = playing.deployments[number].next_step() else { return };
        if step.deleted {
            playing.life = Life::Inactive;
            playing.deployments[number].finish();
            self.end_tasks(at);
        } else if let Some(definition) = &step.foreign {
            self.begin(at, definition, [steps::progress(0, 1), steps::succeed()].into());
        } else {
            self.step(at, number, &step);
        }
    }

    fn step(&mut self, at: usize, number: usize, step: &Step) {
        for task in &step.tasks {
            self.add_task(at, number, task);
        }
        let playing = &mut self.services[at];
        for text in &step.events {
            playing.event(text);
        }
        if let (Some(running), Some(source)) = (step.old_running, playing.deployments[number].source) {
            playing.deployments[source].running = running;
            self.match_tasks(at, source);
        }
        self.services[at].deployments[number].take(step);
        self.match_tasks(at, number);
        if let Some(status) = &step.status {
            self.enter(at, number, status);
        }
    }

    /// The deployment gets this status, with all consequences.
    fn enter(&mut self, at: usize, number: usize, status: &str) {
        let deployment = &mut self.services[at].deployments[number];
        status.clone_into(&mut deployment.status);
        if status != "PENDING" {
            deployment.started = deployment.started.or(Some(now()));
        }
        match status {
            "SUCCESSFUL" => self.succeed(at, number),
            "STOPPED" => {
                let reason = "ECS deployment circuit breaker: tasks failed to start.".to_owned();
                deployment.rollout = ("FAILED".to_owned(), reason);
                deployment.stopped = Some(now());
                deployment.finish();
                let text =
                    format!("(deployment {}) deployment failed: tasks failed to start.", deployment.id);
                self.services[at].event(&text);
            }
            "ROLLBACK_IN_PROGRESS" | "ROLLBACK_FAILED" => {
                self.roll_back(at, number);
                if status == "ROLLBACK_FAILED" {
                    self.services[at].deployments[number].finish();
                }
            }
            "ROLLBACK_SUCCESSFUL" => {
                self.roll_back(at, number);
                self.rolled_back(at, number);
            }
            _ => {}
        }
    }

    /// This deployment replaces all others.
    fn settle(&mut self, at: usize, number: usize) {
        let playing = &mut self.services[at];
        playing.rows = vec![number];
        for (other, deployment) in playing.deployments.iter_mut().enumerate() {
            (deployment.running, deployment.pending) =
                if other == number { (deployment.requested, 0) } else { (0, 0) };
        }
        let deployment = &mut playing.deployments[number];
        deployment.rollout = ("COMPLETED".to_owned(), format!("ECS deployment {} completed.", deployment.id));
        let id = deployment.id.clone();
        for number in 0..self.services[at].deployments.len() {
            self.match_tasks(at, number);
        }
        self.services[at].event("has reached a steady state.");
        self.services[at].event(&format!("(deployment {id}) deployment completed."));
    }

    fn succeed(&mut self, at: usize, number: usize) {
        let deployment = &mut self.services[at].deployments[number];
        deployment.weight = deployment.weight.map(|_| 100.0);
        deployment.finish();
        self.settle(at, number);
    }

    /// The last good revision becomes the primary one again: ECS resumes its old deployment.
    fn roll_back(&mut self, at: usize, number: usize) {
        let playing = &mut self.services[at];
        let Some(target) = playing.last_good(number) else { return };
        if playing.deployments[number].rollback.is_some() {
            return;
        }
        let deployment = &mut playing.deployments[number];
        let alarmed = deployment.alarms["status"] == "TRIGGERED";
        let why = if alarmed { "alarm(s) detected." } else { "tasks failed to start." };
        let breaker = if alarmed { "ECS deployment" } else { "ECS deployment circuit breaker" };
        deployment.rollout = ("FAILED".to_owned(), format!("{breaker}: {why}"));
        let failed = format!("(deployment {}) deployment failed: {why}", deployment.id);
        let reason = deployment.reason.clone().unwrap_or_else(|| failed.clone());
        deployment.pending = 0;
        let good = &mut playing.deployments[target];
        let back = format!("rolling back to deployment {}.", good.id);
        good.rollout =
            ("IN_PROGRESS".to_owned(), format!("{breaker}: rolling back to deploymentId {}.", good.id));
        good.updated = now();
        let revision = good.revision.clone();
        playing.service.definition = good.definition.clone();
        playing.deployments[number].rollback =
            Some(json!({ "reason": reason, "startedAt": now(), "serviceRevisionArn": revision }));
        playing.rows.retain(|row| *row != target);
        playing.rows.insert(0, target);
        playing.event(&failed);
        playing.event(&back);
    }

    fn rolled_back(&mut self, at: usize, number: usize) {
        let playing = &mut self.services[at];
        playing.deployments[number].finish();
        if let Some(target) = playing.last_good(number) {
            self.settle(at, target);
        }
    }

    fn add_task(&mut self, at: usize, number: usize, outcome: &TaskOutcome) {
        let playing = &mut self.services[at];
        let (cluster, group) = (&playing.service.cluster, format!("service:{}", playing.service.name));
        let deployment = &mut playing.deployments[number];
        let definition = described(&deployment.definition).expect("the task definition is at the bed");
        let mut task = Task::new(cluster, &definition, &group, Some(&deployment.id));
        let launch = playing.service.more.iter().find(|(name, _)| name == "launchType");
        task.launch = launch.map_or_else(|| json!("EC2"), |(_, value)| value.clone());
        let status = if outcome.stopped.is_some() { "STOPPED" } else { "RUNNING" };
        task.become_(status, outcome, &mut self.logs);
        if outcome.stopped.is_some() {
            deployment.failed += 1;
            if deployment.breaker["status"] == "MONITORING" {
                deployment.breaker["failureCount"] = json!(deployment.failed);
            }
        }
        playing.event(&format!("has started 1 tasks: (task {}).", task.id()));
        self.tasks.push(task);
    }

    /// Starts and stops tasks of a deployment to match its count.
    fn match_tasks(&mut self, at: usize, number: usize) {
        let deployment = &self.services[at].deployments[number];
        let (id, wanted) = (deployment.id.clone(), usize::try_from(deployment.running).unwrap());
        let runs = |task: &Task| task.status == "RUNNING" && task.started_by.as_deref() == Some(&id);
        let running = self.tasks.iter().filter(|task| runs(task)).count();
        for _ in running..wanted {
            self.add_task(at, number, &TaskOutcome::running());
        }
        let surplus = self.tasks.iter_mut().filter(|task| runs(task)).take(running.saturating_sub(wanted));
        for task in surplus {
            let reason = format!("Scaling activity initiated by (deployment {id})");
            task.stop("ServiceSchedulerInitiated", &reason);
        }
    }

    /// Stops the tasks of a service.
    fn end_tasks(&mut self, at: usize) {
        let group = format!("service:{}", self.services[at].service.name);
        let cluster = &self.services[at].service.cluster;
        for task in &mut self.tasks {
            if task.group == group && task.cluster == *cluster && task.status != "STOPPED" {
                task.stop("ServiceSchedulerInitiated", "Service deleted");
            }
        }
    }
}

impl Deployment {
    /// Applies the changes of a step, except for the status.
    fn take(&mut self, step: &Step) {
        self.updated = now();
        self.paused.clone_from(&step.paused);
        self.reason = step.reason.clone().or(self.reason.take());
        self.stage = step.stage.clone().or(self.stage.take());
        self.running = step.running.unwrap_or(self.running);
        self.pending = step.pending.unwrap_or(self.pending);
        self.weight = step.weight.or(self.weight);
        for (own, said) in [(&mut self.breaker, &step.breaker), (&mut self.alarms, &step.alarms)] {
            if let Some(said) = said {
                own.clone_from(said);
            }
        }
    }
}
