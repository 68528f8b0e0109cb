//! The build of one image: its inputs, the images and contexts that it uses, and the report about it.

use super::StepScope;
use super::build::BuildGroup;
use crate::docker::image::LocalImage;
use crate::docker::solver::named::{NamedContext, NamedSource};
use crate::docker::solver::{Build, Built, CacheExport, ContextSource, Share, SshAgent, Watcher, is_remote};
use crate::docker::{Engine, context, stage_name};
use crate::event::{self, Kind};
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{CacheTo, Image, Name, Network, is_stage_name};
use crate::language::pipeline::template::Template;
use crate::plan::Mode;
use crate::plan::asks::CACHE_TAG;
use crate::secret::{MaybeSecret, Secret};
use crate::step::results::ImageResult;
use crate::text::{human_size, one_line, shortened};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many slow instructions and grown layers the log names.
const NAMED: usize = 3;
/// How much of an instruction these lines show, in characters.
const SHORT: usize = 60;
/// The label of images that may differ from their commit.
pub(crate) const DIRTY_LABEL: &str = "dev.runner.dirty";
/// The build argument with the time for reproducible builds.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The build of one image.
pub(crate) struct ImageBuild<'a> {
    pub(crate) cx: &'a StepScope<'a>,
    pub(crate) name: &'a Name,
    pub(crate) image: &'a Image,
    pub(crate) engine: Engine,
    pub(crate) watcher: Watcher,
    pub(crate) group: &'a BuildGroup,
    /// The names that other images have during this build.
    pub(crate) temporary_names: Vec<TemporaryName>,
}

/// A name that an image has while another one is built from it.
pub(crate) enum TemporaryName {
    /// The name of an image of the pipeline.
    Dependency(String),
    /// The name of an image that has only a context's files and that no other build uses.
    Files(String),
}

