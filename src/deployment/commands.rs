//! What `runner ecs` asks of Amazon ECS.

use super::{
    After, Before, Deployer, Family, Order, Registered, Registration, Report, Wishes, failure_of, short,
};
use crate::aws::{Aws, AwsError};
use crate::connections::failure::told;
use crate::connections::{Access, Connections, Settings};
use crate::ecs::diff::compare;
use crate::ecs::needs::Needs;
use crate::ecs::revisions::RevisionName;
use crate::ecs::service::{Service, ServiceDeployment, State};
use crate::ecs::task_definition::{Patch, Request, described};
use crate::engine::Cancellation;
use crate::event::Events;
use crate::exit::{Failure, chain};
use crate::language::pipeline::model::OnFailure;
use crate::secret::Masks;
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// The way out where there is no way back.
const ANY_REVISION: &str = "`runner ecs deploy --task-definition FAMILY:N` deploys any revision";
/// How many deployments `status` shows.
const SHOWN: usize = 5;

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// How connections are made.
    pub(crate) settings: &'a Settings,
    /// What is kept out of everything that people see.
    pub(crate) masks: &'a Masks,
    /// Who hears of what happens.
    pub(crate) events: &'a Events,
    /// How it is stopped.
    pub(crate) cancellation: &'a Cancellation,
}

/// The services of a cluster that a command is about.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) cluster: String,
    pub(crate) services: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Base {
    /// A document, from which a revision is registered.
    Document(Value),
    /// A revision that is registered: a family, `FAMILY:N` or an ARN.
    Registered(String),
    /// What the first of the services runs.
    Running,
}

/// How services are deployed.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// How long it may take, where somebody says it.
    pub(crate) wait: Option<Duration>,
    /// What happens to a deployment that fails.
    pub(crate) on_failure: OnFailure,
    /// Register and deploy also where nothing differs.
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// What is wished for beside it.
    pub(crate) wishes: Wishes,
}

/// What a service would get.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) service: String,
    /// The revision that it has, as an ARN.
    pub(crate) has: String,
    /// The revision that it would get, as an ARN; the family of one that would be registered.
    pub(crate) gets: String,
}

/// What a command did, or would do.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The revision: an ARN, or of a dry run that would register one, its family.
    pub(crate) revision: String,
    /// It was, or would be, registered.
    pub(crate) registers: bool,
    /// What changes in the task definition, as a unified diff.
    pub(crate) difference: Option<String>,
    /// What would be done.
    pub(crate) planned: Vec<Planned>,
    pub(crate) reports: Vec<Report>,
    /// What was done after that, or would be.
    pub(crate) after: After,
}

impl Done {
    /// Nothing, or what went wrong.
    pub(crate) fn failure(&self) -> Option<Failure> {
        failure_of(&self.reports).or_else(|| self.after.failure.clone())
    }
}

