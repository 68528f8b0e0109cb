//! Reading images directly from the engine's storage directory, if it is on this machine and readable. For an export,
//! in contrast, the engine writes a copy of the whole image to disk before it sends the first byte (moby#39464).
//!
//! The layout is that of moby's `image/fs.go` and `layer/filestore.go`, unchanged since Docker 1.10. The archive of a
//! layer is assembled from its files and from the metadata that `tar-split` kept of the original archive
//! (vbatts/tar-split, `archive/storage/entry.go`). Readers of a layer verify its digest, so unexpected content cannot
//! do harm.

use super::host::Host;
use super::image::LocalImage;
use super::{DockerError, Engine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// The storage drivers that keep the files of each layer in a separate directory.
const DRIVERS: [&str; 2] = ["overlay2", "fuse-overlayfs"];
/// The largest configuration of an image, in bytes.
const MAX_CONFIG: u64 = 4 * 1024 * 1024;
/// The longest record of `tar-split`, in bytes. It holds everything between two files of an archive.
const MAX_RECORD: u64 = 64 * 1024 * 1024;

/// An image in the engine's storage.
#[derive(Debug)]
pub(crate) struct StoredImage {
    pub(crate) config: Vec<u8>,
    /// Its layers, the base first.
    pub(crate) layers: Vec<StoredLayer>,
}

/// A layer in the engine's storage.
#[derive(Debug)]
pub(crate) struct StoredLayer {
    /// Its archive without the contents of the files.
    tar_split: PathBuf,
    directory: PathBuf,
    until: CancellationToken,
}

impl Engine {
    /// Returns the image with the layers of these chain ids, or `None` if it cannot be read from the engine's storage.
    /// Reading fails once the token is cancelled.
    pub(crate) async fn stored(
        &self,
        image: &LocalImage,
        chains: &[String],
        until: &CancellationToken,
    ) -> Option<StoredImage> {
        if !self.reads_storage || !matches!(self.host, Host::Unix(_)) {
            return None;
        }
        let about = self.about().await.ok()?;
        let driver = DRIVERS.into_iter().find(|driver| *driver == about.storage)?;
        let metadata = about.root.join("image").join(driver);
        let config = read(&metadata.join("imagedb/content/sha256").join(hex(&image.id)?))?;
        let layer = |(digest, chain): (&String, &String)| {
            let layer = metadata.join("layerdb/sha256").join(hex(chain)?);
            if read(&layer.join("diff"))? != digest.as_bytes() {
                return None;
            }
            let id = String::from_utf8(read(&layer.join("cache-id"))?).ok()?;
            // It must be a plain name, so that it cannot lead out of the directory.
            let id = Some(id).filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
            let directory = about.root.join(driver).join(id).join("diff");
            let tar_split = layer.join("tar-split.json.gz");
            let is_there = directory.is_dir() && tar_split.is_file();
            is_there.then(|| StoredLayer { tar_split, directory, until: until.clone() })
        };
        let layers = image.layers.iter().zip(chains).map(layer).collect::<Option<_>>()?;
        Some(StoredImage { config, layers })
    }
}

/// Returns the hexadecimal part of a digest, which is safe as a file name.
fn hex(digest: &str) -> Option<&str> {
    digest.strip_prefix("sha256:").filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_CONFIG).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

impl StoredLayer {
    /// Opens the layer's archive for reading.
    pub(crate) fn open(self) -> io::Result<impl Read> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Archive {
            records: BufReader::new(GzDecoder::new(File::open(&self.tar_split)?)),
            directory: rustix::fs::open(&self.directory, flags, Mode::empty())?,
            line: Vec::new(),
            part: Part::Bytes(io::Cursor::default()),
            until: self.until,
        })
    }
}

/// The archive of a layer, assembled while it is read.
struct Archive<R> {
    records: R,
    directory: OwnedFd,
    line: Vec<u8>,
    part: Part,
    until: CancellationToken,
}

/// The part of the archive that is being read.
enum Part {
    Bytes(io::Cursor<Vec<u8>>),
    Content(io::Take<File>),
}

