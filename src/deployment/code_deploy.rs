//! A service that AWS `CodeDeploy` deploys: its deployment is asked for, followed to the end, and taken back where it fails.

use super::evidence::{Casualties, EVIDENCE, Of};
use super::watch::{Attempts, Heard, Over, Watch};
use super::{Before, Deployer, Order, Outcome, Report, short};
use crate::address::short_name;
use crate::aws::codedeploy::{ALREADY_COMPLETE, ALREADY_DEPLOYING, NewDeployment, sha256};
use crate::aws::{Aws, AwsError};
use crate::connections::failure::told;
use crate::duration;
use crate::ecs::appspec::AppSpec;
use crate::ecs::code_deploy::{Deployment, LifecycleEvent, Progress, Status, active_in, standing};
use crate::ecs::diagnosis::Group;
use crate::ecs::service::{Controller, Service};
use crate::exit::{Failure, chain};
use crate::language::pipeline::model::OnFailure;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How often it may not be there yet at the first looks.
const UNSEEN: u32 = 5;
/// How often `CodeDeploy` is asked which deployment takes one back that has ended.
const LOOKS_BACK: u32 = 8;
/// How long a description's first part may be, in characters: `CodeDeploy` refuses long ones.
const NOTE: usize = 180;
/// How far this machine's clock may be off.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// By what `CodeDeploy` deploys.
#[derive(Debug, Clone)]
pub(crate) struct CodeDeploy {
    pub(crate) application: String,
    pub(crate) group: String,
    /// What is deployed, for people who look at the deployment.
    pub(crate) note: String,
}

enum End {
    Succeeded,
    /// It has failed or was stopped.
    Ended,
    /// The time is over, or the run is to end.
    Over(Over),
    /// Waiting makes no sense.
    Hopeless(String),
    /// `CodeDeploy` does not let us look any more.
    Lost(Failure),
}

impl Deployer<'_> {
    /// Has `CodeDeploy` give a service the revision. What has become of it is in the report; the error is about what kept it from
    /// beginning.
    pub(crate) async fn deploy_by(&self, order: &Order, by: &CodeDeploy) -> Result<Report, Failure> {
        let begin = Instant::now();
        let name = order.services.first().map(String::as_str).unwrap_or_default();
        let service = self.aws.ecs_service(&order.cluster, name).await?;
        if service.controller != Controller::CodeDeploy {
            return Err(Failure::usage(format!("the service {name} is not deployed by CodeDeploy"))
                .help("leave `code-deploy` out, or create the service with the controller CODE_DEPLOY"));
        }
        self.verify_group(order, by, &service).await?;
        let previous = Some(service.task_definition.clone()).filter(|revision| !revision.is_empty());
        let mut report = Report::new(name, &order.revision, previous.clone());
        if service.task_definition == order.revision && !order.force {
            report.outcome = Outcome::Unchanged;
            return Ok(report);
        }
        let Some(spec) = AppSpec::of(&service, &order.revision) else {
            let message = format!("the service {name} has no load balancer, which CodeDeploy needs");
            return Err(Failure::environment(message));
        };
        let before = Before { service, previous, known: None, may_tell: false };
        self.verify(order, std::slice::from_ref(&before)).await?;
        let mut following = Following::new(self, order, by, before);
        match following.begin(&spec.json()).await {
            Ok(()) => {
                let end = following.follow().await;
                report.deployment = Some(following.id.clone());
                following.conclude(&mut report, end).await;
            }
            Err(failure) if failure.is_stopped() => report.outcome = Outcome::Stopped,
            Err(failure) => report.failed(Outcome::NotBegun, failure),
        }
        report.elapsed = begin.elapsed();
        Ok(report)
    }

    /// The group is there, and deploys to this service.
    async fn verify_group(&self, order: &Order, by: &CodeDeploy, service: &Service) -> Result<(), Failure> {
        let CodeDeploy { application, group, .. } = by;
        let found = match self.aws.codedeploy_group(application, group).await {
            Ok(found) => found,
            Err(error @ AwsError::NotFound { .. }) => return Err(error.into()),
            Err(error) => {
                let text = format!("not verified: the deployment group {group}: {}", told(&error));
                self.events.warn(text).await;
                return Ok(());
            }
        };
        let last = |name: &str| short_name(name).to_owned();
        let own = (last(&order.cluster), service.name.clone());
        let has = |(cluster, name): &(String, String)| (last(cluster), last(name)) == own;
        if found.services.is_empty() || found.services.iter().any(has) {
            return Ok(());
        }
        let others: Vec<String> =
            found.services.iter().map(|(cluster, name)| format!("{cluster}/{name}")).collect();
        let message = format!(
            "the deployment group {application}/{group} deploys to {}, not to {}/{}",
            others.join(", "),
            own.0,
            own.1
        );
        Err(Failure::usage(message).help("correct `service`, or `code-deploy`"))
    }
}

