//! Services, their deployments and revisions.

use crate::address::{Arn, short_name};
use crate::aws::{Aws, AwsError};
use crate::ecs::service::{
    ControllerType, Counts, Deployment, DeploymentState, Event, Network, Placement, Service,
    ServiceDeployment, TargetGroup, TaskSet,
};
use aws_sdk_ecs::types;
use aws_smithy_types::DateTime;
use aws_smithy_types::retry::RetryConfig;
use jiff::Timestamp;
use std::time::Duration;

/// How many service deployments one call lists; older ones are ignored.
const LATEST: i32 = 20;
/// How many service revisions one call describes.
const REVISIONS: usize = 20;

impl Aws {
    /// The current state of a service, with its events.
    pub(crate) async fn ecs_service(&self, cluster: &str, service: &str) -> Result<Service, AwsError> {
        let answer = client!(aws_sdk_ecs, self)
            .describe_services()
            .cluster(cluster)
            .services(service)
            .send()
            .await
            .map_err(|failed| {
                self.missing(
                    self.error("ecs:DescribeServices", &self.service_arn(cluster, service), failed),
                    cluster,
                    service,
                )
            })?;
        answer
            .services
            .unwrap_or_default()
            .into_iter()
            .map(read)
            .find(|found| found.status != "INACTIVE")
            .ok_or_else(|| self.not_found("service", &format!("{cluster}/{service}")))
    }

    pub(crate) fn service_arn(&self, cluster: &str, service: &str) -> String {
        if Arn::parse(service).is_some() {
            return service.to_owned();
        }
        self.arn("ecs", &format!("service/{}/{service}", short_name(cluster)))
    }

    /// Updates a service to a revision. With `force`, starts new tasks even if the service already runs that revision.
    /// Never retried here: if the response is lost, a second forced update would start a second deployment.
    pub(crate) async fn ecs_update_service(
        &self,
        cluster: &str,
        service: &str,
        revision: &str,
        force: bool,
    ) -> Result<Service, AwsError> {
        const ACTION: &str = "ecs:UpdateService";
        let answer = client!(aws_sdk_ecs, self, RetryConfig::disabled())
            .update_service()
            .cluster(cluster)
            .service(service)
            .task_definition(revision)
            .force_new_deployment(force)
            .send()
            .await
            .map_err(|failed| match self.error(ACTION, &self.service_arn(cluster, service), failed) {
                AwsError::Service { action, code, message, .. }
                    if self.attempts.is_unknown_yet(revision, &code, &message)
                        && !code.starts_with("Service") =>
                {
                    AwsError::Service { action, code, message, transient: true }
                }
                other => self.missing(other, cluster, service),
            })?;
        answer.service.map(read).ok_or_else(|| AwsError::without(ACTION, "service"))
    }

    /// The latest deployments of a service, newest first, with only their ARN, state, target and times.
    pub(crate) async fn ecs_service_deployments(
        &self,
        cluster: &str,
        service: &str,
    ) -> Result<Vec<ServiceDeployment>, AwsError> {
        Ok(self.listed_deployments(cluster, service, None, None).await?.0)
    }

    /// The ARNs of the task definition revisions that were deployed successfully, the last one first, each once. Pages
    /// are read until there are at least `enough`.
    pub(crate) async fn ecs_successes(
        &self,
        cluster: &str,
        service: &str,
        enough: usize,
    ) -> Result<Vec<String>, AwsError> {
        let (mut next, mut found) = (None, Vec::new());
        loop {
            let successful = Some(types::ServiceDeploymentStatus::Successful);
            let (page, more) = self.listed_deployments(cluster, service, successful, next).await?;
            let page = page.into_iter().filter(|deployment| deployment.state == DeploymentState::Successful);
            let targets: Vec<String> = page.filter_map(|deployment| deployment.target).collect();
            for revision in self.ecs_service_revisions(&targets).await? {
                if !found.contains(&revision) {
                    found.push(revision);
                }
            }
            if found.len() >= enough || more.is_none() {
                return Ok(found);
            }
            next = more;
        }
    }

