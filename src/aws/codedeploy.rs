//! AWS `CodeDeploy`: deployments to services of Amazon ECS.

use super::ecs::time;
use super::{Aws, AwsError};
use crate::ecs::code_deploy::{Deployment, DeploymentGroup, LifecycleEvent, Progress, Status, TaskSet};
use crate::ecs::service::Counts;
use crate::text::hex;
use aws_lc_rs::digest::{SHA256, digest};
use aws_sdk_codedeploy::types;
use aws_smithy_types::DateTime;
use aws_smithy_types::retry::RetryConfig;
use jiff::Timestamp;

/// The error code if the group already has a deployment in progress.
pub(crate) const ALREADY_DEPLOYING: &str = "DeploymentLimitExceededException";
/// The error code if a deployment is already complete.
pub(crate) const ALREADY_COMPLETE: &str = "DeploymentAlreadyCompletedException";
/// The error code if a deployment has no targets yet.
const NOT_STARTED: &str = "DeploymentNotStartedException";
/// How many of the latest deployments are considered.
const LATEST: usize = 20;

/// A request to create a deployment.
#[derive(Debug, Clone)]
pub(crate) struct NewDeployment {
    pub(crate) application: String,
    pub(crate) group: String,
    /// The `AppSpec`, as JSON.
    pub(crate) app_spec: String,
    /// A description by which the deployment is found again.
    pub(crate) description: String,
    /// Whether to roll back if it fails or is stopped. If false, the group's configuration decides.
    pub(crate) roll_back: bool,
}

/// The hash with which `CodeDeploy` identifies an `AppSpec`.
pub(crate) fn sha256(app_spec: &str) -> String {
    hex(digest(&SHA256, app_spec.as_bytes()).as_ref())
}

impl Aws {
    fn codedeploy(&self) -> aws_sdk_codedeploy::Client {
        client!(aws_sdk_codedeploy, self)
    }

    fn group_arn(&self, application: &str, group: &str) -> String {
        self.arn("codedeploy", &format!("deploymentgroup:{application}/{group}"))
    }

    pub(crate) async fn codedeploy_group(
        &self,
        application: &str,
        group: &str,
    ) -> Result<DeploymentGroup, AwsError> {
        let resource = self.group_arn(application, group);
        let answer = self
            .codedeploy()
            .get_deployment_group()
            .application_name(application)
            .deployment_group_name(group)
            .send()
            .await
            .map_err(|failed| {
                self.missing_target(
                    self.error("codedeploy:GetDeploymentGroup", &resource, failed),
                    application,
                    group,
                )
            })?;
        let services =
            answer.deployment_group_info.and_then(|info| info.ecs_services).unwrap_or_default().into_iter();
        let service = |service: types::EcsService| {
            (service.cluster_name.unwrap_or_default(), service.service_name.unwrap_or_default())
        };
        Ok(DeploymentGroup { services: services.map(service).collect() })
    }

    /// Creates a deployment and returns its id. Never retried: if the response is lost, a retry could
    /// create another one.
    pub(crate) async fn codedeploy_create(&self, new: &NewDeployment) -> Result<String, AwsError> {
        const ACTION: &str = "codedeploy:CreateDeployment";
        let NewDeployment { application, group, app_spec, description, roll_back } = new;
        let content = types::AppSpecContent::builder().content(app_spec).sha256(sha256(app_spec)).build();
        let revision = types::RevisionLocation::builder()
            .revision_type(types::RevisionLocationType::AppSpecContent)
            .app_spec_content(content)
            .build();
        let events = [
            types::AutoRollbackEvent::DeploymentFailure,
            types::AutoRollbackEvent::DeploymentStopOnAlarm,
            types::AutoRollbackEvent::DeploymentStopOnRequest,
        ];
        let rollback =
            types::AutoRollbackConfiguration::builder().enabled(true).set_events(Some(events.into())).build();
        let answer = client!(aws_sdk_codedeploy, self, RetryConfig::disabled())
            .create_deployment()
            .application_name(application)
            .deployment_group_name(group)
            .revision(revision)
            .description(description)
            .set_auto_rollback_configuration(roll_back.then_some(rollback))
            .send()
            .await
            .map_err(|failed| {
                let resource = self.group_arn(application, group);
                self.missing_target(self.error(ACTION, &resource, failed), application, group)
            })?;
        let id = answer.deployment_id.ok_or_else(|| AwsError::without(ACTION, "deployment"))?;
        self.made(&id);
        Ok(id)
    }

    /// The current state of a deployment.
    pub(crate) async fn codedeploy_deployment(&self, id: &str) -> Result<Deployment, AwsError> {
        let resource = self.arn("codedeploy", "deploymentgroup:*");
        let answer =
            self.codedeploy().get_deployment().deployment_id(id).send().await.map_err(|failed| match self
                .error("codedeploy:GetDeployment", &resource, failed)
            {
                AwsError::Service { code, .. } if code == "DeploymentDoesNotExistException" => self.gone(id),
                other => other,
            })?;
        answer.deployment_info.map(read).ok_or_else(|| self.gone(id))
    }

