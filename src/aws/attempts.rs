//! The attempt policy of every AWS call: which failures are transient, how often and at which pace a call is retried,
//! and the notice that runner waits.

use super::AwsError;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::retry::RetryConfig;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a call is sent. With the delays below this takes about a minute.
const ATTEMPTS: u32 = 10;
/// How often a call is sent while AWS has never responded. Then the network or a name is probably wrong, and waiting
/// does not help.
const UNREACHED: u32 = 3;
/// How often a call is sent that gets HTTP 500 without an error code: AWS names one, so something else responds, such
/// as a test bed that does not know the call.
const CODELESS: u32 = 3;
/// Retries up to this attempt are not worth a notice.
const SILENT: u32 = 3;
/// The delay before the first retry, and the factor up to which it grows.
const FIRST: Duration = Duration::from_secs(1);
const GROWTH: u32 = 16;

/// Codes that say that a part of something is missing, which the run has not made with it.
const OF_A_PART: [&str; 3] =
    ["ScanNotFoundException", "LifecyclePolicyNotFoundException", "RepositoryPolicyNotFoundException"];

/// Codes of throttling and of temporary failures that AWS may send with any status: AWS's common errors, and the lists
/// of the SDK's own classifiers.
const TRANSIENT: [&str; 23] = [
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestAbortedException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
];
/// A quota that is used up. The SDK counts it as throttling, but waiting does not help.
const QUOTA: &str = "LimitExceededException";
/// ECS's message, under a generic code, when two callers register revisions of a family concurrently.
const CONCURRENT: &str = "Too many concurrent attempts to create a new revision";

/// How AWS's messages say under a generic code that something does not exist.
const MISSING: [&str; 7] = [
    "not found",
    "unable to find",
    "cannot find",
    "does not exist",
    "unable to describe",
    "was missing",
    "is inactive",
];

/// Whether a JSON document has a name as a whole text.
fn names(request: &str, name: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !(c.is_ascii_alphanumeric() || "-_./:".contains(c)));
    request.match_indices(name).any(|(at, _)| {
        is_edge(request[..at].chars().next_back()) && is_edge(request[at + name.len()..].chars().next())
    })
}

/// Whether the same call may succeed later, by the HTTP status, the error code and the message.
pub(super) fn is_transient(status: u16, code: Option<&str>, message: &str) -> bool {
    let is_status = matches!(status, 408 | 429 | 500..);
    is_status || code.is_some_and(|code| TRANSIENT.contains(&code)) || message.contains(CONCURRENT)
}

/// Receives the notice that runner waits for AWS.
type Notice = Arc<dyn Fn(String) + Send + Sync>;

/// The policy, and what the calls of a connection know of each other.
#[derive(Clone)]
pub(crate) struct Attempts {
    first: Duration,
    /// AWS has responded at least once.
    reached: Arc<AtomicBool>,
    /// The notice was given, and no call has succeeded since.
    waiting: Arc<AtomicBool>,
    notice: Option<Notice>,
    /// The names of what this run has made. AWS may know it only after a moment.
    made: Arc<Mutex<BTreeSet<String>>>,
}

impl Attempts {
    /// `pace` replaces the delay before the first retry.
    pub(super) fn new(pace: Option<Duration>) -> Self {
        Self {
            first: pace.unwrap_or(FIRST),
            reached: Arc::default(),
            waiting: Arc::default(),
            notice: None,
            made: Arc::default(),
        }
    }

    pub(super) fn noticing(&self, notice: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { notice: Some(Arc::new(notice)), ..self.clone() }
    }

    pub(super) fn made(&self, name: &str) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }

    /// The same policy in another account, where the run has made nothing yet.
    pub(super) fn of_other_account(&self) -> Self {
        Self { made: Arc::default(), ..self.clone() }
    }

    /// The names of what this run has made.
    pub(super) fn all_made(&self) -> Vec<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Whether an error says that something does not exist, and the request names something that this run has made.
    pub(super) fn is_unknown_yet(&self, request: &str, code: &str, message: &str) -> bool {
        let message = message.to_lowercase();
        let is_missing = ["NotFound", "DoesNotExist", "NotExist"].iter().any(|part| code.contains(part))
            || MISSING.iter().any(|words| message.contains(words));
        let is_missing = is_missing && !OF_A_PART.contains(&code);
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        is_missing && made.iter().any(|name| names(request, name))
    }

    pub(super) fn config(&self) -> RetryConfig {
        RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(self.first)
            .with_max_backoff(self.first * GROWTH)
    }

    /// The attempts of the calls of one client.
    pub(super) fn of_client(&self) -> ClientAttempts {
        ClientAttempts(Arc::new(State {
            attempts: self.clone(),
            unreached: AtomicU32::new(0),
            codeless: AtomicU32::new(0),
            asked: Mutex::default(),
            cause: Mutex::default(),
        }))
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").field("first", &self.first).finish_non_exhaustive()
    }
}

/// Classifies the failures of one client's calls, and gives the notice.
#[derive(Debug, Clone)]
pub(super) struct ClientAttempts(Arc<State>);

struct State {
    attempts: Attempts,
    /// Failures without any response.
    unreached: AtomicU32,
    /// Responses with HTTP 500 and without an error code.
    codeless: AtomicU32,
    /// The body of the last request, for the classification of its failure.
    asked: Mutex<String>,
    /// Why the last attempt failed.
    cause: Mutex<String>,
}

/// Requests may hold secrets, so it shows nothing.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl ClientAttempts {
    fn is_unknown_yet(&self, response: &HttpResponse) -> bool {
        let (Some(said), code) = (text(response.body()), code_of(response).unwrap_or_default()) else {
            return false;
        };
        let asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // The message is searched for in the whole body, whichever format that has.
        response.status().is_client_error() && self.0.attempts.is_unknown_yet(&asked, &code, &said)
    }
}

