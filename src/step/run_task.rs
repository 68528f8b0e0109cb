//! `run-task`: a task runs once, such as a migration, and its end is waited for.

use super::StepScope;
use crate::aws::ecs::RunTask as Order;
use crate::aws::{Aws, AwsError};
use crate::connections::failure::told;
use crate::deployment::{WAIT, short};
use crate::duration;
use crate::ecs::diagnosis::{ContainerLog, Evidence, diagnose, is_essential};
use crate::ecs::needs::LogStream;
use crate::ecs::service::{Network, Placement};
use crate::ecs::task::{Container, NotStarted, Task};
use crate::ecs::task_definition::{TaskDefinitionError, described};
use crate::event::{Kind, TaskRun};
use crate::exit::{Exit, Failure, chain};
use crate::files::{self, Access};
use crate::language::pipeline::model::{LaunchType, RunTask, TaskPlace};
use crate::plan::Mode;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a task is looked at.
const POLL: Duration = Duration::from_secs(2);
/// How long the last lines of a log may take to come.
const LAST_LINES: Duration = Duration::from_secs(5);
/// How often ECS may not know of it yet at the first looks.
const UNSEEN: u32 = 5;
/// How often the SDK's own attempts to start a task are made.
const ATTEMPTS: u32 = 3;
/// ECS's codes for a task that was ended from outside: what it exits with then says nothing.
const FROM_OUTSIDE: [&str; 4] =
    ["UserInitiated", "SpotInterruption", "TerminationNotice", "InfrastructureHealth"];
/// How many lines tell why a container failed.
const KEPT: usize = 20;

pub(crate) async fn run(cx: &StepScope<'_>, task: &RunTask) -> Result<(), Failure> {
    let (family, revision) = cx.registered(task.task_definition.as_ref())?;
    let command = task.command.as_ref().map(|command| cx.resolve_all(command)).transpose()?;
    let mut order = Order {
        cluster: cx.resolve(&task.cluster)?,
        definition: revision,
        placement: Placement::default(),
        container: task.container.as_ref().map(|name| name.value.clone()),
        command,
        environment: cx.resolve_pairs(&task.environment)?,
        token: format!("runner-{}", crate::random::id()),
    };
    if cx.project.mode == Mode::Local {
        return planned(cx, &order, &family).await;
    }
    let aws = cx.aws().await?;
    order.placement = placement(cx, &aws, &order.cluster, &task.place).await?;
    let definition = Value::Object(described(aws.ecs_task_definition(&order.definition).await?));
    if let Some(wanted) = &order.container {
        known_container(&definition, wanted)?;
    }
    let begin = Instant::now();
    let started = start(cx, &aws, &order).await?;
    let short = short(&order.definition);
    cx.events.note(format!("task {} of {short} has been started", started.id())).await;
    let (arn, cluster) = (cx.events.shown(&started.arn), cx.events.shown(&order.cluster));
    cx.events.send_for(cx.events.id().inner("task"), Kind::TaskStarted { arn, cluster }).await;
    let poll = cx.project.ecs_poll.unwrap_or(POLL);
    let mut running = Running {
        cx,
        aws: &aws,
        cluster: &order.cluster,
        definition,
        task: started,
        logs: HashMap::new(),
        poll,
    };
    let wait = task.wait.unwrap_or(WAIT);
    tokio::select! {
        ended = running.until_stopped() => ended?,
        () = tokio::time::sleep(wait) => {
            let is_stopped = running.stop(&format!("runner: it took longer than {}", duration::display(wait))).await;
            let end = if is_stopped { "was stopped" } else { "goes on, because it could not be stopped" };
            let message = format!("the task took longer than {} and {end}", duration::display(wait));
            return Err(Failure::new(Exit::Timeout, message).help("`wait` says how long it may take"));
        }
        () = cx.stopping.soft.cancelled() => {
            let _ = running.stop("runner: the run was stopped").await;
            return Err(Failure::stopped());
        }
    }
    running.judge(order.container.as_deref())?;
    let events = &cx.events;
    let finished = TaskRun {
        subject: events.shown(order.container.as_deref().unwrap_or(&family)),
        cluster: events.shown(&order.cluster),
        revision: events.shown(&short),
        elapsed: begin.elapsed(),
    };
    events.send_for(events.id().inner("task"), Kind::TaskFinished(finished)).await;
    Ok(())
}

/// Starts the task. An answer that is lost is asked for again: by its token ECS knows the task that it has started.
async fn start(cx: &StepScope<'_>, aws: &Aws, order: &Order) -> Result<Task, Failure> {
    let mut attempt = 1;
    loop {
        match aws.ecs_run_task(order).await {
            Ok(started) => return started.map_err(|reasons| not_started(&order.cluster, &reasons)),
            Err(error) if error.is_transient() && attempt < ATTEMPTS => {
                cx.events.warn(format!("tried again, because {}", chain(&error))).await;
            }
            Err(error) => return Err(error.into()),
        }
        attempt += 1;
    }
}

async fn planned(cx: &StepScope<'_>, order: &Order, family: &str) -> Result<(), Failure> {
    let path = cx.work.another_ecs_file(&format!("run-task-{}-{family}", order.cluster));
    let environment: serde_json::Map<String, Value> =
        order.environment.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let planned = json!({
        "cluster": order.cluster, "taskDefinition": order.definition, "container": order.container,
        "command": order.command, "environment": environment,
    });
    files::write_json(&path, &planned, Access::Owner)?;
    let (family, cluster) = (cx.events.shown(family), cx.events.shown(&order.cluster));
    cx.events.send(Kind::TaskPlanned { family, cluster }).await;
    Ok(())
}

