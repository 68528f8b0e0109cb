//! Manifests of images and indexes.

use super::RegistryError;
use super::compress::Compression;
use crate::text::hex;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index: a list of images, one per platform.
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const GZIP_LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD_LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The annotation with the version of the compression. Equal layers with equal versions are the same blob on every
/// machine.
const COMPRESSION: &str = "codebuild-runner.compression";

/// A reference to a blob or manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// The platform of an image of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

/// The platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    architecture: String,
    os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Platform {
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(ToOwned::to_owned);
        let mut next = || parts.next();
        let (os, architecture) = (next().unwrap_or_default(), next().unwrap_or_default());
        Self { architecture, os, variant: next() }
    }

    pub(crate) fn os(&self) -> &str {
        &self.os
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: String, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), platform: None }
    }

    /// Marks it as a layer with this compression.
    pub(crate) fn compressed_with(mut self, compression: Compression) -> Self {
        self.annotations.insert(COMPRESSION.to_owned(), compression.version().to_owned());
        self
    }

    /// Whether it is marked as a layer with this compression.
    pub(crate) fn is_compressed_with(&self, compression: Compression) -> bool {
        self.annotations.get(COMPRESSION).is_some_and(|version| version == compression.version())
    }
}

/// An OCI image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u32,
    media_type: String,
    pub(crate) config: Descriptor,
    /// Its layers, the base first.
    pub(crate) layers: Vec<Descriptor>,
}

/// An OCI image index.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    schema_version: u32,
    media_type: String,
    /// The images' manifests, one for each platform.
    pub(crate) manifests: Vec<Descriptor>,
}

/// The parts of an image's configuration that are used.
#[derive(Debug, Deserialize)]
struct Configuration {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    /// Missing in images without layers.
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// Returns the diff ids (digests before compression) of an image's layers from its configuration, the base first.
pub(crate) fn diff_ids(config: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    serde_json::from_slice::<Configuration>(config).map(|config| config.rootfs.diff_ids.unwrap_or_default())
}

/// Returns the chain ids of layers, the base first:
/// <https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>.
pub(crate) fn chain_ids(layers: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for layer in layers {
        let chain = match chains.last() {
            None => layer.clone(),
            Some(below) => digest_of(format!("{below} {layer}").as_bytes()),
        };
        chains.push(chain);
    }
    chains
}

/// The serialized manifest of an image or index, with its digest.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The digest of the bytes, `sha256:…`.
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: &'static str,
}

impl Stored {
    pub(crate) fn image(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self, RegistryError> {
        let media_type = MANIFEST_TYPE.to_owned();
        Self::new(&Manifest { schema_version: 2, media_type, config, layers }, MANIFEST_TYPE)
    }

    /// Returns an index of images with their platforms, or the image itself if there is only one.
    pub(crate) fn of_platforms(images: &[(&str, Self)]) -> Result<Self, RegistryError> {
        if let [(_, image)] = images {
            return Ok(image.clone());
        }
        let entry = |(platform, image): &(&str, Self)| Descriptor {
            platform: Some(Platform::parse(platform)),
            ..Descriptor::new(image.media_type, image.digest.clone(), image.bytes.len() as u64)
        };
        let (media_type, manifests) = (INDEX_TYPE.to_owned(), images.iter().map(entry).collect());
        Self::new(&Index { schema_version: 2, media_type, manifests }, INDEX_TYPE)
    }

    /// Returns the digests of its images: its own, or those of an index.
    pub(crate) fn images(&self) -> Vec<String> {
        match serde_json::from_slice::<Index>(&self.bytes) {
            Ok(index) => index.manifests.into_iter().map(|image| image.digest).collect(),
            Err(_) => vec![self.digest.clone()],
        }
    }

    fn new(document: &impl Serialize, media_type: &'static str) -> Result<Self, RegistryError> {
        let bytes = serde_json::to_vec(document).map_err(|error| RegistryError::Export(error.to_string()))?;
        Ok(Self { digest: digest_of(&bytes), bytes, media_type })
    }
}

/// Returns the digest of bytes, `sha256:…`.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    sha256_name(&digest(&SHA256, bytes))
}

/// Formats a digest as `sha256:…`.
pub(crate) fn sha256_name(digest: &aws_lc_rs::digest::Digest) -> String {
    format!("sha256:{}", hex(digest.as_ref()))
}
