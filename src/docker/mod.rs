//! The Docker Engine: connecting, builds through its embedded BuildKit, containers for tests, images to push.

pub(crate) mod about;
mod certificates;
mod connection;
pub(crate) mod container;
pub(crate) mod context;
pub(crate) mod daemon;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod ignore;
pub(crate) mod image;
mod named;
mod owned;
mod pattern;
pub(crate) mod service;
pub(crate) mod sizes;
pub(crate) mod solver;
mod ssh;
pub(crate) mod storage;

pub(crate) use owned::{Kind, OWNER_LABEL, Owned, stage_name};

use about::About;
use bollard::Docker;
use bollard::errors::Error as BollardError;
use host::{Endpoint, Host};
use named::Named;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The oldest Engine API that is spoken: Docker 20.10.
const OLDEST_API: (usize, usize) = (1, 41);
/// How long the engine may take to answer, in seconds: exporting a large image takes minutes before the first byte.
const TIMEOUT: u64 = 4 * 60 * 60;

/// A connection to a Docker Engine that has answered.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    client: Docker,
    host: Host,
    /// The docker context that named it.
    context: Option<String>,
    /// Whether images may be read in its storage.
    reads_storage: bool,
    /// What it says of itself, once somebody has asked.
    about: Arc<OnceCell<About>>,
}

