//! AWS Security Token Service: the caller's identity and assumed roles.

use super::{Aws, AwsError, Denial};
use crate::text::one_line;
use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// The owner of the credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) account: String,
    /// The ARN of the user or role session.
    pub(crate) arn: String,
}

impl Aws {
    /// The owner of the credentials.
    pub(crate) async fn identity(&self) -> Result<Identity, AwsError> {
        let answer = client!(aws_sdk_sts, self)
            .get_caller_identity()
            .send()
            .await
            .map_err(|failed| self.error("sts:GetCallerIdentity", "*", failed))?;
        Ok(Identity { account: answer.account.unwrap_or_default(), arn: answer.arn.unwrap_or_default() })
    }

    /// Assumes a role now, and again whenever its credentials expire.
    pub(crate) async fn assume(
        &self,
        role: &str,
        external_id: Option<&str>,
        session: &str,
    ) -> Result<Self, AwsError> {
        let mut builder =
            AssumeRoleProvider::builder(role).configure(&self.config).session_name(session_name(session));
        if let Some(external_id) = external_id {
            builder = builder.external_id(external_id);
        }
        let provider = SharedCredentialsProvider::new(builder.build().await);
        let config = self.config.to_builder().credentials_provider(provider.clone()).build();
        if let Err(failed) = provider.provide_credentials().await {
            return Err(denied(&failed, role)
                .unwrap_or_else(|| AwsError::Role { role: role.to_owned(), source: Box::new(failed) }));
        }
        Ok(Self { config, attempts: self.attempts.of_other_account(), ..self.clone() })
    }
}

/// A valid session name: 2 to 64 letters, digits and a few punctuation characters.
fn session_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "+=,.@-".contains(c) { c } else { '-' };
    "runner-".chars().chain(text.chars().map(safe)).take(64).collect()
}

/// STS's denial of a role, if it is among the causes of an error.
fn denied(failed: &(dyn std::error::Error + 'static), role: &str) -> Option<AwsError> {
    let mut cause = Some(failed);
    while let Some(current) = cause {
        if let Some(refused) = current.downcast_ref::<AssumeRoleError>() {
            let message = one_line(refused.message().unwrap_or_default());
            let denial = Denial::read(&message)
                .unwrap_or_else(|| Denial { action: "sts:AssumeRole".to_owned(), resource: role.to_owned() });
            return (refused.code() == Some("AccessDenied")).then_some(AwsError::Denied { denial, message });
        }
        cause = current.source();
    }
    None
}

/// STS's denial of a role if a call failed because its credentials could not be renewed.
pub(crate) fn denied_renewal(failed: &(dyn std::error::Error + 'static)) -> Option<AwsError> {
    denied(failed, "*")
}
