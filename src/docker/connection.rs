//! Connections to the engine over any transport: for bollard's client, and for runner's own HTTP upgrades.

use super::DockerError;
use super::host::Host;
use bollard::{BollardRequest, ClientVersion, Docker};
use hyper_util::client::legacy::{Client, connect};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tonic::transport::Uri;

/// The largest head of the engine's response to an upgrade, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The size of the read buffer for responses, in bytes. Exports are large.
const READ_BUFFER: usize = 1024 * 1024;
/// How many idle connections are kept, and how long, if opening one is expensive.
const MAX_IDLE: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

impl Host {
    /// Returns a client of the engine's API that uses [`Host::open`] for its connections.
    pub(crate) fn client(
        &self,
        timeout: u64,
        version: &ClientVersion,
    ) -> Result<Docker, bollard::errors::Error> {
        let host = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let host = host.clone();
            Box::pin(async move { host.open().await.map(TokioIo::new) })
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(if self.keeps_connections() { MAX_IDLE } else { 0 })
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(READ_BUFFER)
            .build(connector);
        let transport = move |request: BollardRequest| {
            let client = client.clone();
            async move { Ok(client.request(request).await?) }
        };
        Docker::connect_with_custom_transport(transport, Some("http://docker"), timeout, version)
    }

    /// Pings the engine. A connection of its own has a more precise error than the client.
    pub(crate) async fn ping(&self) -> Result<(), DockerError> {
        let mut connection = self.open().await?;
        let ping = async {
            let request = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n";
            connection.write_all(request).await?;
            connection.flush().await?;
            read_head(&mut connection).await
        };
        let answer = ping.await.map_err(|error| self.unreachable(error))?;
        let first = answer.lines().next().unwrap_or_default();
        match first.split(' ').nth(1) {
            Some("200") => Ok(()),
            Some("400") if matches!(self, Self::Tcp(_)) => Err(self
                .unreachable(format!("it answers `{first}`; an engine with TLS needs DOCKER_TLS_VERIFY=1"))),
            _ => Err(self.unreachable(format!("it answers `{first}`"))),
        }
    }

    /// Opens a connection and upgrades it to HTTP/2 cleartext on `path`, which the engine's BuildKit endpoints require.
    pub(crate) async fn upgrade(
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
        connection.flush().await.map_err(session)?;
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

/// Reads up to and including the empty line. The bytes after it belong to the new protocol.
async fn read_head(connection: &mut Connection) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(io::Error::other("the head of the response is too large"));
        }
        head.push(connection.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the engine over any transport.
pub(crate) struct Connection(Box<dyn Stream>);

impl Connection {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl connect::Connection for Connection {
    fn connected(&self) -> connect::Connected {
        connect::Connected::new()
    }
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
