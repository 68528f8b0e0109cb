//! Rollbacks: after a failed deployment, after a stop, and of `runner ecs rollback`.

use super::apply::Applied;
use super::controller::Controller;
use super::follow::{FollowEnd, Follower};
use super::outcome::{Outcome, ServiceReport, failure_of};
use super::pace::WaitEnd;
use super::plan::{Plan, PlannedService};
use super::snapshot::ServiceSnapshot;
use super::{DeployOptions, DeployRequest, Deployer, ServiceSet, short};
use crate::aws::AwsError;
use crate::ecs::revisions::RevisionName;
use crate::ecs::service::Service;
use crate::ecs::task_definition::Request;
use crate::ecs::verdict::{Ending, Verdict};
use crate::exit::{Exit, Failure, chain};
use crate::language::pipeline::model::OnFailure;
use futures_util::future::join_all;
use serde_json::Value;

/// For a service that cannot be rolled back.
const ANY_REVISION: &str = "`runner ecs deploy --task-definition FAMILY:N` deploys any revision";
/// How many revisions are considered for a rollback.
const CANDIDATES: usize = 10;
/// Why the deployment of one service ends when another one fails.
pub(crate) const OTHER_FAILED: &str = "another service of this step has failed";

/// The result of starting a rollback.
pub(crate) enum RollbackStart {
    Started,
    /// The deployment succeeded before it could be stopped.
    AlreadySucceeded,
    /// Someone else has deployed this revision in the meantime. It is left alone.
    Superseded(String),
    /// There is no revision to roll back to.
    NoPrevious,
    Refused(Failure),
}

/// What follows a deployment that has failed or was stopped.
pub(crate) enum AfterFailure {
    Settled(Outcome),
    /// The controller does not roll back by itself.
    RollBack,
    /// The controller rolls back, with a deployment that can be followed.
    FollowRollback,
}

impl<C: Controller> Follower<'_, C> {
    /// Requests a rollback because the run is stopped, and does not wait for it.
    pub(crate) async fn request_rollback(&mut self) {
        let log = self.log;
        if self.request.options.on_failure == OnFailure::Leave || !self.controller.can_roll_back() {
            return log.warn(format!("{} continues without runner", self.controller.describe())).await;
        }
        let name = C::NAME;
        let state = match self.controller.start_rollback().await {
            RollbackStart::Started => format!("{name} rolls back without runner"),
            RollbackStart::AlreadySucceeded => "the deployment has succeeded already".to_owned(),
            RollbackStart::Superseded(by) => {
                format!("{} was deployed in the meantime and is left alone", short(&by))
            }
            RollbackStart::NoPrevious => "there is no revision to roll back to".to_owned(),
            RollbackStart::Refused(failure) => format!("{name} refused to roll back: {failure}"),
        };
        log.warn(format!("the run was stopped; {state}")).await;
    }

    /// Rolls back and waits for the end.
    pub(crate) async fn roll_back(&mut self, report: &mut ServiceReport) -> Outcome {
        match self.controller.start_rollback().await {
            RollbackStart::Started => {}
            RollbackStart::AlreadySucceeded => return Outcome::Deployed,
            RollbackStart::Superseded(by) => {
                let text = format!("{} was deployed in the meantime and is left alone", short(&by));
                self.log.warn(text).await;
                return Outcome::Superseded;
            }
            RollbackStart::NoPrevious => {
                let text =
                    "no earlier revision was deployed successfully, so there is nothing to roll back to";
                self.log.warn(text).await;
                return Outcome::Left;
            }
            RollbackStart::Refused(failure) => {
                self.log.warn(format!("{} refused to roll back: {failure}", C::NAME)).await;
                return Outcome::RollbackFailed;
            }
        }
        self.failed_tasks.roll_back();
        match self.follow().await {
            FollowEnd::Ended(Ending::RolledBack(_)) => Outcome::RolledBack,
            // runner deployed the previous revision.
            FollowEnd::Ended(Ending::Succeeded) if self.controller.revision() != self.request.revision => {
                Outcome::RolledBack
            }
            // It succeeded before it could be stopped.
            FollowEnd::Ended(Ending::Succeeded) => Outcome::Deployed,
            FollowEnd::Ended(Ending::Superseded(_)) => Outcome::Superseded,
            FollowEnd::Ended(Ending::Failed(_)) => {
                match self.controller.after_failure(true, &mut report.reason).await {
                    AfterFailure::Settled(outcome) => outcome,
                    AfterFailure::FollowRollback => self.follow_rollback().await,
                    AfterFailure::RollBack => Outcome::RollbackFailed,
                }
            }
            FollowEnd::Wait(WaitEnd::Stopped) => Outcome::Stopped,
            _ => Outcome::RollbackFailed,
        }
    }

    /// Follows the deployment with which the controller rolls back.
    pub(crate) async fn follow_rollback(&mut self) -> Outcome {
        self.failed_tasks.roll_back();
        match self.follow().await {
            FollowEnd::Ended(Ending::Succeeded) => Outcome::RolledBack,
            // The earlier tasks have all traffic again.
            FollowEnd::Wait(WaitEnd::TimedOut) if self.verdict == Verdict::TrafficMoved => {
                Outcome::RolledBack
            }
            FollowEnd::Wait(WaitEnd::Stopped) => {
                self.request_rollback().await;
                Outcome::Stopped
            }
            FollowEnd::Lost(failure) => {
                self.log.warn(format!("could not follow the rollback: {failure}")).await;
                Outcome::RollbackFailed
            }
            _ => Outcome::RollbackFailed,
        }
    }
}

