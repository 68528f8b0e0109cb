//! Layers that need not be compressed and sent again. An earlier image tells: its configuration has the digests of the layers
//! before compression, its manifest those of the blobs, in the same order.

use super::compress::Compression;
use super::manifest::{Descriptor, MANIFEST_TYPE, Manifest, Stored, diff_ids, digest_of};
use std::collections::HashMap;

/// What is known of the blobs of layers.
#[derive(Debug, Clone)]
pub(crate) struct Known {
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
    /// The digest of its configuration.
    pub(crate) fn config(&self) -> &str {
        &self.manifest.config.digest
    }

    pub(crate) fn manifest(&self) -> &Stored {
        &self.stored
    }

    /// The blobs of its layers, the base first, and last its configuration.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().chain([&self.manifest.config])
    }
}

impl Known {
    /// Nothing yet. Only what this compression has made will count, so that an image's digest does not depend on what happened
    /// to be known.
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, layers: HashMap::new(), images: HashMap::new() }
    }

    /// Reads a manifest; nothing where it is of no use: another kind of document, or made by somebody else.
    pub(crate) fn image(&self, bytes: Vec<u8>) -> Option<Image> {
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let ours = manifest.layers.iter().any(|layer| layer.is_made_by(self.compression));
        let stored = Stored { digest: digest_of(&bytes), bytes, media_type: MANIFEST_TYPE };
        (ours && !self.images.contains_key(&manifest.config.digest)).then_some(Image { stored, manifest })
    }

    /// Takes in the layers of an image with its configuration, as far as `is_there` says that the blob is.
    pub(crate) fn add(&mut self, image: Image, config: &[u8], is_there: impl Fn(&Descriptor) -> bool) {
        let Ok(diff_ids) = diff_ids(config) else { return };
        if digest_of(config) != image.config() || diff_ids.len() != image.manifest.layers.len() {
            return;
        }
        let mut whole = true;
        for (diff_id, layer) in diff_ids.into_iter().zip(&image.manifest.layers) {
            if layer.is_made_by(self.compression) && is_there(layer) {
                self.layers.insert(diff_id, layer.clone());
            } else {
                whole = false;
            }
        }
        if whole {
            self.images.insert(image.config().to_owned(), image);
        }
    }

    /// The blobs of layers, by their digest before compression.
    pub(crate) fn layers(&self) -> &HashMap<String, Descriptor> {
        &self.layers
    }

    /// The image with this configuration, where every part of it is known.
    pub(crate) fn whole(&self, config: &str) -> Option<&Image> {
        self.images.get(config)
    }
}
