//! Pushing an image. Blobs are uploaded as they are created, several in parallel and the largest first. The manifest
//! comes last, so that no tag ever refers to an incomplete image.

use super::RegistryError;
use super::blob::{Blob, BlobOptions, Sink};
use super::client::Uploaded;
use super::compress::Compression;
use super::connection::RepositoryClient;
use super::known::KnownBlobs;
use super::manifest::{CONFIG_TYPE, Descriptor, Index, Stored};
use super::retries::BACKOFF;
use super::saving::Saving;
use super::source::{self, Exported, ImageSource};
use crate::exit;
use crate::text::human_size;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use std::cmp;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a refused tag may be looked up.
const MAX_LOOKUP: Duration = Duration::from_secs(10);
/// ECR's error code for an immutable tag.
const TAG_INVALID: &str = "TAG_INVALID";
/// How many blobs are uploaded in parallel.
const UPLOADS: usize = 4;
/// How many blobs may wait on disk before no more are created.
const MAX_WAITING: usize = 8;
/// How many earlier images are searched for known layers.
const EARLIER_IMAGES: usize = 10;
/// How often a tag is written if the registry then serves another image for it.
const TAG_ATTEMPTS: u32 = 3;
/// How many blobs are checked in parallel.
const LOOKUPS: usize = 8;

/// The result of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PushSummary {
    /// The number of uploaded blobs.
    pub(crate) sent: usize,
    pub(crate) sent_bytes: u64,
    /// The number of blobs that the repository already had.
    pub(crate) present: usize,
    /// The number of blobs that were mounted from another repository.
    pub(crate) mounted: usize,
    /// The number of layers that were compressed, although the repository had them.
    pub(crate) remade: usize,
}

impl fmt::Display for PushSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blobs sent ({})", self.sent, human_size(self.sent_bytes))?;
        if self.mounted > 0 {
            write!(f, ", {} came from other repositories", self.mounted)?;
        }
        write!(f, ", {} were there already", self.present)?;
        if self.remade > 0 {
            write!(f, ", {} of them compressed to find out", self.remade)?;
        }
        Ok(())
    }
}

impl std::ops::AddAssign for PushSummary {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.present += other.present;
        self.mounted += other.mounted;
        self.remade += other.remade;
    }
}

impl PushSummary {
    fn count(&mut self, blob: &Descriptor, uploaded: Uploaded) {
        match uploaded {
            Uploaded::Present => self.remade += usize::from(blob.media_type != CONFIG_TYPE),
            Uploaded::Mounted => self.mounted += 1,
            Uploaded::Sent => {
                self.sent += 1;
                self.sent_bytes += blob.size;
            }
        }
    }
}

/// The progress of a push, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Uploaded bytes.
    pub(crate) sent: Arc<AtomicU64>,
    /// Bytes of blobs that were created for upload.
    pub(crate) made: AtomicU64,
    /// Bytes read of layers that are compressed.
    pub(crate) read: Arc<AtomicU64>,
}

/// A blob, ordered by size.
struct BySize(Blob);

impl Ord for BySize {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.0.descriptor.size.cmp(&other.0.descriptor.size)
    }
}

impl PartialOrd for BySize {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for BySize {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for BySize {}

impl RepositoryClient {
    /// Returns the blobs of these layers that the repository has, according to earlier images: those with one of the
    /// `tags`, and some others. An image that cannot be read is not an error.
    pub(crate) async fn known(
        &self,
        tags: &[String],
        layers: &[String],
        compression: Compression,
    ) -> KnownBlobs {
        let mut known = KnownBlobs::new(compression);
        let others = self.saving(Saving::EarlierImages, self.tags()).await.unwrap_or_default();
        // The next image to read is at the end.
        let own = tags.iter().rev().filter(|tag| others.contains(tag));
        let mut names: Vec<String> = others.iter().chain(own).cloned().collect();
        let (mut seen, mut left) = (HashSet::new(), EARLIER_IMAGES);
        while let Some(name) = names.pop() {
            if left == 0 || layers.iter().all(|layer| known.layers().contains_key(layer)) {
                break;
            }
            if !seen.insert(name.clone()) {
                continue;
            }
            left -= 1;
            match self.saving(Saving::EarlierImages, self.learn(&mut known, &name)).await {
                Some(more) => names.extend(more),
                None => break,
            }
        }
        known
    }

