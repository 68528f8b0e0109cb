//! An image on its way from the engine to a registry: for the step `push`, and for `runner image push`.

use crate::address::Repository;
use crate::aws::Aws;
use crate::connections::{Access, Connections, Settings};
use crate::docker::image::LocalImage;
use crate::docker::storage::StoredLayer;
use crate::docker::{DockerError, Engine};
use crate::exit::{Exit, Failure};
use crate::registry::RegistryError;
use crate::registry::blob::BlobOptions;
use crate::registry::compress::Compression;
use crate::registry::connection::RepositoryClient;
use crate::registry::manifest::chain_ids;
use crate::registry::manifest::{Descriptor, Stored};
use crate::registry::push::{Progress, PushSummary};
use crate::registry::source::{Open, Parts, Source};
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

/// A repository that images of the engine go to.
pub(crate) struct Transfer<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) client: &'a RepositoryClient,
    pub(crate) tags: &'a [String],
    pub(crate) compression: Compression,
    /// Where blobs are until they are sent.
    pub(crate) directory: &'a Path,
    pub(crate) progress: &'a Progress,
    /// For what only ECR tells.
    pub(crate) aws: Option<&'a Aws>,
}

impl Transfer<'_> {
    /// Brings what is missing into the repository, and then puts the tags on it. An image is an id or a name in the engine; of
    /// several, each for its platform, the tags stand for the index.
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
            let (manifest, of_image) = self.one(image, pushed_blobs, stop).await?;
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
            return Err(dated(error, self.aws, self.client.repository()).await.into());
        }
        let path = &self.client.repository().path;
        if !pushed_blobs.repositories.contains(path) {
            pushed_blobs.repositories.push(path.clone());
        }
        Ok((manifest, summary))
    }

    /// Brings one image into the repository. Nothing stands for it yet.
    async fn one(
        &self,
        image: &str,
        pushed_blobs: &mut PushedBlobs,
        stop: &CancellationToken,
    ) -> Result<(Stored, PushSummary), Failure> {
        let Self { client, tags, compression, .. } = *self;
        let local = self.engine.image(image).await?;
        let known = client.known(tags, &local.layers, compression).await?;
        // What was pushed_blobs into another repository counts too.
        let mut layers = pushed_blobs.layers.clone();
        layers.extend(known.layers().clone());
        layers.retain(|_, blob| blob.is_compressed_with(compression));
        let (present, mounted) = client.present(&local.layers, &layers).await?;
        let is_whole = local.layers.iter().all(|layer| present.contains_key(layer));
        let (manifest, mut summary) = if let Some(whole) = known.whole(&local.id).filter(|_| is_whole) {
            let summary = PushSummary { present: whole.blobs().count(), ..PushSummary::default() };
            pushed_blobs.layers.extend(present);
            (whole.manifest().clone(), summary)
        } else {
            // When this ends before its time, so does the export, and with it what reads it.
            let reading = stop.child_token();
            let _end = reading.clone().drop_guard();
            let source = source(self.engine, &local, &reading).await;
            let making = BlobOptions::new(local.layers.clone(), present, compression);
            let directory = self.directory.to_owned();
            let (exported, summary) = client.send(source, making, directory, self.progress).await?;
            pushed_blobs.layers.extend(local.layers.into_iter().zip(exported.blobs));
            (exported.manifest, summary)
        };
        summary.mounted += mounted;
        summary.present = summary.present.saturating_sub(mounted);
        Ok((manifest, summary))
    }
}

/// The same error, with the time when the image was pushed that stands in the way.
pub(crate) async fn dated(error: RegistryError, aws: Option<&Aws>, repository: &Repository) -> RegistryError {
    match (error, aws) {
        (RegistryError::ImmutableTag { tag, existing, digest, pushed: None }, Some(aws)) => {
            let pushed = aws.ecr_pushed_at(&repository.path, &existing).await;
            let pushed = pushed.map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string());
            RegistryError::ImmutableTag { tag, existing, digest, pushed }
        }
        (error, _) => error,
    }
}

/// Where an image of the engine is read from: its storage, or else an export. When the token is cancelled, reading fails.
pub(crate) async fn source(engine: &Engine, image: &LocalImage, until: &CancellationToken) -> Source {
    let parts = engine.stored(image, &chain_ids(&image.layers), until).await.map(|stored| {
        let open = |layer: StoredLayer| -> Open { Box::new(|| Ok(Box::new(layer.open()?))) };
        Parts {
            id: image.id.clone(),
            config: stored.config,
            layers: stored.layers.into_iter().map(open).collect(),
        }
    });
    let (engine, id, until) = (engine.clone(), image.id.clone(), until.clone());
    Source { parts, export: Box::new(move || Box::new(engine.export(&id, &until))) }
}

/// What `runner image push` is asked for.
#[derive(Debug)]
pub(crate) struct ImagePush {
    /// The image's name or id in the engine.
    pub(crate) image: String,
    pub(crate) repository: Repository,
    /// The tag that it gets there.
    pub(crate) tag: String,
    /// How its layers are compressed.
    pub(crate) compression: Compression,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct ImagePushed {
    pub(crate) digest: String,
    pub(crate) summary: PushSummary,
}

impl ImagePush {
    /// Pushes the image. What went wrong without failing it goes to `warn`.
    pub(crate) async fn run(
        &self,
        settings: &Settings,
        masks: &Masks,
        progress: &Progress,
        stop: &CancellationToken,
        warn: &mut dyn FnMut(String),
    ) -> Result<ImagePushed, Failure> {
        let services = Connections::alone(settings, masks);
        let engine = services.docker().await?;
        if self.image.is_empty() {
            return Err(Failure::usage("the image has no name").help("`docker image ls` shows what there is"));
        }
        // Asked first: without the image there is no need for a login.
        engine.image(&self.image).await.map_err(|error| match error {
            DockerError::NoImage(_) => Failure::caused(Exit::Environment, &error)
                .help("`docker image ls` shows what there is; check the name and the tag"),
            other => other.into(),
        })?;
        let (host, own) = (&self.repository.host, Access::default());
        let access = match services.docker_login(host).await? {
            Some(login) => services.registry_with(Some(login), host, &own)?,
            None => services.registry(host, &own).await?,
        };
        let client = RepositoryClient::connect(&access, &self.repository, &[]).await?;
        let blobs = tempfile::tempdir().map_err(|error| {
            Failure::environment(format!("there is no place for temporary files: {error}"))
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
