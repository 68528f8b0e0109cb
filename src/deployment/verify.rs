//! Verification before anything is changed. What does not exist is a failure; what cannot be read is a
//! warning.

use super::controller::CodeDeployGroup;
use super::rollback::is_active;
use super::snapshot::ServiceSnapshot;
use super::{DeployRequest, Deployer, short};
use crate::address::{Arn, ImageReference, ImageRepository, Repository, short_name};
use crate::aws::AwsError;
use crate::aws::secrets_manager::SecretId;
use crate::connections::failure::with_advice;
use crate::ecs::needs::{Need, Needs, unreachable};
use crate::ecs::service::Service;
use crate::ecs::task_definition::described;
use crate::exit::Failure;
use crate::language::pipeline::model::OnFailure;
use crate::language::pipeline::reference::SecretReference;
use crate::plan::policy::TASKS;
use crate::registry::connection::RepositoryClient;
use crate::registry::inspect::Inspected;
use crate::registry::retries::OnWait;
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// How long one check may take: an unreachable registry must not delay the deployment.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a check.
enum CheckResult {
    Valid,
    /// A task could not start, or could not be reached.
    Invalid {
        reason: String,
        help: String,
    },
    /// It could not be read.
    Unverified(String),
}

impl CheckResult {
    fn invalid(reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into(), help: help.into() }
    }
}

