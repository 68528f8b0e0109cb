//! Layers that need not be compressed and uploaded again. An earlier image lists them: its configuration has the diff
//! ids, its manifest the blobs, in the same order.

use super::compress::Compression;
use super::manifest::{Descriptor, MANIFEST_TYPE, Manifest, Stored, diff_ids, digest_of};
use std::collections::HashMap;

/// Blobs of layers that already exist, by diff id.
#[derive(Debug, Clone)]
pub(crate) struct KnownBlobs {
    compression: Compression,
    layers: HashMap<String, Descriptor>,
    /// Whole images, by the digest of their configuration.
    images: HashMap<String, Image>,
}

/// An image whose manifest has been read.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    stored: Stored,
    manifest: Manifest,
}

impl Image {
    /// Returns the digest of its configuration.
    pub(crate) fn config(&self) -> &str {
        &self.manifest.config.digest
    }

    pub(crate) fn manifest(&self) -> &Stored {
        &self.stored
    }

    /// Returns the blobs of its layers, the base first, followed by its configuration.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().chain([&self.manifest.config])
    }
}

impl KnownBlobs {
    /// Returns an empty collection. It accepts only blobs of this compression, so that the digest of an image does not
    /// depend on which blobs happen to be known.
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, layers: HashMap::new(), images: HashMap::new() }
    }

    /// Parses a manifest. Returns `None` if it is not useful: it is another kind of document, it is already known, or
    /// another tool compressed all of its layers.
    pub(crate) fn image(&self, bytes: Vec<u8>) -> Option<Image> {
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let ours = manifest.layers.iter().any(|layer| layer.is_compressed_with(self.compression));
        let stored = Stored { digest: digest_of(&bytes), bytes, media_type: MANIFEST_TYPE };
        (ours && !self.images.contains_key(&manifest.config.digest)).then_some(Image { stored, manifest })
    }

    /// Adds the layers of an image with its configuration, if `exists` returns true for the blob.
    pub(crate) fn add(&mut self, image: Image, config: &[u8], exists: impl Fn(&Descriptor) -> bool) {
        let Ok(diff_ids) = diff_ids(config) else { return };
        if digest_of(config) != image.config() || diff_ids.len() != image.manifest.layers.len() {
            return;
        }
        let mut whole = true;
        for (diff_id, layer) in diff_ids.into_iter().zip(&image.manifest.layers) {
            if layer.is_compressed_with(self.compression) && exists(layer) {
                self.layers.insert(diff_id, layer.clone());
            } else {
                whole = false;
            }
        }
        if whole {
            self.images.insert(image.config().to_owned(), image);
        }
    }

    /// Returns the blobs of layers, by diff id.
    pub(crate) fn layers(&self) -> &HashMap<String, Descriptor> {
        &self.layers
    }

    /// Returns the image with this configuration, if all of its layers are known.
    pub(crate) fn whole(&self, config: &str) -> Option<&Image> {
        self.images.get(config)
    }
}
