//! Metadata of an image in a registry.

use super::RegistryError;
use super::connection::RepositoryClient;
use super::manifest::{Index, Manifest, Stored};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The label with the commit of an image.
const REVISION: &str = "org.opencontainers.image.revision";
/// The platform of entries of an index that are not images, such as attestations.
const UNKNOWN: &str = "unknown";

/// The metadata of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// The digest of the manifest, followed by those of the images of an index.
    pub(crate) digests: Vec<String>,
    /// The platforms, as `os/arch`.
    pub(crate) platforms: Vec<String>,
    /// The commit, if the image has the label.
    pub(crate) commit: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Configuration {
    os: String,
    architecture: String,
    config: Option<Labels>,
}

#[derive(Debug, Default, Deserialize)]
struct Labels {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

impl RepositoryClient {
    /// Returns the metadata of an image by tag or digest, or `None` if it does not exist.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<Inspected>, RegistryError> {
        let Some(stored) = self.manifest(name).await? else { return Ok(None) };
        let mut inspected = Inspected { digests: vec![stored.digest.clone()], ..Inspected::default() };
        let mut image = stored;
        if let Ok(index) = serde_json::from_slice::<Index>(&image.bytes) {
            let images = index.manifests.iter().filter_map(|image| Some((image, image.platform.as_ref()?)));
            let images: Vec<_> = images.filter(|(_, platform)| platform.os() != UNKNOWN).collect();
            inspected.digests.extend(index.manifests.iter().map(|image| image.digest.clone()));
            inspected.platforms.extend(images.iter().map(|(_, platform)| platform.to_string()));
            let first = images.first().map(|(first, _)| first.digest.clone());
            match first {
                Some(digest) => match self.manifest(&digest).await? {
                    Some(first) => image = first,
                    None => return Ok(Some(inspected)),
                },
                None => return Ok(Some(inspected)),
            }
        }
        let Some(configuration) = self.configuration(&image).await? else { return Ok(Some(inspected)) };
        if inspected.platforms.is_empty() && !configuration.architecture.is_empty() {
            inspected.platforms.push(format!("{}/{}", configuration.os, configuration.architecture));
        }
        let labels = configuration.config.and_then(|config| config.labels).unwrap_or_default();
        inspected.commit = labels.get(REVISION).filter(|commit| !commit.is_empty()).cloned();
        Ok(Some(inspected))
    }

    async fn configuration(&self, image: &Stored) -> Result<Option<Configuration>, RegistryError> {
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&image.bytes) else { return Ok(None) };
        let blob = self.blob(&manifest.config.digest).await?;
        Ok(blob.and_then(|blob| serde_json::from_slice(&blob).ok()))
    }
}