/// What can go wrong with the Docker Engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerError {
    /// `DOCKER_HOST`, or the address of a docker context, is of a kind that is not spoken.
    #[error("the address `{value}` in {place} is not one that runner can use")]
    Address { value: String, place: &'static str },
    /// Docker's configuration cannot be read.
    #[error("{0}")]
    Configuration(String),
    /// A docker context that counts leads nowhere.
    #[error("the docker context `{name}` cannot be used: {what}")]
    UnusableContext { name: String, what: String },
    /// There is no way to the engine of a docker context.
    #[error("the docker context `{name}`")]
    Named {
        name: String,
        /// What is in the way.
        #[source]
        source: Box<DockerError>,
    },
    /// There is no socket.
    #[error("there is no Docker Engine: {} does not exist", .0.display())]
    NoSocket(PathBuf),
    /// The socket may not be opened.
    #[error("permission to use the Docker Engine at {} is denied", socket.display())]
    Denied {
        socket: PathBuf,
        /// Who may not open it.
        user: String,
    },
    /// There is a socket, but no engine behind it.
    #[error("there is no Docker Engine: nobody listens on {}", .0.display())]
    NoListener(PathBuf),
    /// No engine can run in this container of CodeBuild.
    #[error(
        "there is no Docker Engine at {}, and none can run here: privileged mode is off (CAP_SYS_ADMIN is missing)", .0.display()
    )]
    NotPrivileged(PathBuf),
    /// Only root can start an engine.
    #[error("there is no Docker Engine, and {0} may not start one: that takes root")]
    NotRoot(String),
    /// The container could run an engine, but has none.
    #[error("there is no Docker Engine, and no `dockerd` in PATH to start one with")]
    NoDaemon,
    /// The engine that was to be started does not come up.
    #[error("dockerd {what}")]
    Daemon {
        /// What became of it.
        what: String,
        /// The last lines of its log.
        lines: Vec<String>,
    },
    /// A file that TLS takes cannot be read or used.
    #[error("cannot use {} for the TLS that {asked_by} asks for", path.display())]
    Certificate {
        path: PathBuf,
        /// The variable, or what else asks for it.
        asked_by: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The way to the engine takes a program that is not there.
    #[error("there is no program `ssh` on this machine, which the way to the engine takes")]
    NoSsh,
    #[error("the Docker Engine at {address} does not answer")]
    Unreachable {
        /// Where it should be.
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine is older than what runner needs.
    #[error("the Docker Engine {version} speaks API {found}, but runner needs 1.41 (Docker 20.10) or newer")]
    TooOld { version: String, found: String },
    /// There is no such image in the engine.
    #[error("the engine has no image {0}")]
    NoImage(String),
    /// A Dockerfile is missing.
    #[error("there is no Dockerfile at {}", .0.display())]
    NoDockerfile(PathBuf),
    /// A build context cannot be read.
    #[error(transparent)]
    Context(Arc<context::ContextError>),
    /// An SSH key or agent cannot be used.
    #[error("the image's `ssh`: {0}")]
    Ssh(String),
    /// The build itself failed.
    #[error("the build failed: {0}")]
    Build(String),
    /// A container could not be started.
    #[error("the container could not be started: {0}")]
    Start(String),
    /// Files could not be copied.
    #[error("cannot copy {path}")]
    Files {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A service of a test is not there when it should be.
    #[error("the service `{name}` {what}")]
    Service {
        name: String,
        /// What became of it.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// An image could not be pulled.
    #[error("the image {image} could not be pulled: {reason}")]
    Pull {
        image: String,
        /// The engine's own words.
        reason: String,
    },
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
        #[source]
        source: BollardError,
    },
    /// The run is being stopped.
    #[error("stopped")]
    Stopped,
}

impl From<context::ContextError> for DockerError {
    fn from(error: context::ContextError) -> Self {
        Self::Context(Arc::new(error))
    }
}

impl DockerError {
    fn api(doing: &'static str) -> impl FnOnce(BollardError) -> Self {
        move |source| Self::Api { doing, source }
    }
}

impl Engine {
    /// Connects to an engine, and agrees on a version of the API with it.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, DockerError> {
        let named = endpoint.named()?;
        let connected = match endpoint.resolve(named.as_ref()) {
            Ok(host) => Self::reach(host, endpoint.reads_storage).await,
            Err(error) => Err(error),
        };
        match named {
            Some(Named { name, .. }) => connected
                .map(|engine| Self { context: Some(name.clone()), ..engine })
                .map_err(|error| DockerError::Named { name, source: Box::new(error) }),
            None => connected,
        }
    }

    async fn reach(host: Host, reads_storage: bool) -> Result<Self, DockerError> {
        let patience = host.patience();
        let silent = host.unreachable(format!("no answer within {} s", patience.as_secs()));
        let agreed = Self::agree(host, reads_storage);
        tokio::time::timeout(patience, agreed).await.unwrap_or(Err(silent))
    }

    async fn agree(host: Host, reads_storage: bool) -> Result<Self, DockerError> {
        host.ping().await?;
        let client = host
            .client(TIMEOUT, bollard::API_DEFAULT_VERSION)
            .map_err(|error| host.unreachable(error))?
            .negotiate_version()
            .await
            .map_err(|error| host.unreachable(error))?;
        let spoken = client.client_version();
        if (spoken.major_version, spoken.minor_version) < OLDEST_API {
            let version = client.version().await.ok().and_then(|about| about.version);
            let version = version.unwrap_or_else(|| "of unknown version".to_owned());
            return Err(DockerError::TooOld { version, found: spoken.to_string() });
        }
        Ok(Self { client, host, context: None, reads_storage, about: Arc::default() })
    }
}

/// The name of the user that this process runs as.
fn user() -> String {
    let id = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("the user {id}"))
}

impl Engine {
    /// The rules by which the docker command of this engine's release chooses the files of a context.
    pub(crate) fn ignore_rules(&self) -> ignore::Rules {
        let spoken = self.client.client_version();
        if (spoken.major_version, spoken.minor_version) < (1, 42) {
            ignore::Rules::Before23
        } else {
            ignore::Rules::Current
        }
    }
}

/// A fresh identifier of 16 letters and digits.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness there is no TLS either; time and process are unique enough for an id.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        let now = jiff::Timestamp::now().as_nanosecond();
        bytes = (now ^ i128::from(std::process::id())).to_le_bytes();
    }
    bytes.iter().map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[usize::from(byte % 32)])).collect()
}
