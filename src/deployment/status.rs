//! What a service runs, and its last deployments.

use super::Deployer;
use crate::connections::failure::with_advice;
use crate::ecs::needs::Needs;
use crate::ecs::service::{DeploymentState, Service, ServiceDeployment};
use crate::ecs::task_definition::described;
use crate::exit::Failure;
use jiff::Timestamp;
use serde_json::Value;

/// How many past deployments are shown.
const MAX_DEPLOYMENTS: usize = 5;

#[derive(Debug)]
pub(crate) struct ServiceStatus {
    pub(crate) service: Service,
    /// Newest first.
    pub(crate) deployments: Vec<PastDeployment>,
    pub(crate) containers: Vec<RunningContainer>,
}

#[derive(Debug)]
pub(crate) struct PastDeployment {
    pub(crate) deployment: ServiceDeployment,
    /// The revision that it deployed, as an ARN, if ECS reports it.
    pub(crate) revision: Option<String>,
}

/// A container of the revision that a service runs.
#[derive(Debug)]
pub(crate) struct RunningContainer {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The commit that the image was built from, if a label names it.
    pub(crate) commit: Option<String>,
}

impl Deployer<'_> {
    pub(crate) async fn status(&self, cluster: &str, name: &str) -> Result<ServiceStatus, Failure> {
        let service = self.aws.ecs_service(cluster, name).await?;
        let listed = match self.aws.ecs_service_deployments(cluster, name).await {
            Ok(listed) => listed,
            Err(error) => {
                let text = format!("could not list the last deployments: {}", with_advice(error));
                self.events.warn(text).await;
                Vec::new()
            }
        };
        let mut deployments = Vec::new();
        for deployment in listed.into_iter().take(MAX_DEPLOYMENTS) {
            let revision = match &deployment.target {
                Some(target) => self.aws.ecs_service_revision(target).await.ok(),
                None => None,
            };
            deployments.push(PastDeployment { deployment, revision });
        }
        let document = match service.task_definition.as_str() {
            "" => Value::Null,
            revision => self.aws.ecs_task_definition(revision).await?,
        };
        let mut containers = Vec::new();
        for (name, image) in Needs::of(&described(document)).images {
            let inspected = self.inspect(&image).await.ok().flatten();
            let commit = inspected.and_then(|inspected| inspected.commit);
            containers.push(RunningContainer { name, image, commit });
        }
        Ok(ServiceStatus { service, deployments, containers })
    }
}

impl ServiceStatus {
    /// Since when the service runs its revision: the end of the deployment that brought it, or its start if
    /// the end is unknown.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        let Self { service, deployments, .. } = self;
        let deployed = |past: &&PastDeployment| {
            past.deployment.state == DeploymentState::Successful
                && past.revision.as_ref() == Some(&service.task_definition)
        };
        let finished = deployments.iter().find(deployed).and_then(|past| past.deployment.finished);
        let set = service.task_sets.iter().find(|set| set.task_definition == service.task_definition);
        finished
            .or_else(|| service.primary().and_then(|primary| primary.created))
            .or_else(|| set.and_then(|set| set.created))
    }

    /// The commit that the service runs.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.containers.iter().find_map(|container| container.commit.as_deref())
    }
}
