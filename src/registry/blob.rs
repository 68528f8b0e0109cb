//! Creating blobs: layers are compressed, or copied if they already are.

use super::RegistryError;
use super::compress::{self, Compression, read_block};
use super::manifest::{Descriptor, sha256_name};
use crate::files;
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempPath;

/// The size of one copy operation, in bytes.
const PIECE: usize = 1024 * 1024;

/// How the blobs of an image are created.
#[derive(Debug, Clone)]
pub(crate) struct BlobOptions {
    /// The diff ids of the image's layers, the base first, from the engine.
    pub(crate) layers: Vec<String>,
    /// Blobs that already exist, by diff id.
    pub(crate) known: HashMap<String, Descriptor>,
    /// The compression of the other layers.
    pub(crate) compression: Compression,
    /// The number of threads for compression.
    pub(crate) threads: usize,
    /// Counts the bytes of layers that have been read.
    pub(crate) read: Arc<AtomicU64>,
}

impl BlobOptions {
    pub(crate) fn new(
        layers: Vec<String>,
        known: HashMap<String, Descriptor>,
        compression: Compression,
    ) -> Self {
        Self { layers, known, compression, threads: compress::cores(), read: Arc::default() }
    }
}

/// A new blob in a temporary file, which is deleted unless [`Blob::keep`] is called.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    file: File,
    /// The file's name, if it has one.
    name: Option<TempPath>,
}

impl Blob {
    /// Returns a path from which it can be read.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.to_path_buf(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
        }
    }

    /// Moves it to a permanent path.
    pub(crate) fn keep(self, path: &Path) -> io::Result<()> {
        match self.name {
            Some(name) => name.persist(path).map_err(|error| error.error),
            None => fs::copy(self.path(), path).map(drop),
        }
    }
}

/// The destination of new blobs.
pub(crate) struct Sink<'a> {
    pub(crate) directory: &'a Path,
    /// Whether the blobs stay in the directory. Then their files need temporary names.
    pub(crate) stay: bool,
    pub(crate) emit: &'a (dyn Fn(Blob) -> Result<(), RegistryError> + Sync),
}

/// Creates the blob of a layer. Returns the diff id, which is compared with the expected one, and the descriptor.
pub(crate) fn compress_layer(
    archive: &mut dyn Read,
    making: &BlobOptions,
    expected: Option<&str>,
    sink: &Sink<'_>,
) -> Result<(String, Descriptor), RegistryError> {
    let BlobOptions { compression, threads, .. } = *making;
    let mut blob = BlobWriter::new(sink)?;
    let mut counted = Counted { archive, read: &making.read };
    let diff_id = compress::compress(&mut counted, compression, threads, &mut |member| blob.write(member))?;
    if let Some(expected) = expected.filter(|expected| **expected != *diff_id) {
        return Err(RegistryError::Export(format!("expected the layer {expected}, but it is {diff_id}")));
    }
    let blob = blob.finish(compression.media_type());
    let blob = Blob { descriptor: blob.descriptor.compressed_with(compression), ..blob };
    let descriptor = blob.descriptor.clone();
    (sink.emit)(blob)?;
    Ok((diff_id, descriptor))
}

/// Copies an existing blob and verifies its digest.
pub(crate) fn copy(
    source: &mut dyn Read,
    digest: &str,
    media_type: &str,
    sink: &Sink<'_>,
) -> Result<Descriptor, RegistryError> {
    let mut blob = BlobWriter::new(sink)?;
    let mut buffer = vec![0; PIECE];
    loop {
        match read_block(source, &mut buffer)? {
            0 => break,
            length => blob.write(&buffer[..length])?,
        }
    }
    let blob = blob.finish(media_type);
    let descriptor = blob.descriptor.clone();
    if descriptor.digest != digest {
        return Err(RegistryError::Export(format!("expected {digest}, but it is {}", descriptor.digest)));
    }
    (sink.emit)(blob)?;
    Ok(descriptor)
}

/// Counts the bytes that are read.
struct Counted<'a> {
    archive: &'a mut dyn Read,
    read: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.archive.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// A blob under construction, hashed as it is written.
pub(crate) struct BlobWriter<'a> {
    file: File,
    name: Option<TempPath>,
    directory: &'a Path,
    hash: Context,
    size: u64,
}

impl<'a> BlobWriter<'a> {
    pub(crate) fn new(sink: &Sink<'a>) -> Result<Self, RegistryError> {
        let Sink { directory, stay, .. } = *sink;
        let file = if stay {
            let mode = fs::Permissions::from_mode(0o644);
            let named =
                tempfile::Builder::new().prefix(files::TEMPORARY).permissions(mode).tempfile_in(directory);
            named.map(tempfile::NamedTempFile::into_parts).map(|(file, name)| (file, Some(name)))
        } else {
            // A file without a name is deleted even if this process is killed.
            tempfile::tempfile_in(directory).map(|file| (file, None))
        };
        let (file, name) = file.map_err(RegistryError::file(directory))?;
        Ok(Self { file, name, directory, hash: Context::new(&SHA256), size: 0 })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(RegistryError::file(self.directory))
    }

    pub(crate) fn finish(self, media_type: &str) -> Blob {
        let digest = sha256_name(&self.hash.finish());
        Blob { descriptor: Descriptor::new(media_type, digest, self.size), file: self.file, name: self.name }
    }
}
