//! Amazon Elastic Container Registry: logins and repositories.

use super::{Aws, AwsError, error};
use crate::secret::{Login, Secret};
use base64::Engine;

/// An ECR registry, as its host name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcrHost {
    /// The account that owns it.
    pub account: String,
    /// Its region.
    pub region: String,
}

impl EcrHost {
    /// Reads `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, its FIPS and its Chinese form. Nothing for any other host.
    pub fn parse(host: &str) -> Option<Self> {
        let (account, rest) = host.split_once(".dkr.ecr")?;
        let rest = rest.strip_prefix("-fips").unwrap_or(rest).strip_prefix('.')?;
        let region =
            rest.strip_suffix(".amazonaws.com.cn").or_else(|| rest.strip_suffix(".amazonaws.com"))?;
        let valid = account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && !region.is_empty()
            && !region.contains('.');
        valid.then(|| Self { account: account.to_owned(), region: region.to_owned() })
    }
}

impl Aws {
    /// A login for the region's registries, valid for twelve hours.
    pub async fn ecr_login(&self) -> Result<Login, AwsError> {
        const ACTION: &str = "ecr:GetAuthorizationToken";
        let answer = aws_sdk_ecr::Client::new(&self.config)
            .get_authorization_token()
            .send()
            .await
            .map_err(|failed| error(ACTION, failed))?;
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
            Err(failed) => Err(error("ecr:DescribeRepositories", failed)),
        }
    }

    /// Creates a repository and gives its address.
    pub async fn ecr_create_repository(&self, name: &str) -> Result<String, AwsError> {
        const ACTION: &str = "ecr:CreateRepository";
        let answer = aws_sdk_ecr::Client::new(&self.config)
            .create_repository()
            .repository_name(name)
            .send()
            .await
            .map_err(|failed| error(ACTION, failed))?;
        answer.repository.and_then(|repository| repository.repository_uri).ok_or(AwsError::Service {
            action: ACTION,
            code: "invalid answer".to_owned(),
            message: "the answer holds no address".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_ecr_are_known() {
        let region = |host: &str| EcrHost::parse(host).map(|host| host.region);
        let account = "123456789012.dkr.ecr";
        assert_eq!(region(&format!("{account}.eu-west-1.amazonaws.com")).unwrap(), "eu-west-1");
        assert_eq!(region(&format!("{account}-fips.us-east-1.amazonaws.com")).unwrap(), "us-east-1");
        assert_eq!(region(&format!("{account}.cn-north-1.amazonaws.com.cn")).unwrap(), "cn-north-1");
        assert_eq!(region("public.ecr.aws"), None);
        assert_eq!(region("12.dkr.ecr.eu-west-1.amazonaws.com"), None);
        assert_eq!(region(&format!("{account}.evil.example.amazonaws.com")), None);
    }
}
