//! One repository of a registry over HTTP: authentication, and the calls that a push is made of. A call that may succeed a moment
//! later is made again, and its cause is kept for the log.

use super::RegistryError;
use super::manifest::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, Stored, digest_of};
use crate::address::{InvalidName, Repository};
use crate::secret::{Login, Secret};
use base64::Engine;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::io::ReaderStream;

/// The media types of what a tag may stand for.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The header in which a registry names what it serves.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// How long a registry on this machine may take to show that it speaks TLS.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 256 * 1024;
/// An answer is not longer, in bytes: registries limit manifests to 4 MiB.
const MAX_ANSWER: usize = 8 * 1024 * 1024;
/// How often a call is made before it fails, which with [`FIRST_WAIT`] and [`LONGEST_WAIT`] takes about a minute.
const ATTEMPTS: u32 = 12;
/// The same for what will hardly change: nobody listens at the first contact, or a blob arrived damaged.
const FEW_ATTEMPTS: u32 = 4;
/// How long the first wait between attempts is; every further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// The longest time that a registry may ask for in `Retry-After`.
const LONGEST_RETRY_AFTER: Duration = Duration::from_mins(2);
/// How fast a registry works through a blob at least, before it answers, in bytes per second.
const DIGESTING: u64 = 20_000_000;
/// How often a call logs in anew: calls side by side share a login, and a token may be used up before its turn comes.
const RENEWALS: u32 = 3;
/// Tokens are taken for expired this long before they are.
const MARGIN: Duration = Duration::from_secs(10);
/// How long a token is good for whose service does not say: <https://distribution.github.io/distribution/spec/auth/token/>.
const TOKEN_LIFE: u64 = 60;

/// Gets a new login where the old one has expired.
pub type Renew = Arc<dyn Fn() -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// How a registry is spoken to.
#[derive(Clone)]
pub struct Access {
    /// The client, which trusts the registry's authority.
    pub http: reqwest::Client,
    /// The login, where there is one.
    pub login: Option<Login>,
    /// Where another one comes from.
    pub renew: Renew,
    /// How long the registry may be silent.
    pub patience: Duration,
}

/// An authenticated connection to a repository.
pub struct RepositoryClient {
    http: reqwest::Client,
    base: Url,
    repository: Repository,
    /// Further repositories that blobs may be taken from.
    others: Vec<String>,
    authorization: Mutex<Authorization>,
    renew: Renew,
    patience: Duration,
    /// What went wrong before it went well.
    retries: StdMutex<Vec<String>>,
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

/// A whole answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Why there is no answer that says something about the call.
enum Trouble {
    /// The login was not accepted; it was of this generation.
    Login(u64, RegistryError),
    /// Anything else. The registry may have said how long to wait.
    Failed(RegistryError, Option<Duration>),
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// The repository had it.
    Present,
    /// Another repository had it.
    Mounted,
    /// It was sent.
    Sent,
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

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

/// Attempts of one call.
struct Attempts<'c> {
    client: &'c RepositoryClient,
    failed: u32,
    renewals: u32,
    most: u32,
}

impl Attempts<'_> {
    /// Waits for the next attempt, or gives the error back where there is no use in one.
    async fn again(&mut self, trouble: Trouble) -> Result<(), RegistryError> {
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
        let most = match chance(&error) {
            Chance::None => return Err(error),
            Chance::Small => self.most.min(FEW_ATTEMPTS),
            Chance::Good => self.most,
        };
        if self.failed >= most {
            return Err(error);
        }
        self.client.failed(crate::exit::chain(&error));
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
            | "RANGE_INVALID" => Chance::Small,
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
    pub async fn connect(
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
            retries: StdMutex::default(),
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

    fn attempts(&self) -> Attempts<'_> {
        Attempts { client: self, failed: 0, renewals: 0, most: ATTEMPTS }
    }

    /// Keeps the cause of an attempt that failed, and is followed by another one.
    pub(super) fn failed(&self, cause: String) {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).push(cause);
    }

