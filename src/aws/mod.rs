//! AWS through its SDK: set-up here, one file per service. The SDK's types never leave this module.

pub(crate) mod codebuild;
pub(crate) mod codedeploy;
pub(crate) mod ecr;
pub(crate) mod ecs;
pub(crate) mod elb;
pub(crate) mod events;
pub(crate) mod iam;
pub(crate) mod logs;
mod raw;
pub(crate) mod scheduler;
pub(crate) mod secrets_manager;
pub(crate) mod ssm;
pub(crate) mod sts;

use crate::address::partition_of;
use crate::secret::Secret;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use std::time::Duration;

/// Access to AWS with the region and credentials of the usual places: variables, profiles, the container, the instance.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    config: SdkConfig,
    region: String,
}

/// What can go wrong with AWS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwsError {
    /// Nothing says which region to use.
    #[error("no AWS region is set")]
    NoRegion,
    /// There are no credentials.
    #[error("there are no AWS credentials")]
    NoCredentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A role could not be assumed, for another reason than a missing permission.
    #[error("the role {role} cannot be assumed")]
    Role {
        role: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS set-up failed.
    #[error("cannot set up TLS for AWS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The credentials are not valid, or not any more.
    #[error("AWS does not accept the credentials for {action}: {message}")]
    BadCredentials {
        /// The action, as IAM spells it.
        action: &'static str,
        message: String,
    },
    /// The credentials do not allow the call.
    #[error("AWS denies {}: {message}", denial.action)]
    Denied {
        /// What would have to be allowed.
        denial: Denial,
        message: String,
    },
    /// The service does not answer.
    #[error("AWS cannot be reached for {action}")]
    Unreachable {
        /// The action, as IAM spells it.
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The service answers, and not as it should: what was asked for may have been done.
    #[error("AWS's answer to {action} is not understood: {message}")]
    NotUnderstood {
        /// The action, as IAM spells it.
        action: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Something that the pipeline names does not exist.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// What kind of thing it is.
        what: &'static str,
        name: String,
    },
    /// A secret does not hold what is asked for.
    #[error("the secret `{name}` {reason}")]
    Unusable {
        /// Its name or ARN.
        name: String,
        /// What it is like.
        reason: String,
    },
    #[error("AWS refused {action}: {code}: {message}")]
    Service {
        /// The action, as IAM spells it.
        action: &'static str,
        code: String,
        message: String,
    },
}

impl AwsError {
    /// An answer without what it has to have.
    fn without(action: &'static str, what: &str) -> Self {
        Self::NotUnderstood { action, message: format!("it has no {what}") }
    }

    /// Whether the same call may succeed a moment later; it may also have succeeded now, and only its answer be lost.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NotUnderstood { .. } => true,
            Self::Service { code, message, .. } => {
                PASSING.contains(&code.as_str()) || message.contains(CONCURRENT)
            }
            _ => false,
        }
    }
}

/// Error codes of trouble that passes: of throttling, and of ECS's own.
const PASSING: [&str; 7] = [
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "ServerException",
    "InternalFailure",
    "ServiceUnavailable",
];
/// ECS's words, under a code for anything, where somebody else registers a revision of the family at the same moment.
const CONCURRENT: &str = "Too many concurrent attempts to create a new revision";
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one attempt of a call may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Error codes that mean "you may not".
const DENIED: [&str; 4] = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"];
/// Error codes that mean "we do not know you".
const BAD_CREDENTIALS: [&str; 9] = [
    "RequestExpired",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
];

impl Aws {
    /// Reads the configuration. Fails where there is no region or no credentials, before the first call is made. `region`
    /// wins over what the environment and the profile say.
    pub(crate) async fn connect(authorities: &[Vec<u8>], region: Option<&str>) -> Result<Self, AwsError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let config = loader
            .http_client(http_client(authorities)?)
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ANSWER).build(),
            )
            .load()
            .await;
        let region = config.region().map(ToString::to_string).ok_or(AwsError::NoRegion)?;
        let missing = || AwsError::NoCredentials("no provider is set up".into());
        config
            .credentials_provider()
            .ok_or_else(missing)?
            .provide_credentials()
            .await
            .map_err(|error| AwsError::NoCredentials(Box::new(error)))?;
        Ok(Self { config, region })
    }

    /// The region in use.
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// The keys in use, for commands that are given this access.
    pub(crate) async fn credentials(&self) -> Result<Keys, AwsError> {
        let provider = self.config.credentials_provider();
        let provider = provider.ok_or_else(|| AwsError::NoCredentials("no provider is set up".into()))?;
        let keys =
            provider.provide_credentials().await.map_err(|error| AwsError::NoCredentials(error.into()))?;
        Ok(Keys {
            id: keys.access_key_id().to_owned(),
            secret: Secret::new(keys.secret_access_key()),
            session_token: keys.session_token().map(Secret::new),
        })
    }

    /// The ARN of something in this region. Which account it is in is known to AWS alone.
    fn arn(&self, service: &str, name: &str) -> String {
        let partition = partition_of(&self.region);
        format!("arn:{partition}:{service}:{}:*:{name}", self.region)
    }

    /// The same access in a region; in our own where none is named.
    #[must_use]
    pub(crate) fn at(&self, region: Option<&str>) -> Self {
        region.map_or_else(|| self.clone(), |region| self.in_region(region))
    }

    /// The same access in another region.
    #[must_use]
    pub(crate) fn in_region(&self, region: &str) -> Self {
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        Self { config, region: region.to_owned() }
    }
}

