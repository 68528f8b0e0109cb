//! Containers that tests run in. They are always removed.

use super::files::{CopyOut, Volume};
use super::owned::labels;
use super::{DockerError, Engine};
use crate::secret::Secret;
use bollard::errors::Error as BollardError;
use bollard::models::{ContainerCreateBody, EndpointSettings, HostConfig, NetworkingConfig};
use bollard::query_parameters::{
    AttachContainerOptions, InspectContainerOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long to wait for further output after the container has ended: the engine may keep the stream open.
const DRAIN: Duration = Duration::from_secs(2);

/// The exit code after SIGKILL.
const KILLED: i64 = 137;
/// How often to ask the engine whether the container ran out of memory, and the interval.
const OOM_POLLS: usize = 5;
const OOM_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A container to run.
#[derive(Debug, Clone)]
pub(crate) struct ContainerRun {
    /// The id or name of the image.
    pub(crate) image: String,
    /// Arguments; `None` for the image's own.
    pub(crate) command: Option<Vec<String>>,
    /// `None` for the image's own.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Variables in addition to the image's.
    pub(crate) env: Vec<(String, Secret)>,
    /// User inside the container; `None` for the image's own.
    pub(crate) user: Option<String>,
    /// Working directory; `None` for the image's own.
    pub(crate) workdir: Option<String>,
    /// The memory limit, in bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) volumes: Vec<Volume>,
    /// The id of the run that the container belongs to.
    pub(crate) run: String,
    /// The process that the container belongs to. `gc` removes the container once the process has ended.
    pub(crate) owner: String,
}

/// How a container ended.
#[derive(Debug, Default)]
pub(crate) struct ContainerEnd {
    /// The exit code of its main process.
    pub(crate) code: i64,
    /// Whether it exceeded its memory limit.
    pub(crate) out_of_memory: bool,
    /// The files that were copied out of it, for each [`CopyOut`].
    pub(crate) files: Vec<Vec<PathBuf>>,
    /// What could not be copied out of it, with the reasons.
    pub(crate) left_out: Vec<String>,
    /// The first error of copying.
    pub(crate) not_copied: Option<DockerError>,
}

impl Engine {
    /// Runs a container to its end, copies files out of it and removes it. Its output goes to `output`.
    pub(crate) async fn run(
        &self,
        container: &ContainerRun,
        network: Option<&str>,
        out: &[CopyOut],
        output: &mpsc::Sender<Vec<u8>>,
        stop: &CancellationToken,
    ) -> Result<ContainerEnd, DockerError> {
        let id = self.create(container, network, None).await?;
        let ended = tokio::select! {
            ended = self.run_created(&id, container, out, output) => ended,
            () = stop.cancelled() => Err(DockerError::Stopped),
        };
        let removed = self.remove_container(&id).await;
        let ended = ended?;
        removed?;
        Ok(ended)
    }

    async fn run_created(
        &self,
        id: &str,
        container: &ContainerRun,
        out: &[CopyOut],
        output: &mpsc::Sender<Vec<u8>>,
    ) -> Result<ContainerEnd, DockerError> {
        self.copy_volumes(id, container).await?;
        let mut end = self.follow(id, output).await?;
        for copy in out {
            let copied = self.copy_out(id, copy).await;
            end.files.push(match copied {
                Ok(unpacked) => {
                    end.left_out.extend(unpacked.left_out);
                    unpacked.files
                }
                Err(error) => {
                    end.not_copied.get_or_insert(error);
                    Vec::new()
                }
            });
        }
        Ok(end)
    }

    /// Creates a container without its files, optionally in a network and under a host name. Returns its id.
    pub(crate) async fn create(
        &self,
        container: &ContainerRun,
        network: Option<&str>,
        name: Option<&str>,
    ) -> Result<String, DockerError> {
        let is_set = |name: &str| container.env.iter().any(|(variable, _)| variable == name);
        let proxies: Vec<_> = self.missing_proxies(is_set).collect();
        let body = body(container, &proxies, network, name);
        let created = self.client.create_container(None, body).await;
        Ok(created.map_err(|error| creation_error(container, error))?.id)
    }

    /// Copies the volumes that are not bind mounts into a container.
    pub(crate) async fn copy_volumes(&self, id: &str, container: &ContainerRun) -> Result<(), DockerError> {
        for volume in container.volumes.iter().filter(|volume| !volume.bind) {
            self.copy_in(id, volume).await?;
        }
        Ok(())
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), DockerError> {
        self.client.start_container(id, None::<StartContainerOptions>).await.map_err(start_error)
    }

    /// Removes a container, running or not, and its volumes.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), DockerError> {
        let removed = self.client.remove_container(id, Some(force_removal())).await;
        removed.map_err(DockerError::api("remove a container"))
    }

    async fn follow(&self, id: &str, output: &mpsc::Sender<Vec<u8>>) -> Result<ContainerEnd, DockerError> {
        let options = AttachContainerOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        // Attach before the start, so that no line is missed.
        let attached = self
            .client
            .attach_container(id, Some(options))
            .await
            .map_err(DockerError::api("attach to a container"))?;
        let mut log = attached.output;
        let run = async {
            self.start(id).await?;
            self.wait(id).await
        };
        tokio::pin!(run);
        let mut code = None;
        let mut open = true;
        while open || code.is_none() {
            tokio::select! {
                ended = &mut run, if code.is_none() => code = Some(ended?),
                chunk = log.next(), if open => match chunk {
                    Some(Ok(chunk)) => {
                        // The container keeps running if the receiver is gone.
                        let _ = output.send(chunk.into_bytes().to_vec()).await;
                    }
                    Some(Err(_)) | None => open = false,
                },
                () = tokio::time::sleep(DRAIN), if code.is_some() => open = false,
            }
        }
        let code = code.unwrap_or_default();
        let mut out_of_memory = self.is_out_of_memory(id).await?;
        // The engine may learn about it only after the process has ended.
        for _ in 0..OOM_POLLS {
            if code != KILLED || out_of_memory {
                break;
            }
            tokio::time::sleep(OOM_POLL_INTERVAL).await;
            out_of_memory = self.is_out_of_memory(id).await?;
        }
        Ok(ContainerEnd { code, out_of_memory, files: Vec::new(), left_out: Vec::new(), not_copied: None })
    }

    async fn is_out_of_memory(&self, id: &str) -> Result<bool, DockerError> {
        let container = self.client.inspect_container(id, None::<InspectContainerOptions>).await;
        let state = container.map_err(DockerError::api("inspect a container"))?.state;
        Ok(state.and_then(|state| state.oom_killed).unwrap_or_default())
    }

    async fn wait(&self, id: &str) -> Result<i64, DockerError> {
        let mut answers = self.client.wait_container(id, None::<WaitContainerOptions>);
        match answers.next().await {
            Some(Ok(answer)) => Ok(answer.status_code),
            // The client returns every exit code but 0 as an error.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(DockerError::api("wait for a container")(error)),
            None => Err(DockerError::Lost),
        }
    }
}

