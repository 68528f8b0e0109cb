//! What is done once services run their revision: it is looked whether their tasks run the images that were meant, scheduled tasks are
//! pointed to it, and revisions that nobody uses any more are taken out of use.

use super::verify::Missing;
use super::{Deployer, Order, Outcome, Report};
use crate::address::ImageReference;
use crate::aws::AwsError;
use crate::aws::ecs::TaskFilter;
use crate::connections::failure::told;
use crate::ecs::needs::Needs;
use crate::ecs::task::Task;
use crate::ecs::task_definition::described;
use crate::exit::Failure;
use std::collections::{BTreeMap, HashSet};

/// How many tasks with a wrong image are named.
const NAMED: usize = 3;
/// How much of a digest a note shows: its algorithm and twelve digits.
const DIGITS: usize = 19;

/// What is wished for beside the deployment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// How many revisions stay, whether used or not.
    pub(crate) keep_revisions: Option<u32>,
    /// Point the family's scheduled tasks to the revision.
    pub(crate) schedules: bool,
}

/// What was done after a deployment.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// The schedules that were pointed to the revision.
    pub(crate) moved: Vec<String>,
    /// The revisions that were taken out of use, as ARNs.
    pub(crate) deregistered: Vec<String>,
    /// What went wrong. The deployment itself stands.
    pub(crate) failure: Option<Failure>,
}

impl Deployer<'_> {
    /// What is done once all services of an order run their revision.
    pub(crate) async fn after(&self, order: &Order, reports: &[Report], wishes: Wishes) -> After {
        let mut after = After::default();
        let mut wrong = Vec::new();
        for report in reports.iter().filter(|report| report.outcome == Outcome::Deployed) {
            match self.look_at_tasks(order, &report.service).await {
                Ok(found) => wrong.extend(found),
                Err(error) => {
                    let text = format!(
                        "whether the tasks of {} run the images that were meant cannot be told: {}",
                        report.service,
                        told(&error)
                    );
                    self.events.warn(text).await;
                }
            }
        }
        if !wrong.is_empty() {
            let more = wrong.len().saturating_sub(NAMED);
            wrong.truncate(NAMED);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let failure = Failure::step(format!("{}{more}", wrong.join("; ")));
            after.failure =
                Some(failure.help("`runner ecs rollback` gives the service its last revision back"));
            return after;
        }
        if wishes.keep_revisions.is_none() && !wishes.schedules {
            return after;
        }
        let is_through = |report: &Report| matches!(report.outcome, Outcome::Deployed | Outcome::Unchanged);
        if !reports.iter().all(is_through) {
            self.events
                .warn("schedules and earlier revisions stay as they are, because how the deployment goes cannot be told")
                .await;
            return after;
        }
        let first = order.services.first().map(String::as_str).unwrap_or_default();
        let cluster = match self.aws.ecs_service(&order.cluster, first).await {
            Ok(service) => service.cluster,
            Err(error) if wishes.schedules => {
                after.failure = Some(error.into());
                return after;
            }
            Err(error) => {
                let text = format!("all earlier revisions are kept, because {}", told(&error));
                self.events.warn(text).await;
                return after;
            }
        };
        if wishes.schedules {
            (after.moved, after.failure) = self.move_schedules(order, &cluster).await;
        }
        if let Some(keep) = wishes.keep_revisions.filter(|_| !self.stop.is_cancelled()) {
            after.deregistered = self.clean_up(order, &cluster, reports, keep).await;
        }
        after
    }

    /// Looks at the images that the tasks of a service run. Gives a sentence for each that is not the one that was meant.
    async fn look_at_tasks(&self, order: &Order, name: &str) -> Result<Vec<String>, AwsError> {
        let service = self.aws.ecs_service(&order.cluster, name).await?;
        let own = service.primary().filter(|primary| primary.task_definition == order.revision);
        let is_own = |task: &Task| {
            let is_of = own.zip(task.started_by.as_ref()).is_none_or(|(own, by)| own.id == *by);
            task.definition == order.revision && task.last_status == "RUNNING" && is_of
        };
        let mut tasks =
            self.aws.ecs_tasks(&order.cluster, TaskFilter::RunningOf(name), &HashSet::new()).await?;
        tasks.retain(is_own);
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let fields = described(self.aws.ecs_task_definition(&order.revision).await?);
        let mut comparison = Comparison::default();
        for (container, image) in Needs::of(&fields).images {
            let mut meant: Option<Meant> = None;
            for task in &tasks {
                let of = task.containers.iter().find(|one| one.name == container);
                let Some(digest) = of.and_then(|one| one.digest.as_deref()) else { continue };
                let pinned = ImageReference::parse(&image).digest;
                if pinned == Some(digest) {
                    comparison.good(&image, digest);
                    continue;
                }
                let known = match &meant {
                    Some(known) => known,
                    None => meant.insert(self.meant(&image).await),
                };
                comparison.judge(task, &container, &image, digest, known);
            }
        }
        let of = if order.services.len() > 1 { format!("{name}: ") } else { String::new() };
        for warning in comparison.warnings {
            self.events.warn(format!("{of}{warning}")).await;
        }
        let good: Vec<String> = comparison
            .good
            .iter()
            .map(|(image, count)| {
                let tasks = if *count == 1 { "1 task runs".to_owned() } else { format!("{count} tasks run") };
                format!("{tasks} {image}")
            })
            .collect();
        if !good.is_empty() {
            self.events.note(format!("{of}{}", good.join(", "))).await;
        }
        Ok(comparison.wrong)
    }

    /// What an image's name stands for in its registry.
    async fn meant(&self, image: &str) -> Meant {
        match self.inspect(image).await {
            Ok(Some(inspected)) => Meant::Digests(inspected.digests),
            Ok(None) => Meant::Elsewhere,
            Err(Missing::Image) => Meant::Unknown(format!(
                "{image} is not in its repository any more, so what runs cannot be compared"
            )),
            Err(Missing::Unknown(reason)) => {
                Meant::Unknown(format!("what {image} stands for cannot be told: {reason}"))
            }
        }
    }
}

