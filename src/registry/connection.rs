//! The connection to a repository: TLS, authentication with renewal, and retries. The causes of retries are kept for
//! the log.

use super::RegistryError;
use crate::address::{InvalidName, Repository};
use crate::backoff::Backoff;
use crate::http::{self, Redirects};
use crate::secret::{Login, Secret};
use crate::tls::load_certificates;
use base64::Engine;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Where Docker keeps the certificate authorities of single registries.
const CERTS_D: &str = "/etc/docker/certs.d";
/// The timeout for probing whether a registry on this machine uses TLS.
const TLS_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest response body, in bytes. Registries limit manifests to 4 MiB.
const MAX_RESPONSE: usize = 8 * 1024 * 1024;
/// The number of attempts of a call. With [`BACKOFF`] they take about a minute.
const MAX_ATTEMPTS: u32 = 12;
/// The number of attempts once a call has been failing for [`SLOW_AFTER`], because the attempts themselves are slow.
const MAX_SLOW_ATTEMPTS: u32 = 3;
const SLOW_AFTER: Duration = Duration::from_mins(1);
/// The number of attempts if a retry hardly helps: no response at first contact, or a blob that arrived damaged.
const MAX_DOUBTFUL_ATTEMPTS: u32 = 4;
/// The delays between attempts.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), factor: 2.0, maximum: Duration::from_secs(8), jitter: 0.25 };
/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// How often one call renews the login. Parallel calls share a login, and a token may expire while a call waits.
const MAX_RENEWALS: u32 = 3;
/// Tokens are renewed this long before they expire.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);
/// The lifetime of a token, in seconds, if the token service does not return one:
/// <https://distribution.github.io/distribution/spec/auth/token/>.
const TOKEN_LIFETIME: u64 = 60;
const FORM: &str = "application/x-www-form-urlencoded";
/// Part of ECR's message if a repository has reached its image quota. Its status is 403 (aws/containers-roadmap#2159).
const QUOTA: &str = "already has the maximum allowed number of images";

/// Returns a new login after the old one has expired.
pub(crate) type Renew = Arc<dyn Fn() -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// What a client needs for one registry.
#[derive(Clone)]
pub(crate) struct RegistryAccess {
    /// An HTTP client from [`http_client`], which trusts the registry's certificate authority.
    pub(crate) http: reqwest::Client,
    pub(crate) login: Option<Login>,
    /// Replaces an expired login.
    pub(crate) renew: Renew,
    /// How long the registry may take to respond.
    pub(crate) timeout: Duration,
}

/// Returns a client for a registry. It trusts the given authorities and those that Docker is configured with for this
/// host.
pub(crate) fn http_client(
    host: &str,
    mut authorities: Vec<Vec<u8>>,
) -> Result<reqwest::Client, RegistryError> {
    authorities.extend(load_certificates(&Path::new(CERTS_D).join(host)));
    http::client(&authorities, Redirects::Follow)
        .map_err(|source| RegistryError::Unreachable { host: host.to_owned(), source })
}

/// An authenticated connection to a repository.
pub(crate) struct RepositoryClient {
    http: reqwest::Client,
    base: Url,
    repository: Repository,
    /// Other repositories of the registry, from which blobs may be mounted.
    others: Vec<String>,
    authorization: Mutex<Authorization>,
    renew: Renew,
    timeout: Duration,
    /// Problems that did not fail the push.
    notes: StdMutex<Vec<String>>,
}

/// The state of authentication.
#[derive(Default)]
struct Authorization {
    login: Option<Login>,
    header: Option<Secret>,
    /// The registry's last `WWW-Authenticate` header.
    challenge: String,
    expires: Option<Instant>,
    /// How often the header has been renewed.
    generation: u64,
}

/// A response with its whole body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A failed attempt that may be retried.
pub(crate) enum Trouble {
    /// The registry rejected the login of this generation.
    Login(u64, RegistryError),
    /// Any other failure, with the delay of `Retry-After`.
    Failed(RegistryError, Option<Duration>),
}

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

/// The response of a token service.
#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The retries of one call.
pub(crate) struct Retries<'c> {
    client: &'c RepositoryClient,
    /// The number of failed attempts.
    pub(crate) failed: u32,
    /// When the first attempt failed.
    since: Option<Instant>,
    renewals: u32,
    max_attempts: u32,
}

