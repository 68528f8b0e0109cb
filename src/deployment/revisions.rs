//! Deregisters earlier revisions that nothing uses.

use super::outcome::ServiceReport;
use super::{DeployRequest, Deployer, short};
use crate::address::short_name;
use crate::aws::AwsError;
use crate::connections::failure::with_advice;
use crate::ecs::revisions::{Revision, RevisionName, Uses, started_by};
use crate::ecs::service::{ControllerType, Service};
use futures_util::stream::{self, StreamExt, TryStreamExt};

/// How many clusters are read concurrently.
const CLUSTERS: usize = 4;

/// A family of task definitions, and its deployment.
pub(crate) struct Family<'a> {
    pub(crate) name: &'a str,
    /// The cluster's ARN. Other clusters may use the family as well.
    pub(crate) cluster: &'a str,
    /// The deployed revision, as an ARN.
    pub(crate) deployed: &'a str,
    /// The revisions that services can be rolled back to, as ARNs.
    pub(crate) previous: Vec<&'a str>,
}

/// The revisions of a family without the newest ones.
#[derive(Debug, Default)]
pub(crate) struct OlderRevisions {
    /// Unused revisions, as ARNs.
    pub(crate) unused: Vec<String>,
    /// Used revisions as `FAMILY:N`, each with its use.
    pub(crate) used: Vec<(String, String)>,
}

impl Deployer<'_> {
    /// Deregisters unused revisions other than the `keep` newest ones and returns their ARNs. A failed call
    /// causes a warning.
    pub(crate) async fn deregister_unused(
        &self,
        request: &DeployRequest,
        cluster: &str,
        reports: &[ServiceReport],
        keep: u32,
    ) -> Vec<String> {
        let family = Family {
            name: RevisionName::parse(&request.revision).family,
            cluster,
            deployed: &request.revision,
            previous: reports.iter().filter_map(|report| report.previous.as_deref()).collect(),
        };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let older = match self.older_revisions(&family, keep).await {
            Ok(older) => older,
            Err(reason) => {
                let text = format!("all revisions of {} are kept: {reason}", family.name);
                self.events.warn(text).await;
                return Vec::new();
            }
        };
        for (revision, by) in &older.used {
            self.events.note(format!("{revision} is kept: {by}")).await;
        }
        let mut deregistered = Vec::new();
        for arn in older.unused {
            if self.stop.is_cancelled() {
                break;
            }
            let revision = Revision { arn };
            match self.aws.ecs_deregister(&revision).await {
                Ok(()) => {
                    self.events.note(format!("{} was deregistered", revision.short())).await;
                    deregistered.push(revision.arn);
                }
                Err(error) => {
                    let text = format!("could not deregister {}: {}", revision.short(), with_advice(&error));
                    self.events.warn(text).await;
                }
            }
        }
        deregistered
    }

    /// Returns the revisions of a family without the `keep` newest ones. The error says why their use is
    /// unknown.
    pub(crate) async fn older_revisions(
        &self,
        family: &Family<'_>,
        keep: usize,
    ) -> Result<OlderRevisions, String> {
        let revisions = self.aws.ecs_revisions(family.name).await.map_err(with_advice)?;
        let arns: Vec<String> = revisions.into_iter().map(|revision| revision.arn).collect();
        if arns.len() <= keep {
            return Ok(OlderRevisions::default());
        }
        let mut uses = Uses::default();
        uses.add(family.deployed, "it was just deployed");
        for previous in &family.previous {
            uses.add(previous, "it is the rollback target");
        }
        for arn in arns
            .iter()
            .filter(|arn| RevisionName::parse(family.deployed).is_behind(&RevisionName::parse(arn)))
        {
            uses.add(arn, "it is newer than the deployed revision");
        }
        let listed = self.aws.ecs_clusters().await.map_err(with_advice)?;
        let others = listed.iter().map(String::as_str).filter(|cluster| *cluster != family.cluster);
        let clusters: Vec<&str> = std::iter::once(family.cluster).chain(others).collect();
        let reads: Vec<_> = clusters.iter().map(|cluster| self.used_in(cluster, family)).collect();
        let found: Vec<Uses> = stream::iter(reads).buffered(CLUSTERS).try_collect().await?;
        for of_cluster in found {
            uses.join(of_cluster);
        }
        self.used_by_schedules(family, &clusters, &mut uses).await?;
        let (unused, used) = uses.split_unused(&arns, keep);
        Ok(OlderRevisions {
            unused: unused.into_iter().map(ToOwned::to_owned).collect(),
            used: used.into_iter().map(|(arn, by)| (short(arn), by.to_owned())).collect(),
        })
    }

    /// Returns the revisions that services and tasks of a cluster use, including those of other families.
    async fn used_in(&self, cluster: &str, family: &Family<'_>) -> Result<Uses, String> {
        let mut uses = Uses::default();
        let is_other = cluster != family.cluster;
        let short = short_name(cluster);
        let services = match self.aws.ecs_services(cluster).await {
            // It was deleted in the meantime, and only an empty cluster can be.
            Err(AwsError::NotFound { .. }) if is_other => return Ok(uses),
            found => found.map_err(with_advice)?,
        };
        let is_own = |revision: &String| RevisionName::parse(revision).family == family.name;
        for service in services.iter().filter(|service| service.definitions().any(is_own)) {
            let name = if is_other { format!("{short}/{}", service.name) } else { service.name.clone() };
            for revision in service.definitions() {
                uses.add(revision, format!("the service {name} uses it"));
            }
            self.used_by_deployments(cluster, service, &name, &mut uses).await?;
        }
        let by = if is_other { format!("a task in {short} runs it") } else { "a task runs it".to_owned() };
        for revision in self.aws.ecs_revisions_that_run(cluster, family.name).await.map_err(with_advice)? {
            uses.add(&revision, by.as_str());
        }
        Ok(uses)
    }

    /// Adds the revisions of a service's recent deployments and the one that it would be rolled back to.
    /// `name` is its name for users.
    async fn used_by_deployments(
        &self,
        cluster: &str,
        service: &Service,
        name: &str,
        uses: &mut Uses,
    ) -> Result<(), String> {
        if service.controller != ControllerType::Ecs {
            return Err(format!("the rollback target of {name} is unknown, because ECS does not deploy it"));
        }
        for revision in self.aws.ecs_recent(cluster, &service.name).await.map_err(with_advice)? {
            uses.add(&revision, format!("it belongs to a recent deployment of {name}"));
        }
        let successes = self.aws.ecs_successes(cluster, &service.name, 2).await.map_err(with_advice)?;
        if let Some(revision) = successes.into_iter().find(|revision| *revision != service.task_definition) {
            uses.add(&revision, format!("{name} can be rolled back to it"));
        }
        Ok(())
    }

    async fn used_by_schedules(
        &self,
        family: &Family<'_>,
        clusters: &[&str],
        uses: &mut Uses,
    ) -> Result<(), String> {
        for rule in self.aws.rules_of_clusters(clusters).await.map_err(with_advice)? {
            if let Some(revision) = started_by(&rule.target) {
                uses.add(&revision, format!("{} starts it", rule.name()));
            }
        }
        for schedule in self.aws.schedules_of_tasks().await.map_err(with_advice)? {
            match schedule.document.get("Target").and_then(started_by) {
                Some(revision) => uses.add(&revision, format!("{} starts it", schedule.name())),
                None if schedule.document.to_string().contains(family.name) => {
                    return Err(format!("could not read which revision {} starts", schedule.name()));
                }
                None => {}
            }
        }
        Ok(())
    }
}
