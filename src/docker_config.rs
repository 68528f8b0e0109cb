//! Docker's configuration file, `config.json`: logins, and the current docker context.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// The parts of `config.json` that runner uses. A key that is missing or null has its default value.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DockerConfig {
    /// Logins, by registry.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) auths: HashMap<String, AuthEntry>,
    /// Credential helpers, by registry.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) cred_helpers: HashMap<String, String>,
    /// The credential helper for all other registries.
    pub(crate) creds_store: Option<String>,
    /// The name of the current docker context; empty for the default one.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) current_context: String,
}

/// A login of `auths`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuthEntry {
    /// `user:password` in base64.
    pub(crate) auth: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identitytoken: String,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthEntry(***)")
    }
}

/// A JSON file of Docker's that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerConfigError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not valid", path.display())]
    Invalid { path: PathBuf, source: serde_json::Error },
}

impl DockerConfig {
    /// Reads `config.json` in Docker's configuration directory. Returns `None` if there is no such file.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, DockerConfigError> {
        read_json(&directory.join("config.json"))
    }
}

impl DockerConfigError {
    /// Returns `Ok(None)` if the user cannot read the file: it belongs to another user, for example because `HOME` is
    /// root's.
    pub(crate) fn ignore_denied<T>(self) -> Result<Option<T>, Self> {
        match &self {
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            _ => Err(self),
        }
    }
}

/// Reads a JSON file of Docker's. Returns `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DockerConfigError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DockerConfigError::Invalid { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DockerConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Reads null as the default value, as Docker does.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<DockerConfig>, DockerConfigError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        DockerConfig::read(directory.path())
    }

    #[test]
    fn missing_and_null_keys_have_default_values() {
        let config = read(r#"{"auths": null, "currentContext": null, "unknown": 1}"#).unwrap().unwrap();
        assert!(
            config.auths.is_empty() && config.cred_helpers.is_empty() && config.current_context.is_empty()
        );
    }

    #[test]
    fn a_missing_file_is_no_error_and_a_broken_one_is_named() {
        assert!(DockerConfig::read(Path::new("/nonexistent")).unwrap().is_none());
        let error = read("{").unwrap_err();
        assert!(error.to_string().ends_with("config.json is not valid"), "{error}");
        assert!(error.ignore_denied::<DockerConfig>().is_err());
    }

    #[test]
    fn debug_output_shows_no_login() {
        let config = read(r#"{"auths": {"r.example": {"auth": "dTpwOnc="}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("dTpwOnc="));
    }
}
