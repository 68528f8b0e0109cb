//! `skip-unchanged`: an image whose sources are those of one that is in the repository, and has passed its tests, is that one.
//!
//! A fingerprint of the sources is a tag beside the image's own. It is put there when all of the image's tests have passed.

use super::image as making;
use crate::address::{ImageReference, Repository};
use crate::docker::context::{self, ContextError, Selection};
use crate::docker::ignore::IgnoreFile;
use crate::docker::solver::{Source, base_images};
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

/// How much of a fingerprint is in its tag, in characters.
const TAG_LENGTH: usize = 40;
/// Changes when what a fingerprint is made of does.
const VERSION: &str = "3";
/// Why nothing can be said of an image's sources.
struct Missing(String);

impl<E: Into<Failure>> From<E> for Missing {
    fn from(error: E) -> Self {
        Self(error.into().message)
    }
}

/// Takes those images out that need not be built, and gives the fingerprints of the others that have one.
pub(crate) async fn take_out(
    cx: &StepScope<'_>,
    waiting: &mut Vec<Name>,
) -> Result<HashMap<String, String>, Failure> {
    let mut prints = HashMap::new();
    if cx.project.mode != Mode::Publish {
        return Ok(prints);
    }
    let mut found = HashMap::new();
    for name in waiting.iter() {
        let image = cx.image(name)?;
        if !image.skip_unchanged {
            continue;
        }
        // Whatever goes wrong here, the image can still be built; a mistake in the file is one of the build, too. The build of a pull
        // request may not be allowed to look.
        let looked_up = async {
            let print = fingerprint(cx, name, &image).await?;
            let before = pushed_before(cx, &image, &print).await?;
            Ok((print, before))
        };
        match looked_up.await {
            Ok((print, before)) => {
                found.extend(before.map(|digest| (name.value.clone(), digest)));
                prints.insert(name.value.clone(), print);
            }
            Err(Missing(reason)) => {
                cx.events.warn(format!("`skip-unchanged` of {} has no effect: {reason}", name.value)).await;
            }
        }
    }
    // What another build is made from has to be in the engine.
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
    Ok(prints)
}

/// Notes that a test has passed, and puts the fingerprint beside an image that has passed all of its tests and is pushed.
pub(crate) async fn record(cx: &StepScope<'_>, name: &Name, passed: Option<StepId>) -> Result<(), Failure> {
    let state = {
        let mut state = cx.shared.results();
        let Some(image) = state.images.get_mut(&name.value) else { return Ok(()) };
        image.passed.extend(passed.map(|step| step.0));
        image.clone()
    };
    let (Some(print), Some(digest)) = (&state.fingerprint, &state.digest) else { return Ok(()) };
    let mut tests = cx.project.pipeline.steps().filter(|step| is_test_of(&step.action, &name.value));
    if tests.any(|test| !state.passed.contains(&test.id.0)) {
        return Ok(());
    }
    let image = cx.image(name)?;
    let Some(client) = client(cx, &image).await? else { return Ok(()) };
    let recorded = client.tag_again(digest, &[tag(print)]).await;
    if let Err(error) = recorded {
        // The image is there; the next build is only slower.
        let reason = crate::exit::chain(&error);
        cx.events
            .warn(format!("that {} need not be built again could not be noted: {reason}", name.value))
            .await;
    }
    Ok(())
}

fn is_test_of(action: &Action, image: &str) -> bool {
    matches!(action, Action::Test(test) if test.image.value == image)
}

fn tag(print: &str) -> String {
    format!("{SOURCE_TAG}{}", &print[..TAG_LENGTH.min(print.len())])
}

/// The digest of the image with this fingerprint.
async fn pushed_before(cx: &StepScope<'_>, image: &Image, print: &str) -> Result<Option<String>, Failure> {
    match client(cx, image).await? {
        Some(client) => Ok(client.tag_digest(&tag(print)).await?),
        None => Ok(None),
    }
}

/// The image's repository; nothing where that does not exist yet.
async fn client(cx: &StepScope<'_>, image: &Image) -> Result<Option<RepositoryClient>, Failure> {
    let Some(address) = push::address(cx, image).await? else { return Ok(None) };
    let Some(repository) = Repository::parse(&address)? else { return Ok(None) };
    let access = cx.connections.registry(&repository.host, &cx.access()?).await?;
    Ok(Some(RepositoryClient::connect(&access, &repository, &[]).await?))
}

