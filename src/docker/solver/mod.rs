//! Builds through the engine's embedded BuildKit.
//!
//! Two connections of the engine's API are upgraded to HTTP/2. On `/session` runner is the server: BuildKit asks it for
//! files, secrets and registry credentials as the build needs them. On `/grpc` runner is the client: it starts the build and
//! follows its progress. Written on bollard's protocol crate because bollard's own driver drops progress and result.

mod agent;
mod dockerfile;
mod filesync;
mod progress;
mod session;
mod source;
mod ssh;

use super::ignore::IgnoreFile;
use super::image::LocalImage;
use super::{DockerError, Engine};
use crate::random;
use crate::secret::{Login, Secret};
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use control::control_client::ControlClient;
use dockerfile::Dockerfile;
pub(crate) use dockerfile::base_images;
use futures_util::future::BoxFuture;
use progress::Progress;
pub(crate) use progress::{BuildSummary, Watcher};
pub(crate) use session::Session;
pub(crate) use source::{Source, is_remote};
pub(crate) use ssh::SshAgent;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Finds the login for a registry's host name, when the build asks for it.
pub(crate) type Logins = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// What builds get from runner while they are under way. Builds of one session share it, and what one of them has been sent
/// is not sent again to the others.
#[derive(Clone)]
pub(crate) struct Share {
    /// The files that `COPY` sees.
    pub(crate) context: Source,
    /// Secrets by the id that `RUN --mount=type=secret` names.
    pub(crate) secrets: HashMap<String, Secret>,
    /// SSH agents by the id that `RUN --mount=type=ssh` names.
    pub(crate) ssh: HashMap<String, SshAgent>,
    /// Logins for private base images and caches.
    pub(crate) logins: Logins,
    /// For what is not wrong with it, but not good.
    pub(crate) warnings: mpsc::Sender<String>,
}

/// An image to build.
#[derive(Clone)]
pub(crate) struct Build {
    /// The Dockerfile: inside of a directory or not; in a remote context, the path there.
    pub(crate) dockerfile: PathBuf,
    /// Names that the Dockerfile may use in `FROM` and `--from`.
    pub(crate) stages: Vec<StageImage>,
    /// The stage to build, where it is not the last one.
    pub(crate) target: Option<String>,
    /// What to build for, as `os/arch[/variant]`; the engine's own where absent.
    pub(crate) platform: Option<String>,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) labels: Vec<(String, String)>,
    /// What `RUN` reaches: `none` or `host`; the engine's default where absent.
    pub(crate) network: Option<&'static str>,
    /// Further hosts for `RUN`, with their addresses.
    pub(crate) extra_hosts: Vec<(String, String)>,
    /// Images whose inline cache may be used, and caches in registries.
    pub(crate) cache_from: Vec<String>,
    /// Where the cache goes.
    pub(crate) cache_to: CacheExport,
    /// The names that the image gets in the engine.
    pub(crate) names: Vec<String>,
}

/// A name that a Dockerfile may use for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageImage {
    /// The name of a stage.
    pub(crate) name: String,
    /// The image that it stands for.
    pub(crate) image: String,
    /// The image's platform, where it need not be that of the build.
    pub(crate) platform: Option<String>,
}

/// Where a build's cache goes, besides the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum CacheExport {
    #[default]
    None,
    /// Into the image's own configuration.
    Inline,
    /// Into a registry, under this name.
    Registry(String),
}

/// What came out of a build.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The image in the engine.
    pub(crate) image: LocalImage,
    /// What the build did.
    pub(crate) summary: BuildSummary,
}

impl Engine {
    /// Opens a session for builds that share the same files and secrets. It ends when it is dropped, and with it whatever BuildKit
    /// still does for it.
    pub(crate) async fn session(&self, share: &Share) -> Result<Session, DockerError> {
        share.context.check()?;
        session::open(&self.host, share, self.ignore_rules()).await
    }

