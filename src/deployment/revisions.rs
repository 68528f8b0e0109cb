//! Earlier revisions are taken out of use, but for those that somebody may still use.

use super::{Deployer, Order, Report, short};
use crate::address::short_name;
use crate::aws::AwsError;
use crate::connections::failure::told;
use crate::ecs::revisions::{Revision, RevisionName, Uses, started_by};
use crate::ecs::service::{Controller, Service};
use futures_util::stream::{self, StreamExt, TryStreamExt};

/// How many clusters are looked at side by side.
const CLUSTERS: usize = 4;

/// A family, and who deploys it where.
pub(crate) struct Family<'a> {
    pub(crate) name: &'a str,
    /// The cluster's ARN. Others may use the family as well.
    pub(crate) cluster: &'a str,
    /// The revision that was deployed, as an ARN.
    pub(crate) deployed: &'a str,
    /// The revisions that services can go back to, as ARNs.
    pub(crate) previous: Vec<&'a str>,
}

/// The revisions of a family that are older than the newest ones.
#[derive(Debug, Default)]
pub(crate) struct Older {
    /// Those that nobody uses, as ARNs.
    pub(crate) unused: Vec<String>,
    /// The others as `FAMILY:N`, with who uses them.
    pub(crate) used: Vec<(String, String)>,
}

impl Deployer<'_> {
    /// Takes out of use what is older than the `keep` newest revisions and not used. Gives the ARNs. Nothing of it fails a deployment.
    pub(crate) async fn clean_up(
        &self,
        order: &Order,
        cluster: &str,
        reports: &[Report],
        keep: u32,
    ) -> Vec<String> {
        let family = Family {
            name: RevisionName::parse(&order.revision).family,
            cluster,
            deployed: &order.revision,
            previous: reports.iter().filter_map(|report| report.previous.as_deref()).collect(),
        };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let older = match self.older(&family, keep).await {
            Ok(older) => older,
            Err(reason) => {
                let text = format!("all revisions of {} are kept, because {reason}", family.name);
                self.events.warn(text).await;
                return Vec::new();
            }
        };
        for (revision, by) in &older.used {
            self.events.note(format!("{revision} is kept: {by}")).await;
        }
        let mut gone = Vec::new();
        for arn in older.unused {
            if self.stop.is_cancelled() {
                break;
            }
            let revision = Revision { arn };
            match self.aws.ecs_deregister(&revision).await {
                Ok(()) => {
                    self.events.note(format!("{} was deregistered", revision.short())).await;
                    gone.push(revision.arn);
                }
                Err(error) => {
                    let text = format!("{} could not be deregistered: {}", revision.short(), told(&error));
                    self.events.warn(text).await;
                }
            }
        }
        gone
    }

    /// Sorts the older revisions of a family out. The error says why it cannot be told which of them are used.
    pub(crate) async fn older(&self, family: &Family<'_>, keep: usize) -> Result<Older, String> {
        let revisions = self.aws.ecs_revisions(family.name).await.map_err(told)?;
        let arns: Vec<String> = revisions.into_iter().map(|revision| revision.arn).collect();
        // Whoever uses them: there may be nothing to ask for.
        if arns.len() <= keep {
            return Ok(Older::default());
        }
        let mut uses = Uses::default();
        uses.add(family.deployed, "it was deployed now");
        for previous in &family.previous {
            uses.add(previous, "it is the way back");
        }
        for arn in arns
            .iter()
            .filter(|arn| RevisionName::parse(family.deployed).is_behind(&RevisionName::parse(arn)))
        {
            uses.add(arn, "it is newer than what was deployed now");
        }
        let listed = self.aws.ecs_clusters().await.map_err(told)?;
        let others = listed.iter().map(String::as_str).filter(|cluster| *cluster != family.cluster);
        let clusters: Vec<&str> = std::iter::once(family.cluster).chain(others).collect();
        let looks: Vec<_> = clusters.iter().map(|cluster| self.used_in(cluster, family)).collect();
        let found: Vec<Uses> = stream::iter(looks).buffered(CLUSTERS).try_collect().await?;
        for of_cluster in found {
            uses.join(of_cluster);
        }
        self.used_by_schedules(family, &clusters, &mut uses).await?;
        let (unused, used) = uses.split_unused(&arns, keep);
        Ok(Older {
            unused: unused.into_iter().map(ToOwned::to_owned).collect(),
            used: used.into_iter().map(|(arn, by)| (short(arn), by.to_owned())).collect(),
        })
    }

    /// The revisions that services and tasks of a cluster use, of the family or of others.
    async fn used_in(&self, cluster: &str, family: &Family<'_>) -> Result<Uses, String> {
        let mut uses = Uses::default();
        let is_other = cluster != family.cluster;
        let short = short_name(cluster);
        let services = match self.aws.ecs_services(cluster).await {
            // Somebody deleted it, which takes that nothing is in it.
            Err(AwsError::NotFound { .. }) if is_other => return Ok(uses),
            found => found.map_err(told)?,
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
        for revision in self.aws.ecs_revisions_that_run(cluster, family.name).await.map_err(told)? {
            uses.add(&revision, by.as_str());
        }
        Ok(uses)
    }

    /// What a service was deployed with lately, and what it would go back to. People know it as `name`.
    async fn used_by_deployments(
        &self,
        cluster: &str,
        service: &Service,
        name: &str,
        uses: &mut Uses,
    ) -> Result<(), String> {
        if service.controller != Controller::Ecs {
            return Err(format!(
                "ECS does not tell what {name} would go back to, which somebody else deploys"
            ));
        }
        for revision in self.aws.ecs_recent(cluster, &service.name).await.map_err(told)? {
            uses.add(&revision, format!("it is of a recent deployment of {name}"));
        }
        let but = Some(service.task_definition.as_str());
        if let Some(revision) = self.aws.ecs_last_success(cluster, &service.name, but).await.map_err(told)? {
            uses.add(&revision, format!("it is what {name} can go back to"));
        }
        Ok(())
    }

    async fn used_by_schedules(
        &self,
        family: &Family<'_>,
        clusters: &[&str],
        uses: &mut Uses,
    ) -> Result<(), String> {
        for rule in self.aws.rules_of_clusters(clusters).await.map_err(told)? {
            if let Some(revision) = started_by(&rule.target) {
                uses.add(&revision, format!("{} starts it", rule.name()));
            }
        }
        for schedule in self.aws.schedules_of_tasks().await.map_err(told)? {
            match schedule.document.get("Target").and_then(started_by) {
                Some(revision) => uses.add(&revision, format!("{} starts it", schedule.name())),
                None if schedule.document.to_string().contains(family.name) => {
                    return Err(format!("what {} starts cannot be read", schedule.name()));
                }
                None => {}
            }
        }
        Ok(())
    }
}
