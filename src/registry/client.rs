//! The calls to a repository that a push is made of.

use super::RegistryError;
use super::connection::{Answer, RepositoryClient, Trouble};
use super::manifest::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, Stored, digest_of};
use bytes::Bytes;
use futures_util::TryStreamExt;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// The media types of what a tag may stand for.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The header in which a registry names what it serves.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 256 * 1024;
/// How fast a registry works through a blob at least, before it answers, in bytes per second.
const DIGESTING: u64 = 20_000_000;

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The repository had it.
    Present,
    /// Another repository had it.
    Mounted,
    Sent,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl RepositoryClient {
    /// Whether the repository has a blob, and the whole of it.
    pub(crate) async fn has_blob(&self, blob: &Descriptor) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        match self.call(Method::HEAD, &url, |request| request).await {
            Ok(answer) => {
                // 0 is what servers say that do not tell.
                let size = answer.header(CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
                let is_whole = size.is_none_or(|size: u64| size == 0 || size == blob.size);
                Ok(answer.status.is_success() && is_whole)
            }
            // An answer to HEAD has no room for the reason. The next call asks for more, and its answer has.
            Err(RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a blob over from another repository of the registry, where both allow it; a refusal is no failure.
    pub(crate) async fn mount(&self, digest: &str) -> Result<bool, RegistryError> {
        for other in self.others() {
            let mut url = self.url("blobs/uploads/")?;
            url.query_pairs_mut().append_pair("mount", digest).append_pair("from", other);
            let asked = self.call(Method::POST, &url, |request| request.header(CONTENT_LENGTH, 0)).await;
            let answer = match asked {
                Err(RegistryError::Denied { .. } | RegistryError::Refused { .. }) => continue,
                answer => answer?,
            };
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

    /// Brings a blob into the repository, in one piece: ECR loses what comes in a second chunk. `sent` counts the bytes on their way,
    /// and not those that have to go once more.
    pub(crate) async fn upload(
        &self,
        blob: &Descriptor,
        path: &Path,
        sent: &Arc<AtomicU64>,
    ) -> Result<Uploaded, RegistryError> {
        let mut attempts = self.attempts();
        let mut mounted = false;
        loop {
            // Asked every time: an answer may have been lost, and not the blob.
            if self.has_blob(blob).await? {
                let done = if attempts.failed > 0 { Uploaded::Sent } else { Uploaded::Present };
                return Ok(done);
            }
            if !std::mem::replace(&mut mounted, true) && self.mount(&blob.digest).await? {
                return Ok(Uploaded::Mounted);
            }
            let counted = Arc::new(AtomicU64::new(0));
            match self.put_blob(blob, path, [&counted, sent]).await {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(trouble) => {
                    sent.fetch_sub(counted.load(Ordering::Relaxed), Ordering::Relaxed);
                    attempts.again(trouble).await?;
                }
            }
        }
    }

    /// One attempt of that. The bytes are added to all counters.
    async fn put_blob(
        &self,
        blob: &Descriptor,
        path: &Path,
        counters: [&Arc<AtomicU64>; 2],
    ) -> Result<(), Trouble> {
        let url = self.url("blobs/uploads/").map_err(Trouble::from)?;
        let answer = self.once(Method::POST, &url, |request| request.header(CONTENT_LENGTH, 0)).await?;
        let answer = self.check(answer, "start an upload")?;
        let mut url =
            self.location(&answer).ok_or_else(|| self.denied("it gave no address for the upload"))?;
        if self.base().scheme() == "https" && url.scheme() != "https" {
            return Err(self.denied("it wants the layers in clear").into());
        }
        url.query_pairs_mut().append_pair("digest", &blob.digest);
        let file = tokio::fs::File::open(path).await.map_err(RegistryError::file(path))?;
        let [counted, _] = counters;
        let counters = counters.map(Arc::clone);
        let body = ReaderStream::with_capacity(file, CHUNK).inspect_ok(move |piece| {
            for counter in &counters {
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
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
        let answer = loop {
            let seen = counted.load(Ordering::Relaxed);
            let digesting =
                if seen >= blob.size { Duration::from_secs(blob.size / DIGESTING) } else { Duration::ZERO };
            let answer = tokio::time::timeout(self.patience() + digesting, &mut sending).await;
            match answer {
                Ok(answer) => break answer?,
                Err(_) if counted.load(Ordering::Relaxed) > seen => {}
                Err(_) => {
                    let (host, seconds) = (self.repository().host.clone(), self.patience().as_secs());
                    return Err(RegistryError::Silent { host, seconds }.into());
                }
            }
        };
        self.check(answer, "store a layer")?;
        Ok(())
    }

    /// The address that an answer sends to.
    fn location(&self, answer: &Answer) -> Option<Url> {
        answer.header(LOCATION.as_str()).and_then(|location| self.base().join(location).ok())
    }

    /// Puts a manifest under a tag or its own digest.
    pub(crate) async fn put_manifest(&self, name: &str, manifest: &Stored) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let body = Bytes::from(manifest.bytes.clone());
        let more =
            |request: RequestBuilder| request.header(CONTENT_TYPE, manifest.media_type).body(body.clone());
        let doing = format!("store the tag `{name}`");
        let mut attempts = self.attempts();
        loop {
            let stored = match self.once(Method::PUT, &url, more).await {
                Ok(answer) => self.check(answer, &doing).map_err(Trouble::from),
                Err(trouble) => Err(trouble),
            };
            match stored {
                Ok(_) => return Ok(()),
                Err(trouble) => attempts.again(trouble).await?,
            }
        }
    }

    /// A manifest by tag or digest; nothing where there is none.
    pub(crate) async fn manifest(&self, name: &str) -> Result<Option<Stored>, RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let answer = self.call(Method::GET, &url, |request| request.header(ACCEPT, ACCEPTED)).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let media_type = match answer.header(CONTENT_TYPE.as_str()) {
            Some(INDEX_TYPE) => INDEX_TYPE,
            _ => MANIFEST_TYPE,
        };
        let digest = digest_of(&answer.body);
        if name.contains(':') && name != digest {
            return Err(RegistryError::Verification {
                host: self.repository().host.clone(),
                name: name.to_owned(),
                found: digest,
                digest: name.to_owned(),
            });
        }
        Ok(Some(Stored { digest, bytes: answer.body.to_vec(), media_type }))
    }

    /// A small blob; nothing where there is none.
    pub(crate) async fn blob(&self, digest: &str) -> Result<Option<Bytes>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let answer = self.call(Method::GET, &url, |request| request).await?;
        Ok(answer.status.is_success().then_some(answer.body))
    }

    /// Some of the repository's tags, in the order that the registry gives them.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let answer = self.call(Method::GET, &self.url("tags/list")?, |request| request).await?;
        let list: Option<TagList> = serde_json::from_slice(&answer.body).ok();
        Ok(list.and_then(|list| list.tags).unwrap_or_default())
    }

    /// The digest that a tag stands for; nothing where there is no such tag.
    pub(crate) async fn tag_digest(&self, tag: &str) -> Result<Option<String>, RegistryError> {
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
}
