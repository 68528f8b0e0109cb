//! The connection to a repository: TLS, requests with the login, and their responses.

use super::RegistryError;
use super::authorization::Authorization;
use super::challenge::Asked;
use super::login::LoginError;
use super::retries::{OnWait, Trouble, retry_after};
use super::saving::LostTime;
use crate::address::{InvalidName, Repository};
use crate::http::{self, Redirects, Through};
use crate::secret::Login;
use crate::tls::load_certificates;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Where Docker keeps the certificate authorities of single registries.
const CERTS_D: &str = "/etc/docker/certs.d";
/// The timeout for probing whether a registry on this machine uses TLS.
const TLS_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest response body, in bytes. Registries limit manifests to 4 MiB.
const MAX_RESPONSE: usize = 8 * 1024 * 1024;

/// Returns a new login after the old one has expired.
pub(crate) type Renew = Arc<dyn Fn() -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// What a client needs for one registry.
#[derive(Clone)]
pub(crate) struct RegistryAccess {
    /// An HTTP client from [`http_client`], which trusts the registry's certificate authority.
    pub(crate) http: reqwest::Client,
    /// The client for exchanging an identity token, from [`exchange_client`]; absent if there is none.
    pub(crate) exchange: Option<reqwest::Client>,
    pub(crate) login: Option<Login>,
    /// Why there is no login, although one is configured.
    pub(crate) problem: Option<LoginError>,
    /// Replaces an expired login.
    pub(crate) renew: Renew,
    /// How long the registry may take to respond.
    pub(crate) timeout: Duration,
    /// How long a call is retried.
    pub(crate) patience: Duration,
    /// Reports waits before retries.
    pub(crate) on_wait: OnWait,
}

/// Returns a client for a registry. It trusts the given authorities and those that Docker is configured with for this
/// host.
pub(crate) fn http_client(host: &str, authorities: Vec<Vec<u8>>) -> Result<reqwest::Client, RegistryError> {
    client(host, authorities, Redirects::Follow)
}

/// Returns a client that follows no redirect, because its requests have the login in their bodies.
pub(crate) fn exchange_client(
    host: &str,
    authorities: Vec<Vec<u8>>,
) -> Result<reqwest::Client, RegistryError> {
    client(host, authorities, Redirects::Refuse)
}

fn client(
    host: &str,
    mut authorities: Vec<Vec<u8>>,
    redirects: Redirects,
) -> Result<reqwest::Client, RegistryError> {
    authorities.extend(load_certificates(&Path::new(CERTS_D).join(host)));
    http::client(&authorities, redirects).map_err(|source| RegistryError::Unreachable {
        host: host.to_owned(),
        through: Through::default(),
        source,
    })
}

/// An authenticated connection to a repository.
pub(crate) struct RepositoryClient {
    pub(super) http: reqwest::Client,
    pub(super) exchange: Option<reqwest::Client>,
    pub(super) base: Url,
    pub(super) repository: Repository,
    /// Other repositories of the registry, from which blobs may be mounted.
    pub(super) others: Vec<String>,
    pub(super) authorization: Mutex<Authorization>,
    pub(super) renew: Renew,
    /// Why there is no login, although one is configured.
    pub(super) problem: Option<LoginError>,
    pub(super) timeout: Duration,
    /// Problems that did not fail the push.
    pub(super) notes: StdMutex<Vec<String>>,
    /// How long a call is retried.
    pub(super) patience: Duration,
    pub(super) on_wait: OnWait,
    /// The end of the wait that was reported last.
    pub(super) waits_until: StdMutex<Option<Instant>>,
    pub(super) lost_time: StdMutex<LostTime>,
}

