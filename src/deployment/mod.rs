//! Deployments: services get a revision, are followed to the end, and go back where that fails.

mod after;
mod code_deploy;
pub(crate) mod commands;
mod evidence;
mod follow;
mod outcome;
mod registration;
mod revisions;
mod schedules;
mod verify;
mod watch;

use crate::aws::{Aws, AwsError};
use crate::connections::failure::told;
use crate::connections::{Access, Connections};
use crate::ecs::needs::Needs;
use crate::ecs::service::{Controller, Service};
use crate::ecs::task_definition::described;
use crate::event::Events;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::OnFailure;
pub(crate) use after::{After, Wishes};
pub(crate) use code_deploy::CodeDeploy;
use follow::{End, Following};
use futures_util::future::join_all;
pub(crate) use outcome::{Outcome, Report, failure_of};
pub(crate) use registration::read_definition;
pub(crate) use registration::{Registered, Registration};
pub(crate) use revisions::Family;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use verify::Missing;
use watch::Over;

/// How long a deployment may take where nobody says it, beside what its configuration spends on shifting traffic.
pub(crate) const WAIT: Duration = Duration::from_mins(15);

/// What is to be deployed.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) cluster: String,
    pub(crate) services: Vec<String>,
    /// The revision that they get, as an ARN.
    pub(crate) revision: String,
    /// How long it may take, and how long the way back may take then; nothing where nobody says it.
    pub(crate) wait: Option<Duration>,
    /// What happens to a deployment that fails.
    pub(crate) on_failure: OnFailure,
    /// Deploy also where the service runs the revision.
    pub(crate) force: bool,
    /// What the revision names has been looked for, and whether the services reach its tasks.
    pub(crate) verified: bool,
}

impl Order {
    /// How long it may take for a service.
    fn wait_for(&self, service: &Service) -> Duration {
        self.wait.unwrap_or(WAIT + service.shifting)
    }
}

pub(crate) struct Deployer<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) connections: &'a Connections,
    pub(crate) access: Access,
    pub(crate) events: &'a Events,
    /// Asks for the end.
    pub(crate) stop: &'a CancellationToken,
    /// How often a deployment is looked at.
    pub(crate) poll: Option<Duration>,
}

/// A service before its deployment.
pub(crate) struct Before {
    pub(crate) service: Service,
    /// What it can go back to: the revision that was deployed successfully last, as an ARN.
    pub(crate) previous: Option<String>,
    /// The ARNs of its service deployments; nothing where ECS does not tell.
    pub(crate) known: Option<Vec<String>>,
    /// ECS may tell later, where it does not now.
    pub(crate) may_tell: bool,
}