    /// Adds the layers of an earlier image. Returns the digests of the images if it is an index.
    async fn learn(&self, known: &mut KnownBlobs, name: &str) -> Result<Vec<String>, RegistryError> {
        let Some(manifest) = self.manifest(name).await? else { return Ok(Vec::new()) };
        if let Ok(index) = serde_json::from_slice::<Index>(&manifest.bytes) {
            return Ok(index.manifests.into_iter().map(|image| image.digest).collect());
        }
        if let Some(image) = known.image(manifest.bytes)
            && let Some(config) = self.blob(image.config()).await?
        {
            known.add(image, &config, |_| true);
        }
        Ok(Vec::new())
    }

    /// Returns the blobs of known layers that the repository has, by diff id, and how many of them it mounted from
    /// another repository.
    pub(crate) async fn present(
        &self,
        layers: &[String],
        known: &HashMap<String, Descriptor>,
    ) -> (HashMap<String, Descriptor>, usize) {
        let distinct: HashSet<&String> = layers.iter().collect();
        let known = distinct.into_iter().filter_map(|layer| Some((layer, known.get(layer)?)));
        let looked_up = stream::iter(known).map(async |(layer, blob)| {
            let had = self.has_blob(blob).await;
            let there = had || self.mount(blob).await;
            there.then(|| (layer.clone(), blob.clone(), had))
        });
        let mut looked_up = looked_up.buffer_unordered(LOOKUPS);
        let (mut present, mut mounted) = (HashMap::new(), 0);
        while let Some(found) = looked_up.next().await {
            if let Some((layer, blob, had)) = found {
                present.insert(layer, blob);
                mounted += usize::from(!had);
            }
        }
        (present, mounted)
    }

    /// Creates the blobs of an image in a directory and uploads them, without a manifest.
    pub(crate) async fn send(
        &self,
        source: ImageSource,
        making: BlobOptions,
        directory: PathBuf,
        progress: &Progress,
    ) -> Result<(Exported, PushSummary), RegistryError> {
        let making = BlobOptions { read: progress.read.clone(), ..making };
        let present: HashSet<String> = making.known.values().map(|blob| blob.digest.clone()).collect();
        let (sender, mut made) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || {
            let emit = |blob| sender.blocking_send(blob).map_err(|_| RegistryError::Stopped);
            source::read(source, &making, &Sink { directory: &directory, stay: false, emit: &emit })
        });
        let mut summary = PushSummary::default();
        let mut seen = present;
        let mut waiting = BinaryHeap::new();
        let mut uploads = FuturesUnordered::new();
        let mut reads = true;
        while reads || !waiting.is_empty() || !uploads.is_empty() {
            while uploads.len() < UPLOADS
                && let Some(BySize(blob)) = waiting.pop()
            {
                uploads.push(async move {
                    let uploaded = self.upload(&blob.descriptor, &blob.path(), &progress.sent).await;
                    uploaded.map(|uploaded| (blob, uploaded))
                });
            }
            tokio::select! {
                blob = made.recv(), if reads && waiting.len() < MAX_WAITING => match blob {
                    Some(blob) => {
                        let blob: Blob = blob;
                        if seen.insert(blob.descriptor.digest.clone()) {
                            progress.made.fetch_add(blob.descriptor.size, Ordering::Relaxed);
                            waiting.push(BySize(blob));
                        }
                    }
                    None => reads = false,
                },
                Some(done) = uploads.next() => {
                    let (blob, uploaded) = done?;
                    if uploaded != Uploaded::Sent {
                        progress.made.fetch_sub(blob.descriptor.size, Ordering::Relaxed);
                    }
                    summary.count(&blob.descriptor, uploaded);
                }
            }
        }
        let exported = reading.await.map_err(|error| RegistryError::Export(error.to_string()))??;
        if let Some(cause) = &exported.parts_failed {
            self.note(format!("the image had to be exported, because {cause}"));
        }
        let known = exported.blobs.iter().map(|blob| &blob.digest).collect::<HashSet<_>>().len();
        summary.present = known.saturating_sub(summary.sent + summary.mounted);
        Ok((exported, summary))
    }