    /// The ids of a group's latest deployments, created at `since` or later.
    pub(crate) async fn codedeploy_deployments(
        &self,
        application: &str,
        group: &str,
        since: Timestamp,
    ) -> Result<Vec<String>, AwsError> {
        let range = types::TimeRange::builder().start(DateTime::from_secs(since.as_second())).build();
        let answer = self
            .codedeploy()
            .list_deployments()
            .application_name(application)
            .deployment_group_name(group)
            .create_time_range(range)
            .send()
            .await
            .map_err(|failed| {
                let resource = self.group_arn(application, group);
                self.missing_target(
                    self.error("codedeploy:ListDeployments", &resource, failed),
                    application,
                    group,
                )
            })?;
        let mut ids = answer.deployments.unwrap_or_default();
        ids.truncate(LATEST);
        Ok(ids)
    }

    /// The progress of a deployment. Returns `None` before it starts.
    pub(crate) async fn codedeploy_progress(&self, id: &str) -> Result<Option<Progress>, AwsError> {
        let not_yet = |failed: AwsError| match failed {
            AwsError::Service { code, .. } if code == NOT_STARTED => Ok(None),
            other => Err(other),
        };
        let listed = self.codedeploy().list_deployment_targets().deployment_id(id).send().await;
        let ids = match listed {
            Ok(answer) => answer.target_ids.unwrap_or_default(),
            Err(failed) => return not_yet(self.error("codedeploy:ListDeploymentTargets", "*", failed)),
        };
        if ids.is_empty() {
            return Ok(None);
        }
        let call =
            self.codedeploy().batch_get_deployment_targets().deployment_id(id).set_target_ids(Some(ids));
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(failed) => return not_yet(self.error("codedeploy:BatchGetDeploymentTargets", "*", failed)),
        };
        let targets = answer.deployment_targets.unwrap_or_default();
        Ok(targets.into_iter().find_map(|target| target.ecs_target).map(read_progress))
    }

    /// Stops a deployment and rolls it back.
    pub(crate) async fn codedeploy_stop(&self, id: &str) -> Result<(), AwsError> {
        self.codedeploy()
            .stop_deployment()
            .deployment_id(id)
            .auto_rollback_enabled(true)
            .send()
            .await
            .map_err(|failed| self.error("codedeploy:StopDeployment", "*", failed))?;
        Ok(())
    }
}

impl Aws {
    fn gone(&self, id: &str) -> AwsError {
        self.not_found("deployment of CodeDeploy", id)
    }

    /// Turns `CodeDeploy`'s errors for a missing application or group into [`AwsError::NotFound`].
    fn missing_target(&self, failed: AwsError, application: &str, group: &str) -> AwsError {
        let AwsError::Service { code, .. } = &failed else { return failed };
        match code.as_str() {
            "ApplicationDoesNotExistException" => self.not_found("application of CodeDeploy", application),
            "DeploymentGroupDoesNotExistException" => {
                self.not_found("deployment group of CodeDeploy", &format!("{application}/{group}"))
            }
            _ => failed,
        }
    }
}

fn read(info: types::DeploymentInfo) -> Deployment {
    let error = info.error_information.map(|error| {
        let code = error.code.map(|code| code.as_str().to_owned()).unwrap_or_default();
        (code, error.message.unwrap_or_default().trim().to_owned())
    });
    let rollback = info.rollback_info;
    let earlier = info
        .blue_green_deployment_configuration
        .and_then(|configuration| configuration.terminate_blue_instances_on_deployment_success);
    let overview = info.deployment_overview.map(|overview| {
        vec![
            ("pending", overview.pending),
            ("in progress", overview.in_progress),
            ("ready", overview.ready),
            ("succeeded", overview.succeeded),
            ("failed", overview.failed),
            ("skipped", overview.skipped),
        ]
    });
    Deployment {
        status: info.status.map(|status| Status::read(status.as_str())).unwrap_or_default(),
        error,
        messages: info.deployment_status_messages.unwrap_or_default(),
        description: info.description.unwrap_or_default(),
        sha256: info.revision.and_then(|revision| revision.app_spec_content?.sha256),
        created: info.create_time.and_then(time),
        is_rollback: info.creator == Some(types::DeploymentCreator::CodeDeployRollback),
        rolls_back: info.auto_rollback_configuration.is_some_and(|configuration| configuration.enabled),
        rollback: rollback.as_ref().and_then(|rollback| rollback.rollback_deployment_id.clone()),
        rollback_message: rollback.and_then(|rollback| rollback.rollback_message),
        keeps_earlier: info.instance_termination_wait_time_started,
        keeps_for: earlier.map(|earlier| earlier.termination_wait_time_in_minutes).filter(|time| *time > 0),
        targets: overview.unwrap_or_default(),
    }
}

fn read_progress(target: types::EcsTarget) -> Progress {
    let event = |event: types::LifecycleEvent| LifecycleEvent {
        name: event.lifecycle_event_name.unwrap_or_default(),
        status: event.status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
        message: event
            .diagnostics
            .and_then(|diagnostics| diagnostics.message)
            .filter(|message| !message.is_empty()),
    };
    let count = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let set = |set: types::EcsTaskSet| TaskSet {
        id: set.identifer.unwrap_or_default(),
        is_new: set.task_set_label == Some(types::TargetLabel::Green),
        counts: Counts {
            desired: count(set.desired_count),
            running: count(set.running_count),
            pending: count(set.pending_count),
        },
        traffic: set.traffic_weight,
    };
    Progress {
        events: target.lifecycle_events.unwrap_or_default().into_iter().map(event).collect(),
        sets: target.task_sets_info.unwrap_or_default().into_iter().map(set).collect(),
    }
}
