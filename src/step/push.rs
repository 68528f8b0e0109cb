//! `push`: to a registry, or into an OCI layout with the same digest.

use super::StepScope;
use super::unchanged::record;
use crate::address::{ImageRepository, LOCAL_HOST, Repository};
use crate::aws::Aws;
use crate::aws::ecr::NewRepository;
use crate::event::{Kind, Pushed};
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{self, Create, Image, LifecyclePolicy, Name};
use crate::plan::Mode;
use crate::registry::RegistryError;
use crate::registry::blob::BlobOptions;
use crate::registry::compress::Compression;
use crate::registry::connection::RepositoryClient;
use crate::registry::layout::Layout;
use crate::registry::manifest::Stored;
use crate::registry::push::Progress;
use crate::step::transfer::{Transfer, image_source, with_push_time};

pub(crate) async fn run(cx: &StepScope<'_>, names: &[Name]) -> Result<(), Failure> {
    for name in names {
        let image = cx.image(name)?;
        let unchanged = cx.shared.results().images.get(&name.value).and_then(|image| image.unchanged.clone());
        let uri = match (cx.project.mode, unchanged) {
            (Mode::Local, _) => to_layout(cx, name, &image, &images(cx, name, &image)?).await?,
            (Mode::Publish, None) => to_registry(cx, name, &image, &images(cx, name, &image)?).await?,
            (Mode::Publish, Some(digest)) => tag(cx, name, &image, &digest).await?,
        };
        let digest = uri.rsplit('@').next().unwrap_or_default().to_owned();
        cx.shared.values().set_image(&name.value, &uri, &digest);
        if let Some(state) = cx.shared.results().images.get_mut(&name.value) {
            state.uri = Some(uri);
            state.digest = Some(digest);
        }
        record(cx, name, None).await?;
    }
    Ok(())
}

/// Tags an image that is already in the repository.
async fn tag(cx: &StepScope<'_>, name: &Name, image: &Image, digest: &str) -> Result<String, Failure> {
    let tags = cx.tags(image)?;
    let (repository, aws) = target(cx, image).await?;
    let access = cx.connections.registry_to_push(&repository.host, &cx.access()?, cx.on_wait()).await?;
    let client = RepositoryClient::connect(&access, &repository, &[]).await?;
    let tagged = client.tag_again(digest, &tags).await;
    warn(cx, &client).await;
    let manifest = match tagged {
        Ok(manifest) => manifest,
        Err(error) => return Err(with_push_time(error, aws.as_ref(), &repository).await.into()),
    };
    let uri = format!("{repository}@{digest}");
    cx.events.note(format!("nothing was sent; tags: {}", tags.join(", "))).await;
    finished(cx, name, &uri, &tags, false).await;
    // New vulnerabilities become known in old images too.
    scan(cx, name, image, (aws.as_ref(), &repository), &manifest).await?;
    Ok(uri)
}

/// Sends the event about a push that has finished.
async fn finished(cx: &StepScope<'_>, name: &Name, uri: &str, tags: &[String], local: bool) {
    let events = &cx.events;
    let pushed = Pushed {
        image: events.shown(&name.value),
        uri: events.shown(uri),
        digest: events.shown(uri.rsplit('@').next().unwrap_or_default()),
        tags: events.shown_all(tags),
        local,
    };
    events.send_for(events.id().inner(&name.value), Kind::PushFinished(pushed)).await;
}

/// Reports problems that did not fail the push.
async fn warn(cx: &StepScope<'_>, client: &RepositoryClient) {
    for note in client.notes() {
        cx.events.warn(note).await;
    }
}

/// The ids of the built images, in the order of the file. If there are several, each has its platform.
fn images(cx: &StepScope<'_>, name: &Name, image: &Image) -> Result<Vec<(String, String)>, Failure> {
    let id = cx.built_image(&name.value)?;
    if image.platforms.len() < 2 {
        return Ok(vec![(String::new(), id)]);
    }
    let others =
        cx.shared.results().images.get(&name.value).map(|image| image.platforms.clone()).unwrap_or_default();
    let of = |platform: &String| (platform.clone(), others.get(platform).unwrap_or(&id).clone());
    Ok(image.platforms.iter().map(of).collect())
}

