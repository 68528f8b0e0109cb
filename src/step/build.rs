//! `build`: builds images in the order of their dependencies, several at once.

use super::StepScope;
use super::image::{ImageBuild, TemporaryName};
use super::unchanged;
use crate::address;
use crate::connections::BuildLogins;
use crate::docker::Engine;
use crate::docker::solver::{BuildSession, Share, VertexEnd, VertexUpdate, Watcher};
use crate::event::{Kind, VertexStatus};
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{Image, Name};
use crate::language::source::Span;
use crate::secret::Secret;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How many images are built at once.
const MAX_BUILDS: usize = 4;
/// How many vertex updates of a build may wait.
const VERTICES: usize = 64;
/// How many warnings may wait.
const WARNINGS: usize = 16;
/// How long the engine may take to remove a name from an image.
const UNTAG_TIMEOUT: Duration = Duration::from_secs(3);
/// The interval at which a terminal shows the current work.
const REDRAW: Duration = Duration::from_millis(100);

/// Builds images after their dependencies, and independent ones in parallel. The first that fails ends the others.
pub(crate) async fn run(cx: &StepScope<'_>, images: &[Name]) -> Result<(), Failure> {
    let built = built(cx).await?;
    let mut waiting = cx.project.pipeline.in_order(images, &|name| built.contains(name));
    let fingerprints = unchanged::skip_unchanged(cx, &mut waiting).await?;
    let (warnings, received) = mpsc::channel(WARNINGS);
    let group = BuildGroup {
        several: waiting.len() > 1,
        stop: cx.stopping.soft.child_token(),
        live: cx.events.is_watched().then(Live::default),
        warnings,
        logins: cx.connections.logins(cx.access()?),
        sessions: Mutex::default(),
        fingerprints,
        permits: Semaphore::new(MAX_BUILDS),
    };
    let finished = CancellationToken::new();
    let build = async {
        let result = group.build(cx, waiting).await;
        finished.cancel();
        result
    };
    // Both send events, one at a time. They are polled together: otherwise, one that waits for its turn could keep the
    // other, whose turn it is, from sending.
    let (result, ()) = tokio::join!(build, group.report(cx, received, &finished));
    if group.live.is_some() {
        cx.events.live(Vec::new()).await;
    }
    result
}

/// The images that earlier steps built, that others depend on and that the engine still has.
async fn built(cx: &StepScope<'_>) -> Result<HashSet<String>, Failure> {
    let images = cx.project.pipeline.images.values();
    let needed: HashSet<&str> =
        images.flat_map(|image| &image.depends_on).map(|name| name.value.as_str()).collect();
    let known: Vec<(String, String)> = {
        let state = cx.shared.results();
        let known = state.images.iter().filter(|(name, _)| needed.contains(name.as_str()));
        known.map(|(name, image)| (name.clone(), image.id.clone())).collect()
    };
    let mut built = HashSet::new();
    for (name, id) in known {
        if cx.connections.docker().await?.image(&id).await.is_ok() {
            built.insert(name);
        }
    }
    Ok(built)
}

/// Images that are built together.
pub(crate) struct BuildGroup {
    pub(crate) several: bool,
    pub(crate) stop: CancellationToken,
    pub(crate) live: Option<Live>,
    pub(crate) warnings: mpsc::Sender<String>,
    pub(crate) logins: BuildLogins,
    /// The fingerprints of images' sources, by image, for `skip-unchanged`.
    pub(crate) fingerprints: HashMap<String, String>,
    /// Sessions by what their builds have in common: files, secrets and SSH agents.
    pub(crate) sessions: Mutex<HashMap<String, Arc<OnceCell<BuildSession>>>>,
    /// Limits parallel builds. Each has two connections to the engine.
    pub(crate) permits: Semaphore,
}

/// Sends the events about the vertices of a build.
async fn report_vertices(cx: &StepScope<'_>, image: &Name, mut updates: mpsc::Receiver<VertexUpdate>) {
    let events = &cx.events;
    let image = events.id().inner(&image.value);
    while let Some(VertexUpdate { number, name, end }) = updates.recv().await {
        let name = events.shown(name);
        let kind = match end {
            None => Kind::VertexStarted { name },
            Some(VertexEnd { cached, error, elapsed }) => {
                let status = match (&error, cached) {
                    (Some(_), _) => VertexStatus::Failed,
                    (None, true) => VertexStatus::Cached,
                    (None, false) => VertexStatus::Done,
                };
                let error = error.map(|error| events.shown(error));
                Kind::VertexFinished { name, status, elapsed, error }
            }
        };
        events.send_for(image.inner(&format!("v{number}")), kind).await;
    }
}

/// The current work of each build, for a terminal.
pub(crate) type Live = Mutex<Vec<watch::Receiver<Vec<String>>>>;

