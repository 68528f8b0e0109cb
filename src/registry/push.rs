//! Pushing an image whose blobs are in a layout.

use super::RegistryError;
use super::client::RepositoryClient;
use super::convert::{Converted, Descriptor};
use super::layout::Layout;
use crate::address::Repository;
use crate::secret::Login;
use crate::tls::Redirects;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where Docker keeps the certificate authorities of single registries.
const CERTS_D: &str = "/etc/docker/certs.d";
/// ECR's error code for a tag that may not be moved.
const TAG_INVALID: &str = "TAG_INVALID";
/// How often a blob is sent before its push fails.
const ATTEMPTS: u32 = 3;

/// What a push did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushSummary {
    /// Blobs that were sent.
    pub sent: usize,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Blobs that the registry had already.
    pub present: usize,
    /// Attempts that failed before one succeeded, each with its cause.
    pub retries: Vec<String>,
}

/// A client for a registry: it trusts the given authorities and those that Docker has for this very host.
pub fn http_client(host: &str, mut authorities: Vec<Vec<u8>>) -> Result<reqwest::Client, RegistryError> {
    authorities.extend(crate::tls::from_file(&Path::new(CERTS_D).join(host)));
    crate::tls::http_client(&authorities, Redirects::Follow)
        .map_err(|source| RegistryError::Unreachable { host: host.to_owned(), source })
}

/// Pushes blobs, then the manifest under every tag, and compares what the registry then serves.
pub async fn push(
    http: &reqwest::Client,
    layout: &Layout,
    image: &Converted,
    repository: &Repository,
    tags: &[String],
    login: Option<&Login>,
    stop: &CancellationToken,
) -> Result<PushSummary, RegistryError> {
    tokio::select! {
        pushed = push_all(http, layout, image, repository, tags, login) => pushed,
        () = stop.cancelled() => Err(RegistryError::Stopped),
    }
}

async fn push_all(
    http: &reqwest::Client,
    layout: &Layout,
    image: &Converted,
    repository: &Repository,
    tags: &[String],
    login: Option<&Login>,
) -> Result<PushSummary, RegistryError> {
    let client = RepositoryClient::connect(http, repository, login).await?;
    let mut summary = PushSummary::default();
    let mut done = HashSet::new();
    for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
        if done.insert(&blob.digest) {
            push_blob(&client, layout, blob, &mut summary).await?;
        }
    }
    for tag in tags {
        put_tag(&client, image, tag).await?;
        let served = client.tag_digest(tag).await?.unwrap_or_else(|| "nothing".to_owned());
        if served != image.digest {
            return Err(RegistryError::Verification {
                host: repository.host.clone(),
                tag: tag.clone(),
                found: served,
                digest: image.digest.clone(),
            });
        }
    }
    Ok(summary)
}

async fn push_blob(
    client: &RepositoryClient,
    layout: &Layout,
    blob: &Descriptor,
    summary: &mut PushSummary,
) -> Result<(), RegistryError> {
    if client.has_blob(&blob.digest).await? {
        summary.present += 1;
        return Ok(());
    }
    let path = layout.blob_path(&blob.digest);
    let mut attempt = 1;
    loop {
        match client.put_blob(&blob.digest, &path).await {
            Ok(()) => break,
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                summary.retries.push(crate::exit::chain(&error));
                tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
    summary.sent += 1;
    summary.sent_bytes += blob.size;
    Ok(())
}

/// Whether the same call may succeed a moment later.
fn may_pass(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unreachable { .. } => true,
        RegistryError::Refused { status, .. } => *status >= 500 || *status == 429,
        _ => false,
    }
}

/// Puts the manifest under a tag. A tag that may not be moved is no failure where it stands for this image already.
async fn put_tag(client: &RepositoryClient, image: &Converted, tag: &str) -> Result<(), RegistryError> {
    let refused = match client.put_manifest(tag, &image.bytes).await {
        Ok(()) => return Ok(()),
        Err(error @ RegistryError::Refused { .. }) => error,
        Err(error) => return Err(error),
    };
    match client.tag_digest(tag).await? {
        Some(existing) if existing == image.digest => Ok(()),
        Some(existing) => {
            if !matches!(&refused, RegistryError::Refused { code, .. } if code == TAG_INVALID) {
                return Err(refused);
            }
            Err(RegistryError::ImmutableTag { tag: tag.to_owned(), existing, digest: image.digest.clone() })
        }
        None => Err(refused),
    }
}
