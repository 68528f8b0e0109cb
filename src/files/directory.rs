//! A directory that is held open, and files in it.

use super::{Readers, TEMPORARY, WriteError, json, read_open};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A directory that is held open. Names in it are opened relative to it, and links are never followed, because a checkout
/// or a command may have put a link there. Clones share the directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    handle: Arc<OwnedFd>,
    /// The path with which it was opened, for messages and other programs.
    path: PathBuf,
}

const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);

impl Directory {
    /// Opens a directory, and creates it if it does not exist. The last part of the path must not be a link.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory, and creates it if it does not exist. Links in its path are followed.
    pub(crate) fn create_following(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let handle = rustix::fs::open(path, OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { handle: Arc::new(handle), path: path.to_owned() })
    }

    /// Opens a directory. The last part of the path must not be a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let handle = rustix::fs::open(path, FLAGS | OFlags::DIRECTORY, Mode::empty()).map_err(refusal)?;
        Ok(Self { handle: Arc::new(handle), path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// This directory, created again if a command has removed it.
    fn living(&self) -> io::Result<Self> {
        if rustix::fs::fstat(&self.handle)?.st_nlink > 0 {
            Ok(self.clone())
        } else {
            Self::create(&self.path)
        }
    }

    /// Opens a directory below this one, and creates what is missing. The path is relative and has no `..`.
    pub(crate) fn within(&self, below: impl AsRef<Path>) -> io::Result<Self> {
        let mut directory = self.living()?;
        for part in below.as_ref().components() {
            let Component::Normal(name) = part else { return Err(Errno::INVAL.into()) };
            match rustix::fs::mkdirat(&directory.handle, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = FLAGS | OFlags::DIRECTORY;
            let handle =
                rustix::fs::openat(&directory.handle, name, flags, Mode::empty()).map_err(refusal)?;
            directory = Self { handle: Arc::new(handle), path: directory.path.join(name) };
        }
        Ok(directory)
    }

    /// Opens a regular file.
    pub(crate) fn file(&self, name: &str, flags: OFlags, mode: u32) -> io::Result<File> {
        // A pipe would wait for its other end.
        let flags = flags | FLAGS | OFlags::NONBLOCK;
        let file = File::from(
            rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(mode)).map_err(refusal)?,
        );
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
        }
    }

    /// Reads a regular file of at most `limit` bytes.
    pub(crate) fn read_small(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        read_open(self.file(name, OFlags::RDONLY, 0)?, limit)
    }

    /// Whether there is anything of that name, links included.
    pub(crate) fn contains(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether a path below is a directory, and no link.
    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        let found = rustix::fs::statat(&self.handle, path, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
    }

    /// Puts a copy of a file into this directory. Replaces whatever file or link has the name.
    pub(crate) fn place(&self, file: &Path, name: &OsStr) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{}", crate::random::id());
        let copy = || -> io::Result<()> {
            let mut source = File::open(file)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut copy = self.file(&temporary, flags, 0o600)?;
            io::copy(&mut source, &mut copy)?;
            copy.set_permissions(source.metadata()?.permissions())?;
            Ok(rustix::fs::renameat(&self.handle, &temporary, &self.handle, name)?)
        };
        copy().inspect_err(|_| drop(self.remove(&temporary)))
    }

    /// Creates a symbolic link. Replaces whatever file or link has the name.
    pub(crate) fn link(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{}", crate::random::id());
        rustix::fs::symlinkat(target, &self.handle, &temporary)?;
        let renamed = rustix::fs::renameat(&self.handle, &temporary, &self.handle, name);
        Ok(renamed.inspect_err(|_| drop(self.remove(&temporary)))?)
    }

    /// Writes a file atomically. Replaces whatever file or link has its name.
    pub(crate) fn write_whole(&self, name: &str, content: &[u8], readers: Readers) -> Result<(), WriteError> {
        let write = || -> io::Result<()> {
            let directory = self.living()?;
            let temporary = format!("{TEMPORARY}{}", crate::random::id());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut file = directory.file(&temporary, flags, readers.mode())?;
            let written = file.write_all(content).and_then(|()| directory.rename(&temporary, name));
            written.inspect_err(|_| drop(directory.remove(&temporary)))
        };
        write().map_err(|source| WriteError { path: self.path.join(name), source })
    }

    /// Writes an indented JSON document with a final newline, atomically.
    pub(crate) fn write_json(
        &self,
        name: &str,
        value: &impl serde::Serialize,
        readers: Readers,
    ) -> Result<(), WriteError> {
        let content = json(value).map_err(|source| WriteError { path: self.path.join(name), source })?;
        self.write_whole(name, &content, readers)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Removes a file, a link, or a directory with its content. Returns whether there was one.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = FLAGS | OFlags::DIRECTORY;
        let handle = rustix::fs::openat(&self.handle, name, flags, Mode::empty()).map_err(refusal)?;
        let directory = Self { handle: Arc::new(handle), path: self.path.join(name) };
        for (name, _) in directory.entries()? {
            directory.remove(&name)?;
        }
        rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?;
        Ok(true)
    }

    /// Removes the files that runner was writing when it was killed, also below. Adds their paths to `removed`.
    pub(crate) fn remove_temporary(&self, removed: &mut Vec<PathBuf>) -> io::Result<()> {
        for (name, kind) in self.entries()? {
            if kind == FileType::Directory {
                self.within(&name)?.remove_temporary(removed)?;
            } else if kind == FileType::RegularFile && name.starts_with(TEMPORARY) && self.remove(&name)? {
                removed.push(self.path.join(&name));
            }
        }
        Ok(())
    }

    /// The names of its entries and their types. Names that are not UTF-8 are not runner's.
    fn entries(&self) -> io::Result<Vec<(String, FileType)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                entries.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(entries)
    }
}

