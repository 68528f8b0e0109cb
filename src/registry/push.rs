//! Pushing an image: blobs are sent as they are made, several side by side and the largest first, and the manifest comes last, so
//! that no tag ever stands for something incomplete.

use super::RegistryError;
use super::blob::{Blob, Making, Sink};
use super::client::Uploaded;
use super::compress::Compression;
use super::connection::RepositoryClient;
use super::known::Known;
use super::manifest::{CONFIG_TYPE, Descriptor, Index, Stored};
use super::source::{self, Exported, Source};
use crate::exit;
use crate::text::human_size;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::cmp;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// ECR's error code for a tag that may not be moved.
const TAG_INVALID: &str = "TAG_INVALID";
/// How many blobs are sent at once.
const AT_ONCE: usize = 4;
/// How many blobs may wait for their turn on the disk, before no more are made.
const WAITING: usize = 8;
/// How many earlier images are looked into.
const EARLIER: usize = 10;
/// How often a tag is put where the registry then serves another image for it.
const TAGGINGS: u32 = 3;
/// How many blobs are asked for at once.
const LOOKUPS: usize = 8;

/// What a push did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PushSummary {
    /// Blobs that were sent.
    pub(crate) sent: usize,
    pub(crate) sent_bytes: u64,
    /// Blobs that the repository had already.
    pub(crate) present: usize,
    /// Blobs that another repository had.
    pub(crate) mounted: usize,
    /// Layers that had to be compressed before it showed that the repository had them.
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

/// How far a push is, for somebody who watches. In bytes.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// What has been sent.
    pub(crate) sent: Arc<AtomicU64>,
    /// What has been made to be sent.
    pub(crate) made: AtomicU64,
    /// What has been read of layers that have to be made.
    pub(crate) read: Arc<AtomicU64>,
}

