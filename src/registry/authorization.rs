//! Authentication at a registry: the login, the challenge, and tokens from a token service.

use super::RegistryError;
use super::connection::{Answer, RepositoryClient};
use crate::secret::{Login, Secret};
use base64::Engine;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Tokens are renewed this long before they expire.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// The lifetime of a token, in seconds, if the token service does not return one:
/// <https://distribution.github.io/distribution/spec/auth/token/>.
const TOKEN_LIFETIME: u64 = 60;
const FORM: &str = "application/x-www-form-urlencoded";

/// The state of authentication.
#[derive(Default)]
pub(super) struct Authorization {
    pub(super) login: Option<Login>,
    pub(super) header: Option<Secret>,
    /// The registry's last `WWW-Authenticate` header.
    pub(super) challenge: String,
    pub(super) expires: Option<Instant>,
    /// How often the header has been renewed.
    pub(super) generation: u64,
}

/// The response of a token service.
#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
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
        let bearer = strip_scheme(&authorization.challenge, "bearer").map(ToOwned::to_owned);
        let Some(parameters) = bearer else {
            if !first {
                authorization.login = (self.renew)().await;
            }
            let Some(header) = authorization.login.as_ref().map(basic) else { return Ok(false) };
            authorization.header = Some(header);
            authorization.generation += 1;
            return Ok(true);
        };
        let mut answer = self.token(&parameters, authorization.login.as_ref()).await?;
        if answer.status == StatusCode::UNAUTHORIZED && !first {
            authorization.login = (self.renew)().await;
            answer = self.token(&parameters, authorization.login.as_ref()).await?;
        }
        if !answer.status.is_success() {
            return Err(self.denied("its token service rejects the login"));
        }
        let answer: Option<TokenResponse> = serde_json::from_slice(&answer.body).ok();
        let life = answer.as_ref().and_then(|answer| answer.expires_in).unwrap_or(TOKEN_LIFETIME);
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.ok_or_else(|| self.denied("its token service returned no token"))?;
        authorization.header = Some(Secret::new(format!("Bearer {token}")));
        authorization.expires =
            Some(Instant::now() + Duration::from_secs(life).saturating_sub(EXPIRY_MARGIN).max(EXPIRY_MARGIN));
        authorization.generation += 1;
        Ok(true)
    }

    /// Requests a token from the service that the registry's challenge names.
    async fn token(&self, parameters: &str, login: Option<&Login>) -> Result<Answer, RegistryError> {
        let realm = parameter(parameters, "realm").unwrap_or_default();
        let mut url =
            Url::parse(&realm).map_err(|_| self.denied("its token service has no valid address"))?;
        if self.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.denied("its token service asks for the login over plain HTTP"));
        }
        let own = format!("repository:{}:pull,push", self.repository.path);
        let others = self.others.iter().map(|other| format!("repository:{other}:pull"));
        let mut asked: Vec<(&str, String)> =
            std::iter::once(own).chain(others).map(|own| ("scope", own)).collect();
        asked.extend(parameter(parameters, "service").map(|service| ("service", service)));
        let identity = login.filter(|login| login.is_identity_token());
        if identity.is_none() {
            url.query_pairs_mut().extend_pairs(&asked);
        }
        let mut retries = self.retries();
        loop {
            let mut request = match (identity, login) {
                (Some(identity), _) => self
                    .http
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
                Err(error) => Err(self.unreachable(error)),
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

/// Returns the parameters of a challenge if it has this scheme.
fn strip_scheme<'c>(challenge: &'c str, scheme: &str) -> Option<&'c str> {
    let (name, rest) = challenge.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// Returns the value of `name="value"` in a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let start = parameters.find(&format!("{name}=\""))? + name.len() + 2;
    let rest = &parameters[start..];
    Some(rest[..rest.find('"')?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let challenge = "Bearer realm=\"https://auth.example/token\",service=\"r.example\"";
        let parameters = strip_scheme(challenge, "bearer").unwrap();
        assert_eq!(parameter(parameters, "realm").unwrap(), "https://auth.example/token");
        assert_eq!(parameter(parameters, "service").unwrap(), "r.example");
        assert!(strip_scheme("Basic realm=\"r\"", "bearer").is_none());
    }
}
