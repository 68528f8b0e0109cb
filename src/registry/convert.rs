//! From the engine's export of an image to content-addressed blobs: configuration, compressed layers, manifest.
//!
//! The same image gives the same manifest on every machine: layers are cut into blocks of fixed size, and every block is
//! a gzip member of its own, so the number of threads does not show.

use super::layout::Layout;
use super::{RegistryError, sha256_name};
use aws_lc_rs::digest::{Context, SHA256, digest};
use libdeflater::{CompressionLvl, Compressor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

/// The media type of an image's manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD_LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Part of the format: changing it changes every digest. In bytes.
const BLOCK: usize = 1024 * 1024;
/// Part of the format as well. 3 is near zlib's 6 in size at a multiple of its speed.
const LEVEL: i32 = 3;
/// JSON documents of an export are smaller; anything larger is a layer. In bytes.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// A blob by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    /// In bytes.
    pub size: u64,
}

/// An OCI image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// Its layers, the base first.
    pub layers: Vec<Descriptor>,
}

/// An image whose blobs are all in a layout.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The manifest's digest, which names the image.
    pub digest: String,
    /// The manifest as it is stored and sent.
    pub bytes: Vec<u8>,
    /// The same, to look into.
    pub manifest: Manifest,
}

/// One entry of the export's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exported {
    config: String,
    layers: Vec<String>,
}

/// What an export holds under a path.
enum Content {
    Document(Vec<u8>),
    Layer(Descriptor),
    Link(String),
}

/// Reads an export (the tar stream of `docker save`) and puts the image's blobs into the layout.
pub fn convert(export: impl Read, layout: &Layout) -> Result<Converted, RegistryError> {
    let invalid = |error: io::Error| RegistryError::Export(error.to_string());
    let mut contents = HashMap::new();
    let mut archive = tar::Archive::new(export);
    for entry in archive.entries().map_err(invalid)? {
        let mut entry = entry.map_err(invalid)?;
        let path = entry.path().map_err(invalid)?.to_string_lossy().into_owned();
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(invalid)?.unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let target = if kind.is_symlink() { resolve(&path, &target) } else { target };
            contents.insert(path, Content::Link(target));
        } else if kind.is_file() {
            let content = read_content(&mut entry, layout)?;
            contents.insert(path, content);
        }
    }
    let exported = exported(&contents)?;
    let Some(Content::Document(config)) = find(&contents, &exported.config) else {
        return Err(RegistryError::Export("the image's configuration is missing".to_owned()));
    };
    let config_digest = layout.write_blob(config)?;
    let layers = exported
        .layers
        .iter()
        .map(|path| match find(&contents, path) {
            Some(Content::Layer(descriptor)) => Ok(descriptor.clone()),
            Some(Content::Document(bytes)) => compress(&mut bytes.as_slice(), layout),
            _ => Err(RegistryError::Export(format!("the layer {path} is missing"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE.to_owned(),
        config: Descriptor {
            media_type: CONFIG_TYPE.to_owned(),
            digest: config_digest,
            size: config.len() as u64,
        },
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|error| RegistryError::Export(error.to_string()))?;
    let digest = layout.write_blob(&bytes)?;
    Ok(Converted { digest, bytes, manifest })
}

fn exported(contents: &HashMap<String, Content>) -> Result<Exported, RegistryError> {
    let Some(Content::Document(bytes)) = contents.get("manifest.json") else {
        return Err(RegistryError::Export("it has no manifest.json".to_owned()));
    };
    let images: Vec<Exported> =
        serde_json::from_slice(bytes).map_err(|error| RegistryError::Export(error.to_string()))?;
    images.into_iter().next().ok_or_else(|| RegistryError::Export("it holds no image".to_owned()))
}

fn find<'c>(contents: &'c HashMap<String, Content>, path: &str) -> Option<&'c Content> {
    match contents.get(path)? {
        // Links lead to files, not to further links.
        Content::Link(target) => contents.get(target),
        content => Some(content),
    }
}

/// A symbolic link's target as a path of the archive.
fn resolve(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn read_content<R: Read>(entry: &mut tar::Entry<'_, R>, layout: &Layout) -> Result<Content, RegistryError> {
    let invalid = |error: io::Error| RegistryError::Export(error.to_string());
    let size = entry.header().size().map_err(invalid)?;
    let mut head = [0; 4];
    let mut length = 0;
    while length < head.len() {
        match entry.read(&mut head[length..]).map_err(invalid)? {
            0 => break,
            read => length += read,
        }
    }
    let head = &head[..length];
    let mut whole = head.chain(entry);
    if size <= MAX_DOCUMENT && head.first().is_none_or(|byte| b"{[".contains(byte)) {
        let mut bytes = Vec::new();
        whole.read_to_end(&mut bytes).map_err(invalid)?;
        return Ok(Content::Document(bytes));
    }
    // Compressed already, as containerd's image store keeps layers: it stays what it is.
    if head.starts_with(&GZIP_MAGIC) {
        return copy(&mut whole, layout, LAYER_TYPE).map(Content::Layer);
    }
    if head == ZSTD_MAGIC {
        return copy(&mut whole, layout, ZSTD_LAYER_TYPE).map(Content::Layer);
    }
    compress(&mut whole, layout).map(Content::Layer)
}

/// A file of a layout under construction, hashed as it is written.
struct BlobWriter {
    file: tempfile::NamedTempFile,
    hash: Context,
    size: u64,
}

impl BlobWriter {
    fn new(layout: &Layout) -> Result<Self, RegistryError> {
        Ok(Self { file: layout.temporary_blob()?, hash: Context::new(&SHA256), size: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        let file: &mut File = self.file.as_file_mut();
        file.write_all(bytes).map_err(RegistryError::file(self.file.path()))
    }

    fn finish(self, layout: &Layout, media_type: &str) -> Result<Descriptor, RegistryError> {
        let digest = sha256_name(&self.hash.finish());
        layout.keep_blob(self.file, &digest)?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size: self.size })
    }
}

fn copy(source: &mut dyn Read, layout: &Layout, media_type: &str) -> Result<Descriptor, RegistryError> {
    let mut blob = BlobWriter::new(layout)?;
    let mut buffer = vec![0; BLOCK];
    loop {
        match read_block(source, &mut buffer)? {
            0 => return blob.finish(layout, media_type),
            length => blob.write(&buffer[..length])?,
        }
    }
}

/// Compresses a layer, a few blocks side by side.
fn compress(source: &mut dyn Read, layout: &Layout) -> Result<Descriptor, RegistryError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    let mut blob = BlobWriter::new(layout)?;
    let mut blocks: Vec<(Vec<u8>, usize)> = (0..threads).map(|_| (vec![0; BLOCK], 0)).collect();
    let mut first = true;
    loop {
        let mut filled = 0;
        for (block, length) in &mut blocks {
            *length = read_block(source, block)?;
            if *length == 0 {
                break;
            }
            filled += 1;
        }
        if filled == 0 && !first {
            return blob.finish(layout, LAYER_TYPE);
        }
        // An empty layer is one empty member, not an empty file.
        let batch = &blocks[..filled.max(usize::from(first))];
        first = false;
        let members: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                batch.iter().map(|(block, length)| scope.spawn(|| gzip_member(&block[..*length]))).collect();
            workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for member in members {
            let member = member.map_err(|_| RegistryError::Export("compression failed".to_owned()))??;
            blob.write(&member)?;
        }
    }
}

fn gzip_member(block: &[u8]) -> Result<Vec<u8>, RegistryError> {
    let failed = || RegistryError::Export("compression failed".to_owned());
    let level = CompressionLvl::new(LEVEL).map_err(|_| failed())?;
    let mut compressor = Compressor::new(level);
    let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
    let length = compressor.gzip_compress(block, &mut member).map_err(|_| failed())?;
    member.truncate(length);
    Ok(member)
}

/// Fills the buffer as far as the source goes.
fn read_block(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, RegistryError> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RegistryError::Export(error.to_string())),
        }
    }
    Ok(length)
}

