//! What follows a successful deployment: the images of the running tasks are verified, schedules are moved to
//! the revision, and unused revisions are deregistered.

use super::outcome::{Outcome, ServiceReport};
use super::verify::InspectError;
use super::{DeployRequest, Deployer};
use crate::address::ImageReference;
use crate::aws::AwsError;
use crate::aws::ecs::TaskFilter;
use crate::connections::failure::with_advice;
use crate::ecs::needs::Needs;
use crate::ecs::task::Task;
use crate::ecs::task_definition::described;
use crate::exit::Failure;
use std::collections::{BTreeMap, HashSet};

/// How many tasks with a wrong image are named.
const MAX_NAMED: usize = 3;
/// How much of a digest a note shows: the algorithm and twelve digits.
const DIGEST_LENGTH: usize = 19;

/// The options for what follows a deployment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AfterDeploy {
    /// How many of the newest revisions are kept, used or not.
    pub(crate) keep_revisions: Option<u32>,
    /// Move the family's schedules to the revision.
    pub(crate) schedules: bool,
}

/// What was done after a deployment, or would be.
#[derive(Debug, Default)]
pub(crate) struct FollowUp {
    /// The schedules that start the revision now.
    pub(crate) moved: Vec<String>,
    /// The deregistered revisions, as ARNs.
    pub(crate) deregistered: Vec<String>,
    /// What went wrong. The deployment itself is not rolled back.
    pub(crate) failure: Option<Failure>,
}

impl Deployer<'_> {
    /// Follows up on a deployment once all its services run the revision.
    pub(crate) async fn follow_up(&self, request: &DeployRequest, reports: &[ServiceReport]) -> FollowUp {
        let mut follow_up =
            FollowUp { failure: self.verify_images(request, reports).await, ..FollowUp::default() };
        let after = request.options.after;
        if follow_up.failure.is_some() || (after.keep_revisions.is_none() && !after.schedules) {
            return follow_up;
        }
        let is_confirmed =
            |report: &ServiceReport| matches!(report.outcome, Outcome::Deployed | Outcome::Unchanged);
        if !reports.iter().all(is_confirmed) {
            let text = "schedules and earlier revisions stay unchanged, because the deployment's progress is unknown";
            self.events.warn(text).await;
            return follow_up;
        }
        let first = request.target.services.first().map(String::as_str).unwrap_or_default();
        let cluster = match self.known_service(&request.target.cluster, first).await {
            Ok(service) => service.cluster,
            Err(error) if after.schedules => {
                follow_up.failure = Some(error.into());
                return follow_up;
            }
            Err(error) => {
                self.events.warn(format!("all earlier revisions are kept: {}", with_advice(&error))).await;
                return follow_up;
            }
        };
        if after.schedules {
            (follow_up.moved, follow_up.failure) = self.move_schedules(request, &cluster).await;
        }
        if let Some(keep) = after.keep_revisions.filter(|_| !self.stop.is_cancelled()) {
            follow_up.deregistered = self.deregister_unused(request, &cluster, reports, keep).await;
        }
        follow_up
    }

    /// Verifies that the tasks of deployed services run the deployed images. Returns a failure that names
    /// those that do not.
    async fn verify_images(&self, request: &DeployRequest, reports: &[ServiceReport]) -> Option<Failure> {
        let mut wrong = Vec::new();
        for report in reports.iter().filter(|report| report.outcome == Outcome::Deployed) {
            match self.wrong_images(request, &report.service).await {
                Ok(found) => wrong.extend(found),
                Err(error) => {
                    let (service, cause) = (&report.service, with_advice(&error));
                    let text = format!(
                        "could not verify that the tasks of {service} run the deployed images: {cause}"
                    );
                    self.events.warn(text).await;
                }
            }
        }
        if wrong.is_empty() {
            return None;
        }
        let more = wrong.len().saturating_sub(MAX_NAMED);
        wrong.truncate(MAX_NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let failure = Failure::step(format!("{}{more}", wrong.join("; ")));
        Some(failure.help("`runner ecs rollback` rolls the service back"))
    }

    /// Compares the images that the tasks of a service run with the deployed ones. Returns a sentence for
    /// each wrong one.
    async fn wrong_images(&self, request: &DeployRequest, name: &str) -> Result<Vec<String>, AwsError> {
        let cluster = &request.target.cluster;
        let service = self.known_service(cluster, name).await?;
        let own = service.primary().filter(|primary| primary.task_definition == request.revision);
        let is_own = |task: &Task| {
            let is_of = own.zip(task.started_by.as_ref()).is_none_or(|(own, by)| own.id == *by);
            task.definition == request.revision && task.last_status == "RUNNING" && is_of
        };
        let mut tasks = self.aws.ecs_tasks(cluster, TaskFilter::RunningOf(name), &HashSet::new()).await?;
        tasks.retain(is_own);
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let fields = described(self.aws.ecs_task_definition(&request.revision).await?);
        let mut comparison = Comparison::default();
        for (container, image) in Needs::of(&fields).images {
            let mut deployed: Option<Deployed> = None;
            for task in &tasks {
                let running = task.containers.iter().find(|one| one.name == container);
                let Some(digest) = running.and_then(|one| one.digest.as_deref()) else { continue };
                let pinned = ImageReference::parse(&image).digest;
                if pinned == Some(digest) {
                    comparison.matches(&image, digest);
                    continue;
                }
                let known = match &deployed {
                    Some(known) => known,
                    None => deployed.insert(self.deployed_image(&image).await),
                };
                comparison.compare(task, &container, &image, digest, known);
            }
        }
        let prefix = if request.target.services.len() > 1 { format!("{name}: ") } else { String::new() };
        for warning in comparison.warnings {
            self.events.warn(format!("{prefix}{warning}")).await;
        }
        let matching: Vec<String> = comparison
            .matching
            .iter()
            .map(|(image, count)| {
                let tasks = if *count == 1 { "1 task runs".to_owned() } else { format!("{count} tasks run") };
                format!("{tasks} {image}")
            })
            .collect();
        if !matching.is_empty() {
            self.events.note(format!("{prefix}{}", matching.join(", "))).await;
        }
        Ok(comparison.wrong)
    }

    /// Looks up the digests of an image's name in its registry.
    async fn deployed_image(&self, image: &str) -> Deployed {
        match self.inspect(image).await {
            Ok(Some(inspected)) => Deployed::Digests(inspected.digests),
            Ok(None) => Deployed::Elsewhere,
            Err(InspectError::NotFound) => Deployed::Unknown(format!(
                "{image} is no longer in its repository, so the running digest cannot be verified"
            )),
            Err(InspectError::Unknown(reason)) => {
                Deployed::Unknown(format!("could not look up the digest of {image}: {reason}"))
            }
        }
    }
}