    /// The causes of the attempts that failed so far, of what succeeded later.
    pub fn retries(&self) -> Vec<String> {
        std::mem::take(&mut self.retries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn speaks_tls(&self) -> bool {
        self.http.get(self.base.clone()).timeout(HANDSHAKE).send().await.is_ok()
    }

    async fn ping(&self) -> Result<(), Trouble> {
        self.once(Method::GET, &self.base, |request| request).await.map(drop)
    }

    /// Sends one request, and reads the whole answer. What it is about the login is trouble, and so is an answer that says to
    /// come again.
    async fn once(
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

    async fn request(&self, method: Method, url: &Url) -> Result<(RequestBuilder, u64), Trouble> {
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
    async fn read(&self, answer: Response, generation: u64, is_head: bool) -> Result<Answer, Trouble> {
        let answer = self.collect(answer).await?;
        // ECR says so with 403, and in words that an answer to HEAD has no room for.
        let expired =
            is_head || String::from_utf8_lossy(&answer.body).contains("authorization token has expired");
        if answer.status != StatusCode::UNAUTHORIZED && !(answer.status == StatusCode::FORBIDDEN && expired) {
            return Ok(answer);
        }
        let mut authorization = self.authorization.lock().await;
        if let Some(challenge) = answer.header(WWW_AUTHENTICATE.as_str()) {
            challenge.clone_into(&mut authorization.challenge);
        }
        let had_one = authorization.header.is_some();
        let reason =
            if had_one { "the login is not valid" } else { "it wants a login, and there is none for it" };
        Err(Trouble::Login(generation, self.denied(reason)))
    }

    /// Sends a request until there is an answer to it.
    async fn call(
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

    fn unreachable(&self, error: reqwest::Error) -> Trouble {
        let host = self.repository.host.clone();
        let error = if error.is_timeout() {
            RegistryError::Silent { host, seconds: self.patience.as_secs() }
        } else {
            RegistryError::Unreachable { host, source: error.without_url() }
        };
        Trouble::Failed(error, None)
    }

    fn denied(&self, reason: &str) -> RegistryError {
        RegistryError::Denied { host: self.repository.host.clone(), reason: reason.to_owned() }
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
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
        if let Some(service) = parameter(parameters, "service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let own = format!("repository:{}:pull,push", self.repository.path);
        let others = self.others.iter().map(|other| format!("repository:{other}:pull"));
        for scope in std::iter::once(own).chain(others) {
            url.query_pairs_mut().append_pair("scope", &scope);
        }
        let mut attempts = self.attempts();
        loop {
            let mut request = self.http.get(url.clone()).timeout(self.patience);
            if let Some(login) = login {
                request = request.header(AUTHORIZATION, basic(login).expose());
            }
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

    /// Whether the repository has a blob.
    pub(super) async fn has_blob(&self, digest: &str) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        match self.call(Method::HEAD, &url, |request| request).await {
            Ok(answer) => Ok(answer.status.is_success()),
            // An answer to HEAD has no room for the reason. The next call asks for more, and its answer has.
            Err(RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a blob over from another repository of the registry, where both allow it.
    pub(super) async fn mount(&self, digest: &str) -> Result<bool, RegistryError> {
        for other in &self.others {
            let mut url = self.url("blobs/uploads/")?;
            url.query_pairs_mut().append_pair("mount", digest).append_pair("from", other);
            let answer = self.call(Method::POST, &url, |request| request.header(CONTENT_LENGTH, 0)).await?;
            if answer.status == StatusCode::CREATED {
                return Ok(true);
            }
            // It has begun an upload instead, which is not wanted.
            if let Some(url) = self.location(&answer) {
                let _ = self.once(Method::DELETE, &url, |request| request).await;
            }
        }
        Ok(false)
    }

    /// Brings a blob into the repository, in one piece: ECR loses what comes in a second chunk. `sent` counts the bytes.
    pub(super) async fn upload(
        &self,
        blob: &Descriptor,
        path: &Path,
        sent: &AtomicU64,
    ) -> Result<Uploaded, RegistryError> {
        let mut attempts = self.attempts();
        let mut mounted = false;
        loop {
            // Asked every time: an answer may have been lost, and not the blob.
            if self.has_blob(&blob.digest).await? {
                let done = if attempts.failed > 0 { Uploaded::Sent } else { Uploaded::Present };
                return Ok(done);
            }
            if !std::mem::replace(&mut mounted, true) && self.mount(&blob.digest).await? {
                return Ok(Uploaded::Mounted);
            }
            let before = sent.load(Ordering::Relaxed);
            match self.put_blob(blob, path, sent).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(trouble) => {
                    sent.store(before, Ordering::Relaxed);
                    attempts.again(trouble).await?;
                }
            }
        }
    }

    async fn put_blob(&self, blob: &Descriptor, path: &Path, sent: &AtomicU64) -> Result<(), Trouble> {
        let url = self.url("blobs/uploads/").map_err(Trouble::from)?;
        let answer = self.once(Method::POST, &url, |request| request.header(CONTENT_LENGTH, 0)).await?;
        let answer = self.check(answer, "start an upload")?;
        let mut url =
            self.location(&answer).ok_or_else(|| self.denied("it gave no address for the upload"))?;
        if self.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.denied("it wants the layers in clear").into());
        }
        url.query_pairs_mut().append_pair("digest", &blob.digest);
        let file = tokio::fs::File::open(path).await.map_err(RegistryError::file(path))?;
        let counted = Arc::new(AtomicU64::new(0));
        let counter = counted.clone();
        let body = ReaderStream::with_capacity(file, CHUNK).inspect_ok(move |piece| {
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        });
        let (request, generation) = self.request(Method::PUT, &url).await?;
        let request = request
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(reqwest::Body::wrap_stream(body));
        let mut sending = pin!(async {
            let answer = request.send().await.map_err(|error| self.unreachable(error))?;
            self.read(answer, generation, false).await
        });
        // As long as bytes flow there is no hurry; when all are there, the registry has to go through them.
        let mut told = 0;
        let answer = loop {
            let seen = counted.load(Ordering::Relaxed);
            let digesting =
                if seen >= blob.size { Duration::from_secs(blob.size / DIGESTING) } else { Duration::ZERO };
            let answer = tokio::time::timeout(self.patience + digesting, &mut sending).await;
            let now = counted.load(Ordering::Relaxed);
            sent.fetch_add(now - told, Ordering::Relaxed);
            told = now;
            match answer {
                Ok(answer) => break answer?,
                Err(_) if now > seen => {}
                Err(_) => {
                    let (host, seconds) = (self.repository.host.clone(), self.patience.as_secs());
                    return Err(RegistryError::Silent { host, seconds }.into());
                }
            }
        };
        self.check(answer, "store a layer")?;
        Ok(())
    }

    /// The address that an answer sends to.
    fn location(&self, answer: &Answer) -> Option<Url> {
        answer.header(LOCATION.as_str()).and_then(|location| self.base.join(location).ok())
    }

    /// Puts a manifest under a tag or its own digest.
    pub(super) async fn put_manifest(&self, name: &str, manifest: &Stored) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let body = Bytes::from(manifest.bytes.clone());
        let more =
            |request: RequestBuilder| request.header(CONTENT_TYPE, manifest.media_type).body(body.clone());
        let answer = self.call(Method::PUT, &url, more).await?;
        self.check(answer, &format!("store the tag `{name}`"))?;
        Ok(())
    }

    /// A manifest by tag or digest; nothing where there is none.
    pub(super) async fn manifest(&self, name: &str) -> Result<Option<Stored>, RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let answer = self.call(Method::GET, &url, |request| request.header(ACCEPT, ACCEPTED)).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let media_type = match answer.header(CONTENT_TYPE.as_str()) {
            Some(INDEX_TYPE) => INDEX_TYPE,
            _ => MANIFEST_TYPE,
        };
        Ok(Some(Stored { digest: digest_of(&answer.body), bytes: answer.body.to_vec(), media_type }))
    }

    /// A small blob; nothing where there is none.
    pub(super) async fn blob(&self, digest: &str) -> Result<Option<Bytes>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let answer = self.call(Method::GET, &url, |request| request).await?;
        Ok(answer.status.is_success().then_some(answer.body))
    }

    /// Some of the repository's tags, in the order that the registry gives them.
    pub(super) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let answer = self.call(Method::GET, &self.url("tags/list")?, |request| request).await?;
        let list: Option<TagList> = serde_json::from_slice(&answer.body).ok();
        Ok(list.and_then(|list| list.tags).unwrap_or_default())
    }

    /// The digest that a tag stands for; nothing where there is no such tag.
    pub async fn tag_digest(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let answer = self.call(Method::HEAD, &url, |request| request.header(ACCEPT, ACCEPTED)).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        if let Some(digest) = answer.header(CONTENT_DIGEST) {
            return Ok(Some(digest.to_owned()));
        }
        // The header is optional in the specification; the manifest itself always tells.
        Ok(self.manifest(tag).await?.map(|manifest| manifest.digest))
    }

    fn check(&self, answer: Answer, doing: &str) -> Result<Answer, RegistryError> {
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
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error, None)
    }
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
    name == "localhost" || name.starts_with("127.") || name == "[::1]"
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
        assert!(!is_loopback("r.example:127"));
    }
}