impl BuildGroup {
    async fn build(&self, cx: &StepScope<'_>, mut waiting: Vec<Name>) -> Result<(), Failure> {
        let mut running = FuturesUnordered::new();
        let mut unbuilt: HashSet<String> = waiting.iter().map(|name| name.value.clone()).collect();
        let mut first = None;
        loop {
            let mut blocked = Vec::new();
            for name in waiting {
                let image = cx.image(&name)?;
                if image.depends_on.iter().any(|other| unbuilt.contains(&other.value)) {
                    blocked.push(name);
                } else {
                    running.push(async move {
                        let result = self.build_one(cx, &name, &image).await;
                        (name, result)
                    });
                }
            }
            waiting = blocked;
            match running.next().await {
                None => return first.map_or(Ok(()), Err),
                Some((name, Ok(()))) => {
                    unbuilt.remove(&name.value);
                }
                Some((name, Err(failure))) => {
                    self.stop.cancel();
                    waiting.clear();
                    let message = if self.several {
                        format!("{}: {}", name.value, failure.message)
                    } else {
                        failure.message
                    };
                    first.get_or_insert(Failure { message, ..failure });
                }
            }
        }
    }

    async fn build_one(&self, cx: &StepScope<'_>, name: &Name, image: &Image) -> Result<(), Failure> {
        let _permit = self.permits.acquire().await;
        let engine = cx.connections.docker().await?.clone();
        let live = self.live.as_ref().map(|live| {
            let (sender, receiver) = watch::channel(Vec::new());
            live.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
            sender
        });
        let started = Kind::ImageStarted { image: cx.events.shown(&name.value) };
        cx.events.send_for(cx.events.id().inner(&name.value), started).await;
        let (vertices, updates) = mpsc::channel(VERTICES);
        let watcher = Watcher {
            output: cx.output.clone(),
            live,
            warnings: self.warnings.clone(),
            vertices,
            masks: cx.project.masks.clone(),
            prefix: if self.several { format!("{} │ ", name.value) } else { String::new() },
        };
        let mut image_build =
            ImageBuild { cx, name, image, engine, watcher, group: self, temporary_names: Vec::new() };
        let build = async {
            let result = self.run(&mut image_build).await;
            // Closes the channel of the updates.
            drop(image_build);
            result
        };
        let (result, ()) = tokio::join!(build, report_vertices(cx, name, updates));
        result
    }

    /// Builds an image, and removes the temporary names of other images.
    async fn run(&self, image_build: &mut ImageBuild<'_>) -> Result<(), Failure> {
        let result = tokio::select! {
            result = image_build.run() => result,
            () = self.stop.cancelled() => Err(Failure::stopped()),
        };
        for name in &image_build.temporary_names {
            // `gc` removes the names that remain.
            let _ = tokio::time::timeout(UNTAG_TIMEOUT, async {
                match name {
                    TemporaryName::Files(name) => image_build.engine.untag(name).await,
                    // Its other names may have moved to another image meanwhile, and later steps still need this one.
                    TemporaryName::Dependency(name) => image_build.engine.untag_unless_last(name).await,
                }
            })
            .await;
        }
        result
    }

    /// The session for an image. Images with the same files and secrets share one, so that files are sent once.
    pub(crate) async fn session(
        &self,
        key: String,
        engine: &Engine,
        share: &Share,
    ) -> Result<Arc<OnceCell<BuildSession>>, Failure> {
        let session =
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        session.get_or_try_init(|| engine.session(share)).await?;
        Ok(session)
    }

    /// Sends warnings, and shows the current work, until the builds are finished.
    async fn report(
        &self,
        cx: &StepScope<'_>,
        mut warnings: mpsc::Receiver<String>,
        finished: &CancellationToken,
    ) {
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                biased;
                Some(text) = warnings.recv() => cx.events.warn(text).await,
                () = finished.cancelled() => return,
                _ = redraw.tick(), if self.live.is_some() => self.show(cx).await,
            }
        }
    }

    /// Shows the current work of all builds.
    async fn show(&self, cx: &StepScope<'_>) {
        let Some(live) = &self.live else { return };
        let receivers = live.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cx.events.live(receivers.iter().flat_map(|receiver| receiver.borrow().clone()).collect()).await;
    }
}

impl StepScope<'_> {
    /// The image of that name. The checks of the file have ensured that it exists.
    pub(crate) fn image(&self, name: &Name) -> Result<Image, Failure> {
        let image = self.project.pipeline.images.get(&name.value).cloned();
        image.ok_or_else(|| Failure::usage(format!("there is no image `{}`", name.value)))
    }

    /// The name of the image's repository in the engine, with the registry if the file has one.
    pub(crate) fn repository(&self, image: &Image) -> Result<String, Failure> {
        let name = self.plain(&image.repository)?;
        let known =
            address::ImageRepository::parse(&name).map_err(|error| self.at(image.repository.span, error))?;
        Ok(known.engine_name())
    }

    /// The image's tags, without duplicates.
    pub(crate) fn tags(&self, image: &Image) -> Result<Vec<String>, Failure> {
        let mut tags = Vec::new();
        for template in &image.tags {
            let tag = self.plain(template)?;
            address::check_tag(&tag).map_err(|error| self.at(template.span, error))?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }

    /// A failure about a value of the pipeline file, with its place.
    fn at(&self, span: Span, error: impl std::error::Error) -> Failure {
        let message = crate::exit::chain(&error);
        self.project.located(&Diagnostic::new(message, span))
    }

    /// The value of a secret variable.
    pub(crate) fn secret(&self, name: &Name) -> Result<Secret, Failure> {
        self.values.secret(&name.value).ok_or_else(|| {
            let problem = Diagnostic::new(format!("the secret `{}` has no value", name.value), name.span);
            self.project.located(&problem.help("set it in --env-file or in the environment"))
        })
    }
}
