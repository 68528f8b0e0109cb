//! `skip-unchanged`: an image is not built if its repository has one of the same sources that has passed its tests.
//!
//! The fingerprint of the sources is an additional tag of the image. The image gets it when all of its tests have
//! passed.

use super::image;
use crate::address::{ImageReference, Repository};
use crate::docker::context::{self, ContextError, Selection};
use crate::docker::ignore::IgnoreFile;
use crate::docker::solver::{ContextSource, base_images};
use crate::event::Kind;
use crate::exit::Failure;
use crate::language::pipeline::model::{Action, Image, Name, StepId, Test, is_stage_name};
use crate::language::pipeline::template::Template;
use crate::plan::Mode;
use crate::plan::asks::SOURCE_TAG;
use crate::registry::connection::RepositoryClient;
use crate::step::results::ImageResult;
use crate::step::test::volumes;
use crate::step::{StepScope, push};
use crate::text::hex;
use aws_lc_rs::digest::{Context as Hash, SHA256};
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

/// How many characters of a fingerprint its tag contains.
const TAG_LENGTH: usize = 40;
/// The version of the fingerprint: it changes whenever the inputs of a fingerprint do.
const VERSION: &str = "3";

/// How long a call may take that only saves work: without it, an image is built although it could be skipped.
const MAX_CALL: Duration = Duration::from_secs(10);

/// The reason why an image has no fingerprint.
struct NoFingerprint(String);

impl<E: Into<Failure>> From<E> for NoFingerprint {
    fn from(error: E) -> Self {
        Self(error.into().message)
    }
}

/// Removes the images that need not be built from `waiting`. Returns the fingerprints of the others, if they have one.
pub(crate) async fn skip_unchanged(
    cx: &StepScope<'_>,
    waiting: &mut Vec<Name>,
) -> Result<HashMap<String, String>, Failure> {
    let mut fingerprints = HashMap::new();
    if cx.project.mode != Mode::Publish {
        return Ok(fingerprints);
    }
    let mut found = HashMap::new();
    for name in waiting.iter() {
        let image = cx.image(name)?;
        if !image.skip_unchanged {
            continue;
        }
        // After any error here the image can still be built, and the build reports mistakes in the file. The role of a
        // pull request's build may not be allowed to read the repository.
        let lookup = async {
            let fingerprint = fingerprint(cx, name, &image).await?;
            let before = pushed_before(cx, &image, &fingerprint).await?;
            Ok((fingerprint, before))
        };
        match lookup.await {
            Ok((fingerprint, before)) => {
                found.extend(before.map(|digest| (name.value.clone(), digest)));
                fingerprints.insert(name.value.clone(), fingerprint);
            }
            Err(NoFingerprint(reason)) => {
                cx.events.warn(format!("`skip-unchanged` of {} has no effect: {reason}", name.value)).await;
            }
        }
    }
    // An image that another build depends on must be in the engine.
    for name in waiting.iter().rev() {
        let is_needed = cx.project.pipeline.images.iter().any(|(other, image)| {
            image.depends_on.iter().any(|needed| needed.value == name.value) && !found.contains_key(other)
        });
        if is_needed {
            found.remove(&name.value);
        }
    }
    waiting.retain(|name| !found.contains_key(&name.value));
    for (name, digest) in found {
        let unchanged =
            Kind::ImageUnchanged { image: cx.events.shown(&name), digest: cx.events.shown(&digest) };
        cx.events.send_for(cx.events.id().inner(&name), unchanged).await;
        let state = ImageResult { unchanged: Some(digest), ..ImageResult::default() };
        cx.shared.results().images.insert(name.clone(), state);
        cx.shared.values().forget_image(&name);
    }
    Ok(fingerprints)
}

/// Records that a test has passed, and tags a pushed image that has passed all of its tests with its fingerprint.
pub(crate) async fn record(cx: &StepScope<'_>, name: &Name, passed: Option<StepId>) -> Result<(), Failure> {
    let state = {
        let mut state = cx.shared.results();
        let Some(image) = state.images.get_mut(&name.value) else { return Ok(()) };
        image.passed.extend(passed.map(|step| step.0));
        image.clone()
    };
    let (Some(fingerprint), Some(digest)) = (&state.fingerprint, &state.digest) else { return Ok(()) };
    let mut tests = cx.project.pipeline.steps().filter(|step| is_test_of(&step.action, &name.value));
    if tests.any(|test| !state.passed.contains(&test.id.0)) {
        return Ok(());
    }
    let image = cx.image(name)?;
    let tags = [tag(fingerprint)];
    let recorded = in_time(async {
        match client(cx, &image).await? {
            Some(client) => Ok(client.tag_again(digest, &tags).await.map(drop)?),
            None => Ok(()),
        }
    });
    if let Err(failure) = recorded.await {
        // The image is pushed, and the next build is only slower.
        let (name, reason) = (&name.value, failure.message);
        cx.events
            .warn(format!("could not tag {name} with its fingerprint for `skip-unchanged`: {reason}"))
            .await;
    }
    Ok(())
}

