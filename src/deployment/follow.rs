//! One service on its way to a revision, or back.

use super::evidence::{Casualties, EVIDENCE, Of};
use super::outcome::Outcome;
use super::watch::{Attempts, Heard, Over, Watch};
use super::{Before, Deployer, Order, short};
use crate::aws::AwsError;
use crate::duration;
use crate::ecs::diagnosis::Group;
use crate::ecs::service::{Service, ServiceDeployment, State};
use crate::ecs::verdict::{Sight, Verdict, judge, tells_of_way_back};
use crate::exit::{Failure, chain};
use crate::language::pipeline::model::OnFailure;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// After so many looks without any deployment of the revision there is none.
const UNSEEN: u32 = 3;
/// So often in a row ECS may show the service as it was before the deployment.
const STALE: u32 = 5;
/// After so many failures in a row ECS is not asked about service deployments any more.
const GIVEN_UP: u32 = 2;
/// How much older than the service's own deployment a service deployment may be.
const SKEW: SignedDuration = SignedDuration::from_secs(10);

pub(crate) enum End {
    Succeeded,
    /// There is no deployment to follow.
    Unseen,
    Failed(Option<String>),
    /// ECS has rolled it back, or has tried to.
    WentBack {
        outcome: Outcome,
        reason: Option<String>,
    },
    Superseded(String),
    Gone,
    /// The time is over, or the run is to end.
    Over(Over),
    /// Waiting makes no sense: nothing can come of it, or another service has failed.
    Hopeless(String),
    /// ECS does not let us look any more.
    Lost(Failure),
}

/// One service on its way.
pub(crate) struct Following<'a> {
    deployer: &'a Deployer<'a>,
    order: &'a Order,
    name: &'a str,
    /// How long it may take.
    pub(crate) wait: Duration,
    /// How it was before.
    pub(crate) before: Before,
    /// The revision that it gets: the order's, or on the way back the one before.
    revision: String,
    /// The deployment's id among the service's, and when it began by ECS's clock.
    id: Option<String>,
    created: Option<Timestamp>,
    /// The ARN of the service deployment.
    pub(crate) arn: Option<String>,
    /// The last that ECS told of it.
    deployment: Option<ServiceDeployment>,
    /// It is as new as what was seen of the service.
    is_fresh: bool,
    /// How often in a row ECS did not tell about service deployments.
    untold: u32,
    heard: Heard,
    /// ECS has been seen on its way back.
    goes_back: bool,
    /// What was said last about its state.
    said: String,
    casualties: Casualties,
}

impl<'a> Following<'a> {
    pub(crate) fn new(deployer: &'a Deployer<'a>, order: &'a Order, name: &'a str, before: Before) -> Self {
        let untold = if before.may_tell { u32::from(before.known.is_none()) } else { GIVEN_UP };
        let heard = Heard::of(&before.service);
        Self {
            deployer,
            order,
            name,
            wait: order.wait_for(&before.service),
            before,
            revision: order.revision.clone(),
            id: None,
            created: None,
            arn: None,
            deployment: None,
            is_fresh: false,
            untold,
            heard,
            goes_back: false,
            said: String::new(),
            casualties: Casualties::default(),
        }
    }

    /// Says something about this service.
    pub(crate) async fn say(&self, text: impl AsRef<str>) {
        self.deployer.events.note(self.named(text.as_ref())).await;
    }

    async fn warn(&self, text: impl AsRef<str>) {
        self.deployer.events.warn(self.named(text.as_ref())).await;
    }

    fn named(&self, text: &str) -> String {
        if self.order.services.len() > 1 { format!("{}: {text}", self.name) } else { text.to_owned() }
    }

