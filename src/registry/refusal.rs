//! Error responses, as the registry's own words and as an error.

use super::RegistryError;
use super::connection::{Answer, RepositoryClient};
use reqwest::StatusCode;
use serde::Deserialize;

/// Part of ECR's message if a repository has reached its image quota. Its status is 403 (aws/containers-roadmap#2159).
const QUOTA: &str = "already has the maximum allowed number of images";

/// The body of an error response.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    code: String,
    #[serde(default)]
    message: String,
}

impl RepositoryClient {
    pub(crate) fn check(&self, answer: Answer, doing: &str) -> Result<Answer, RegistryError> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer, doing)) }
    }

    pub(super) fn refusal(&self, answer: &Answer, doing: &str) -> RegistryError {
        let text = String::from_utf8_lossy(&answer.body);
        let entry =
            serde_json::from_str::<ErrorBody>(&text).ok().and_then(|body| body.errors.into_iter().next());
        let (code, reason) = match entry {
            Some(entry) => (entry.code.clone(), format!("{} {}", entry.code, entry.message)),
            None => (String::new(), text.chars().take(300).collect()),
        };
        let reason = reason.trim().to_owned();
        match (answer.status, code.as_str()) {
            (StatusCode::FORBIDDEN, _) if reason.contains(QUOTA) => RegistryError::Full {
                host: self.repository.host.clone(),
                repository: self.repository.path.clone(),
                reason,
            },
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.denied(&reason),
            (StatusCode::NOT_FOUND, "NAME_UNKNOWN") => RegistryError::NoRepository {
                host: self.repository.host.clone(),
                repository: self.repository.path.clone(),
            },
            (status, _) => RegistryError::Refused {
                host: self.repository.host.clone(),
                doing: doing.to_owned(),
                status: status.as_u16(),
                code,
                reason,
            },
        }
    }
}
