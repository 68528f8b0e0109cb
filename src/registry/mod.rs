//! OCI distribution: names, manifests, image layouts, and pushing.
//!
//! An image of the engine goes one way: it is read from its [`source`], in parts or out of an [`export`], and its layers are
//! [`compress`]ed and become [`blob`]s. They
//! go to a registry as they are made ([`push`], by way of [`client`] and its [`connection`]), or into an OCI [`layout`] on disk. Local mode ends at the layout;
//! both ways make the same blobs, and so the same digest. What earlier images tell ([`known`]) is not made again.

pub(crate) mod blob;
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
pub(crate) mod source;

use crate::address::InvalidName;
use std::io;
use std::path::PathBuf;

/// What can go wrong with images on their way to a registry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// A name that no registry accepts.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// What the engine gives as an image is not understood.
    #[error("the image cannot be read from the engine: {0}")]
    Export(String),
    /// What the engine gives ends before its time.
    #[error("the image cannot be read from the engine")]
    Stream(#[source] io::Error),
    /// Reading or writing a file.
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The registry does not answer.
    #[error("the registry {host} cannot be reached")]
    Unreachable {
        host: String,
        #[source]
        source: reqwest::Error,
    },
    /// The registry has taken the connection, but does not answer.
    #[error("the registry {host} has been silent for {seconds} s")]
    Silent { host: String, seconds: u64 },
    /// The registry does not accept the login, or wants one where there is none.
    #[error("the registry {host} refuses access: {reason}")]
    Denied { host: String, reason: String },
    /// The repository takes no further image.
    #[error("the repository `{repository}` of {host} is full: {reason}")]
    Full {
        /// The registry's host name.
        host: String,
        repository: String,
        /// The registry's own words.
        reason: String,
    },
    /// The repository does not exist.
    #[error("the registry {host} has no repository `{repository}`")]
    NoRepository { host: String, repository: String },
    /// An image that was there is not there any more.
    #[error("the registry {host} does not have {digest} any more")]
    Gone { host: String, digest: String },
    /// The tag exists, may not be moved, and stands for another image.
    #[error("the tag `{tag}` is immutable and stands for {existing}{}, not for {digest}",
        pushed.as_ref().map(|pushed| format!(" (pushed {pushed})")).unwrap_or_default())]
    ImmutableTag {
        tag: String,
        /// When that was pushed, where the registry tells.
        pushed: Option<String>,
        /// What the registry has.
        existing: String,
        /// What was to be pushed.
        digest: String,
    },
    #[error("the registry {host} refused to {doing}: {status} {reason}")]
    Refused {
        host: String,
        /// What was asked of it.
        doing: String,
        status: u16,
        /// The registry's error code, where it gives one.
        code: String,
        reason: String,
    },
    /// What the registry has is not what was sent.
    #[error("the registry {host} serves {found} for `{name}`, where {digest} should be")]
    Verification {
        host: String,
        /// The tag or digest.
        name: String,
        found: String,
        /// What was sent, or is asked for.
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
