//! Tasks: listing, describing, starting and stopping them.

use super::services::time;
use crate::address::short_name;
use crate::aws::{Aws, AwsError};
use crate::ecs::service::Placement;
use crate::ecs::task::{Container, NotStarted, Task};
use aws_sdk_ecs::types;
use std::collections::HashSet;

/// How many tasks one call describes.
const AT_ONCE: usize = 100;
/// How many tasks one listing returns at most; a service may have thousands.
const MOST: usize = 300;

/// Selects the tasks of a service by their desired status.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TaskFilter<'a> {
    /// Stopped tasks, which ECS keeps for about an hour.
    StoppedOf(&'a str),
    /// Tasks that run or will run.
    RunningOf(&'a str),
}

/// A standalone task to start. It has no `Debug`: its command and environment may hold secrets.
#[derive(Clone, Default)]
pub(crate) struct RunTask {
    pub(crate) cluster: String,
    pub(crate) definition: String,
    pub(crate) placement: Placement,
    /// The container that gets `command` and `environment`.
    pub(crate) container: Option<String>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) environment: Vec<(String, String)>,
    /// The idempotency token, equal for all attempts, so that only one task starts.
    pub(crate) token: String,
}

impl Aws {
    /// Tasks of a service in no particular order, without those whose ARNs are in `known`.
    pub(crate) async fn ecs_tasks(
        &self,
        cluster: &str,
        filter: TaskFilter<'_>,
        known: &HashSet<String>,
    ) -> Result<Vec<Task>, AwsError> {
        let (service, status) = match filter {
            TaskFilter::StoppedOf(service) => (service, types::DesiredStatus::Stopped),
            TaskFilter::RunningOf(service) => (service, types::DesiredStatus::Running),
        };
        let client = client!(aws_sdk_ecs, self);
        let mut pages = client
            .list_tasks()
            .cluster(cluster)
            .service_name(service)
            .desired_status(status)
            .into_paginator()
            .items()
            .send();
        let mut arns = Vec::new();
        while let Some(arn) = pages.next().await {
            let arn = arn
                .map_err(|failed| self.missing(self.error("ecs:ListTasks", "*", failed), cluster, service))?;
            if !known.contains(&arn) {
                arns.push(arn);
            }
            if arns.len() == MOST {
                break;
            }
        }
        self.ecs_described(cluster, &arns).await
    }

    /// The current state of a task.
    pub(crate) async fn ecs_task(&self, cluster: &str, arn: &str) -> Result<Task, AwsError> {
        let found = self.ecs_described(cluster, &[arn.to_owned()]).await?;
        found.into_iter().next().ok_or_else(|| self.not_found("task", arn))
    }

    /// The tasks with these ARNs. Skips tasks that ECS no longer knows.
    pub(crate) async fn ecs_described(&self, cluster: &str, arns: &[String]) -> Result<Vec<Task>, AwsError> {
        let mut tasks = Vec::with_capacity(arns.len());
        for some in arns.chunks(AT_ONCE) {
            let answer = client!(aws_sdk_ecs, self)
                .describe_tasks()
                .cluster(cluster)
                .set_tasks(Some(some.to_vec()))
                .send()
                .await
                .map_err(|failed| {
                    self.error("ecs:DescribeTasks", some.first().map_or("*", String::as_str), failed)
                })?;
            tasks.extend(answer.tasks.unwrap_or_default().into_iter().map(read));
        }
        Ok(tasks)
    }

    /// Starts a task. The inner error holds ECS's reasons if no task started.
    pub(crate) async fn ecs_run_task(
        &self,
        task: &RunTask,
    ) -> Result<Result<Task, Vec<NotStarted>>, AwsError> {
        let resource = self.arn("ecs", &format!("task-definition/{}", short_name(&task.definition)));
        let mut call = client!(aws_sdk_ecs, self)
            .run_task()
            .cluster(&task.cluster)
            .task_definition(&task.definition)
            .started_by("runner")
            .client_token(&task.token)
            .count(1);
        let placement = &task.placement;
        if let Some(launch_type) =
            placement.launch_type.as_deref().filter(|_| placement.capacity_providers.is_empty())
        {
            call = call.launch_type(launch_type.into());
        }
        for (provider, weight, base) in &placement.capacity_providers {
            let item = types::CapacityProviderStrategyItem::builder()
                .capacity_provider(provider)
                .weight(*weight)
                .base(*base)
                .build()
                .map_err(|failed| unusable(failed.to_string()))?;
            call = call.capacity_provider_strategy(item);
        }
        if let Some(version) = &placement.platform_version {
            call = call.platform_version(version);
        }
        if let Some(network) = &placement.network {
            let public = if network.public_address {
                types::AssignPublicIp::Enabled
            } else {
                types::AssignPublicIp::Disabled
            };
            let groups = (!network.security_groups.is_empty()).then(|| network.security_groups.clone());
            let own = types::AwsVpcConfiguration::builder()
                .set_subnets(Some(network.subnets.clone()))
                .set_security_groups(groups)
                .assign_public_ip(public)
                .build()
                .map_err(|failed| unusable(failed.to_string()))?;
            call = call.network_configuration(
                types::NetworkConfiguration::builder().awsvpc_configuration(own).build(),
            );
        }
        if let Some(container) = &task.container {
            let environment = task
                .environment
                .iter()
                .map(|(name, value)| types::KeyValuePair::builder().name(name).value(value).build());
            let environment: Vec<_> = environment.collect();
            let changed = types::ContainerOverride::builder()
                .name(container)
                .set_command(task.command.clone())
                .set_environment((!environment.is_empty()).then_some(environment))
                .build();
            call = call.overrides(types::TaskOverride::builder().container_overrides(changed).build());
        }
        let answer = call.send().await.map_err(|failed| {
            self.missing(self.error("ecs:RunTask", &resource, failed), &task.cluster, "")
        })?;
        if let Some(started) = answer.tasks.unwrap_or_default().into_iter().next() {
            let started = read(started);
            self.made(&started.arn);
            return Ok(Ok(started));
        }
        let failures = answer.failures.unwrap_or_default().into_iter();
        Ok(Err(failures
            .map(|failure| NotStarted { reason: failure.reason.unwrap_or_default(), detail: failure.detail })
            .collect()))
    }

    pub(crate) async fn ecs_stop_task(&self, cluster: &str, arn: &str, reason: &str) -> Result<(), AwsError> {
        client!(aws_sdk_ecs, self)
            .stop_task()
            .cluster(cluster)
            .task(arn)
            .reason(reason)
            .send()
            .await
            .map_err(|failed| self.error("ecs:StopTask", arn, failed))?;
        Ok(())
    }
}

/// The error for a request that the SDK cannot build.
fn unusable(message: String) -> AwsError {
    AwsError::Service { action: "ecs:RunTask", code: "invalid request".to_owned(), message, transient: false }
}

fn read(task: types::Task) -> Task {
    let container = |container: types::Container| Container {
        name: container.name.unwrap_or_default(),
        digest: container.image_digest,
        exit_code: container.exit_code,
        reason: container.reason,
        health: container.health_status.map(|health| health.as_str().to_owned()),
    };
    Task {
        arn: task.task_arn.unwrap_or_default(),
        definition: task.task_definition_arn.unwrap_or_default(),
        started_by: task.started_by,
        last_status: task.last_status.unwrap_or_default(),
        created: task.created_at.and_then(time),
        stop_code: task.stop_code.map(|code| code.as_str().to_owned()),
        stopped_reason: task.stopped_reason,
        containers: task.containers.unwrap_or_default().into_iter().map(container).collect(),
    }
}