fn is_test_of(action: &Action, image: &str) -> bool {
    matches!(action, Action::Test(test) if test.image.value == image)
}

/// The tag for a fingerprint.
fn tag(fingerprint: &str) -> String {
    format!("{SOURCE_TAG}{}", &fingerprint[..TAG_LENGTH.min(fingerprint.len())])
}

/// The digest of the image with this fingerprint.
async fn pushed_before(
    cx: &StepScope<'_>,
    image: &Image,
    fingerprint: &str,
) -> Result<Option<String>, Failure> {
    in_time(async {
        match client(cx, image).await? {
            Some(client) => Ok(client.tag_digest(&tag(fingerprint)).await?),
            None => Ok(None),
        }
    })
    .await
}

/// Bounds a call that only saves work.
async fn in_time<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(MAX_CALL, call).await.unwrap_or_else(|_| {
        let seconds = MAX_CALL.as_secs();
        Err(Failure::environment(format!("the registry did not serve it within {seconds} s")))
    })
}

/// Connects to the image's repository. Returns `None` if it does not exist yet.
async fn client(cx: &StepScope<'_>, image: &Image) -> Result<Option<RepositoryClient>, Failure> {
    let Some(address) = push::address(cx, image).await? else { return Ok(None) };
    let Some(repository) = Repository::parse(&address)? else { return Ok(None) };
    let access = cx.connections.registry_to_push(&repository.host, &cx.access()?, cx.on_wait()).await?;
    Ok(Some(RepositoryClient::connect(&access, &repository, &[]).await?))
}

/// A digest of all inputs of an image except labels and tags, as 64 hexadecimal digits.
async fn fingerprint(cx: &StepScope<'_>, name: &Name, image: &Image) -> Result<String, NoFingerprint> {
    if let Some((argument, _)) =
        image.args.iter().find(|(_, value)| cx.project.pipeline.carries_commit(value))
    {
        let reason = format!("its argument `{argument}` changes with every commit; use a label instead");
        return Err(NoFingerprint(reason));
    }
    let used = cx.project.pipeline.steps().find(|step| match &step.action {
        Action::Test(test) => {
            test.services.values().any(|service| service.image.as_literal().as_deref() == Some(&name.value))
        }
        _ => false,
    });
    if used.is_some() {
        return Err(NoFingerprint("a test uses it as a service".to_owned()));
    }
    let engine = cx.connections.docker().await?;
    let mut hasher = Hasher::new();
    hasher.add("version", VERSION);
    let source = image::source(cx, &image.context)?;
    let ContextSource::Directory(root) = &source else {
        return Err(NoFingerprint("the engine fetches its context".to_owned()));
    };
    let dockerfile = image::dockerfile(cx, image, &source)?;
    let text = std::fs::read(&dockerfile)
        .map_err(|_| crate::docker::DockerError::NoDockerfile(dockerfile.clone()))?;
    hasher.add("dockerfile", &text);
    hasher.add("context", &digest(cx, Some(dockerfile), root.clone()).await?);
    let args = cx.plain_pairs(&image.args)?;
    for (argument, value) in &args {
        hasher.add("argument", argument);
        hasher.add("value", value);
    }
    let own: Vec<String> = image
        .depends_on
        .iter()
        .filter(|other| is_stage_name(&other.value))
        .map(|other| other.value.clone())
        .chain(image.contexts.keys().cloned())
        .collect();
    for other in &image.depends_on {
        let needed = cx.image(other)?;
        hasher.add("image", &Box::pin(fingerprint(cx, other, &needed)).await?);
    }
    for (context, template) in &image.contexts {
        hasher.add("named context", context);
        let text = cx.request(template)?;
        if let Some(image) = text.strip_prefix("docker-image://") {
            hasher.add("its image", &image_identity(cx, image).await?);
            continue;
        }
        match image::source(cx, template)? {
            ContextSource::Directory(path) => hasher.add("its files", &digest(cx, None, path).await?),
            ContextSource::Remote(_) => {
                return Err(NoFingerprint(format!("the engine fetches its context `{context}`")));
            }
        }
    }
    let own_platform = std::slice::from_ref(&engine.about().await?.platform);
    let platforms = if image.platforms.is_empty() { own_platform } else { &image.platforms };
    for platform in platforms {
        hasher.add("platform", platform);
        let mut known: HashMap<String, String> = args.iter().cloned().collect();
        for (side, platform) in [("BUILD", &own_platform[0]), ("TARGET", platform)] {
            let mut parts = platform.split('/');
            let mut part = || parts.next().unwrap_or_default().to_owned();
            for (name, value) in
                [("PLATFORM", platform.clone()), ("OS", part()), ("ARCH", part()), ("VARIANT", part())]
            {
                known.entry(format!("{side}{name}")).or_insert(value);
            }
        }
        for name in base_images(&String::from_utf8_lossy(&text), &known, &own) {
            let name = name
                .map_err(|name| NoFingerprint(format!("its base `{name}` is not known before the build")))?;
            hasher.add("base", &name);
            hasher.add("its digest", &image_identity(cx, &name).await?);
        }
    }
    let target = image.target.as_ref().map(|target| cx.request(target)).transpose()?;
    hasher.add("target", &target.unwrap_or_default());
    hasher.add_json("compression", &image.compression)?;
    hasher.add_json("network", &image.network)?;
    hasher.add_json("hosts", &cx.request_pairs(&image.extra_hosts)?)?;
    hasher.add_json("secrets", &image.secrets)?;
    hasher.add_json("ssh", &cx.request_all(&image.ssh)?)?;
    for step in cx.project.pipeline.steps().filter(|step| is_test_of(&step.action, &name.value)) {
        if let Action::Test(test) = &step.action {
            hasher.add_json("test", test)?;
            hasher.add_json("its variables", &step.env)?;
            add_test_inputs(cx, test, &mut hasher).await?;
        }
    }
    Ok(hasher.finish())
}

