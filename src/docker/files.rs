//! Copying files into and out of containers.

use super::unpack::{CopyTarget, Unpacked, unpack};
use super::{DockerError, Engine};
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{DownloadFromContainerOptions, UploadToContainerOptions};
use futures_util::TryStreamExt;
use std::io;
use std::path::{Path, PathBuf};
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
#[derive(Debug, Clone)]
pub(crate) struct CopyOut {
    /// A path in the container. `*` in its last part matches any text.
    pub(crate) from: String,
    pub(crate) to: CopyTarget,
}

/// How many links in a container are followed, one after the other, until a file is found.
const MAX_LINKS: usize = 8;
/// The size of a piece of an archive, in bytes.
const CHUNK: usize = 64 * 1024;

impl Engine {
    /// Copies a file or directory into a container, and creates its parent directories.
    pub(crate) async fn copy_in(&self, id: &str, volume: &Volume) -> Result<(), DockerError> {
        let failed =
            |source: io::Error| DockerError::Files { path: volume.from.display().to_string(), source };
        let mut name = PathBuf::from(volume.to.trim_matches('/'));
        // The volume is what a link leads to. Links inside of it stay links.
        let from = volume.from.canonicalize().map_err(failed)?;
        if !from.is_dir()
            && self.is_directory(id, &volume.to).await
            && let Some(own) = volume.from.file_name()
        {
            name.push(own);
        }
        let (sender, receiver) = mpsc::channel::<bytes::Bytes>(2);
        let written = tokio::task::spawn_blocking(move || archive(&from, &name, Pipe { sender }));
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            no_overwrite_dir_non_dir: Some("true".to_owned()),
            ..UploadToContainerOptions::default()
        };
        let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let body = bollard::body_stream(body);
        let sent = self.client.upload_to_container(id, Some(options), body).await;
        // A read error is more precise than the engine's error about a truncated archive.
        written.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
        sent.map_err(DockerError::api("copy files into a container"))
    }

    /// Whether a container has a directory at a path.
    async fn is_directory(&self, id: &str, path: &str) -> bool {
        /// The place of an entry's type in its header, and the type of a directory (tar(5)).
        const TYPE: (usize, u8) = (156, b'5');
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut archive = Box::pin(self.client.download_from_container(id, Some(options)));
        let mut head = Vec::new();
        while head.len() <= TYPE.0
            && let Ok(Some(piece)) = archive.try_next().await
        {
            head.extend_from_slice(&piece);
        }
        head.get(TYPE.0) == Some(&TYPE.1)
    }

    /// Copies files out of a container, which may be none. Follows links in the container.
    pub(crate) async fn copy_out(&self, id: &str, copy: &CopyOut) -> Result<Unpacked, DockerError> {
        let mut copy = copy.clone();
        for _ in 0..MAX_LINKS {
            let unpacked = self.copy_once(id, &copy).await?;
            let Some(link) = &unpacked.link else { return Ok(unpacked) };
            // As in the container: a relative link begins at the directory that has it.
            let parent = Path::new(&copy.from).parent().unwrap_or(Path::new("/"));
            copy.from = parent.join(link).to_string_lossy().into_owned();
        }
        let left_out = vec![format!("{}: too many links", copy.from)];
        Ok(Unpacked { left_out, ..Unpacked::default() })
    }

    async fn copy_once(&self, id: &str, copy: &CopyOut) -> Result<Unpacked, DockerError> {
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
            Ok(None) => return Ok(Unpacked::default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Unpacked::default()),
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