fn body(
    container: &ContainerRun,
    proxies: &[&(String, String)],
    network: Option<&str>,
    name: Option<&str>,
) -> ContainerCreateBody {
    let proxies = proxies.iter().map(|(name, value)| format!("{name}={value}"));
    let own = container.env.iter().map(|(name, value)| format!("{name}={}", value.expose()));
    let env = proxies.chain(own).collect();
    let binds = container.volumes.iter().filter(|volume| volume.bind);
    let host = HostConfig {
        memory: container.memory.and_then(|bytes| i64::try_from(bytes).ok()),
        // Swap would only make running out of memory slower.
        memory_swap: container.memory.and_then(|bytes| i64::try_from(bytes).ok()),
        binds: Some(binds.map(|volume| format!("{}:{}", volume.from.display(), volume.to)).collect()),
        network_mode: network.map(ToOwned::to_owned),
        ..HostConfig::default()
    };
    let endpoint =
        EndpointSettings { aliases: name.map(|name| vec![name.to_owned()]), ..EndpointSettings::default() };
    let networks = network.map(|network| NetworkingConfig {
        endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
    });
    ContainerCreateBody {
        image: Some(container.image.clone()),
        cmd: container.command.clone(),
        entrypoint: container.entrypoint.clone(),
        env: Some(env),
        user: container.user.clone(),
        working_dir: container.workdir.clone(),
        labels: Some(labels(&container.run, &container.owner)),
        host_config: Some(host),
        networking_config: networks,
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ContainerCreateBody::default()
    }
}

/// Options to remove a container and its volumes even if it is running.
pub(crate) fn force_removal() -> RemoveContainerOptions {
    RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() }
}

fn creation_error(container: &ContainerRun, error: BollardError) -> DockerError {
    match error {
        BollardError::DockerResponseServerError { status_code: 404, .. } => {
            DockerError::NoImage(container.image.clone())
        }
        BollardError::DockerResponseServerError { status_code: 400, message } => DockerError::Start(message),
        BollardError::DockerResponseServerError { status_code: 500, message }
            if is_of_container(&message) =>
        {
            DockerError::Start(message)
        }
        error => DockerError::api("create a container")(error),
    }
}

fn start_error(error: BollardError) -> DockerError {
    match error {
        // The image does not contain the command, or cannot execute it.
        BollardError::DockerResponseServerError { status_code: 400 | 404, message } => {
            DockerError::Start(message)
        }
        BollardError::DockerResponseServerError { status_code: 500, message }
            if is_of_container(&message) =>
        {
            DockerError::Start(message)
        }
        error => DockerError::api("start a container")(error),
    }
}

/// Whether a message is about the container's own user, group, directory or command. The engine sends the same status as
/// for its own failures.
fn is_of_container(message: &str) -> bool {
    let message = message.to_lowercase();
    ["unable to find user", "unable to find group", "not a directory", "cannot mkdir", "oci runtime"]
        .iter()
        .any(|words| message.contains(words))
}
