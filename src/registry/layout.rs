//! An OCI image layout on disk: what local mode "pushes" to.

use super::RegistryError;
use super::blob::{Blob, Making, Sink};
use super::compress::Compression;
use super::known::Known;
use super::manifest::{INDEX_TYPE, Index, Manifest, Stored};
use super::source::{self, Exported, Source};
use crate::files::{self, Access};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The annotation under which a layout names its images.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    blobs: PathBuf,
}

impl Layout {
    /// Opens a layout, creating it where it does not exist.
    pub(crate) fn create(root: &Path) -> Result<Self, RegistryError> {
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(RegistryError::file(&blobs))?;
        let layout = Self { root: root.to_owned(), blobs };
        layout.write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        Ok(layout)
    }

    /// Where a blob is.
    fn blob_path(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    /// The layers of its images that need not be made again, because they were compressed in the same way.
    pub(crate) fn known(&self, compression: Compression) -> Known {
        let mut known = Known::new(compression);
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

    /// A small blob; nothing where it is not there.
    fn read(&self, digest: &str) -> Vec<u8> {
        fs::read(self.blob_path(digest)).unwrap_or_default()
    }

    /// The digests of all manifests that tags lead to: of images, and of indexes with theirs.
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

    /// Stores an image, and whatever it is made of that is not there yet.
    pub(crate) fn store(&self, source: Source, making: &Making) -> Result<Exported, RegistryError> {
        let sink = Sink { directory: &self.blobs, stay: true, emit: &|blob| self.keep(blob) };
        let exported = source::read(source, making, &sink)?;
        self.put(&exported.manifest)?;
        Ok(exported)
    }

    pub(crate) fn put(&self, manifest: &Stored) -> Result<(), RegistryError> {
        let path = self.blob_path(&manifest.digest);
        files::write_whole(&path, &manifest.bytes, Access::Everybody)
            .map_err(|error| RegistryError::File { path: error.path, source: error.source })
    }

    /// Gives a blob its place.
    fn keep(&self, blob: Blob) -> Result<(), RegistryError> {
        let path = self.blob_path(&blob.descriptor.digest);
        blob.keep(&path).map_err(RegistryError::file(&path))
    }

    /// Names an image by its tags; a tag that stood for another image moves.
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

    /// Removes blobs that no tag leads to any more.
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

    /// The images of the index.
    fn manifests(&self) -> Vec<Value> {
        fs::read(self.root.join("index.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|index| index.get("manifests").and_then(Value::as_array).cloned())
            .unwrap_or_default()
    }

    fn write(&self, name: &str, value: &Value) -> Result<(), RegistryError> {
        files::write_json(&self.root.join(name), value, Access::Everybody)
            .map_err(|error| RegistryError::File { path: error.path, source: error.source })
    }
}