    /// Begins the deployment. The answer is whether there is one to follow.
    pub(crate) async fn begin(&mut self) -> Result<bool, Failure> {
        let (service, revision) = (&self.before.service, &self.order.revision);
        let primary = service.primary().filter(|primary| primary.task_definition == *revision);
        let rollout = primary.and_then(|primary| primary.rollout.as_deref());
        let mut force = self.order.force;
        if service.task_definition == *revision && !force {
            match (rollout, primary) {
                (Some("IN_PROGRESS"), Some(primary)) => {
                    let note = format!("{} is being deployed already, and is followed", short(revision));
                    (self.id, self.created) = (Some(primary.id.clone()), primary.created);
                    let current = service.current_deployment.clone();
                    self.arn = self.own(current).await;
                    self.say(note).await;
                    return Ok(true);
                }
                (Some("FAILED"), _) => {
                    self.say(format!("the last deployment of {} failed; it is tried again", short(revision)))
                        .await;
                    force = true;
                }
                _ => return Ok(false),
            }
        }
        if let Some(other) =
            service.primary().filter(|primary| primary.rollout.as_deref() == Some("IN_PROGRESS"))
            && self.before.known.is_some()
        {
            let other = short(&other.task_definition);
            self.warn(format!("a deployment of {other} is under way, and is superseded by this one")).await;
        }
        let shifting = service.shifting;
        if shifting >= self.wait {
            let (shifting, wait) = (duration::display(shifting), duration::display(self.wait));
            self.warn(format!("by its configuration the service shifts traffic for {shifting}, and a deployment that takes longer than {wait} is not waited for")).await;
        }
        self.update(force).await?;
        Ok(true)
    }

    /// A service deployment, if it is one of our revision: ECS may be on its way back from another to ours.
    async fn own(&self, arn: Option<String>) -> Option<String> {
        let (arn, aws) = (arn?, self.deployer.aws);
        let target = aws.ecs_service_deployment(&arn).await.ok()?.target?;
        let revision = aws.ecs_service_revision(&target).await.ok()?;
        (revision == self.revision).then_some(arn)
    }

    /// Points the service to the revision.
    async fn update(&mut self, force: bool) -> Result<(), Failure> {
        let (cluster, revision) = (&self.order.cluster, self.revision.clone());
        let aws = self.deployer.aws;
        let mut attempts = Attempts::begin(self.deployer);
        let service = loop {
            let error = match aws.ecs_update_service(cluster, self.name, &revision, force).await {
                Ok(service) => break service,
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(error.into());
            }
            // The answer may be lost alone.
            match aws.ecs_service(cluster, self.name).await {
                Ok(service) if self.has_begun(&service, force) => break service,
                Ok(_) if attempts.next() => {
                    self.warn(format!("tried again, because {}", chain(&error))).await;
                    // Also the way back is made like this, once somebody has asked for the end of the run.
                    let _ = attempts.pause().await;
                }
                Ok(_) => return Err(error.into()),
                Err(_) => {
                    let help = "ECS may have begun it all the same; `runner ecs status` tells";
                    return Err(Failure::from(error).help(help));
                }
            }
        };
        // A deployment that was there before is not this one.
        let own = service
            .primary()
            .filter(|primary| primary.task_definition == revision && !self.was_there(&primary.id));
        self.id = own.map(|own| own.id.clone());
        self.created = own.and_then(|own| own.created);
        (self.arn, self.deployment) = (None, None);
        self.say(format!("{} is being deployed", short(&revision))).await;
        Ok(())
    }

    /// Whether a service shows the deployment that was asked for.
    fn has_begun(&self, service: &Service, force: bool) -> bool {
        let is_new = || service.primary().is_some_and(|primary| !self.was_there(&primary.id));
        service.task_definition == self.revision && (!force || is_new())
    }

    fn was_there(&self, id: &str) -> bool {
        self.before.service.deployments.iter().any(|known| known.id == id)
    }

