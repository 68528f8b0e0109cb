//! Deploys revisions to services.

use super::after::FollowUp;
use super::controller::{CodeDeploy, CodeDeployGroup, Controller, Ecs};
use super::follow::{FollowEnd, Follower};
use super::log::ServiceLog;
use super::outcome::{Outcome, ServiceReport, failure_of};
use super::pace::WaitEnd;
use super::plan::{DefinitionSource, Prepared};
use super::registration::{Registered, Registration};
use super::rollback::{AfterFailure, OTHER_FAILED};
use super::snapshot::{ServiceSnapshot, deployable};
use super::{DeployOptions, DeployRequest, Deployer, ServiceSet, short};
use crate::duration;
use crate::ecs::appspec::AppSpec;
use crate::ecs::service;
use crate::ecs::task_definition::Patch;
use crate::ecs::verdict::{Ending, Verdict};
use crate::exit::Failure;
use crate::language::pipeline::model::OnFailure;
use futures_util::future::join_all;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// The result of a deployment.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The deployed revision, as an ARN.
    pub(crate) revision: String,
    /// It was registered for this deployment.
    pub(crate) registered: bool,
    /// The change of the task definition, as a unified diff.
    pub(crate) difference: Option<String>,
    pub(crate) reports: Vec<ServiceReport>,
    pub(crate) follow_up: FollowUp,
}

impl Applied {
    pub(crate) fn failure(&self) -> Option<Failure> {
        failure_of(&self.reports).or_else(|| self.follow_up.failure.clone())
    }
}

impl Deployer<'_> {
    /// Registers a revision unless one with the same content exists, and deploys it.
    pub(crate) async fn register_and_deploy(
        &self,
        target: &ServiceSet,
        source: DefinitionSource,
        patch: &Patch,
        options: &DeployOptions,
    ) -> Result<Applied, Failure> {
        let snapshots = self.snapshots(target).await?;
        let Prepared { request, base } = self.prepare(&snapshots, source, patch).await?;
        // An unchanged revision is deployed as it is, even if it is not the latest one.
        let same = Registered::same_content(&request, [&base]);
        let Registration { revision, is_new, difference } = match same {
            Some(same) if !options.force => Registration::existing(&same.revision.arn),
            _ => {
                for snapshot in &snapshots {
                    self.verify_service(&snapshot.service, request.fields()).await?;
                }
                self.register(base, &request, options.force).await?
            }
        };
        let (target, options) = (target.clone(), *options);
        let request = DeployRequest { target, revision, options, code_deploy: None, verified: is_new };
        let reports = self.deploy_with_ecs(&request, snapshots).await?;
        let follow_up = match failure_of(&reports) {
            None => self.follow_up(&request, &reports).await,
            Some(_) => FollowUp::default(),
        };
        Ok(Applied { revision: request.revision, registered: is_new, difference, reports, follow_up })
    }

    /// Deploys a revision to services and follows each deployment to its end. Fails only if nothing was
    /// started; everything else is in the reports.
    pub(crate) async fn deploy(&self, request: &DeployRequest) -> Result<Vec<ServiceReport>, Failure> {
        match &request.code_deploy {
            Some(group) => Ok(vec![self.deploy_with_code_deploy(request, group).await?]),
            None => self.deploy_with_ecs(request, self.snapshots(&request.target).await?).await,
        }
    }

    async fn deploy_with_ecs(
        &self,
        request: &DeployRequest,
        snapshots: Vec<ServiceSnapshot>,
    ) -> Result<Vec<ServiceReport>, Failure> {
        tokio::select! {
            verified = self.verify(request, &snapshots) => verified?,
            () = self.stop.cancelled() => return Err(Failure::stopped()),
        }
        let failed = CancellationToken::new();
        let services = request.target.services.iter().zip(snapshots);
        let mut all = join_all(services.map(async |(name, snapshot)| {
            let mut report = ServiceReport::new(name, &request.revision, snapshot.previous.clone());
            let log = self.service_log(request, name);
            let wait = request.wait_for(&snapshot.service);
            let is_idle = snapshot.service.desired == 0 && snapshot.service.running == 0;
            let controller = Ecs::new(self, request, log, snapshot);
            let mut follower = Follower::new(self, request, log, wait, controller);
            follower.is_idle = is_idle;
            follower.run(&mut report, &failed).await;
            (follower, report)
        }))
        .await;
        if request.options.on_failure == OnFailure::Rollback {
            self.roll_back_others(&mut all).await;
        }
        Ok(all.into_iter().map(|(_, report)| report).collect())
    }

    async fn deploy_with_code_deploy(
        &self,
        request: &DeployRequest,
        group: &CodeDeployGroup,
    ) -> Result<ServiceReport, Failure> {
        let name = request.target.services.first().map(String::as_str).unwrap_or_default();
        let service = self.aws.ecs_service(&request.target.cluster, name).await?;
        deployable(&service)?;
        if service.controller != service::ControllerType::CodeDeploy {
            return Err(Failure::usage(format!("the service {name} is not deployed by CodeDeploy"))
                .help("remove `code-deploy`, or create the service with the controller CODE_DEPLOY"));
        }
        self.verify_deployment_group(request, group, &service).await?;
        let previous = Some(service.task_definition.clone()).filter(|revision| !revision.is_empty());
        let mut report = ServiceReport::new(name, &request.revision, previous.clone());
        if service.task_definition == request.revision && !request.options.force {
            report.outcome = Outcome::Unchanged;
            return Ok(report);
        }
        let Some(spec) = AppSpec::of(&service, &request.revision) else {
            let message = format!("the service {name} has no load balancer, which CodeDeploy requires");
            return Err(Failure::environment(message));
        };
        let snapshot = ServiceSnapshot { service, previous, deployments: None, may_list_deployments: false };
        self.verify(request, std::slice::from_ref(&snapshot)).await?;
        let log = self.service_log(request, name);
        let wait = request.wait_for(&snapshot.service);
        let controller = CodeDeploy::new(self, request, group, log, snapshot, spec.json());
        let mut follower = Follower::new(self, request, log, wait, controller);
        follower.run(&mut report, &CancellationToken::new()).await;
        Ok(report)
    }

    fn service_log<'l>(&'l self, request: &DeployRequest, service: &'l str) -> ServiceLog<'l> {
        ServiceLog { events: self.events, service, is_one_of_many: request.target.services.len() > 1 }
    }
}

