//! From an image of the engine, either as its layers or as its export (the tar stream of `docker save`), to the blobs that
//! registries keep: configuration, compressed layers, manifest.

use super::RegistryError;
use super::compress::{self, Compression, read_block};
use super::manifest::{
    CONFIG_TYPE, Descriptor, GZIP_LAYER_TYPE, Stored, ZSTD_LAYER_TYPE, diff_ids, digest_of, sha256_name,
};
use crate::exit;
use crate::files;
use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempPath;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What layers are called in an export before engine 25, and where they are in one since.
const LAYER: &str = "/layer.tar";
const BLOBS: &str = "blobs/sha256/";
/// JSON documents of an export are smaller; anything larger is a layer. In bytes.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;
/// How much is copied at a time, in bytes.
const PIECE: usize = 1024 * 1024;

/// Bytes that are read on a thread that may block.
pub type Bytes = Box<dyn Read + Send>;

/// Where an image is read from.
pub struct Source {
    /// Its parts, each by itself, where they can be had so.
    pub parts: Option<Parts>,
    /// Begins its export: for what has no parts, or parts that are not as they should be.
    pub export: Box<dyn FnOnce() -> Bytes + Send>,
}

/// An image in parts.
pub struct Parts {
    /// Its id, which is the digest of its configuration.
    pub id: String,
    /// Its configuration.
    pub config: Vec<u8>,
    /// What opens the archives of its layers, the base first.
    pub layers: Vec<Open>,
}

/// Opens the archive of a layer.
pub type Open = Box<dyn FnOnce() -> io::Result<Bytes> + Send>;

/// How the blobs of an image are made.
#[derive(Debug, Clone)]
pub struct Making {
    /// The digests of the image's layers before compression, the base first, as the engine tells them.
    pub layers: Vec<String>,
    /// Layers whose blobs need not be made, by that digest.
    pub known: HashMap<String, Descriptor>,
    /// How the others are compressed.
    pub compression: Compression,
    /// On how many threads.
    pub threads: usize,
    /// How many bytes of layers have been read.
    pub read: Arc<AtomicU64>,
}

impl Making {
    /// On all cores.
    pub fn new(layers: Vec<String>, known: HashMap<String, Descriptor>, compression: Compression) -> Self {
        Self { layers, known, compression, threads: compress::cores(), read: Arc::default() }
    }
}

/// A blob that has been made, in a file that goes unless somebody keeps it.
#[derive(Debug)]
pub struct Blob {
    /// What it is.
    pub descriptor: Descriptor,
    file: File,
    /// The file's name, where it has one.
    name: Option<TempPath>,
}

impl Blob {
    /// Where its bytes can be read.
    pub(super) fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.to_path_buf(),
            None => PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())),
        }
    }

    /// Gives it a place where it stays.
    pub(super) fn keep(self, path: &Path) -> io::Result<()> {
        match self.name {
            Some(name) => name.persist(path).map_err(|error| error.error),
            None => fs::copy(self.path(), path).map(drop),
        }
    }
}

/// An image that has been read.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its manifest.
    pub manifest: Stored,
    /// The blobs of its layers, the base first, and last its configuration.
    pub blobs: Vec<Descriptor>,
    /// Why its parts could not be used, where there were any.
    pub parts_failed: Option<String>,
}

/// Where blobs are made, and who gets them.
pub(super) struct Sink<'a> {
    pub(super) directory: &'a Path,
    /// The blobs stay in the directory, and so need names until they have their own.
    pub(super) stay: bool,
    pub(super) emit: &'a (dyn Fn(Blob) -> Result<(), RegistryError> + Sync),
}

/// One entry of the export's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    layers: Vec<String>,
}

/// What an export holds under a path.
enum Content {
    Document(Vec<u8>),
    /// A layer with its diff-id, where that is known without taking it apart.
    Layer(Option<String>, Descriptor),
    Link(String),
}