    /// One page of a service's deployments, and the token of the next page.
    async fn listed_deployments(
        &self,
        cluster: &str,
        service: &str,
        state: Option<types::ServiceDeploymentStatus>,
        page: Option<String>,
    ) -> Result<(Vec<ServiceDeployment>, Option<String>), AwsError> {
        let resource = self.service_arn(cluster, service);
        let answer = client!(aws_sdk_ecs, self)
            .list_service_deployments()
            .cluster(cluster)
            .service(service)
            .set_status(state.map(|state| vec![state]))
            .max_results(LATEST)
            .set_next_token(page)
            .send()
            .await
            .map_err(|failed| self.error("ecs:ListServiceDeployments", &resource, failed))?;
        let mut found: Vec<ServiceDeployment> = answer
            .service_deployments
            .unwrap_or_default()
            .into_iter()
            .map(|brief| ServiceDeployment {
                arn: brief.service_deployment_arn.unwrap_or_default(),
                state: brief.status.map(|status| DeploymentState::read(status.as_str())).unwrap_or_default(),
                reason: brief.status_reason,
                created: brief.created_at.or(brief.started_at).and_then(time),
                finished: brief.finished_at.and_then(time),
                target: brief.target_service_revision_arn,
                ..ServiceDeployment::default()
            })
            .collect();
        found.sort_by_key(|deployment| std::cmp::Reverse(deployment.created));
        Ok((found, answer.next_token))
    }

    /// The current state of a service deployment.
    pub(crate) async fn ecs_service_deployment(&self, arn: &str) -> Result<ServiceDeployment, AwsError> {
        let answer = client!(aws_sdk_ecs, self)
            .describe_service_deployments()
            .service_deployment_arns(arn)
            .send()
            .await
            .map_err(|failed| self.error("ecs:DescribeServiceDeployments", arn, failed))?;
        answer
            .service_deployments
            .unwrap_or_default()
            .into_iter()
            .map(read_deployment)
            .next()
            .ok_or_else(|| self.not_found("service deployment", arn))
    }

    /// The ARN of the task definition revision in a service revision.
    pub(crate) async fn ecs_service_revision(&self, arn: &str) -> Result<String, AwsError> {
        let definitions = self.ecs_service_revisions(&[arn.to_owned()]).await?;
        let definition = definitions.into_iter().next();
        definition.ok_or_else(|| self.not_found("service revision", arn))
    }

    /// The ARNs of the task definition revisions in service revisions, in the same order. Skips service revisions that
    /// ECS no longer knows.
    pub(crate) async fn ecs_service_revisions(&self, arns: &[String]) -> Result<Vec<String>, AwsError> {
        let mut definitions = Vec::with_capacity(arns.len());
        for some in arns.chunks(REVISIONS) {
            let answer = client!(aws_sdk_ecs, self)
                .describe_service_revisions()
                .set_service_revision_arns(Some(some.to_vec()))
                .send()
                .await
                .map_err(|failed| {
                    self.error(
                        "ecs:DescribeServiceRevisions",
                        some.first().map_or("*", String::as_str),
                        failed,
                    )
                })?;
            let found = answer.service_revisions.unwrap_or_default();
            let of = |arn: &String| {
                found.iter().find(|revision| revision.service_revision_arn.as_ref() == Some(arn))
            };
            definitions
                .extend(some.iter().filter_map(of).filter_map(|revision| revision.task_definition.clone()));
        }
        Ok(definitions)
    }

    /// Rolls back a service deployment, even if ECS would not roll it back automatically.
    pub(crate) async fn ecs_roll_back(&self, arn: &str) -> Result<(), AwsError> {
        client!(aws_sdk_ecs, self)
            .stop_service_deployment()
            .service_deployment_arn(arn)
            .stop_type(types::StopServiceDeploymentStopType::Rollback)
            .send()
            .await
            .map_err(|failed| self.error("ecs:StopServiceDeployment", arn, failed))?;
        Ok(())
    }
}

impl Aws {
    /// Turns ECS's errors for a missing cluster or service into [`AwsError::NotFound`].
    pub(super) fn missing(&self, failed: AwsError, cluster: &str, service: &str) -> AwsError {
        let AwsError::Service { code, .. } = &failed else {
            return failed;
        };
        match code.as_str() {
            "ClusterNotFoundException" => self.not_found("cluster", cluster),
            "ServiceNotFoundException" | "ServiceNotActiveException" => {
                self.not_found("service", &format!("{cluster}/{service}"))
            }
            _ => failed,
        }
    }
}

