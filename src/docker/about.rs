//! What an engine says of itself.

use super::{DockerError, Engine};
use std::path::PathBuf;

/// An engine's description.
#[derive(Debug, Clone)]
pub struct About {
    /// Its version.
    pub version: String,
    /// The version of the API that is spoken with it.
    pub api: String,
    /// How it stores images.
    pub storage: String,
    /// Where it stores them, on its own machine.
    pub root: PathBuf,
}

impl Engine {
    /// Asks the engine about itself.
    pub async fn about(&self) -> Result<About, DockerError> {
        let info = self.client.info().await.map_err(DockerError::api("describe itself"))?;
        Ok(About {
            version: info.server_version.unwrap_or_default(),
            api: self.client.client_version().to_string(),
            storage: info.driver.unwrap_or_default(),
            root: PathBuf::from(info.docker_root_dir.unwrap_or_default()),
        })
    }

    /// Whether the engine's BuildKit can be reached: its control service is asked for nothing but a connection.
    pub async fn has_buildkit(&self) -> Result<(), DockerError> {
        self.host.upgrade("/grpc", &[]).await.map(drop)
    }
}