/// Reads an image. Blobs go to the sink as they are made; those that are known are only passed over.
pub(super) fn read(source: Source, making: &Making, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
    let Source { parts, export } = source;
    let Some(parts) = parts else { return read_export(export(), making, sink) };
    let mut making = making.clone();
    match read_parts(parts, &mut making, sink) {
        Err(error @ (RegistryError::Stream(_) | RegistryError::Export(_))) => {
            // What was made until then is known now.
            let exported = read_export(export(), &making, sink)?;
            let cause = format!("the engine's storage could not be used ({})", exit::chain(&error));
            Ok(Exported { parts_failed: Some(cause), ..exported })
        }
        exported => exported,
    }
}

fn read_parts(parts: Parts, making: &mut Making, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
    let Parts { id, config, layers } = parts;
    let is_whole = layers.len() == making.layers.len()
        && diff_ids(&config).is_ok_and(|digests| digests == making.layers);
    if digest_of(&config) != id || !is_whole {
        return Err(RegistryError::Export("the configuration is not the image's".to_owned()));
    }
    let mut blobs = Vec::new();
    for (digest, open) in making.layers.clone().into_iter().zip(layers) {
        if !making.known.contains_key(&digest) {
            let mut archive = open().map_err(RegistryError::Stream)?;
            let (_, blob) = compress_layer(&mut archive, making, Some(&digest), sink)?;
            making.known.insert(digest.clone(), blob);
        }
        blobs.extend(making.known.get(&digest).cloned());
    }
    put_together(&config, blobs, sink)
}

fn read_export(export: impl Read, making: &Making, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
    let mut reading = Reading { making, chains: chain_ids(&making.layers), contents: HashMap::new() };
    let mut archive = tar::Archive::new(export);
    for entry in archive.entries().map_err(RegistryError::Stream)? {
        reading.entry(entry.map_err(RegistryError::Stream)?, sink)?;
    }
    reading.finish(sink)
}

struct Reading<'a> {
    making: &'a Making,
    /// The chain ids of the image's layers.
    chains: Vec<String>,
    contents: HashMap<String, Content>,
}