    /// Follows the deployment to its end.
    pub(crate) async fn follow(&mut self) -> End {
        let mut watch = Watch::begin(self.deployer, self.wait);
        let (mut unseen, mut replaced) = (0, 0);
        loop {
            let looked = match watch.look(self.look()).await {
                Ok(looked) => looked,
                Err(over) => return End::Over(over),
            };
            match looked {
                Ok((service, verdict)) => {
                    match verdict {
                        Verdict::Succeeded => return End::Succeeded,
                        Verdict::Failed(reason) => return End::Failed(reason),
                        Verdict::RolledBack(reason) => {
                            return End::WentBack { outcome: Outcome::RolledBack, reason };
                        }
                        Verdict::RollbackFailed(reason) => {
                            return End::WentBack { outcome: Outcome::RollbackFailed, reason };
                        }
                        Verdict::Superseded(by) => {
                            replaced += 1;
                            if self.replaced_by(&service).is_some() || replaced == STALE {
                                return End::Superseded(by);
                            }
                        }
                        Verdict::Gone => return End::Gone,
                        Verdict::Unseen => unseen += 1,
                        Verdict::RollsBack => unseen = 0,
                        Verdict::GoesOn => {
                            unseen = 0;
                            let by = self.replaced_by(&service).filter(|_| self.is_fresh);
                            replaced = if by.is_some() { replaced + 1 } else { 0 };
                            if let (Some(by), 2..) = (by, replaced) {
                                return End::Superseded(by);
                            }
                            if let Some(cause) = self.casualties.hopeless() {
                                return End::Hopeless(cause);
                            }
                        }
                    }
                    if unseen == UNSEEN {
                        self.warn(format!("ECS lists no deployment of {} although the service is to run it; how it goes cannot be told", short(&self.revision))).await;
                        return End::Unseen;
                    }
                }
                Err(AwsError::NotFound { .. }) => return End::Gone,
                Err(error) if error.is_transient() => {
                    if let Some(text) = watch.missed(&error) {
                        self.warn(text).await;
                    }
                }
                Err(error) => return End::Lost(error.into()),
            }
            if let Err(over) = watch.rest().await {
                return End::Over(over);
            }
        }
    }

    /// The revision of a deployment that has taken this one's place.
    fn replaced_by(&self, service: &Service) -> Option<String> {
        let primary = service.primary()?;
        let is_other = primary.task_definition != self.revision && self.id.as_ref() != Some(&primary.id);
        // One that was there before is what ECS showed then: it may take a moment until it shows ours.
        (is_other && !self.was_there(&primary.id)).then(|| primary.task_definition.clone())
    }

    /// Looks once, and says what is new.
    async fn look(&mut self) -> Result<(Service, Verdict), AwsError> {
        let mut service = self.deployer.aws.ecs_service(&self.order.cluster, self.name).await?;
        if self.id.is_none() {
            let is_earlier = |id: &str, revision: &str| revision == self.revision && self.was_there(id);
            service.deployments.retain(|one| !is_earlier(&one.id, &one.task_definition));
        }
        let fresh = self.heard.fresh(&service);
        self.goes_back |= fresh.iter().any(|message| tells_of_way_back(message));
        for message in &fresh {
            self.say(format!("ECS: {message}")).await;
        }
        self.read_deployment(&service).await;
        self.say_progress(&service).await;
        let sight = Sight {
            service: &service,
            deployment: self.deployment.as_ref(),
            id: self.id.as_deref(),
            revision: &self.revision,
            goes_back: self.goes_back,
        };
        let verdict = judge(&sight);
        self.goes_back |= verdict == Verdict::RollsBack;
        if self.revision == self.order.revision {
            self.gather(&service, &fresh).await;
        }
        Ok((service, verdict))
    }

    /// Reads the service deployment, once it is known which it is.
    async fn read_deployment(&mut self, service: &Service) {
        self.is_fresh = self.untold >= GIVEN_UP;
        if self.is_fresh {
            return;
        }
        let aws = self.deployer.aws;
        if self.arn.is_none() {
            match self.find_deployment(service).await {
                Ok(found) => {
                    self.untold = 0;
                    self.arn = found;
                }
                Err(error) => {
                    self.untold += 1;
                    if self.untold == GIVEN_UP {
                        self.deployer.cannot_tell(self.name, &error).await;
                    }
                }
            }
        }
        if let Some(arn) = &self.arn {
            match aws.ecs_service_deployment(arn).await {
                Ok(deployment) => {
                    (self.untold, self.is_fresh) = (0, true);
                    self.deployment = Some(deployment);
                }
                // What was told last stays, for as long as this may pass.
                Err(error) if error.is_transient() => {}
                Err(error) => {
                    self.untold = GIVEN_UP;
                    self.deployment = None;
                    self.deployer.cannot_tell(self.name, &error).await;
                }
            }
        }
    }

