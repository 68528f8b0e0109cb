//! A service that Amazon ECS itself rolls out.

use super::{Controller, Observation, TasksOf};
use crate::aws::AwsError;
use crate::deployment::log::ServiceLog;
use crate::deployment::outcome::Outcome;
use crate::deployment::pace::LostResponseRetry;
use crate::deployment::rollback::{AfterFailure, RollbackStart};
use crate::deployment::snapshot::ServiceSnapshot;
use crate::deployment::{DeployRequest, Deployer, short};
use crate::duration;
use crate::ecs::service::{DeploymentState, Service, ServiceDeployment, continuing};
use crate::ecs::verdict::{EcsJudge, EcsPoll};
use crate::exit::{Failure, chain};
use crate::language::pipeline::model::OnFailure;
use jiff::{SignedDuration, Timestamp};

/// Failed lookups in a row after which service deployments are no longer read.
const MAX_LOOKUP_FAILURES: u32 = 2;
/// How often in a row ECS may not know a service deployment that it has listed.
const MAX_MISSING: u32 = 30;
/// How much older than the service's own deployment its service deployment may be.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(10);

pub(crate) struct Ecs<'a> {
    deployer: &'a Deployer<'a>,
    request: &'a DeployRequest,
    log: ServiceLog<'a>,
    snapshot: ServiceSnapshot,
    judge: EcsJudge,
    /// When the deployment was created, by ECS's clock.
    created: Option<Timestamp>,
    /// The ARN of the service deployment.
    arn: Option<String>,
    /// The service deployment as last read.
    deployment: Option<ServiceDeployment>,
    /// Failed lookups of service deployments in a row.
    lookup_failures: u32,
    /// How often in a row ECS did not know the service deployment.
    missing: u32,
}

impl<'a> Ecs<'a> {
    pub(crate) fn new(
        deployer: &'a Deployer<'a>,
        request: &'a DeployRequest,
        log: ServiceLog<'a>,
        snapshot: ServiceSnapshot,
    ) -> Self {
        let lookup_failures = match (&snapshot.deployments, snapshot.may_list_deployments) {
            (_, false) => MAX_LOOKUP_FAILURES,
            (None, true) => 1,
            (Some(_), true) => 0,
        };
        let mut judge = EcsJudge::new(&snapshot.service, &request.revision);
        judge.previous.clone_from(&snapshot.previous);
        Self {
            deployer,
            request,
            log,
            snapshot,
            judge,
            created: None,
            arn: None,
            deployment: None,
            lookup_failures,
            missing: 0,
        }
    }