/// The error of an open that met a link.
fn refusal(error: Errno) -> io::Error {
    match error {
        Errno::LOOP => io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"),
        Errno::NOTDIR => {
            io::Error::new(io::ErrorKind::InvalidInput, "it is not a directory, or a link to one")
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Findings, A12 and E2.
    #[test]
    fn links_are_neither_followed_nor_kept_in_the_way() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outside.path().join("real/tmp")).unwrap();
        std::fs::write(outside.path().join("real/tmp/kept"), "kept").unwrap();
        let root = Directory::create(&outside.path().join("work")).unwrap();
        symlink("real", outside.path().join("link")).unwrap();
        assert!(Directory::create(&outside.path().join("link")).is_err());
        for name in ["directory", "file"] {
            symlink("../real/tmp", root.path().join(name)).unwrap();
        }
        assert!(root.within("directory/below").is_err());
        assert!(root.within("../real").is_err());
        assert!(root.read_small("file", 10).is_err());
        root.write_whole("file", b"own", Readers::Owner).unwrap();
        assert_eq!(root.read_small("file", 10).unwrap(), b"own");
        assert!(root.remove("directory").unwrap());
        assert!(!root.remove("directory").unwrap());
        assert_eq!(std::fs::read_to_string(outside.path().join("real/tmp/kept")).unwrap(), "kept");
    }

    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = Directory::open(directory.path()).unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(root.read_small("pipe", 10).is_err());
        assert!(root.file("pipe", OFlags::WRONLY | OFlags::APPEND, 0).is_err());
    }

    #[test]
    fn a_tree_is_removed_with_links_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = Directory::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("kept"), "kept").unwrap();
        let deep = root.within("a/b/c").unwrap();
        deep.write_whole("f", b"f", Readers::All).unwrap();
        symlink("../../..", deep.path().join("up")).unwrap();
        assert!(root.remove("a").unwrap());
        assert!(root.contains("kept") && !root.contains("a"));
    }
}