/// What an image's name stands for.
enum Meant {
    /// In ECR: its own digest, and those of the images of an index.
    Digests(Vec<String>),
    /// It is in no registry that is asked.
    Elsewhere,
    /// The registry does not tell.
    Unknown(String),
}

/// What was seen of the tasks of a service.
#[derive(Default)]
struct Comparison {
    /// The images that were meant, with how many tasks run each.
    good: BTreeMap<String, usize>,
    wrong: Vec<String>,
    warnings: Vec<String>,
}

impl Comparison {
    fn good(&mut self, image: &str, digest: &str) {
        let name = image.split('@').next().unwrap_or_default();
        let name =
            name.split_once('/').filter(|(host, _)| host.contains(['.', ':'])).map_or(name, |(_, name)| name);
        let digits: String = digest.chars().take(DIGITS).collect();
        *self.good.entry(format!("{name}@{digits}…")).or_default() += 1;
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// A container whose digest is not simply the one that its task definition names.
    fn judge(&mut self, task: &Task, container: &str, image: &str, digest: &str, meant: &Meant) {
        let pinned = ImageReference::parse(image).digest;
        match (meant, pinned) {
            (Meant::Digests(digests), pinned) if digests.iter().any(|one| one == digest) => {
                self.good(image, pinned.unwrap_or(digest));
            }
            (Meant::Digests(_), Some(pinned)) => self.wrong.push(format!(
                "the container `{container}` of the task {} runs {digest}, and not {pinned}, which was deployed",
                task.id()
            )),
            (Meant::Digests(digests), None) => {
                let now = digests.first().map(String::as_str).unwrap_or_default();
                self.warn(format!(
                    "`{container}` runs {digest}, but {image} stands for {now}: the tag may have moved"
                ));
            }
            (Meant::Elsewhere, Some(pinned)) => self.warn(format!(
                "`{container}` runs {digest}, and its task definition names {pinned}; its registry is not asked whether one is behind the other"
            )),
            (Meant::Elsewhere, None) => {}
            (Meant::Unknown(reason), _) => self.warn(reason.clone()),
        }
    }
}
