//! Reading small files, and atomic writes: a reader sees either the old content or the new one.

mod directory;

pub(crate) use directory::Directory;

use rustix::fs::{Mode, OFlags};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The prefix of the names of files that are being written.
pub(crate) const TEMPORARY: &str = ".runner-tmp-";

/// The readers of a file that runner writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// All users (0644).
    All,
    /// Only its owner (0600).
    Owner,
}

impl Readers {
    fn mode(self) -> u32 {
        match self {
            Self::All => 0o644,
            Self::Owner => 0o600,
        }
    }
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct WriteError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

/// Reads a regular file of at most `limit` bytes. Pipes and devices are rejected because they may be endless.
pub(crate) fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    read_open(std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?), limit)
}

fn read_open(file: std::fs::File, limit: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {} KiB", limit / 1024)));
    }
    Ok(bytes)
}

/// Writes a file atomically, through a temporary file in the same directory. Creates parent directories.
pub(crate) fn write_whole(path: &Path, content: &[u8], readers: Readers) -> Result<(), WriteError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(std::fs::Permissions::from_mode(readers.mode()))
            .tempfile_in(directory)?;
        file.write_all(content)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Writes an indented JSON document with a final newline, atomically.
pub(crate) fn write_json(
    path: &Path,
    value: &impl serde::Serialize,
    readers: Readers,
) -> Result<(), WriteError> {
    let content = json(value).map_err(|source| WriteError { path: path.to_owned(), source })?;
    write_whole(path, &content, readers)
}

/// An indented JSON document with a final newline.
fn json(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut content = serde_json::to_vec_pretty(value)?;
    content.push(b'\n');
    Ok(content)
}
