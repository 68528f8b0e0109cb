//! Secrets: a type that does not show them, and the mask that keeps them out of everything people see.

mod forms;
mod mask;
mod search;
mod shown;
mod spelling;

pub(crate) use forms::forms;
pub(crate) use mask::{Masker, Masks, Unmasked};
pub(crate) use shown::Shown;
pub(crate) use spelling::Form;

use std::fmt;

/// A value that must not be shown. It has no `Display`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
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
    /// The user name by which Docker's configuration and its helpers mark an identity token: one that a token service takes in the
    /// place of user name and password (<https://distribution.github.io/distribution/spec/auth/oauth/>).
    pub(crate) const IDENTITY_TOKEN: &str = "<token>";

    /// Whether the password is an identity token.
    pub(crate) fn is_identity_token(&self) -> bool {
        self.user == Self::IDENTITY_TOKEN
    }
}
