//! `push`: to a registry, or into an OCI layout with the same digest.

use super::Context;
use super::build::LOCAL_HOST;
use crate::address::{EcrHost, Repository};
use crate::docker::Engine;
use crate::exit::Failure;
use crate::pipeline::model::{Image, Name};
use crate::plan::Mode;
use crate::registry::RegistryError;
use crate::registry::convert::{Converted, convert};
use crate::registry::layout::Layout;
use crate::registry::push::{http_client, push};
use crate::text::human_size;
use futures_util::{StreamExt, TryStreamExt};
use tokio_util::io::{StreamReader, SyncIoBridge};

pub(super) async fn run(cx: &Context<'_>, images: &[Name]) -> Result<(), Failure> {
    for name in images {
        let image = cx.image(name)?;
        let id = cx.built_image(&name.value)?;
        let uri = match cx.run.job.mode {
            Mode::Local => to_layout(cx, name, &image, &id).await?,
            Mode::Publish => to_registry(cx, name, &image, &id).await?,
        };
        let digest = uri.rsplit('@').next().unwrap_or_default().to_owned();
        cx.run.values().set_image(&name.value, &uri, &digest);
        if let Some(state) = cx.run.state().images.get_mut(&name.value) {
            state.uri = Some(uri);
            state.digest = Some(digest);
        }
    }
    Ok(())
}

async fn to_layout(cx: &Context<'_>, name: &Name, image: &Image, id: &str) -> Result<String, Failure> {
    let repository = cx.resolve(&image.repository)?;
    let tags = cx.tags(image)?;
    let _changing = cx.run.layouts.lock().await;
    // The name has been checked to hold no `..`; a colon of a port stays as it is.
    let layout = Layout::create(&cx.run.work.path.join("registry").join(&repository))?;
    let converted = export(cx, id, &layout).await?;
    layout.tag(&converted, &tags)?;
    layout.remove_unused()?;
    // A registry's port is no part of a name under another host.
    let uri = format!("{LOCAL_HOST}/{}@{}", repository.replace(':', "-"), converted.digest);
    cx.events.result("stored", &name.value, &uri).await;
    Ok(uri)
}

async fn to_registry(cx: &Context<'_>, name: &Name, image: &Image, id: &str) -> Result<String, Failure> {
    let tags = cx.tags(image)?;
    let repository = target(cx, image).await?;
    let login = cx.run.services.login(&repository.host, &cx.access()?).await?;
    // Removed when the push is through, however it ends.
    let blobs = cx.run.work.temporary_directory()?;
    let layout = Layout::create(blobs.path())?;
    let converted = export(cx, id, &layout).await?;
    let authorities = cx.run.services.settings().authorities();
    let http = http_client(&repository.host, authorities)?;
    let stop = &cx.stopping.soft;
    let summary = push(&http, &layout, &converted, &repository, &tags, login.as_ref(), stop).await?;
    drop(blobs);
    for cause in &summary.retries {
        cx.events.warn(format!("a layer had to be sent again: {cause}")).await;
    }
    let uri = format!("{repository}@{}", converted.digest);
    let note = format!(
        "{} blobs sent ({}), {} were there already; tags: {}",
        summary.sent,
        human_size(summary.sent_bytes),
        summary.present,
        tags.join(", ")
    );
    cx.events.note(note).await;
    cx.events.result("pushed", &name.value, &uri).await;
    Ok(uri)
}

/// Whether a repository's name means one in ECR: a bare name, or one with a host of ECR.
pub(super) fn is_in_ecr(name: &str) -> bool {
    match Repository::parse(name) {
        Ok(Some(repository)) => EcrHost::parse(&repository.host).is_some(),
        Ok(None) => true,
        // The step itself says what is wrong with the name.
        Err(_) => false,
    }
}

/// The repository in its registry. A bare name is one of ECR, in the account and region of the credentials.
async fn target(cx: &Context<'_>, image: &Image) -> Result<Repository, Failure> {
    let name = cx.resolve(&image.repository)?;
    let known = Repository::parse(&name)?;
    let wanted = known.as_ref().map(|repository| repository.host.clone());
    let ecr = known.as_ref().and_then(|repository| EcrHost::parse(&repository.host));
    let (aws, path) = match (known, ecr) {
        (None, _) => (cx.aws().await?, name.clone()),
        (Some(repository), Some(ecr)) if image.create.is_some() => {
            (cx.aws().await?.in_region(&ecr.region), repository.path)
        }
        (Some(repository), _) => return Ok(repository),
    };
    let address = match aws.ecr_repository(&path).await? {
        Some(address) => address,
        None if image.create.is_some() => {
            cx.events.note(format!("creating the ECR repository {path}")).await;
            aws.ecr_create_repository(&path).await?
        }
        None => {
            let host = format!("ECR in {}", aws.region());
            let repository = path;
            return Err(RegistryError::NoRepository { host, repository }.into());
        }
    };
    let found = Repository::parse(&address)?
        .ok_or_else(|| Failure::environment(format!("ECR gave `{address}` as a repository's address")))?;
    if wanted.as_ref().is_some_and(|wanted| *wanted != found.host) {
        let message =
            format!("`{name}` is in another account than the credentials, whose registry is {}", found.host);
        return Err(
            Failure::usage(message).help("give the step `aws: { role-arn: … }`, a role of that account")
        );
    }
    Ok(found)
}

/// The address of the image's repository; nothing where that does not exist yet.
pub(super) async fn address(cx: &Context<'_>, image: &Image) -> Result<Option<String>, Failure> {
    let name = cx.resolve(&image.repository)?;
    match Repository::parse(&name)? {
        Some(repository) => Ok(Some(repository.to_string())),
        None => Ok(cx.aws().await?.ecr_repository(&name).await?),
    }
}

/// Exports the image from the engine and converts it on the way.
async fn export(cx: &Context<'_>, id: &str, layout: &Layout) -> Result<Converted, Failure> {
    let engine: &Engine = cx.run.services.docker().await?;
    // Asked first, because the export of an image that is gone has a poorer error.
    engine.image(id).await?;
    let stop = cx.stopping.soft.clone();
    // When the run is stopped the export ends, and with it the conversion, which takes its half-written blob away.
    let stream = engine.export(id).map_err(std::io::Error::other).take_until(stop.clone().cancelled_owned());
    let reader = SyncIoBridge::new(StreamReader::new(Box::pin(stream)));
    let layout = layout.clone();
    match tokio::task::spawn_blocking(move || convert(reader, &layout)).await {
        _ if stop.is_cancelled() => Err(RegistryError::Stopped.into()),
        Ok(converted) => Ok(converted?),
        Err(error) => Err(Failure::environment(format!("the image could not be converted: {error}"))),
    }
}
