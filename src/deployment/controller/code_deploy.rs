//! A service that AWS `CodeDeploy` rolls out.

use super::{Controller, Observation, TasksOf};
use crate::aws::codedeploy::{ALREADY_COMPLETE, ALREADY_DEPLOYING, NewDeployment, sha256};
use crate::aws::{Aws, AwsError};
use crate::connections::failure::with_advice;
use crate::deployment::log::ServiceLog;
use crate::deployment::outcome::Outcome;
use crate::deployment::pace::{LostResponseRetry, Poller};
use crate::deployment::rollback::{AfterFailure, RollbackStart};
use crate::deployment::snapshot::ServiceSnapshot;
use crate::deployment::{DeployRequest, Deployer, short};
use crate::ecs::code_deploy::{Deployment, Progress, Status, active_in};
use crate::ecs::service::Service;
use crate::ecs::verdict::{CodeDeployJudge, Verdict};
use crate::exit::Failure;
use crate::language::pipeline::model::OnFailure;
use crate::random;
use jiff::{SignedDuration, Timestamp};

/// How often a failed deployment is polled for the deployment that rolls it back.
const ROLLBACK_POLLS: u32 = 8;
/// The longest first part of a description, in characters: `CodeDeploy` refuses long ones.
const MAX_DESCRIPTION: usize = 180;
/// How far this machine's clock may be off.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// A deployment group of `CodeDeploy`.
#[derive(Debug, Clone)]
pub(crate) struct CodeDeployGroup {
    pub(crate) application: String,
    pub(crate) group: String,
    /// Describes the deployment to users of `CodeDeploy`.
    pub(crate) description: String,
}

pub(crate) struct CodeDeploy<'a> {
    deployer: &'a Deployer<'a>,
    request: &'a DeployRequest,
    group: &'a CodeDeployGroup,
    log: ServiceLog<'a>,
    snapshot: ServiceSnapshot,
    /// The `AppSpec`, as JSON.
    app_spec: String,
    /// The deployment's id; during a rollback that of the deployment that rolls back.
    id: String,
    /// The deployment as last read.
    deployment: Deployment,
    progress: Option<Progress>,
    /// The progress cannot be read.
    progress_denied: bool,
    /// The deployment rolls an earlier one back.
    rolling_back: bool,
    /// The task set of the new revision.
    task_set: Option<String>,
    judge: CodeDeployJudge,
}

impl<'a> CodeDeploy<'a> {
    pub(crate) fn new(
        deployer: &'a Deployer<'a>,
        request: &'a DeployRequest,
        group: &'a CodeDeployGroup,
        log: ServiceLog<'a>,
        snapshot: ServiceSnapshot,
        app_spec: String,
    ) -> Self {
        let judge = CodeDeployJudge::new(&snapshot.service);
        Self {
            deployer,
            request,
            group,
            log,
            snapshot,
            app_spec,
            id: String::new(),
            deployment: Deployment::default(),
            progress: None,
            progress_denied: false,
            rolling_back: false,
            task_set: None,
            judge,
        }
    }

