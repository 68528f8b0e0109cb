//! Follows the deployment of one service: polls its controller until an end, a deadline or a stop.

use super::controller::{Controller, Observation};
use super::failed_tasks::{DIAGNOSIS_TIMEOUT, FailedTasks};
use super::log::ServiceLog;
use super::pace::{Poller, WaitEnd};
use super::{DeployRequest, Deployer, short};
use crate::aws::AwsError;
use crate::ecs::diagnosis::CauseGroup;
use crate::ecs::service::Service;
use crate::ecs::verdict::{Ending, Verdict};
use crate::exit::Failure;
use std::time::Duration;

/// Why following ended.
pub(crate) enum FollowEnd {
    Ended(Ending),
    Wait(WaitEnd),
    /// Waiting longer cannot help.
    Hopeless(String),
    /// The controller cannot be polled any more.
    Lost(Failure),
}

pub(crate) struct Follower<'a, C> {
    pub(crate) deployer: &'a Deployer<'a>,
    pub(crate) request: &'a DeployRequest,
    pub(crate) log: ServiceLog<'a>,
    pub(crate) controller: C,
    /// How long the deployment may take, and the rollback after it.
    pub(crate) wait: Duration,
    /// The verdict of the last successful poll.
    pub(crate) verdict: Verdict,
    pub(crate) failed_tasks: FailedTasks,
    /// How to continue the deployment, if it is paused.
    pub(crate) continuing: Option<String>,
    /// The service is to run no task.
    pub(crate) is_idle: bool,
}

impl<'a, C: Controller> Follower<'a, C> {
    pub(crate) fn new(
        deployer: &'a Deployer<'a>,
        request: &'a DeployRequest,
        log: ServiceLog<'a>,
        wait: Duration,
        controller: C,
    ) -> Self {
        let verdict = Verdict::InProgress;
        let failed_tasks = FailedTasks::default();
        Self {
            deployer,
            request,
            log,
            controller,
            wait,
            verdict,
            failed_tasks,
            continuing: None,
            is_idle: false,
        }
    }

    /// Follows the running deployment to its end.
    pub(crate) async fn follow(&mut self) -> FollowEnd {
        let mut poller = Poller::new(self.deployer, self.wait);
        self.verdict = Verdict::InProgress;
        loop {
            let polled = match poller.poll(self.poll()).await {
                Ok(polled) => polled,
                Err(end) => return FollowEnd::Wait(end),
            };
            match polled {
                Ok(Verdict::Ended(ending)) => {
                    if ending == Ending::Untraceable {
                        self.warn_untraceable().await;
                    }
                    return FollowEnd::Ended(ending);
                }
                Ok(verdict) => {
                    // Once it rolls back, or the traffic has moved, failed tasks decide nothing.
                    let is_open = verdict == Verdict::InProgress;
                    self.verdict = verdict;
                    if let Some(cause) = self.failed_tasks.hopeless().filter(|_| is_open) {
                        return FollowEnd::Hopeless(cause);
                    }
                }
                Err(error) if error.is_transient() => {}
                Err(error) => return FollowEnd::Lost(error.into()),
            }
            let is_held = self.continuing.is_some() && !self.request.options.wait_includes_pauses;
            poller.hold(is_held);
            if let Err(end) = poller.pause().await {
                return FollowEnd::Wait(end);
            }
        }
    }

    async fn warn_untraceable(&self) {
        let revision = short(self.controller.revision());
        let text = format!(
            "the service is meant to run {revision}, but ECS lists no deployment of it; \
             the deployment's progress is unknown"
        );
        self.log.warn(text).await;
    }

    /// Polls once and reports everything new.
    async fn poll(&mut self) -> Result<Verdict, AwsError> {
        let Observation { service, continuing, assessment } = self.controller.observe().await?;
        if let Some(command) =
            continuing.as_ref().filter(|command| Some(*command) != self.continuing.as_ref())
        {
            self.log.warn(format!("the deployment is paused until someone continues it: {command}")).await;
        }
        self.continuing = continuing;
        for stage in &assessment.stages {
            self.log.note(stage).await;
        }
        for message in &assessment.messages {
            self.log.service_event(message).await;
        }
        if let Some(state) = &assessment.state {
            self.log.state(state).await;
        }
        if let Some(service) = &service {
            self.is_idle = service.desired == 0 && service.running == 0;
            self.update_failed_tasks(service, &assessment.messages).await;
        }
        Ok(assessment.verdict)
    }

    async fn update_failed_tasks(&mut self, service: &Service, messages: &[String]) {
        let Some(tasks) = self.controller.tasks() else { return };
        let (deployer, cluster) = (self.deployer, &self.request.target.cluster);
        let warnings = self.failed_tasks.update(deployer, cluster, service, tasks, messages).await;
        for warning in warnings {
            self.log.warn(warning).await;
        }
    }

    /// Diagnoses the failed tasks one last time, reports them and returns them by cause.
    pub(crate) async fn diagnose(&mut self) -> Vec<CauseGroup> {
        let deployer = self.deployer;
        let update = async {
            if let Ok(service) =
                deployer.aws.ecs_service(&self.request.target.cluster, self.log.service).await
            {
                let messages = self.controller.unseen_events(&service);
                self.update_failed_tasks(&service, &messages).await;
            }
            self.failed_tasks.reread_logs(deployer).await;
        };
        // An API that does not respond must not delay the rollback.
        let _ = tokio::time::timeout(DIAGNOSIS_TIMEOUT, update).await;
        let groups = self.failed_tasks.groups();
        for line in groups.iter().flat_map(CauseGroup::lines) {
            self.log.note(line).await;
        }
        groups
    }
}
