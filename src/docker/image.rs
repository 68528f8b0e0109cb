//! Images in the engine.

use super::{DockerError, Engine};
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions, TagImageOptions};
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::io::{self, Read};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An image that the engine has.
#[derive(Debug, Clone)]
pub(crate) struct LocalImage {
    pub(crate) id: String,
    /// Its size in the engine, in bytes.
    pub(crate) size: u64,
    /// The digests of its layers before compression, the base first.
    pub(crate) layers: Vec<String>,
}

impl Engine {
    /// Returns an image by name or id.
    pub(crate) async fn image(&self, name: &str) -> Result<LocalImage, DockerError> {
        match self.client.inspect_image(name).await {
            Ok(image) => Ok(LocalImage {
                id: image.id.unwrap_or_else(|| name.to_owned()),
                size: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
                layers: image.root_fs.and_then(|layers| layers.layers).unwrap_or_default(),
            }),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => {
                Err(DockerError::NoImage(name.to_owned()))
            }
            Err(error) => Err(DockerError::api("look an image up")(error)),
        }
    }

    /// Returns what a build resolves an image's name to: the digest under which the engine pulled it, or else its id.
    /// Returns `None` if the engine does not have it.
    pub(crate) async fn identity(&self, name: &str) -> Result<Option<String>, DockerError> {
        match self.client.inspect_image(name).await {
            Ok(image) => {
                let digests = image.repo_digests.unwrap_or_default();
                let digest = digests.first().and_then(|name| Some(name.rsplit_once('@')?.1.to_owned()));
                Ok(digest.or(image.id))
            }
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(DockerError::api("look an image up")(error)),
        }
    }

    /// Returns the id of the most recently created image with a name in a repository.
    pub(crate) async fn newest_of(&self, repository: &str) -> Result<Option<String>, DockerError> {
        let filters = Some(HashMap::from([("reference".to_owned(), vec![repository.to_owned()])]));
        let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
        let images = self.client.list_images(Some(options)).await;
        let images = images.map_err(DockerError::api("list images"))?;
        let newest = images.into_iter().max_by_key(|image| image.created);
        Ok(newest.map(|image| image.id))
    }

    /// Returns the build steps of an image in order, as the engine describes them, with the bytes that each one added.
    pub(crate) async fn layers(&self, id: &str) -> Result<Vec<(String, u64)>, DockerError> {
        let history = self.client.image_history(id).await;
        let history = history.map_err(DockerError::api("read an image's history"))?;
        let layer = |item: bollard::models::ImageHistoryResponseItem| {
            (item.created_by, u64::try_from(item.size).unwrap_or_default())
        };
        Ok(history.into_iter().rev().map(layer).collect())
    }

    /// Adds a name to an image, `repository:tag`.
    pub(crate) async fn tag(&self, id: &str, name: &str) -> Result<(), DockerError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        self.client.tag_image(id, Some(options)).await.map_err(DockerError::api("name an image"))
    }

    /// Removes a name from an image, which removes the image with its last name. A missing name is not an error.
    pub(crate) async fn untag(&self, name: &str) -> Result<(), DockerError> {
        match self.client.remove_image(name, None::<RemoveImageOptions>, None).await {
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            removed => removed.map(drop).map_err(DockerError::api("remove a name from an image")),
        }
    }

    /// Removes a name from an image unless it is the last one.
    pub(crate) async fn untag_unless_last(&self, name: &str) -> Result<(), DockerError> {
        let names = self.client.inspect_image(name).await.ok().and_then(|image| image.repo_tags);
        let is_last = names.unwrap_or_default().iter().all(|other| other == name);
        if is_last { Ok(()) } else { self.untag(name).await }
    }

    /// Exports an image as the tar stream of `docker save`, for a thread that may block. Reading fails once the token
    /// is cancelled.
    pub(crate) fn export(&self, id: &str, until: &CancellationToken) -> Export {
        let (sender, batches) = mpsc::channel(BATCHES);
        let (client, id, until) = (self.client.clone(), id.to_owned(), until.clone());
        tokio::spawn(async move {
            let mut stream = client.export_image(&id);
            let (mut batch, mut length) = (Vec::new(), 0);
            loop {
                // Biased, so that an export that is cancelled before it starts sends no request.
                let chunk = tokio::select! {
                    biased;
                    () = until.cancelled() => {
                        let _ = sender.send(Err(DockerError::Stopped)).await;
                        return;
                    }
                    chunk = stream.next() => chunk,
                };
                let ended = chunk.is_none();
                match chunk {
                    Some(Ok(bytes)) => {
                        length += bytes.len();
                        batch.push(bytes);
                    }
                    Some(Err(error)) => {
                        let _ = sender.send(Err(DockerError::api("export an image")(error))).await;
                        return;
                    }
                    None => {}
                }
                if ended || length >= BATCH {
                    length = 0;
                    if sender.send(Ok(std::mem::take(&mut batch))).await.is_err() || ended {
                        return;
                    }
                }
            }
        });
        Export { batches, batch: Vec::new().into_iter(), current: Bytes::new() }
    }
}

/// The size of the batches that are passed between threads, in bytes. Passing the small pieces of an export one by one
/// would take longer than processing them.
const BATCH: usize = 1024 * 1024;
/// How many batches may wait.
const BATCHES: usize = 4;

/// A reader of an exported image.
pub(crate) struct Export {
    batches: mpsc::Receiver<Result<Vec<Bytes>, DockerError>>,
    batch: std::vec::IntoIter<Bytes>,
    current: Bytes,
}

impl Read for Export {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if let Some(next) = self.batch.next() {
                self.current = next;
                continue;
            }
            match self.batches.blocking_recv() {
                None => return Ok(0),
                Some(batch) => self.batch = batch.map_err(io::Error::other)?.into_iter(),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
