//! One repository of a registry over HTTP: authentication and the calls that a push is made of.

use super::RegistryError;
use super::convert::{MANIFEST_TYPE, digest_of};
use crate::address::{InvalidName, Repository};
use crate::secret::{Login, Secret};
use base64::Engine;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// The media types of images that a tag may stand for.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The header in which a registry names what it serves.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// How long a call may take that carries no blob.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a registry on this machine may take to show that it speaks TLS.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 256 * 1024;

/// An authenticated connection to a repository.
#[derive(Debug)]
pub(super) struct RepositoryClient {
    http: reqwest::Client,
    base: Url,
    repository: Repository,
    authorization: Option<Secret>,
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
}

impl RepositoryClient {
    /// Asks the registry how it wants to be spoken to and logs in.
    pub(super) async fn connect(
        http: &reqwest::Client,
        repository: &Repository,
        login: Option<&Login>,
    ) -> Result<Self, RegistryError> {
        let mut client = Self {
            http: http.clone(),
            base: base(repository.api_host(), "https")?,
            repository: repository.clone(),
            authorization: None,
        };
        // As the docker command does, plain HTTP is spoken only on this machine, and only where TLS is not.
        let answer = if is_loopback(&repository.host) && !client.speaks_tls().await {
            client.base = base(repository.api_host(), "http")?;
            client.ping().await?
        } else {
            client.ping().await?
        };
        if answer.status() == StatusCode::UNAUTHORIZED {
            client.authorization = Some(client.authorize(&answer, login).await?);
            let answer = client.ping().await?;
            if answer.status() == StatusCode::UNAUTHORIZED {
                return Err(client.denied("the login is not valid"));
            }
        }
        Ok(client)
    }

    async fn speaks_tls(&self) -> bool {
        self.request(Method::GET, &self.base).timeout(HANDSHAKE).send().await.is_ok()
    }

    async fn ping(&self) -> Result<Response, RegistryError> {
        self.send(self.request(Method::GET, &self.base)).await
    }

    fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        let mut request = self.http.request(method, url.clone());
        // An upload may be sent to another host, which must not see the login.
        if let Some(authorization) =
            self.authorization.as_ref().filter(|_| url.origin() == self.base.origin())
        {
            request = request.header(AUTHORIZATION, authorization.expose());
        }
        request
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        request.timeout(PATIENCE).send().await.map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: reqwest::Error) -> RegistryError {
        RegistryError::Unreachable { host: self.repository.host.clone(), source: error.without_url() }
    }

    fn denied(&self, reason: &str) -> RegistryError {
        RegistryError::Denied { host: self.repository.host.clone(), reason: reason.to_owned() }
    }

    fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join(&format!("{}/{path}", self.repository.path))
            .map_err(|_| invalid_host(&self.repository.host))
    }

    /// The `Authorization` header that the registry's challenge asks for.
    async fn authorize(&self, answer: &Response, login: Option<&Login>) -> Result<Secret, RegistryError> {
        let challenge =
            answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let basic = login.map(|login| {
            let pair = format!("{}:{}", login.user, login.password.expose());
            Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        });
        let Some(parameters) = strip_scheme(challenge, "bearer") else {
            return basic.ok_or_else(|| self.denied("it wants a login, and there is none for it"));
        };
        let realm = parameter(parameters, "realm").unwrap_or_default();
        let mut url =
            Url::parse(&realm).map_err(|_| self.denied("its token service has no valid address"))?;
        if let Some(service) = parameter(parameters, "service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let scope = format!("repository:{}:pull,push", self.repository.path);
        url.query_pairs_mut().append_pair("scope", &scope);
        let mut request = self.http.get(url);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic.expose());
        }
        let answer = self.send(request).await?;
        if !answer.status().is_success() {
            return Err(self.denied("its token service does not accept the login"));
        }
        let answer: TokenAnswer = answer.json().await.map_err(|error| self.unreachable(error))?;
        let token = answer.token.or(answer.access_token);
        let token = token.ok_or_else(|| self.denied("its token service gave no token"))?;
        Ok(Secret::new(format!("Bearer {token}")))
    }

    /// Whether the repository has a blob.
    pub(super) async fn has_blob(&self, digest: &str) -> Result<bool, RegistryError> {
        let request = self.request(Method::HEAD, &self.url(&format!("blobs/{digest}"))?);
        Ok(self.send(request).await?.status().is_success())
    }

    /// Sends a blob in one piece: ECR loses what comes in a second chunk.
    pub(super) async fn put_blob(&self, digest: &str, path: &Path) -> Result<(), RegistryError> {
        let request = self.request(Method::POST, &self.url("blobs/uploads/")?);
        let answer = self.send(request.header(CONTENT_LENGTH, 0)).await?;
        let answer = self.check(answer, "start an upload").await?;
        let mut url = answer
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|location| self.base.join(location).ok())
            .ok_or_else(|| self.denied("it gave no address for the upload"))?;
        if self.base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.denied("it wants the layers in clear"));
        }
        url.query_pairs_mut().append_pair("digest", digest);
        let file = tokio::fs::File::open(path).await.map_err(RegistryError::file(path))?;
        let size = file.metadata().await.map_err(RegistryError::file(path))?.len();
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, CHUNK));
        let answer = self
            .request(Method::PUT, &url)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .body(body)
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        self.check(answer, "store a layer").await.map(|_| ())
    }

    /// Puts a manifest under a tag.
    pub(super) async fn put_manifest(&self, tag: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let request = self
            .request(Method::PUT, &self.url(&format!("manifests/{tag}"))?)
            .header(CONTENT_TYPE, MANIFEST_TYPE)
            .body(bytes.to_vec());
        let answer = self.send(request).await?;
        self.check(answer, &format!("store the tag `{tag}`")).await.map(|_| ())
    }

    /// The digest that a tag stands for; nothing where there is no such tag.
    pub(super) async fn tag_digest(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        let request =
            self.request(Method::HEAD, &self.url(&format!("manifests/{tag}"))?).header(ACCEPT, ACCEPTED);
        let answer = self.send(request).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let digest = answer.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        if let Some(digest) = digest {
            return Ok(Some(digest.to_owned()));
        }
        // The header is optional in the specification; the manifest itself always tells.
        let request =
            self.request(Method::GET, &self.url(&format!("manifests/{tag}"))?).header(ACCEPT, ACCEPTED);
        let body = self.send(request).await?.bytes().await.map_err(|error| self.unreachable(error))?;
        Ok(Some(digest_of(&body)))
    }

    async fn check(&self, answer: Response, doing: &str) -> Result<Response, RegistryError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let entry =
            serde_json::from_str::<ErrorBody>(&text).ok().and_then(|body| body.errors.into_iter().next());
        let (code, reason) = match entry {
            Some(entry) => (entry.code.clone(), format!("{} {}", entry.code, entry.message)),
            None => (String::new(), text.chars().take(300).collect()),
        };
        let reason = reason.trim().to_owned();
        Err(match (status, code.as_str()) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => self.denied(&reason),
            (StatusCode::NOT_FOUND, "NAME_UNKNOWN") => RegistryError::NoRepository {
                host: self.repository.host.clone(),
                repository: self.repository.path.clone(),
            },
            _ => RegistryError::Refused {
                host: self.repository.host.clone(),
                doing: doing.to_owned(),
                status: status.as_u16(),
                code,
                reason,
            },
        })
    }
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
