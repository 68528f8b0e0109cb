//! The API calls of a push.

use super::RegistryError;
use super::connection::{Answer, RepositoryClient};
use super::manifest::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, Stored, digest_of};
use super::retries::Trouble;
use super::saving::Saving;
use crate::http::through;
use bytes::Bytes;
use futures_util::TryStreamExt;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::io::ReaderStream;

/// The media types of manifests that runner accepts.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The header with the digest of a manifest.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// The size of one read of a blob, in bytes.
const CHUNK: usize = 256 * 1024;
/// The minimum speed at which a registry verifies an uploaded blob before it responds, in bytes per second.
const VERIFICATION_SPEED: u64 = 20_000_000;

/// The outcome of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The repository already had the blob.
    Present,
    /// The blob was mounted from another repository.
    Mounted,
    Sent,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl RepositoryClient {
    /// Whether the repository is known to have a blob with its full size.
    pub(crate) async fn has_blob(&self, blob: &Descriptor) -> bool {
        self.saving(Saving::BlobLookup, self.size_of_blob(blob))
            .await
            .is_some_and(|there| there == Some(true))
    }

    /// Asks whether the repository has a blob with its full size. Returns `None` if the response does not say so.
    async fn size_of_blob(&self, blob: &Descriptor) -> Result<Option<bool>, RegistryError> {
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let answer = self.call(Method::HEAD, &url, |request| request).await?;
        // Some servers return 0 instead of the size.
        let size = answer.header(CONTENT_LENGTH.as_str()).and_then(|size| size.parse().ok());
        let is_whole = size.is_none_or(|size: u64| size == 0 || size == blob.size);
        Ok(answer.status.is_success().then_some(is_whole))
    }

    /// Verifies that the repository has a blob that it has accepted: some registries lose it without a word.
    async fn confirm(&self, blob: &Descriptor) -> Result<(), Trouble> {
        let head = self.saving(Saving::BlobLookup, self.size_of_blob(blob)).await.flatten();
        let is_there = match head {
            Some(is_whole) => Some(is_whole),
            // Not every registry answers HEAD.
            None => self.saving(Saving::Confirmation, self.serves_blob(blob)).await.flatten(),
        };
        match is_there {
            Some(false) => {
                let (host, digest) = (self.repository().host.clone(), blob.digest.clone());
                Err(RegistryError::Lost { host, digest }.into())
            }
            // A registry that says neither refuses the manifest if the blob is missing.
            Some(true) | None => Ok(()),
        }
    }

    /// Asks for the first byte of a blob. The response may have all of them, which are not read.
    async fn serves_blob(&self, blob: &Descriptor) -> Result<Option<bool>, RegistryError> {
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let mut retries = self.retries();
        loop {
            let trouble = match self.request(Method::GET, &url).await {
                Ok((request, _)) => match request.header(RANGE, "bytes=0-0").send().await {
                    Ok(answer) => {
                        return Ok(match answer.status() {
                            StatusCode::NOT_FOUND | StatusCode::GONE => Some(false),
                            status => status.is_success().then_some(true),
                        });
                    }
                    Err(error) => self.unreachable(error, &url),
                },
                Err(trouble) => trouble,
            };
            retries.wait(trouble).await?;
        }
    }

    /// Mounts a blob from another repository of the registry. A refusal is not an error.
    pub(crate) async fn mount(&self, blob: &Descriptor) -> bool {
        for other in self.others() {
            let mounted = self.saving(Saving::Mount, self.mount_from(other, &blob.digest)).await;
            if mounted.unwrap_or_default() && self.confirm(blob).await.is_ok() {
                return true;
            }
        }
        false
    }

    async fn mount_from(&self, other: &str, digest: &str) -> Result<bool, RegistryError> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest).append_pair("from", other);
        let answer = self.call(Method::POST, &url, |request| request.header(CONTENT_LENGTH, 0)).await?;
        if answer.status == StatusCode::CREATED {
            return Ok(true);
        }
        // The registry has started an upload instead. Cancel it.
        if let Some(url) = location(&answer).filter(|url| self.check_target(url, "the layers").is_ok()) {
            let _ = self.once(Method::DELETE, &url, |request| request).await;
        }
        Ok(false)
    }

    /// Uploads a blob in one request, because ECR loses a second chunk. `sent` counts the bytes that were sent, without
    /// those of failed attempts.
    pub(crate) async fn upload(
        &self,
        blob: &Descriptor,
        path: &Path,
        sent: &Arc<AtomicU64>,
    ) -> Result<Uploaded, RegistryError> {
        let mut retries = self.retries();
        let mut mounted = false;
        loop {
            // Checked before every attempt: the response to a successful upload may have been lost.
            if self.has_blob(blob).await {
                let done = if retries.failed > 0 { Uploaded::Sent } else { Uploaded::Present };
                return Ok(done);
            }
            if !std::mem::replace(&mut mounted, true) && self.mount(blob).await {
                return Ok(Uploaded::Mounted);
            }
            let counted = Arc::new(AtomicU64::new(0));
            let stored = match self.put_blob(blob, path, [&counted, sent]).await {
                Ok(()) => self.confirm(blob).await,
                Err(trouble) => Err(trouble),
            };
            match stored {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(trouble) => {
                    sent.fetch_sub(counted.load(Ordering::Relaxed), Ordering::Relaxed);
                    retries.wait(trouble).await?;
                }
            }
        }
    }

    /// Attempts an upload once. The bytes are added to all counters.
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
            location(&answer).ok_or_else(|| self.broken("started an upload, but returned no URL for it"))?;
        self.check_target(&url, "the layers")?;
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
            let answer = request.send().await.map_err(|error| self.unreachable(error, &url))?;
            self.read(answer, generation, false).await
        });
        // The timeout restarts while bytes are sent. After the last byte the registry has to verify the blob.
        let answer = loop {
            let seen = counted.load(Ordering::Relaxed);
            let verification = if seen >= blob.size {
                Duration::from_secs(blob.size / VERIFICATION_SPEED)
            } else {
                Duration::ZERO
            };
            let answer = tokio::time::timeout(self.timeout() + verification, &mut sending).await;
            match answer {
                Ok(answer) => break answer?,
                Err(_) if counted.load(Ordering::Relaxed) > seen => {}
                Err(_) => {
                    let (host, seconds) = (self.repository().host.clone(), self.timeout().as_secs());
                    return Err(RegistryError::Silent { host, through: through(&url), seconds }.into());
                }
            }
        };
        self.check(answer, "store a layer")?;
        Ok(())
    }

    /// Puts a manifest under a tag or its own digest.
    pub(crate) async fn put_manifest(&self, name: &str, manifest: &Stored) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let body = Bytes::from(manifest.bytes.clone());
        let more =
            |request: RequestBuilder| request.header(CONTENT_TYPE, manifest.media_type).body(body.clone());
        let doing = format!("store the tag `{name}`");
        let mut retries = self.retries();
        loop {
            let stored = match self.once(Method::PUT, &url, more).await {
                Ok(answer) => self.check(answer, &doing).map_err(Trouble::from),
                Err(trouble) => Err(trouble),
            };
            match stored {
                Ok(_) => return Ok(()),
                Err(trouble) => retries.wait(trouble).await?,
            }
        }
    }

    /// Returns a manifest by tag or digest, or `None` if it does not exist.
    pub(crate) async fn manifest(&self, name: &str) -> Result<Option<Stored>, RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let answer = self.call(Method::GET, &url, |request| request.header(ACCEPT, ACCEPTED)).await?;
        let Some(answer) = self.found(answer, &format!("serve the image `{name}`"))? else { return Ok(None) };
        let media_type = answer.header(CONTENT_TYPE.as_str()).and_then(|value| value.split(';').next());
        let media_type = match media_type.map(str::trim) {
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

    /// Returns a small blob, or `None` if it does not exist.
    pub(crate) async fn blob(&self, digest: &str) -> Result<Option<Bytes>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let answer = self.call(Method::GET, &url, |request| request).await?;
        Ok(self.found(answer, "serve a blob")?.map(|answer| answer.body))
    }

    /// Returns the first page of the repository's tags, in the registry's order.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let answer = self.call(Method::GET, &self.url("tags/list")?, |request| request).await?;
        let list: Option<TagList> = serde_json::from_slice(&answer.body).ok();
        Ok(list.and_then(|list| list.tags).unwrap_or_default())
    }

    /// Returns the digest of a tag, or `None` if the tag does not exist.
    pub(crate) async fn tag_digest(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        if let Some(digest) = self.saving(Saving::ManifestLookup, self.digest_in_head(tag)).await.flatten() {
            return Ok(Some(digest));
        }
        // Some registries do not answer HEAD, and the specification does not require the header with the digest.
        Ok(self.manifest(tag).await?.map(|manifest| manifest.digest))
    }

    async fn digest_in_head(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let answer = self.call(Method::HEAD, &url, |request| request.header(ACCEPT, ACCEPTED)).await?;
        let digest = answer.header(CONTENT_DIGEST).filter(|digest| digest.starts_with("sha256:"));
        Ok(digest.filter(|_| answer.status.is_success()).map(ToOwned::to_owned))
    }

    /// Returns `None` if the response says that something does not exist.
    fn found(&self, answer: Answer, doing: &str) -> Result<Option<Answer>, RegistryError> {
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            _ => self.check(answer, doing).map(Some),
        }
    }
}

/// Returns the URL in the `Location` header. It is relative to the request
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-10.2.2>).
fn location(answer: &Answer) -> Option<Url> {
    let location = answer.header(LOCATION.as_str()).map(str::trim).filter(|location| !location.is_empty())?;
    answer.url.join(location).ok()
}
