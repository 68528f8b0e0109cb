//! The Docker Engine: connecting, builds through its embedded BuildKit, containers for tests, images to push.

pub(crate) mod about;
mod certificates;
mod connection;
pub(crate) mod container;
pub(crate) mod context;
pub(crate) mod daemon;
mod docker_context;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod ignore;
pub(crate) mod image;
mod owned;
mod pattern;
pub(crate) mod probe;
pub(crate) mod service;
pub(crate) mod sizes;
pub(crate) mod solver;
mod ssh;
mod stat;
pub(crate) mod storage;
pub(crate) mod unpack;

pub(crate) use owned::{OWNER_LABEL, stage_name};

use crate::docker_config::DockerConfigError;
use about::About;
use bollard::Docker;
use bollard::errors::Error as BollardError;
use docker_context::DockerContext;
use host::{Endpoint, Host};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The oldest supported version of the Engine API: Docker 20.10.
const OLDEST_API: (usize, usize) = (1, 41);
/// The timeout of a request, in seconds. Exporting a large image takes minutes before the first byte.
const TIMEOUT: u64 = 4 * 60 * 60;

/// A client of a Docker Engine that has responded.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    client: Docker,
    host: Host,
    /// The docker context that names it.
    context: Option<String>,
    /// Whether images may be read from its storage directory.
    reads_storage: bool,
    /// The proxy variables of Docker's configuration for builds and containers.
    proxies: Arc<Vec<(String, String)>>,
    /// Its description, after the first request for it.
    about: Arc<OnceCell<About>>,
}

