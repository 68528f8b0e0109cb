//! Blobs as they are made: of layers that are compressed or taken over as they are.

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

/// How much is copied at a time, in bytes.
const PIECE: usize = 1024 * 1024;

/// How the blobs of an image are made.
#[derive(Debug, Clone)]
pub(crate) struct Making {
    /// The digests of the image's layers before compression, the base first, as the engine tells them.
    pub(crate) layers: Vec<String>,
    /// Layers whose blobs need not be made, by that digest.
    pub(crate) known: HashMap<String, Descriptor>,
    /// How the others are compressed.
    pub(crate) compression: Compression,
    /// On how many threads.
    pub(crate) threads: usize,
    /// How many bytes of layers have been read.
    pub(crate) read: Arc<AtomicU64>,
}

impl Making {
    pub(crate) fn new(
        layers: Vec<String>,
        known: HashMap<String, Descriptor>,
        compression: Compression,
    ) -> Self {
        Self { layers, known, compression, threads: compress::cores(), read: Arc::default() }
    }
}

/// A blob that has been made, in a file that goes unless somebody keeps it.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) descriptor: Descriptor,
    file: File,
    /// The file's name, where it has one.
    name: Option<TempPath>,
}

impl Blob {
    /// Where its bytes can be read.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.to_path_buf(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
        }
    }

    /// Gives it a place where it stays.
    pub(crate) fn keep(self, path: &Path) -> io::Result<()> {
        match self.name {
            Some(name) => name.persist(path).map_err(|error| error.error),
            None => fs::copy(self.path(), path).map(drop),
        }
    }
}

/// Where blobs are made, and who gets them.
pub(crate) struct Sink<'a> {
    pub(crate) directory: &'a Path,
    /// The blobs stay in the directory, and so need names until they have their own.
    pub(crate) stay: bool,
    pub(crate) emit: &'a (dyn Fn(Blob) -> Result<(), RegistryError> + Sync),
}

/// Makes a layer's blob; the digest is that before compression, and may be known.
pub(crate) fn compress_layer(
    archive: &mut dyn Read,
    making: &Making,
    expected: Option<&str>,
    sink: &Sink<'_>,
) -> Result<(String, Descriptor), RegistryError> {
    let Making { compression, threads, .. } = *making;
    let mut blob = BlobWriter::new(sink)?;
    let mut counted = Counted { archive, read: &making.read };
    let diff_id = compress::compress(&mut counted, compression, threads, &mut |member| blob.write(member))?;
    if let Some(expected) = expected.filter(|expected| **expected != *diff_id) {
        return Err(RegistryError::Export(format!("what should be the layer {expected} is {diff_id}")));
    }
    let blob = blob.finish(compression.media_type());
    let blob = Blob { descriptor: blob.descriptor.made_by(compression), ..blob };
    let descriptor = blob.descriptor.clone();
    (sink.emit)(blob)?;
    Ok((diff_id, descriptor))
}

/// Takes a blob over whose name has its digest.
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
        return Err(RegistryError::Export(format!("what should be {digest} is {}", descriptor.digest)));
    }
    (sink.emit)(blob)?;
    Ok(descriptor)
}

/// Counts what is read of a layer.
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
            // Without a name it is gone however this process ends.
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