    /// Uploads a manifest under its own digest and verifies it: an index requires the manifests of its images. Its
    /// blobs must exist.
    pub(crate) async fn put(&self, manifest: &Stored) -> Result<(), RegistryError> {
        self.tag(manifest, std::slice::from_ref(&manifest.digest)).await
    }

    /// Adds tags to an existing image.
    pub(crate) async fn tag_again(&self, digest: &str, tags: &[String]) -> Result<Stored, RegistryError> {
        let manifest = self.manifest(digest).await?;
        let manifest = manifest.ok_or_else(|| RegistryError::Gone {
            host: self.repository().host.clone(),
            digest: digest.to_owned(),
        })?;
        self.tag(&manifest, tags).await?;
        Ok(manifest)
    }

    /// Uploads a manifest under every tag and verifies it. Its blobs must exist.
    pub(crate) async fn tag(&self, manifest: &Stored, tags: &[String]) -> Result<(), RegistryError> {
        for tag in tags {
            let mut left = TAG_ATTEMPTS;
            while let Err(error) = self.put_and_verify(manifest, tag).await {
                // It was damaged in transit, or someone else has just moved the tag.
                left -= 1;
                if left == 0 || !matches!(error, RegistryError::Verification { .. }) {
                    return Err(error);
                }
                self.note(format!("tried again, because {}", exit::chain(&error)));
                tokio::time::sleep(BACKOFF.delay(TAG_ATTEMPTS - left)).await;
            }
        }
        Ok(())
    }

    async fn put_and_verify(&self, manifest: &Stored, tag: &str) -> Result<(), RegistryError> {
        self.put_tag(manifest, tag).await?;
        match self.tag_digest(tag).await? {
            Some(served) if served == manifest.digest => Ok(()),
            served => Err(RegistryError::Verification {
                host: self.repository().host.clone(),
                name: tag.to_owned(),
                found: served.unwrap_or_else(|| "nothing".to_owned()),
                digest: manifest.digest.clone(),
            }),
        }
    }

    /// Uploads a manifest under a tag. A tag that cannot be moved is not an error if it already refers to this image,
    /// whatever the registry's words for that are.
    async fn put_tag(&self, manifest: &Stored, tag: &str) -> Result<(), RegistryError> {
        let refused = match self.put_manifest(tag, manifest).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_immutable = match &refused {
            RegistryError::Refused { codes, reason, .. } => {
                codes.iter().any(|code| code == TAG_INVALID) || is_about_immutability(reason)
            }
            RegistryError::Denied { reason, .. } => is_about_immutability(reason),
            RegistryError::Full { .. } | RegistryError::NoRepository { .. } => false,
            _ => return Err(refused),
        };
        let existing = tokio::time::timeout(MAX_LOOKUP, self.tag_digest(tag)).await;
        match existing {
            Ok(Ok(Some(existing))) if existing == manifest.digest => Ok(()),
            Ok(Ok(Some(existing))) if is_immutable => Err(RegistryError::ImmutableTag {
                tag: tag.to_owned(),
                pushed: None,
                existing,
                digest: manifest.digest.clone(),
            }),
            _ => Err(refused),
        }
    }
}

/// Whether a refusal is about a tag that cannot be moved. Registries have neither a status nor a code in common for it:
/// 400 `TAG_INVALID` (ECR), 403 or 405 `DENIED` or `UNSUPPORTED`, 409, 412 `PRECONDITION` (Harbor).
fn is_about_immutability(reason: &str) -> bool {
    reason.to_ascii_lowercase().contains("immutable")
}