impl Reading<'_> {
    fn entry<R: Read>(&mut self, mut entry: tar::Entry<'_, R>, sink: &Sink<'_>) -> Result<(), RegistryError> {
        let path = entry.path().map_err(RegistryError::Stream)?.to_string_lossy().into_owned();
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(RegistryError::Stream)?.unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let target = if kind.is_symlink() { resolve(&path, &target) } else { target };
            self.contents.insert(path, Content::Link(target));
        } else if kind.is_file() {
            let content = match self.known(&path) {
                Some((diff_id, blob)) => Content::Layer(Some(diff_id), blob),
                None if path.ends_with(LAYER) || path.starts_with(BLOBS) => {
                    self.content(&path, &mut entry, sink)?
                }
                None => {
                    let mut bytes = Vec::new();
                    entry.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(RegistryError::Stream)?;
                    Content::Document(bytes)
                }
            };
            self.contents.insert(path, content);
        }
        Ok(())
    }

    /// The layer under a path, where its name says which one it is and its blob is known.
    fn known(&self, path: &str) -> Option<(String, Descriptor)> {
        let diff_id = if let Some(hex) = path.strip_prefix(BLOBS) {
            // Engines from 25 on: an OCI layout, whose layers are not compressed.
            format!("sha256:{hex}")
        } else {
            let directory = path.strip_suffix(LAYER)?;
            let Content::Document(json) = self.contents.get(&format!("{directory}/json"))? else {
                return None;
            };
            let at = position(directory, json, &self.chains)?;
            self.making.layers.get(at)?.clone()
        };
        let blob = self.making.known.get(&diff_id)?.clone();
        Some((diff_id, blob))
    }

    fn content<R: Read>(
        &self,
        path: &str,
        entry: &mut tar::Entry<'_, R>,
        sink: &Sink<'_>,
    ) -> Result<Content, RegistryError> {
        let size = entry.header().size().map_err(RegistryError::Stream)?;
        let mut head = [0; 4];
        let length = read_block(entry, &mut head)?;
        let head = &head[..length];
        let mut whole = head.chain(entry);
        if size <= MAX_DOCUMENT && head.first().is_none_or(|byte| b"{[".contains(byte)) {
            let mut bytes = Vec::new();
            whole.read_to_end(&mut bytes).map_err(RegistryError::Stream)?;
            return Ok(Content::Document(bytes));
        }
        // Compressed already, as containerd's image store keeps layers: it stays what it is, which its name tells. A layer that is
        // called by its digest before compression is not compressed, however it begins.
        let digest = path.strip_prefix(BLOBS).map(|hex| format!("sha256:{hex}"));
        if let Some(digest) = digest.filter(|digest| !self.making.layers.contains(digest)) {
            if head.starts_with(&GZIP_MAGIC) {
                return copy(&mut whole, &digest, GZIP_LAYER_TYPE, sink);
            }
            if head == ZSTD_MAGIC {
                return copy(&mut whole, &digest, ZSTD_LAYER_TYPE, sink);
            }
        }
        let (diff_id, blob) = compress_layer(&mut whole, self.making, None, sink)?;
        Ok(Content::Layer(Some(diff_id), blob))
    }

    /// Puts the manifest together, when everything has been read.
    fn finish(self, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
        let missing = |what: &str| RegistryError::Export(format!("{what} is missing"));
        let Some(Content::Document(bytes)) = self.contents.get("manifest.json") else {
            return Err(missing("manifest.json"));
        };
        let broken = |error: serde_json::Error| RegistryError::Export(error.to_string());
        let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(broken)?;
        let image = entries.into_iter().next().ok_or_else(|| missing("the image"))?;
        let Some(Content::Document(config)) = self.find(&image.config) else {
            return Err(missing("the image's configuration"));
        };
        let expected = diff_ids(config).map_err(broken)?;
        if expected.len() != image.layers.len() {
            return Err(missing("a layer"));
        }
        let mut layers = Vec::new();
        for (at, path) in image.layers.iter().enumerate() {
            let made;
            let layer = match self.find(path) {
                // A small layer whose first file has such a name.
                Some(Content::Document(bytes)) => {
                    let (diff_id, blob) = compress_layer(&mut bytes.as_slice(), self.making, None, sink)?;
                    made = Content::Layer(Some(diff_id), blob);
                    Some(&made)
                }
                layer => layer,
            };
            let Some(Content::Layer(diff_id, blob)) = layer else {
                return Err(missing(&format!("the layer {path}")));
            };
            if diff_id.as_ref().is_some_and(|found| expected.get(at) != Some(found)) {
                let text = format!("the layer {path} is not the one that the configuration names");
                return Err(RegistryError::Export(text));
            }
            layers.push(blob.clone());
        }
        put_together(config, layers, sink)
    }

    fn find(&self, path: &str) -> Option<&Content> {
        match self.contents.get(path)? {
            // Links lead to files, not to further links.
            Content::Link(target) => self.contents.get(target),
            content => Some(content),
        }
    }
}

/// Makes a layer's blob; the digest is that before compression, and may be known.
fn compress_layer(
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

/// Makes the configuration's blob, and the manifest.
fn put_together(config: &[u8], layers: Vec<Descriptor>, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
    let mut blob = BlobWriter::new(sink)?;
    blob.write(config)?;
    let blob = blob.finish(CONFIG_TYPE);
    let config = blob.descriptor.clone();
    (sink.emit)(blob)?;
    let manifest = Stored::image(config.clone(), layers.clone())?;
    let mut blobs = layers;
    blobs.push(config);
    Ok(Exported { manifest, blobs, parts_failed: None })
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

/// The chain ids of layers, the base first: <https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid>.
pub fn chain_ids(layers: &[String]) -> Vec<String> {
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

/// Which layer is in a directory of an export before engine 25. The directory is called by the digest of its `json` (moby,
/// `image/v1/imagev1.go`) with the layer's chain id in place of the id, so that only the right chain id leads to that name.
fn position(directory: &str, json: &[u8], chains: &[String]) -> Option<usize> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json).ok()?;
    fields.remove("id");
    // Written as its hexadecimal form alone, and hashed as a digest.
    if let Some(parent) = fields.get("parent") {
        let parent: String = serde_json::from_str(parent.get()).ok()?;
        fields.insert("parent".to_owned(), to_raw_value(&format!("sha256:{parent}")).ok()?);
    }
    // Added after the digest was made, unless the configuration had it before.
    let os = fields.get("os").cloned();
    chains.iter().position(|chain| {
        let Ok(chain) = to_raw_value(chain) else { return false };
        fields.insert("layer_id".to_owned(), chain);
        [os.as_ref(), None].into_iter().any(|os| {
            match os {
                Some(os) => fields.insert("os".to_owned(), os.clone()),
                None => fields.remove("os"),
            };
            let digest = serde_json::to_vec(&fields).map(|bytes| digest_of(&bytes));
            digest.is_ok_and(|digest| digest.strip_prefix("sha256:") == Some(directory))
        })
    })
}

/// A blob under construction, hashed as it is written.
struct BlobWriter<'a> {
    file: File,
    name: Option<TempPath>,
    directory: &'a Path,
    hash: Context,
    size: u64,
}