/// A digest of all that an image is made from, as 64 hexadecimal digits; labels and tags are no part of it.
async fn fingerprint(cx: &StepScope<'_>, name: &Name, image: &Image) -> Result<String, Missing> {
    if let Some((argument, _)) =
        image.args.iter().find(|(_, value)| cx.project.pipeline.carries_commit(value))
    {
        let reason = format!("its argument `{argument}` is another one for every commit; make a label of it");
        return Err(Missing(reason));
    }
    let used = cx.project.pipeline.steps().find(|step| match &step.action {
        Action::Test(test) => {
            test.services.values().any(|service| service.image.as_literal().as_deref() == Some(&name.value))
        }
        _ => false,
    });
    if used.is_some() {
        return Err(Missing("a test uses it as a service".to_owned()));
    }
    let engine = cx.connections.docker().await?;
    let mut print = Print::new();
    print.add("version", VERSION);
    let source = making::source(cx, &image.context)?;
    let Source::Directory(root) = &source else {
        return Err(Missing("its context is fetched by the engine".to_owned()));
    };
    let dockerfile = making::dockerfile(cx, image, &source)?;
    let text = std::fs::read(&dockerfile)
        .map_err(|_| crate::docker::DockerError::NoDockerfile(dockerfile.clone()))?;
    print.add("dockerfile", &text);
    print.add("context", &digest(cx, Some(dockerfile), root.clone()).await?);
    let args = cx.resolve_pairs(&image.args)?;
    for (argument, value) in &args {
        print.add("argument", argument);
        print.add("value", value);
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
        print.add("image", &Box::pin(fingerprint(cx, other, &needed)).await?);
    }
    for (context, template) in &image.contexts {
        print.add("named context", context);
        let text = cx.resolve(template)?;
        if let Some(image) = text.strip_prefix("docker-image://") {
            print.add("its image", &base(cx, image).await?);
            continue;
        }
        match making::source(cx, template)? {
            Source::Directory(path) => print.add("its files", &digest(cx, None, path).await?),
            Source::Remote(_) => {
                return Err(Missing(format!("its context `{context}` is fetched by the engine")));
            }
        }
    }
    let own_platform = std::slice::from_ref(&engine.about().await?.platform);
    let platforms = if image.platforms.is_empty() { own_platform } else { &image.platforms };
    for platform in platforms {
        print.add("platform", platform);
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
            let name = name.map_err(|name| {
                Missing(format!("what its base `{name}` is cannot be told before the build"))
            })?;
            print.add("base", &name);
            print.add("its digest", &base(cx, &name).await?);
        }
    }
    let target = image.target.as_ref().map(|target| cx.resolve(target)).transpose()?;
    print.add("target", &target.unwrap_or_default());
    print.add_json("compression", &image.compression)?;
    print.add_json("network", &image.network)?;
    print.add_json("hosts", &cx.resolve_pairs(&image.extra_hosts)?)?;
    print.add_json("secrets", &image.secrets)?;
    print.add_json("ssh", &cx.resolve_all(&image.ssh)?)?;
    for step in cx.project.pipeline.steps().filter(|step| is_test_of(&step.action, &name.value)) {
        if let Action::Test(test) = &step.action {
            print.add_json("test", test)?;
            print.add_json("its variables", &step.env)?;
            add_needs(cx, test, &mut print).await?;
        }
    }
    Ok(print.finish())
}

/// Adds what a test has beside the image: files and services.
async fn add_needs(cx: &StepScope<'_>, test: &Test, print: &mut Print) -> Result<(), Missing> {
    let of_services = test.services.values().flat_map(|service| &service.volumes);
    let templates: Vec<Template> = test.volumes.iter().chain(of_services).cloned().collect();
    for volume in volumes(cx, &templates)? {
        print.add("its files", &files(cx, volume.from).await?);
    }
    for service in test.services.values() {
        let image = cx.resolve(&service.image)?;
        match cx.project.pipeline.images.get(&image) {
            Some(other) => {
                let name = Name { value: image, span: service.image.span };
                print.add("its service", &Box::pin(fingerprint(cx, &name, other)).await?);
            }
            None => print.add("its service", &base(cx, &image).await?),
        }
    }
    Ok(())
}

/// A file, or all the files of a directory.
async fn files(cx: &StepScope<'_>, path: PathBuf) -> Result<[u8; 32], Missing> {
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

/// The files of a directory, as a build would get them.
async fn digest(cx: &StepScope<'_>, dockerfile: Option<PathBuf>, root: PathBuf) -> Result<[u8; 32], Missing> {
    let rules = cx.connections.docker().await?.ignore_rules();
    hashed(move || {
        let ignore = IgnoreFile::read(dockerfile.as_deref(), &root);
        let selection = Selection { exclude: ignore.patterns(), rules, ..Selection::default() };
        context::digest(&root, &selection).map_err(|error| error.placed(|| ignore))
    })
    .await
}

async fn hashed(
    digest: impl FnOnce() -> Result<[u8; 32], ContextError> + Send + 'static,
) -> Result<[u8; 32], Missing> {
    match tokio::task::spawn_blocking(digest).await {
        Ok(digest) => Ok(digest.map_err(crate::docker::DockerError::from)?),
        Err(error) => Err(Missing(format!("its files could not be hashed: {error}"))),
    }
}

/// What a name of an image stands for now: in the engine, which builds with what it has, or else in its registry.
async fn base(cx: &StepScope<'_>, name: &str) -> Result<String, Missing> {
    let reference = ImageReference::parse(name);
    if let Some(digest) = reference.digest {
        return Ok(digest.to_owned());
    }
    if let Some(identity) = cx.connections.docker().await?.identity(name).await? {
        return Ok(identity);
    }
    let unknown = |reason: String| Missing(format!("the image {name} cannot be looked up: {reason}"));
    let repository = reference.repository().map_err(|error| unknown(error.to_string()))?;
    let access = cx.connections.registry(&repository.host, &cx.access()?).await?;
    let looked_up = async {
        RepositoryClient::connect(&access, &repository, &[])
            .await?
            .tag_digest(reference.tag_or_digest())
            .await
    };
    match looked_up.await {
        Ok(Some(digest)) => Ok(digest),
        Ok(None) => Err(unknown("the registry does not have it".to_owned())),
        Err(error) => Err(unknown(crate::exit::chain(&error))),
    }
}

/// A digest over named parts, each with its length.
struct Print(Hash);

impl Print {
    fn new() -> Self {
        Self(Hash::new(&SHA256))
    }

    fn add(&mut self, name: &str, value: &(impl AsRef<[u8]> + ?Sized)) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    fn add_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), Missing> {
        let text = serde_json::to_vec(value).map_err(|error| Missing(error.to_string()))?;
        self.add(name, &text);
        Ok(())
    }

    fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}
