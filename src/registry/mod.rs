//! OCI distribution: names, manifests, image layouts, and pushing.
//!
//! An image of the engine is read from its [`source`], in parts or from an [`export`]. Its layers are [`compress`]ed
//! into [`blob`]s, which are uploaded to a registry immediately ([`push`], through [`client`] and its [`connection`])
//! or stored in an OCI [`layout`] on disk for local mode. Both create the same blobs, and so the same digest. Layers
//! that are [`known`] from earlier images are not compressed again.

mod authorization;
pub(crate) mod blob;
mod challenge;
pub(crate) mod client;
pub(crate) mod compress;
pub(crate) mod connection;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod known;
pub(crate) mod layout;
pub(crate) mod login;
pub(crate) mod manifest;
pub(crate) mod push;
mod refusal;
pub(crate) mod retries;
mod saving;
pub(crate) mod source;

use crate::address::InvalidName;
use crate::http::Through;
use std::io;
use std::path::PathBuf;

/// An error of a registry, or of an image on its way to one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The engine's image has unexpected content.
    #[error("the image cannot be read from the engine: {0}")]
    Export(String),
    /// Reading the engine's image failed.
    #[error("the image cannot be read from the engine")]
    Stream(#[source] io::Error),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The connection to the registry failed.
    #[error("the registry {host} cannot be reached{through}")]
    Unreachable {
        host: String,
        through: Through,
        #[source]
        source: reqwest::Error,
    },
    /// The registry accepted the connection, but did not respond in time.
    #[error("the registry {host} did not respond for {seconds} s{through}")]
    Silent { host: String, through: Through, seconds: u64 },
    /// The registry rejects the login, or requires one.
    #[error("the registry {host} refuses access: {reason}")]
    Denied { host: String, reason: String },
    /// The registry does not keep to its protocol. The problem follows its name.
    #[error("the registry {host} {problem}")]
    Protocol { host: String, problem: String },
    /// The registry accepted a blob and then did not have it.
    #[error("the registry {host} accepted the blob {digest}, but does not have it")]
    Lost { host: String, digest: String },
    /// The repository has reached its quota of images.
    #[error("the repository `{repository}` of {host} is full: {reason}")]
    Full {
        host: String,
        repository: String,
        /// The registry's message.
        reason: String,
    },
    /// The repository does not exist.
    #[error("the registry {host} has no repository `{repository}`")]
    NoRepository { host: String, repository: String },
    /// An image no longer exists.
    #[error("the registry {host} no longer has {digest}")]
    Gone { host: String, digest: String },
    /// The tag is immutable and refers to another image.
    #[error("the tag `{tag}` is immutable and refers to {existing}{}, not to {digest}",
        pushed.as_ref().map(|pushed| format!(" (pushed {pushed})")).unwrap_or_default())]
    ImmutableTag {
        tag: String,
        /// When the existing image was pushed, if known.
        pushed: Option<String>,
        /// The digest in the registry.
        existing: String,
        /// The digest of the image to push.
        digest: String,
    },
    #[error("the registry {host} refused to {doing}: {status} {reason}")]
    Refused {
        host: String,
        /// The operation that failed, as an infinitive.
        doing: String,
        status: u16,
        /// The registry's error codes.
        codes: Vec<String>,
        reason: String,
    },
    /// The registry serves content with another digest.
    #[error("the registry {host} serves {found} for `{name}` instead of {digest}")]
    Verification {
        host: String,
        /// The requested tag or digest.
        name: String,
        found: String,
        /// The expected digest.
        digest: String,
    },
    /// The run is being stopped.
    #[error("stopped")]
    Stopped,
}

impl RegistryError {
    fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }
}
