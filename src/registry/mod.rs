//! OCI distribution: names, manifests, image layouts, and pushing.
//!
//! An image goes one way: the engine's export → [`convert`] → an OCI layout on disk ([`layout`]) → where it publishes,
//! [`push`] to a registry. Local mode ends at the layout, so both modes give an image the same digest.

mod client;
pub mod convert;
pub mod layout;
pub mod login;
pub mod push;

use crate::address::InvalidName;
use std::io;
use std::path::PathBuf;

/// What can go wrong with images on their way to a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A name that no registry accepts.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The engine's export is not one that is understood.
    #[error("the engine's export of the image cannot be read: {0}")]
    Export(String),
    /// Reading or writing a file.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The registry does not answer.
    #[error("the registry {host} cannot be reached")]
    Unreachable {
        /// Its host name.
        host: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The registry does not accept the login, or wants one where there is none.
    #[error("the registry {host} refuses access: {reason}")]
    Denied {
        /// Its host name.
        host: String,
        /// Its own words.
        reason: String,
    },
    /// The repository does not exist.
    #[error("the registry {host} has no repository `{repository}`")]
    NoRepository {
        /// Its host name.
        host: String,
        /// The repository.
        repository: String,
    },
    /// The tag exists, may not be moved, and stands for another image.
    #[error("the tag `{tag}` is immutable and stands for {existing}, not for {digest}")]
    ImmutableTag {
        /// The tag.
        tag: String,
        /// What the registry has.
        existing: String,
        /// What was to be pushed.
        digest: String,
    },
    /// Any other refusal.
    #[error("the registry {host} refused to {doing}: {status} {reason}")]
    Refused {
        /// Its host name.
        host: String,
        /// What was asked of it.
        doing: String,
        /// The HTTP status.
        status: u16,
        /// The registry's error code, where it gives one.
        code: String,
        /// Its own words.
        reason: String,
    },
    /// What the registry has is not what was sent.
    #[error("the registry {host} serves {found} for the tag `{tag}`, but {digest} was pushed")]
    Verification {
        /// Its host name.
        host: String,
        /// The tag.
        tag: String,
        /// What it serves.
        found: String,
        /// What was sent.
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

/// `sha256:` and the digest's hexadecimal form.
fn sha256_name(digest: &aws_lc_rs::digest::Digest) -> String {
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