/// A response with its whole body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The URL of the request, after redirects.
    pub(crate) url: Url,
    headers: HeaderMap,
    pub(crate) body: Bytes,
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
            exchange: access.exchange.clone(),
            base: base(repository.api_host(), "https")?,
            repository: repository.clone(),
            others: others.iter().filter(|other| **other != repository.path).cloned().collect(),
            authorization: Mutex::new(Authorization {
                login: access.login.clone(),
                ..Authorization::default()
            }),
            renew: access.renew.clone(),
            problem: access.problem.clone(),
            timeout: access.timeout,
            notes: StdMutex::default(),
            patience: access.patience,
            on_wait: access.on_wait.clone(),
            waits_until: StdMutex::default(),
            lost_time: StdMutex::default(),
        };
        // Like the docker command, use plain HTTP only for this machine, and only if the registry does not use TLS.
        if is_loopback(&client.base) && !client.supports_tls().await {
            client.base = base(repository.api_host(), "http")?;
        }
        let mut retries = client.retries_at_first_contact();
        while let Err(trouble) = client.ping().await {
            retries.wait(trouble).await?;
        }
        Ok(client)
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
        let answer = request.send().await.map_err(|error| self.unreachable(error, url))?;
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
    pub(super) async fn collect(&self, mut answer: Response) -> Result<Answer, Trouble> {
        let (status, headers, url) = (answer.status(), answer.headers().clone(), answer.url().clone());
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| self.unreachable(error, &url))? {
            body.extend_from_slice(&piece);
            if body.len() > MAX_RESPONSE {
                return Err(self.broken("sent a response that is too large").into());
            }
        }
        let answer = Answer { status, url, headers, body: body.into() };
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            let wait =
                answer.header(RETRY_AFTER.as_str()).and_then(|text| retry_after(text, Timestamp::now()));
            return Err(Trouble::Failed(self.refusal(&answer, "serve"), wait));
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
        if is_registry && answer.headers.contains_key(WWW_AUTHENTICATE) {
            let headers = answer.headers.get_all(WWW_AUTHENTICATE).iter();
            authorization.asked = Asked::read(headers.filter_map(|header| header.to_str().ok()));
        }
        let reason = match (&authorization.header, &self.problem) {
            (Some(_), _) => "the login is not valid".to_owned(),
            (None, Some(problem)) => format!("it requires a login, and {problem}"),
            (None, None) => "it requires a login, and there is none for it".to_owned(),
        };
        Err(Trouble::Login(generation, self.denied(&reason)))
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

    /// The failure of a request to this URL without a response.
    pub(crate) fn unreachable(&self, error: reqwest::Error, url: &Url) -> Trouble {
        let host = if url.origin() == self.base.origin() {
            self.repository.host.clone()
        } else {
            format!("{} (at {})", self.repository.host, url.authority())
        };
        let through = http::through(url);
        let error = if error.is_timeout() {
            RegistryError::Silent { host, through, seconds: self.timeout.as_secs() }
        } else {
            RegistryError::Unreachable { host, through, source: error.without_url() }
        };
        Trouble::Failed(error, None)
    }

    /// Refuses to send logins or layers in clear to another machine. The URL is one that the registry has named.
    pub(crate) fn check_target(&self, url: &Url, what: &str) -> Result<(), RegistryError> {
        let is_local = self.base.scheme() == "http" && url.scheme() == "http" && is_loopback(url);
        if url.scheme() == "https" || is_local {
            return Ok(());
        }
        let target = url.host_str().unwrap_or_default();
        Err(self.broken(format!("asks for {what} over plain HTTP at {target}, where others can read them")))
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join(&format!("{}/{path}", self.repository.path))
            .map_err(|_| invalid_host(&self.repository.host))
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the repositories from which blobs may be mounted.
    pub(crate) fn others(&self) -> &[String] {
        &self.others
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

fn base(host: &str, scheme: &str) -> Result<Url, RegistryError> {
    Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| invalid_host(host))
}

fn invalid_host(host: &str) -> RegistryError {
    InvalidName { what: "registry host", name: host.to_owned() }.into()
}

/// Whether a URL leads to this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // IPv6 addresses are in brackets.
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || ip.is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_limited_to_this_machine() {
        let is_loopback = |host: &str| is_loopback(&base(host, "http").unwrap());
        for own in ["localhost:5000", "LOCALHOST", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in
            ["r.example:127", "127.example.com:80", "[::2]:5000", "localhost.example", "0.0.0.0:5000"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
