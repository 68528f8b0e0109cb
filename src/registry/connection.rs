//! How a registry is spoken to: over TLS or not, with a login that is renewed, and again where that may help. The causes of
//! attempts that failed are kept for the log.

use super::RegistryError;
use crate::address::{InvalidName, Repository};
use crate::secret::{Login, Secret};
use base64::Engine;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long a registry on this machine may take to show that it speaks TLS.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// An answer is not longer, in bytes: registries limit manifests to 4 MiB.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How often a call is made before it fails, which with [`FIRST_WAIT`] and [`LONGEST_WAIT`] takes about a minute.
const ATTEMPTS: u32 = 12;
/// Where the attempts themselves take long, there are only so many of them after this time.
const LONG: Duration = Duration::from_mins(1);
const LONG_ATTEMPTS: u32 = 3;
/// The same for what will hardly change: nobody listens at the first contact, or a blob arrived damaged.
const FEW_ATTEMPTS: u32 = 4;
/// How long the first wait between attempts is; every further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// The longest time that a registry may ask for in `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(2);
/// How often a call logs in anew: calls side by side share a login, and a token may be used up before its turn comes.
const RENEWALS: u32 = 3;
/// Tokens are taken for expired this long before they are.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a token is good for whose service does not say: <https://distribution.github.io/distribution/spec/auth/token/>.
const TOKEN_LIFE: u64 = 60;
const FORM: &str = "application/x-www-form-urlencoded";
/// ECR's words where a repository has as many images as its quota allows, which it says with 403 (aws/containers-roadmap#2159).
const QUOTA: &str = "already has the maximum allowed number of images";

/// Gets a new login where the old one has expired.
pub(crate) type Renew = Arc<dyn Fn() -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// How a registry is spoken to.
#[derive(Clone)]
pub(crate) struct Access {
    /// The client, which trusts the registry's authority.
    pub(crate) http: reqwest::Client,
    /// The login, where there is one.
    pub(crate) login: Option<Login>,
    /// Where another one comes from.
    pub(crate) renew: Renew,
    /// How long the registry may be silent.
    pub(crate) patience: Duration,
}

/// An authenticated connection to a repository.
pub(crate) struct RepositoryClient {
    http: reqwest::Client,
    base: Url,
    repository: Repository,
    /// Further repositories that blobs may be taken from.
    others: Vec<String>,
    authorization: Mutex<Authorization>,
    renew: Renew,
    patience: Duration,
    /// What went wrong before it went well.
    notes: StdMutex<Vec<String>>,
}

/// What the registry gets to see.
#[derive(Default)]
struct Authorization {
    login: Option<Login>,
    header: Option<Secret>,
    /// The registry's own words on how it wants to be spoken to.
    challenge: String,
    expires: Option<Instant>,
    /// How often it has been made anew.
    generation: u64,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer that says something about the call.
pub(crate) enum Trouble {
    /// The login was not accepted; it was of this generation.
    Login(u64, RegistryError),
    /// Anything else. The registry may have said how long to wait.
    Failed(RegistryError, Option<Duration>),
}

/// The error list that registries answer with.
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

/// The answer of a token service.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Attempts of one call.
pub(crate) struct Attempts<'c> {
    client: &'c RepositoryClient,
    pub(crate) failed: u32,
    /// When the first one failed.
    since: Option<Instant>,
    renewals: u32,
    most: u32,
}

impl Attempts<'_> {
    /// Waits for the next attempt, or gives the error back where there is no use in one.
    pub(crate) async fn again(&mut self, trouble: Trouble) -> Result<(), RegistryError> {
        let (error, wait) = match trouble {
            Trouble::Login(generation, error) => {
                if self.renewals >= RENEWALS || !self.client.renew(generation).await? {
                    return Err(error);
                }
                // The first one is what the registry has only now asked for.
                self.renewals += u32::from(generation > 0);
                return Ok(());
            }
            Trouble::Failed(error, wait) => (error, wait),
        };
        self.failed += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        let most = match chance(&error) {
            Chance::None => return Err(error),
            Chance::Small => self.most.min(FEW_ATTEMPTS),
            Chance::Good if since.elapsed() > LONG => self.most.min(LONG_ATTEMPTS),
            Chance::Good => self.most,
        };
        if self.failed >= most {
            return Err(error);
        }
        self.client.note(format!("tried again, because {}", crate::exit::chain(&error)));
        let backoff = (FIRST_WAIT * 2_u32.saturating_pow(self.failed - 1)).min(LONGEST_WAIT);
        tokio::time::sleep(wait.map_or_else(|| jittered(backoff), |wait| wait.min(LONGEST_RETRY_AFTER)))
            .await;
        // A token may have gone while this took its time.
        self.renewals = 0;
        Ok(())
    }
}