/// Where the task runs: as a service's tasks do, or as the file says.
async fn placement(
    cx: &StepScope<'_>,
    aws: &Aws,
    cluster: &str,
    place: &TaskPlace,
) -> Result<Placement, Failure> {
    match place {
        TaskPlace::Service(service) => Ok(aws.ecs_service(cluster, &cx.resolve(service)?).await?.placement),
        TaskPlace::Network { subnets, security_groups, assign_public_ip, launch_type } => {
            let launch_type = match launch_type {
                LaunchType::Fargate => "FARGATE",
                LaunchType::Ec2 => "EC2",
                LaunchType::External => "EXTERNAL",
            };
            let network = Network {
                subnets: cx.resolve_all(subnets)?,
                security_groups: cx.resolve_all(security_groups)?,
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
    let reason = if sentences.is_empty() { "ECS gives no reason".to_owned() } else { sentences.join("; ") };
    Failure::environment(format!("no task was started in {cluster}: {reason}"))
}

/// A task under way.
struct Running<'a> {
    cx: &'a StepScope<'a>,
    aws: &'a Aws,
    cluster: &'a str,
    definition: Value,
    task: Task,
    /// How far the containers' logs have been read, and the last lines of each.
    logs: HashMap<String, Log>,
    poll: Duration,
}

#[derive(Default)]
struct Log {
    next: Option<String>,
    last: Vec<String>,
    /// It cannot be read, which has been said.
    given_up: bool,
}

impl Running<'_> {
    /// Waits until the task has ended, and shows what its containers write.
    async fn until_stopped(&mut self) -> Result<(), Failure> {
        let (mut said, mut troubled, mut unseen) = (String::new(), false, 0);
        loop {
            match self.aws.ecs_task(self.cluster, &self.task.arn).await {
                Ok(task) => (self.task, troubled, unseen) = (task, false, UNSEEN),
                // It may take ECS a moment to know of it.
                Err(AwsError::NotFound { .. }) if unseen < UNSEEN => unseen += 1,
                Err(error) if error.is_transient() => {
                    if !std::mem::replace(&mut troubled, true) {
                        self.cx.events.warn(format!("asked again, because {}", chain(&error))).await;
                    }
                }
                Err(error) => {
                    let help = format!("the task {} goes on by itself", self.task.id());
                    return Err(Failure::from(error).help(help));
                }
            }
            let status = self.task.last_status.to_lowercase();
            if status != said && !status.is_empty() {
                self.cx.events.note(format!("the task is {status}")).await;
                said = status;
            }
            self.read_logs().await;
            if self.task.last_status == "STOPPED" {
                break;
            }
            tokio::time::sleep(self.poll).await;
        }
        // CloudWatch may get the last lines a moment later.
        let end = Instant::now() + LAST_LINES;
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < end && self.logs.values().any(|log| !log.given_up) {
            tokio::time::sleep(self.poll.min(Duration::from_secs(1))).await;
            quiet = if self.read_logs().await { 0 } else { quiet + 1 };
        }
        Ok(())
    }

    /// Shows what the containers have written since the last time; whether that was anything.
    async fn read_logs(&mut self) -> bool {
        let stream = |container: &Container| LogStream::of(&self.definition, &container.name, self.task.id());
        let streams: Vec<_> =
            self.task.containers.iter().filter_map(|one| Some((one, stream(one)?))).collect();
        let several = streams.len() > 1;
        let mut any = false;
        for (container, stream) in streams {
            let log = self.logs.entry(container.name.clone()).or_default();
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
                            let shown = if several {
                                format!("{} | {line}\n", container.name)
                            } else {
                                format!("{line}\n")
                            };
                            let _ = self.cx.output.send(shown.into_bytes()).await;
                            log.last.push(line.to_owned());
                        }
                        let surplus = log.last.len().saturating_sub(KEPT);
                        log.last.drain(..surplus);
                        if is_end {
                            break;
                        }
                    }
                    Err(error) => {
                        if !error.is_transient() {
                            log.given_up = true;
                            let cause = told(&error);
                            let text = format!("the log of {} cannot be read: {cause}", container.name);
                            self.cx.events.warn(text).await;
                        }
                        break;
                    }
                }
            }
        }
        any
    }

    /// Ends the task; whether that went well.
    async fn stop(&self, reason: &str) -> bool {
        let stopped = self.aws.ecs_stop_task(self.cluster, &self.task.arn, reason).await;
        let text = match &stopped {
            Ok(()) => format!("the task {} was stopped", self.task.id()),
            Err(error) => format!("the task {} could not be stopped: {}", self.task.id(), told(error)),
        };
        self.cx.events.warn(text).await;
        stopped.is_ok()
    }

    /// The exit code of the container decides; of all that are essential, where none is named.
    fn judge(&self, wanted: Option<&str>) -> Result<(), Failure> {
        let decides =
            |name: &str| wanted.map_or_else(|| is_essential(&self.definition, name), |wanted| name == wanted);
        let decide: Vec<_> = self.task.containers.iter().filter(|one| decides(&one.name)).collect();
        let is_ended_from_outside =
            self.task.stop_code.as_deref().is_some_and(|code| FROM_OUTSIDE.contains(&code));
        if !is_ended_from_outside
            && !decide.is_empty()
            && decide.iter().all(|container| container.exit_code == Some(0))
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