impl ImageBuild<'_> {
    pub(crate) async fn run(&mut self) -> Result<(), Failure> {
        let Self { cx, name, image, group, .. } = *self;
        let share = self.share()?;
        let mut build = self.build(&share.context)?;
        self.cache(&mut build).await?;
        let contexts = self.contexts(&share).await?;
        let mut secrets: Vec<&String> = share.secrets.keys().collect();
        secrets.sort_unstable();
        let key = format!("{:?} {secrets:?} {:?}", share.context, cx.request_all(&image.ssh)?);
        let session = group.session(key, &self.engine, &share).await?;
        let session =
            session.get().ok_or_else(|| Failure::environment("the session with the engine is gone"))?;
        let previous = self.previous(&build).await;
        let mut others = Vec::new();
        let platforms = self.platforms().await?;
        let mut first = None;
        for (at, platform) in platforms.iter().enumerate() {
            let own = platform.as_ref().filter(|_| at > 0);
            // The engine has one image per name: the first platform's.
            let suffix = own.map(|platform| format!("-{}", platform.replace('/', "-"))).unwrap_or_default();
            let names = build.names.iter().map(|name| format!("{name}{suffix}")).collect();
            let mut all = self.dependencies(&share, platform.as_deref()).await?;
            all.extend(contexts.iter().cloned());
            let build = Build { platform: platform.clone(), names, contexts: all, ..build.clone() };
            let built = self.engine.build(session, &build, &self.watcher, &group.stop).await;
            let built = built.map_err(|error| group.logins.build_failure(error))?;
            match own {
                Some(platform) => {
                    others.push((platform.clone(), built.image.id));
                }
                None => first = Some(built),
            }
        }
        let Some(built) = first else { return Ok(()) };
        let state = ImageResult {
            id: built.image.id.clone(),
            platforms: others.into_iter().collect(),
            fingerprint: group.fingerprints.get(&name.value).cloned(),
            ..ImageResult::default()
        };
        cx.shared.results().images.insert(name.value.clone(), state);
        cx.shared.values().forget_image(&name.value);
        self.report(&built, previous).await;
        let finished = event::Built {
            image: cx.events.shown(&name.value),
            image_id: cx.events.shown(&built.image.id),
            bytes: built.image.size,
            cached: built.summary.cached,
            vertices: built.summary.cached + built.summary.run,
        };
        cx.events.send_for(cx.events.id().inner(&name.value), Kind::ImageBuilt(finished)).await;
        Ok(())
    }

    /// A line about this image, with the prefix of its output.
    fn line(&self, text: &str) -> String {
        format!("{}{text}", self.watcher.prefix)
    }

    /// Everything that this machine shares with the build.
    fn share(&self) -> Result<Share, Failure> {
        let Self { cx, image, .. } = *self;
        Ok(Share {
            context: source(cx, &image.context)?,
            secrets: secrets(cx, image)?,
            ssh: ssh(cx, image)?,
            logins: self.group.logins.logins.clone(),
            warnings: self.group.warnings.clone(),
            masks: cx.project.masks.clone(),
        })
    }

    /// The build as the pipeline file describes it.
    fn build(&self, context: &ContextSource) -> Result<Build, Failure> {
        let Self { cx, image, .. } = *self;
        let repository = cx.repository(image)?;
        let tags = cx.tags(image)?;
        Ok(Build {
            dockerfile: dockerfile(cx, image, context)?,
            contexts: Vec::new(),
            target: image.target.as_ref().map(|target| cx.request(target)).transpose()?,
            platform: None,
            args: self.args()?,
            labels: self.labels()?,
            network: match image.network {
                None | Some(Network::Default) => None,
                Some(Network::None) => Some("none"),
                Some(Network::Host) => Some("host"),
            },
            extra_hosts: extra_hosts(cx, image)?,
            cache_from: cx.request_all(&image.cache_from)?,
            cache_to: CacheExport::None,
            names: tags.iter().map(|tag| format!("{repository}:{tag}")).collect(),
        })
    }

    /// Build arguments. With the time of the commit, newer frontends (BuildKit 0.11, Dockerfile 1.5) build equal images
    /// from equal sources: <https://reproducible-builds.org/docs/source-date-epoch/>.
    fn args(&self) -> Result<Vec<(String, String)>, Failure> {
        let mut args = self.cx.plain_pairs(&self.image.args)?;
        if let Some(time) = self.cx.project.context.commit_time
            && !self.image.args.contains_key(EPOCH)
        {
            args.push((EPOCH.to_owned(), time.to_string()));
        }
        Ok(args)
    }

    /// Labels about the source, and those of the file, which take precedence. The keys are from the OCI image
    /// specification, "Pre-Defined Annotation Keys".
    fn labels(&self) -> Result<Vec<(String, String)>, Failure> {
        let source = &self.cx.project.context;
        let created = source.commit_time.and_then(|time| jiff::Timestamp::from_second(time).ok());
        // Without the time of the commit there is no such label: the current time would make equal builds different.
        let created = created.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let known = [
            ("revision", source.commit.clone()),
            ("source", source.repository.clone()),
            ("created", created),
        ];
        let known = known.into_iter().filter_map(|(key, value)| {
            let key = format!("org.opencontainers.image.{key}");
            value.filter(|_| !self.image.labels.contains_key(&key)).map(|value| (key, value))
        });
        let dirty = self.cx.project.dirty.then(|| (DIRTY_LABEL.to_owned(), "true".to_owned()));
        Ok(known.chain(dirty).chain(self.cx.plain_pairs(&self.image.labels)?).collect())
    }

    /// Sets the sources and the destination of the cache, as far as this engine supports them.
    async fn cache(&self, build: &mut Build) -> Result<(), Failure> {
        let Self { cx, image, .. } = *self;
        if image.cache_to == CacheTo::None {
            return Ok(());
        }
        let repository = match cx.project.mode {
            Mode::Publish => super::push::address(cx, image).await?,
            // Local mode uses no registry.
            Mode::Local => None,
        };
        let exports = self.engine.about().await?.exports_cache;
        build.cache_to = match (&repository, image.cache_to) {
            (Some(repository), CacheTo::Registry) if exports => {
                CacheExport::Registry(format!("{repository}:{CACHE_TAG}"))
            }
            _ => CacheExport::Inline,
        };
        let Some(repository) = repository else { return Ok(()) };
        if build.cache_from.is_empty() {
            build.cache_from = match &build.cache_to {
                CacheExport::Registry(name) => vec![name.clone()],
                _ => self.lasting_tags()?.iter().map(|tag| format!("{repository}:{tag}")).collect(),
            };
        }
        let to = match &build.cache_to {
            CacheExport::Registry(name) => format!("to {name}"),
            _ if image.cache_to == CacheTo::Registry => {
                "into the image, because this engine's image store cannot export it to a registry".to_owned()
            }
            _ => "into the image".to_owned(),
        };
        let from = match build.cache_from.as_slice() {
            [] => "from nowhere: every tag changes with the commit, so add one such as `latest`, or set `cache.from`"
                .to_owned(),
            known => format!("from {}", known.join(", ")),
        };
        cx.events.note(self.line(&format!("cache {from}; {to}"))).await;
        Ok(())
    }

    /// The tags that do not change with the commit, so that an earlier image may have them.
    fn lasting_tags(&self) -> Result<Vec<String>, Failure> {
        let lasting = self.image.tags.iter().filter(|tag| !self.cx.project.pipeline.is_of_one_commit(tag));
        lasting.map(|tag| self.cx.plain(tag)).collect()
    }

    /// The images that this one depends on, built for a platform, with the names that the Dockerfile may use for them.
    async fn dependencies(
        &mut self,
        share: &Share,
        platform: Option<&str>,
    ) -> Result<Vec<NamedContext>, Failure> {
        let image = self.image;
        let mut contexts = Vec::new();
        if matches!(share.context, ContextSource::Remote(_)) && !self.engine.knows_named_contexts() {
            return Ok(contexts);
        }
        for other in image.depends_on.iter().filter(|other| is_stage_name(&other.value)) {
            let id = self.built_for(other, platform).await?;
            let stage = self.temporary_name(TemporaryName::Dependency);
            self.engine.tag(&id, &stage).await?;
            let title = Some(format!("the image `{}`", other.value));
            let source = NamedSource::Image { reference: stage, platform: None, title };
            contexts.push(NamedContext { name: other.value.clone(), source });
        }
        Ok(contexts)
    }

    /// The id of an image that this one depends on, for a platform.
    async fn built_for(&self, other: &Name, platform: Option<&str>) -> Result<String, Failure> {
        let cx = self.cx;
        let id = cx.built_image(&other.value)?;
        let own = &self.engine.about().await?.platform;
        let wanted = platform.unwrap_or(own);
        let of_others = cx
            .shared
            .results()
            .images
            .get(&other.value)
            .and_then(|image| image.platforms.get(wanted).cloned());
        if let Some(id) = of_others {
            return Ok(id);
        }
        let built_for = cx.image(other)?.platforms;
        if built_for.iter().any(|platform| platform == wanted) || (built_for.is_empty() && wanted == own) {
            return Ok(id);
        }
        let problem = format!("the image `{}` is not built for {wanted}", other.value);
        let help = format!("add {wanted} to its `platforms`");
        Err(cx.project.located(&Diagnostic::new(problem, other.span).help(help)))
    }

    /// The named contexts, with the names that the Dockerfile may use for them.
    async fn contexts(&mut self, share: &Share) -> Result<Vec<NamedContext>, Failure> {
        let Self { cx, image, .. } = *self;
        let mut contexts = Vec::new();
        let knows_contexts = self.engine.knows_named_contexts();
        if let (ContextSource::Remote(url), false, false) =
            (&share.context, image.contexts.is_empty(), knows_contexts)
        {
            let text = format!("the context `{url}` has its own Dockerfile, which cannot use other contexts");
            let help = "remove `contexts`, or check out the repository and build its directory";
            return Err(Failure::usage(text).help(help));
        }
        for (name, template) in &image.contexts {
            let text = cx.request(template)?;
            if let Some(image) = text.strip_prefix("docker-image://") {
                if image.is_empty() {
                    let problem = Diagnostic::new("`docker-image://` names no image", template.span);
                    return Err(cx.project.located(&problem.help("write `docker-image://NAME:TAG`")));
                }
                let source = NamedSource::Image { reference: image.to_owned(), platform: None, title: None };
                contexts.push(NamedContext { name: name.clone(), source });
                continue;
            }
            let files = source(cx, template)?;
            let source = if knows_contexts {
                NamedSource::Files(files)
            } else {
                self.image_of(name, Share { context: files, ..share.clone() }).await?
            };
            contexts.push(NamedContext { name: name.clone(), source });
        }
        Ok(contexts)
    }

    /// Makes an image of a context, for an engine that knows no named contexts.
    async fn image_of(&mut self, name: &str, share: Share) -> Result<NamedSource, Failure> {
        let reference = self.temporary_name(TemporaryName::Files);
        self.engine.image_of(&share, &reference, &self.watcher, &self.group.stop).await?;
        // Files are the same for every platform.
        let platform = Some(self.engine.about().await?.platform.clone());
        Ok(NamedSource::Image { reference, platform, title: Some(format!("the context `{name}`")) })
    }

    /// Creates a name to remove after the build.
    fn temporary_name(&mut self, kind: fn(String) -> TemporaryName) -> String {
        let name = stage_name(self.cx.shared.guards.owner());
        self.temporary_names.push(kind(name.clone()));
        name
    }

    /// The platforms to build for, the engine's own first. `None` leaves the choice to the engine.
    async fn platforms(&self) -> Result<Vec<Option<String>>, Failure> {
        let mut platforms: Vec<_> = self.image.platforms.iter().cloned().map(Some).collect();
        if platforms.is_empty() {
            return Ok(vec![None]);
        }
        let own = &self.engine.about().await?.platform;
        platforms.sort_by_key(|platform| platform.as_deref() != Some(own.as_str()));
        Ok(platforms)
    }

    /// Reports the slowest instructions, and the layers that have grown since the previous image.
    async fn report(&self, built: &Built, previous: Option<LocalImage>) {
        let Built { image: LocalImage { id, size, .. }, summary } = built;
        let slow = summary.slowest.iter().filter(|(_, took)| *took >= Duration::from_millis(100));
        let slow: Vec<String> = slow
            .take(NAMED)
            .map(|(step, took)| format!("{} {:.1} s", short(step), took.as_secs_f64()))
            .collect();
        let mut text = format!("{} of {} steps cached", summary.cached, summary.cached + summary.run);
        if !slow.is_empty() {
            text.push_str(&format!("; slowest: {}", slow.join(", ")));
        }
        self.cx.events.note(self.line(&text)).await;
        let Some(previous) = previous.filter(|previous| previous.id != *id) else { return };
        let change = match size.cmp(&previous.size) {
            Ordering::Equal => return,
            Ordering::Greater => format!("{} more than", human_size(size - previous.size)),
            Ordering::Less => format!("{} less than", human_size(previous.size - size)),
        };
        // The previous image may have been removed meanwhile.
        let (Ok(before), Ok(after)) = (self.engine.layers(&previous.id).await, self.engine.layers(id).await)
        else {
            return;
        };
        let grown = grown(before, after);
        let grown: Vec<String> =
            grown.iter().take(NAMED).map(|(step, more)| format!("{step} +{}", human_size(*more))).collect();
        let by = if grown.is_empty() { String::new() } else { format!(": {}", grown.join(", ")) };
        let text = format!("{}, {change} the previous image{by}", human_size(*size));
        self.cx.events.note(self.line(&text)).await;
    }

    /// The image to compare with: one that has one of the names, or else the newest of the repository.
    async fn previous(&self, build: &Build) -> Option<LocalImage> {
        for name in &build.names {
            if let Ok(image) = self.engine.image(name).await {
                return Some(image);
            }
        }
        let (repository, _) = build.names.first()?.rsplit_once(':')?;
        let newest = self.engine.newest_of(repository).await.ok()??;
        self.engine.image(&newest).await.ok()
    }
}