/// Whether the same call may succeed a moment later.
enum Chance {
    None,
    Small,
    Good,
}

fn chance(error: &RegistryError) -> Chance {
    match error {
        RegistryError::Unreachable { .. } | RegistryError::Silent { .. } => Chance::Good,
        RegistryError::Refused { status: 408 | 425 | 429 | 500 | 502 | 503 | 504, .. } => Chance::Good,
        RegistryError::Refused { code, .. } => match code.as_str() {
            "TOOMANYREQUESTS" => Chance::Good,
            // The upload was lost or damaged on its way; the next one begins anew.
            "BLOB_UPLOAD_UNKNOWN"
            | "BLOB_UPLOAD_INVALID"
            | "DIGEST_INVALID"
            | "SIZE_INVALID"
            | "RANGE_INVALID"
            | "MANIFEST_INVALID"
            | "MANIFEST_BLOB_UNKNOWN" => Chance::Small,
            _ => Chance::None,
        },
        _ => Chance::None,
    }
}

/// A time between three and five quarters of this, so that many clients do not come back at once.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness all come back at the same time.
    let _ = aws_lc_rs::rand::fill(&mut random);
    time * (384 + u32::from(random[0])) / 512
}

impl RepositoryClient {
    /// Asks the registry how it wants to be spoken to and logs in. Blobs may later be taken from the `others`, which are
    /// repositories of the same registry.
    pub(crate) async fn connect(
        access: &Access,
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
            patience: access.patience,
            notes: StdMutex::default(),
        };
        // As the docker command does, plain HTTP is spoken only on this machine, and only where TLS is not.
        if is_loopback(&repository.host) && !client.speaks_tls().await {
            client.base = base(repository.api_host(), "http")?;
        }
        let mut attempts = Attempts { most: FEW_ATTEMPTS, ..client.attempts() };
        while let Err(trouble) = client.ping().await {
            attempts.again(trouble).await?;
        }
        Ok(client)
    }

    pub(crate) fn attempts(&self) -> Attempts<'_> {
        Attempts { client: self, failed: 0, since: None, renewals: 0, most: ATTEMPTS }
    }

    /// Keeps what went wrong without failing the push.
    pub(crate) fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// What went wrong before it went well, or before it did not: each cause once.
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

    async fn speaks_tls(&self) -> bool {
        self.http.get(self.base.clone()).timeout(HANDSHAKE).send().await.is_ok()
    }

    async fn ping(&self) -> Result<(), Trouble> {
        self.once(Method::GET, &self.base, |request| request).await.map(drop)
    }

    /// Sends one request, and reads the whole answer. What it is about the login is trouble, and so is an answer that says to
    /// come again.
    pub(crate) async fn once(
        &self,
        method: Method,
        url: &Url,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Trouble> {
        let is_head = method == Method::HEAD;
        let (request, generation) = self.request(method, url).await?;
        let request = more(request).timeout(self.patience);
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
            // An upload may be sent to another host, which must not see the login.
            Some(header) if url.origin() == self.base.origin() => {
                (request.header(AUTHORIZATION, header.expose()), generation)
            }
            _ => (request, generation),
        })
    }

    /// Reads an answer to its end.
    async fn collect(&self, mut answer: Response) -> Result<Answer, Trouble> {
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_ANSWER {
                return Err(self.denied("its answer has no end").into());
            }
        }
        let answer = Answer { status, headers, body: body.into() };
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            let wait = answer.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
            return Err(Trouble::Failed(self.refusal(&answer, "serve"), wait.map(Duration::from_secs)));
        }
        Ok(answer)
    }

    /// The same for a request with a login of that generation, which may not be accepted any more.
    pub(crate) async fn read(
        &self,
        answer: Response,
        generation: u64,
        is_head: bool,
    ) -> Result<Answer, Trouble> {
        // An upload may have led to another host, which has no say in what the registry's login is for.
        let is_registry = answer.url().origin() == self.base.origin();
        let answer = self.collect(answer).await?;
        // ECR says so with 403, and in words that an answer to HEAD has no room for.
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
            if had_one { "the login is not valid" } else { "it wants a login, and there is none for it" };
        Err(Trouble::Login(generation, self.denied(reason)))
    }

    /// Sends a request until there is an answer to it.
    pub(crate) async fn call(
        &self,
        method: Method,
        url: &Url,
        more: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, RegistryError> {
        let mut attempts = self.attempts();
        loop {
            match self.once(method.clone(), url, &more).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => attempts.again(trouble).await?,
            }
        }
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> Trouble {
        let host = self.repository.host.clone();
        let error = if error.is_timeout() {
            RegistryError::Silent { host, seconds: self.patience.as_secs() }
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

    /// Logs in anew, unless somebody else has done so since that generation. The answer is whether there is another login.
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
            return Err(self.denied("its token service does not accept the login"));
        }
        let answer: Option<TokenAnswer> = serde_json::from_slice(&answer.body).ok();
        let life = answer.as_ref().and_then(|answer| answer.expires_in).unwrap_or(TOKEN_LIFE);
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.ok_or_else(|| self.denied("its token service gave no token"))?;
        authorization.header = Some(Secret::new(format!("Bearer {token}")));
        authorization.expires =
            Some(Instant::now() + Duration::from_secs(life).saturating_sub(MARGIN).max(MARGIN));
        authorization.generation += 1;
        Ok(true)
    }

    /// Asks the token service that the registry's challenge names.
    async fn token(&self, parameters: &str, login: Option<&Login>) -> Result<Answer, RegistryError> {
        let realm = parameter(parameters, "realm").unwrap_or_default();
        let mut url =
            Url::parse(&realm).map_err(|_| self.denied("its token service has no valid address"))?;
        if self.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.denied("its token service wants the login in clear"));
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
        let mut attempts = self.attempts();
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
            request = request.timeout(self.patience);
            let answer = match request.send().await {
                Ok(answer) => self.collect(answer).await,
                Err(error) => Err(self.unreachable(error)),
            };
            let trouble = match answer {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            Box::pin(attempts.again(trouble)).await?;
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

    /// The repository that this is.
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The repositories that blobs may be taken from.
    pub(crate) fn others(&self) -> &[String] {
        &self.others
    }

    /// The address of the registry's API.
    pub(crate) fn base(&self) -> &Url {
        &self.base
    }

    /// How long the registry may be silent.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
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

/// The form that exchanges an identity token: <https://distribution.github.io/distribution/spec/auth/oauth/>.
fn exchange(service: &Url, asked: &[(&str, String)], identity: &Login) -> String {
    // Several scopes are one value here.
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

/// What follows the scheme's name in a challenge, if it is that scheme's.
fn strip_scheme<'c>(challenge: &'c str, scheme: &str) -> Option<&'c str> {
    let (name, rest) = challenge.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// A `name="value"` of a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let start = parameters.find(&format!("{name}=\""))? + name.len() + 2;
    let rest = &parameters[start..];
    Some(rest[..rest.find('"')?].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let challenge = "Bearer realm=\"https://auth.example/token\",service=\"r.example\"";
        let parameters = strip_scheme(challenge, "bearer").unwrap();
        assert_eq!(parameter(parameters, "realm").unwrap(), "https://auth.example/token");
        assert_eq!(parameter(parameters, "service").unwrap(), "r.example");
        assert!(strip_scheme("Basic realm=\"r\"", "bearer").is_none());
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_clear() {
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1"));
        assert!(!is_loopback("r.example:127") && !is_loopback("127.example.com:80"));
    }
}
