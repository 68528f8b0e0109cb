//! Services: containers that run alongside a test, in a network of their own.

use super::container::ContainerRun;
use super::owned::labels;
use super::{DockerError, Engine};
use crate::secret::Login;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ExecConfig, HealthStatusEnum, NetworkCreateRequest};
use bollard::query_parameters::{CreateImageOptions, InspectContainerOptions, LogsOptions};
use futures_util::{Stream, StreamExt, TryStreamExt};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// The interval at which a service is polled until it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many lines of a service's log are reported after a failure.
const LOG_LINES: &str = "50";

/// The longest status line of a response, in bytes.
const MAX_STATUS_LINE: usize = 1024;
/// The largest output of a command or log that is kept, in bytes.
const MAX_OUTPUT: usize = 1024 * 1024;

/// A service to start.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The host name that the test uses.
    pub(crate) name: String,
    pub(crate) container: ContainerRun,
    /// The readiness probe. Without one the service is ready once it has started.
    pub(crate) ready: Option<Probe>,
    /// How long it may take to become ready.
    pub(crate) timeout: Duration,
}

/// A readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The image's own health check.
    Healthcheck,
    /// A TCP port that accepts connections.
    Port(u16),
    /// A port and a path that return a status below 400.
    Http(u16, String),
    /// A string in the output.
    Log(String),
    /// A command in the container that exits with 0.
    Command(Vec<String>),
}

impl Engine {
    /// Pulls an image.
    pub(crate) async fn pull(&self, image: &str, login: Option<&Login>) -> Result<(), DockerError> {
        let named = image.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
        let image = if named { image.to_owned() } else { format!("{image}:latest") };
        let options = CreateImageOptions { from_image: Some(image.clone()), ..CreateImageOptions::default() };
        let credentials = login.map(|login| {
            let (user, password) = (Some(login.user.clone()), Some(login.password.expose().to_owned()));
            let (username, password, identitytoken) =
                if login.is_identity_token() { (None, None, password) } else { (user, password, None) };
            let serveraddress = image.split('/').next().map(ToOwned::to_owned);
            DockerCredentials {
                username,
                password,
                identitytoken,
                serveraddress,
                ..DockerCredentials::default()
            }
        });
        let pulled =
            self.client.create_image(Some(options), None, credentials).try_for_each(|info| async move {
                match info.error_detail.and_then(|detail| detail.message) {
                    Some(message) => Err(bollard::errors::Error::DockerStreamError { error: message }),
                    None => Ok(()),
                }
            });
        pulled.await.map_err(|error| DockerError::Pull { image, reason: error.to_string() })
    }

