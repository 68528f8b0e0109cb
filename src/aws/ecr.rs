//! Amazon Elastic Container Registry: logins and repositories.

use super::{Aws, AwsError, error};
use crate::secret::{Login, Secret};
use aws_sdk_ecr::types::{ImageIdentifier, ImageScanningConfiguration, ImageTagMutability};
use base64::Engine;

/// How a repository is created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRepository {
    /// Images are scanned when they are pushed.
    pub scan_on_push: bool,
    /// Tags cannot be moved.
    pub immutable: bool,
    /// Which images expire, as ECR's JSON document.
    pub lifecycle_policy: Option<String>,
}

impl Aws {
    /// A login for the region's registries, valid for twelve hours.
    pub async fn ecr_login(&self) -> Result<Login, AwsError> {
        const ACTION: &str = "ecr:GetAuthorizationToken";
        let answer = aws_sdk_ecr::Client::new(&self.config)
            .get_authorization_token()
            .send()
            .await
            .map_err(|failed| error(ACTION, "*", failed))?;
        let pair = answer
            .authorization_data()
            .first()
            .and_then(|data| data.authorization_token())
            .and_then(|token| base64::engine::general_purpose::STANDARD.decode(token).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) =
            pair.as_deref().and_then(|pair| pair.split_once(':')).ok_or(AwsError::Service {
                action: ACTION,
                code: "invalid answer".to_owned(),
                message: "the answer holds no token".to_owned(),
            })?;
        Ok(Login { user: user.to_owned(), password: Secret::new(password) })
    }

    /// The address (`host/name`) of a repository; nothing where there is none of that name.
    pub async fn ecr_repository(&self, name: &str) -> Result<Option<String>, AwsError> {
        let answer = aws_sdk_ecr::Client::new(&self.config)
            .describe_repositories()
            .repository_names(name)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok(answer
                .repositories()
                .first()
                .and_then(|repository| repository.repository_uri())
                .map(ToOwned::to_owned)),
            Err(failed)
                if failed
                    .as_service_error()
                    .is_some_and(aws_sdk_ecr::operation::describe_repositories::DescribeRepositoriesError::is_repository_not_found_exception) =>
            {
                Ok(None)
            }
            Err(failed) => Err(error("ecr:DescribeRepositories", &self.repository_arn(name), failed)),
        }
    }

    fn repository_arn(&self, name: &str) -> String {
        self.arn("ecr", &format!("repository/{name}"))
    }

    /// Creates a repository and gives its address.
    pub async fn ecr_create_repository(&self, name: &str, new: &NewRepository) -> Result<String, AwsError> {
        const ACTION: &str = "ecr:CreateRepository";
        let client = aws_sdk_ecr::Client::new(&self.config);
        let mut request = client.create_repository().repository_name(name);
        if new.scan_on_push {
            let scanning = ImageScanningConfiguration::builder().scan_on_push(true).build();
            request = request.image_scanning_configuration(scanning);
        }
        if new.immutable {
            request = request.image_tag_mutability(ImageTagMutability::Immutable);
        }
        let answer =
            request.send().await.map_err(|failed| error(ACTION, &self.repository_arn(name), failed))?;
        let address =
            answer.repository.and_then(|repository| repository.repository_uri).ok_or(AwsError::Service {
                action: ACTION,
                code: "invalid answer".to_owned(),
                message: "the answer holds no address".to_owned(),
            })?;
        if let Some(policy) = &new.lifecycle_policy {
            let request = client.put_lifecycle_policy().repository_name(name).lifecycle_policy_text(policy);
            let answer = request.send().await;
            answer.map_err(|failed| error("ecr:PutLifecyclePolicy", &self.repository_arn(name), failed))?;
        }
        Ok(address)
    }

    /// When an image was pushed; nothing where ECR does not say.
    pub async fn ecr_pushed_at(&self, name: &str, digest: &str) -> Option<jiff::Timestamp> {
        let id = ImageIdentifier::builder().image_digest(digest).build();
        let request = aws_sdk_ecr::Client::new(&self.config).describe_images();
        let answer = request.repository_name(name).image_ids(id).send().await.ok()?;
        let pushed = answer.image_details().first()?.image_pushed_at()?;
        jiff::Timestamp::from_second(pushed.secs()).ok()
    }
}