impl Deployer<'_> {
    /// Verifies that the revision could start, that the load balancers would reach its tasks, and that a
    /// rollback could start.
    pub(crate) async fn verify(
        &self,
        request: &DeployRequest,
        snapshots: &[ServiceSnapshot],
    ) -> Result<(), Failure> {
        let is_changed = |snapshot: &ServiceSnapshot| {
            request.options.force || snapshot.service.task_definition != request.revision
        };
        if !request.verified && snapshots.iter().any(is_changed) {
            let fields = described(self.aws.ecs_task_definition(&request.revision).await?);
            self.verify_definition(&fields).await?;
            for snapshot in snapshots {
                self.verify_service(&snapshot.service, &fields).await?;
            }
        }
        if request.options.on_failure == OnFailure::Rollback {
            for snapshot in snapshots {
                self.verify_rollback(request, snapshot).await;
            }
        }
        Ok(())
    }

    /// Warns if the previous revision is no longer active, or its images no longer exist.
    async fn verify_rollback(&self, request: &DeployRequest, snapshot: &ServiceSnapshot) {
        let name = &snapshot.service.name;
        let previous = snapshot.previous.as_ref().filter(|previous| **previous != request.revision);
        let Some(previous) = previous else { return };
        let Ok(document) = self.aws.ecs_task_definition(previous).await else { return };
        if !is_active(&document) {
            let text = format!(
                "{} of {name} is no longer active: a rollback would have to register its content again",
                short(previous)
            );
            self.events.warn(text).await;
        }
        for (container, image) in Needs::of(&described(document)).images {
            if matches!(self.inspect(&image).await, Err(InspectError::NotFound)) {
                let text = format!(
                    "{name} could not be rolled back: the image of `{container}` in {}, {image}, \
                     is no longer in its repository",
                    short(previous)
                );
                self.events.warn(text).await;
            }
        }
    }

    /// Verifies that a deployment group of `CodeDeploy` exists and deploys to the service.
    pub(crate) async fn verify_deployment_group(
        &self,
        request: &DeployRequest,
        wanted: &CodeDeployGroup,
        service: &Service,
    ) -> Result<(), Failure> {
        let CodeDeployGroup { application, group, .. } = wanted;
        let found = match self.aws.codedeploy_group(application, group).await {
            Ok(found) => found,
            Err(error @ AwsError::NotFound { .. }) => return Err(error.into()),
            Err(error) => {
                let text = format!("not verified: the deployment group {group}: {}", with_advice(&error));
                self.events.warn(text).await;
                return Ok(());
            }
        };
        let last = |name: &str| short_name(name).to_owned();
        let own = (last(&request.target.cluster), service.name.clone());
        let is_own = |(cluster, name): &(String, String)| (last(cluster), last(name)) == own;
        if found.services.is_empty() || found.services.iter().any(is_own) {
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
        Err(Failure::usage(message).help("correct `service` or `code-deploy`"))
    }

    /// Verifies that everything exists that a task definition names.
    pub(crate) async fn verify_definition(&self, fields: &Map<String, Value>) -> Result<(), Failure> {
        let needs = Needs::of(fields);
        let platform = needs.platform.as_deref();
        let checks = needs.each().map(|need| async move {
            let (subject, check): (String, BoxFuture<'_, CheckResult>) = match need {
                Need::Image { container, image } => {
                    let check = self.image(container, image, platform);
                    (format!("the image of `{container}`"), Box::pin(check))
                }
                Need::Role(role) => (format!("the role {role}"), Box::pin(self.role(role))),
                Need::Secret { used_by, reference } | Need::Parameter { used_by, reference } => {
                    (format!("the secret of {used_by}"), Box::pin(self.secret(used_by, reference)))
                }
                Need::LogGroup { group, region } => {
                    (format!("the log group {group}"), Box::pin(self.log_group(group, region)))
                }
            };
            tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(|_| {
                CheckResult::Unverified(format!(
                    "{subject}: no response within {} s",
                    CHECK_TIMEOUT.as_secs()
                ))
            })
        });
        self.conclude_checks("nothing was changed", join_all(checks).await).await
    }

    /// Verifies that a service's load balancer would reach a task of this definition.
    pub(crate) async fn verify_service(
        &self,
        service: &Service,
        fields: &Map<String, Value>,
    ) -> Result<(), Failure> {
        let checks = service.targets.iter().map(|target| async move {
            if let Some(reason) = unreachable(fields, target) {
                let help = format!("correct the container's `portMappings`, or the service {}", service.name);
                return CheckResult::invalid(format!("{}: {reason}", service.name), help);
            }
            match self.aws.target_group(&target.group).await {
                Ok(_) => CheckResult::Valid,
                Err(error) => unreadable(
                    &format!("the target group of {}", service.name),
                    error,
                    "create it, or correct the service",
                ),
            }
        });
        self.conclude_checks("no service was changed", join_all(checks).await).await
    }

    /// Warns about everything unverified and fails if anything is invalid. `unchanged` starts the message.
    async fn conclude_checks(&self, unchanged: &str, findings: Vec<CheckResult>) -> Result<(), Failure> {
        let mut invalid = Vec::new();
        let mut unverified: Vec<String> = Vec::new();
        for finding in findings {
            match finding {
                CheckResult::Valid => {}
                CheckResult::Invalid { reason, help } => invalid.push((reason, help)),
                CheckResult::Unverified(reason) if unverified.contains(&reason) => {}
                CheckResult::Unverified(reason) => unverified.push(reason),
            }
        }
        for reason in unverified {
            self.events.warn(format!("not verified: {reason}")).await;
        }
        let Some((_, help)) = invalid.first().cloned() else { return Ok(()) };
        let reasons: Vec<String> = invalid.into_iter().map(|(reason, _)| reason).collect();
        Err(Failure::environment(format!("{unchanged}: {}", reasons.join("; "))).help(help))
    }

    /// An image in ECR exists for the platform of the task.
    async fn image(&self, container: &str, image: &str, platform: Option<&str>) -> CheckResult {
        if ImageReference::is_placeholder(image) {
            return CheckResult::Unverified(format!(
                "the image of `{container}` is the placeholder {image}: no task can start with it"
            ));
        }
        if let Err(error) = ImageReference::checked(image) {
            let reason = format!("the image `{image}` of `{container}`: {error}");
            return CheckResult::invalid(reason, "write REPOSITORY:TAG or REPOSITORY@sha256:…");
        }
        let inspected = match self.inspect(image).await {
            Ok(Some(inspected)) => inspected,
            Ok(None) => return CheckResult::Valid,
            Err(InspectError::NotFound) => {
                let reason = format!("the image of `{container}` is not in its repository: {image}");
                return CheckResult::invalid(reason, "push it first, or correct `image`");
            }
            Err(InspectError::Unknown(reason)) => {
                return CheckResult::Unverified(format!("the image of `{container}`: {reason}"));
            }
        };
        let Some(wanted) = platform else { return CheckResult::Valid };
        if inspected.platforms.is_empty() || inspected.platforms.iter().any(|found| found == wanted) {
            return CheckResult::Valid;
        }
        let found = inspected.platforms.join(", ");
        CheckResult::invalid(
            format!("the image of `{container}` is for {found}, but the task runs on {wanted}"),
            format!("build it with `platforms: [{wanted}]`, or set the task definition's `runtimePlatform`"),
        )
    }

    /// Inspects an image in ECR. Returns `None` for an image in another registry.
    pub(crate) async fn inspect(&self, image: &str) -> Result<Option<Inspected>, InspectError> {
        let reference = ImageReference::parse(image);
        let Ok(ImageRepository::PrivateEcr { repository, .. }) = ImageRepository::parse(reference.name)
        else {
            return Ok(None);
        };
        let reference = reference.tag_or_digest();
        tokio::time::timeout(CHECK_TIMEOUT, self.inspect_in(&repository, reference)).await.unwrap_or_else(
            |_| Err(InspectError::Unknown(format!("no response within {} s", CHECK_TIMEOUT.as_secs()))),
        )
    }

    async fn inspect_in(
        &self,
        repository: &Repository,
        reference: &str,
    ) -> Result<Option<Inspected>, InspectError> {
        let unknown = |failure: Failure| InspectError::Unknown(failure.message);
        // A check is over before a wait would be of interest.
        let on_wait: OnWait = Arc::new(|_| Box::pin(async {}));
        let access = self.connections.registry(&repository.host, &self.access, on_wait).await;
        let access = access.map_err(unknown)?;
        let client = RepositoryClient::connect(&access, repository, &[]).await;
        let client = client.map_err(|error| unknown(error.into()))?;
        let found = client.inspect(reference).await.map_err(|error| unknown(error.into()))?;
        found.map(Some).ok_or(InspectError::NotFound)
    }

    async fn role(&self, role: &str) -> CheckResult {
        let name = short_name(role);
        let subject = format!("the role {name}");
        if role.starts_with("arn:") {
            let arn = Arn::parse(role);
            let Some(arn) = arn.filter(|arn| arn.service() == "iam" && arn.resource().starts_with("role/"))
            else {
                return CheckResult::invalid(
                    format!("{role} is not the ARN of a role"),
                    "write arn:aws:iam::ACCOUNT:role/NAME, or the role's name",
                );
            };
            if self.is_other_account(arn.account()).await {
                return CheckResult::invalid(
                    format!("{subject} belongs to the account {}", arn.account().unwrap_or_default()),
                    "ECS accepts only roles of the service's own account: correct the task definition",
                );
            }
        }
        match self.aws.iam_role(name).await {
            Ok(Some(found)) if role.contains('/') && !is_role(role, &found.arn) => CheckResult::invalid(
                format!("the role {role} does not exist"),
                format!("the role of this name is {}: correct the task definition", found.arn),
            ),
            Ok(Some(role)) if role.trusted.iter().any(|service| service == TASKS) => CheckResult::Valid,
            Ok(Some(_)) => CheckResult::invalid(
                format!("{subject} does not trust ECS"),
                format!("allow `sts:AssumeRole` to the service {TASKS} in its trust policy"),
            ),
            Ok(None) => CheckResult::invalid(
                format!("{subject} does not exist"),
                "create it, or correct the task definition",
            ),
            Err(error) => unreadable(&subject, error, ""),
        }
    }

    async fn secret(&self, used_by: &str, reference: &str) -> CheckResult {
        let subject = format!("the secret of {used_by}, {reference}");
        let arn = Arn::parse(reference);
        let aws = self.aws.at(arn.and_then(|arn| arn.region()));
        let found = if arn.is_some_and(|arn| arn.service() == "secretsmanager") {
            match SecretReference::parse(reference) {
                Ok(reference) if reference.json_key.is_some() => {
                    let id = reference.id.clone();
                    match aws.secret(&SecretId::from(reference)).await {
                        Ok(value) => {
                            self.connections.mask(&value);
                            Ok(true)
                        }
                        // Whether it exists is known without reading it.
                        Err(denied @ AwsError::Denied { .. }) => match aws.secret_exists(&id).await {
                            Ok(false) => Ok(false),
                            _ => Err(denied),
                        },
                        Err(error) => Err(error),
                    }
                }
                Ok(reference) => aws.secret_exists(&reference.id).await,
                Err(reason) => {
                    return CheckResult::invalid(format!("{subject}: {reason}"), "correct `valueFrom`");
                }
            }
        } else if self.is_other_account(arn.and_then(|arn| arn.account())).await {
            // Only parameters of this account are listed, and one of them may have the same name.
            Ok(false)
        } else {
            aws.parameter_exists(reference).await
        };
        match found {
            Ok(true) => CheckResult::Valid,
            // Secrets that another account shares are not listed here.
            Ok(false) if self.is_other_account(arn.and_then(|arn| arn.account())).await => {
                CheckResult::Unverified(format!("{subject}: it belongs to another account"))
            }
            Ok(false) => CheckResult::invalid(
                format!("{subject} does not exist, or is scheduled for deletion"),
                "create it, or correct `valueFrom`",
            ),
            Err(AwsError::UnusableSecret { reason, .. }) => CheckResult::invalid(
                format!("{subject}: it {reason}"),
                "fix the secret, or correct `valueFrom`",
            ),
            Err(error) => unreadable(&subject, error, "create it, or correct `valueFrom`"),
        }
    }

    async fn is_other_account(&self, account: Option<&str>) -> bool {
        let Some(account) = account else { return false };
        self.aws.identity().await.is_ok_and(|identity| identity.account != account)
    }

    async fn log_group(&self, group: &str, region: Option<&str>) -> CheckResult {
        let subject = format!("the log group {group}");
        match self.aws.at(region).log_group_exists(group).await {
            Ok(true) => CheckResult::Valid,
            Ok(false) => CheckResult::invalid(
                format!("{subject} does not exist"),
                format!(
                    "create it with `aws logs create-log-group --log-group-name {group}`, \
                     or set `awslogs-create-group: \"true\"`"
                ),
            ),
            Err(error) => unreadable(&subject, error, ""),
        }
    }
}