impl Session<'_> {
    /// How a request differs from what a service runs, as a unified diff; nothing where both mean the same.
    pub(crate) async fn difference(
        &self,
        cluster: &str,
        service: &str,
        request: &Request,
    ) -> Result<Option<String>, Failure> {
        let connections = Connections::alone(self.settings, self.masks);
        let aws = connections.aws(&Access::default()).await?;
        let running = aws.ecs_service(cluster, service).await?.task_definition;
        let running = Request::from_document(aws.ecs_task_definition(&running).await?)?;
        Ok(compare(&running, request))
    }

    fn deployer<'d>(&'d self, connections: &'d Connections, aws: &'d Aws) -> Deployer<'d> {
        Deployer {
            aws,
            connections,
            access: Access::default(),
            events: self.events,
            stop: &self.cancellation.stopping.soft,
            poll: self.settings.ecs_poll,
        }
    }

    /// Registers what has to be, and deploys it.
    pub(crate) async fn deploy(
        &self,
        place: &Place,
        base: Base,
        patch: &Patch,
        manner: &Manner,
    ) -> Result<Done, Failure> {
        let connections = Connections::alone(self.settings, self.masks);
        let aws = connections.aws(&Access::default()).await?;
        let deployer = self.deployer(&connections, &aws);
        let found = deployer.look(&place.cluster, &place.services).await?;
        let first = found.first().map(|first| &first.service);
        let running = first.map(|first| first.task_definition.clone()).unwrap_or_default();
        let (document, known) = match base {
            Base::Document(document) => (document, None),
            Base::Registered(name) => {
                let document = aws.ecs_task_definition(&name).await?;
                let known = Registered::read(&document)
                    .ok_or_else(|| Failure::usage(format!("{name} is not in use any more")))?;
                (document, Some(known))
            }
            Base::Running => {
                let document = aws.ecs_task_definition(&running).await?;
                let known = Registered::read(&document);
                (document, known)
            }
        };
        let mut request = Request::from_document(document)?;
        request.apply(patch)?;
        for slip in request.likely_typos() {
            self.events.warn(slip).await;
        }
        if manner.dry_run {
            return planned(&deployer, found, known, &request, manner).await;
        }
        // What is named as a revision is deployed as it is.
        let same = Registered::meaning(&request, [&known]);
        let Registration { revision, is_new, difference } = match same {
            Some(same) if !manner.force => Registration::of(&same.revision.arn),
            _ => {
                for before in &found {
                    deployer.verify_service(&before.service, request.fields()).await?;
                }
                deployer.register(known, &request, manner.force).await?
            }
        };
        let order = order(place, &revision, manner, is_new);
        let reports = deployer.deploy(&order, found).await?;
        let after = match failure_of(&reports) {
            None => deployer.after(&order, &reports, manner.wishes).await,
            Some(_) => After::default(),
        };
        Ok(Done { revision, registers: is_new, difference, reports, after, ..Done::default() })
    }

    /// Gives services the revision that was deployed successfully before.
    pub(crate) async fn roll_back(&self, place: &Place, manner: &Manner) -> Result<Done, Failure> {
        let connections = Connections::alone(self.settings, self.masks);
        let aws = connections.aws(&Access::default()).await?;
        let deployer = self.deployer(&connections, &aws);
        let mut done = Done::default();
        // Where each can go is known before the first one is touched.
        for before in deployer.look(&place.cluster, &place.services).await? {
            let gets = self.earlier(&aws, &place.cluster, &before).await?;
            let Service { name: service, task_definition: has, .. } = before.service;
            done.planned.push(Planned { service, has, gets });
        }
        done.revision = done.planned.first().map(|planned| planned.gets.clone()).unwrap_or_default();
        if manner.dry_run {
            return Ok(done);
        }
        for Planned { service, has, gets } in std::mem::take(&mut done.planned) {
            let note = format!("{service} goes back from {} to {}", short(&has), short(&gets));
            self.events.note(note).await;
            let one = Place { cluster: place.cluster.clone(), services: vec![service.clone()] };
            let order = order(&one, &gets, manner, false);
            // What has been done is told, whatever comes after it.
            let reports = match deployer.look(&one.cluster, &one.services).await {
                Ok(found) => deployer.deploy(&order, found).await,
                Err(failure) => Err(failure),
            };
            let mut reports =
                reports.unwrap_or_else(|failure| vec![Report::not_begun(&service, &gets, failure)]);
            for report in &mut reports {
                report.advice = Some(ANY_REVISION.to_owned());
            }
            if done.after.failure.is_none() && failure_of(&reports).is_none() {
                done.after = deployer.after(&order, &reports, manner.wishes).await;
            }
            done.reports.extend(reports);
        }
        Ok(done)
    }

    /// The revision to go back to: the last that was deployed successfully and is not what the service has now.
    async fn earlier(&self, aws: &Aws, cluster: &str, before: &Before) -> Result<String, Failure> {
        let service = &before.service;
        let current = &service.task_definition;
        let nothing = || {
            let message = format!("{} has no other revision that was deployed successfully", service.name);
            Failure::environment(message).help(ANY_REVISION)
        };
        match aws.ecs_last_success(cluster, &service.name, Some(current)).await {
            Ok(Some(revision)) => Ok(revision),
            // A deployment that never was through is all that there is.
            Ok(None) => before.previous.clone().filter(|previous| previous != current).ok_or_else(nothing),
            // Only of an API that does not know the call, as in test beds, the number is all that there is.
            Err(error @ AwsError::Unreachable { .. }) => {
                let named = RevisionName::parse(current);
                let revisions = aws.ecs_revisions(named.family).await?;
                let number = named.number.unwrap_or_default();
                let found = revisions.into_iter().find(|revision| revision.number() < number);
                let found = found.ok_or_else(nothing)?;
                let cause = chain(&error);
                let note = format!(
                    "ECS does not tell which revision was deployed successfully, so the one before is taken: {cause}"
                );
                self.events.warn(note).await;
                Ok(found.arn)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a service runs, since when, from which commit, and how its last deployments ended.
    pub(crate) async fn status(&self, cluster: &str, name: &str) -> Result<Status, Failure> {
        let connections = Connections::alone(self.settings, self.masks);
        let aws = connections.aws(&Access::default()).await?;
        let deployer = self.deployer(&connections, &aws);
        let service = aws.ecs_service(cluster, name).await?;
        let deployments = match aws.ecs_service_deployments(cluster, name).await {
            Ok(deployments) => deployments,
            Err(error) => {
                let cause = told(error);
                self.events.warn(format!("the last deployments cannot be told: {cause}")).await;
                Vec::new()
            }
        };
        let mut last = Vec::new();
        for deployment in deployments.into_iter().take(SHOWN) {
            let revision = match &deployment.target {
                Some(target) => aws.ecs_service_revision(target).await.ok(),
                None => None,
            };
            last.push(Past { deployment, revision });
        }
        let document = match service.task_definition.as_str() {
            "" => Value::Null,
            revision => aws.ecs_task_definition(revision).await?,
        };
        let mut containers = Vec::new();
        for (name, image) in Needs::of(&described(document)).images {
            let inspected = deployer.inspect(&image).await.ok().flatten();
            containers.push(Running {
                name,
                image,
                commit: inspected.and_then(|inspected| inspected.commit),
            });
        }
        Ok(Status { service, last, containers })
    }
}

/// What a service runs, and how it came to that.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) service: Service,
    /// Its last deployments, newest first.
    pub(crate) last: Vec<Past>,
    /// The containers of what it runs.
    pub(crate) containers: Vec<Running>,
}

/// A deployment of a service.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) deployment: ServiceDeployment,
    /// The revision that it brought, as an ARN, where ECS tells.
    pub(crate) revision: Option<String>,
}