/// The beginning of an instruction, in one line.
fn short(step: &str) -> String {
    shortened(&one_line(step), SHORT)
}

/// The instructions that add more to an image than the same instructions did before, the largest first.
fn grown(before: Vec<(String, u64)>, after: Vec<(String, u64)>) -> Vec<(String, u64)> {
    let mut known: HashMap<String, u64> = HashMap::new();
    for (step, size) in before {
        *known.entry(step).or_default() += size;
    }
    let mut grown: Vec<(String, u64)> = Vec::new();
    for (step, size) in after {
        let old = known.entry(step.clone()).or_default();
        let more = size.saturating_sub(*old);
        *old = old.saturating_sub(size);
        if more > 0 {
            grown.push((short(&step), more));
        }
    }
    grown.sort_by_key(|(_, more)| std::cmp::Reverse(*more));
    grown
}

/// The path of an image's Dockerfile, on this machine or in a remote context.
pub(crate) fn dockerfile(
    cx: &StepScope<'_>,
    image: &Image,
    context: &ContextSource,
) -> Result<PathBuf, Failure> {
    let written = image.dockerfile.as_ref().map(|written| cx.request(written)).transpose()?;
    Ok(match context {
        ContextSource::Directory(path) => {
            context::dockerfile(&cx.project.directory, path, written.as_deref())
        }
        ContextSource::Remote(_) => written.unwrap_or_else(|| "Dockerfile".to_owned()).into(),
    })
}