fn http_client(
    authorities: &[Vec<u8>],
) -> Result<aws_smithy_runtime_api::client::http::SharedHttpClient, AwsError> {
    let mut store = TrustStore::empty();
    for der in authorities {
        store.add_pem_certificate(crate::tls::pem(der).into_bytes());
    }
    let context = TlsContext::builder()
        .with_trust_store(store)
        .build()
        .map_err(|error| AwsError::Tls(Box::new(error)))?;
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(context)
        .build_https())
}

/// Keys of AWS, as environment variables carry them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The access key's id, which is no secret.
    pub(crate) id: String,
    /// The secret access key.
    pub(crate) secret: Secret,
    /// The session's token, where there is one.
    pub(crate) session_token: Option<Secret>,
}

/// What a policy would have to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The action, as IAM spells it.
    pub(crate) action: String,
    /// What it would work on: an ARN, or `*`.
    pub(crate) resource: String,
}

impl Denial {
    /// Reads AWS's sentence: `… is not authorized to perform: ACTION on resource: ARN because …`.
    pub(crate) fn read(message: &str) -> Option<Self> {
        let (_, rest) = message.split_once("not authorized to perform: ")?;
        let word = |text: &str| {
            let word = text.split_whitespace().next().unwrap_or_default();
            word.trim_end_matches(['.', ',', '"', '\'']).to_owned()
        };
        let action = word(rest);
        let resource =
            rest.split_once("on resource: ").map_or_else(|| "*".to_owned(), |(_, rest)| word(rest));
        action.contains(':').then_some(Self { action, resource })
    }

    /// The statement that allows it.
    pub(crate) fn statement(&self) -> String {
        serde_json::json!({ "Effect": "Allow", "Action": self.action, "Resource": self.resource }).to_string()
    }
}

/// An SDK error in our words. `resource` is what the action works on, as far as it is known here; AWS's own words know better.
fn error<E, R>(action: &'static str, resource: &str, error: SdkError<E, R>) -> AwsError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let Some(service) = error.as_service_error() else {
        // The keys themselves come from a role that may not be assumed.
        if let Some(denied) = sts::denied_on_the_way(&error) {
            return denied;
        }
        return AwsError::Unreachable { action, source: Box::new(error) };
    };
    let message = service.message().unwrap_or_default().to_owned();
    let Some(code) = service.code().map(ToOwned::to_owned) else {
        let message = if message.is_empty() { service.to_string() } else { message };
        return AwsError::NotUnderstood { action, message };
    };
    if DENIED.contains(&code.as_str()) {
        let denial = Denial::read(&message)
            .unwrap_or_else(|| Denial { action: action.to_owned(), resource: resource.to_owned() });
        AwsError::Denied { denial, message }
    } else if BAD_CREDENTIALS.contains(&code.as_str()) {
        AwsError::BadCredentials { action, message }
    } else {
        AwsError::Service { action, code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_read_from_awss_own_words() {
        let read = |text: &str| Denial::read(text).map(|denial| (denial.action, denial.resource));
        let some = |action: &str, resource: &str| Some((action.to_owned(), resource.to_owned()));
        let user = "User: arn:aws:sts::123456789012:assumed-role/build/x is not authorized to perform: ";
        let role = "arn:aws:iam::123456789012:role/task";
        // A call can be denied for another action than its own.
        let passing =
            format!("{user}iam:PassRole on resource: {role} because no identity-based policy allows it");
        assert_eq!(read(&passing), some("iam:PassRole", role));
        // ECR's registry says it in its own errors, BuildKit repeats them.
        let pushing = format!(
            "denied: {user}ecr:InitiateLayerUpload on resource: arn:aws:ecr:eu-west-1:123456789012:repository/a.\""
        );
        assert_eq!(
            read(&pushing),
            some("ecr:InitiateLayerUpload", "arn:aws:ecr:eu-west-1:123456789012:repository/a")
        );
        assert_eq!(read(&format!("{user}ecr:GetAuthorizationToken")), some("ecr:GetAuthorizationToken", "*"));
        assert_eq!(read("access denied"), None);
    }
}