/// An error of the Docker Engine or on the way to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerError {
    /// The scheme of `DOCKER_HOST` or of a docker context is not supported.
    #[error("the address `{value}` in {place} is not one that runner can use")]
    Address { value: String, place: &'static str },
    /// Docker's configuration cannot be read.
    #[error(transparent)]
    Configuration(#[from] DockerConfigError),
    /// The docker context in use does not exist or is not valid.
    #[error("the docker context `{name}` cannot be used: {reason}")]
    UnusableContext { name: String, reason: String },
    /// The engine of the docker context in use cannot be reached.
    #[error("the docker context `{name}`")]
    OfContext {
        name: String,
        #[source]
        source: Box<DockerError>,
    },
    /// The socket does not exist.
    #[error("there is no Docker Engine: {} does not exist", .0.display())]
    NoSocket(PathBuf),
    /// The user lacks permission to open the socket.
    #[error("permission to use the Docker Engine at {} is denied", socket.display())]
    Denied { socket: PathBuf, user: String },
    /// The socket exists, but no process listens on it.
    #[error("there is no Docker Engine: no process listens on {}", .0.display())]
    NoListener(PathBuf),
    /// This CodeBuild container is not privileged, so it cannot run an engine.
    #[error(
        "there is no Docker Engine at {}, and none can run here: privileged mode is off (CAP_SYS_ADMIN is missing)", .0.display()
    )]
    NotPrivileged(PathBuf),
    /// Only root can start an engine.
    #[error("there is no Docker Engine, and {0} may not start one: only root can")]
    NotRoot(String),
    /// The container could run an engine, but has no `dockerd`.
    #[error("there is no Docker Engine, and no `dockerd` in PATH to start one with")]
    NoDaemon,
    /// The engine that runner started did not become ready.
    #[error("dockerd {outcome}")]
    Daemon {
        /// A predicate such as `ended before it answered`.
        outcome: String,
        /// The last lines of its log.
        lines: Vec<String>,
    },
    /// A certificate or key file cannot be read or used.
    #[error("cannot use {} for TLS, which {required_by} requires", path.display())]
    Certificate {
        path: PathBuf,
        /// The variable or docker context that turns TLS on.
        required_by: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine is reached through `ssh`, which is not installed.
    #[error("the Docker Engine is reached through `ssh`, which is not installed on this machine")]
    NoSsh,
    #[error("the Docker Engine at {address} does not answer")]
    Unreachable {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine is too old.
    #[error("the Docker Engine {version} speaks API {found}, but runner needs 1.41 (Docker 20.10) or newer")]
    TooOld { version: String, found: String },
    /// The engine does not have the image.
    #[error("the engine has no image {0}")]
    NoImage(String),
    /// A Dockerfile is missing.
    #[error("there is no Dockerfile at {}", .0.display())]
    NoDockerfile(PathBuf),
    /// A Dockerfile has no stage.
    #[error("{} has no `FROM`, so there is nothing to build", .0.display())]
    NoStage(PathBuf),
    /// A build context cannot be read.
    #[error(transparent)]
    Context(Arc<context::ContextError>),
    /// An SSH key or agent cannot be used.
    #[error("the image's `ssh`: {0}")]
    Ssh(String),
    /// The build itself failed.
    #[error("the build failed: {0}")]
    Build(String),
    /// The build itself failed, for a reason that runner knows.
    #[error("the build failed: {message}")]
    Explained {
        message: String,
        /// What to do about it.
        help: String,
    },
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
    /// A service of a test did not become ready, or failed.
    #[error("the service `{name}` {outcome}")]
    Service {
        name: String,
        /// A predicate such as `ended with exit code 1`.
        outcome: String,
        /// The last lines of its log.
        log: String,
    },
    /// An image could not be pulled.
    #[error("the image {image} could not be pulled: {reason}")]
    Pull {
        image: String,
        /// The engine's message.
        reason: String,
    },
    /// The engine never reported how a container ended.
    #[error("the Docker Engine did not report how the container ended")]
    Lost,
    /// The connection to BuildKit broke.
    #[error("the connection to the engine's BuildKit failed")]
    Session(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Any other error of the engine.
    #[error("the Docker Engine could not {doing}")]
    Api {
        /// The operation that failed, as an infinitive.
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
    /// Connects to an engine and negotiates the API version with it.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, DockerError> {
        let context = endpoint.context()?;
        let connected = match endpoint.resolve(context.as_ref()) {
            Ok(host) => Self::reach(host, endpoint.reads_storage).await,
            Err(error) => Err(error),
        };
        let connected = connected.map(|engine| {
            let proxies = Arc::new(endpoint.proxies(&engine.host));
            Self { proxies, ..engine }
        });
        match context {
            Some(DockerContext { name, .. }) => connected
                .map(|engine| Self { context: Some(name.clone()), ..engine })
                .map_err(|error| DockerError::OfContext { name, source: Box::new(error) }),
            None => connected,
        }
    }

    async fn reach(host: Host, reads_storage: bool) -> Result<Self, DockerError> {
        let timeout = host.connect_timeout();
        let silent = host.unreachable(format!("no answer within {} s", timeout.as_secs()));
        let negotiated = Self::negotiate(host, reads_storage);
        tokio::time::timeout(timeout, negotiated).await.unwrap_or(Err(silent))
    }

    async fn negotiate(host: Host, reads_storage: bool) -> Result<Self, DockerError> {
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
        Ok(Self {
            client,
            host,
            context: None,
            reads_storage,
            proxies: Arc::default(),
            about: Arc::default(),
        })
    }

    /// The proxy variables of Docker's configuration for builds and containers.
    pub(crate) fn proxies(&self) -> &[(String, String)] {
        &self.proxies
    }

    /// Returns the proxy variables that are not among these variables, which override them.
    fn missing_proxies(&self, set: impl Fn(&str) -> bool) -> impl Iterator<Item = &(String, String)> {
        self.proxies.iter().filter(move |(name, _)| !set(name))
    }
}

/// Returns the name of the user that this process runs as.
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
    /// Returns the rules by which the docker command of this engine's release selects the files of a build context.
    pub(crate) fn ignore_rules(&self) -> ignore::Rules {
        if self.is_at_least(1, 42) { ignore::Rules::Current } else { ignore::Rules::Before23 }
    }

    /// Whether the negotiated version of the API is at least this one.
    fn is_at_least(&self, major: usize, minor: usize) -> bool {
        let spoken = self.client.client_version();
        (spoken.major_version, spoken.minor_version) >= (major, minor)
    }
}
