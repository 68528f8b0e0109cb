//! Secrets: a type that hides their values, and the masks that keep them out of all output.

mod forms;
mod leaves;
mod lines;
mod mask;
mod maybe;
#[cfg(any(test, fuzzing))]
mod oracle;
mod reading;
mod search;
mod shown;
mod spelling;
#[cfg(test)]
mod tests;
mod token;

pub(crate) use lines::MaskedLines;
pub(crate) use mask::{Masker, Masks, Unmasked};
pub(crate) use maybe::MaybeSecret;
#[cfg(fuzzing)]
pub(crate) use oracle::mask_whole;
pub(crate) use shown::{Shown, visible};

use std::fmt;

/// A value that must not be shown. It has no `Display`, and its `Debug` hides the value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value, for the code that passes it to a process, a request or a build.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A user name with its password or token.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    /// The password or token.
    pub(crate) password: Secret,
}

impl Login {
    /// The user name that marks an identity token in Docker's configuration and in credential helpers. A token service
    /// accepts such a token instead of a user name and password
    /// (<https://distribution.github.io/distribution/spec/auth/oauth/>).
    pub(crate) const IDENTITY_TOKEN: &str = "<token>";

    /// Whether the password is an identity token.
    pub(crate) fn is_identity_token(&self) -> bool {
        self.user == Self::IDENTITY_TOKEN
    }
}