pub(crate) fn time(at: DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

/// Converts a service. If CodeDeploy deploys it, its primary task set is current, and its own fields date from its
/// creation.
pub(crate) fn read(mut service: types::Service) -> Service {
    let sets = service.task_sets.take().unwrap_or_default();
    let primary = sets.iter().find(|set| set.status.as_deref() == Some("PRIMARY"));
    let has_controller = service
        .deployment_controller
        .as_ref()
        .is_some_and(|controller| controller.r#type != types::DeploymentControllerType::Ecs);
    if let Some(primary) = primary.filter(|_| has_controller) {
        service.task_definition = primary.task_definition.clone().or(service.task_definition);
        service.platform_version = service.platform_version.or_else(|| primary.platform_version.clone());
        let own = service.capacity_provider_strategy.filter(|own| !own.is_empty());
        service.capacity_provider_strategy = own.or_else(|| primary.capacity_provider_strategy.clone());
        let own = service.load_balancers.filter(|own| !own.is_empty());
        service.load_balancers = own.or_else(|| primary.load_balancers.clone());
    }
    let controller = service.deployment_controller.map(|controller| controller.r#type);
    let shifting = service.deployment_configuration.as_ref().map(shifting).unwrap_or_default();
    let hooks = service.deployment_configuration.as_ref().map(|all| all.lifecycle_hooks().to_vec());
    let pauses = hooks
        .unwrap_or_default()
        .into_iter()
        .filter(|hook| hook.target_type == Some(types::DeploymentLifecycleHookTargetType::Pause));
    let stages = pauses.flat_map(|hook| hook.lifecycle_stages.unwrap_or_default());
    let pauses = stages.map(|stage| stage.as_str().to_owned()).collect();
    let breaker =
        service.deployment_configuration.and_then(|configuration| configuration.deployment_circuit_breaker);
    let target = |balancer: types::LoadBalancer| {
        Some(TargetGroup {
            group: balancer.target_group_arn?,
            container: balancer.container_name.unwrap_or_default(),
            port: balancer.container_port.unwrap_or_default(),
        })
    };
    let event = |event: types::ServiceEvent| Event {
        id: event.id.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    };
    Service {
        arn: service.service_arn.unwrap_or_default(),
        name: service.service_name.unwrap_or_default(),
        cluster: service.cluster_arn.unwrap_or_default(),
        status: service.status.unwrap_or_default(),
        desired: service.desired_count,
        running: service.running_count,
        pending: service.pending_count,
        task_definition: service.task_definition.unwrap_or_default(),
        controller: match controller {
            Some(types::DeploymentControllerType::CodeDeploy) => ControllerType::CodeDeploy,
            Some(types::DeploymentControllerType::External) => ControllerType::External,
            _ => ControllerType::Ecs,
        },
        deployments: service.deployments.unwrap_or_default().into_iter().map(read_own).collect(),
        task_sets: sets.into_iter().map(read_set).collect(),
        events: service.events.unwrap_or_default().into_iter().map(event).collect(),
        current_deployment: service.current_service_deployment,
        shifting,
        pauses,
        breaker_rolls_back: breaker.is_some_and(|breaker| breaker.enable && breaker.rollback),
        targets: service.load_balancers.unwrap_or_default().into_iter().filter_map(target).collect(),
        placement: Placement {
            launch_type: service.launch_type.map(|launch_type| launch_type.as_str().to_owned()),
            capacity_providers: service
                .capacity_provider_strategy
                .unwrap_or_default()
                .into_iter()
                .map(|item| (item.capacity_provider, item.weight, item.base))
                .collect(),
            platform_version: service.platform_version,
            network: service.network_configuration.and_then(|network| network.awsvpc_configuration).map(
                |network| Network {
                    public_address: network.assign_public_ip == Some(types::AssignPublicIp::Enabled),
                    subnets: network.subnets,
                    security_groups: network.security_groups.unwrap_or_default(),
                },
            ),
        },
    }
}

/// How long a deployment shifts traffic and then keeps the earlier tasks. Source: the API reference of Amazon ECS,
/// `DeploymentConfiguration`.
fn shifting(configuration: &types::DeploymentConfiguration) -> Duration {
    use types::DeploymentStrategy::{BlueGreen, Canary, Linear};
    let minutes = |minutes: Option<i32>, default: u64| {
        Duration::from_mins(minutes.map_or(default, |minutes| u64::try_from(minutes).unwrap_or_default()))
    };
    let bake = minutes(configuration.bake_time_in_minutes, 0);
    match configuration.strategy {
        Some(BlueGreen) => bake,
        Some(Canary) => {
            let canary = configuration.canary_configuration.as_ref();
            minutes(canary.and_then(|canary| canary.canary_bake_time_in_minutes), 10) + bake
        }
        Some(Linear) => {
            let linear = configuration.linear_configuration.as_ref();
            let per_cent = linear.and_then(|linear| linear.step_percent).unwrap_or(10.0).max(1.0);
            let steps = std::iter::successors(Some(per_cent), |shifted| Some(shifted + per_cent));
            let waits = steps.take_while(|shifted| *shifted < 100.0).map(|_| ());
            let wait = minutes(linear.and_then(|linear| linear.step_bake_time_in_minutes), 6);
            waits.fold(bake, |sum, ()| sum + wait)
        }
        _ => Duration::ZERO,
    }
}

fn read_set(set: types::TaskSet) -> TaskSet {
    TaskSet {
        id: set.id.unwrap_or_default(),
        task_definition: set.task_definition.unwrap_or_default(),
        made_by: set.external_id,
        created: set.created_at.and_then(time),
    }
}

fn read_own(deployment: types::Deployment) -> Deployment {
    Deployment {
        id: deployment.id.unwrap_or_default(),
        status: deployment.status.unwrap_or_default(),
        task_definition: deployment.task_definition.unwrap_or_default(),
        counts: Counts {
            desired: deployment.desired_count,
            running: deployment.running_count,
            pending: deployment.pending_count,
        },
        failed: deployment.failed_tasks,
        rollout: deployment.rollout_state.map(|state| state.as_str().to_owned()),
        reason: deployment.rollout_state_reason,
        created: deployment.created_at.and_then(time),
    }
}

fn read_deployment(deployment: types::ServiceDeployment) -> ServiceDeployment {
    let target = deployment.target_service_revision;
    let counts = target.as_ref().map(|target| Counts {
        desired: target.requested_task_count,
        running: target.running_task_count,
        pending: target.pending_task_count,
    });
    let alarms = deployment.alarms;
    let waits = |hook: &types::DeploymentLifecycleHookDetail| {
        hook.status == Some(types::DeploymentLifecycleHookStatus::AwaitingAction)
    };
    let hooks = deployment.lifecycle_hook_details.unwrap_or_default().into_iter();
    ServiceDeployment {
        arn: deployment.service_deployment_arn.unwrap_or_default(),
        state: deployment.status.map(|status| DeploymentState::read(status.as_str())).unwrap_or_default(),
        reason: deployment.status_reason,
        stage: deployment.lifecycle_stage.map(|stage| stage.as_str().to_owned()),
        created: deployment.created_at.and_then(time),
        finished: deployment.finished_at.and_then(time),
        counts: counts.unwrap_or_default(),
        traffic: target.as_ref().and_then(|target| target.requested_production_traffic_weight),
        target: target.and_then(|target| target.arn),
        breaker: deployment
            .deployment_circuit_breaker
            .filter(|breaker| breaker.threshold > 0)
            .map(|breaker| (breaker.failure_count, breaker.threshold)),
        alarms: alarms.as_ref().and_then(|alarms| alarms.alarm_names.clone()).unwrap_or_default(),
        triggered: alarms.and_then(|alarms| alarms.triggered_alarm_names).unwrap_or_default(),
        paused_by: hooks.filter(waits).map(|hook| hook.hook_id.unwrap_or_default()).collect(),
        rollback_reason: deployment.rollback.and_then(|rollback| rollback.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ecs::types::{
        CanaryConfiguration, DeploymentConfiguration, DeploymentStrategy, LinearConfiguration,
    };

    #[test]
    fn the_configuration_says_how_long_traffic_shifts() {
        let with = |strategy: DeploymentStrategy| DeploymentConfiguration::builder().strategy(strategy);
        let minutes = |configuration: DeploymentConfiguration| shifting(&configuration).as_secs() / 60;
        let bake = |strategy| with(strategy).bake_time_in_minutes(5).build();
        assert_eq!(minutes(bake(DeploymentStrategy::Rolling)), 0);
        assert_eq!(minutes(bake(DeploymentStrategy::BlueGreen)), 5);
        assert_eq!(minutes(bake(DeploymentStrategy::Canary)), 15);
        assert_eq!(minutes(bake(DeploymentStrategy::Linear)), 59);
        let canary = CanaryConfiguration::builder().canary_bake_time_in_minutes(30).build();
        assert_eq!(minutes(with(DeploymentStrategy::Canary).canary_configuration(canary).build()), 30);
        let linear = |per_cent| {
            let linear = LinearConfiguration::builder().step_percent(per_cent).step_bake_time_in_minutes(2);
            with(DeploymentStrategy::Linear).linear_configuration(linear.build()).build()
        };
        assert_eq!([100.0, 50.0, 30.0].map(|per_cent| minutes(linear(per_cent))), [0, 2, 6]);
    }
}