    fn aws(&self) -> &'a Aws {
        self.deployer.aws
    }

    async fn started(&mut self, id: String) {
        let revision = short(&self.request.revision);
        self.log.note(format!("{revision} is being deployed by CodeDeploy: {id}")).await;
        self.aws().made(&id);
        self.id = id;
    }

    /// Returns the deployment of this group with our description.
    async fn find(&self, description: &str) -> Result<Option<String>, AwsError> {
        let CodeDeployGroup { application, group, .. } = self.group;
        let since = Timestamp::now() - CLOCK_SKEW;
        for id in self.aws().codedeploy_deployments(application, group, since).await? {
            if self.aws().codedeploy_deployment(&id).await?.description == description {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The group has a running deployment. It is followed if it brings the same revision.
    async fn join(&mut self, refusal: &str, new: &NewDeployment) -> Result<(), Failure> {
        let Some(id) = active_in(refusal) else {
            return Err(Failure::step(format!("CodeDeploy refused to start a deployment: {refusal}"))
                .help("wait for the running deployment to end, or stop it"));
        };
        let other = self.aws().codedeploy_deployment(id).await.ok();
        if let Some(other) = &other {
            // It is ours: only the response to its creation was lost.
            if other.description == new.description {
                self.started(id.to_owned()).await;
                return Ok(());
            }
            if other.sha256.as_deref() == Some(&sha256(&new.app_spec)) && !self.request.options.force {
                let revision = short(&self.request.revision);
                self.log.note(format!("{revision} is already being deployed by {id}; following it")).await;
                id.clone_into(&mut self.id);
                return Ok(());
            }
        }
        let details = other.map(|other| {
            let since = other.created.map(|at| format!(", since {}", at.strftime("%Y-%m-%d %H:%M UTC")));
            let about =
                if other.description.is_empty() { String::new() } else { format!(", {}", other.description) };
            format!(" ({}{about}{})", other.status, since.unwrap_or_default())
        });
        let CodeDeployGroup { application, group, .. } = self.group;
        let message = format!(
            "the deployment group {application}/{group} has another running deployment, {id}{}",
            details.unwrap_or_default()
        );
        Err(Failure::step(message).help(format!(
            "wait for it to end, or stop it with `aws deploy stop-deployment --deployment-id {id}`; \
             once its traffic has moved, it ends when the earlier tasks do"
        )))
    }

    async fn read_progress(&mut self) {
        if self.progress_denied {
            return;
        }
        match self.aws().codedeploy_progress(&self.id).await {
            Ok(Some(progress)) => self.progress = Some(progress),
            Ok(None) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => {
                self.progress_denied = true;
                let text = format!("could not read the stages of the deployment: {}", with_advice(&error));
                self.log.warn(text).await;
            }
        }
    }

    /// Returns the service, or `None` while it rolls back. Its state decides nothing, so a failed call is
    /// left to the next poll.
    async fn read_service(&mut self) -> Option<Service> {
        if self.rolling_back {
            return None;
        }
        let service = self.aws().ecs_service(&self.request.target.cluster, self.log.service).await.ok()?;
        let set = service.task_sets.iter().find(|set| set.made_by.as_ref() == Some(&self.id));
        let new_set = || self.progress.as_ref().and_then(Progress::new_set).map(|set| set.id.clone());
        self.task_set = set.map(|set| set.id.clone()).or_else(new_set);
        Some(service)
    }

    /// Stops the deployment and requests its rollback. A deployment that has ended already is not an error.
    async fn stop(&self) -> Result<(), AwsError> {
        match self.aws().codedeploy_stop(&self.id).await {
            Err(AwsError::Service { code, .. }) if code == ALREADY_COMPLETE => Ok(()),
            other => other,
        }
    }

    /// Returns the deployment that rolls this one back. `CodeDeploy` names it only after a moment.
    async fn find_rollback(&mut self, requested: bool) -> Option<String> {
        let is_expected = requested
            || self.request.options.on_failure == OnFailure::Rollback
            || self.deployment.rolls_back
            || self.deployment.status == Status::Stopped;
        let mut poller = Poller::new(self.deployer, self.request.wait_for(&self.snapshot.service));
        for _ in 0..ROLLBACK_POLLS {
            if self.deployment.rollback.is_some() || self.deployer.stop.is_cancelled() || !is_expected {
                break;
            }
            if poller.pause().await.is_err() {
                break;
            }
            if let Ok(deployment) = self.aws().codedeploy_deployment(&self.id).await {
                self.deployment = deployment;
            }
        }
        self.deployment.rollback.clone()
    }

    /// From now on the deployment that rolls back is followed.
    async fn switch_to_rollback(&mut self, id: String) {
        self.log.note(format!("CodeDeploy rolls back: {id}")).await;
        (self.id, self.rolling_back) = (id, true);
        (self.deployment, self.progress) = (Deployment::default(), None);
        self.judge.switch();
    }

    /// Returns a deployment that was created after this one and does not roll it back.
    async fn newer(&self) -> Option<String> {
        let CodeDeployGroup { application, group, .. } = self.group;
        let own = self.deployment.created?;
        let ids = self.aws().codedeploy_deployments(application, group, own).await.ok()?;
        for id in ids.into_iter().filter(|id| *id != self.id) {
            let other = self.aws().codedeploy_deployment(&id).await.ok()?;
            if !other.is_rollback && other.created.is_some_and(|created| created > own) {
                return Some(id);
            }
        }
        None
    }

    /// Whether the previous revision has the traffic and no task set of this deployment is left.
    async fn is_untouched(&self) -> bool {
        let service = self.aws().ecs_service(&self.request.target.cluster, self.log.service).await;
        let Ok(service) = service else { return false };
        let is_own = |made_by: &Option<String>| made_by.as_ref() == Some(&self.id);
        let is_known = |id: &str| self.snapshot.service.task_sets.iter().any(|set| set.id == id);
        self.snapshot.previous.as_ref() == Some(&service.task_definition)
            && service.task_sets.iter().all(|set| is_known(&set.id) && !is_own(&set.made_by))
    }
}

impl Controller for CodeDeploy<'_> {
    const NAME: &'static str = "CodeDeploy";

    /// Creates the deployment. Before a retry it is looked up, so that a lost response does not lead to a
    /// second one.
    async fn start(&mut self) -> Result<bool, Failure> {
        let description: String = self.group.description.chars().take(MAX_DESCRIPTION).collect();
        let new = NewDeployment {
            application: self.group.application.clone(),
            group: self.group.group.clone(),
            app_spec: self.app_spec.clone(),
            description: format!("{description} (runner {})", random::id()),
            roll_back: self.request.options.on_failure == OnFailure::Rollback,
        };
        let mut retry = LostResponseRetry::new(self.deployer);
        let id = loop {
            let error = match self.aws().codedeploy_create(&new).await {
                Ok(id) => break id,
                Err(error) => error,
            };
            match &error {
                AwsError::Service { code, message, .. } if code == ALREADY_DEPLOYING => {
                    return self.join(message, &new).await.map(|()| true);
                }
                error if error.is_transient() => {}
                _ => return Err(error.into()),
            }
            retry.report(self.log.events, &error).await;
            let backed_off = retry.back_off().await;
            match self.find(&new.description).await {
                Ok(Some(id)) => break id,
                Ok(None) => {
                    backed_off?;
                    if !retry.next() {
                        return Err(error.into());
                    }
                }
                Err(_) => {
                    let help = "it may have been created anyway: CodeDeploy could not be asked";
                    return Err(Failure::from(error).help(help));
                }
            }
        };
        self.started(id).await;
        Ok(true)
    }

    async fn observe(&mut self) -> Result<Observation, AwsError> {
        match self.aws().codedeploy_deployment(&self.id).await {
            Ok(deployment) => self.deployment = deployment,
            Err(AwsError::NotFound { .. }) if self.judge.missing() => {
                return Ok(Observation {
                    service: None,
                    continuing: None,
                    assessment: Verdict::Unclear.into(),
                });
            }
            Err(error) => return Err(error),
        }
        self.read_progress().await;
        let service = self.read_service().await;
        let assessment = self.judge.observe(&self.deployment, self.progress.as_ref(), service.as_ref());
        Ok(Observation { service, continuing: None, assessment })
    }

    fn unseen_events(&self, service: &Service) -> Vec<String> {
        self.judge.seen.unseen(service)
    }

    fn tasks(&self) -> Option<TasksOf<'_>> {
        let (id, revision) = (self.task_set.as_deref(), self.request.revision.as_str());
        (!self.rolling_back).then_some(TasksOf { id, revision, created: self.deployment.created })
    }

    fn revision(&self) -> &str {
        &self.request.revision
    }

    fn id(&self) -> Option<String> {
        Some(self.id.clone())
    }

    fn describe(&self) -> String {
        format!("the deployment {} of {}", self.id, short(&self.request.revision))
    }

    fn can_roll_back(&self) -> bool {
        !self.rolling_back && !self.deployment.keeps_earlier
    }

    async fn start_rollback(&mut self) -> RollbackStart {
        self.judge.clear_doubts();
        match self.stop().await {
            Ok(()) => {
                self.log.note(format!("asked CodeDeploy to stop {} and to roll back", self.id)).await;
                RollbackStart::Started
            }
            Err(error) => RollbackStart::Refused(error.into()),
        }
    }

    async fn after_failure(&mut self, requested: bool, reason: &mut Option<String>) -> AfterFailure {
        let rollback = self.find_rollback(requested).await;
        if self.deployer.stop.is_cancelled() {
            self.log.warn(format!("{} continues without runner", self.describe())).await;
            return AfterFailure::Settled(Outcome::Stopped);
        }
        if let Some(id) = rollback {
            self.switch_to_rollback(id).await;
            return AfterFailure::FollowRollback;
        }
        if !requested
            && self.deployment.status == Status::Stopped
            && let Some(by) = self.newer().await
        {
            *reason = Some(format!("the deployment {by} was created in the meantime"));
            return AfterFailure::Settled(Outcome::Superseded);
        }
        if let Some(why) = self.deployment.rollback_message.as_ref().filter(|message| !message.is_empty()) {
            let before = reason.take().filter(|reason| !reason.is_empty());
            let before = before.map(|reason| format!("{reason}; ")).unwrap_or_default();
            *reason = Some(format!("{before}rollback: {why}"));
        }
        if self.request.options.on_failure == OnFailure::Rollback && self.is_untouched().await {
            self.log.note("the service runs only tasks of the previous revision").await;
            return AfterFailure::Settled(Outcome::RolledBack);
        }
        AfterFailure::Settled(Outcome::Left)
    }

    fn advice(&self, outcome: Outcome) -> Option<String> {
        let is_unsettled = matches!(outcome, Outcome::TimedOut | Outcome::Left | Outcome::RollbackFailed);
        is_unsettled
            .then(|| format!("`aws deploy get-deployment --deployment-id {}` shows its state", self.id))
    }
}
