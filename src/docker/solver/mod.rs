//! Builds through the engine's embedded BuildKit.
//!
//! Two connections of the engine's API are upgraded to HTTP/2. On `/session` runner is the server: BuildKit asks it for
//! files, secrets and registry credentials as the build needs them. On `/grpc` runner is the client: it starts the build and
//! follows its progress. Written on bollard's protocol crate because bollard's own driver drops progress and result.

mod filesync;
mod progress;
mod session;

use super::context::ContextError;
use super::{DockerError, Engine};
use crate::secret::{Login, Secret};
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use control::control_client::ControlClient;
use filesync::Directories;
use futures_util::future::BoxFuture;
pub use progress::BuildSummary;
use progress::Progress;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Finds the login for a registry's host name, when the build asks for it.
pub type Logins = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// An image to build.
#[derive(Clone)]
pub struct Build {
    /// The directory whose files `COPY` sees.
    pub context: PathBuf,
    /// The Dockerfile, inside of the context or not.
    pub dockerfile: PathBuf,
    /// The stage to build, where it is not the last one.
    pub target: Option<String>,
    /// Build arguments.
    pub args: Vec<(String, String)>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Secrets by the id that `RUN --mount=type=secret` names.
    pub secrets: HashMap<String, Secret>,
    /// Images whose inline cache may be used.
    pub cache_from: Vec<String>,
    /// Put the cache's description into the image.
    pub inline_cache: bool,
    /// The names that the image gets in the engine.
    pub names: Vec<String>,
    /// Logins for private base images and caches.
    pub logins: Logins,
}

/// What came out of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's id in the engine.
    pub id: String,
    /// What the build did.
    pub summary: BuildSummary,
}

impl Engine {
    /// Builds an image. Progress goes to `output` as it comes; cancelling `stop` ends the build in the engine too.
    pub async fn build(
        &self,
        build: &Build,
        output: &mpsc::Sender<Vec<u8>>,
        stop: &CancellationToken,
    ) -> Result<Built, DockerError> {
        if !build.context.is_dir() {
            return Err(DockerError::Context(ContextError::Read {
                path: build.context.clone(),
                source: std::io::ErrorKind::NotADirectory.into(),
            }));
        }
        let directories = Directories::new(build)?;
        let failures = directories.failures();
        // Dropping this ends the session, and with it whatever BuildKit still does for it.
        let session = session::open(&self.host, build, directories).await?;
        let reference = session::random_id();
        let solved = tokio::select! {
            solved = self.solve(build, &session.id, &reference, output) => solved,
            () = stop.cancelled() => Err(DockerError::Stopped),
        };
        let local = failures.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (solved, local) {
            // BuildKit tells of a failed read in its own words; ours name the file.
            (Err(DockerError::Build(_)), Some(error)) => Err(error.into()),
            (solved, _) => solved,
        }
    }

    async fn solve(
        &self,
        build: &Build,
        session: &str,
        reference: &str,
        output: &mpsc::Sender<Vec<u8>>,
    ) -> Result<Built, DockerError> {
        let channel = self.channel().await?;
        let mut follower = ControlClient::new(channel.clone());
        let mut client = ControlClient::new(channel);
        let status = control::StatusRequest { r#ref: reference.to_owned() };
        let follow = async {
            let mut progress = Progress::new(output);
            // The end of the stream, orderly or not, is the end of the progress; the answer decides.
            if let Ok(answer) = follower.status(status).await {
                let mut updates = answer.into_inner();
                while let Ok(Some(update)) = updates.message().await {
                    progress.update(update).await;
                }
            }
            progress.finish()
        };
        let request = request(build, session, reference);
        let (answer, summary) = tokio::join!(client.solve(request), follow);
        let answer = answer.map_err(|status| solve_error(&status))?.into_inner();
        let id = self.image_id(&answer.exporter_response, build).await?;
        Ok(Built { id, summary })
    }

    async fn channel(&self) -> Result<Channel, DockerError> {
        let connection = self.host.upgrade("/grpc", &[]).await?;
        // The channel connects once; a connection that breaks later cannot be opened again for the same build.
        let connection = Arc::new(Mutex::new(Some(connection)));
        Endpoint::from_static("http://buildkit")
            .connect_with_connector(tower::service_fn(move |_| {
                let taken = connection.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    taken
                        .map(hyper_util::rt::TokioIo::new)
                        .ok_or_else(|| std::io::Error::other("the connection is closed"))
                }
            }))
            .await
            .map_err(|error| DockerError::Session(Box::new(error)))
    }

    /// The id under which the engine knows the new image: its configuration's digest with the graph drivers, its
    /// manifest's with containerd's image store.
    async fn image_id(&self, answer: &HashMap<String, String>, build: &Build) -> Result<String, DockerError> {
        let digests = ["containerimage.digest", "containerimage.config.digest"];
        for digest in digests.iter().filter_map(|key| answer.get(*key)) {
            if let Ok(image) = self.image(digest).await {
                return Ok(image.id);
            }
        }
        match build.names.first() {
            Some(name) => Ok(self.image(name).await?.id),
            None => Err(DockerError::Build("the engine gave the image no id".to_owned())),
        }
    }
}

fn request(build: &Build, session: &str, reference: &str) -> control::SolveRequest {
    let filename = build.dockerfile.file_name().unwrap_or_default();
    let mut attributes = HashMap::from([("filename".to_owned(), filename.to_string_lossy().into_owned())]);
    if let Some(target) = &build.target {
        attributes.insert("target".to_owned(), target.clone());
    }
    for (name, value) in &build.args {
        attributes.insert(format!("build-arg:{name}"), value.clone());
    }
    for (name, value) in &build.labels {
        attributes.insert(format!("label:{name}"), value.clone());
    }
    let imports: Vec<_> = build
        .cache_from
        .iter()
        .map(|image| control::CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs: HashMap::from([("ref".to_owned(), image.clone())]),
        })
        .collect();
    if !imports.is_empty() {
        // The Dockerfile frontend reads its own copy of the list.
        let list: Vec<_> = imports
            .iter()
            .map(|entry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs }))
            .collect();
        attributes.insert("cache-imports".to_owned(), serde_json::Value::from(list).to_string());
    }
    let exports = if build.inline_cache {
        vec![control::CacheOptionsEntry { r#type: "inline".to_owned(), attrs: HashMap::new() }]
    } else {
        Vec::new()
    };
    control::SolveRequest {
        r#ref: reference.to_owned(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attributes,
        exporter_deprecated: "moby".to_owned(),
        exporter_attrs_deprecated: HashMap::from([("name".to_owned(), build.names.join(","))]),
        cache: Some(control::CacheOptions { imports, exports, ..control::CacheOptions::default() }),
        ..control::SolveRequest::default()
    }
}

fn solve_error(status: &tonic::Status) -> DockerError {
    let message = status.message().trim();
    let message = message.strip_prefix("failed to solve: ").unwrap_or(message);
    let message = message.strip_prefix("rpc error: code = Unknown desc = ").unwrap_or(message);
    match status.code() {
        tonic::Code::Unavailable => DockerError::Session(message.to_owned().into()),
        _ => DockerError::Build(message.to_owned()),
    }
}