fn compression(image: &Image) -> Compression {
    match image.compression {
        model::Compression::Gzip => Compression::Gzip,
        model::Compression::Zstd => Compression::Zstd,
    }
}

async fn to_layout(
    cx: &StepScope<'_>,
    name: &Name,
    image: &Image,
    images: &[(String, String)],
) -> Result<String, Failure> {
    let repository = cx.plain(&image.repository)?;
    let tags = cx.tags(image)?;
    let _layouts = cx.shared.layouts.lock().await;
    // The port of a registry cannot be part of a name under another host, and other tools parse what follows a colon as
    // the tag.
    let repository = repository.replace(':', "-");
    // The checks of the file have ensured that the name contains no `..`.
    let layout = Layout::create(&cx.work.within(std::path::Path::new("registry").join(&repository))?)?;
    let mut manifests = Vec::new();
    for (platform, id) in images {
        manifests.push((platform.as_str(), store(cx, &layout, compression(image), id).await?));
    }
    let manifest = Stored::of_platforms(&manifests)?;
    layout.put(&manifest)?;
    layout.tag(&manifest, &tags)?;
    layout.remove_unused()?;
    let uri = format!("{LOCAL_HOST}/{repository}@{}", manifest.digest);
    finished(cx, name, &uri, &tags, true).await;
    Ok(uri)
}

/// Stores an image from the engine in a layout.
async fn store(
    cx: &StepScope<'_>,
    layout: &Layout,
    compression: Compression,
    id: &str,
) -> Result<Stored, Failure> {
    let engine = cx.connections.docker().await?;
    let local = engine.image(id).await?;
    let known = layout.known(compression);
    if let Some(image) = known.whole(&local.id) {
        return Ok(image.manifest().clone());
    }
    let stop = cx.stopping.soft.clone();
    let (source, layout) = (image_source(engine, &local, &stop).await, layout.clone());
    let options = BlobOptions::new(local.layers, known.layers().clone(), compression);
    let stored = match tokio::task::spawn_blocking(move || layout.store(source, &options)).await {
        _ if stop.is_cancelled() => return Err(RegistryError::Stopped.into()),
        Ok(stored) => stored?,
        Err(error) => return Err(Failure::environment(format!("the image could not be stored: {error}"))),
    };
    if let Some(cause) = stored.parts_failed {
        cx.events.warn(format!("the image had to be exported, because {cause}")).await;
    }
    Ok(stored.manifest)
}

async fn to_registry(
    cx: &StepScope<'_>,
    name: &Name,
    image: &Image,
    images: &[(String, String)],
) -> Result<String, Failure> {
    let tags = cx.tags(image)?;
    let (repository, aws) = target(cx, image).await?;
    let started = Kind::PushStarted {
        image: cx.events.shown(&name.value),
        repository: cx.events.shown(repository.to_string()),
        tags: cx.events.shown_all(&tags),
    };
    cx.events.send_for(cx.events.id().inner(&name.value), started).await;
    let access = cx.connections.registry_to_push(&repository.host, &cx.access()?, cx.on_wait()).await?;
    let mut pushed = cx.shared.pushed.lock().await;
    let pushed_blobs = pushed.entry(repository.host.clone()).or_default();
    let client = RepositoryClient::connect(&access, &repository, pushed_blobs.repositories()).await?;
    // Removed at the end of the push, however it ends.
    let blobs = cx.work.temporary_directory()?;
    let transfer = Transfer {
        engine: cx.connections.docker().await?,
        client: &client,
        tags: &tags,
        compression: compression(image),
        directory: blobs.path(),
        progress: &Progress::default(),
        aws: aws.as_ref(),
    };
    let result = transfer.run(images, pushed_blobs, &cx.stopping.soft).await;
    // The next push need not wait for this one's scan.
    drop(pushed);
    warn(cx, &client).await;
    let (manifest, summary) = result?;
    let uri = format!("{repository}@{}", manifest.digest);
    let note = format!("{summary}; tags: {}", tags.join(", "));
    cx.events.note(note).await;
    finished(cx, name, &uri, &tags, false).await;
    scan(cx, name, image, (aws.as_ref(), &repository), &manifest).await?;
    Ok(uri)
}

