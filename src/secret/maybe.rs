//! A value of which only the run knows whether it is a secret.

use super::Secret;

/// Plain text, or a secret. Text made from several values is a secret if one of them is. `Debug` hides a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MaybeSecret {
    Plain(String),
    Secret(Secret),
}

impl MaybeSecret {
    /// A value with the given text.
    pub(crate) fn new(text: impl Into<String>, is_secret: bool) -> Self {
        let text = text.into();
        if is_secret { Self::Secret(Secret::new(text)) } else { Self::Plain(text) }
    }

    pub(crate) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }

    /// Returns the text, also of a secret, for the code that passes it to a process, a request or a build.
    pub(crate) fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose(),
        }
    }

    /// Returns the text as a secret, whatever it is, for a field that always holds one.
    pub(crate) fn into_secret(self) -> Secret {
        match self {
            Self::Plain(text) => Secret::new(text),
            Self::Secret(secret) => secret,
        }
    }
}
