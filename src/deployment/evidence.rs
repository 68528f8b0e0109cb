//! What is known about the tasks of a deployment that have failed.

use super::Deployer;
use crate::aws::ecs::TaskFilter;
use crate::aws::{Aws, AwsError};
use crate::connections::failure::told;
use crate::ecs::diagnosis::{Cause, ContainerLog, Evidence, Group, Kind, diagnose, diagnose_event, group};
use crate::ecs::needs::LogStream;
use crate::ecs::service::{Service, Target};
use crate::ecs::task::{Container, Task};
use crate::ecs::task_definition::described;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;

/// How long the last look at failed tasks may take.
pub(crate) const EVIDENCE: Duration = Duration::from_secs(20);
/// How many failed tasks are looked at.
const MOST: usize = 50;
/// Of how many of them the logs are read.
const WITH_LOGS: usize = 6;
/// How many lines of a container's log are read.
const LINES: i32 = 20;

/// The deployment whose tasks are looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    /// Its id, which its tasks name.
    pub(crate) id: Option<&'a str>,
    pub(crate) revision: &'a str,
    pub(crate) created: Option<Timestamp>,
}

impl Of<'_> {
    fn has(&self, task: &Task) -> bool {
        let began = task.created.zip(self.created).is_none_or(|(task, deployment)| task >= deployment);
        match (&task.started_by, self.id) {
            (Some(by), Some(id)) => by == id,
            _ => began && task.definition == self.revision,
        }
    }
}

/// The tasks of a deployment that have failed, and why.
#[derive(Default)]
pub(crate) struct Casualties {
    /// The ARNs of all stopped tasks that have been looked at.
    seen: HashSet<String>,
    found: Vec<Casualty>,
    /// What events tell of trouble.
    events: Vec<Cause>,
    definition: Option<Value>,
    /// A target group, and the path that it checks.
    checked: Option<(String, Option<String>)>,
    /// That something may not be read has been said.
    said: bool,
    /// Waiting goes on whatever fails.
    patient: bool,
}

struct Casualty {
    task: Task,
    logs: Vec<ContainerLog>,
    cause: Cause,
}

impl Casualties {
    /// Looks for tasks that have failed since the last time. Gives a sentence for each cause that is new.
    pub(crate) async fn gather(
        &mut self,
        deployer: &Deployer<'_>,
        cluster: &str,
        service: &Service,
        of: Of<'_>,
        messages: &[String],
    ) -> Vec<String> {
        for cause in messages.iter().filter_map(|message| diagnose_event(message)) {
            if !self.events.contains(&cause) {
                self.events.push(cause);
            }
        }
        let filter = TaskFilter::StoppedOf(&service.name);
        let stopped = match deployer.aws.ecs_tasks(cluster, filter, &self.seen).await {
            Ok(tasks) => tasks,
            Err(error) => return self.cannot_tell(&error),
        };
        self.seen.extend(stopped.iter().map(|task| task.arn.clone()));
        let mut fresh: Vec<Task> = stopped.into_iter().filter(|task| of.has(task)).collect();
        fresh.sort_by_key(|task| task.created);
        let mut sentences = Vec::new();
        for task in fresh {
            if self.found.len() == MOST {
                break;
            }
            let (casualty, problem) = self.examine(deployer.aws, service, task).await;
            if let Some(error) = problem {
                sentences.extend(self.cannot_tell(&error));
            }
            if casualty.cause.kind == Kind::Stopped {
                continue;
            }
            if !self.found.iter().any(|known| known.cause == casualty.cause) {
                sentences.push(format!("a task has failed: {}", casualty.cause.sentence));
            }
            self.found.push(casualty);
        }
        sentences
    }

    fn cannot_tell(&mut self, error: &AwsError) -> Vec<String> {
        if error.is_transient() || std::mem::replace(&mut self.said, true) {
            return Vec::new();
        }
        vec![format!("why tasks fail cannot be told in full: {}", told(error))]
    }

