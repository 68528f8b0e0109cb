//! Transfers images from the engine to a registry: for the step `push`, and for `runner image push`.

use crate::address::Repository;
use crate::aws::Aws;
use crate::connections::{Access, Connections, Settings};
use crate::docker::image::LocalImage;
use crate::docker::storage::StoredLayer;
use crate::docker::{DockerError, Engine};
use crate::exit::{Exit, Failure};
use crate::limits;
use crate::registry::RegistryError;
use crate::registry::blob::BlobOptions;
use crate::registry::compress::Compression;
use crate::registry::connection::RepositoryClient;
use crate::registry::manifest::chain_ids;
use crate::registry::manifest::{Descriptor, Stored};
use crate::registry::push::{Progress, PushSummary};
use crate::registry::retries::OnWait;
use crate::registry::source::{ImageSource, Open, Parts};
use crate::secret::Masks;
use std::collections::HashMap;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// The blobs and repositories that pushes of this run have sent to a registry.
#[derive(Debug, Default)]
pub(crate) struct PushedBlobs {
    repositories: Vec<String>,
    /// The blobs of layers, by their digest before compression.
    layers: HashMap<String, Descriptor>,
}

impl PushedBlobs {
    /// The repositories that blobs may be taken from.
    pub(crate) fn repositories(&self) -> &[String] {
        &self.repositories
    }
}

/// A transfer of images from the engine to a repository.
pub(crate) struct Transfer<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) client: &'a RepositoryClient,
    pub(crate) tags: &'a [String],
    pub(crate) compression: Compression,
    /// The directory for blobs that are not sent yet.
    pub(crate) directory: &'a Path,
    pub(crate) progress: &'a Progress,
    /// For facts that only ECR's API has.
    pub(crate) aws: Option<&'a Aws>,
}

impl Transfer<'_> {
    /// Sends missing blobs and manifests to the repository, and then tags the image. `images` are platforms with ids or
    /// names in the engine. If there are several, the tags refer to their index.
    pub(crate) async fn run(
        &self,
        images: &[(String, String)],
        pushed_blobs: &mut PushedBlobs,
        stop: &CancellationToken,
    ) -> Result<(Stored, PushSummary), Failure> {
        tokio::select! {
            pushed = self.push(images, pushed_blobs, stop) => pushed,
            () = stop.cancelled() => Err(RegistryError::Stopped.into()),
        }
    }

    async fn push(
        &self,
        images: &[(String, String)],
        pushed_blobs: &mut PushedBlobs,
        stop: &CancellationToken,
    ) -> Result<(Stored, PushSummary), Failure> {
        let (mut manifests, mut summary) = (Vec::new(), PushSummary::default());
        for (platform, image) in images {
            let (manifest, of_image) = self.push_image(image, pushed_blobs, stop).await?;
            summary += of_image;
            manifests.push((platform.as_str(), manifest));
        }
        let manifest = Stored::of_platforms(&manifests)?;
        if let [_, _, ..] = manifests.as_slice() {
            for (_, image) in &manifests {
                self.client.put(image).await?;
            }
        }
        if let Err(error) = self.client.tag(&manifest, self.tags).await {
            return Err(with_push_time(error, self.aws, self.client.repository()).await.into());
        }
        let path = &self.client.repository().path;
        if !pushed_blobs.repositories.contains(path) {
            pushed_blobs.repositories.push(path.clone());
        }
        Ok((manifest, summary))
    }

    /// Sends the blobs of one image. Its manifest is not sent yet.
    async fn push_image(
        &self,
        image: &str,
        pushed_blobs: &mut PushedBlobs,
        stop: &CancellationToken,
    ) -> Result<(Stored, PushSummary), Failure> {
        let Self { client, tags, compression, .. } = *self;
        let local = self.engine.image(image).await?;
        let known = client.known(tags, &local.layers, compression).await;
        // Blobs of other repositories can be mounted.
        let mut layers = pushed_blobs.layers.clone();
        layers.extend(known.layers().clone());
        layers.retain(|_, blob| blob.is_compressed_with(compression));
        let (present, mounted) = client.present(&local.layers, &layers).await;
        let is_whole = local.layers.iter().all(|layer| present.contains_key(layer));
        let (manifest, mut summary) = if let Some(whole) = known.whole(&local.id).filter(|_| is_whole) {
            let summary = PushSummary { present: whole.blobs().count(), ..PushSummary::default() };
            pushed_blobs.layers.extend(present);
            (whole.manifest().clone(), summary)
        } else {
            // If this future is dropped, the export and its reader must end as well.
            let reading = stop.child_token();
            let _guard = reading.clone().drop_guard();
            let source = image_source(self.engine, &local, &reading).await;
            let options = BlobOptions::new(local.layers.clone(), present, compression);
            let directory = self.directory.to_owned();
            let (exported, summary) = client.send(source, options, directory, self.progress).await?;
            pushed_blobs.layers.extend(local.layers.into_iter().zip(exported.blobs));
            (exported.manifest, summary)
        };
        summary.mounted += mounted;
        summary.present = summary.present.saturating_sub(mounted);
        Ok((manifest, summary))
    }
}

