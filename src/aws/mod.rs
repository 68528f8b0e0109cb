//! The AWS SDK: configuration and errors here, one file per service. The SDK's types never leave this module.

/// A client of a service with the attempt policy. A second argument replaces its retries.
macro_rules! client {
    ($sdk:ident, $aws:expr) => {
        client!($sdk, $aws, $aws.attempts.config())
    };
    ($sdk:ident, $aws:expr, $retries:expr) => {{
        let attempts = $aws.attempts.of_client();
        let config = $sdk::config::Builder::from(&$aws.config)
            .retry_config($retries)
            .retry_classifier(attempts.clone())
            .interceptor(attempts);
        $sdk::Client::from_conf(config.build())
    }};
}

mod attempts;
pub(crate) mod codebuild;
pub(crate) mod codedeploy;
pub(crate) mod ecr;
pub(crate) mod ecs;
pub(crate) mod elb;
pub(crate) mod events;
mod http;
pub(crate) mod iam;
pub(crate) mod logs;
mod raw;
pub(crate) mod scheduler;
pub(crate) mod secrets_manager;
pub(crate) mod ssm;
pub(crate) mod sts;

use crate::address::partition_of;
use crate::secret::Secret;
use crate::text::one_line;
use attempts::Attempts;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use std::time::Duration;