/// A container that a service runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The commit that the image was built from, where it says so.
    pub(crate) commit: Option<String>,
}

impl Status {
    /// Since when it runs what it runs: the end of the deployment that brought it, or else when that began.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        let Self { service, last, .. } = self;
        let brought = |past: &&Past| {
            past.deployment.state == State::Successful
                && past.revision.as_ref() == Some(&service.task_definition)
        };
        let ended = last.iter().find(brought).and_then(|past| past.deployment.finished);
        let set = service.task_sets.iter().find(|set| set.task_definition == service.task_definition);
        ended
            .or_else(|| service.primary().and_then(|primary| primary.created))
            .or_else(|| set.and_then(|set| set.created))
    }

    /// The commit that it runs.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.containers.iter().find_map(|container| container.commit.as_deref())
    }
}

fn order(place: &Place, revision: &str, manner: &Manner, verified: bool) -> Order {
    Order {
        cluster: place.cluster.clone(),
        services: place.services.clone(),
        revision: revision.to_owned(),
        wait: manner.wait,
        on_failure: manner.on_failure,
        force: manner.force,
        verified,
    }
}

/// What a deployment would do.
async fn planned(
    deployer: &Deployer<'_>,
    found: Vec<Before>,
    known: Option<Registered>,
    request: &Request,
    manner: &Manner,
) -> Result<Done, Failure> {
    let latest = deployer.latest(request).await?;
    let same = Registered::meaning(request, [&known, &latest]);
    let same = same.filter(|_| !manner.force).map(|same| same.revision.arn.clone());
    deployer.verify_definition(request.fields()).await?;
    let mut planned = Vec::new();
    let (mut cluster, mut previous) = (String::new(), Vec::new());
    for before in found {
        deployer.verify_service(&before.service, request.fields()).await?;
        // One that failed the last time is deployed once more.
        let rollout = before.service.primary().and_then(|primary| primary.rollout.clone());
        let has_failed = rollout.as_deref() == Some("FAILED");
        let Service { name: service, cluster: of, task_definition: has, .. } = before.service;
        cluster = of;
        previous.push(has.clone());
        if manner.force || has_failed || same.as_ref() != Some(&has) {
            let gets = same.clone().unwrap_or_else(|| request.family().to_owned());
            planned.push(Planned { service, has, gets });
        }
    }
    let running = previous.first().map(String::as_str).unwrap_or_default();
    let now = Request::from_document(deployer.aws.ecs_task_definition(running).await?)?;
    let after =
        planned_after(deployer, &cluster, request.family(), same.as_deref(), &previous, manner.wishes)
            .await?;
    Ok(Done {
        after,
        registers: same.is_none(),
        revision: same.unwrap_or_else(|| request.family().to_owned()),
        difference: compare(&now, request),
        planned,
        ..Done::default()
    })
}

/// What would be done after a deployment of `revision`, or of a new one.
async fn planned_after(
    deployer: &Deployer<'_>,
    cluster: &str,
    family: &str,
    revision: Option<&str>,
    previous: &[String],
    wishes: Wishes,
) -> Result<After, Failure> {
    let mut after = After::default();
    // Whichever number a new one gets, it is newer than all.
    let new = format!("{family}:{}", u64::MAX);
    let deployed = revision.unwrap_or(&new);
    if wishes.schedules {
        let (found, unknown) = deployer.behind_schedule(cluster, &RevisionName::parse(deployed)).await;
        if !unknown.is_empty() {
            return Err(Failure::step(unknown.join("; ")).help("the warnings above say why"));
        }
        after.moved = found.into_iter().map(|behind| behind.name).collect();
    }
    if let Some(keep) = wishes.keep_revisions {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let previous = previous.iter().map(String::as_str).collect();
        let place = Family { name: family, cluster, deployed, previous };
        // The new one is the first of those that are kept.
        let older = deployer.older(&place, keep.saturating_sub(usize::from(revision.is_none()))).await;
        match older {
            Ok(older) => after.deregistered = older.unused,
            Err(reason) => {
                let text = format!("all revisions of {family} would be kept, because {reason}");
                deployer.events.warn(text).await;
            }
        }
    }
    Ok(after)
}
