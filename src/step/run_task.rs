//! `run-task`: runs a task once, such as a migration, and waits for its end.

use super::StepScope;
use crate::aws::ecs::RunTask as TaskRequest;
use crate::aws::{Aws, AwsError};
use crate::connections::failure::with_advice;
use crate::deployment::{DEFAULT_WAIT, results, short};
use crate::duration;
use crate::ecs::diagnosis::{ContainerLog, Evidence, diagnose, is_essential};
use crate::ecs::needs::LogStream;
use crate::ecs::service::{Network, Placement};
use crate::ecs::task::{Container, NotStarted, Task};
use crate::ecs::task_definition::{TaskDefinitionError, described};
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::{LaunchType, RunTask, TaskPlace};
use crate::plan::Mode;
use crate::random;
use crate::secret::{MaskedLines, Masks};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The interval between polls of the task.
const POLL: Duration = Duration::from_secs(2);
/// How long the last log lines may take to reach `CloudWatch`.
const LAST_LINES: Duration = Duration::from_secs(5);
/// `NotFound` responses in a row that are tolerated: ECS may know a new task only after a moment.
const MAX_MISSING: u32 = 30;
/// ECS's codes for a task that was stopped from outside. Its exit code means nothing then.
const FROM_OUTSIDE: [&str; 4] =
    ["UserInitiated", "SpotInterruption", "TerminationNotice", "InfrastructureHealth"];
/// How many last log lines of a container are kept for the diagnosis.
const KEPT: usize = 20;

pub(crate) async fn run(cx: &StepScope<'_>, task: &RunTask) -> Result<(), Failure> {
    let (family, revision) = cx.registered(task.task_definition.as_ref())?;
    let command = task.command.as_ref().map(|command| cx.request_all(command)).transpose()?;
    let mut request = TaskRequest {
        cluster: cx.request(&task.cluster)?,
        definition: revision,
        placement: Placement::default(),
        container: task.container.as_ref().map(|name| name.value.clone()),
        command,
        environment: cx.request_pairs(&task.environment)?,
        token: format!("runner-{}", random::id()),
    };
    if cx.project.mode == Mode::Local {
        return plan(cx, &request, &family).await;
    }
    let aws = cx.aws().await?;
    // An earlier phase may have registered it, in another process.
    aws.made(&request.definition);
    request.placement = placement(cx, &aws, &request.cluster, &task.place).await?;
    let definition = Value::Object(described(aws.ecs_task_definition(&request.definition).await?));
    if let Some(wanted) = &request.container {
        known_container(&definition, wanted)?;
    }
    let start_time = Instant::now();
    let started = start(&aws, &request).await?;
    cx.events.note(format!("started task {} of {}", started.id(), short(&request.definition))).await;
    results::task_started(&cx.events, &started.arn, &request.cluster).await;
    let poll = cx.project.ecs_poll.unwrap_or(POLL);
    let mut running = Running {
        cx,
        aws: &aws,
        cluster: &request.cluster,
        definition,
        task: started,
        logs: HashMap::new(),
        poll,
    };
    let wait = task.wait.unwrap_or(DEFAULT_WAIT);
    tokio::select! {
        ended = running.until_stopped() => ended?,
        () = tokio::time::sleep(wait) => {
            let is_stopped = running.stop(&format!("runner: it took longer than {}", duration::display(wait))).await;
            let end = if is_stopped { "was stopped" } else { "continues, because it could not be stopped" };
            let message = format!("the task took longer than {} and {end}", duration::display(wait));
            return Err(Failure::new(Exit::Timeout, message).help("`wait` sets how long it may take"));
        }
        () = cx.stopping.soft.cancelled() => {
            let _ = running.stop("runner: the run was stopped").await;
            return Err(Failure::stopped());
        }
    }
    running.check(request.container.as_deref())?;
    let subject = request.container.as_deref().unwrap_or(&family);
    results::ran(&cx.events, subject, &request.cluster, &request.definition, start_time.elapsed()).await;
    Ok(())
}

/// Starts the task. Retries after a lost response are safe: by the token, ECS recognises a task that it has
/// started.
async fn start(aws: &Aws, request: &TaskRequest) -> Result<Task, Failure> {
    aws.ecs_run_task(request).await?.map_err(|reasons| not_started(&request.cluster, &reasons))
}

