//! An OCI image layout on disk: the destination of pushes in local mode.

use super::RegistryError;
use super::blob::{Blob, BlobOptions, Sink};
use super::compress::Compression;
use super::known::KnownBlobs;
use super::manifest::{INDEX_TYPE, Index, Manifest, Stored};
use super::source::{self, Exported, ImageSource};
use crate::files::{self, Directory, Readers};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

/// The annotation with the tag of an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The largest index that is read, in bytes.
const MAX_INDEX: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: Directory,
    blobs: PathBuf,
}

impl Layout {
    /// Opens a layout, and creates it if it does not exist.
    pub(crate) fn create(root: &Directory) -> Result<Self, RegistryError> {
        let blobs = root.path().join("blobs/sha256");
        let blobs = root.within("blobs/sha256").map_err(RegistryError::file(&blobs))?.path().to_owned();
        let layout = Self { root: root.clone(), blobs };
        layout.write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        Ok(layout)
    }

    /// Returns the path of a blob.
    fn blob_path(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    /// Returns the layers of its images that were compressed in the same way and can be reused.
    pub(crate) fn known(&self, compression: Compression) -> KnownBlobs {
        let mut known = KnownBlobs::new(compression);
        for digest in self.images() {
            if let Some(image) = known.image(self.read(&digest)) {
                let config = self.read(image.config());
                known.add(image, &config, |blob| {
                    fs::metadata(self.blob_path(&blob.digest)).is_ok_and(|file| file.len() == blob.size)
                });
            }
        }
        known
    }

    /// Reads a small blob. Returns no bytes if it does not exist.
    fn read(&self, digest: &str) -> Vec<u8> {
        fs::read(self.blob_path(digest)).unwrap_or_default()
    }

    /// Returns the digests of all tagged images, of tagged indexes and of their images.
    fn images(&self) -> Vec<String> {
        let named = self.manifests();
        let named = named.iter().filter_map(|manifest| manifest.get("digest").and_then(Value::as_str));
        let with_own = named.flat_map(|digest| {
            let index = serde_json::from_slice::<Index>(&self.read(digest));
            let own = index.map(|index| index.manifests).unwrap_or_default();
            own.into_iter().map(|image| image.digest).chain([digest.to_owned()])
        });
        with_own.collect()
    }

    /// Stores an image with all blobs that are missing.
    pub(crate) fn store(&self, source: ImageSource, making: &BlobOptions) -> Result<Exported, RegistryError> {
        let sink = Sink { directory: &self.blobs, stay: true, emit: &|blob| self.keep(blob) };
        let exported = source::read(source, making, &sink)?;
        self.put(&exported.manifest)?;
        Ok(exported)
    }

    pub(crate) fn put(&self, manifest: &Stored) -> Result<(), RegistryError> {
        let path = self.blob_path(&manifest.digest);
        files::write_whole(&path, &manifest.bytes, Readers::All)
            .map_err(|error| RegistryError::File { path: error.path, source: error.source })
    }

    /// Moves a blob to its path.
    fn keep(&self, blob: Blob) -> Result<(), RegistryError> {
        let path = self.blob_path(&blob.descriptor.digest);
        blob.keep(&path).map_err(RegistryError::file(&path))
    }

    /// Tags an image. Existing tags are moved to it.
    pub(crate) fn tag(&self, image: &Stored, tags: &[String]) -> Result<(), RegistryError> {
        let mut manifests = self.manifests();
        manifests.retain(|manifest| {
            let name = manifest.pointer(&format!("/annotations/{REF_NAME}"));
            !name.and_then(Value::as_str).is_some_and(|name| tags.iter().any(|tag| tag == name))
        });
        manifests.extend(tags.iter().map(|tag| {
            json!({
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": image.bytes.len(),
                "annotations": { REF_NAME: tag },
            })
        }));
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": manifests,
        });
        self.write("index.json", &index)
    }

    /// Removes blobs that no tagged image uses.
    pub(crate) fn remove_unused(&self) -> Result<(), RegistryError> {
        let mut used = HashSet::new();
        for digest in self.images() {
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&self.read(&digest)) {
                let blobs = manifest.layers.iter().chain([&manifest.config]);
                used.extend(blobs.map(|blob| self.blob_path(&blob.digest)));
            }
            used.insert(self.blob_path(&digest));
        }
        let entries = fs::read_dir(&self.blobs).map_err(RegistryError::file(&self.blobs))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if !used.contains(&path) {
                fs::remove_file(&path).map_err(RegistryError::file(&path))?;
            }
        }
        Ok(())
    }

    /// Returns the entries of the index.
    fn manifests(&self) -> Vec<Value> {
        self.root
            .read_small("index.json", MAX_INDEX)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|index| index.get("manifests").and_then(Value::as_array).cloned())
            .unwrap_or_default()
    }

    fn write(&self, name: &str, value: &Value) -> Result<(), RegistryError> {
        self.root
            .write_json(name, value, Readers::All)
            .map_err(|error| RegistryError::File { path: error.path, source: error.source })
    }
}