/// Whether a role that is named by its ARN, or by path and name, is the role with this ARN.
fn is_role(named: &str, arn: &str) -> bool {
    named == arn || Arn::parse(arn).and_then(|arn| arn.resource().strip_prefix("role/")) == Some(named)
}

/// Why an image could not be inspected.
pub(crate) enum InspectError {
    NotFound,
    Unknown(String),
}

fn unreadable(subject: &str, error: AwsError, help: &str) -> CheckResult {
    match error {
        AwsError::NotFound { .. } => CheckResult::invalid(format!("{subject} does not exist"), help),
        error => CheckResult::Unverified(format!("{subject}: {}", with_advice(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::pipeline;
    use crate::language::source::SourceFile;
    use crate::plan::asks::{AskList, Unknowns};
    use crate::plan::context::BuildContext;
    use crate::plan::facts::Facts;
    use crate::plan::scope::Sources;
    use crate::plan::{self, Mode};
    use std::collections::BTreeSet;

    /// The calls that verify a need.
    fn calls(need: &Need<'_>) -> &'static [&'static str] {
        match need {
            Need::Image { .. } => {
                &["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
            }
            Need::Role(_) => &["iam:GetRole"],
            Need::Secret { .. } => &["secretsmanager:DescribeSecret"],
            Need::Parameter { .. } => &["ssm:DescribeParameters"],
            Need::LogGroup { .. } => &["logs:DescribeLogGroups"],
        }
    }

    /// The plan, the policy and `doctor` know every call of the verification.
    #[test]
    fn the_plan_asks_for_what_verification_calls() {
        let text = "version: 1\nname: t\nimages: { app: { repository: app, tags: [v1] } }\nphases:\n  build:\n    steps:\n      \
                    - task-definition: { family: t, containers: { web: { image: app } } }\n";
        let parsed = pipeline::parse(&SourceFile::new("p", text));
        let pipeline = parsed.pipeline.unwrap();
        let context = BuildContext::default();
        let (values, _) = plan::values(&pipeline, &Sources::default(), &context, Mode::Publish);
        let facts = Facts::default();
        let list = AskList::new(&pipeline, &values, &facts, Unknowns::Patterns, (None, None));
        let asks: Vec<_> = pipeline.steps().flat_map(|step| list.step(step)).collect();
        let asked: BTreeSet<&str> =
            asks.iter().flat_map(|ask| &ask.permissions).map(|(action, _)| *action).collect();
        let needs = [
            Need::Image { container: "", image: "" },
            Need::Role(""),
            Need::Secret { used_by: "", reference: "" },
            Need::Parameter { used_by: "", reference: "" },
            Need::LogGroup { group: "", region: None },
        ];
        for action in needs.iter().flat_map(calls) {
            assert!(asked.contains(action), "{action} is not in {asked:?}");
        }
    }
}