/// An AWS configuration. Region and credentials come from the SDK's default chain: variables, profiles, the container,
/// the instance.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    config: SdkConfig,
    region: String,
    /// The source of the region, for messages.
    origin: String,
    attempts: Attempts,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AwsError {
    #[error("no AWS region is set")]
    NoRegion,
    #[error("there are no AWS credentials")]
    NoCredentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A role could not be assumed, but not because of a missing permission.
    #[error("cannot assume the role {role}")]
    Role {
        role: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Proxy(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot set up TLS for AWS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The credentials are invalid or expired.
    #[error("AWS rejected the credentials for {action}: {message}")]
    BadCredentials {
        /// The action, as IAM spells it.
        action: &'static str,
        message: String,
    },
    #[error("AWS denies {}: {message}", denial.action)]
    Denied {
        /// The permission that is missing.
        denial: Denial,
        message: String,
    },
    /// No response: the call may still have taken effect.
    #[error("cannot reach AWS for {action} in {region}")]
    Unreachable {
        /// The action, as IAM spells it.
        action: &'static str,
        /// The region, with its source.
        region: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An unexpected response: the call may still have taken effect.
    #[error("unexpected response from AWS to {action}: {message}")]
    UnexpectedResponse {
        /// The action, as IAM spells it.
        action: &'static str,
        message: String,
    },
    /// A resource that the pipeline names does not exist.
    #[error("there is no {what} `{name}` in {region}")]
    NotFound {
        /// The kind of resource.
        what: &'static str,
        name: String,
        /// The region, with its source.
        region: String,
    },
    /// The name of the region cannot be one.
    #[error("`{region}` is not the name of a region (it comes from {origin})")]
    Region {
        region: String,
        /// Where it comes from.
        origin: String,
    },
    /// A secret exists, but has no usable value.
    #[error("the secret `{name}` {reason}")]
    UnusableSecret {
        /// Its name or ARN.
        name: String,
        /// The predicate of the message, such as `is binary, not text`.
        reason: String,
    },
    #[error("AWS refused {action}: {code}: {message}")]
    Service {
        /// The action, as IAM spells it.
        action: &'static str,
        code: String,
        message: String,
        /// The same call may succeed later.
        transient: bool,
    },
}

impl AwsError {
    /// The error for a response that lacks a required field.
    fn without(action: &'static str, what: &str) -> Self {
        Self::UnexpectedResponse { action, message: format!("it has no {what}") }
    }
}

/// The variables that set the region, in their order.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// The time limit to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit of one attempt of a call.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How many calls that read values are made at once.
pub(crate) const CALLS_AT_ONCE: usize = 8;
/// Error codes for missing permissions.
const DENIED: [&str; 4] = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"];
/// Error codes for invalid or expired credentials.
const BAD_CREDENTIALS: [&str; 12] = [
    "AuthFailure",
    "MissingAuthenticationToken",
    "OptInRequired",
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
    /// Loads the configuration. Fails early if there is no region or there are no credentials. `region` overrides those
    /// of the environment and the profile. `pace` replaces the delay before the first retry of a call.
    pub(crate) async fn connect(
        authorities: &[Vec<u8>],
        region: Option<&str>,
        pace: Option<Duration>,
    ) -> Result<Self, AwsError> {
        let attempts = Attempts::new(pace);
        // Providers of credentials make calls, too.
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).retry_config(attempts.config());
        let variable = |name: &&str| std::env::var(name).is_ok_and(|value| !value.is_empty());
        let variable = REGION_VARIABLES.into_iter().find(variable);
        let origin = match (region, variable) {
            (Some(_), _) => "from `aws` in the pipeline file".to_owned(),
            (None, Some(name)) => format!("from {name}"),
            (None, None) => "from the profile or the instance".to_owned(),
        };
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        } else if REGION_VARIABLES.iter().any(|name| std::env::var(name).is_ok_and(|value| value.is_empty()))
        {
            // The SDK would take an empty variable for a region.
            let named = variable.and_then(|name| std::env::var(name).ok()).map(Region::new);
            loader = loader
                .region(RegionProviderChain::first_try(named).or_else(ProfileFileRegionProvider::new()));
        }
        let config = loader
            .http_client(http::client(authorities)?)
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build(),
            )
            .load()
            .await;
        let region = config
            .region()
            .map(ToString::to_string)
            .filter(|region| !region.is_empty())
            .ok_or(AwsError::NoRegion)?;
        check_region(&region, &origin)?;
        let missing = || AwsError::NoCredentials("no provider is set up".into());
        config
            .credentials_provider()
            .ok_or_else(missing)?
            .provide_credentials()
            .await
            .map_err(|error| AwsError::NoCredentials(Box::new(error)))?;
        Ok(Self { config, region, origin, attempts })
    }

    /// The same connection, which reports once while it waits that calls are being retried.
    #[must_use]
    pub(crate) fn noticing(&self, notice: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { attempts: self.attempts.noticing(notice), ..self.clone() }
    }

    /// The same connection, whose calls take at most this long with all their attempts.
    #[must_use]
    pub(crate) fn within(&self, time: Duration) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(time);
        Self { config: self.config.to_builder().timeout_config(timeouts.build()).build(), ..self.clone() }
    }

    /// The run has made something of this name: until AWS knows it, calls that name it are retried.
    pub(crate) fn made(&self, name: &str) {
        self.attempts.made(name);
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// The current credentials, for the environment of commands.
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

    /// The ARN of a resource in this region, with `*` for the account, which is unknown here.
    fn arn(&self, service: &str, name: &str) -> String {
        arn_in(&self.region, service, name)
    }

    /// The same credentials in another region, or this configuration if `region` is `None`.
    #[must_use]
    pub(crate) fn at(&self, region: Option<&str>) -> Self {
        region.map_or_else(|| self.clone(), |region| self.in_region(region))
    }

    /// The same credentials in another region.
    #[must_use]
    pub(crate) fn in_region(&self, region: &str) -> Self {
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        let origin = "the region of the resource".to_owned();
        Self { config, region: region.to_owned(), origin, attempts: self.attempts.clone() }
    }
}

/// Fails for text that cannot be a region, such as `eu_west_1` or `Ireland`. Without a dot and slash it cannot change the
/// host that is called.
fn check_region(region: &str, origin: &str) -> Result<(), AwsError> {
    let parts: Vec<&str> = region.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_region = match parts.as_slice() {
        [words @ .., number] => words.len() >= 2 && words.iter().all(is_word) && number.parse::<u8>().is_ok(),
        [] => false,
    };
    if is_region {
        return Ok(());
    }
    Err(AwsError::Region { region: region.to_owned(), origin: origin.trim_start_matches("from ").to_owned() })
}