    /// Creates a network.
    pub(crate) async fn create_network(&self, name: &str, run: &str, owner: &str) -> Result<(), DockerError> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            labels: Some(labels(run, owner)),
            ..NetworkCreateRequest::default()
        };
        let created = self.client.create_network(request).await;
        created.map(drop).map_err(DockerError::api("create a network"))
    }

    /// Removes a network that no container uses any more.
    pub(crate) async fn remove_network(&self, name: &str) -> Result<(), DockerError> {
        self.client.remove_network(name).await.map_err(DockerError::api("remove a network"))
    }

    /// Creates a service's container in a network. Returns its id.
    pub(crate) async fn create_service(
        &self,
        service: &Service,
        network: &str,
    ) -> Result<String, DockerError> {
        self.create(&service.container, Some(network), Some(&service.name)).await
    }

    /// Starts a service's container and waits until it is ready.
    pub(crate) async fn start_service(&self, service: &Service, id: &str) -> Result<(), DockerError> {
        self.copy_volumes(id, &service.container).await?;
        self.start(id).await?;
        let Some(probe) = &service.ready else { return Ok(()) };
        let start = Instant::now();
        loop {
            let state = self.client.inspect_container(id, None::<InspectContainerOptions>).await;
            let state = state.map_err(DockerError::api("inspect a container"))?;
            let address = state
                .network_settings
                .and_then(|settings| settings.networks)
                .and_then(|networks| networks.into_values().find_map(|network| network.ip_address))
                .filter(|address| !address.is_empty());
            let state = state.state.unwrap_or_default();
            if state.running == Some(false) {
                let code = state.exit_code.unwrap_or_default();
                // A service that only prepares something may be done.
                if let (0, Probe::Log(text)) = (code, probe)
                    && self.has_printed(id, text.as_bytes()).await
                {
                    return Ok(());
                }
                return Err(self.failed(service, id, format!("ended with exit code {code}")).await);
            }
            let ready = match probe {
                Probe::Healthcheck => match state.health.and_then(|health| health.status) {
                    Some(HealthStatusEnum::HEALTHY) => true,
                    None | Some(HealthStatusEnum::NONE) => {
                        return Err(self.failed(service, id, "has no health check".to_owned()).await);
                    }
                    Some(_) => false,
                },
                probe => timeout(PROBE_TIMEOUT, self.is_ready(probe, id, address.as_deref()))
                    .await
                    .unwrap_or(false),
            };
            if ready {
                return Ok(());
            }
            if start.elapsed() > service.timeout {
                let outcome = format!("was not ready within {} s", service.timeout.as_secs());
                return Err(self.failed(service, id, outcome).await);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Checks that a service is still running, or has ended without an error.
    pub(crate) async fn check_service(&self, service: &Service, id: &str) -> Result<(), DockerError> {
        let state = self.client.inspect_container(id, None::<InspectContainerOptions>).await;
        let state = state.map_err(DockerError::api("inspect a container"))?.state.unwrap_or_default();
        let code = state.exit_code.unwrap_or_default();
        if state.running == Some(false) && code != 0 {
            return Err(self
                .failed(service, id, format!("ended with exit code {code} during the test"))
                .await);
        }
        Ok(())
    }

    /// Returns the error of a service, with the end of its log.
    async fn failed(&self, service: &Service, id: &str, outcome: String) -> DockerError {
        DockerError::Service { name: service.name.clone(), outcome, log: self.log(id).await }
    }

    /// Streams the output of a container: all of it, or the last lines.
    fn output(&self, id: &str, tail: &str) -> impl Stream<Item = bytes::Bytes> {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: tail.to_owned(), ..LogsOptions::default() };
        self.client
            .logs(id, Some(options))
            .filter_map(|piece| async { piece.ok().map(LogOutput::into_bytes) })
    }

    async fn log(&self, id: &str) -> String {
        let mut pieces = Box::pin(self.output(id, LOG_LINES));
        let mut text = Vec::new();
        while let Some(piece) = pieces.next().await.filter(|_| text.len() < MAX_OUTPUT) {
            text.extend_from_slice(&piece);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether the output of a container contains a string. Keeps only as much of the output as the string is long.
    async fn has_printed(&self, id: &str, text: &[u8]) -> bool {
        let mut pieces = Box::pin(self.output(id, "all"));
        let mut window: Vec<u8> = Vec::new();
        while let Some(piece) = pieces.next().await {
            window.extend_from_slice(&piece);
            if window.windows(text.len().max(1)).any(|part| part == text) {
                return true;
            }
            window.drain(..window.len().saturating_sub(text.len()));
        }
        false
    }

    /// Runs a probe once. If the probe cannot run, the service is not ready.
    async fn is_ready(&self, probe: &Probe, id: &str, address: Option<&str>) -> bool {
        match probe {
            Probe::Healthcheck => false,
            Probe::Log(text) => self.has_printed(id, text.as_bytes()).await,
            Probe::Command(argv) => self.exec(id, argv.clone()).await.is_some_and(|(code, _)| code == 0),
            Probe::Port(port) => match address {
                Some(address) if TcpStream::connect((address, *port)).await.is_ok() => true,
                // This machine might not reach the network. The container's own list of sockets is in proc(5), `tcp`.
                _ => {
                    let argv = ["cat", "/proc/net/tcp", "/proc/net/tcp6"].map(ToOwned::to_owned).to_vec();
                    let listening = format!(":{port:04X} ");
                    let is_listening = |line: &str| {
                        let mut fields = line.split_whitespace();
                        let own = fields.nth(1).is_some_and(|own| format!("{own} ").ends_with(&listening));
                        own && fields.nth(1) == Some("0A")
                    };
                    self.exec(id, argv).await.is_some_and(|(_, text)| text.lines().any(is_listening))
                }
            },
            Probe::Http(port, path) => match address {
                Some(address) => responds(address, *port, path).await.unwrap_or(false),
                None => false,
            },
        }
    }

    /// Runs a command in a container. Returns its exit code and output.
    async fn exec(&self, id: &str, argv: Vec<String>) -> Option<(i64, String)> {
        let config = ExecConfig {
            cmd: Some(argv),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let created = self.client.create_exec(id, config).await.ok()?.id;
        let started = self.client.start_exec(&created, None::<StartExecOptions>).await.ok()?;
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(Ok(piece)) = output.next().await {
                let rest = MAX_OUTPUT.saturating_sub(text.len());
                let bytes = piece.into_bytes();
                text.extend_from_slice(&bytes[..bytes.len().min(rest)]);
            }
        }
        let code = self.client.inspect_exec(&created).await.ok()?.exit_code?;
        Some((code, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Whether a web server returns a status below 400.
async fn responds(address: &str, port: u16, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((address, port)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The status line may arrive in pieces.
    let mut head = Vec::new();
    let mut piece = [0; 64];
    while head.len() < MAX_STATUS_LINE && !head.contains(&b'\n') {
        match stream.read(&mut piece).await? {
            0 => break,
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse::<u16>().ok());
    Ok(status.is_some_and(|status| (100..400).contains(&status)))
}
