//! Containers that tests run in: created, followed, and removed whatever happens.

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

/// How long further output is awaited when the container has ended: the engine may keep the stream open.
const DRAIN: Duration = Duration::from_secs(2);

/// The exit code of what SIGKILL ends.
const KILLED: i64 = 137;
/// How often the engine is asked why, each time after a tenth of a second.
const LATE_WORD: usize = 5;

/// A container to run.
#[derive(Debug, Clone)]
pub(crate) struct ContainerRun {
    /// The id of exactly the image to run, or its name.
    pub(crate) image: String,
    /// Arguments; the image's own where absent.
    pub(crate) command: Option<Vec<String>>,
    /// The image's own where absent.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Environment on top of the image's.
    pub(crate) env: Vec<(String, Secret)>,
    /// User inside the container; the image's own where absent.
    pub(crate) user: Option<String>,
    /// Working directory; the image's own where absent.
    pub(crate) workdir: Option<String>,
    /// How much memory it may take, in bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) volumes: Vec<Volume>,
    /// The build that the container belongs to.
    pub(crate) run: String,
    /// The process that it belongs to: when that is gone, so may the container be.
    pub(crate) owner: String,
}

/// How a container ended.
#[derive(Debug, Default)]
pub(crate) struct ContainerEnd {
    /// The exit code of its main process.
    pub(crate) code: i64,
    /// It ran out of the memory that it was allowed.
    pub(crate) out_of_memory: bool,
    /// The files that were copied out of it, for each wish.
    pub(crate) files: Vec<Vec<PathBuf>>,
    /// Why not all could be copied.
    pub(crate) not_copied: Option<DockerError>,
}

impl Engine {
    /// Runs a container to its end, copies files out of it and removes it. What it prints goes to `output`.
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
        self.fill(id, container).await?;
        let mut end = self.follow(id, output).await?;
        for copy in out {
            let copied = self.copy_out(id, copy).await;
            end.files.push(match copied {
                Ok(files) => files,
                Err(error) => {
                    end.not_copied.get_or_insert(error);
                    Vec::new()
                }
            });
        }
        Ok(end)
    }

    /// Makes a container, in a network where one is given, there known by a name. Its files are still to come.
    pub(crate) async fn create(
        &self,
        container: &ContainerRun,
        network: Option<&str>,
        name: Option<&str>,
    ) -> Result<String, DockerError> {
        let body = body(container, network, name);
        let created = self.client.create_container(None, body).await;
        Ok(created.map_err(|error| creation_error(container, error))?.id)
    }

    /// Gives a container its files.
    pub(crate) async fn fill(&self, id: &str, container: &ContainerRun) -> Result<(), DockerError> {
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
        let removed = self.client.remove_container(id, Some(at_once())).await;
        removed.map_err(DockerError::api("remove a container"))
    }

    async fn follow(&self, id: &str, output: &mpsc::Sender<Vec<u8>>) -> Result<ContainerEnd, DockerError> {
        let options = AttachContainerOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        // Attached before the start, so that not a line is missed.
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
                        // Where nobody listens any more the container goes on.
                        let _ = output.send(chunk.into_bytes().to_vec()).await;
                    }
                    Some(Err(_)) | None => open = false,
                },
                () = tokio::time::sleep(DRAIN), if code.is_some() => open = false,
            }
        }
        let code = code.unwrap_or_default();
        let mut out_of_memory = self.is_out_of_memory(id).await?;
        // The kernel's word of it reaches the engine later than the end of the process.
        for _ in 0..LATE_WORD {
            if code != KILLED || out_of_memory {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            out_of_memory = self.is_out_of_memory(id).await?;
        }
        Ok(ContainerEnd { code, out_of_memory, files: Vec::new(), not_copied: None })
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
            // The client makes an error of every exit code but 0.
            Some(Err(BollardError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(DockerError::api("wait for a container")(error)),
            None => Err(DockerError::Lost),
        }
    }
}

fn body(container: &ContainerRun, network: Option<&str>, name: Option<&str>) -> ContainerCreateBody {
    let env = container.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
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

/// With its volumes, whether it runs or not.
pub(crate) fn at_once() -> RemoveContainerOptions {
    RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() }
}

fn creation_error(container: &ContainerRun, error: BollardError) -> DockerError {
    match error {
        BollardError::DockerResponseServerError { status_code: 404, .. } => {
            DockerError::NoImage(container.image.clone())
        }
        BollardError::DockerResponseServerError { status_code: 400, message } => DockerError::Start(message),
        error => DockerError::api("create a container")(error),
    }
}

fn start_error(error: BollardError) -> DockerError {
    match error {
        // The engine's way to say that the command is not in the image, or cannot be executed there.
        BollardError::DockerResponseServerError { status_code: 400 | 404, message } => {
            DockerError::Start(message)
        }
        error => DockerError::api("start a container")(error),
    }
}
