//! Builds through the engine's embedded BuildKit.
//!
//! Two connections to the engine's API are upgraded to HTTP/2. On `/session` runner is the server: BuildKit requests
//! files, secrets and registry credentials as the build needs them. On `/grpc` runner is the client: it starts the
//! build and follows its progress. This module uses bollard's protocol crate directly because bollard's own driver
//! discards progress and result.

mod agent;
mod dockerfile;
mod explain;
mod failure;
mod filesync;
pub(crate) mod named;
mod progress;
mod session;
mod source;
mod ssh;

use super::ignore::IgnoreFile;
use super::image::LocalImage;
use super::{DockerError, Engine};
use crate::random;
use crate::secret::{Login, Masks, Secret};
use bollard_buildkit_proto::moby::buildkit::v1 as control;
use control::control_client::ControlClient;
use dockerfile::Dockerfile;
pub(crate) use dockerfile::base_images;
use futures_util::future::BoxFuture;
use named::{FrontendContexts, NamedContext};
pub(crate) use progress::{BuildSummary, VertexEnd, VertexUpdate, Watcher};
use progress::{Progress, SETTLED};
pub(crate) use session::BuildSession;
pub(crate) use source::{ContextSource, is_remote};
pub(crate) use ssh::SshAgent;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Returns the login for a registry's host name when the build requests it.
pub(crate) type Logins = Arc<dyn Fn(String) -> BoxFuture<'static, Option<Login>> + Send + Sync>;

/// The resources that runner serves to builds. Builds of one session share them, and files that one of them has
/// received are not sent again to the others.
#[derive(Clone)]
pub(crate) struct Share {
    /// The source of the files for `COPY`.
    pub(crate) context: ContextSource,
    /// Secrets by the id that `RUN --mount=type=secret` names.
    pub(crate) secrets: HashMap<String, Secret>,
    /// SSH agents by the id that `RUN --mount=type=ssh` names.
    pub(crate) ssh: HashMap<String, SshAgent>,
    /// Logins for private base images and caches.
    pub(crate) logins: Logins,
    /// Receives problems that do not fail the build.
    pub(crate) warnings: mpsc::Sender<String>,
    /// The secrets that no file of the context should contain.
    pub(crate) masks: Masks,
}

/// An image to build.
#[derive(Clone)]
pub(crate) struct Build {
    /// The path of the Dockerfile, inside or outside of the context. For a remote context, the path within it.
    pub(crate) dockerfile: PathBuf,
    /// Names that the Dockerfile may use in `FROM` and `--from`. Their files are images if the engine
    /// [does not know](Engine::knows_named_contexts) named contexts.
    pub(crate) contexts: Vec<NamedContext>,
    /// The stage to build; `None` for the last one.
    pub(crate) target: Option<String>,
    /// The platform as `os/arch[/variant]`; `None` for the engine's own.
    pub(crate) platform: Option<String>,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) labels: Vec<(String, String)>,
    /// The network of `RUN`: `none` or `host`; `None` for the engine's default.
    pub(crate) network: Option<&'static str>,
    /// Additional hosts for `RUN`, with their addresses.
    pub(crate) extra_hosts: Vec<(String, String)>,
    /// Images with an inline cache, and caches in registries.
    pub(crate) cache_from: Vec<String>,
    /// The destination of the cache.
    pub(crate) cache_to: CacheExport,
    /// The names of the image in the engine.
    pub(crate) names: Vec<String>,
}

/// A stage name that a Dockerfile may use for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageImage {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The image's platform; `None` for the platform of the build.
    pub(crate) platform: Option<String>,
}

/// The destination of a build's cache, in addition to the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum CacheExport {
    #[default]
    None,
    /// The image's own configuration.
    Inline,
    /// A registry, under this name.
    Registry(String),
}

/// The result of a build.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The image in the engine.
    pub(crate) image: LocalImage,
    pub(crate) summary: BuildSummary,
}

impl Engine {
    /// Reads the ignore file of a context, and checks it before this engine reads it.
    fn ignore_file(&self, dockerfile: Option<&Path>, context: &Path) -> Result<IgnoreFile, DockerError> {
        let ignore = IgnoreFile::read(dockerfile, context)?;
        ignore.check(self.ignore_rules())?;
        Ok(ignore)
    }