/// A deployment on its way.
struct Following<'a> {
    deployer: &'a Deployer<'a>,
    order: &'a Order,
    by: &'a CodeDeploy,
    before: Before,
    /// The deployment's id; on the way back that of the one that goes back.
    id: String,
    /// The last that `CodeDeploy` told of it.
    deployment: Deployment,
    progress: Option<Progress>,
    /// What it does to the service may not be asked for, which has been said.
    untold: bool,
    goes_back: bool,
    heard: Heard,
    /// What has been said about stages, and what was said last about its state.
    stages: HashSet<String>,
    said: String,
    casualties: Casualties,
}

impl<'a> Following<'a> {
    fn new(deployer: &'a Deployer<'a>, order: &'a Order, by: &'a CodeDeploy, before: Before) -> Self {
        let heard = Heard::of(&before.service);
        Self {
            deployer,
            order,
            by,
            before,
            id: String::new(),
            deployment: Deployment::default(),
            progress: None,
            untold: false,
            goes_back: false,
            heard,
            stages: HashSet::new(),
            said: String::new(),
            casualties: Casualties::default(),
        }
    }

    fn wait(&self) -> Duration {
        self.order.wait_for(&self.before.service)
    }

    fn aws(&self) -> &'a Aws {
        self.deployer.aws
    }

    async fn say(&self, text: impl Into<String>) {
        self.deployer.events.note(text.into()).await;
    }

    async fn warn(&self, text: impl Into<String>) {
        self.deployer.events.warn(text.into()).await;
    }

    /// Asks for the deployment. An answer that was lost is looked for before it is asked for once more, so that there is one.
    async fn begin(&mut self, app_spec: &str) -> Result<(), Failure> {
        let note: String = self.by.note.chars().take(NOTE).collect();
        let new = NewDeployment {
            application: self.by.application.clone(),
            group: self.by.group.clone(),
            app_spec: app_spec.to_owned(),
            description: format!("{note} (runner {})", crate::random::id()),
            roll_back: self.order.on_failure == OnFailure::Rollback,
        };
        let mut attempts = Attempts::begin(self.deployer);
        loop {
            let error = match self.aws().codedeploy_create(&new).await {
                Ok(id) => return self.begun(id).await,
                Err(error) => error,
            };
            match &error {
                AwsError::Service { code, message, .. } if code == ALREADY_DEPLOYING => {
                    return self.join(message, &new).await;
                }
                error if error.is_transient() => {}
                _ => return Err(error.into()),
            }
            self.warn(format!("tried again, because {}", chain(&error))).await;
            let paused = attempts.pause().await;
            match self.find(&new.description).await {
                Ok(Some(id)) => return self.begun(id).await,
                Ok(None) => {
                    paused?;
                    if !attempts.next() {
                        return Err(error.into());
                    }
                }
                Err(_) => {
                    let help =
                        "it may have been made all the same; CodeDeploy could not be asked whether it was";
                    return Err(Failure::from(error).help(help));
                }
            }
        }
    }

    async fn begun(&mut self, id: String) -> Result<(), Failure> {
        self.say(format!("{} is being deployed by CodeDeploy: {id}", short(&self.order.revision))).await;
        self.id = id;
        Ok(())
    }

    /// The deployment of this group that has our description.
    async fn find(&self, description: &str) -> Result<Option<String>, AwsError> {
        let since = Timestamp::now() - SKEW;
        let ids = self.aws().codedeploy_deployments(&self.by.application, &self.by.group, since).await?;
        for id in ids {
            if self.aws().codedeploy_deployment(&id).await?.description == description {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The group has a deployment under way. One that brings the same is followed.
    async fn join(&mut self, refusal: &str, new: &NewDeployment) -> Result<(), Failure> {
        let CodeDeploy { application, group, .. } = self.by;
        let Some(id) = active_in(refusal) else {
            return Err(Failure::step(format!("CodeDeploy makes no deployment now: {refusal}"))
                .help("wait for the end of the one that is under way, or stop it"));
        };
        let other = self.aws().codedeploy_deployment(id).await.ok();
        if let Some(other) = &other {
            // Its answer was lost.
            if other.description == new.description {
                return self.begun(id.to_owned()).await;
            }
            if other.sha256.as_deref() == Some(&sha256(&new.app_spec)) && !self.order.force {
                let revision = short(&self.order.revision);
                self.say(format!("{revision} is being deployed already by {id}, which is followed")).await;
                id.clone_into(&mut self.id);
                return Ok(());
            }
        }
        let told = other.map(|other| {
            let since = other.created.map(|at| format!(", since {}", at.strftime("%Y-%m-%d %H:%M UTC")));
            let about =
                if other.description.is_empty() { String::new() } else { format!(", {}", other.description) };
            format!(" ({}{about}{})", other.status, since.unwrap_or_default())
        });
        let message = format!(
            "the deployment group {application}/{group} has another deployment under way, {id}{}",
            told.unwrap_or_default()
        );
        Err(Failure::step(message).help(format!(
            "wait for its end, or stop it with `aws deploy stop-deployment --deployment-id {id}`; one whose traffic has moved ends when the earlier tasks do"
        )))
    }

    /// Follows the deployment to its end.
    async fn follow(&mut self) -> End {
        let mut watch = Watch::begin(self.deployer, self.wait());
        let mut unseen = 0;
        loop {
            let looked = match watch.look(self.look()).await {
                Ok(looked) => looked,
                Err(over) => return End::Over(over),
            };
            match looked {
                Ok(()) => {
                    unseen = UNSEEN;
                    match self.deployment.status {
                        Status::Succeeded => return End::Succeeded,
                        Status::Failed | Status::Stopped => return End::Ended,
                        _ => {}
                    }
                    // Once the traffic has moved there is nothing to hope for.
                    if let Some(cause) = self.casualties.hopeless().filter(|_| !self.deployment.keeps_earlier)
                    {
                        return End::Hopeless(cause);
                    }
                }
                // CodeDeploy may know of it a moment later.
                Err(AwsError::NotFound { .. }) if unseen < UNSEEN => unseen += 1,
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

    /// Looks once, and says what is new.
    async fn look(&mut self) -> Result<(), AwsError> {
        self.deployment = self.aws().codedeploy_deployment(&self.id).await?;
        self.read_progress().await;
        if !self.goes_back {
            self.read_service().await;
        }
        let text = standing(&self.deployment, self.progress.as_ref());
        if text != self.said {
            self.say(&text).await;
            self.said = text;
        }
        Ok(())
    }

    async fn read_progress(&mut self) {
        if self.untold {
            return;
        }
        match self.aws().codedeploy_progress(&self.id).await {
            Ok(Some(progress)) => {
                for line in progress.events.iter().filter_map(LifecycleEvent::line) {
                    if self.stages.insert(line.clone()) {
                        self.say(line).await;
                    }
                }
                self.progress = Some(progress);
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => {
                self.untold = true;
                self.warn(format!("the stages of the deployment cannot be told: {}", told(&error))).await;
            }
        }
    }

    /// What ECS says of the service, and the tasks of the new set that have failed.
    async fn read_service(&mut self) {
        // CodeDeploy decides; what ECS does not tell now is looked for again.
        let Ok(service) = self.aws().ecs_service(&self.order.cluster, &self.before.service.name).await else {
            return;
        };
        let fresh = self.heard.fresh(&service);
        for message in &fresh {
            self.say(format!("ECS: {message}")).await;
        }
        let set = service.task_sets.iter().find(|set| set.made_by.as_ref() == Some(&self.id));
        let told = || self.progress.as_ref().and_then(Progress::new_set).map(|set| set.id.clone());
        let set = set.map(|set| set.id.clone()).or_else(told);
        let of = Of { id: set.as_deref(), revision: &self.order.revision, created: self.deployment.created };
        let (deployer, cluster) = (self.deployer, &self.order.cluster);
        let sentences = self.casualties.gather(deployer, cluster, &service, of, &fresh).await;
        for sentence in sentences {
            self.warn(sentence).await;
        }
    }

    /// The tasks that failed, by their cause.
    async fn evidence(&mut self) -> Vec<Group> {
        let aws = self.aws();
        let look = async {
            self.read_service().await;
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

    /// What follows from how it ended.
    async fn conclude(&mut self, report: &mut Report, end: End) {
        let rolls_back = self.order.on_failure == OnFailure::Rollback;
        match end {
            End::Succeeded => return report.outcome = Outcome::Deployed,
            // All traffic goes to the new tasks, and they have passed every hook.
            End::Over(Over::TimedOut) if self.deployment.keeps_earlier => {
                self.say(format!("{} ends by itself once the earlier tasks do", self.id)).await;
                return report.outcome = Outcome::Deployed;
            }
            End::Lost(failure) => return report.failed(Outcome::Lost, failure),
            End::Over(Over::Stopped) => {
                self.ask_back().await;
                return report.outcome = Outcome::Stopped;
            }
            End::Ended => {
                let groups = self.evidence().await;
                report.diagnosed(groups, self.deployment.reason());
                report.outcome = self.after_end(report, false).await;
            }
            End::Over(Over::TimedOut) => {
                let groups = self.evidence().await;
                let wait = duration::display(self.wait());
                report.diagnosed(groups, Some(format!("it took longer than {wait}")));
                report.outcome = if rolls_back { self.back(report).await } else { Outcome::TimedOut };
            }
            End::Hopeless(cause) => {
                let groups = self.evidence().await;
                report.diagnosed(groups, Some(cause));
                report.outcome = if rolls_back { self.back(report).await } else { Outcome::Left };
            }
        }
        report.advice = match report.outcome {
            Outcome::TimedOut | Outcome::Left | Outcome::RollbackFailed => {
                Some(format!("`aws deploy get-deployment --deployment-id {}` tells how it stands", self.id))
            }
            _ => None,
        };
    }

    /// Asks for the way back, where the pipeline wants it, and does not wait for it.
    async fn ask_back(&mut self) {
        let (id, revision) = (&self.id, short(&self.order.revision));
        if self.order.on_failure == OnFailure::Leave || self.goes_back || self.deployment.keeps_earlier {
            return self.warn(format!("the deployment {id} of {revision} goes on by itself")).await;
        }
        let text = match self.stop().await {
            Ok(()) => "CodeDeploy was asked to roll back; that goes on by itself".to_owned(),
            Err(error) => format!("CodeDeploy does not roll {id} back: {}", chain(&error)),
        };
        self.warn(format!("the run was stopped, and {text}")).await;
    }

    /// Stops the deployment and has it taken back; one that is over already is no error.
    async fn stop(&self) -> Result<(), AwsError> {
        match self.aws().codedeploy_stop(&self.id).await {
            Err(AwsError::Service { code, .. }) if code == ALREADY_COMPLETE => Ok(()),
            other => other,
        }
    }

    /// Goes back, and waits for that.
    async fn back(&mut self, report: &mut Report) -> Outcome {
        if let Err(error) = self.stop().await {
            self.warn(format!("CodeDeploy does not stop {}: {}", self.id, chain(&error))).await;
            return Outcome::RollbackFailed;
        }
        self.say(format!("CodeDeploy was asked to stop {} and to roll back", self.id)).await;
        self.casualties.be_patient();
        match self.follow().await {
            // It was through before it could be stopped.
            End::Succeeded => Outcome::Deployed,
            End::Ended => self.after_end(report, true).await,
            End::Over(Over::Stopped) => Outcome::Stopped,
            _ => Outcome::RollbackFailed,
        }
    }

    /// It has failed or was stopped: the deployment that takes it back is followed, where there is one.
    async fn after_end(&mut self, report: &mut Report, asked: bool) -> Outcome {
        let rollback = self.rollback(asked).await;
        if self.deployer.stop.is_cancelled() {
            self.goes_back = true;
            self.ask_back().await;
            return Outcome::Stopped;
        }
        if let Some(id) = rollback {
            return self.follow_back(id).await;
        }
        if !asked
            && self.deployment.status == Status::Stopped
            && let Some(by) = self.newer().await
        {
            report.reason = Some(format!("the deployment {by} was made meanwhile"));
            return Outcome::Superseded;
        }
        let why = self.deployment.rollback_message.clone().filter(|message| !message.is_empty());
        if let (Some(why), reason) = (&why, &mut report.reason) {
            let reason = reason.get_or_insert_default();
            let separator = if reason.is_empty() { "" } else { "; " };
            *reason = format!("{reason}{separator}rollback: {why}");
        }
        if self.order.on_failure == OnFailure::Rollback && self.is_untouched().await {
            self.say("the service has only tasks of the revision before").await;
            return Outcome::RolledBack;
        }
        Outcome::Left
    }

    /// The deployment that takes this one back. `CodeDeploy` tells of it a moment later.
    async fn rollback(&mut self, asked: bool) -> Option<String> {
        let ours = asked || self.order.on_failure == OnFailure::Rollback;
        let expected = ours || self.deployment.rolls_back || self.deployment.status == Status::Stopped;
        let mut watch = Watch::begin(self.deployer, self.wait());
        for _ in 0..LOOKS_BACK {
            if self.deployment.rollback.is_some() || self.deployer.stop.is_cancelled() || !expected {
                break;
            }
            if watch.rest().await.is_err() {
                break;
            }
            if let Ok(deployment) = self.aws().codedeploy_deployment(&self.id).await {
                self.deployment = deployment;
            }
        }
        self.deployment.rollback.clone()
    }

    async fn follow_back(&mut self, id: String) -> Outcome {
        self.say(format!("CodeDeploy rolls back: {id}")).await;
        (self.id, self.goes_back, self.progress) = (id, true, None);
        self.deployment = Deployment::default();
        self.stages.clear();
        self.said.clear();
        self.casualties = Casualties::default();
        match self.follow().await {
            End::Succeeded => Outcome::RolledBack,
            // The earlier tasks have all traffic again.
            End::Over(Over::TimedOut) if self.deployment.keeps_earlier => Outcome::RolledBack,
            End::Over(Over::Stopped) => {
                self.ask_back().await;
                Outcome::Stopped
            }
            End::Lost(failure) => {
                self.warn(format!("the rollback cannot be followed: {failure}")).await;
                Outcome::RollbackFailed
            }
            _ => Outcome::RollbackFailed,
        }
    }

    /// A deployment that was made after this one, and does not take it back.
    async fn newer(&self) -> Option<String> {
        let own = self.deployment.created?;
        let ids = self.aws().codedeploy_deployments(&self.by.application, &self.by.group, own).await.ok()?;
        for id in ids.into_iter().filter(|id| *id != self.id) {
            let other = self.aws().codedeploy_deployment(&id).await.ok()?;
            if !other.is_rollback && other.created.is_some_and(|created| created > own) {
                return Some(id);
            }
        }
        None
    }

    /// The service is as it was: the revision before has the traffic, and nothing of this deployment is left.
    async fn is_untouched(&self) -> bool {
        let name = &self.before.service.name;
        let Ok(service) = self.aws().ecs_service(&self.order.cluster, name).await else { return false };
        let is_own = |made_by: &Option<String>| made_by.as_ref() == Some(&self.id);
        let known = |id: &str| self.before.service.task_sets.iter().any(|set| set.id == id);
        self.before.previous.as_ref() == Some(&service.task_definition)
            && service.task_sets.iter().all(|set| known(&set.id) && !is_own(&set.made_by))
    }
}