impl<C: Controller> Follower<'_, C> {
    /// Deploys to one service and follows that to its end. A failure cancels `failed`; if another service
    /// cancels it, this one ends.
    async fn run(&mut self, report: &mut ServiceReport, failed: &CancellationToken) {
        self.deploy(report, failed).await;
        report.is_idle = self.is_idle;
        if self.is_idle && matches!(report.outcome, Outcome::Deployed | Outcome::Unchanged) {
            self.log.warn(report.sentence()).await;
        }
    }

    async fn deploy(&mut self, report: &mut ServiceReport, failed: &CancellationToken) {
        let start = Instant::now();
        match self.controller.start().await {
            Ok(true) => self.log.started(&self.request.target.cluster, report).await,
            Ok(false) => return report.outcome = Outcome::Unchanged,
            Err(failure) if failure.is_stopped() => return report.outcome = Outcome::Stopped,
            Err(failure) => {
                failed.cancel();
                return report.fail(Outcome::NotStarted, failure);
            }
        }
        let rolls_back = self.request.options.on_failure == OnFailure::Rollback;
        let end = tokio::select! {
            end = self.follow() => end,
            () = failed.cancelled(), if rolls_back => FollowEnd::Hopeless(OTHER_FAILED.to_owned()),
        };
        report.deployment = self.controller.id();
        report.outcome = self.conclude(report, end, failed).await;
        report.advice = self.controller.advice(report.outcome);
        report.elapsed = start.elapsed();
    }

    /// Decides what follows the end of a deployment, and does it.
    async fn conclude(
        &mut self,
        report: &mut ServiceReport,
        end: FollowEnd,
        failed: &CancellationToken,
    ) -> Outcome {
        let (left, reason) = match end {
            FollowEnd::Ended(Ending::Succeeded) => return Outcome::Deployed,
            FollowEnd::Ended(Ending::Untraceable) => return Outcome::Unconfirmed,
            FollowEnd::Ended(Ending::Superseded(by)) => {
                report.reason = Some(format!("{} was deployed in the meantime", short(&by)));
                return Outcome::Superseded;
            }
            FollowEnd::Ended(Ending::Deleted) => {
                failed.cancel();
                report.reason = Some("the service was deleted in the meantime".to_owned());
                report.previous = None;
                return Outcome::Left;
            }
            FollowEnd::Ended(Ending::RolledBack(reason)) => {
                failed.cancel();
                report.diagnose(self.diagnose().await, reason);
                return Outcome::RolledBack;
            }
            FollowEnd::Ended(Ending::RollbackFailed(reason)) => {
                failed.cancel();
                report.diagnose(self.diagnose().await, reason);
                return Outcome::RollbackFailed;
            }
            FollowEnd::Ended(Ending::Failed(reason)) => {
                failed.cancel();
                report.diagnose(self.diagnose().await, reason);
                return match self.controller.after_failure(false, &mut report.reason).await {
                    AfterFailure::Settled(outcome) => outcome,
                    AfterFailure::RollBack => self.roll_back(report).await,
                    AfterFailure::FollowRollback => self.follow_rollback().await,
                };
            }
            FollowEnd::Lost(failure) => {
                report.fail(Outcome::Lost, failure);
                return Outcome::Lost;
            }
            FollowEnd::Wait(WaitEnd::Stopped) => {
                self.request_rollback().await;
                return Outcome::Stopped;
            }
            // All traffic goes to the new tasks, and they have passed every hook.
            FollowEnd::Wait(WaitEnd::TimedOut) if self.verdict == Verdict::TrafficMoved => {
                let text = format!("{} will finish when the earlier tasks end", self.controller.describe());
                self.log.note(text).await;
                return Outcome::Deployed;
            }
            FollowEnd::Wait(WaitEnd::TimedOut) => {
                let took = format!("it took longer than {}", duration::display(self.wait));
                match self.continuing.take() {
                    Some(command) => (
                        Outcome::TimedOut,
                        format!("{took}, because it was paused and nothing continued it: {command}"),
                    ),
                    None => (Outcome::TimedOut, took),
                }
            }
            FollowEnd::Hopeless(reason) => (Outcome::Left, reason),
        };
        failed.cancel();
        report.diagnose(self.diagnose().await, Some(reason));
        match self.request.options.on_failure {
            OnFailure::Leave => left,
            OnFailure::Rollback => self.roll_back(report).await,
        }
    }
}
