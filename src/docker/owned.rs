//! Containers, networks, volumes and image names that runner creates. They carry the label of their owner, so that `gc`
//! finds those whose owner has ended.

use super::container::force_removal;
use super::{DockerError, Engine};
use crate::random;
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions,
};
use std::collections::HashMap;

/// The label with the id of the run.
const RUN_LABEL: &str = "dev.runner.run";
/// The label with the process that created the object.
pub(crate) const OWNER_LABEL: &str = "dev.runner.owner";

/// Returns the labels for an object that a process creates for a run.
pub(crate) fn labels(run: &str, owner: &str) -> HashMap<String, String> {
    HashMap::from([(RUN_LABEL.to_owned(), run.to_owned()), (OWNER_LABEL.to_owned(), owner.to_owned())])
}

/// The repository of temporary image names, which exist while another image is built from them. No registry has this
/// name.
const STAGES: &str = "local.invalid/runner-stage";

/// Returns a temporary name for an image that another one is built from. It contains the owner.
pub(crate) fn stage_name(owner: &str) -> String {
    format!("{STAGES}:{owner}-{}", random::id())
}

/// The kind of an object in the engine. Objects can be removed in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnedKind {
    Container,
    Network,
    Volume,
    /// A temporary image name.
    Stage,
}

impl OwnedKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Stage => "image",
        }
    }
}

/// An object in the engine with an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) kind: OwnedKind,
    /// The id or name that the engine accepts.
    id: String,
    /// The name for messages.
    pub(crate) name: String,
    pub(crate) owner: String,
}

impl Engine {
    /// Lists all existing objects that runner has created.
    pub(crate) async fn owned(&self) -> Result<Vec<Owned>, DockerError> {
        let filters = Some(HashMap::from([("label".to_owned(), vec![OWNER_LABEL.to_owned()])]));
        let mut owned = Vec::new();
        let mut add = |kind, id: Option<String>, name: Option<String>, labels: HashMap<String, String>| {
            if let (Some(id), Some(owner)) = (id, labels.get(OWNER_LABEL)) {
                let name = name.unwrap_or_else(|| id.clone());
                owned.push(Owned { kind, id, name, owner: owner.clone() });
            }
        };
        let options =
            ListContainersOptions { all: true, filters: filters.clone(), ..ListContainersOptions::default() };
        let containers = self.client.list_containers(Some(options)).await;
        for container in containers.map_err(DockerError::api("list containers"))? {
            let name = container.names.unwrap_or_default().first().map(|name| name[1..].to_owned());
            add(OwnedKind::Container, container.id, name, container.labels.unwrap_or_default());
        }
        let networks =
            self.client.list_networks(Some(ListNetworksOptions { filters: filters.clone() })).await;
        for network in networks.map_err(DockerError::api("list networks"))? {
            add(OwnedKind::Network, network.id, network.name, network.labels.unwrap_or_default());
        }
        let volumes = self.client.list_volumes(Some(ListVolumesOptions { filters })).await;
        for volume in volumes.map_err(DockerError::api("list volumes"))?.volumes.unwrap_or_default() {
            add(OwnedKind::Volume, Some(volume.name), None, volume.labels);
        }
        let filters = Some(HashMap::from([("reference".to_owned(), vec![STAGES.to_owned()])]));
        let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
        let images = self.client.list_images(Some(options)).await.map_err(DockerError::api("list images"))?;
        for name in images.into_iter().flat_map(|image| image.repo_tags) {
            let tag = name.strip_prefix(STAGES).and_then(|tag| tag.strip_prefix(':'));
            if let Some((owner, _)) = tag.and_then(|tag| tag.rsplit_once('-')) {
                let owner = owner.to_owned();
                owned.push(Owned { kind: OwnedKind::Stage, id: name.clone(), name, owner });
            }
        }
        Ok(owned)
    }

    /// Removes an object in any state. An object that no longer exists is not an error.
    pub(crate) async fn remove(&self, owned: &Owned) -> Result<(), DockerError> {
        let removed = match owned.kind {
            OwnedKind::Container => self.client.remove_container(&owned.id, Some(force_removal())).await,
            OwnedKind::Network => self.client.remove_network(&owned.id).await,
            OwnedKind::Volume => {
                self.client.remove_volume(&owned.id, Some(RemoveVolumeOptions { force: true })).await
            }
            OwnedKind::Stage => return self.untag(&owned.id).await,
        };
        match removed {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            // It is already being removed.
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. })
                if owned.kind == OwnedKind::Container =>
            {
                Ok(())
            }
            removed => removed.map_err(DockerError::api("remove what a run left behind")),
        }
    }
}
