//! Containers that tests run in: created, followed, and removed whatever happens.

use super::{DockerError, Engine};
use crate::secret::Secret;
use bollard::errors::Error as BollardError;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptions, InspectContainerOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long further output is awaited when the container has ended: the engine may keep the stream open.
const DRAIN: Duration = Duration::from_secs(2);
/// The label that marks what runner creates, with the build's id.
pub const RUN_LABEL: &str = "dev.runner.run";
/// The label with the id of the process that created it.
pub const PID_LABEL: &str = "dev.runner.pid";

/// A container to run.
#[derive(Debug, Clone)]
pub struct ContainerRun {
    /// The id of exactly the image to run.
    pub image: String,
    /// Arguments; the image's own where absent.
    pub command: Option<Vec<String>>,
    /// The image's own where absent.
    pub entrypoint: Option<Vec<String>>,
    /// Environment on top of the image's.
    pub env: Vec<(String, Secret)>,
    /// User inside the container; the image's own where absent.
    pub user: Option<String>,
    /// Working directory; the image's own where absent.
    pub workdir: Option<String>,
    /// The build that the container belongs to.
    pub run: String,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerEnd {
    /// The exit code of its main process.
    pub code: i64,
    /// It ran out of the memory that it was allowed.
    pub out_of_memory: bool,
}

impl Engine {
    /// Runs a container to its end and removes it. What it prints goes to `output`.
    pub async fn run(
        &self,
        container: &ContainerRun,
        output: &mpsc::Sender<Vec<u8>>,
        stop: &CancellationToken,
    ) -> Result<ContainerEnd, DockerError> {
        let created = self
            .client
            .create_container(None, body(container))
            .await
            .map_err(|error| creation_error(container, error))?;
        let ended = tokio::select! {
            ended = self.follow(&created.id, output) => ended,
            () = stop.cancelled() => Err(DockerError::Stopped),
        };
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        let removed = self
            .client
            .remove_container(&created.id, Some(options))
            .await
            .map_err(DockerError::api("remove a container"));
        let ended = ended?;
        removed?;
        Ok(ended)
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
            self.client.start_container(id, None::<StartContainerOptions>).await.map_err(start_error)?;
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
        let state = self
            .client
            .inspect_container(id, None::<InspectContainerOptions>)
            .await
            .map_err(DockerError::api("inspect a container"))?
            .state;
        Ok(ContainerEnd { code, out_of_memory: state.and_then(|state| state.oom_killed).unwrap_or_default() })
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

fn body(container: &ContainerRun) -> ContainerCreateBody {
    let labels = HashMap::from([
        (RUN_LABEL.to_owned(), container.run.clone()),
        (PID_LABEL.to_owned(), std::process::id().to_string()),
    ]);
    let env = container.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
    ContainerCreateBody {
        image: Some(container.image.clone()),
        cmd: container.command.clone(),
        entrypoint: container.entrypoint.clone(),
        env: Some(env),
        user: container.user.clone(),
        working_dir: container.workdir.clone(),
        labels: Some(labels),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ContainerCreateBody::default()
    }
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
