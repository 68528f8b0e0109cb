//! Copying files into and out of containers.

use super::{DockerError, Engine};
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{DownloadFromContainerOptions, UploadToContainerOptions};
use futures_util::TryStreamExt;
use std::io;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// Files for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    /// A file or directory of this machine.
    pub(crate) from: PathBuf,
    /// Its full path in the container.
    pub(crate) to: String,
    /// A bind mount: the container can change the files. Otherwise they are copied.
    pub(crate) bind: bool,
}

/// Files to copy out of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyOut {
    /// A path in the container. `*` in its last part matches any text.
    pub(crate) from: String,
    /// A directory or file of this machine.
    pub(crate) to: PathBuf,
}

/// The size of a piece of an archive, in bytes.
const CHUNK: usize = 64 * 1024;

impl Engine {
    /// Copies a file or directory into a container, and creates its parent directories.
    pub(crate) async fn copy_in(&self, id: &str, volume: &Volume) -> Result<(), DockerError> {
        let failed =
            |source: io::Error| DockerError::Files { path: volume.from.display().to_string(), source };
        let name = PathBuf::from(volume.to.trim_matches('/'));
        let from = volume.from.clone();
        if !from.exists() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let (sender, receiver) = mpsc::channel::<bytes::Bytes>(2);
        let written = tokio::task::spawn_blocking(move || archive(&from, &name, Pipe { sender }));
        let options =
            UploadToContainerOptions { path: "/".to_owned(), ..UploadToContainerOptions::default() };
        let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let body = bollard::body_stream(body);
        let sent = self.client.upload_to_container(id, Some(options), body).await;
        // A read error is more precise than the engine's error about a truncated archive.
        written.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        sent.map_err(DockerError::api("copy files into a container"))
    }

    /// Copies files out of a container. Returns the copied files, which may be none.
    pub(crate) async fn copy_out(&self, id: &str, copy: &CopyOut) -> Result<Vec<PathBuf>, DockerError> {
        let (directory, pattern) = match copy.from.rsplit_once('/') {
            Some((directory, last)) if last.contains('*') => (format!("{directory}/"), Some(last.to_owned())),
            _ => (copy.from.clone(), None),
        };
        let options = DownloadFromContainerOptions { path: directory };
        let stream = self.client.download_from_container(id, Some(options));
        let mut stream = Box::pin(stream.map_err(|error| match error {
            BollardError::DockerResponseServerError { status_code: 404, .. } => {
                io::ErrorKind::NotFound.into()
            }
            error => io::Error::other(error),
        }));
        let failed = |source: io::Error| DockerError::Files { path: copy.from.clone(), source };
        // The first piece shows whether the path exists.
        let first = match stream.try_next().await {
            Ok(Some(first)) => first,
            Ok(None) => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let whole = futures_util::stream::once(std::future::ready(Ok(first)));
        let whole = futures_util::StreamExt::chain(whole, stream);
        let reader = SyncIoBridge::new(StreamReader::new(Box::pin(whole)));
        let to = copy.to.clone();
        let unpacked = tokio::task::spawn_blocking(move || unpack(reader, &to, pattern.as_deref()));
        unpacked.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }
}

/// A writer into a channel.
struct Pipe {
    sender: mpsc::Sender<bytes::Bytes>,
}

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(CHUNK)];
        let sent = self.sender.blocking_send(bytes::Bytes::copy_from_slice(piece));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn archive(from: &Path, name: &Path, out: impl io::Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(CHUNK, out));
    archive.follow_symlinks(false);
    if from.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from, name)?;
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

/// Unpacks an archive of one file or directory. The names come from the container and are not trusted: none of them can lead
/// out of the target.
fn unpack(reader: impl io::Read, to: &Path, pattern: Option<&str>) -> io::Result<Vec<PathBuf>> {
    let mut archive = tar::Archive::new(reader);
    let mut files = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        // The first part is the name of the requested file or directory.
        let rest: PathBuf = name.components().skip(1).collect();
        if rest.components().any(|part| !matches!(part, Component::Normal(_))) {
            continue;
        }
        let kind = entry.header().entry_type();
        if let Some(pattern) = pattern {
            let matches = rest.components().count() == 1 && glob(pattern, &rest.to_string_lossy());
            if !kind.is_file() || !matches {
                continue;
            }
        }
        let target = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(&rest) };
        if kind.is_dir() {
            std::fs::create_dir_all(&target)?;
        } else if kind.is_file() {
            // A file that is copied into an existing directory keeps its name.
            let target = match name.file_name() {
                Some(own) if rest.as_os_str().is_empty() && target.is_dir() => target.join(own),
                _ => target,
            };
            if let Some(above) = target.parent() {
                std::fs::create_dir_all(above)?;
            }
            // Never write through a link that an earlier entry or another process has created.
            let _ = std::fs::remove_file(&target);
            let mut file = std::fs::File::options().write(true).create_new(true).open(&target)?;
            io::copy(&mut entry, &mut file)?;
            files.push(target);
        }
    }
    Ok(files)
}

/// Whether a name matches a pattern in which `*` matches any text.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*.xml", "a.xml", true),
            ("*.xml", "a.xml.gz", false),
            ("TEST-*.xml", "TEST-a.b.xml", true),
            ("a*a", "a", false),
            ("*", "anything", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_archive_does_not_lead_out_of_its_target() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(outside.path(), target.join("link")).unwrap();
        std::fs::write(outside.path().join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(outside.path().join("kept"), target.join("file")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["dir/file", "dir/../../escaped"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let files = unpack(bytes.as_slice(), &target, None).unwrap();
        assert_eq!(files, [target.join("file")]);
        assert_eq!(std::fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
        assert!(!outside.path().join("escaped").exists());
    }
}
