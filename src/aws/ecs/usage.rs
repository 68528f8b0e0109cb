//! The users of task definition revisions: services, tasks and recent deployments.

use super::services::read;
use crate::aws::{Aws, AwsError};
use crate::ecs::service::Service;
use aws_sdk_ecs::types;
use std::collections::BTreeSet;

/// How many services one call lists.
const LISTED: i32 = 100;
/// How many services one call describes.
const SERVICES: usize = 10;
/// How many of a service's deployments count as recent.
const RECENT: usize = 5;

impl Aws {
    /// The ARNs of all clusters of the account in the region.
    pub(crate) async fn ecs_clusters(&self) -> Result<Vec<String>, AwsError> {
        client!(aws_sdk_ecs, self)
            .list_clusters()
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .map_err(|failed| self.error("ecs:ListClusters", "*", failed))
    }

    /// The services of a cluster that are not deleted.
    pub(crate) async fn ecs_services(&self, cluster: &str) -> Result<Vec<Service>, AwsError> {
        let client = client!(aws_sdk_ecs, self);
        let arns: Vec<String> = client
            .list_services()
            .cluster(cluster)
            .max_results(LISTED)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .map_err(|failed| self.missing(self.error("ecs:ListServices", "*", failed), cluster, ""))?;
        let mut services = Vec::with_capacity(arns.len());
        for some in arns.chunks(SERVICES) {
            let resource = self.service_arn(cluster, "*");
            let answer = client
                .describe_services()
                .cluster(cluster)
                .set_services(Some(some.to_vec()))
                .send()
                .await
                .map_err(|failed| self.error("ecs:DescribeServices", &resource, failed))?;
            services.extend(answer.services.unwrap_or_default().into_iter().map(read));
        }
        services.retain(|service| service.status != "INACTIVE");
        Ok(services)
    }

    /// The ARNs of the revisions of a family that tasks of a cluster run or will run. Reads every page of tasks.
    pub(crate) async fn ecs_revisions_that_run(
        &self,
        cluster: &str,
        family: &str,
    ) -> Result<BTreeSet<String>, AwsError> {
        let client = client!(aws_sdk_ecs, self);
        let arns: Vec<String> = client
            .list_tasks()
            .cluster(cluster)
            .family(family)
            .desired_status(types::DesiredStatus::Running)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .map_err(|failed| self.missing(self.error("ecs:ListTasks", "*", failed), cluster, ""))?;
        let mut revisions = BTreeSet::new();
        for task in self.ecs_described(cluster, &arns).await? {
            revisions.insert(task.definition);
        }
        Ok(revisions)
    }

    /// The ARNs of the revisions that the latest deployments of a service replaced and deployed, whatever their result.
    pub(crate) async fn ecs_recent(&self, cluster: &str, service: &str) -> Result<Vec<String>, AwsError> {
        let recent = self.ecs_service_deployments(cluster, service).await?;
        let recent: Vec<String> = recent.into_iter().take(RECENT).map(|deployment| deployment.arn).collect();
        self.ecs_service_revisions(&self.revisions_of_deployments(recent).await?).await
    }

    /// The source, target and rollback service revisions of service deployments.
    async fn revisions_of_deployments(&self, deployments: Vec<String>) -> Result<Vec<String>, AwsError> {
        let Some(first) = deployments.first().cloned() else { return Ok(Vec::new()) };
        let answer = client!(aws_sdk_ecs, self)
            .describe_service_deployments()
            .set_service_deployment_arns(Some(deployments))
            .send()
            .await
            .map_err(|failed| self.error("ecs:DescribeServiceDeployments", &first, failed))?;
        let mut revisions = Vec::new();
        for deployment in answer.service_deployments.unwrap_or_default() {
            revisions.extend(deployment.target_service_revision.and_then(|target| target.arn));
            let sources = deployment.source_service_revisions.unwrap_or_default();
            revisions.extend(sources.into_iter().filter_map(|source| source.arn));
            revisions.extend(deployment.rollback.and_then(|rollback| rollback.service_revision_arn));
        }
        revisions.sort();
        revisions.dedup();
        Ok(revisions)
    }
}