/// Adds to an error about an immutable tag the time when the tag's image was pushed.
pub(crate) async fn with_push_time(
    error: RegistryError,
    aws: Option<&Aws>,
    repository: &Repository,
) -> RegistryError {
    match (error, aws) {
        (RegistryError::ImmutableTag { tag, existing, digest, pushed: None }, Some(aws)) => {
            let pushed = aws.ecr_pushed_at(&repository.path, &existing).await;
            let pushed = pushed.map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string());
            RegistryError::ImmutableTag { tag, existing, digest, pushed }
        }
        (error, _) => error,
    }
}

/// The source to read an image from: the engine's storage, or else an export. Reading fails when the token is
/// cancelled.
pub(crate) async fn image_source(
    engine: &Engine,
    image: &LocalImage,
    until: &CancellationToken,
) -> ImageSource {
    let parts = engine.stored(image, &chain_ids(&image.layers), until).await.map(|stored| {
        let open = |layer: StoredLayer| -> Open { Box::new(|| Ok(Box::new(layer.open()?))) };
        Parts {
            id: image.id.clone(),
            config: stored.config,
            layers: stored.layers.into_iter().map(open).collect(),
        }
    });
    let (engine, id, until) = (engine.clone(), image.id.clone(), until.clone());
    ImageSource { parts, export: Box::new(move || Box::new(engine.export(&id, &until))) }
}

/// A call of `runner image push`.
#[derive(Debug)]
pub(crate) struct ImagePush {
    /// The image's name or id in the engine.
    pub(crate) image: String,
    pub(crate) repository: Repository,
    /// The tag in the repository.
    pub(crate) tag: String,
    /// The compression of layers.
    pub(crate) compression: Compression,
}

/// A pushed image.
#[derive(Debug)]
pub(crate) struct ImagePushed {
    pub(crate) digest: String,
    pub(crate) summary: PushSummary,
}

impl ImagePush {
    /// Pushes the image. Problems that do not fail the push go to `warn`, and waits to `on_wait` while they last.
    pub(crate) async fn run(
        &self,
        settings: &Settings,
        masks: &Masks,
        progress: &Progress,
        stop: &CancellationToken,
        warn: &mut dyn FnMut(String),
        on_wait: OnWait,
    ) -> Result<ImagePushed, Failure> {
        let connections = Connections::alone(settings, masks);
        let engine = connections.docker().await?;
        if self.image.is_empty() {
            return Err(Failure::usage("the image has no name").help("`docker image ls` lists the images"));
        }
        // Checked first, because without the image no login is needed.
        engine.image(&self.image).await.map_err(|error| match error {
            DockerError::NoImage(_) => Failure::caused(Exit::Environment, &error)
                .help("check the name and the tag; `docker image ls` lists the images"),
            other => other.into(),
        })?;
        let (host, own) = (&self.repository.host, Access::default());
        let access = match connections.docker_login(host).await? {
            Ok(Some(login)) => connections.registry_with(Ok(Some(login)), host, &own, on_wait)?,
            _ => connections.registry_to_push(host, &own, on_wait).await?,
        };
        let client = RepositoryClient::connect(&access, &self.repository, &[]).await?;
        let blobs = tempfile::tempdir().map_err(|error| {
            Failure::environment(format!("cannot create a temporary directory: {error}"))
                .limited(limits::advice(&error))
        })?;
        let tags = [self.tag.clone()];
        let transfer = Transfer {
            engine,
            client: &client,
            tags: &tags,
            compression: self.compression,
            directory: blobs.path(),
            progress,
            aws: None,
        };
        let image = [(String::new(), self.image.clone())];
        let pushed = transfer.run(&image, &mut PushedBlobs::default(), stop).await;
        for note in client.notes() {
            warn(note);
        }
        let (manifest, summary) = pushed?;
        Ok(ImagePushed { digest: manifest.digest, summary })
    }
}
