//! The description of an engine: version, storage and platform.

use super::{DockerError, Engine};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) version: String,
    /// The negotiated version of the API.
    pub(crate) api: String,
    /// Its address, with the docker context that names it.
    pub(crate) host: String,
    /// Its storage driver.
    pub(crate) storage: String,
    /// Its data directory, on its own machine.
    pub(crate) root: PathBuf,
    /// Its default platform, as `os/arch`.
    pub(crate) platform: String,
    /// Whether its BuildKit can write a build cache to a registry, which needs containerd's image store.
    pub(crate) exports_cache: bool,
}

impl Engine {
    /// Returns the description, which is requested once.
    pub(crate) async fn about(&self) -> Result<&About, DockerError> {
        self.about.get_or_try_init(|| self.describe()).await
    }

    async fn describe(&self) -> Result<About, DockerError> {
        let info = self.client.info().await.map_err(DockerError::api("describe itself"))?;
        let version = self.client.version().await.map_err(DockerError::api("describe itself"))?;
        let platform = |os: Option<String>, arch: Option<String>| {
            format!("{}/{}", os.unwrap_or_default(), arch.unwrap_or_default())
        };
        let status = info.driver_status.unwrap_or_default();
        Ok(About {
            platform: platform(version.os, version.arch),
            exports_cache: status.iter().flatten().any(|word| word.starts_with("io.containerd.snapshotter")),
            version: info.server_version.unwrap_or_default(),
            api: self.client.client_version().to_string(),
            host: match &self.context {
                Some(context) => format!("{}, the docker context `{context}`", self.host),
                None => self.host.to_string(),
            },
            storage: info.driver.unwrap_or_default(),
            root: PathBuf::from(info.docker_root_dir.unwrap_or_default()),
        })
    }

    /// Checks that the engine's BuildKit can be reached, by opening a connection to its control service.
    pub(crate) async fn has_buildkit(&self) -> Result<(), DockerError> {
        self.host.upgrade("/grpc", &[]).await.map(drop)
    }
}
