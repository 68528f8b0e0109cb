//! Secrets: a type that does not show them, and the mask that keeps them out of everything people see.

mod forms;
mod mask;
mod search;
mod spelling;

pub use forms::forms;
pub use mask::{Masker, Masks, Unmasked};
pub use spelling::Form;

use std::fmt;

/// A value that must not be shown. It has no `Display`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
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
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password or token.
    pub password: Secret,
}

impl Login {
    /// The user name by which Docker's configuration and its helpers mark an identity token: one that a token service takes in the
    /// place of user name and password (<https://distribution.github.io/distribution/spec/auth/oauth/>).
    pub const IDENTITY_TOKEN: &str = "<token>";

    /// Whether the password is an identity token.
    pub fn is_identity_token(&self) -> bool {
        self.user == Self::IDENTITY_TOKEN
    }
}