/// Writes the task to a file, in local mode.
async fn plan(cx: &StepScope<'_>, request: &TaskRequest, family: &str) -> Result<(), Failure> {
    let environment: serde_json::Map<String, Value> =
        request.environment.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let planned = json!({
        "cluster": request.cluster, "taskDefinition": request.definition, "container": request.container,
        "command": request.command, "environment": environment,
    });
    cx.work.write_new_ecs(&format!("run-task-{}-{family}", request.cluster), &planned)?;
    results::planned_task(&cx.events, family, &request.cluster).await;
    Ok(())
}

/// Returns the placement of a service's tasks, or the one in the pipeline file.
async fn placement(
    cx: &StepScope<'_>,
    aws: &Aws,
    cluster: &str,
    place: &TaskPlace,
) -> Result<Placement, Failure> {
    match place {
        TaskPlace::Service(service) => Ok(aws.ecs_service(cluster, &cx.request(service)?).await?.placement),
        TaskPlace::Network { subnets, security_groups, assign_public_ip, launch_type } => {
            let launch_type = match launch_type {
                LaunchType::Fargate => "FARGATE",
                LaunchType::Ec2 => "EC2",
                LaunchType::External => "EXTERNAL",
            };
            let network = Network {
                subnets: cx.request_all(subnets)?,
                security_groups: cx.request_all(security_groups)?,
                public_address: *assign_public_ip,
            };
            Ok(Placement {
                launch_type: Some(launch_type.to_owned()),
                network: Some(network),
                ..Placement::default()
            })
        }
    }
}

fn known_container(definition: &Value, wanted: &str) -> Result<(), Failure> {
    let containers = definition.get("containerDefinitions").and_then(Value::as_array);
    let names = || containers.into_iter().flatten().filter_map(|one| one.get("name")?.as_str());
    if names().any(|name| name == wanted) {
        return Ok(());
    }
    let known = crate::text::listed(names());
    Err(TaskDefinitionError::NoContainer { name: wanted.to_owned(), known }.into())
}

fn not_started(cluster: &str, reasons: &[NotStarted]) -> Failure {
    let mut sentences: Vec<String> = reasons.iter().map(NotStarted::sentence).collect();
    sentences.dedup();
    let reason =
        if sentences.is_empty() { "ECS reported no reason".to_owned() } else { sentences.join("; ") };
    Failure::environment(format!("no task was started in {cluster}: {reason}"))
}

/// The prefix of the lines of a container, if the task has several.
fn prefix(container: &str, several: bool) -> String {
    if several { format!("{container} | ") } else { String::new() }
}

/// A running task.
struct Running<'a> {
    cx: &'a StepScope<'a>,
    aws: &'a Aws,
    cluster: &'a str,
    definition: Value,
    task: Task,
    /// The logs by container.
    logs: HashMap<String, Log>,
    poll: Duration,
}

struct Log {
    /// The lines on their way to the output.
    output: MaskedLines,
    /// The token of the next page.
    next: Option<String>,
    /// The last lines, masked.
    last: Vec<String>,
    /// It cannot be read, and a warning was given.
    given_up: bool,
}

impl Log {
    fn new(masks: &Masks) -> Self {
        Self { output: MaskedLines::new(masks), next: None, last: Vec::new(), given_up: false }
    }

    /// Keeps masked lines for the diagnosis, and returns them with the prefix of the container.
    fn forward(&mut self, prefix: &str, lines: &[u8]) -> Vec<u8> {
        self.last.extend(String::from_utf8_lossy(lines).lines().map(ToOwned::to_owned));
        let surplus = self.last.len().saturating_sub(KEPT);
        self.last.drain(..surplus);
        self.output.prefixed(prefix, lines)
    }
}