impl Deployer<'_> {
    async fn before(&self, cluster: &str, name: &str) -> Result<Before, Failure> {
        let service = self.aws.ecs_service(cluster, name).await?;
        match service.controller {
            Controller::Ecs => {}
            Controller::CodeDeploy => {
                let message = format!("the service {name} is deployed by CodeDeploy");
                return Err(Failure::usage(message)
                    .help("name its application and group in a pipeline's `deploy`: `code-deploy: { application: …, group: … }`"));
            }
            Controller::External => {
                return Err(Failure::usage(format!(
                    "the service {name} is deployed by an external controller"
                ))
                .help("runner deploys services whose controller is ECS or CodeDeploy"));
            }
        }
        let (mut known, mut may_tell) = (None, true);
        match self.aws.ecs_service_deployments(cluster, name).await {
            Ok(deployments) => {
                known = Some(deployments.into_iter().map(|deployment| deployment.arn).collect());
            }
            Err(error) if error.is_transient() => {}
            Err(error) => {
                may_tell = false;
                self.cannot_tell(name, &error).await;
            }
        }
        let previous = match &known {
            Some(_) => self.aws.ecs_last_success(cluster, name, None).await.ok().flatten(),
            None => None,
        };
        let previous = previous.or_else(|| runs(&service, known.is_none()));
        Ok(Before { service, previous, known, may_tell })
    }

    async fn cannot_tell(&self, service: &str, error: &AwsError) {
        let text = format!(
            "ECS does not tell about the service deployments of {service}, so what the service says itself has to do: {}",
            told(error)
        );
        if matches!(error, AwsError::Denied { .. }) {
            self.events.warn(text).await;
        } else {
            self.events.note(text).await;
        }
    }

    /// Looks at the services of a deployment, before anything is touched.
    pub(crate) async fn look(&self, cluster: &str, services: &[String]) -> Result<Vec<Before>, Failure> {
        let looks = join_all(services.iter().map(|name| self.before(cluster, name)));
        let found = tokio::select! {
            found = looks => found,
            () = self.stop.cancelled() => return Err(Failure::stopped()),
        };
        let found: Vec<Before> = found.into_iter().collect::<Result<_, _>>()?;
        for (at, before) in found.iter().enumerate() {
            if found[..at].iter().any(|other| other.service.arn == before.service.arn) {
                return Err(Failure::usage(format!("the service {} is named twice", before.service.name)));
            }
        }
        Ok(found)
    }

    /// Deploys to all services side by side, which have been looked at. What has become of each is in the reports; the error is about
    /// what kept it from beginning.
    pub(crate) async fn deploy(&self, order: &Order, found: Vec<Before>) -> Result<Vec<Report>, Failure> {
        tokio::select! {
            verified = self.verify(order, &found) => verified?,
            () = self.stop.cancelled() => return Err(Failure::stopped()),
        }
        let failed = CancellationToken::new();
        let each = order.services.iter().zip(found);
        let mut all: Vec<(Following<'_>, Report)> =
            join_all(each.map(|(name, before)| self.one(order, name, before, &failed))).await;
        if order.on_failure == OnFailure::Rollback {
            self.take_along(&mut all).await;
        }
        Ok(all.into_iter().map(|(_, report)| report).collect())
    }

    /// Where one has failed, those that were through before go back, too; where the run is stopped, that is only asked for.
    async fn take_along(&self, all: &mut [(Following<'_>, Report)]) {
        let any = |is: fn(&Report) -> bool| all.iter().any(|(_, report)| is(report));
        // One that cannot be followed goes on, and may well be fine.
        let has_failed = any(|report| {
            report.exit() != Exit::Done && !matches!(report.outcome, Outcome::Superseded | Outcome::Lost)
        });
        let is_stopped = any(|report| report.outcome == Outcome::Stopped);
        let through = |report: &Report| has_failed && report.outcome == Outcome::Deployed;
        let back = all.iter_mut().filter(|(_, report)| through(report));
        join_all(back.map(|(following, report)| async move {
            if is_stopped {
                following.ask_back().await;
                report.outcome = Outcome::Stopped;
                return;
            }
            following.say("goes back, because another service of this step has failed").await;
            report.outcome = following.back().await;
            report.reason = Some("another service of this step has failed".to_owned());
        }))
        .await;
    }

    /// Looks whether the revision could start, and the services reach its tasks, and whether there is a way back.
    async fn verify(&self, order: &Order, found: &[Before]) -> Result<(), Failure> {
        let is_new = |before: &Before| order.force || before.service.task_definition != order.revision;
        if !order.verified && found.iter().any(is_new) {
            let fields = described(self.aws.ecs_task_definition(&order.revision).await?);
            self.verify_definition(&fields).await?;
            for before in found {
                self.verify_service(&before.service, &fields).await?;
            }
        }
        if order.on_failure == OnFailure::Rollback {
            for before in found {
                self.verify_way_back(order, before).await;
            }
        }
        Ok(())
    }

    /// Warns where the revision to go back to could not start any more.
    async fn verify_way_back(&self, order: &Order, before: &Before) {
        let name = &before.service.name;
        let Some(previous) = before.previous.as_ref().filter(|previous| **previous != order.revision) else {
            return;
        };
        let Ok(document) = self.aws.ecs_task_definition(previous).await else { return };
        for (container, image) in Needs::of(&described(document)).images {
            if matches!(self.inspect(&image).await, Err(Missing::Image)) {
                let previous = short(previous);
                self.events.warn(format!("{name} could not go back: the image of `{container}` in {previous}, {image}, is not in its repository any more")).await;
            }
        }
    }

    /// One service, to its end. `failed` is cancelled where it fails, and ends it where another one has.
    async fn one<'f>(
        &'f self,
        order: &'f Order,
        name: &'f str,
        before: Before,
        failed: &CancellationToken,
    ) -> (Following<'f>, Report) {
        let begin = Instant::now();
        let mut following = Following::new(self, order, name, before);
        let mut report = Report::new(name, &order.revision, following.before.previous.clone());
        match following.begin().await {
            Ok(true) => {}
            Ok(false) => {
                report.outcome = Outcome::Unchanged;
                return (following, report);
            }
            Err(failure) => {
                failed.cancel();
                report.failed(Outcome::NotBegun, failure);
                return (following, report);
            }
        }
        let end = tokio::select! {
            end = following.follow() => end,
            () = failed.cancelled(), if order.on_failure == OnFailure::Rollback => {
                End::Hopeless("another service of this step has failed".to_owned())
            }
        };
        report.deployment = following.arn.clone();
        self.conclude(order, &mut following, &mut report, end, failed).await;
        report.elapsed = begin.elapsed();
        (following, report)
    }

    /// What follows from how a deployment ended.
    async fn conclude(
        &self,
        order: &Order,
        following: &mut Following<'_>,
        report: &mut Report,
        end: End,
        failed: &CancellationToken,
    ) {
        let (left, reason) = match end {
            End::Succeeded => return report.outcome = Outcome::Deployed,
            End::Unseen => return report.outcome = Outcome::Unconfirmed,
            End::Superseded(by) => {
                report.reason = Some(format!("{} was deployed meanwhile", short(&by)));
                return report.outcome = Outcome::Superseded;
            }
            End::WentBack { outcome, reason } => {
                failed.cancel();
                report.diagnosed(following.evidence().await, reason);
                return report.outcome = outcome;
            }
            End::Gone => {
                failed.cancel();
                report.reason = Some("the service was deleted meanwhile".to_owned());
                report.previous = None;
                return report.outcome = Outcome::Left;
            }
            End::Lost(failure) => {
                return report.failed(Outcome::Lost, failure);
            }
            End::Over(Over::Stopped) => {
                following.ask_back().await;
                return report.outcome = Outcome::Stopped;
            }
            End::Failed(reason) => (Outcome::Left, reason),
            End::Over(Over::TimedOut) => {
                let wait = crate::duration::display(following.wait);
                (Outcome::TimedOut, Some(format!("it took longer than {wait}")))
            }
            End::Hopeless(reason) => (Outcome::Left, Some(reason)),
        };
        failed.cancel();
        report.diagnosed(following.evidence().await, reason);
        report.outcome = match order.on_failure {
            OnFailure::Leave => left,
            OnFailure::Rollback => following.back().await,
        };
    }
}

/// The revision that a service runs: of one with a deployment under way, the one before that, as far as the service itself tells.
fn runs(service: &Service, is_all: bool) -> Option<String> {
    let has_failed = service.primary().is_some_and(|primary| primary.rollout.as_deref() == Some("FAILED"));
    let of = |status: &str| service.deployments.iter().find(move |deployment| deployment.status == status);
    let primary = of("PRIMARY");
    let is_through =
        primary.is_none_or(|primary| matches!(primary.rollout.as_deref(), None | Some("COMPLETED")));
    let before = of("ACTIVE").map(|before| &before.task_definition);
    let runs = if is_through { Some(&service.task_definition) } else { before };
    let runs = runs.or_else(|| Some(&service.task_definition).filter(|_| is_all && !has_failed));
    runs.filter(|runs| !runs.is_empty()).cloned()
}

/// `FAMILY:N` of an ARN.
pub(crate) fn short(arn: &str) -> String {
    crate::ecs::revisions::short(arn).to_owned()
}