    /// The ARN of the service deployment that brings our revision and was not there before.
    async fn find_deployment(&self, service: &Service) -> Result<Option<String>, AwsError> {
        let aws = self.deployer.aws;
        let known = self.before.known.as_deref().unwrap_or_default();
        let after = self.created.map(|created| created - SKEW);
        let mut candidates = aws.ecs_service_deployments(&self.order.cluster, self.name).await?;
        candidates.retain(|candidate| {
            let is_old = after.is_some_and(|after| candidate.created.is_some_and(|created| created < after));
            !known.contains(&candidate.arn) && !is_old
        });
        // Ours came before any that has taken its place since.
        candidates.reverse();
        for candidate in candidates {
            let Some(target) = &candidate.target else {
                if service.current_deployment.as_ref() == Some(&candidate.arn) {
                    return Ok(Some(candidate.arn));
                }
                continue;
            };
            if aws.ecs_service_revision(target).await? == self.revision {
                return Ok(Some(candidate.arn));
            }
        }
        Ok(None)
    }

    async fn say_progress(&mut self, service: &Service) {
        let own = service.deployments.iter().find(|own| Some(&own.id) == self.id.as_ref());
        let text = match (&self.deployment, own) {
            (Some(deployment), _) => deployment.progress(),
            (None, Some(own)) => {
                let state = own.rollout.as_deref().unwrap_or(&own.status).to_lowercase().replace('_', " ");
                let failed =
                    if own.failed > 0 { format!(" · {} failed", own.failed) } else { String::new() };
                format!("{state} · {}{failed}", own.counts)
            }
            (None, None) => return,
        };
        if text != self.said {
            self.say(&text).await;
            self.said = text;
        }
    }

    /// Looks at the tasks that have failed.
    async fn gather(&mut self, service: &Service, messages: &[String]) {
        let of = Of { id: self.id.as_deref(), revision: &self.revision, created: self.created };
        let (deployer, cluster) = (self.deployer, &self.order.cluster);
        let fresh = self.casualties.gather(deployer, cluster, service, of, messages).await;
        for sentence in fresh {
            self.warn(sentence).await;
        }
    }

    /// The tasks that failed, by their cause. What they wrote last may have come to CloudWatch only now.
    pub(crate) async fn evidence(&mut self) -> Vec<Group> {
        let (aws, cluster, name) = (self.deployer.aws, &self.order.cluster, self.name);
        let look = async {
            if let Ok(service) = aws.ecs_service(cluster, name).await {
                self.gather(&service, &[]).await;
            }
            self.casualties.read_again(aws).await;
        };
        // The way back is not held up by an API that does not answer.
        let _ = tokio::time::timeout(EVIDENCE, look).await;
        let groups = self.casualties.groups();
        for line in groups.iter().flat_map(Group::lines) {
            self.say(line).await;
        }
        groups
    }

    /// Asks for the way back, where the pipeline wants it, and does not wait for it.
    pub(crate) async fn ask_back(&mut self) {
        if self.order.on_failure == OnFailure::Leave {
            self.warn(format!("the deployment of {} goes on by itself", short(&self.revision))).await;
            return;
        }
        match self.turn_back().await {
            Turned::Round => {
                self.warn("the run was stopped, and ECS was asked to roll back; that goes on by itself")
                    .await;
            }
            Turned::Through => self.warn("the run was stopped, and the deployment is through").await,
            Turned::Superseded(by) => {
                let by = short(&by);
                self.warn(format!("the run was stopped; {by} was deployed meanwhile, and is left alone"))
                    .await;
            }
            Turned::Nowhere => self.warn("the run was stopped, and there is nothing to go back to").await,
            Turned::Refused(failure) => {
                self.warn(format!("the run was stopped, and ECS does not roll back: {failure}")).await;
            }
        }
    }

