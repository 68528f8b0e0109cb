//! The failed tasks of a deployment, and their causes.

use super::Deployer;
use crate::aws::ecs::TaskFilter;
use crate::aws::{Aws, AwsError};
use crate::connections::failure::with_advice;
use crate::ecs::diagnosis::{
    Cause, CauseGroup, CauseKind, ContainerLog, Evidence, diagnose, diagnose_event, group,
};
use crate::ecs::needs::LogStream;
use crate::ecs::service::{Service, TargetGroup};
use crate::ecs::task::{Container, Task};
use crate::ecs::task_definition::described;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;

/// How long the final diagnosis may take.
pub(crate) const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(20);
/// How many failed tasks are examined.
const MAX_TASKS: usize = 50;
/// Of how many of them the logs are read.
const MAX_WITH_LOGS: usize = 6;
/// How many lines of a container's log are read.
const LOG_LINES: i32 = 20;

/// Identifies the tasks of one deployment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TasksOf<'a> {
    /// The deployment's id, which its tasks name in `startedBy`.
    pub(crate) id: Option<&'a str>,
    pub(crate) revision: &'a str,
    pub(crate) created: Option<Timestamp>,
}

impl TasksOf<'_> {
    fn includes(&self, task: &Task) -> bool {
        let is_later = task.created.zip(self.created).is_none_or(|(task, deployment)| task >= deployment);
        match (&task.started_by, self.id) {
            (Some(by), Some(id)) => by == id,
            _ => is_later && task.definition == self.revision,
        }
    }
}

#[derive(Default)]
pub(crate) struct FailedTasks {
    /// The ARNs of all stopped tasks that were examined.
    examined: HashSet<String>,
    found: Vec<FailedTask>,
    /// The causes that service events name.
    events: Vec<Cause>,
    definition: Option<Value>,
    /// A target group, and the path of its health check.
    target_group: Option<(String, Option<String>)>,
    /// A warning was given that tasks cannot be examined in full.
    warned: bool,
    /// A rollback is running: failed tasks no longer end the wait.
    rolling_back: bool,
}

struct FailedTask {
    task: Task,
    logs: Vec<ContainerLog>,
    cause: Cause,
}

impl FailedTasks {
    /// Examines tasks that have failed since the last call. Returns a sentence for each new cause.
    pub(crate) async fn update(
        &mut self,
        deployer: &Deployer<'_>,
        cluster: &str,
        service: &Service,
        tasks: TasksOf<'_>,
        messages: &[String],
    ) -> Vec<String> {
        for cause in messages.iter().filter_map(|message| diagnose_event(message)) {
            if !self.events.contains(&cause) {
                self.events.push(cause);
            }
        }
        let filter = TaskFilter::StoppedOf(&service.name);
        let stopped = match deployer.aws.ecs_tasks(cluster, filter, &self.examined).await {
            Ok(tasks) => tasks,
            Err(error) => return self.warning(&error).into_iter().collect(),
        };
        self.examined.extend(stopped.iter().map(|task| task.arn.clone()));
        let mut stopped: Vec<Task> = stopped.into_iter().filter(|task| tasks.includes(task)).collect();
        stopped.sort_by_key(|task| task.created);
        let mut sentences = Vec::new();
        for task in stopped {
            if self.found.len() == MAX_TASKS {
                break;
            }
            let (failed, error) = self.examine(deployer, service, task).await;
            sentences.extend(error.and_then(|error| self.warning(&error)));
            if failed.cause.kind == CauseKind::Stopped {
                continue;
            }
            if !self.found.iter().any(|known| known.cause == failed.cause) {
                sentences.push(format!("a task failed: {}", failed.cause.sentence));
            }
            self.found.push(failed);
        }
        sentences
    }

    /// Returns a warning for the first error that will not go away.
    fn warning(&mut self, error: &AwsError) -> Option<String> {
        if error.is_transient() || std::mem::replace(&mut self.warned, true) {
            return None;
        }
        Some(format!("could not fully diagnose failed tasks: {}", with_advice(error)))
    }