/// The deployed image of a container.
enum Deployed {
    /// In ECR: its own digest, and those of the images of an index.
    Digests(Vec<String>),
    /// It is in a registry that is not asked.
    Elsewhere,
    /// The registry could not be asked.
    Unknown(String),
}

/// Compares running digests with deployed images.
#[derive(Default)]
struct Comparison {
    /// The images that are as deployed, and how many tasks run each.
    matching: BTreeMap<String, usize>,
    wrong: Vec<String>,
    warnings: Vec<String>,
}

impl Comparison {
    fn matches(&mut self, image: &str, digest: &str) {
        let name = image.split('@').next().unwrap_or_default();
        let name =
            name.split_once('/').filter(|(host, _)| host.contains(['.', ':'])).map_or(name, |(_, name)| name);
        let digits: String = digest.chars().take(DIGEST_LENGTH).collect();
        *self.matching.entry(format!("{name}@{digits}…")).or_default() += 1;
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Compares a digest that differs from the one that the task definition names, if it names one.
    fn compare(&mut self, task: &Task, container: &str, image: &str, digest: &str, deployed: &Deployed) {
        let pinned = ImageReference::parse(image).digest;
        match (deployed, pinned) {
            (Deployed::Digests(digests), pinned) if digests.iter().any(|one| one == digest) => {
                self.matches(image, pinned.unwrap_or(digest));
            }
            (Deployed::Digests(_), Some(pinned)) => self.wrong.push(format!(
                "the container `{container}` of the task {} runs {digest} instead of the deployed {pinned}",
                task.id()
            )),
            (Deployed::Digests(digests), None) => {
                let now = digests.first().map(String::as_str).unwrap_or_default();
                self.warn(format!(
                    "`{container}` runs {digest}, but {image} is {now} now: the tag may have moved"
                ));
            }
            (Deployed::Elsewhere, Some(pinned)) => self.warn(format!(
                "`{container}` runs {digest}, but its task definition names {pinned}; \
                 runner does not ask its registry whether they belong together"
            )),
            (Deployed::Elsewhere, None) => {}
            (Deployed::Unknown(reason), _) => self.warn(reason.clone()),
        }
    }
}
