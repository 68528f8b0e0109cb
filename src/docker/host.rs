//! Where the engine listens, and plain connections to it.

use super::DockerError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The engine's socket where `DOCKER_HOST` says nothing.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// More than the engine ever answers to an upgrade, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// An engine's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A socket on this machine.
    Unix(PathBuf),
    /// `host:port`, without encryption.
    Tcp(String),
}

impl Host {
    /// Reads the value of `DOCKER_HOST`.
    pub fn parse(docker_host: Option<&str>) -> Result<Self, DockerError> {
        match docker_host.filter(|value| !value.is_empty()) {
            None => Ok(Self::Unix(PathBuf::from(DEFAULT_SOCKET))),
            Some(value) => {
                if let Some(path) = value.strip_prefix("unix://") {
                    Ok(Self::Unix(PathBuf::from(path)))
                } else if let Some(address) = value.strip_prefix("tcp://") {
                    Ok(Self::Tcp(address.trim_end_matches('/').to_owned()))
                } else {
                    Err(DockerError::Address(value.to_owned()))
                }
            }
        }
    }

    /// Opens a connection.
    pub(super) async fn open(&self) -> Result<Connection, DockerError> {
        match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Connection(Box::new(stream))),
                Err(error) => Err(unix_error(path, error)),
            },
            Self::Tcp(address) => TcpStream::connect(address)
                .await
                .map(|stream| Connection(Box::new(stream)))
                .map_err(|error| self.unreachable(error)),
        }
    }

    fn unreachable(&self, error: io::Error) -> DockerError {
        DockerError::Unreachable { address: self.to_string(), source: Box::new(error) }
    }

    /// Opens a connection and turns it into HTTP/2 cleartext by an upgrade on `path`, as the engine's BuildKit
    /// endpoints ask for.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Connection, DockerError> {
        let mut connection = self.open().await?;
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let session = |error: io::Error| DockerError::Session(Box::new(error));
        connection.write_all(head.as_bytes()).await.map_err(session)?;
        let answer = read_head(&mut connection).await.map_err(session)?;
        let first = answer.lines().next().unwrap_or_default();
        if first.split(' ').nth(1) == Some("101") {
            Ok(connection)
        } else {
            let message = format!("{path} answered `{first}`");
            Err(DockerError::Session(message.into()))
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

fn unix_error(path: &Path, error: io::Error) -> DockerError {
    match error.kind() {
        io::ErrorKind::NotFound => DockerError::NoSocket(path.to_owned()),
        io::ErrorKind::PermissionDenied => DockerError::Denied(path.to_owned()),
        _ => DockerError::Unreachable { address: path.display().to_string(), source: Box::new(error) },
    }
}

/// Reads up to the empty line and not a byte further: what follows belongs to the new protocol.
async fn read_head(connection: &mut Connection) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(io::Error::other("the answer's head has no end"));
        }
        head.push(connection.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the engine, over whatever carries it.
pub(super) struct Connection(Box<dyn Stream>);

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