/// Resolves a context: a directory, relative to that of the pipeline file, or a URL that the engine fetches.
pub(crate) fn source(cx: &StepScope<'_>, template: &Template) -> Result<ContextSource, Failure> {
    let text = cx.request(template)?;
    if is_remote(&text) {
        return Ok(ContextSource::Remote(text));
    }
    let path = cx.path(template)?;
    if path.is_dir() {
        return Ok(ContextSource::Directory(path));
    }
    let problem = if path.exists() { "is not a directory" } else { "does not exist" };
    let problem = Diagnostic::new(format!("the context {} {problem}", path.display()), template.span);
    let help = "it is relative to the directory of the pipeline file; a URL for the engine to fetch begins with `https://`, `git://`, `ssh://` or `git@`";
    Err(cx.project.located(&problem.help(help)))
}

/// SSH agents by id: `default` or `ID` uses the agent of the environment, `ID=PATH` a socket or a key.
fn ssh(cx: &StepScope<'_>, image: &Image) -> Result<HashMap<String, SshAgent>, Failure> {
    let mut agents = HashMap::new();
    for template in &image.ssh {
        let text = cx.request(template)?;
        let (id, path) = if let Some((id, path)) = text.split_once('=') {
            (id, cx.project.directory.join(home(cx, path)))
        } else {
            let socket = cx.values.get("SSH_AUTH_SOCK").map(MaybeSecret::expose);
            let socket = socket.filter(|socket| !socket.is_empty());
            let socket = socket.ok_or_else(|| {
                let problem =
                    Diagnostic::new("there is no SSH agent: SSH_AUTH_SOCK is not set", template.span);
                let help =
                    "start one (`eval $(ssh-agent); ssh-add`), or name a key: `ssh: [default=KEYFILE]`";
                cx.project.located(&problem.help(help))
            })?;
            (text.as_str(), PathBuf::from(socket))
        };
        if id.is_empty() || text.ends_with('=') {
            let problem = Diagnostic::new(format!("`{text}` names no key"), template.span);
            return Err(cx.project.located(&problem.help("write `ID=PATH`, or `default` for the agent")));
        }
        agents.insert(id.to_owned(), SshAgent::open(&path)?);
    }
    Ok(agents)
}

/// Expands `~/` in a path, as shells do.
fn home(cx: &StepScope<'_>, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), cx.values.get("HOME")) {
        (Some(rest), Some(home)) => Path::new(home.expose()).join(rest),
        _ => PathBuf::from(path),
    }
}

/// Hosts and their addresses. Checked here, because an error of the engine has no place in the file.
fn extra_hosts(cx: &StepScope<'_>, image: &Image) -> Result<Vec<(String, String)>, Failure> {
    let address = |(host, template): (&String, &Template)| {
        let text = cx.request(template)?;
        let address: Result<std::net::IpAddr, _> = text.parse();
        let address = address.map_err(|_| {
            let problem = Diagnostic::new(format!("`{text}` is not an IP address"), template.span);
            cx.project.located(&problem.help("write `extra-hosts: { db.internal: 10.0.0.5 }`"))
        })?;
        Ok((host.clone(), address.to_string()))
    };
    image.extra_hosts.iter().map(address).collect()
}

fn secrets(cx: &StepScope<'_>, image: &Image) -> Result<HashMap<String, Secret>, Failure> {
    image.secrets.iter().map(|name| Ok((name.value.clone(), cx.secret(name)?))).collect()
}