impl Retries<'_> {
    /// Waits until the next attempt, or returns the error if a retry is useless.
    pub(crate) async fn wait(&mut self, trouble: Trouble) -> Result<(), RegistryError> {
        let (error, retry_after) = match trouble {
            Trouble::Login(generation, error) => {
                if self.renewals >= MAX_RENEWALS || !self.client.renew(generation).await? {
                    return Err(error);
                }
                // The first login is not a renewal: the registry has only now asked for one.
                self.renewals += u32::from(generation > 0);
                return Ok(());
            }
            Trouble::Failed(error, retry_after) => (error, retry_after),
        };
        self.failed += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let max_attempts = match retry(&error) {
            RetryChance::Hopeless => return Err(error),
            RetryChance::Doubtful => self.max_attempts.min(MAX_DOUBTFUL_ATTEMPTS),
            RetryChance::Likely if since.elapsed() > SLOW_AFTER => self.max_attempts.min(MAX_SLOW_ATTEMPTS),
            RetryChance::Likely => self.max_attempts,
        };
        if self.failed >= max_attempts {
            return Err(error);
        }
        self.client.note(format!("tried again, because {}", crate::exit::chain(&error)));
        let delay = retry_after.map_or_else(|| BACKOFF.delay(self.failed), |wait| wait.min(MAX_RETRY_AFTER));
        tokio::time::sleep(delay).await;
        // The token may have expired in the meantime.
        self.renewals = 0;
        Ok(())
    }
}

/// Whether a retry after an error may succeed.
enum RetryChance {
    Hopeless,
    Doubtful,
    Likely,
}

fn retry(error: &RegistryError) -> RetryChance {
    match error {
        RegistryError::Unreachable { .. } | RegistryError::Silent { .. } => RetryChance::Likely,
        RegistryError::Refused { status: 408 | 425 | 429 | 500 | 502 | 503 | 504, .. } => RetryChance::Likely,
        RegistryError::Refused { code, .. } => match code.as_str() {
            "TOOMANYREQUESTS" => RetryChance::Likely,
            // The upload was lost or damaged in transit. A retry starts a new one.
            "BLOB_UPLOAD_UNKNOWN"
            | "BLOB_UPLOAD_INVALID"
            | "DIGEST_INVALID"
            | "SIZE_INVALID"
            | "RANGE_INVALID"
            | "MANIFEST_INVALID"
            | "MANIFEST_BLOB_UNKNOWN" => RetryChance::Doubtful,
            _ => RetryChance::Hopeless,
        },
        _ => RetryChance::Hopeless,
    }
}

impl RepositoryClient {
    /// Connects to the registry and logs in. Blobs may later be mounted from `others`, which are repositories of the
    /// same registry.
    pub(crate) async fn connect(
        access: &RegistryAccess,
        repository: &Repository,
        others: &[String],
    ) -> Result<Self, RegistryError> {
        let mut client = Self {
            http: access.http.clone(),
            base: base(repository.api_host(), "https")?,
            repository: repository.clone(),
            others: others.iter().filter(|other| **other != repository.path).cloned().collect(),
            authorization: Mutex::new(Authorization {
                login: access.login.clone(),
                ..Authorization::default()
            }),
            renew: access.renew.clone(),
            timeout: access.timeout,
            notes: StdMutex::default(),
        };
        // Like the docker command, use plain HTTP only for this machine, and only if the registry does not use TLS.
        if is_loopback(&repository.host) && !client.supports_tls().await {
            client.base = base(repository.api_host(), "http")?;
        }
        let mut retries = Retries { max_attempts: MAX_DOUBTFUL_ATTEMPTS, ..client.retries() };
        while let Err(trouble) = client.ping().await {
            retries.wait(trouble).await?;
        }
        Ok(client)
    }

