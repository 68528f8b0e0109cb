//! What an engine says of itself.

use super::{DockerError, Engine};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) version: String,
    /// The version of the API that is spoken with it.
    pub(crate) api: String,
    /// Where it is, and how it is reached.
    pub(crate) host: String,
    /// How it stores images.
    pub(crate) storage: String,
    /// Where it stores them, on its own machine.
    pub(crate) root: PathBuf,
    /// What it builds for and runs where nothing else is said, as `os/arch`.
    pub(crate) platform: String,
    /// Its BuildKit can write a build cache to a registry: it does so with containerd's image store only.
    pub(crate) exports_cache: bool,
}

impl Engine {
    /// Asks the engine about itself, the first time.
    pub(crate) async fn about(&self) -> Result<&About, DockerError> {
        self.about.get_or_try_init(|| self.ask()).await
    }

    async fn ask(&self) -> Result<About, DockerError> {
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

    /// Whether the engine's BuildKit can be reached: its control service is asked for nothing but a connection.
    pub(crate) async fn has_buildkit(&self) -> Result<(), DockerError> {
        self.host.upgrade("/grpc", &[]).await.map(drop)
    }
}
