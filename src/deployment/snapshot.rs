//! The services of a deployment as they are before it.

use super::{Deployer, ServiceSet};
use crate::aws::AwsError;
use crate::connections::failure::with_advice;
use crate::ecs::service::{ControllerType, Service};
use crate::exit::Failure;
use futures_util::future::join_all;
use std::time::Duration;

/// The delay before the second look at a service that ECS suddenly does not know.
const DOUBT: Duration = Duration::from_secs(2);

pub(crate) struct ServiceSnapshot {
    pub(crate) service: Service,
    /// The revision to roll back to, as an ARN: the last one that was deployed successfully.
    pub(crate) previous: Option<String>,
    /// The ARNs of its service deployments, if ECS listed them.
    pub(crate) deployments: Option<Vec<String>>,
    /// Listing service deployments is worth another attempt.
    pub(crate) may_list_deployments: bool,
}

impl Deployer<'_> {
    async fn snapshot(&self, cluster: &str, name: &str) -> Result<ServiceSnapshot, Failure> {
        let service = self.aws.ecs_service(cluster, name).await?;
        deployable(&service)?;
        match service.controller {
            ControllerType::Ecs => {}
            ControllerType::CodeDeploy => {
                return Err(Failure::usage(format!("the service {name} is deployed by CodeDeploy")).help(
                    "add its application and group to the pipeline's `deploy` step: \
                     `code-deploy: { application: …, group: … }`",
                ));
            }
            ControllerType::External => {
                return Err(Failure::usage(format!(
                    "the service {name} is deployed by an external controller"
                ))
                .help("runner deploys services whose controller is ECS or CodeDeploy"));
            }
        }
        let (mut deployments, mut may_list_deployments) = (None, true);
        match self.aws.ecs_service_deployments(cluster, name).await {
            Ok(listed) => {
                deployments = Some(listed.into_iter().map(|deployment| deployment.arn).collect());
            }
            Err(error) if error.is_transient() => {}
            Err(error) => {
                may_list_deployments = false;
                self.warn_no_service_deployments(name, &error).await;
            }
        }
        let previous = match &deployments {
            Some(_) => {
                let successes = self.aws.ecs_successes(cluster, name, 1).await;
                successes.ok().and_then(|successes| successes.into_iter().next())
            }
            None => None,
        };
        let previous = previous.or_else(|| deployed_revision(&service, deployments.is_none()));
        Ok(ServiceSnapshot { service, previous, deployments, may_list_deployments })
    }

    /// Reads a service that ECS knew before. A single response that it is missing is not believed.
    pub(crate) async fn known_service(&self, cluster: &str, name: &str) -> Result<Service, AwsError> {
        match self.aws.ecs_service(cluster, name).await {
            Err(AwsError::NotFound { .. }) => {
                tokio::time::sleep(self.poll.unwrap_or(DOUBT)).await;
                self.aws.ecs_service(cluster, name).await
            }
            other => other,
        }
    }

    pub(crate) async fn warn_no_service_deployments(&self, service: &str, error: &AwsError) {
        let text = format!(
            "could not list the service deployments of {service}; falling back to the service's own status: {}",
            with_advice(error)
        );
        if matches!(error, AwsError::Denied { .. }) {
            self.events.warn(text).await;
        } else {
            self.events.note(text).await;
        }
    }

    /// Reads the services of a deployment before anything is changed.
    pub(crate) async fn snapshots(&self, target: &ServiceSet) -> Result<Vec<ServiceSnapshot>, Failure> {
        let snapshots = join_all(target.services.iter().map(|name| self.snapshot(&target.cluster, name)));
        let snapshots = tokio::select! {
            snapshots = snapshots => snapshots,
            () = self.stop.cancelled() => return Err(Failure::stopped()),
        };
        let snapshots: Vec<ServiceSnapshot> = snapshots.into_iter().collect::<Result<_, _>>()?;
        for (at, snapshot) in snapshots.iter().enumerate() {
            if snapshots[..at].iter().any(|other| other.service.arn == snapshot.service.arn) {
                let message = format!("the service {} is named twice", snapshot.service.name);
                return Err(Failure::usage(message));
            }
        }
        Ok(snapshots)
    }
}

/// Fails if ECS is deleting a service. It would refuse to update it.
pub(crate) fn deployable(service: &Service) -> Result<(), Failure> {
    if service.status == "ACTIVE" {
        return Ok(());
    }
    let (name, status) = (&service.name, &service.status);
    Err(Failure::environment(format!("the service {name} is being deleted: its status is {status}"))
        .help("create it again once it is gone (`aws ecs wait services-inactive`), or correct its name"))
}

/// The revision that a service runs, as an ARN. Fails if the service has none of its own.
pub(crate) fn definition_of(service: &Service) -> Result<&str, Failure> {
    if !service.task_definition.is_empty() {
        return Ok(&service.task_definition);
    }
    let (name, controller) = (&service.name, service.controller);
    let reason = match controller {
        ControllerType::External => "an external controller deploys it, with task sets",
        ControllerType::CodeDeploy | ControllerType::Ecs => "nothing has been deployed to it yet",
    };
    Err(Failure::environment(format!("the service {name} has no task definition of its own: {reason}"))
        .help("name a family or a file instead of the service"))
}

/// Returns the deployed revision by the service's own status. During a deployment that is the revision before
/// it. Without other sources (`is_only_source`) the revision of a running deployment is better than none.
fn deployed_revision(service: &Service, is_only_source: bool) -> Option<String> {
    let primary = service.primary();
    let rollout = primary.and_then(|primary| primary.rollout.as_deref());
    let active = service.deployments.iter().find(|deployment| deployment.status == "ACTIVE");
    let revision = match (primary, rollout) {
        (None, _) | (_, None | Some("COMPLETED")) => Some(&service.task_definition),
        _ => active.map(|before| &before.task_definition),
    };
    let is_usable = is_only_source && rollout != Some("FAILED");
    let revision = revision.or_else(|| Some(&service.task_definition).filter(|_| is_usable));
    revision.filter(|revision| !revision.is_empty()).cloned()
}