/// A line of `tar-split`.
#[derive(Deserialize)]
struct Record {
    r#type: u8,
    #[serde(default)]
    name: String,
    /// The name in base64 if it is not UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

const CONTENT: u8 = 1;
const BYTES: u8 = 2;

impl<R: BufRead> Archive<R> {
    /// Reads the next part. Returns `None` after the last one.
    fn next(&mut self) -> io::Result<Option<Part>> {
        loop {
            self.line.clear();
            let length = (&mut self.records).take(MAX_RECORD).read_until(b'\n', &mut self.line)?;
            if length == 0 {
                return Ok(None);
            }
            let record: Record = serde_json::from_slice(&self.line)?;
            match record.r#type {
                BYTES => {
                    let bytes = decoded(&record.payload.unwrap_or_default())?;
                    return Ok(Some(Part::Bytes(io::Cursor::new(bytes))));
                }
                CONTENT if record.size > 0 => {
                    let name = match record.name_raw {
                        Some(name) => decoded(&name)?,
                        None => record.name.into_bytes(),
                    };
                    return Ok(Some(Part::Content(self.file(&name)?.take(record.size))));
                }
                CONTENT => {}
                other => return Err(broken(format!("a record of type {other}"))),
            }
        }
    }

    /// Opens a regular file of the layer. Never opens a device or pipe, which a hostile image could have under that
    /// name.
    fn file(&self, name: &[u8]) -> io::Result<File> {
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let open = |flags| {
            let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty(), below)
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(open(OFlags::PATH)?)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(broken(format!("not a regular file: {}", String::from_utf8_lossy(name))));
        }
        Ok(open(OFlags::RDONLY | OFlags::NONBLOCK)?.into())
    }
}

impl<R: BufRead> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.until.is_cancelled() {
            return Err(io::Error::other(DockerError::Stopped));
        }
        loop {
            let (length, is_whole) = match &mut self.part {
                Part::Bytes(bytes) => (bytes.read(buffer)?, true),
                Part::Content(content) => (content.read(buffer)?, content.limit() == 0),
            };
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            if !is_whole {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match self.next()? {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
    }
}

fn decoded(text: &str) -> io::Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| broken(error.to_string()))
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn archive(records: &str, directory: &Path) -> io::Result<Vec<u8>> {
        let mut archive = Archive {
            records: records.as_bytes(),
            directory: rustix::fs::open(directory, OFlags::DIRECTORY, Mode::empty())?,
            line: Vec::new(),
            part: Part::Bytes(io::Cursor::default()),
            until: CancellationToken::new(),
        };
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn contents_are_inserted_into_the_kept_parts_of_the_archive() {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir(layer.path().join("d")).unwrap();
        std::fs::write(layer.path().join("d/f"), "content").unwrap();
        let records = concat!(
            r#"{"type":2,"payload":"PDE+","position":0}"#,
            "\n",
            r#"{"type":1,"name":"./d/f","size":7,"payload":"crc","position":1}"#,
            "\n",
            r#"{"type":1,"name":"d/empty","payload":null,"position":2}"#,
            "\n",
            r#"{"type":2,"payload":"PDI+","position":3}"#,
            "\n",
            r#"{"type":1,"name_raw":"L2QvZg==","size":3,"payload":"crc","position":4}"#,
            "\n",
        );
        assert_eq!(archive(records, layer.path()).unwrap(), b"<1>content<2>con");
        assert_eq!(archive("", layer.path()).unwrap(), b"");
    }

    #[test]
    fn only_regular_files_of_the_layer_are_read() {
        let layer = tempfile::tempdir().unwrap();
        symlink("/etc", layer.path().join("link")).unwrap();
        symlink("/etc/passwd", layer.path().join("file")).unwrap();
        std::fs::create_dir(layer.path().join("d")).unwrap();
        std::fs::write(layer.path().join("short"), "12").unwrap();
        for name in ["link/passwd", "file", "../../etc/passwd", "/etc/passwd", "d", "gone", "short", ""] {
            let record = format!("{{\"type\":1,\"name\":\"{name}\",\"size\":5}}\n");
            assert!(archive(&record, layer.path()).is_err(), "{name}");
        }
        for record in ["{}", "nonsense", r#"{"type":3}"#, r#"{"type":2,"payload":"?"}"#] {
            assert!(archive(record, layer.path()).is_err(), "{record}");
        }
    }
}
