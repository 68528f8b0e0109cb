//! The address of the engine, read from the environment as the docker command does, and connections to it.

use super::DockerError;
use super::certificates::{Certificates, Tls};
use super::connection::Connection;
use super::docker_context::{self, DockerContext};
use super::ssh::Destination;
use crate::docker_config::DockerConfig;
use rustix::net::sockopt;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// The engine's default socket.
pub(crate) const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// The engine's default address with TLS.
const DEFAULT_TLS: &str = "localhost:2376";
/// The default TCP port.
const DEFAULT_PORT: u16 = 2375;
/// Idle time before the first TCP keepalive probe: proxies and NAT drop idle connections.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The settings of the engine in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `DOCKER_HOST`. It overrides every docker context.
    pub(crate) host: Option<String>,
    /// `DOCKER_CONTEXT`: the docker context to use.
    pub(crate) context: Option<String>,
    /// Docker's configuration directory, with `config.json` (logins, the current docker context) and the docker
    /// contexts.
    pub(crate) configuration: Option<PathBuf>,
    /// `DOCKER_TLS_VERIFY` has a value: TLS, and the engine's certificate is verified.
    pub(crate) tls_verify: bool,
    /// `DOCKER_TLS` has a value: TLS with any certificate.
    pub(crate) tls: bool,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`: `DOCKER_CERT_PATH`, or Docker's configuration directory.
    pub(crate) certificates: PathBuf,
    /// Whether images may be read from the engine's storage directory, if the engine runs on this machine.
    pub(crate) reads_storage: bool,
}

impl Endpoint {
    /// Whether this is the default socket, because no variable names another address.
    pub(crate) fn is_default(&self) -> bool {
        self.host().is_none() && !self.has_tls()
    }

    fn host(&self) -> Option<&str> {
        self.host.as_deref().filter(|host| !host.is_empty())
    }

    fn has_tls(&self) -> bool {
        self.tls || self.tls_verify
    }

    /// Returns the docker context in use. `DOCKER_HOST` overrides it.
    pub(crate) fn context(&self) -> Result<Option<DockerContext>, DockerError> {
        match self.host() {
            Some(_) => Ok(None),
            None => docker_context::current(self.configuration.as_deref(), self.context.as_deref()),
        }
    }

    /// Returns the proxy variables that Docker's configuration sets in builds and containers of an engine. A broken
    /// configuration sets none: it is reported when a login is needed.
    pub(crate) fn proxies(&self, host: &Host) -> Vec<(String, String)> {
        let read = |directory: &Path| DockerConfig::read(directory).ok().flatten();
        let config = self.configuration.as_deref().and_then(read).unwrap_or_default();
        config.proxies(&host.url())
    }

    /// Parses the address of the docker context or of the environment, and reads the certificates if it uses TLS.
    pub(crate) fn resolve(&self, context: Option<&DockerContext>) -> Result<Host, DockerError> {
        let (value, certificates) = if let Some(context) = context {
            let required_by = "the docker context";
            let read = |directory| Certificates { directory, verified: context.verified, required_by };
            (Some(context.host.as_str()), context.certificates.as_deref().map(read))
        } else {
            let required_by = if self.tls_verify { "DOCKER_TLS_VERIFY" } else { "DOCKER_TLS" };
            let read = Certificates { directory: &self.certificates, verified: self.tls_verify, required_by };
            (self.host(), self.has_tls().then_some(read))
        };
        let value = value.unwrap_or(if certificates.is_some() { DEFAULT_TLS } else { "unix://" });
        let host = match value.split_once("://") {
            Some(("unix", "")) => Some(Host::Unix(PathBuf::from(DEFAULT_SOCKET))),
            Some(("unix", path)) => Some(Host::Unix(PathBuf::from(path))),
            Some(("tcp", address)) => tcp_host(address, certificates.as_ref())?,
            Some(("ssh", rest)) => Destination::parse(rest).map(Host::Ssh),
            Some(_) => None,
            None => tcp_host(value, certificates.as_ref())?,
        };
        let place = if context.is_some() { "its metadata" } else { "DOCKER_HOST" };
        host.ok_or_else(|| DockerError::Address { value: value.to_owned(), place })
    }
}

/// Parses an address without scheme. Returns `None` if it is not valid.
fn tcp_host(address: &str, certificates: Option<&Certificates>) -> Result<Option<Host>, DockerError> {
    let address = address.trim_end_matches('/');
    // The colons of an IPv6 address are in brackets.
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let address = if has_port { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") };
    let Some((name, port)) = address.rsplit_once(':') else { return Ok(None) };
    if name.is_empty() || name.contains('/') || port.parse::<u16>().is_err() {
        return Ok(None);
    }
    let Some(certificates) = certificates else { return Ok(Some(Host::Tcp(address))) };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    Ok(certificates.read(name)?.map(|tls| Host::Tls { address, tls }))
}

/// An engine's address, with what is needed to connect.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    /// A socket on this machine.
    Unix(PathBuf),
    Tcp(String),
    Tls {
        address: String,
        tls: Tls,
    },
    /// The socket of another machine, through ssh.
    Ssh(Destination),
}

impl Host {
    pub(crate) async fn open(&self) -> Result<Connection, DockerError> {
        match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Connection::new(stream)),
                Err(error) => Err(unix_error(path, error)),
            },
            Self::Tcp(address) => {
                let stream = tcp(address).await.map_err(|error| self.unreachable(error))?;
                Ok(Connection::new(stream))
            }
            Self::Tls { address, tls } => {
                let stream = tcp(address).await.map_err(|error| self.unreachable(error))?;
                let stream = tls.connect(stream).await.map_err(|error| self.unreachable(error))?;
                Ok(Connection::new(stream))
            }
            Self::Ssh(destination) => match destination.open() {
                Ok(stream) => Ok(Connection::new(stream)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DockerError::NoSsh),
                Err(error) => Err(self.unreachable(error)),
            },
        }
    }

    /// Returns the timeout for the first response.
    pub(crate) fn connect_timeout(&self) -> Duration {
        match self {
            // Longer than the connect timeout of ssh itself.
            Self::Ssh(_) => Duration::from_secs(40),
            _ => Duration::from_secs(10),
        }
    }

    /// Whether connections are expensive enough to be kept for later requests.
    pub(crate) fn keeps_connections(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Ssh(_))
    }

    /// Returns the error for a host that does not respond.
    pub(crate) fn unreachable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> DockerError {
        DockerError::Unreachable { address: self.to_string(), source: source.into() }
    }
}

impl Host {
    /// The address as a URL, in the form of `DOCKER_HOST`.
    fn url(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls { address, .. } => format!("tcp://{address}"),
            Self::Ssh(destination) => destination.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => f.write_str(address),
            Self::Tls { address, tls } => write!(f, "{address} ({tls})"),
            Self::Ssh(destination) => destination.fmt(f),
        }
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    Ok(stream)
}

fn unix_error(path: &Path, error: io::Error) -> DockerError {
    match error.kind() {
        io::ErrorKind::NotFound => DockerError::NoSocket(path.to_owned()),
        io::ErrorKind::ConnectionRefused if is_socket(path) => DockerError::NoListener(path.to_owned()),
        io::ErrorKind::PermissionDenied => {
            DockerError::Denied { socket: path.to_owned(), user: super::user() }
        }
        _ => DockerError::Unreachable { address: path.display().to_string(), source: Box::new(error) },
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(value: &str) -> String {
        let endpoint = Endpoint { host: Some(value.to_owned()), ..Endpoint::default() };
        endpoint.resolve(None).map_or_else(|error| error.to_string(), |host| format!("{host:?}"))
    }

    #[test]
    fn addresses_are_parsed_as_docker_does() {
        for (value, expected) in [
            ("", "Unix(\"/var/run/docker.sock\")"),
            ("unix://", "Unix(\"/var/run/docker.sock\")"),
            ("unix:///x/y.sock", "Unix(\"/x/y.sock\")"),
            ("tcp://engine:1234/", "Tcp(\"engine:1234\")"),
            ("tcp://engine", "Tcp(\"engine:2375\")"),
            ("tcp://[::1]", "Tcp(\"[::1]:2375\")"),
            ("engine:1234", "Tcp(\"engine:1234\")"),
        ] {
            assert_eq!(host(value), expected, "{value}");
        }
        for wrong in ["npipe:////./pipe/docker", "tcp://", "tcp://a:b", "ssh://", "ssh://-oProxyCommand=x"] {
            assert!(host(wrong).contains("in DOCKER_HOST is not one that runner can use"), "{wrong}");
        }
    }
}
