//! What can be known to fail before anything is touched. What is missing is a failure, what may not be read a warning.

use super::Deployer;
use crate::address::{Arn, ImageReference, ImageRepository, Repository, short_name};
use crate::aws::AwsError;
use crate::aws::secrets_manager::SecretId;
use crate::connections::failure::told;
use crate::ecs::needs::{Needs, unreachable};
use crate::ecs::service::Service;
use crate::exit::Failure;
use crate::language::pipeline::reference::SecretReference;
use crate::plan::policy::TASKS;
use crate::registry::connection::RepositoryClient;
use crate::registry::inspect::Inspected;
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a check may take: a registry that cannot be reached from here is no reason to wait.
const LONGEST: Duration = Duration::from_secs(10);

/// What a check found.
enum Finding {
    /// As it should be, or nothing that could be looked at.
    Good,
    /// A task could not start, or could not be reached: why, and the way out.
    Wrong(String, String),
    /// It may not be read.
    Unknown(String),
}

impl Deployer<'_> {
    /// Looks for everything that a task definition names.
    pub(crate) async fn verify_definition(&self, fields: &Map<String, Value>) -> Result<(), Failure> {
        let needs = Needs::of(fields);
        let mut checks: Vec<(String, BoxFuture<'_, Finding>)> = Vec::new();
        for (container, image) in &needs.images {
            let check = self.image(container, image, needs.platform.as_deref());
            checks.push((format!("the image of `{container}`"), Box::pin(check)));
        }
        for role in &needs.roles {
            checks.push((format!("the role {role}"), Box::pin(self.role(role))));
        }
        for (used_by, reference) in &needs.secrets {
            checks.push((format!("the secret of {used_by}"), Box::pin(self.secret(used_by, reference))));
        }
        for (group, region) in &needs.log_groups {
            checks
                .push((format!("the log group {group}"), Box::pin(self.log_group(group, region.as_deref()))));
        }
        let checks = checks.into_iter().map(|(subject, check)| async move {
            tokio::time::timeout(LONGEST, check).await.unwrap_or_else(|_| {
                Finding::Unknown(format!("{subject}: no answer in {} s", LONGEST.as_secs()))
            })
        });
        self.judge("nothing was changed", join_all(checks).await).await
    }

    /// Looks whether a service's load balancer would reach a task of this definition.
    pub(crate) async fn verify_service(
        &self,
        service: &Service,
        fields: &Map<String, Value>,
    ) -> Result<(), Failure> {
        let checks = service.targets.iter().map(|target| async move {
            if let Some(reason) = unreachable(fields, target) {
                let help = format!("correct the container's `portMappings`, or the service {}", service.name);
                return Finding::Wrong(format!("{}: {reason}", service.name), help);
            }
            match self.aws.target_group(&target.group).await {
                Ok(_) => Finding::Good,
                Err(error) => finding(
                    &format!("the target group of {}", service.name),
                    error,
                    "create it, or correct the service",
                ),
            }
        });
        self.judge("no service was touched", join_all(checks).await).await
    }

    async fn judge(&self, untouched: &str, findings: Vec<Finding>) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        let mut unknown: Vec<String> = Vec::new();
        for found in findings {
            match found {
                Finding::Good => {}
                Finding::Wrong(reason, help) => wrong.push((reason, help)),
                Finding::Unknown(reason) if unknown.contains(&reason) => {}
                Finding::Unknown(reason) => unknown.push(reason),
            }
        }
        for reason in unknown {
            self.events.warn(format!("not verified: {reason}")).await;
        }
        let Some((_, help)) = wrong.first().cloned() else { return Ok(()) };
        let reasons: Vec<String> = wrong.into_iter().map(|(reason, _)| reason).collect();
        Err(Failure::environment(format!("{untouched}: {}", reasons.join("; "))).help(help))
    }

    /// An image in ECR is there, and runs on what the task runs on.
    async fn image(&self, container: &str, image: &str, platform: Option<&str>) -> Finding {
        let inspected = match self.inspect(image).await {
            Ok(Some(inspected)) => inspected,
            Ok(None) => return Finding::Good,
            Err(Missing::Image) => {
                let reason = format!("the image of `{container}` is not in its repository: {image}");
                return Finding::Wrong(reason, "push it first, or correct `image`".to_owned());
            }
            Err(Missing::Unknown(reason)) => {
                return Finding::Unknown(format!("the image of `{container}`: {reason}"));
            }
        };
        let Some(wanted) = platform else { return Finding::Good };
        if inspected.platforms.is_empty() || inspected.platforms.iter().any(|found| found == wanted) {
            return Finding::Good;
        }
        let found = inspected.platforms.join(", ");
        Finding::Wrong(
            format!("the image of `{container}` is for {found}, and the task runs on {wanted}"),
            format!("build it with `platforms: [{wanted}]`, or set the task definition's `runtimePlatform`"),
        )
    }

    /// What ECR has under an image's name; nothing for an image elsewhere.
    pub(crate) async fn inspect(&self, image: &str) -> Result<Option<Inspected>, Missing> {
        let reference = ImageReference::parse(image);
        let Ok(ImageRepository::PrivateEcr { repository, .. }) = ImageRepository::parse(reference.name)
        else {
            return Ok(None);
        };
        tokio::time::timeout(LONGEST, self.inspect_in(&repository, reference.tag_or_digest()))
            .await
            .unwrap_or_else(|_| Err(Missing::Unknown(format!("no answer in {} s", LONGEST.as_secs()))))
    }

    async fn inspect_in(
        &self,
        repository: &Repository,
        reference: &str,
    ) -> Result<Option<Inspected>, Missing> {
        let unknown = |failure: Failure| Missing::Unknown(failure.message);
        let access = self.connections.registry(&repository.host, &self.access).await.map_err(unknown)?;
        let client = RepositoryClient::connect(&access, repository, &[]).await;
        let client = client.map_err(|error| unknown(error.into()))?;
        let found = client.inspect(reference).await.map_err(|error| unknown(error.into()))?;
        found.map(Some).ok_or(Missing::Image)
    }

    async fn role(&self, role: &str) -> Finding {
        let name = short_name(role);
        let subject = format!("the role {name}");
        match self.aws.iam_role(name).await {
            Ok(Some(role)) if role.trusted.iter().any(|service| service == TASKS) => Finding::Good,
            Ok(Some(_)) => Finding::Wrong(
                format!("{subject} does not trust ECS"),
                format!("let its trust policy allow `sts:AssumeRole` to the service {TASKS}"),
            ),
            Ok(None) => Finding::Wrong(
                format!("{subject} does not exist"),
                "create it, or correct the task definition".to_owned(),
            ),
            Err(error) => finding(&subject, error, ""),
        }
    }

    async fn secret(&self, used_by: &str, reference: &str) -> Finding {
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
                        // Whether it is there can be told without reading it.
                        Err(denied @ AwsError::Denied { .. }) => match aws.secret_exists(&id).await {
                            Ok(false) => Ok(false),
                            _ => Err(denied),
                        },
                        Err(error) => Err(error),
                    }
                }
                Ok(reference) => aws.secret_exists(&reference.id).await,
                Err(reason) => {
                    return Finding::Wrong(format!("{subject}: {reason}"), "correct `valueFrom`".to_owned());
                }
            }
        } else {
            aws.parameter_exists(reference).await
        };
        match found {
            Ok(true) => Finding::Good,
            // What another account shares is not listed here.
            Ok(false) if self.is_elsewhere(arn.and_then(|arn| arn.account())).await => {
                Finding::Unknown(format!("{subject}: it is of another account"))
            }
            Ok(false) => missing(&subject),
            Err(AwsError::UnusableSecret { reason, .. }) => Finding::Wrong(
                format!("{subject}: it {reason}"),
                "mend the secret, or correct `valueFrom`".to_owned(),
            ),
            Err(error) => finding(&subject, error, "create it, or correct `valueFrom`"),
        }
    }

    /// Whether an account is another one than ours.
    async fn is_elsewhere(&self, account: Option<&str>) -> bool {
        let Some(account) = account else { return false };
        self.aws.identity().await.is_ok_and(|identity| identity.account != account)
    }

    async fn log_group(&self, group: &str, region: Option<&str>) -> Finding {
        let subject = format!("the log group {group}");
        match self.aws.at(region).log_group_exists(group).await {
            Ok(true) => Finding::Good,
            Ok(false) => Finding::Wrong(
                format!("{subject} does not exist"),
                format!(
                    "`aws logs create-log-group --log-group-name {group}`, or `awslogs-create-group: \"true\"`"
                ),
            ),
            Err(error) => finding(&subject, error, ""),
        }
    }
}

/// Why nothing is known of an image.
pub(crate) enum Missing {
    /// The repository does not have it.
    Image,
    /// The registry does not tell.
    Unknown(String),
}

fn missing(subject: &str) -> Finding {
    Finding::Wrong(
        format!("{subject} does not exist, or is on its way out"),
        "create it, or correct `valueFrom`".to_owned(),
    )
}

fn finding(subject: &str, error: AwsError, help: &str) -> Finding {
    match error {
        AwsError::NotFound { .. } => Finding::Wrong(format!("{subject} does not exist"), help.to_owned()),
        error => Finding::Unknown(format!("{subject}: {}", told(&error))),
    }
}
