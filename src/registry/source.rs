//! Reading an image of the engine, in parts or from its export, and creating its blobs.

use super::RegistryError;
use super::blob::{BlobOptions, BlobWriter, Sink, compress_layer};
use super::export::read_export;
use super::manifest::{CONFIG_TYPE, Descriptor, Stored, diff_ids, digest_of};
use crate::exit;
use std::io::{self, Read};

/// A blocking reader.
pub(crate) type Bytes = Box<dyn Read + Send>;

/// The source of an image.
pub(crate) struct ImageSource {
    /// Its parts, if they can be read separately.
    pub(crate) parts: Option<Parts>,
    /// Starts its export, for images without parts or with unexpected ones.
    pub(crate) export: Box<dyn FnOnce() -> Bytes + Send>,
}

/// An image in parts.
pub(crate) struct Parts {
    /// Its id, which is the digest of its configuration.
    pub(crate) id: String,
    pub(crate) config: Vec<u8>,
    /// The archives of its layers, the base first.
    pub(crate) layers: Vec<Open>,
}

/// Opens the archive of a layer.
pub(crate) type Open = Box<dyn FnOnce() -> io::Result<Bytes> + Send>;

/// An image that has been read.
#[derive(Debug, Clone)]
pub(crate) struct Exported {
    pub(crate) manifest: Stored,
    /// The blobs of its layers, the base first, followed by its configuration.
    pub(crate) blobs: Vec<Descriptor>,
    /// Why its parts could not be used.
    pub(crate) parts_failed: Option<String>,
}

/// Reads an image. New blobs go to the sink as they are created; known ones are skipped.
pub(crate) fn read(
    source: ImageSource,
    making: &BlobOptions,
    sink: &Sink<'_>,
) -> Result<Exported, RegistryError> {
    let ImageSource { parts, export } = source;
    let Some(parts) = parts else { return read_export(export(), making, sink) };
    let mut making = making.clone();
    match read_parts(parts, &mut making, sink) {
        Err(error @ (RegistryError::Stream(_) | RegistryError::Export(_))) => {
            // The blobs created so far are known now.
            let exported = read_export(export(), &making, sink)?;
            let cause = format!("the engine's storage could not be used ({})", exit::chain(&error));
            Ok(Exported { parts_failed: Some(cause), ..exported })
        }
        exported => exported,
    }
}

fn read_parts(parts: Parts, making: &mut BlobOptions, sink: &Sink<'_>) -> Result<Exported, RegistryError> {
    let Parts { id, config, layers } = parts;
    let is_whole = layers.len() == making.layers.len()
        && diff_ids(&config).is_ok_and(|digests| digests == making.layers);
    if digest_of(&config) != id || !is_whole {
        return Err(RegistryError::Export("the configuration does not belong to the image".to_owned()));
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
    assemble(&config, blobs, sink)
}

/// Creates the blob of the configuration, and the manifest.
pub(crate) fn assemble(
    config: &[u8],
    layers: Vec<Descriptor>,
    sink: &Sink<'_>,
) -> Result<Exported, RegistryError> {
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

#[cfg(test)]
mod tests {
    use super::super::blob::Blob;
    use super::super::compress::Compression;
    use super::*;
    use std::collections::HashMap;
    use std::fs;

    fn config(layer: &[u8]) -> Vec<u8> {
        let diff_id = digest_of(layer);
        format!("{{\"rootfs\":{{\"diff_ids\":[\"{diff_id}\",\"{diff_id}\"]}}}}").into_bytes()
    }

    /// Returns an export whose second layer equals the first one.
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

    fn source(export: &[u8], parts: Option<Parts>) -> ImageSource {
        let export = io::Cursor::new(export.to_owned());
        ImageSource { parts, export: Box::new(|| Box::new(export)) }
    }

    fn exported(
        source: ImageSource,
        layers: Vec<String>,
    ) -> Result<(Exported, Vec<Descriptor>), RegistryError> {
        let directory = tempfile::tempdir().unwrap();
        let making = BlobOptions::new(layers, HashMap::new(), Compression::Gzip);
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
        // With unexpected parts the export is read instead. No blob is created twice.
        let gone = || Err(io::Error::other("gone"));
        for (wrong, cause) in [
            (parts(LAYER, [Ok(&[8; 100]), Ok(LAYER)]), "expected the layer"),
            (parts(LAYER, [gone(), gone()]), "gone"),
        ] {
            let (image, _) = of(wrong, &export(LAYER)).unwrap();
            assert_eq!(image.manifest.digest, whole.manifest.digest);
            assert!(image.parts_failed.unwrap().contains(cause));
        }
        let other = Parts { id: digest_of(b"other"), ..parts(LAYER, [Ok(LAYER), Ok(LAYER)]) };
        assert!(of(other, b"").unwrap_err().to_string().contains("manifest.json is missing"));
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