    async fn examine(&mut self, aws: &Aws, service: &Service, task: Task) -> (Casualty, Option<AwsError>) {
        let mut problem = None;
        if self.definition.is_none() {
            match aws.ecs_task_definition(&task.definition).await {
                Ok(document) => self.definition = Some(Value::Object(described(document))),
                Err(error) => problem = Some(error),
            }
        }
        let definition = self.definition.clone().unwrap_or_default();
        let mut logs = Vec::new();
        if self.found.len() < WITH_LOGS {
            match logs_of(aws, &definition, &task).await {
                Ok(read) => logs = read,
                Err(error) => problem = Some(error),
            }
        }
        let mut cause = self.diagnosed(&definition, &task, &logs);
        if cause.kind == Kind::LoadBalancerCheck {
            let reason = task.stopped_reason.as_deref().unwrap_or_default();
            let named = service.targets.iter().find(|target| reason.contains(&target.group));
            if let Some(Target { group, .. }) = named.or(service.targets.first())
                && self.checked.as_ref().is_none_or(|(checked, _)| checked != group)
            {
                let found = aws.target_group(group).await.ok();
                self.checked = Some((group.clone(), found.and_then(|found| found.health_path)));
                cause = self.diagnosed(&definition, &task, &logs);
            }
        }
        (Casualty { task, logs, cause }, problem)
    }

    /// Reads the logs again of the first tasks that seemed to have written nothing, and judges them anew: what they wrote last may
    /// have come to CloudWatch only now.
    pub(crate) async fn read_again(&mut self, aws: &Aws) {
        let definition = self.definition.clone().unwrap_or_default();
        for at in 0..self.found.len().min(WITH_LOGS) {
            if self.found[at].logs.iter().any(|log| !log.lines.is_empty()) {
                continue;
            }
            let logs = logs_of(aws, &definition, &self.found[at].task).await.unwrap_or_default();
            self.found[at].cause = self.diagnosed(&definition, &self.found[at].task, &logs);
            self.found[at].logs = logs;
        }
    }

    fn diagnosed(&self, definition: &Value, task: &Task, logs: &[ContainerLog]) -> Cause {
        diagnose(&Evidence { task, definition, logs, health_path: self.health_path() })
    }

    fn health_path(&self) -> Option<&str> {
        self.checked.as_ref()?.1.as_deref()
    }

    /// Why waiting makes no sense any more.
    pub(crate) fn hopeless(&self) -> Option<String> {
        let is_hopeless = |casualty: &&Casualty| {
            let kind = casualty.cause.kind;
            let count = self.found.iter().filter(|other| other.cause.kind == kind).count();
            kind.hopeless_after().is_some_and(|enough| count >= enough)
        };
        let casualty = self.found.iter().find(is_hopeless).filter(|_| !self.patient)?;
        Some(format!("{}; waiting longer does not mend that", casualty.cause.sentence))
    }

    /// On the way back nothing that failed on the way there ends the wait.
    pub(crate) fn be_patient(&mut self) {
        self.patient = true;
    }

    /// The causes, the most frequent first; where no task tells one, what the events tell.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let definition = self.definition.clone().unwrap_or_default();
        let evidence = |casualty: &Casualty| casualty.cause.clone();
        let causes: Vec<(Evidence<'_>, Cause)> = self
            .found
            .iter()
            .map(|casualty| {
                let Casualty { task, logs, .. } = casualty;
                let health_path = self.health_path();
                (Evidence { task, definition: &definition, logs, health_path }, evidence(casualty))
            })
            .collect();
        let mut groups = group(&causes);
        if groups.is_empty() {
            groups.extend(self.events.iter().map(|cause| Group::of_event(cause.clone())));
        }
        groups
    }
}

/// The last lines of the logs of a task's containers that have run.
async fn logs_of(aws: &Aws, definition: &Value, task: &Task) -> Result<Vec<ContainerLog>, AwsError> {
    let mut logs = Vec::new();
    for container in task.containers.iter().filter(|container| container.exit_code.is_some()) {
        if let Some(lines) = tail(aws, definition, container, task.id()).await? {
            logs.push(ContainerLog { container: container.name.clone(), lines });
        }
    }
    Ok(logs)
}

/// The last lines of a container's log; nothing where it has no log that can be found.
async fn tail(
    aws: &Aws,
    definition: &Value,
    container: &Container,
    task: &str,
) -> Result<Option<Vec<String>>, AwsError> {
    let Some(log) = LogStream::of(definition, &container.name, task) else { return Ok(None) };
    aws.at(log.region.as_deref()).log_tail(&log.group, &log.stream, LINES).await
}