/// Fails if the scan of the pushed image does, so that later steps do not use the image.
async fn scan(
    cx: &StepScope<'_>,
    name: &Name,
    image: &Image,
    (aws, repository): (Option<&Aws>, &Repository),
    manifest: &Stored,
) -> Result<(), Failure> {
    let Some(scan) = &image.scan else { return Ok(()) };
    let Some(aws) = aws else {
        let problem = format!("`scan` needs ECR, but {repository} is in another registry");
        return Err(cx.project.located(&Diagnostic::new(problem, image.span).help("remove `scan`")));
    };
    // ECR scans images, not an index.
    super::scan::gate(cx, name, scan, (aws, &repository.path), &manifest.images()).await
}

/// The repository, and AWS if it is in ECR. A bare name is in ECR, in the account and region of the credentials.
async fn target(cx: &StepScope<'_>, image: &Image) -> Result<(Repository, Option<Aws>), Failure> {
    let name = cx.plain(&image.repository)?;
    let (aws, path, wanted) = match ImageRepository::parse(&name)? {
        ImageRepository::Bare(path) => (cx.aws().await?, path, None),
        ImageRepository::PrivateEcr { registry, repository } => {
            let aws = cx.aws().await?.in_region(&registry.region);
            if image.create.is_none() {
                return Ok((repository, Some(aws)));
            }
            (aws, repository.path, Some(repository.host))
        }
        ImageRepository::PublicEcr(repository) | ImageRepository::Elsewhere(repository) => {
            return Ok((repository, None));
        }
    };
    let address = if let Some(address) = aws.ecr_repository(&path).await? {
        address
    } else if let Some(create) = &image.create {
        let new = new_repository(cx, create)?;
        cx.events.note(format!("creating the ECR repository {path}")).await;
        aws.ecr_create_repository(&path, &new).await?
    } else {
        let host = format!("ECR in {}", aws.region());
        return Err(RegistryError::NoRepository { host, repository: path }.into());
    };
    let found = Repository::parse(&address)?
        .ok_or_else(|| Failure::environment(format!("ECR returned `{address}` as a repository's address")))?;
    if wanted.as_ref().is_some_and(|wanted| *wanted != found.host) {
        let message =
            format!("`{name}` is not in the account of the credentials, whose registry is {}", found.host);
        return Err(Failure::usage(message)
            .help("add `aws: { role-arn: … }` with a role of that account to the step"));
    }
    Ok((found, Some(aws)))
}

/// The settings of a repository to create, with its lifecycle policy.
fn new_repository(cx: &StepScope<'_>, create: &Create) -> Result<NewRepository, Failure> {
    let lifecycle_policy = match &create.lifecycle_policy {
        None => None,
        Some(LifecyclePolicy::Document(document)) => Some(document.to_string()),
        Some(LifecyclePolicy::File(template)) => {
            let path = cx.path(template)?;
            let wrong = |problem: String| {
                let problem = format!("the lifecycle policy {} {problem}", path.display());
                cx.project.located(&Diagnostic::new(problem, template.span))
            };
            let text =
                std::fs::read_to_string(&path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
            let document: Result<serde_json::Value, _> = serde_json::from_str(&text);
            document.map_err(|error| wrong(format!("is not JSON: {error}")))?;
            Some(text)
        }
    };
    Ok(NewRepository { scan_on_push: create.scan_on_push, immutable: create.immutable, lifecycle_policy })
}

/// The address of the image's repository. Returns `None` if it does not exist yet.
pub(crate) async fn address(cx: &StepScope<'_>, image: &Image) -> Result<Option<String>, Failure> {
    let name = cx.plain(&image.repository)?;
    match ImageRepository::parse(&name)? {
        ImageRepository::Bare(path) => Ok(cx.aws().await?.ecr_repository(&path).await?),
        known => Ok(Some(known.engine_name())),
    }
}