impl<'a> BlobWriter<'a> {
    fn new(sink: &Sink<'a>) -> Result<Self, RegistryError> {
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

    fn write(&mut self, bytes: &[u8]) -> Result<(), RegistryError> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(RegistryError::file(self.directory))
    }

    fn finish(self, media_type: &str) -> Blob {
        let digest = sha256_name(&self.hash.finish());
        Blob { descriptor: Descriptor::new(media_type, digest, self.size), file: self.file, name: self.name }
    }
}

/// Takes a blob over whose name has its digest.
fn copy(
    source: &mut dyn Read,
    digest: &str,
    media_type: &str,
    sink: &Sink<'_>,
) -> Result<Content, RegistryError> {
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
    Ok(Content::Layer(None, descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(layer: &[u8]) -> Vec<u8> {
        let diff_id = digest_of(layer);
        format!("{{\"rootfs\":{{\"diff_ids\":[\"{diff_id}\",\"{diff_id}\"]}}}}").into_bytes()
    }

    /// An export whose second layer is the first one again.
    fn export(layer: &[u8]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, bytes).unwrap();
        };
        add("l1/layer.tar", layer);
        add("c.json", &config(layer));
        add("manifest.json", b"[{\"Config\":\"c.json\",\"Layers\":[\"l1/layer.tar\",\"l2/layer.tar\"]}]");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, "l2/layer.tar", "../l1/layer.tar").unwrap();
        archive.into_inner().unwrap()
    }

    fn source(export: &[u8], parts: Option<Parts>) -> Source {
        let export = io::Cursor::new(export.to_owned());
        Source { parts, export: Box::new(|| Box::new(export)) }
    }

    fn exported(source: Source, layers: Vec<String>) -> Result<(Exported, Vec<Descriptor>), RegistryError> {
        let directory = tempfile::tempdir().unwrap();
        let making = Making::new(layers, HashMap::new(), Compression::Gzip);
        let made = std::sync::Mutex::new(Vec::new());
        let emit = |blob: Blob| {
            assert_eq!(digest_of(&fs::read(blob.path()).unwrap()), blob.descriptor.digest);
            made.lock().unwrap().push(blob.descriptor);
            Ok(())
        };
        let exported =
            read(source, &making, &Sink { directory: directory.path(), stay: false, emit: &emit })?;
        Ok((exported, made.into_inner().unwrap()))
    }

    /// Of the image of [`export`], with archives that may be others.
    fn parts(layer: &[u8], archives: [io::Result<&'static [u8]>; 2]) -> Parts {
        let config = config(layer);
        let open = |archive: io::Result<&'static [u8]>| -> Open { Box::new(move || Ok(Box::new(archive?))) };
        Parts { id: digest_of(&config), config, layers: archives.into_iter().map(open).collect() }
    }

    #[test]
    fn a_layer_that_is_there_twice_is_one_blob() {
        let (image, made) = exported(source(&export(&[7; 100]), None), Vec::new()).unwrap();
        assert_eq!(image.blobs.len(), 3);
        assert_eq!(image.blobs[0], image.blobs[1]);
        assert_eq!(made, image.blobs[1..]);
    }

    #[test]
    fn an_image_in_parts_is_the_same_as_its_export() {
        const LAYER: &[u8] = &[7; 100];
        let layers = vec![digest_of(LAYER); 2];
        let (whole, made) = exported(source(&export(LAYER), None), Vec::new()).unwrap();
        let of = |parts, export: &[u8]| exported(source(export, Some(parts)), layers.clone());
        let (image, parts_made) = of(parts(LAYER, [Ok(LAYER), Ok(LAYER)]), b"").unwrap();
        assert_eq!(image.manifest.digest, whole.manifest.digest);
        assert_eq!((image.blobs, parts_made, image.parts_failed), (whole.blobs, made, None));
        // Parts that are not as they should be are no failure where there is an export, nor is one made twice.
        let gone = || Err(io::Error::other("gone"));
        for (wrong, cause) in [
            (parts(LAYER, [Ok(&[8; 100]), Ok(LAYER)]), "should be the layer"),
            (parts(LAYER, [gone(), gone()]), "gone"),
        ] {
            let (image, _) = of(wrong, &export(LAYER)).unwrap();
            assert_eq!(image.manifest.digest, whole.manifest.digest);
            assert!(image.parts_failed.unwrap().contains(cause));
        }
        let other = Parts { id: digest_of(b"other"), ..parts(LAYER, [Ok(LAYER), Ok(LAYER)]) };
        assert!(of(other, b"").unwrap_err().to_string().contains("manifest.json is missing"));
    }

    /// Taken from an export of Docker 20.10.24: the directories of a base and of two layers on it, with what is beside them.
    #[test]
    fn directories_of_older_exports_tell_their_layer() {
        let empty = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}"#;
        let config = empty.replace(
            r#""Env":null,"Cmd":null"#,
            r#""Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]"#,
        );
        let chains = [
            "sha256:e11a8191e43e23471f32aa37080b3211788a895c48be48991db1493defd60777",
            "sha256:b5f37161e1f4070305d3fbfc68c5423040b512f5b0760e904af8d352a8428839",
            "sha256:f20a56267829df1857cd90c02ffacebe40b7c0aca5835a05da6efba121f46edd",
        ]
        .map(ToOwned::to_owned);
        let old = format!(r#""created":"1970-01-01T00:00:00Z","container_config":{empty},"os":"linux""#);
        let base = "541484a61dcc6bb5293c578782d26970ca1b67ac0d7c52a6cfadf1d3b70787c9";
        let second = "09e0edcd9accec3e3fe6d6dc728faae925802485547c44e75eb8821513542c57";
        let top = "21433afdf0d85a98994493b34d61f205fb4b31aef99f55f31c824e93409f895f";
        let cases = [
            (base, format!(r#"{{"id":"{base}",{old}}}"#)),
            (second, format!(r#"{{"id":"{second}","parent":"{base}",{old}}}"#)),
            (
                top,
                format!(
                    r#"{{"id":"{top}","parent":"{second}","created":"2026-11-21T20:31:11.090354948Z","container_config":{empty},"config":{config},"architecture":"amd64","os":"linux"}}"#
                ),
            ),
        ];
        for (at, (directory, json)) in cases.iter().enumerate() {
            assert_eq!(position(directory, json.as_bytes(), &chains), Some(at));
            // Of another image there is none.
            assert_eq!(position(directory, json.as_bytes(), &chains[..at]), None);
        }
    }

    #[test]
    fn a_layer_that_is_not_the_configurations_is_refused() {
        let mut bytes = export(&[7; 100]);
        let at = bytes.iter().position(|byte| *byte == 7).unwrap();
        bytes[at] = 8;
        assert!(
            exported(source(&bytes, None), Vec::new()).unwrap_err().to_string().contains("is not the one")
        );
        assert!(
            exported(source(b"", None), Vec::new())
                .unwrap_err()
                .to_string()
                .contains("manifest.json is missing")
        );
    }
}
