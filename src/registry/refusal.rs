//! Error responses, as the registry's own words and as an error.

use super::RegistryError;
use super::connection::{Answer, RepositoryClient};
use crate::http;
use crate::text::{one_line, shortened};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

/// Part of ECR's message if a repository has reached its image quota. Its status is 403 (aws/containers-roadmap#2159).
const QUOTA: &str = "already has the maximum allowed number of images";
/// How much of a response an error shows, in characters.
const MAX_REASON: usize = 1000;

/// The body of an error response: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: Option<String>,
    message: Option<String>,
    detail: Option<Value>,
}

impl ErrorEntry {
    /// Its parts in one line.
    fn text(&self) -> String {
        let parts = [self.code.as_deref(), self.message.as_deref()];
        let mut text = parts.into_iter().flatten().map(str::trim).collect::<Vec<_>>().join(" ");
        let detail = match &self.detail {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(detail)) => detail.trim().to_owned(),
            Some(Value::Array(items)) if items.is_empty() => String::new(),
            Some(Value::Object(fields)) if fields.is_empty() => String::new(),
            Some(detail) => detail.to_string(),
        };
        if !detail.is_empty() && !text.contains(&detail) {
            text.push_str(&format!(" ({detail})"));
        }
        text.trim().to_owned()
    }
}

/// Returns the error codes of a response, and all of its errors in one line.
fn reason(status: StatusCode, body: &[u8]) -> (Vec<String>, String) {
    let errors = serde_json::from_slice::<ErrorBody>(body).map(|body| body.errors).unwrap_or_default();
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(ErrorEntry::text).filter(|text| !text.is_empty()) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let text = if texts.is_empty() { String::from_utf8_lossy(body).into_owned() } else { texts.join("; ") };
    // A proxy may send a whole page.
    let line = one_line(&text);
    let line = match line.as_str() {
        "" => status.canonical_reason().unwrap_or_default().to_owned(),
        line => shortened(line, MAX_REASON),
    };
    (errors.into_iter().filter_map(|error| error.code).collect(), line)
}

impl RepositoryClient {
    pub(crate) fn check(&self, answer: Answer, doing: &str) -> Result<Answer, RegistryError> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer, doing)) }
    }

    pub(super) fn refusal(&self, answer: &Answer, doing: &str) -> RegistryError {
        let (codes, mut reason) = reason(answer.status, &answer.body);
        // Without TLS the response may be the proxy's own.
        if answer.url.scheme() == "http" {
            reason.push_str(&http::through(&answer.url).to_string());
        }
        let (host, repository) = (self.repository.host.clone(), self.repository.path.clone());
        match answer.status {
            StatusCode::FORBIDDEN if reason.contains(QUOTA) => {
                RegistryError::Full { host, repository, reason }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { host, reason },
            StatusCode::NOT_FOUND if codes.iter().any(|code| code == "NAME_UNKNOWN") => {
                RegistryError::NoRepository { host, repository }
            }
            status => RegistryError::Refused {
                host,
                doing: doing.to_owned(),
                status: status.as_u16(),
                codes,
                reason,
            },
        }
    }

    pub(crate) fn denied(&self, reason: &str) -> RegistryError {
        RegistryError::Denied { host: self.repository.host.clone(), reason: reason.to_owned() }
    }

    /// The error for a response that the protocol does not allow. `problem` follows the registry's name.
    pub(crate) fn broken(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.repository.host.clone(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(body: &str) -> String {
        reason(StatusCode::BAD_REQUEST, body.as_bytes()).1
    }

    /// Findings, B12.
    #[test]
    fn all_errors_of_a_response_are_shown_with_their_details() {
        let body = r#"{"errors": [
            {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": "sha256:1"},
            {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": {"digest": "sha256:2"}},
            {"code": "DENIED", "message": "no", "detail": null}
        ]}"#;
        let text = "MANIFEST_BLOB_UNKNOWN blob unknown to registry (sha256:1); \
                    MANIFEST_BLOB_UNKNOWN blob unknown to registry ({\"digest\":\"sha256:2\"}); DENIED no";
        assert_eq!(words(body), text);
        let (codes, _) = reason(StatusCode::BAD_REQUEST, body.as_bytes());
        assert_eq!(codes, ["MANIFEST_BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "DENIED"]);
    }

    #[test]
    fn incomplete_errors_are_shown_as_far_as_they_go() {
        assert_eq!(words(r#"{"errors": [{"message": "no code"}]}"#), "no code");
        assert_eq!(
            words(r#"{"errors": [{"code": null, "message": null, "detail": ["a", 1]}]}"#),
            "([\"a\",1])"
        );
        assert_eq!(words(r#"{"errors": [{"code": "X", "detail": {}}, {"code": "X"}]}"#), "X");
        assert_eq!(words(r#"{"errors": []}"#), r#"{"errors": []}"#);
        assert_eq!(words("<html>\n  <b>gateway</b>\r\n"), "<html> <b>gateway</b>");
        assert_eq!(words(""), "Bad Request");
        assert!(words(&"x".repeat(5000)).chars().count() <= MAX_REASON + 1);
    }
}