    pub(crate) fn retries(&self) -> Retries<'_> {
        Retries { client: self, failed: 0, since: None, renewals: 0, max_attempts: MAX_ATTEMPTS }
    }

    /// Records a problem that does not fail the push.
    pub(crate) fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Takes the recorded problems, each once with its count.
    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        let mut counted: Vec<(String, usize)> = Vec::new();
        for note in notes {
            match counted.iter_mut().find(|(known, _)| *known == note) {
                Some((_, times)) => *times += 1,
                None => counted.push((note, 1)),
            }
        }
        let line = |(note, times): (String, usize)| match times {
            1 => note,
            times => format!("{times} times {note}"),
        };
        counted.into_iter().map(line).collect()
    }

    async fn supports_tls(&self) -> bool {
        self.http.get(self.base.clone()).timeout(TLS_PROBE_TIMEOUT).send().await.is_ok()
    }

    async fn ping(&self) -> Result<(), Trouble> {
        self.once(Method::GET, &self.base, |request| request).await.map(drop)
    }

    /// Sends one request and reads the whole response. Returns [`Trouble`] for authentication failures and for
    /// responses that ask the client to retry.
    pub(crate) async fn once(
        &self,
        method: Method,
        url: &Url,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Trouble> {
        let is_head = method == Method::HEAD;
        let (request, generation) = self.request(method, url).await?;
        let request = more(request).timeout(self.timeout);
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.read(answer, generation, is_head).await
    }

    pub(crate) async fn request(&self, method: Method, url: &Url) -> Result<(RequestBuilder, u64), Trouble> {
        let request = self.http.request(method, url.clone());
        let authorization = self.authorization.lock().await;
        let generation = authorization.generation;
        if authorization.expires.is_some_and(|expires| Instant::now() > expires) {
            return Err(Trouble::Login(generation, self.denied("the token has expired")));
        }
        Ok(match &authorization.header {
            // An upload may be redirected to another host, which must not see the login.
            Some(header) if url.origin() == self.base.origin() => {
                (request.header(AUTHORIZATION, header.expose()), generation)
            }
            _ => (request, generation),
        })
    }

    /// Reads a whole response.
    async fn collect(&self, mut answer: Response) -> Result<Answer, Trouble> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_RESPONSE {
                return Err(self.denied("its response is too large").into());
            }
        }
        let answer = Answer { status, headers, body: body.into() };
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            let wait = answer.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
            return Err(Trouble::Failed(self.refusal(&answer, "serve"), wait.map(Duration::from_secs)));
        }
        Ok(answer)
    }

    /// Reads the response to a request with a login of this generation, which the registry may reject.
    pub(crate) async fn read(
        &self,
        answer: Response,
        generation: u64,
        is_head: bool,
    ) -> Result<Answer, Trouble> {
        // An upload may have been redirected to another host, whose challenge is not meant for the registry's login.
        let is_registry = answer.url().origin() == self.base.origin();
        let answer = self.collect(answer).await?;
        // ECR reports an expired token with 403 and a message. A response to HEAD has no body for it.
        let expired =
            is_head || String::from_utf8_lossy(&answer.body).contains("authorization token has expired");
        if answer.status != StatusCode::UNAUTHORIZED && !(answer.status == StatusCode::FORBIDDEN && expired) {
            return Ok(answer);
        }
        let mut authorization = self.authorization.lock().await;
        if let Some(challenge) = answer.header(WWW_AUTHENTICATE.as_str()).filter(|_| is_registry) {
            challenge.clone_into(&mut authorization.challenge);
        }
        let had_one = authorization.header.is_some();
        let reason =
            if had_one { "the login is not valid" } else { "it requires a login, and there is none for it" };
        Err(Trouble::Login(generation, self.denied(reason)))
    }

    /// Sends a request, with retries.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &Url,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, RegistryError> {
        let mut retries = self.retries();
        loop {
            match self.once(method.clone(), url, &more).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => retries.wait(trouble).await?,
            }
        }
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> Trouble {
        let host = self.repository.host.clone();
        let error = if error.is_timeout() {
            RegistryError::Silent { host, seconds: self.timeout.as_secs() }
        } else {
            RegistryError::Unreachable { host, source: error.without_url() }
        };
        Trouble::Failed(error, None)
    }

    pub(crate) fn denied(&self, reason: &str) -> RegistryError {
        RegistryError::Denied { host: self.repository.host.clone(), reason: reason.to_owned() }
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join(&format!("{}/{path}", self.repository.path))
            .map_err(|_| invalid_host(&self.repository.host))
    }

    /// Renews the login, unless a parallel call has already replaced this generation. Returns whether there is a new
    /// one.
    async fn renew(&self, generation: u64) -> Result<bool, RegistryError> {
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

    pub(crate) fn check(&self, answer: Answer, doing: &str) -> Result<Answer, RegistryError> {
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer, doing)) }
    }

    fn refusal(&self, answer: &Answer, doing: &str) -> RegistryError {
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

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the repositories from which blobs may be mounted.
    pub(crate) fn others(&self) -> &[String] {
        &self.others
    }

    /// Returns the URL of the registry's API.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// Returns how long the registry may take to respond.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error, None)
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

fn base(host: &str, scheme: &str) -> Result<Url, RegistryError> {
    Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| invalid_host(host))
}

fn invalid_host(host: &str) -> RegistryError {
    InvalidName { what: "registry host", name: host.to_owned() }.into()
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name == "[::1]" || name.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
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

    #[test]
    fn plain_http_is_limited_to_this_machine() {
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1"));
        assert!(!is_loopback("r.example:127") && !is_loopback("127.example.com:80"));
    }
}