impl Deployer<'_> {
    /// If one service failed, rolls back those that succeeded before. If the run is stopped, only requests
    /// that.
    pub(crate) async fn roll_back_others<C: Controller>(&self, all: &mut [(Follower<'_, C>, ServiceReport)]) {
        let any = |is: fn(&ServiceReport) -> bool| all.iter().any(|(_, report)| is(report));
        // A deployment that can no longer be followed may well succeed.
        let has_failed = any(|report| {
            report.exit() != Exit::Done && !matches!(report.outcome, Outcome::Superseded | Outcome::Lost)
        });
        let is_stopped = any(|report| report.outcome == Outcome::Stopped);
        let succeeded = |report: &ServiceReport| has_failed && report.outcome == Outcome::Deployed;
        let others = all.iter_mut().filter(|(_, report)| succeeded(report));
        join_all(others.map(|(follower, report)| async move {
            if is_stopped {
                follower.request_rollback().await;
                report.outcome = Outcome::Stopped;
                return;
            }
            follower.log.note(format!("rolling back, because {OTHER_FAILED}")).await;
            report.outcome = follower.roll_back(report).await;
            report.reason = Some(OTHER_FAILED.to_owned());
        }))
        .await;
    }

    /// Plans to give each service the revision that was deployed successfully before.
    pub(crate) async fn plan_rollback(&self, target: &ServiceSet) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        for snapshot in self.snapshots(target).await? {
            let (new, registers_again) = self.earlier_revision(&target.cluster, &snapshot).await?;
            let Service { name: service, task_definition: current, .. } = snapshot.service;
            plan.services.push(PlannedService { service, current, new, registers_again });
        }
        plan.revision = plan.services.first().map(|service| service.new.clone()).unwrap_or_default();
        Ok(plan)
    }

    /// Rolls services back, one after the other. The plan is complete before the first one is changed.
    pub(crate) async fn apply_rollback(
        &self,
        target: &ServiceSet,
        options: &DeployOptions,
    ) -> Result<Applied, Failure> {
        let plan = self.plan_rollback(target).await?;
        let mut applied = Applied { revision: plan.revision, ..Applied::default() };
        for PlannedService { service, current, new, registers_again } in plan.services {
            let note = format!("rolling {service} back from {} to {}", short(&current), short(&new));
            self.events.note(note).await;
            let new = if registers_again {
                match self.register_again(&new).await {
                    Ok(again) => again,
                    Err(failure) => {
                        applied.reports.push(ServiceReport::not_started(&service, &new, failure));
                        continue;
                    }
                }
            } else {
                new
            };
            if registers_again {
                applied.registered = true;
            }
            if applied.reports.is_empty() {
                applied.revision.clone_from(&new);
            }
            let request = DeployRequest {
                target: ServiceSet { cluster: target.cluster.clone(), services: vec![service.clone()] },
                revision: new,
                options: *options,
                code_deploy: None,
                verified: false,
            };
            // Connections that are rolled back already must be reported, so a failure does not end the loop.
            let reports = self.deploy(&request).await;
            let mut reports = reports.unwrap_or_else(|failure| {
                vec![ServiceReport::not_started(&service, &request.revision, failure)]
            });
            for report in &mut reports {
                report.advice = Some(ANY_REVISION.to_owned());
            }
            if applied.follow_up.failure.is_none() && failure_of(&reports).is_none() {
                applied.follow_up = self.follow_up(&request, &reports).await;
            }
            applied.reports.extend(reports);
        }
        Ok(applied)
    }

    /// Returns the last active revision that was deployed successfully and is not the current one. If none is active,
    /// returns the last one and true: its content has to be registered again.
    async fn earlier_revision(
        &self,
        cluster: &str,
        snapshot: &ServiceSnapshot,
    ) -> Result<(String, bool), Failure> {
        let service = &snapshot.service;
        let current = &service.task_definition;
        let none = || {
            let message = format!("{} has no other revision that was deployed successfully", service.name);
            Failure::environment(message).help(ANY_REVISION)
        };
        let mut candidates = match self.aws.ecs_successes(cluster, &service.name, CANDIDATES).await {
            Ok(successes) => successes,
            // An API that does not know the call, such as a test bed, leaves only the numbers.
            Err(error @ AwsError::Unreachable { .. }) => {
                let named = RevisionName::parse(current);
                let number = named.number.unwrap_or_default();
                let revisions = self.aws.ecs_revisions(named.family).await?;
                let found = revisions.into_iter().find(|revision| revision.number() < number);
                let found = found.ok_or_else(none)?;
                let text = format!(
                    "could not read the successful deployments; rolling back to the next lower revision, {}: {}",
                    found.short(),
                    chain(&error)
                );
                self.events.warn(text).await;
                return Ok((found.arn, false));
            }
            Err(error) => return Err(error.into()),
        };
        // The current deployment may never have succeeded.
        candidates.extend(snapshot.previous.clone());
        candidates.retain(|candidate| candidate != current);
        candidates.dedup();
        let (mut inactive, mut gone) = (Vec::<String>::new(), Vec::<String>::new());
        for candidate in candidates.into_iter().take(CANDIDATES) {
            match self.aws.ecs_task_definition(&candidate).await {
                Ok(document) if is_active(&document) => {
                    let skipped: Vec<String> = inactive.iter().chain(&gone).map(|one| short(one)).collect();
                    if !skipped.is_empty() {
                        let text = format!(
                            "{} cannot be deployed, because it is no longer active; the last active one is {}",
                            skipped.join(", "),
                            short(&candidate)
                        );
                        self.events.warn(text).await;
                    }
                    return Ok((candidate, false));
                }
                Ok(_) => inactive.push(candidate),
                // It was deleted.
                Err(AwsError::NotFound { .. }) => gone.push(candidate),
                Err(error) => return Err(error.into()),
            }
        }
        let last = inactive.into_iter().next().ok_or_else(none)?;
        let text = format!(
            "no revision that was deployed successfully is still active; the content of {} is registered again",
            short(&last)
        );
        self.events.warn(text).await;
        Ok((last, true))
    }

    /// Returns a revision that can be deployed: the same one, or if it is inactive a new one with its content.
    pub(crate) async fn deployable(&self, revision: &str) -> Result<String, Failure> {
        if is_active(&self.aws.ecs_task_definition(revision).await?) {
            return Ok(revision.to_owned());
        }
        let text = format!("{} is no longer active; registering its content again", short(revision));
        self.events.note(text).await;
        self.register_again(revision).await
    }

    /// Registers the content of an inactive revision again and returns the new revision, as an ARN.
    async fn register_again(&self, revision: &str) -> Result<String, Failure> {
        let request = Request::from_document(self.aws.ecs_task_definition(revision).await?)?;
        Ok(self.register(None, &request, false).await?.revision)
    }
}

/// Whether a response of `DescribeTaskDefinition` is about a revision that can start tasks.
pub(crate) fn is_active(document: &Value) -> bool {
    let status = document.get("taskDefinition").and_then(|definition| definition.get("status"));
    status.is_none_or(|status| status == "ACTIVE")
}