impl Running<'_> {
    /// Waits until the task has ended, and forwards the logs of its containers.
    async fn until_stopped(&mut self) -> Result<(), Failure> {
        let (mut last_status, mut missing) = (String::new(), 0);
        loop {
            match self.aws.ecs_task(self.cluster, &self.task.arn).await {
                Ok(task) => (self.task, missing) = (task, 0),
                Err(AwsError::NotFound { .. }) if missing < MAX_MISSING => missing += 1,
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    let help = format!("the task {} continues without runner", self.task.id());
                    return Err(Failure::from(error).help(help));
                }
            }
            let status = self.task.last_status.to_lowercase();
            if status != last_status && !status.is_empty() {
                self.cx.events.note(format!("the task is {status}")).await;
                last_status = status;
            }
            self.read_logs().await;
            if self.task.last_status == "STOPPED" {
                break;
            }
            tokio::time::sleep(self.poll).await;
        }
        // The last lines may reach CloudWatch only after a moment.
        let deadline = Instant::now() + LAST_LINES;
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < deadline && self.logs.values().any(|log| !log.given_up) {
            tokio::time::sleep(self.poll.min(Duration::from_secs(1))).await;
            quiet = if self.read_logs().await { 0 } else { quiet + 1 };
        }
        self.end_logs().await;
        Ok(())
    }

    /// Forwards new log lines of the containers. Returns whether there were any.
    async fn read_logs(&mut self) -> bool {
        let stream = |container: &Container| LogStream::of(&self.definition, &container.name, self.task.id());
        let streams: Vec<_> =
            self.task.containers.iter().filter_map(|one| Some((one, stream(one)?))).collect();
        let several = streams.len() > 1;
        let mut any = false;
        for (container, stream) in streams {
            let log =
                self.logs.entry(container.name.clone()).or_insert_with(|| Log::new(&self.cx.project.masks));
            let prefix = prefix(&container.name, several);
            if log.given_up {
                continue;
            }
            let there = self.aws.at(stream.region.as_deref());
            loop {
                match there.log_page(&stream.group, &stream.stream, log.next.as_deref()).await {
                    Ok(page) => {
                        let is_end = page.lines.is_empty() || page.next == log.next;
                        log.next = page.next.or(log.next.take());
                        for line in page.lines {
                            any = true;
                            let line = line.trim_end();
                            let shown = log.output.push(format!("{line}\n").as_bytes());
                            let _ = self.cx.output.send(log.forward(&prefix, &shown)).await;
                        }
                        if is_end {
                            break;
                        }
                    }
                    Err(error) => {
                        if !error.is_transient() {
                            log.given_up = true;
                            let cause = with_advice(&error);
                            let text = format!("could not read the log of {}: {cause}", container.name);
                            self.cx.events.warn(text).await;
                        }
                        break;
                    }
                }
            }
        }
        any
    }

    /// Forwards the rest of the logs, which might have been the beginning of a secret.
    async fn end_logs(&mut self) {
        let several = self.logs.len() > 1;
        for (container, log) in &mut self.logs {
            let rest = log.output.finish();
            let _ = self.cx.output.send(log.forward(&prefix(container, several), &rest)).await;
        }
    }

    /// Stops the task. Returns whether that succeeded.
    async fn stop(&mut self, reason: &str) -> bool {
        self.end_logs().await;
        let stopped = self.aws.ecs_stop_task(self.cluster, &self.task.arn, reason).await;
        let text = match &stopped {
            Ok(()) => format!("the task {} was stopped", self.task.id()),
            Err(error) => format!("could not stop the task {}: {}", self.task.id(), with_advice(error)),
        };
        self.cx.events.warn(text).await;
        stopped.is_ok()
    }

    /// Fails unless the container exited with 0. If none is named, all essential containers count.
    fn check(&self, wanted: Option<&str>) -> Result<(), Failure> {
        let counts =
            |name: &str| wanted.map_or_else(|| is_essential(&self.definition, name), |wanted| name == wanted);
        let containers: Vec<_> = self.task.containers.iter().filter(|one| counts(&one.name)).collect();
        let is_stopped_from_outside =
            self.task.stop_code.as_deref().is_some_and(|code| FROM_OUTSIDE.contains(&code));
        if !is_stopped_from_outside
            && !containers.is_empty()
            && containers.iter().all(|container| container.exit_code == Some(0))
        {
            return Ok(());
        }
        let logs = self
            .logs
            .iter()
            .map(|(container, log)| ContainerLog { container: container.clone(), lines: log.last.clone() });
        let logs: Vec<ContainerLog> = logs.collect();
        let evidence =
            Evidence { task: &self.task, definition: &self.definition, logs: &logs, health_path: None };
        let cause = diagnose(&evidence);
        let failure = Failure::step(format!("the task failed: {}", cause.sentence));
        Err(match cause.help {
            Some(help) => failure.help(help),
            None => failure,
        })
    }
}
