//! Authentication at a registry: the login, and tokens from a token service.

use super::RegistryError;
use super::challenge::Asked;
use super::connection::{Answer, RepositoryClient};
use crate::secret::{Login, Secret};
use base64::Engine;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Tokens are renewed this long before they expire.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// The lifetime of a token, in seconds, if the token service does not return one:
/// <https://distribution.github.io/distribution/spec/auth/token/>.
const TOKEN_LIFETIME: f64 = 60.0;
/// The longest lifetime that is believed, in seconds. It is longer than a run.
const MAX_TOKEN_LIFETIME: f64 = 86_400.0;
const FORM: &str = "application/x-www-form-urlencoded";

/// The state of authentication.
#[derive(Default)]
pub(super) struct Authorization {
    pub(super) login: Option<Login>,
    pub(super) header: Option<Secret>,
    /// The login that the registry asked for last.
    pub(super) asked: Asked,
    pub(super) expires: Option<Instant>,
    /// How often the header has been renewed.
    pub(super) generation: u64,
}

/// The response of a token service. What is empty or null is absent.
#[derive(Default, Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<Value>,
}

impl TokenResponse {
    fn token(&self) -> Option<&str> {
        [&self.token, &self.access_token]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .find(|token| !token.is_empty())
    }

    /// How long the token is used.
    fn lifetime(&self) -> Duration {
        let seconds = match &self.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds| !seconds.is_nan()).unwrap_or(TOKEN_LIFETIME);
        let life = Duration::from_secs_f64(seconds.clamp(0.0, MAX_TOKEN_LIFETIME));
        life.saturating_sub(EXPIRY_MARGIN).max(EXPIRY_MARGIN)
    }
}

impl RepositoryClient {
    /// Renews the login, unless a parallel call has already replaced this generation. Returns whether there is a new
    /// one.
    pub(super) async fn renew(&self, generation: u64) -> Result<bool, RegistryError> {
        let mut authorization = self.authorization.lock().await;
        if authorization.generation != generation {
            return Ok(true);
        }
        let first = authorization.header.is_none();
        let (realm, service) = match authorization.asked.clone() {
            Asked::Token { realm, service } => (realm, service),
            Asked::Unsupported(schemes) => {
                return Err(
                    self.denied(&format!("it only accepts logins that runner does not support: {schemes}"))
                );
            }
            Asked::Basic | Asked::Unknown => {
                if !first {
                    authorization.login = (self.renew)().await;
                }
                let Some(header) = authorization.login.as_ref().map(basic) else { return Ok(false) };
                authorization.header = Some(header);
                authorization.generation += 1;
                return Ok(true);
            }
        };
        let mut answer = self.token(&realm, service.as_deref(), authorization.login.as_ref()).await?;
        if answer.status == StatusCode::UNAUTHORIZED && !first {
            authorization.login = (self.renew)().await;
            answer = self.token(&realm, service.as_deref(), authorization.login.as_ref()).await?;
        }
        if !answer.status.is_success() {
            return Err(self.token_refusal(&answer, authorization.login.is_some()));
        }
        let response = serde_json::from_slice::<TokenResponse>(&answer.body).unwrap_or_default();
        let token =
            response.token().ok_or_else(|| self.broken("has a token service that returned no token"))?;
        authorization.header = Some(Secret::new(format!("Bearer {token}")));
        authorization.expires = Some(Instant::now() + response.lifetime());
        authorization.generation += 1;
        Ok(true)
    }

    /// The error for a response of the token service without a token.
    fn token_refusal(&self, answer: &Answer, has_login: bool) -> RegistryError {
        match (self.refusal(answer, "give a token"), &self.problem) {
            (RegistryError::Denied { reason, .. }, None) if has_login => {
                self.denied(&format!("its token service rejects the login: {reason}"))
            }
            (RegistryError::Denied { .. }, Some(problem)) => {
                self.denied(&format!("its token service requires a login, and {problem}"))
            }
            (RegistryError::Denied { reason, .. }, None) => self
                .denied(&format!("its token service requires a login, and there is none for it: {reason}")),
            (other, _) => other,
        }
    }