    /// Whether the engine's frontend knows named contexts: Dockerfile 1.4, which engines have since 23.0.
    pub(crate) fn knows_named_contexts(&self) -> bool {
        self.is_at_least(1, 42)
    }

    /// Opens a session for builds that share the same files and secrets. Dropping the session closes it and ends
    /// everything that BuildKit still does for it.
    pub(crate) async fn session(&self, share: &Share) -> Result<BuildSession, DockerError> {
        share.context.check()?;
        session::open(&self.host, share, self.ignore_rules()).await
    }

    /// Builds an image and reports progress to `watcher`. Cancelling `stop` also ends the build in the engine.
    pub(crate) async fn build(
        &self,
        session: &BuildSession,
        build: &Build,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<Built, DockerError> {
        let (result, summary) = self.build_once(session, build, watcher, stop).await?;
        match result {
            // Only the export of the cache failed. Build again without it.
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
        session: &BuildSession,
        build: &Build,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<(Result<LocalImage, DockerError>, BuildSummary), DockerError> {
        let mut names: Vec<_> = build.contexts.iter().map(|context| Some(context.name.clone())).collect();
        let (dockerfile, context) = match session.context {
            ContextSource::Directory(ref path) => {
                let ignore = self.ignore_file(Some(&build.dockerfile), path)?;
                let dockerfile = if self.knows_named_contexts() {
                    let (dockerfile, renamed) =
                        Dockerfile::read_with_contexts(&build.dockerfile, &build.contexts, &build.args)?;
                    names = renamed;
                    dockerfile
                } else {
                    Dockerfile::read(&build.dockerfile, &named::stages(&build.contexts))?
                };
                (Some(Arc::new(dockerfile)), Some((path.as_path(), ignore)))
            }
            ContextSource::Remote(_) => (None, None),
        };
        let directory = dockerfile.clone().map(|dockerfile| session.directories.add(dockerfile));
        let mut contexts = FrontendContexts::default();
        if self.knows_named_contexts() {
            for (name, context) in names.iter().zip(&build.contexts) {
                let Some(name) = name else { continue };
                contexts.add(name, &context.source, &session.id, |path| {
                    self.ignore_file(None, path)?;
                    Ok(session.directories.add_context(path))
                })?;
            }
        }
        // BuildKit takes both cases of a name for the same proxy, in any order.
        let is_set = |name: &str| build.args.iter().any(|(argument, _)| argument.eq_ignore_ascii_case(name));
        let proxies: Vec<_> = self.missing_proxies(is_set).collect();
        let mut request = request(build, &proxies, session, dockerfile.as_deref().zip(directory.as_deref()));
        request.frontend_attrs.extend(contexts.attributes);
        request.frontend_inputs = contexts.inputs;
        let titles = named::titles(&build.contexts);
        let (solved, summary) = tokio::select! {
            solved = self.solve(request, &build.names, watcher, titles) => solved?,
            () = stop.cancelled() => return Err(DockerError::Stopped),
        };
        let solved = match (solved, session.directories.failure()) {
            // BuildKit wraps runner's read error in its own message.
            (Err(DockerError::Build(message)), Some(error))
                if message.contains(&crate::exit::chain(&error)) =>
            {
                Err(DockerError::Context(error))
            }
            (Err(DockerError::Build(message)), _) => {
                let own = dockerfile.as_ref().map(|dockerfile| dockerfile.own_lines(&message));
                let message = own.unwrap_or(message);
                let context = context.as_ref().map(|(path, ignore)| (*path, ignore));
                let inputs = explain::Inputs {
                    dockerfile: dockerfile.as_deref(),
                    context,
                    rules: self.ignore_rules(),
                };
                Err(match inputs.help(&message) {
                    Some(help) => DockerError::Explained { message, help },
                    None => DockerError::Build(message),
                })
            }
            (solved, _) => solved,
        };
        Ok((solved, summary))
    }

    /// Builds an image that contains only the files of a source, except those that its `.dockerignore` excludes.
    pub(crate) async fn image_of(
        &self,
        share: &Share,
        name: &str,
        watcher: &Watcher,
        stop: &CancellationToken,
    ) -> Result<(), DockerError> {
        let source = &share.context;
        let ignore = source.directory().map(|path| self.ignore_file(None, path)).transpose()?;
        let exclude = ignore.map(|ignore| ignore.patterns()).unwrap_or_default();
        let session = self.session(share).await?;
        let names = [name.to_owned()];
        let request = control::SolveRequest {
            definition: Some(source::files_of(source, &session.id, &exclude)),
            ..export(&session.id, &names)
        };
        let (solved, _) = tokio::select! {
            solved = self.solve(request, &names, watcher, Vec::new()) => solved?,
            () = stop.cancelled() => return Err(DockerError::Stopped),
        };
        match session.directories.failure() {
            Some(error) if solved.is_err() => Err(DockerError::Context(error)),
            _ => solved.map(drop),
        }
    }

    /// Sends a build request and follows its progress. Returns the image.
    async fn solve(
        &self,
        request: control::SolveRequest,
        names: &[String],
        watcher: &Watcher,
        titles: Vec<(String, String)>,
    ) -> Result<(Result<LocalImage, DockerError>, BuildSummary), DockerError> {
        let channel = self.channel().await?;
        let mut follower = ControlClient::new(channel.clone());
        let mut client = ControlClient::new(channel);
        let status = control::StatusRequest { r#ref: request.r#ref.clone() };
        let follow = async {
            let mut progress = Progress::new(watcher, titles);
            // Progress ends with the stream, even if the stream fails. The response to `solve` decides the result.
            if let Ok(response) = follower.status(status).await {
                let mut updates = response.into_inner();
                loop {
                    match tokio::time::timeout(SETTLED, updates.message()).await {
                        Ok(Ok(Some(update))) => progress.update(update).await,
                        Ok(_) => break,
                        Err(_) => progress.settle().await,
                    }
                }
            }
            progress.finish().await
        };
        let (response, summary) = tokio::join!(client.solve(request), follow);
        let response = match response {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok((Err(failure::solve_error(&status)), summary)),
        };
        Ok((Ok(self.result(&response.exporter_response, names).await?), summary))
    }

    async fn channel(&self) -> Result<Channel, DockerError> {
        let connection = self.host.upgrade("/grpc", &[]).await?;
        // The channel connects once. A build cannot continue on a new connection.
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

    /// Returns the new image. Its id is the digest of its configuration, or of its manifest with containerd's image
    /// store.
    async fn result(
        &self,
        response: &HashMap<String, String>,
        names: &[String],
    ) -> Result<LocalImage, DockerError> {
        let digests = ["containerimage.digest", "containerimage.config.digest"];
        for digest in digests.iter().filter_map(|key| response.get(*key)) {
            if let Ok(image) = self.image(digest).await {
                return Ok(image);
            }
        }
        match names.first() {
            Some(name) => self.image(name).await,
            None => Err(DockerError::Build("the engine returned no id for the image".to_owned())),
        }
    }
}

/// Returns the request for a build. `dockerfile` comes with the name of its directory in the session.
fn request(
    build: &Build,
    proxies: &[&(String, String)],
    session: &BuildSession,
    dockerfile: Option<(&Dockerfile, &str)>,
) -> control::SolveRequest {
    let mut attributes: HashMap<String, String> = HashMap::new();
    let mut set = |name: &str, value: &str| attributes.insert(name.to_owned(), value.to_owned());
    if let ContextSource::Remote(url) = &session.context {
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
    // BuildKit knows these arguments: they are neither kept in the image nor part of the cache's key.
    for (name, value) in proxies.iter().copied().chain(&build.args) {
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
        // The Dockerfile frontend reads a separate copy of the list.
        let list: Vec<_> = imports
            .iter()
            .map(|entry| serde_json::json!({ "Type": entry.r#type, "Attrs": entry.attrs }))
            .collect();
        set("cache-imports", &serde_json::Value::from(list).to_string());
    }
    let exports = match &build.cache_to {
        CacheExport::None => Vec::new(),
        CacheExport::Inline => vec![entry("inline", &[])],
        // ECR accepts a cache only as an image manifest.
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
        // BuildKit requires an explicit entitlement for the host's network.
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

/// Returns a request whose result is stored in the engine under these names.
fn export(session: &str, names: &[String]) -> control::SolveRequest {
    control::SolveRequest {
        r#ref: random::id(),
        session: session.to_owned(),
        exporter_deprecated: "moby".to_owned(),
        exporter_attrs_deprecated: HashMap::from([("name".to_owned(), names.join(","))]),
        ..control::SolveRequest::default()
    }
}
