//! Services: containers that run alongside a test, in a network of their own.

use super::container::ContainerRun;
use super::owned::labels;
use super::probe::{Found, LogSearch, MAX_OUTPUT, Probe, Reach};
use super::{DockerError, Engine};
use crate::secret::Login;
use bollard::auth::DockerCredentials;
use bollard::models::{HealthStatusEnum, NetworkCreateRequest};
use bollard::query_parameters::{CreateImageOptions, InspectContainerOptions, LogsOptions};
use futures_util::{StreamExt, TryStreamExt};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The interval at which a service is polled until it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many lines of a service's log are reported after a failure.
const LOG_LINES: &str = "50";

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
        let mut log = match probe {
            Probe::Log(text) => Some(LogSearch::new(self, id, text)),
            _ => None,
        };
        loop {
            let state = self.client.inspect_container(id, None::<InspectContainerOptions>).await;
            let state = state.map_err(DockerError::api("inspect a container"))?;
            let reach = Reach::new(state.network_settings.and_then(|settings| settings.networks));
            let state = state.state.unwrap_or_default();
            if state.running == Some(false) {
                let code = state.exit_code.unwrap_or_default();
                // A service that only prepares something may be done. Its output ends.
                if let (0, Some(log)) = (code, &mut log)
                    && log.search(service.timeout).await == Found::Yes
                {
                    return Ok(());
                }
                return Err(self.failed(service, id, format!("ended with exit code {code}")).await);
            }
            let ready = match (probe, &mut log) {
                (Probe::Healthcheck, _) => match state.health.and_then(|health| health.status) {
                    Some(HealthStatusEnum::HEALTHY) => true,
                    None | Some(HealthStatusEnum::NONE) => {
                        return Err(self.failed(service, id, "has no health check".to_owned()).await);
                    }
                    Some(_) => false,
                },
                (_, Some(log)) => log.search(POLL_INTERVAL).await == Found::Yes,
                (probe, None) => {
                    timeout(PROBE_TIMEOUT, self.is_ready(probe, id, &reach)).await.unwrap_or(false)
                }
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

    async fn log(&self, id: &str) -> String {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: LOG_LINES.to_owned(), ..LogsOptions::default() };
        let mut pieces = Box::pin(self.client.logs(id, Some(options)));
        let mut text = Vec::new();
        while let Some(Ok(piece)) = pieces.next().await
            && text.len() < MAX_OUTPUT
        {
            text.extend_from_slice(&piece.into_bytes());
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