/// AWS credentials, as environment variables hold them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// The access key id, which is not secret.
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) session_token: Option<Secret>,
}

/// A permission that a policy does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    /// The action, as IAM spells it.
    pub(crate) action: String,
    /// An ARN, or `*`.
    pub(crate) resource: String,
}

impl Denial {
    /// Parses AWS's message: `… is not authorized to perform: ACTION on resource: ARN because …`.
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

    /// The policy statement that allows it.
    pub(crate) fn statement(&self) -> String {
        serde_json::json!({ "Effect": "Allow", "Action": self.action, "Resource": self.resource }).to_string()
    }
}

impl Aws {
    /// Converts an SDK error. `resource` is the ARN for a denial, used only if AWS's message names none.
    fn error<E>(&self, action: &'static str, resource: &str, error: SdkError<E, HttpResponse>) -> AwsError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let Some(service) = error.as_service_error() else {
            // The credentials come from a role, and renewing them was denied.
            if let Some(denied) = sts::denied_renewal(&error) {
                return denied;
            }
            return AwsError::Unreachable { action, region: self.place(), source: Box::new(error) };
        };
        let message = one_line(service.message().unwrap_or_default());
        let transient = attempts::is_transient(status, service.code(), &message);
        let Some(code) = service.code().map(ToOwned::to_owned) else {
            let message = if message.is_empty() { service.to_string() } else { message };
            if !transient && status >= 400 {
                return AwsError::Service { action, code: format!("HTTP {status}"), message, transient };
            }
            return AwsError::UnexpectedResponse { action, message };
        };
        if DENIED.contains(&code.as_str()) {
            let denial = Denial::read(&message)
                .unwrap_or_else(|| Denial { action: action.to_owned(), resource: resource.to_owned() });
            AwsError::Denied { denial, message }
        } else if BAD_CREDENTIALS.contains(&code.as_str()) {
            AwsError::BadCredentials { action, message }
        } else {
            AwsError::Service { action, code, message, transient }
        }
    }

    fn not_found(&self, what: &'static str, name: &str) -> AwsError {
        AwsError::NotFound { what, name: name.to_owned(), region: self.place() }
    }

    /// The region with its source, for messages.
    fn place(&self) -> String {
        format!("{} ({})", self.region, self.origin)
    }
}

fn arn_in(region: &str, service: &str, name: &str) -> String {
    let partition = partition_of(region);
    // IAM is global.
    let region = if service == "iam" { "" } else { region };
    format!("arn:{partition}:{service}:{region}:*:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_have_the_partition_of_the_region_and_roles_have_no_region() {
        assert_eq!(arn_in("eu-west-1", "iam", "role/x"), "arn:aws:iam::*:role/x");
        assert_eq!(arn_in("cn-north-1", "iam", "role/x"), "arn:aws-cn:iam::*:role/x");
        assert_eq!(arn_in("us-gov-west-1", "iam", "role/x"), "arn:aws-us-gov:iam::*:role/x");
        assert_eq!(arn_in("cn-north-1", "ssm", "parameter/x"), "arn:aws-cn:ssm:cn-north-1:*:parameter/x");
    }

    #[test]
    fn denials_are_parsed_from_messages_of_aws() {
        let read = |text: &str| Denial::read(text).map(|denial| (denial.action, denial.resource));
        let some = |action: &str, resource: &str| Some((action.to_owned(), resource.to_owned()));
        let user = "User: arn:aws:sts::123456789012:assumed-role/build/x is not authorized to perform: ";
        let role = "arn:aws:iam::123456789012:role/task";
        // A call can be denied because of another action.
        let passing =
            format!("{user}iam:PassRole on resource: {role} because no identity-based policy allows it");
        assert_eq!(read(&passing), some("iam:PassRole", role));
        // ECR's registry API has it in its own errors, and BuildKit repeats them.
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
