//! Images in the engine.

use super::{DockerError, Engine};
use bollard::errors::Error as BollardError;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

/// An image that the engine has.
#[derive(Debug, Clone)]
pub struct LocalImage {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Its size in the engine, in bytes.
    pub size: u64,
}

impl Engine {
    /// Looks an image up by name or id.
    pub async fn image(&self, name: &str) -> Result<LocalImage, DockerError> {
        match self.client.inspect_image(name).await {
            Ok(image) => Ok(LocalImage {
                id: image.id.unwrap_or_else(|| name.to_owned()),
                size: image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            }),
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => {
                Err(DockerError::NoImage(name.to_owned()))
            }
            Err(error) => Err(DockerError::api("look an image up")(error)),
        }
    }

    /// The image as the tar stream of `docker save`.
    pub fn export(
        &self,
        id: &str,
    ) -> impl Stream<Item = Result<Bytes, DockerError>> + Send + Unpin + 'static {
        // The client's stream borrows the name only while the request is made.
        let client = self.client.clone();
        let stream = client.export_image(id);
        Box::pin(stream.map(|chunk| chunk.map_err(DockerError::api("export an image"))))
    }
}
