//! Reading the engine's export of an image: the tar stream of `docker save`, in the formats of all releases.

use super::RegistryError;
use super::blob::{BlobOptions, Sink, compress_layer, copy};
use super::compress::read_block;
use super::manifest::{Descriptor, GZIP_LAYER_TYPE, ZSTD_LAYER_TYPE, chain_ids, diff_ids, digest_of};
use super::source::{Exported, assemble};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The file name of layers in exports before Docker 25, and the directory of blobs in exports since.
const LAYER: &str = "/layer.tar";
const BLOBS: &str = "blobs/sha256/";
/// The largest JSON document of an export, in bytes. A larger file is a layer.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// One entry of the export's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    /// Absent for an image without layers: Go writes an empty list as null.
    layers: Option<Vec<String>>,
}

/// The content of an export under a path.
enum Content {
    Document(Vec<u8>),
    /// A layer, with its diff id if it is known without decompressing it.
    Layer(Option<String>, Descriptor),
    Link(String),
}

/// Reads an export. Layers with known blobs are skipped.
pub(crate) fn read_export(
    export: impl Read,
    making: &BlobOptions,
    sink: &Sink<'_>,
) -> Result<Exported, RegistryError> {
    let mut reading = ExportReader { making, chains: chain_ids(&making.layers), contents: HashMap::new() };
    let mut archive = tar::Archive::new(export);
    for entry in archive.entries().map_err(RegistryError::Stream)? {
        reading.entry(entry.map_err(RegistryError::Stream)?, sink)?;
    }
    reading.finish(sink)
}

struct ExportReader<'a> {
    making: &'a BlobOptions,
    /// The chain ids of the image's layers.
    chains: Vec<String>,
    contents: HashMap<String, Content>,
}

impl ExportReader<'_> {
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

    /// Returns the layer under a path, if the path identifies it and its blob is known.
    fn known(&self, path: &str) -> Option<(String, Descriptor)> {
        let diff_id = if let Some(hex) = path.strip_prefix(BLOBS) {
            // Since Docker 25: an OCI layout, whose layers are not compressed.
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
        // Containerd's image store keeps layers compressed, under the digest of the compressed blob. Such a layer is
        // copied. A layer under its diff id is not compressed, even if it begins like a compressed file.
        let digest = path.strip_prefix(BLOBS).map(|hex| format!("sha256:{hex}"));
        if let Some(digest) = digest.filter(|digest| !self.making.layers.contains(digest)) {
            let media_type = match head {
                head if head.starts_with(&GZIP_MAGIC) => Some(GZIP_LAYER_TYPE),
                head if head == ZSTD_MAGIC => Some(ZSTD_LAYER_TYPE),
                _ => None,
            };
            if let Some(media_type) = media_type {
                return Ok(Content::Layer(None, copy(&mut whole, &digest, media_type, sink)?));
            }
        }
        let (diff_id, blob) = compress_layer(&mut whole, self.making, None, sink)?;
        Ok(Content::Layer(Some(diff_id), blob))
    }

    /// Creates the manifest after everything has been read.
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
        let paths = image.layers.unwrap_or_default();
        if expected.len() != paths.len() {
            return Err(missing("a layer"));
        }
        let mut layers = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let made;
            let layer = match self.find(path) {
                // A small layer that looked like a JSON document.
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
                let text = format!("the layer {path} is not the one in the configuration");
                return Err(RegistryError::Export(text));
            }
            layers.push(blob.clone());
        }
        assemble(config, layers, sink)
    }

    fn find(&self, path: &str) -> Option<&Content> {
        match self.contents.get(path)? {
            // Links lead to files, not to further links.
            Content::Link(target) => self.contents.get(target),
            content => Some(content),
        }
    }
}

/// Resolves the target of a symbolic link to a path in the archive.
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

/// Returns the layer that a directory of an export before Docker 25 holds. The name of the directory is the digest of
/// its `json` with the chain id of the layer instead of the id (moby, `image/v1/imagev1.go`), so only the right chain
/// id results in the name.
fn position(directory: &str, json: &[u8], chains: &[String]) -> Option<usize> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json).ok()?;
    fields.remove("id");
    // The file has only the hexadecimal part, but the hash includes the whole digest.
    if let Some(parent) = fields.get("parent") {
        let parent: String = serde_json::from_str(parent.get()).ok()?;
        fields.insert("parent".to_owned(), to_raw_value(&format!("sha256:{parent}")).ok()?);
    }
    // Docker adds it after hashing, unless the configuration already had it.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// From an export of Docker 20.10.24: the directories of a base layer and of two layers on top, with their `json`.
    #[test]
    fn directories_of_older_exports_identify_their_layer() {
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
            // Other images do not match.
            assert_eq!(position(directory, json.as_bytes(), &chains[..at]), None);
        }
    }
}