/// A blob in the order in which blobs are sent.
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
    /// What the repository has of an image with these layers, as far as earlier images tell: those with one of the `tags`, and some
    /// others. One that cannot be read costs time, but is no failure.
    pub(crate) async fn known(
        &self,
        tags: &[String],
        layers: &[String],
        compression: Compression,
    ) -> Result<Known, RegistryError> {
        let mut known = Known::new(compression);
        let others = self.tags().await?;
        // What is to be looked at next comes last.
        let own = tags.iter().rev().filter(|tag| others.contains(tag));
        let mut names: Vec<String> = others.iter().chain(own).cloned().collect();
        let (mut seen, mut left) = (HashSet::new(), EARLIER);
        while let Some(name) = names.pop() {
            if left == 0 || layers.iter().all(|layer| known.layers().contains_key(layer)) {
                break;
            }
            if !seen.insert(name.clone()) {
                continue;
            }
            left -= 1;
            match self.learn(&mut known, &name).await {
                Ok(more) => names.extend(more),
                Err(error) => {
                    self.note(format!("earlier images could not be read: {}", exit::chain(&error)));
                    break;
                }
            }
        }
        Ok(known)
    }

    /// Looks into an earlier image. Of an index the answer is the digests of its images.
    async fn learn(&self, known: &mut Known, name: &str) -> Result<Vec<String>, RegistryError> {
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

    /// The layers of an image that need not be made, because the repository has them, by their digest before compression; and how
    /// many of them were taken over from another repository for that.
    pub(crate) async fn present(
        &self,
        layers: &[String],
        known: &HashMap<String, Descriptor>,
    ) -> Result<(HashMap<String, Descriptor>, usize), RegistryError> {
        let wanted: HashSet<&String> = layers.iter().collect();
        let known = wanted.into_iter().filter_map(|layer| Some((layer, known.get(layer)?)));
        let looked_up = stream::iter(known).map(async |(layer, blob)| {
            let had = self.has_blob(blob).await?;
            let there = had || self.mount(&blob.digest).await?;
            Ok::<_, RegistryError>(there.then(|| (layer.clone(), blob.clone(), had)))
        });
        let mut looked_up = looked_up.buffer_unordered(LOOKUPS);
        let (mut present, mut mounted) = (HashMap::new(), 0);
        while let Some(found) = looked_up.try_next().await? {
            if let Some((layer, blob, had)) = found {
                present.insert(layer, blob);
                mounted += usize::from(!had);
            }
        }
        Ok((present, mounted))
    }

    /// Makes the blobs of an image in a directory, and sends them. Nothing stands for them yet.
    pub(crate) async fn send(
        &self,
        source: Source,
        making: Making,
        directory: PathBuf,
        progress: &Progress,
    ) -> Result<(Exported, PushSummary), RegistryError> {
        let making = Making { read: progress.read.clone(), ..making };
        let present: HashSet<String> = making.known.values().map(|blob| blob.digest.clone()).collect();
        let (sender, mut made) = mpsc::channel(1);
        let reading = tokio::task::spawn_blocking(move || {
            let emit = |blob| sender.blocking_send(blob).map_err(|_| RegistryError::Stopped);
            source::read(source, &making, &Sink { directory: &directory, stay: false, emit: &emit })
        });
        let mut summary = PushSummary::default();
        let mut seen = present;
        let mut waiting = BinaryHeap::new();
        let mut under_way = FuturesUnordered::new();
        let mut reads = true;
        while reads || !waiting.is_empty() || !under_way.is_empty() {
            while under_way.len() < AT_ONCE
                && let Some(BySize(blob)) = waiting.pop()
            {
                under_way.push(async move {
                    let uploaded = self.upload(&blob.descriptor, &blob.path(), &progress.sent).await;
                    uploaded.map(|uploaded| (blob, uploaded))
                });
            }
            tokio::select! {
                blob = made.recv(), if reads && waiting.len() < WAITING => match blob {
                    Some(blob) => {
                        let blob: Blob = blob;
                        if seen.insert(blob.descriptor.digest.clone()) {
                            progress.made.fetch_add(blob.descriptor.size, Ordering::Relaxed);
                            waiting.push(BySize(blob));
                        }
                    }
                    None => reads = false,
                },
                Some(done) = under_way.next() => {
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

    /// Puts a manifest, whose blobs are there, under its own digest: for an index, which needs those of its images.
    pub(crate) async fn put(&self, manifest: &Stored) -> Result<(), RegistryError> {
        self.put_manifest(&manifest.digest, manifest).await
    }

    /// Puts further tags on an image that the repository has.
    pub(crate) async fn tag_again(&self, digest: &str, tags: &[String]) -> Result<Stored, RegistryError> {
        let manifest = self.manifest(digest).await?;
        let manifest = manifest.ok_or_else(|| RegistryError::Gone {
            host: self.repository().host.clone(),
            digest: digest.to_owned(),
        })?;
        self.tag(&manifest, tags).await?;
        Ok(manifest)
    }

    /// Puts a manifest, whose blobs are there, under every tag, and compares what the registry then serves.
    pub(crate) async fn tag(&self, manifest: &Stored, tags: &[String]) -> Result<(), RegistryError> {
        for tag in tags {
            let mut left = TAGGINGS;
            while let Err(error) = self.put_and_compare(manifest, tag).await {
                // Damaged on its way, or moved by somebody else just now.
                left -= 1;
                if left == 0 || !matches!(error, RegistryError::Verification { .. }) {
                    return Err(error);
                }
                self.note(format!("tried again, because {}", exit::chain(&error)));
            }
        }
        Ok(())
    }

    async fn put_and_compare(&self, manifest: &Stored, tag: &str) -> Result<(), RegistryError> {
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

    /// A tag that may not be moved is no failure where it stands for this image already.
    async fn put_tag(&self, manifest: &Stored, tag: &str) -> Result<(), RegistryError> {
        let refused = match self.put_manifest(tag, manifest).await {
            Ok(()) => return Ok(()),
            Err(error @ RegistryError::Refused { .. }) => error,
            Err(error) => return Err(error),
        };
        match self.tag_digest(tag).await? {
            Some(existing) if existing == manifest.digest => Ok(()),
            Some(existing) if matches!(&refused, RegistryError::Refused { code, .. } if code == TAG_INVALID) => {
                Err(RegistryError::ImmutableTag {
                    tag: tag.to_owned(),
                    pushed: None,
                    existing,
                    digest: manifest.digest.clone(),
                })
            }
            _ => Err(refused),
        }
    }
}