    /// Builds an image. Progress goes to `watcher` as it comes; cancelling `stop` ends the build in the engine too.
    pub(crate) async fn build(
        &self,
        session: &Session,
        build: &Build,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<Built, DockerError> {
        let (result, summary) = self.build_once(session, build, watcher, stop).await?;
        match result {
            // The image would be there, but for its cache.
            Err(DockerError::Build(_)) if summary.cache_not_written => {
                let build = Build { cache_to: CacheExport::None, ..build.clone() };
                let (result, summary) = self.build_once(session, &build, watcher, stop).await?;
                Ok(Built { image: result?, summary })
            }
            result => Ok(Built { image: result?, summary }),
        }
    }

    async fn build_once(
        &self,
        session: &Session,
        build: &Build,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<(Result<LocalImage, DockerError>, BuildSummary), DockerError> {
        let dockerfile = match session.context {
            Source::Directory(_) => Some(Arc::new(Dockerfile::read(build)?)),
            Source::Remote(_) => None,
        };
        let directory = dockerfile.clone().map(|dockerfile| session.directories.add(dockerfile));
        let request = request(build, session, dockerfile.as_deref().zip(directory.as_deref()));
        let (solved, summary) = tokio::select! {
            solved = self.solve(request, &build.names, watcher) => solved?,
            () = stop.cancelled() => return Err(DockerError::Stopped),
        };
        let solved = match (solved, session.directories.failure()) {
            // It tells of a failed read in words of its own around ours.
            (Err(DockerError::Build(message)), Some(error))
                if message.contains(&crate::exit::chain(&error)) =>
            {
                Err(DockerError::Context(error))
            }
            (Err(DockerError::Build(message)), _) => {
                let own = dockerfile.map(|dockerfile| dockerfile.own_lines(&message));
                Err(DockerError::Build(own.unwrap_or(message)))
            }
            (solved, _) => solved,
        };
        Ok((solved, summary))
    }

    /// Makes an image of nothing but the files of a source, without what its `.dockerignore` leaves out.
    pub(crate) async fn image_of(
        &self,
        share: &Share,
        name: &str,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<(), DockerError> {
        let source = &share.context;
        let exclude =
            source.directory().map(|path| IgnoreFile::read(None, path).patterns()).unwrap_or_default();
        let session = self.session(share).await?;
        let names = [name.to_owned()];
        let request = control::SolveRequest {
            definition: Some(source::files_of(source, &session.id, &exclude)),
            ..export(&session.id, &names)
        };
        let (solved, _) = tokio::select! {
            solved = self.solve(request, &names, watcher) => solved?,
            () = stop.cancelled() => return Err(DockerError::Stopped),
        };
        match session.directories.failure() {
            Some(error) if solved.is_err() => Err(DockerError::Context(error)),
            _ => solved.map(drop),
        }
    }

    /// Sends a request and follows what BuildKit does. The image comes out of it.
    async fn solve(
        &self,
        request: control::SolveRequest,
        names: &[String],
        watcher: &Watcher,
    ) -> Result<(Result<LocalImage, DockerError>, BuildSummary), DockerError> {
        let channel = self.channel().await?;
        let mut follower = ControlClient::new(channel.clone());
        let mut client = ControlClient::new(channel);
        let status = control::StatusRequest { r#ref: request.r#ref.clone() };
        let follow = async {
            let mut progress = Progress::new(watcher);
            // The end of the stream, orderly or not, is the end of the progress; the answer decides.
            if let Ok(answer) = follower.status(status).await {
                let mut updates = answer.into_inner();
                while let Ok(Some(update)) = updates.message().await {
                    progress.update(update).await;
                }
            }
            progress.finish()
        };
        let (answer, summary) = tokio::join!(client.solve(request), follow);
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok((Err(solve_error(&status)), summary)),
        };
        Ok((Ok(self.result(&answer.exporter_response, names).await?), summary))
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

    /// The new image, by the id under which the engine knows it: its configuration's digest with the graph drivers, its
    /// manifest's with containerd's image store.
    async fn result(
        &self,
        answer: &HashMap<String, String>,
        names: &[String],
    ) -> Result<LocalImage, DockerError> {
        let digests = ["containerimage.digest", "containerimage.config.digest"];
        for digest in digests.iter().filter_map(|key| answer.get(*key)) {
            if let Ok(image) = self.image(digest).await {
                return Ok(image);
            }
        }
        match names.first() {
            Some(name) => self.image(name).await,
            None => Err(DockerError::Build("the engine gave the image no id".to_owned())),
        }
    }
}

/// The request for a build; `dockerfile` comes with the name of the directory that it is in for BuildKit.
fn request(
    build: &Build,
    session: &Session,
    dockerfile: Option<(&Dockerfile, &str)>,
) -> control::SolveRequest {
    let mut attributes: HashMap<String, String> = HashMap::new();
    let mut set = |name: &str, value: &str| attributes.insert(name.to_owned(), value.to_owned());
    if let Source::Remote(url) = &session.context {
        set("context", url);
        set("filename", &build.dockerfile.to_string_lossy());
    }
    if let Some((dockerfile, directory)) = dockerfile {
        set("filename", dockerfile.name());
        set("dockerfilekey", directory);
    }
    if let Some(target) = &build.target {
        set("target", target);
    }
    if let Some(platform) = &build.platform {
        set("platform", platform);
    }
    for (name, value) in &build.args {
        set(&format!("build-arg:{name}"), value);
    }
    for (name, value) in &build.labels {
        set(&format!("label:{name}"), value);
    }
    if let Some(network) = build.network {
        set("force-network-mode", network);
    }
    if !build.extra_hosts.is_empty() {
        let hosts: Vec<String> =
            build.extra_hosts.iter().map(|(host, address)| format!("{host}={address}")).collect();
        set("add-hosts", &hosts.join(","));
    }
    let entry = |kind: &str, attributes: &[(&str, &str)]| control::CacheOptionsEntry {
        r#type: kind.to_owned(),
        attrs: attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    };
    let imports: Vec<_> =
        build.cache_from.iter().map(|image| entry("registry", &[("ref", image.as_str())])).collect();
    if !imports.is_empty() {
        // The Dockerfile frontend reads its own copy of the list.
        let list: Vec<_> = imports
            .iter()
            .map(|entry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs }))
            .collect();
        set("cache-imports", &serde_json::Value::from(list).to_string());
    }
    let exports = match &build.cache_to {
        CacheExport::None => Vec::new(),
        CacheExport::Inline => vec![entry("inline", &[])],
        // ECR takes a cache only as an image's manifest.
        CacheExport::Registry(name) => vec![entry(
            "registry",
            &[
                ("ref", name),
                ("mode", "max"),
                ("image-manifest", "true"),
                ("oci-mediatypes", "true"),
                ("ignore-error", "true"),
            ],
        )],
    };
    control::SolveRequest {
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attributes,
        // What the host's network may be reached by has to be asked for in so many words.
        entitlements: build
            .network
            .filter(|network| *network == "host")
            .map(|_| "network.host".into())
            .into_iter()
            .collect(),
        cache: Some(control::CacheOptions { imports, exports, ..control::CacheOptions::default() }),
        ..export(&session.id, &build.names)
    }
}

/// A request that puts its result into the engine under these names.
fn export(session: &str, names: &[String]) -> control::SolveRequest {
    control::SolveRequest {
        r#ref: random::id(),
        session: session.to_owned(),
        exporter_deprecated: "moby".to_owned(),
        exporter_attrs_deprecated: HashMap::from([("name".to_owned(), names.join(","))]),
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
