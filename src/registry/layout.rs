//! An OCI image layout on disk: what local mode "pushes" to, and where publishing keeps blobs until they are sent.

use super::RegistryError;
use super::convert::{Converted, MANIFEST_TYPE, Manifest, digest_of};
use crate::files::{self, Access};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The annotation under which a layout names its images.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A layout's directory.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    blobs: PathBuf,
}

impl Layout {
    /// Opens a layout, creating it where it does not exist.
    pub fn create(root: &Path) -> Result<Self, RegistryError> {
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(RegistryError::file(&blobs))?;
        let layout = Self { root: root.to_owned(), blobs };
        layout.write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        Ok(layout)
    }

    /// Where a blob is.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    /// Stores a small blob and gives its digest.
    pub(super) fn write_blob(&self, bytes: &[u8]) -> Result<String, RegistryError> {
        let digest = digest_of(bytes);
        let mut file = self.temporary_blob()?;
        file.write_all(bytes).map_err(RegistryError::file(file.path()))?;
        self.keep_blob(file, &digest)?;
        Ok(digest)
    }

    /// A file for a blob whose digest is not known yet.
    pub(super) fn temporary_blob(&self) -> Result<NamedTempFile, RegistryError> {
        tempfile::Builder::new()
            .prefix(files::TEMPORARY)
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(&self.blobs)
            .map_err(RegistryError::file(&self.blobs))
    }

    /// Gives a blob its place.
    pub(super) fn keep_blob(&self, file: NamedTempFile, digest: &str) -> Result<(), RegistryError> {
        let path = self.blob_path(digest);
        match file.persist(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(RegistryError::file(&path)(error.error)),
        }
    }

    /// Names an image by its tags; a tag that stood for another image moves.
    pub fn tag(&self, image: &Converted, tags: &[String]) -> Result<(), RegistryError> {
        let mut manifests = self.manifests();
        manifests.retain(|manifest| {
            let name = manifest.pointer(&format!("/annotations/{REF_NAME}"));
            !name.and_then(Value::as_str).is_some_and(|name| tags.iter().any(|tag| tag == name))
        });
        manifests.extend(tags.iter().map(|tag| {
            json!({
                "mediaType": MANIFEST_TYPE,
                "digest": image.digest,
                "size": image.bytes.len(),
                "annotations": { REF_NAME: tag },
            })
        }));
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        self.write("index.json", &index)
    }

    /// Removes blobs that no tag leads to any more.
    pub fn remove_unused(&self) -> Result<(), RegistryError> {
        let mut used = HashSet::new();
        for manifest in self.manifests() {
            let Some(digest) = manifest.get("digest").and_then(Value::as_str) else {
                continue;
            };
            used.insert(self.blob_path(digest));
            let bytes = fs::read(self.blob_path(digest)).unwrap_or_default();
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
                let blobs = manifest.layers.iter().chain([&manifest.config]);
                used.extend(blobs.map(|blob| self.blob_path(&blob.digest)));
            }
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