    fn cluster(&self) -> &'a str {
        &self.request.target.cluster
    }

    fn name(&self) -> &'a str {
        self.log.service
    }

    /// Returns a service deployment if it brings our revision: ECS may be rolling back from another revision
    /// to ours.
    async fn own(&self, arn: Option<String>) -> Option<String> {
        let (arn, aws) = (arn?, self.deployer.aws);
        let target = aws.ecs_service_deployment(&arn).await.ok()?.target?;
        let revision = aws.ecs_service_revision(&target).await.ok()?;
        (revision == self.judge.revision()).then_some(arn)
    }

    async fn warn_before_start(&self) {
        let service = &self.snapshot.service;
        let running = service.primary().filter(|primary| primary.rollout.as_deref() == Some("IN_PROGRESS"));
        if let Some(running) = running
            && self.snapshot.deployments.is_some()
        {
            let other = short(&running.task_definition);
            self.log.warn(format!("this deployment supersedes the running deployment of {other}")).await;
        }
        if !service.pauses.is_empty() {
            let stages: Vec<String> =
                service.pauses.iter().map(|stage| stage.to_lowercase().replace('_', " ")).collect();
            let counts = if self.request.options.wait_includes_pauses {
                "that time counts against `wait`"
            } else {
                "that time does not count against `wait`"
            };
            let text = format!(
                "a lifecycle hook pauses this deployment at {} until someone continues it with {}; {counts}",
                stages.join(", "),
                continuing("ARN", "ID")
            );
            self.log.warn(text).await;
        }
        let wait = self.request.wait_for(service);
        if service.shifting >= wait {
            let (shifting, wait) = (duration::display(service.shifting), duration::display(wait));
            let text = format!(
                "the service is configured to shift traffic for {shifting}, but the deployment times out after {wait}"
            );
            self.log.warn(text).await;
        }
    }

    /// Updates the service to the revision.
    async fn update(&mut self, force: bool) -> Result<(), Failure> {
        let (aws, revision) = (self.deployer.aws, self.judge.revision().to_owned());
        let mut retry = LostResponseRetry::new(self.deployer);
        let service = loop {
            let error = match aws.ecs_update_service(self.cluster(), self.name(), &revision, force).await {
                Ok(service) => break service,
                Err(error) => error,
            };
            // ECS knew the service a moment ago.
            if !error.is_transient() && !matches!(error, AwsError::NotFound { .. }) {
                return Err(error.into());
            }
            // The update may have arrived, and only its response was lost.
            match aws.ecs_service(self.cluster(), self.name()).await {
                Ok(service) if self.has_started(&service, force) => break service,
                Ok(_) if retry.next() => {
                    retry.report(self.log.events, &error).await;
                    // A stopped run still has to start its rollback, so the stop is ignored here.
                    let _ = retry.back_off().await;
                }
                Ok(_) => return Err(error.into()),
                Err(_) => {
                    let help = "ECS may have started it anyway; `runner ecs status` shows whether it has";
                    return Err(Failure::from(error).help(help));
                }
            }
        };
        let own = service
            .primary()
            .filter(|primary| primary.task_definition == revision && !self.judge.is_earlier(&primary.id));
        self.created = own.and_then(|own| own.created);
        self.judge.started(own.map(|own| own.id.clone()));
        (self.arn, self.deployment) = (None, None);
        self.log.note(format!("{} is being deployed", short(&revision))).await;
        Ok(())
    }

    /// Whether a service shows the requested deployment.
    fn has_started(&self, service: &Service, force: bool) -> bool {
        let is_new = || service.primary().is_some_and(|primary| !self.judge.is_earlier(&primary.id));
        service.task_definition == self.judge.revision() && (!force || is_new())
    }

    /// Reads the service deployment once its ARN is known. Returns whether it is as recent as the service, or
    /// not available at all.
    async fn read_deployment(&mut self, service: &Service) -> bool {
        if self.lookup_failures >= MAX_LOOKUP_FAILURES {
            return true;
        }
        if self.arn.is_none() {
            match self.find_deployment(service).await {
                Ok(found) => {
                    self.lookup_failures = 0;
                    // ECS may know it only after a moment.
                    if let Some(arn) = &found {
                        self.deployer.aws.made(arn);
                    }
                    self.arn = found;
                }
                Err(error) => {
                    self.lookup_failures += 1;
                    if self.lookup_failures == MAX_LOOKUP_FAILURES {
                        self.deployer.warn_no_service_deployments(self.name(), &error).await;
                    }
                }
            }
        }
        let Some(arn) = &self.arn else { return false };
        match self.deployer.aws.ecs_service_deployment(arn).await {
            Ok(deployment) => {
                (self.lookup_failures, self.missing) = (0, 0);
                self.deployment = Some(deployment);
                true
            }
            // The last response stays valid for now.
            Err(error) if error.is_transient() => false,
            // ECS may know it only after a moment, or forget it for one.
            Err(AwsError::NotFound { .. }) if self.missing < MAX_MISSING => {
                self.missing += 1;
                false
            }
            Err(error) => {
                self.lookup_failures = MAX_LOOKUP_FAILURES;
                self.deployment = None;
                self.deployer.warn_no_service_deployments(self.name(), &error).await;
                false
            }
        }
    }

    /// Returns the ARN of the new service deployment that brings our revision.
    async fn find_deployment(&self, service: &Service) -> Result<Option<String>, AwsError> {
        let aws = self.deployer.aws;
        let known = self.snapshot.deployments.as_deref().unwrap_or_default();
        let after = self.created.map(|created| created - CLOCK_SKEW);
        let mut candidates = aws.ecs_service_deployments(self.cluster(), self.name()).await?;
        candidates.retain(|candidate| {
            let is_old = after.is_some_and(|after| candidate.created.is_some_and(|created| created < after));
            !known.contains(&candidate.arn) && !is_old
        });
        // Oldest first: a deployment that has superseded ours since is newer.
        candidates.reverse();
        for candidate in candidates {
            let Some(target) = &candidate.target else {
                if service.current_deployment.as_ref() == Some(&candidate.arn) {
                    return Ok(Some(candidate.arn));
                }
                continue;
            };
            match aws.ecs_service_revision(target).await {
                Ok(revision) if revision == self.judge.revision() => return Ok(Some(candidate.arn)),
                // ECS may know it only after a moment.
                Ok(_) | Err(AwsError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Asks ECS to roll back its running deployment. Returns `None` if ECS refuses.
    async fn request_rollback(&self, arn: &str) -> Option<RollbackStart> {
        let error = match self.deployer.aws.ecs_roll_back(arn).await {
            Ok(()) => {
                self.log.note("asked ECS to roll back").await;
                return Some(RollbackStart::Started);
            }
            Err(error) => error,
        };
        // It may have ended a moment before.
        match self.deployer.aws.ecs_service_deployment(arn).await.map(|now| now.state) {
            Ok(DeploymentState::Successful) => return Some(RollbackStart::AlreadySucceeded),
            Ok(
                DeploymentState::RollbackRequested
                | DeploymentState::RollbackInProgress
                | DeploymentState::RollbackSuccessful
                | DeploymentState::RollbackFailed,
            ) => return Some(RollbackStart::Started),
            _ => {}
        }
        let text =
            format!("ECS refused to roll back; deploying the previous revision instead: {}", chain(&error));
        self.log.warn(text).await;
        None
    }

    /// Deploys the previous revision.
    async fn deploy_previous(&mut self) -> RollbackStart {
        let previous = self.snapshot.previous.clone();
        let Some(previous) = previous.filter(|previous| previous != self.judge.revision()) else {
            return RollbackStart::NoPrevious;
        };
        // ECS refuses to deploy an inactive revision.
        let previous = match self.deployer.deployable(&previous).await {
            Ok(deployable) => deployable,
            Err(failure) => return RollbackStart::Refused(failure),
        };
        self.snapshot.previous = Some(previous.clone());
        let failed = self.judge.switch_to(previous);
        let deployments = self.deployer.aws.ecs_service_deployments(self.cluster(), self.name()).await;
        self.snapshot.deployments = deployments.ok().map(|all| all.into_iter().map(|one| one.arn).collect());
        match self.update(false).await {
            Ok(()) => RollbackStart::Started,
            Err(failure) => {
                self.judge.switch_to(failed);
                RollbackStart::Refused(failure)
            }
        }
    }
}

impl Controller for Ecs<'_> {
    const NAME: &'static str = "ECS";

    async fn start(&mut self) -> Result<bool, Failure> {
        let (service, revision) = (&self.snapshot.service, &self.request.revision);
        let mut force = self.request.options.force;
        if service.task_definition == *revision && !force {
            let primary = service.primary().filter(|primary| primary.task_definition == *revision);
            let rollout = primary.and_then(|primary| primary.rollout.as_deref());
            match (rollout, primary) {
                (Some("IN_PROGRESS"), Some(primary)) => {
                    self.judge.started(Some(primary.id.clone()));
                    self.created = primary.created;
                    self.arn = self.own(service.current_deployment.clone()).await;
                    let text = format!("{} is already being deployed; following it", short(revision));
                    self.log.note(text).await;
                    return Ok(true);
                }
                (Some("FAILED"), _) => {
                    let text =
                        format!("the last deployment of {} failed; deploying it again", short(revision));
                    self.log.note(text).await;
                    force = true;
                }
                _ => return Ok(false),
            }
        }
        self.warn_before_start().await;
        self.update(force).await?;
        Ok(true)
    }

    async fn observe(&mut self) -> Result<Observation, AwsError> {
        let service = match self.deployer.aws.ecs_service(self.cluster(), self.name()).await {
            Ok(service) => service,
            Err(AwsError::NotFound { .. }) => {
                let assessment = self.judge.missing().into();
                return Ok(Observation { service: None, continuing: None, assessment });
            }
            Err(error) => return Err(error),
        };
        let is_current = self.read_deployment(&service).await;
        let deployment = self.deployment.as_ref();
        let assessment = self.judge.observe(EcsPoll { service: &service, deployment, is_current });
        let continuing = deployment.and_then(ServiceDeployment::continuing);
        Ok(Observation { service: Some(service), continuing, assessment })
    }

    fn unseen_events(&self, service: &Service) -> Vec<String> {
        self.judge.seen.unseen(service)
    }

    fn tasks(&self) -> Option<TasksOf<'_>> {
        let revision = self.judge.revision();
        (revision == self.request.revision).then(|| TasksOf {
            id: self.judge.id(),
            revision,
            created: self.created,
        })
    }

    fn revision(&self) -> &str {
        self.judge.revision()
    }

    fn id(&self) -> Option<String> {
        self.arn.clone()
    }

    fn describe(&self) -> String {
        format!("the deployment of {}", short(self.judge.revision()))
    }

    fn can_roll_back(&self) -> bool {
        true
    }

    async fn start_rollback(&mut self) -> RollbackStart {
        let now = self.deployer.aws.ecs_service(self.cluster(), self.name()).await;
        let other = now.ok().and_then(|now| self.judge.replaced_by(&now));
        // If the previous revision took its place, the rollback has begun already.
        if let Some(by) = other.filter(|by| Some(by) != self.snapshot.previous.as_ref()) {
            return RollbackStart::Superseded(by);
        }
        self.judge.clear_doubts();
        let is_running = self.deployment.as_ref().is_none_or(|deployment| !deployment.state.is_final());
        if let Some(arn) = self.arn.clone().filter(|_| is_running)
            && let Some(start) = self.request_rollback(&arn).await
        {
            return start;
        }
        self.deploy_previous().await
    }

    async fn after_failure(&mut self, requested: bool, _: &mut Option<String>) -> AfterFailure {
        match self.request.options.on_failure {
            _ if requested => AfterFailure::Settled(Outcome::RollbackFailed),
            OnFailure::Leave => AfterFailure::Settled(Outcome::Left),
            OnFailure::Rollback => AfterFailure::RollBack,
        }
    }

    fn advice(&self, _: Outcome) -> Option<String> {
        None
    }
}