    async fn examine(
        &mut self,
        deployer: &Deployer<'_>,
        service: &Service,
        task: Task,
    ) -> (FailedTask, Option<AwsError>) {
        let (aws, mut problem) = (deployer.aws, None);
        if self.definition.is_none() {
            match aws.ecs_task_definition(&task.definition).await {
                Ok(document) => self.definition = Some(Value::Object(described(document))),
                Err(error) => problem = Some(error),
            }
        }
        let definition = self.definition.clone().unwrap_or_default();
        let mut logs = Vec::new();
        if self.found.len() < MAX_WITH_LOGS {
            match read_logs(deployer, &definition, &task).await {
                Ok(read) => logs = read,
                Err(error) => problem = Some(error),
            }
        }
        let mut cause = self.diagnose(&definition, &task, &logs);
        if cause.kind == CauseKind::LoadBalancerCheck {
            let reason = task.stopped_reason.as_deref().unwrap_or_default();
            let named = service.targets.iter().find(|target| reason.contains(&target.group));
            if let Some(TargetGroup { group, .. }) = named.or(service.targets.first())
                && self.target_group.as_ref().is_none_or(|(known, _)| known != group)
            {
                let found = aws.target_group(group).await.ok();
                self.target_group = Some((group.clone(), found.and_then(|found| found.health_path)));
                cause = self.diagnose(&definition, &task, &logs);
            }
        }
        (FailedTask { task, logs, cause }, problem)
    }

    /// Reads empty logs again and repeats the diagnosis: the last lines may have reached `CloudWatch` only
    /// now.
    pub(crate) async fn reread_logs(&mut self, deployer: &Deployer<'_>) {
        let definition = self.definition.clone().unwrap_or_default();
        for at in 0..self.found.len().min(MAX_WITH_LOGS) {
            if self.found[at].logs.iter().any(|log| !log.lines.is_empty()) {
                continue;
            }
            let logs = read_logs(deployer, &definition, &self.found[at].task).await.unwrap_or_default();
            self.found[at].cause = self.diagnose(&definition, &self.found[at].task, &logs);
            self.found[at].logs = logs;
        }
    }

    fn diagnose(&self, definition: &Value, task: &Task, logs: &[ContainerLog]) -> Cause {
        diagnose(&Evidence { task, definition, logs, health_path: self.health_path() })
    }

    fn health_path(&self) -> Option<&str> {
        self.target_group.as_ref()?.1.as_deref()
    }

    /// Why waiting longer cannot help, if so.
    pub(crate) fn hopeless(&self) -> Option<String> {
        let is_hopeless = |failed: &&FailedTask| {
            let kind = failed.cause.kind;
            let count = self.found.iter().filter(|other| other.cause.kind == kind).count();
            kind.hopeless_after().is_some_and(|enough| count >= enough)
        };
        let failed = self.found.iter().find(is_hopeless).filter(|_| !self.rolling_back)?;
        Some(format!("{}; waiting longer will not help", failed.cause.sentence))
    }

    /// From now on failed tasks do not end the wait.
    pub(crate) fn roll_back(&mut self) {
        self.rolling_back = true;
    }

    /// Groups the tasks by cause, the most frequent first. Without a failed task, returns the causes that
    /// service events name.
    pub(crate) fn groups(&self) -> Vec<CauseGroup> {
        let definition = self.definition.clone().unwrap_or_default();
        let causes: Vec<(Evidence<'_>, Cause)> = self
            .found
            .iter()
            .map(|FailedTask { task, logs, cause }| {
                let health_path = self.health_path();
                (Evidence { task, definition: &definition, logs, health_path }, cause.clone())
            })
            .collect();
        let mut groups = group(&causes);
        if groups.is_empty() {
            groups.extend(self.events.iter().map(|cause| CauseGroup::of_event(cause.clone())));
        }
        groups
    }
}

/// Returns the last log lines of each container that has run. They are masked before the diagnosis shortens them.
async fn read_logs(
    deployer: &Deployer<'_>,
    definition: &Value,
    task: &Task,
) -> Result<Vec<ContainerLog>, AwsError> {
    let mut logs = Vec::new();
    for container in task.containers.iter().filter(|container| container.exit_code.is_some()) {
        if let Some(lines) = tail(deployer.aws, definition, container, task.id()).await? {
            let masked = deployer.events.shown(lines.join("\n"));
            let lines = masked.lines().map(ToOwned::to_owned).collect();
            logs.push(ContainerLog { container: container.name.clone(), lines });
        }
    }
    Ok(logs)
}

/// Returns the last lines of a container's log, or `None` if it has no log in `CloudWatch`.
async fn tail(
    aws: &Aws,
    definition: &Value,
    container: &Container,
    task: &str,
) -> Result<Option<Vec<String>>, AwsError> {
    let Some(log) = LogStream::of(definition, &container.name, task) else { return Ok(None) };
    aws.at(log.region.as_deref()).log_tail(&log.group, &log.stream, LOG_LINES).await
}