    /// Goes back, and waits for that.
    pub(crate) async fn back(&mut self) -> Outcome {
        let until_end = match self.turn_back().await {
            Turned::Through => return Outcome::Deployed,
            Turned::Superseded(by) => {
                self.warn(format!("{} was deployed meanwhile, and is left alone", short(&by))).await;
                return Outcome::Superseded;
            }
            Turned::Nowhere => {
                self.warn(
                    "there is no revision that was deployed successfully before, so nothing to go back to",
                )
                .await;
                return Outcome::Left;
            }
            Turned::Refused(failure) => {
                self.warn(format!("ECS does not roll back: {failure}")).await;
                return Outcome::RollbackFailed;
            }
            Turned::Round => {
                self.casualties.be_patient();
                self.follow().await
            }
        };
        match until_end {
            // By ECS's way back the deployment ends as rolled back, by ours a new one succeeds.
            End::WentBack { outcome, .. } => outcome,
            End::Succeeded if self.revision != self.order.revision => Outcome::RolledBack,
            // It was through before it could be stopped.
            End::Succeeded => Outcome::Deployed,
            End::Superseded(_) => Outcome::Superseded,
            End::Over(Over::Stopped) => Outcome::Stopped,
            _ => Outcome::RollbackFailed,
        }
    }

    /// Turns round: ECS rolls its deployment back, or the service gets the revision before.
    async fn turn_back(&mut self) -> Turned {
        let now = self.deployer.aws.ecs_service(&self.order.cluster, self.name).await;
        // To be on the revision before is what is wanted.
        let other = now.ok().and_then(|now| self.replaced_by(&now));
        if let Some(by) = other.filter(|by| Some(by) != self.before.previous.as_ref()) {
            return Turned::Superseded(by);
        }
        let is_under_way = self.deployment.as_ref().is_none_or(|deployment| !deployment.state.is_final());
        if let Some(arn) = self.arn.clone().filter(|_| is_under_way) {
            match self.deployer.aws.ecs_roll_back(&arn).await {
                Ok(()) => {
                    self.say("ECS was asked to roll back").await;
                    return Turned::Round;
                }
                Err(error) => {
                    // It may have ended a moment before.
                    match self.deployer.aws.ecs_service_deployment(&arn).await.map(|now| now.state) {
                        Ok(State::Successful) => return Turned::Through,
                        Ok(
                            State::RollbackRequested
                            | State::RollbackInProgress
                            | State::RollbackSuccessful
                            | State::RollbackFailed,
                        ) => return Turned::Round,
                        _ => {}
                    }
                    let cause = chain(&error);
                    self.warn(format!("ECS does not roll its deployment back, so runner does: {cause}"))
                        .await;
                }
            }
        }
        let Some(previous) = self.before.previous.clone().filter(|previous| *previous != self.revision)
        else {
            return Turned::Nowhere;
        };
        let begun_with = std::mem::replace(&mut self.revision, previous);
        self.said.clear();
        self.goes_back = false;
        let known = self.deployer.aws.ecs_service_deployments(&self.order.cluster, self.name).await;
        self.before.known = known.ok().map(|all| all.into_iter().map(|one| one.arn).collect());
        match self.update(false).await {
            Ok(()) => Turned::Round,
            Err(failure) => {
                self.revision = begun_with;
                Turned::Refused(failure)
            }
        }
    }
}

/// How turning round went.
enum Turned {
    /// ECS goes back by itself, or the service gets the revision before.
    Round,
    /// The deployment was through before it could be stopped.
    Through,
    /// Somebody has deployed this revision meanwhile, which is left alone.
    Superseded(String),
    /// There is nothing to go back to.
    Nowhere,
    Refused(Failure),
}