    /// Requests a token from the service that the registry names.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> Result<Answer, RegistryError> {
        let mut url = self
            .base
            .join(realm)
            .map_err(|_| self.broken("names a token service without a valid address"))?;
        self.check_target(&url, "the login")?;
        let own = format!("repository:{}:pull,push", self.repository.path);
        let others = self.others.iter().map(|other| format!("repository:{other}:pull"));
        let mut asked: Vec<(&str, String)> =
            std::iter::once(own).chain(others).map(|own| ("scope", own)).collect();
        asked.extend(service.map(|service| ("service", service.to_owned())));
        let identity = login.filter(|login| login.is_identity_token());
        if identity.is_none() {
            url.query_pairs_mut().extend_pairs(&asked);
        }
        let mut retries = self.retries();
        loop {
            let mut request = match (identity, login) {
                (Some(identity), _) => self
                    .exchange
                    .as_ref()
                    .unwrap_or(&self.http)
                    .post(url.clone())
                    .body(exchange(&url, &asked, identity))
                    .header(CONTENT_TYPE, FORM),
                (None, Some(login)) => {
                    self.http.get(url.clone()).header(AUTHORIZATION, basic(login).expose())
                }
                (None, None) => self.http.get(url.clone()),
            };
            request = request.timeout(self.timeout);
            let answer = match request.send().await {
                Ok(answer) => self.collect(answer).await,
                Err(error) => Err(self.unreachable(error, &url)),
            };
            let trouble = match answer {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            Box::pin(retries.wait(trouble)).await?;
        }
    }
}

/// Returns the form that exchanges an identity token for an access token:
/// <https://distribution.github.io/distribution/spec/auth/oauth/>.
fn exchange(service: &Url, asked: &[(&str, String)], identity: &Login) -> String {
    // This form joins several scopes into one value.
    let scopes: Vec<&str> =
        asked.iter().filter(|(name, _)| *name == "scope").map(|(_, scope)| scope.as_str()).collect();
    let mut form = service.clone();
    form.set_query(None);
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "runner")
        .extend_pairs(asked.iter().filter(|(name, _)| *name != "scope"))
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", identity.password.expose());
    form.query().unwrap_or_default().to_owned()
}

fn basic(login: &Login) -> Secret {
    let pair = format!("{}:{}", login.user, login.password.expose());
    Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &str) -> TokenResponse {
        serde_json::from_str(text).unwrap()
    }

    /// Findings, B5.
    #[test]
    fn an_empty_token_is_absent() {
        assert_eq!(response(r#"{"token":"","access_token":"T"}"#).token(), Some("T"));
        assert_eq!(response(r#"{"token":null,"access_token":"T"}"#).token(), Some("T"));
        assert_eq!(response(r#"{"token":"A","access_token":"T"}"#).token(), Some("A"));
        assert_eq!(response(r#"{"token":"A","access_token":null,"expires_in":null}"#).token(), Some("A"));
        assert_eq!(response(r#"{"token":"","access_token":""}"#).token(), None);
    }

    /// Findings, B6.
    #[test]
    fn a_lifetime_is_clamped() {
        let seconds = |text: &str| response(&format!("{{\"expires_in\":{text}}}")).lifetime().as_secs();
        let longest = 86_400 - 10;
        assert_eq!(seconds("300"), 290);
        for huge in
            ["9223372036854775807", "18446744073709551616", "1e300", "\"9223372036854775807\"", "\"inf\""]
        {
            assert_eq!(seconds(huge), longest, "{huge}");
        }
        for short in ["0", "-1", "-9223372036854775808", "1.5"] {
            assert_eq!(seconds(short), 10, "{short}");
        }
        for none in ["null", "\"\"", "\"NaN\"", "[]", "true"] {
            assert_eq!(seconds(none), 50, "{none}");
        }
        assert_eq!(seconds("\"300\""), 290);
        assert_eq!(response("{}").lifetime().as_secs(), 50);
    }
}
