//! The Docker Engine: connecting, builds through its embedded BuildKit, containers for tests, images to push.

pub mod about;
pub mod container;
pub mod context;
pub mod host;
pub mod ignore;
pub mod image;
pub mod solver;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use host::Host;
use std::path::PathBuf;
use std::time::Duration;

/// The oldest Engine API that is spoken: Docker 20.10.
const OLDEST_API: (usize, usize) = (1, 41);
/// How long the engine may take to answer, in seconds: exporting a large image takes minutes before the first byte.
const TIMEOUT: u64 = 4 * 60 * 60;

/// How long a connection and the first answer may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection to a Docker Engine that has answered.
#[derive(Debug, Clone)]
pub struct Engine {
    client: Docker,
    host: Host,
}

/// What can go wrong with the Docker Engine.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// `DOCKER_HOST` is of a kind that is not spoken.
    #[error("the address `{0}` in DOCKER_HOST is not one that runner can use")]
    Address(String),
    /// There is no socket.
    #[error("there is no Docker Engine: {} does not exist", .0.display())]
    NoSocket(PathBuf),
    /// The socket may not be opened.
    #[error("permission to use the Docker Engine at {} is denied", .0.display())]
    Denied(PathBuf),
    /// Nobody answers.
    #[error("the Docker Engine at {address} does not answer")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine is older than what runner needs.
    #[error("the Docker Engine speaks API {found}, but runner needs 1.41 (Docker 20.10) or newer")]
    TooOld {
        /// What the engine speaks.
        found: String,
    },
    /// There is no such image in the engine.
    #[error("the engine has no image {0}")]
    NoImage(String),
    /// A Dockerfile is missing.
    #[error("there is no Dockerfile at {}", .0.display())]
    NoDockerfile(PathBuf),
    /// A build context cannot be read.
    #[error(transparent)]
    Context(#[from] context::ContextError),
    /// The build itself failed.
    #[error("the build failed: {0}")]
    Build(String),
    /// A container could not be started.
    #[error("the container could not be started: {0}")]
    Start(String),
    /// The engine never said how a container ended.
    #[error("the Docker Engine did not say how the container ended")]
    Lost,
    /// The connection to BuildKit broke.
    #[error("the connection to the engine's BuildKit failed")]
    Session(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else that the engine answers.
    #[error("the Docker Engine could not {doing}")]
    Api {
        /// What was asked of it.
        doing: &'static str,
        /// Its answer.
        #[source]
        source: BollardError,
    },
    /// The run is being stopped.
    #[error("stopped")]
    Stopped,
}

impl DockerError {
    fn api(doing: &'static str) -> impl FnOnce(BollardError) -> Self {
        move |source| Self::Api { doing, source }
    }
}

impl Engine {
    /// Connects to the engine that `docker_host` (the value of `DOCKER_HOST`) names, or to the usual socket, and
    /// agrees on a version of the API with it.
    pub async fn connect(docker_host: Option<&str>) -> Result<Self, DockerError> {
        let host = Host::parse(docker_host)?;
        let silent = DockerError::Unreachable {
            address: host.to_string(),
            source: format!("no answer within {} s", CONNECT.as_secs()).into(),
        };
        tokio::time::timeout(CONNECT, Self::agree(host)).await.unwrap_or(Err(silent))
    }

    async fn agree(host: Host) -> Result<Self, DockerError> {
        // A connection of our own first: its error says more than the client's.
        drop(host.open().await?);
        let unreachable = |source: BollardError| DockerError::Unreachable {
            address: host.to_string(),
            source: Box::new(source),
        };
        let client = match &host {
            Host::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), TIMEOUT, bollard::API_DEFAULT_VERSION)
            }
            Host::Tcp(address) => {
                Docker::connect_with_http(&format!("tcp://{address}"), TIMEOUT, bollard::API_DEFAULT_VERSION)
            }
        }
        .map_err(unreachable)?;
        let client = client.negotiate_version().await.map_err(unreachable)?;
        let spoken = client.client_version();
        if (spoken.major_version, spoken.minor_version) < OLDEST_API {
            return Err(DockerError::TooOld { found: spoken.to_string() });
        }
        Ok(Self { client, host })
    }
}