/// Adds the other inputs of a test: files and services.
async fn add_test_inputs(cx: &StepScope<'_>, test: &Test, hasher: &mut Hasher) -> Result<(), NoFingerprint> {
    let of_services = test.services.values().flat_map(|service| &service.volumes);
    let templates: Vec<Template> = test.volumes.iter().chain(of_services).cloned().collect();
    for volume in volumes(cx, &templates)? {
        hasher.add("its files", &files(cx, volume.from).await?);
    }
    for service in test.services.values() {
        let image = cx.request(&service.image)?;
        match cx.project.pipeline.images.get(&image) {
            Some(other) => {
                let name = Name { value: image, span: service.image.span };
                hasher.add("its service", &Box::pin(fingerprint(cx, &name, other)).await?);
            }
            None => hasher.add("its service", &image_identity(cx, &image).await?),
        }
    }
    Ok(())
}

/// The digest of a file, or of all files of a directory.
async fn files(cx: &StepScope<'_>, path: PathBuf) -> Result<[u8; 32], NoFingerprint> {
    let mut selection =
        Selection { rules: cx.connections.docker().await?.ignore_rules(), ..Selection::default() };
    let root = match (path.is_dir(), path.parent(), path.file_name().and_then(OsStr::to_str)) {
        (false, Some(directory), Some(name)) => {
            selection.include.push(name.to_owned());
            directory.to_owned()
        }
        _ => path,
    };
    hashed(move || context::digest(&root, &selection)).await
}

/// The digest of the files of a directory that a build would get.
async fn digest(
    cx: &StepScope<'_>,
    dockerfile: Option<PathBuf>,
    root: PathBuf,
) -> Result<[u8; 32], NoFingerprint> {
    let rules = cx.connections.docker().await?.ignore_rules();
    hashed(move || {
        let ignore = IgnoreFile::read(dockerfile.as_deref(), &root)?;
        let selection = Selection { exclude: ignore.patterns(), rules, ..Selection::default() };
        context::digest(&root, &selection).map_err(|error| error.placed(|| ignore))
    })
    .await
}

async fn hashed(
    digest: impl FnOnce() -> Result<[u8; 32], ContextError> + Send + 'static,
) -> Result<[u8; 32], NoFingerprint> {
    match tokio::task::spawn_blocking(digest).await {
        Ok(digest) => Ok(digest.map_err(crate::docker::DockerError::from)?),
        Err(error) => Err(NoFingerprint(format!("its files could not be hashed: {error}"))),
    }
}

/// The identity of the image that a name refers to now: in the engine, which prefers its own images, or else in the
/// registry.
async fn image_identity(cx: &StepScope<'_>, name: &str) -> Result<String, NoFingerprint> {
    let reference = ImageReference::parse(name);
    if let Some(digest) = reference.digest {
        return Ok(digest.to_owned());
    }
    if let Some(identity) = cx.connections.docker().await?.identity(name).await? {
        return Ok(identity);
    }
    let unknown = |reason: String| NoFingerprint(format!("cannot look up the image {name}: {reason}"));
    let repository = reference.repository().map_err(|error| unknown(error.to_string()))?;
    let access = cx.connections.registry(&repository.host, &cx.access()?, cx.on_wait()).await?;
    let lookup = async {
        RepositoryClient::connect(&access, &repository, &[])
            .await?
            .tag_digest(reference.tag_or_digest())
            .await
            .map_err(Failure::from)
    };
    match in_time(lookup).await {
        Ok(Some(digest)) => Ok(digest),
        Ok(None) => Err(unknown("the registry does not have it".to_owned())),
        Err(failure) => Err(unknown(failure.message)),
    }
}

/// A hash over named parts, each with its length.
struct Hasher(Hash);

impl Hasher {
    fn new() -> Self {
        Self(Hash::new(&SHA256))
    }

    fn add(&mut self, name: &str, value: &(impl AsRef<[u8]> + ?Sized)) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    fn add_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), NoFingerprint> {
        let text = serde_json::to_vec(value).map_err(|error| NoFingerprint(error.to_string()))?;
        self.add(name, &text);
        Ok(())
    }

    fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}