/// The digest of bytes, `sha256:…`.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    sha256_name(&digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(layer: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, bytes).unwrap();
        };
        add("l1/layer.tar", layer);
        add("c.json", b"{\"rootfs\":{}}");
        add("manifest.json", b"[{\"Config\":\"c.json\",\"Layers\":[\"l1/layer.tar\",\"l2/layer.tar\"]}]");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, "l2/layer.tar", "../l1/layer.tar").unwrap();
        archive.into_inner().unwrap()
    }

    fn converted(layer: &[u8]) -> (tempfile::TempDir, Converted) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        let converted = convert(export(layer).as_slice(), &layout).unwrap();
        (directory, converted)
    }

    #[test]
    fn an_export_becomes_blobs_that_decompress_to_the_layer() {
        let layer: Vec<u8> = (0..3 * BLOCK + 17).map(|at| at.to_le_bytes()[0] % 251).collect();
        let (directory, image) = converted(&layer);
        assert_eq!(image.manifest.layers.len(), 2);
        assert_eq!(image.manifest.layers[0], image.manifest.layers[1]);
        let hex = image.manifest.layers[0].digest.strip_prefix("sha256:").unwrap();
        let blob = std::fs::read(directory.path().join("blobs/sha256").join(hex)).unwrap();
        assert_eq!(digest_of(&blob), image.manifest.layers[0].digest);
        let gunzip = duct::cmd!("gzip", "-dc").stdin_bytes(blob).stdout_capture();
        let plain = gunzip.run().unwrap().stdout;
        assert_eq!(plain, layer);
    }

    #[test]
    fn the_digest_does_not_change_from_run_to_run() {
        let layer = vec![7; BLOCK + 1];
        assert_eq!(converted(&layer).1.digest, converted(&layer).1.digest);
    }

    #[test]
    fn an_export_without_its_parts_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(directory.path()).unwrap();
        assert!(convert(&b""[..], &layout).is_err());
    }
}