impl ClassifyRetry for ClientAttempts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        if !context.is_failed() {
            return RetryAction::NoActionIndicated;
        }
        let Some(response) = context.response() else {
            let failures = self.0.unreached.fetch_add(1, Ordering::SeqCst) + 1;
            let is_hopeless = !self.0.attempts.reached.load(Ordering::SeqCst) && failures >= UNREACHED;
            return if is_hopeless { RetryAction::RetryForbidden } else { RetryAction::NoActionIndicated };
        };
        let code = code_of(response);
        match code.as_deref() {
            None if response.status().as_u16() == 500
                && self.0.codeless.fetch_add(1, Ordering::SeqCst) + 1 >= CODELESS =>
            {
                RetryAction::RetryForbidden
            }
            Some(QUOTA) => RetryAction::RetryForbidden,
            // Half a response, or one of something in between.
            _ if response.status().is_success() => RetryAction::server_error(),
            code if is_transient(response.status().as_u16(), code, "") => RetryAction::server_error(),
            _ if self.is_unknown_yet(response) => RetryAction::server_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "Attempts"
    }
}

impl Intercept for ClientAttempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn read_before_attempt(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let state = &self.0.attempts;
        let has_made = !state.made.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let asked = has_made.then(|| text(context.request().body())).flatten();
        *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked.unwrap_or_default();
        let attempt = config.load::<RequestAttempts>().map_or(0, RequestAttempts::attempts);
        if attempt > SILENT
            && let Some(notice) = &state.notice
            && !state.waiting.swap(true, Ordering::SeqCst)
        {
            let call = config.load::<Metadata>().map_or("a call", Metadata::name);
            let cause = self.0.cause.lock().unwrap_or_else(PoisonError::into_inner);
            notice(format!("retrying: {call} {cause}"));
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let state = &self.0.attempts;
        let response = context.response();
        if response.is_some() {
            state.reached.store(true, Ordering::SeqCst);
        }
        if context.output_or_error().is_some_and(|result| result.is_ok()) {
            state.waiting.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let cause = match response {
            None => "got no response from AWS".to_owned(),
            Some(response) => {
                let code = code_of(response).map(|code| format!(" {code}")).unwrap_or_default();
                format!("failed with HTTP {}{code}", response.status().as_u16())
            }
        };
        *self.0.cause.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        Ok(())
    }
}

fn text(body: &SdkBody) -> Option<String> {
    body.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// The error code of a response: in a header, in JSON, or in XML.
fn code_of(response: &HttpResponse) -> Option<String> {
    let in_header = response.headers().get("x-amzn-errortype").map(ToOwned::to_owned);
    let code = in_header.or_else(|| {
        let body = response.body().bytes()?;
        if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
            return fields.get("__type").or_else(|| fields.get("code"))?.as_str().map(ToOwned::to_owned);
        }
        let (_, rest) = std::str::from_utf8(body).ok()?.split_once("<Code>")?;
        rest.split_once("</Code>").map(|(code, _)| code.to_owned())
    })?;
    // `com.amazonaws.ecs#ServerException:http://…`
    let code = code.split(':').next().unwrap_or_default();
    Some(code.rsplit('#').next().unwrap_or_default().to_owned())
}

impl AwsError {
    /// Whether the same call may succeed later. It may also have succeeded already, with its response lost.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::UnexpectedResponse { .. } => true,
            Self::Service { transient, .. } => *transient,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings, D1.
    #[test]
    fn failures_are_transient_by_status_or_by_code() {
        for (status, code) in [
            (500, "InternalServerError"),
            (500, "SomethingNew"),
            (501, ""),
            (503, "ServiceUnavailable"),
            (599, ""),
            (429, "Whatever"),
            (408, "RequestTimeoutException"),
            (400, "ThrottlingException"),
            (400, "RequestLimitExceeded"),
            (400, "RequestAbortedException"),
        ] {
            assert!(is_transient(status, Some(code).filter(|code| !code.is_empty()), ""), "{status} {code}");
        }
        for (status, code) in [
            (400, "ClientException"),
            (400, "ValidationError"),
            (400, QUOTA),
            (403, "OptInRequired"),
            (404, "UnknownOperationException"),
            (413, "RequestEntityTooLargeException"),
        ] {
            assert!(!is_transient(status, Some(code), ""), "{status} {code}");
        }
        assert!(is_transient(400, Some("ClientException"), &format!("{CONCURRENT}.")));
    }

    /// Findings, D2.
    #[test]
    fn what_the_run_has_made_is_unknown_only_for_now() {
        let attempts = Attempts::new(None);
        let revision = "arn:aws:ecs:us-east-1:123456789012:task-definition/web:2";
        attempts.made(revision);
        attempts.made("d-ABC");
        let asked = |name: &str| format!("{{\"taskDefinition\":\"{name}\"}}");
        let unknown =
            |name: &str, code: &str, message: &str| attempts.is_unknown_yet(&asked(name), code, message);
        assert!(unknown(revision, "ClientException", "Unable to describe task definition."));
        assert!(unknown(revision, "ClientException", "TaskDefinition not found."));
        assert!(unknown("d-ABC", "DeploymentDoesNotExistException", ""));
        // Another revision, a longer name, another error.
        assert!(!unknown(&format!("{revision}1"), "ClientException", "TaskDefinition not found."));
        assert!(!unknown("d-ABCD", "DeploymentDoesNotExistException", ""));
        assert!(!unknown(revision, "InvalidParameterException", "The network mode does not fit."));
    }
}
