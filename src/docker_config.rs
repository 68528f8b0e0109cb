//! Docker's configuration file, `config.json`: logins, and the current docker context.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The key of the proxies for all engines that have no own ones.
const DEFAULT_PROXIES: &str = "default";

/// The parts of `config.json` that runner uses. A key that is missing or null has its default value, and the case of
/// its letters does not matter, as for Docker.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    /// Logins, by registry.
    pub(crate) auths: BTreeMap<String, AuthEntry>,
    /// Credential helpers, by registry. An empty name means none.
    pub(crate) cred_helpers: BTreeMap<String, String>,
    /// The credential helper for all other registries. An empty name means none.
    pub(crate) creds_store: String,
    /// The name of the current docker context; empty for the default one.
    pub(crate) current_context: String,
    /// Proxies for builds and containers, by the engine's address.
    proxies: BTreeMap<String, Proxies>,
}

/// The proxies of one engine, as variables with their values.
#[derive(Default)]
struct Proxies([(&'static str, String); 5]);

/// A login of `auths`.
#[derive(Default)]
pub(crate) struct AuthEntry {
    /// `user:password` in base64.
    pub(crate) auth: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identitytoken: String,
}

impl<'de> Deserialize<'de> for DockerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Fields::deserialize(deserializer)?;
        let cred_helpers: BTreeMap<String, Option<String>> = fields.take("credHelpers")?;
        let auths: BTreeMap<String, Option<AuthEntry>> = fields.take("auths")?;
        Ok(Self {
            auths: auths.into_iter().map(|(name, entry)| (name, entry.unwrap_or_default())).collect(),
            cred_helpers: cred_helpers
                .into_iter()
                .map(|(name, helper)| (name, helper.unwrap_or_default()))
                .collect(),
            creds_store: fields.take("credsStore")?,
            current_context: fields.take("currentContext")?,
            proxies: fields.take("proxies")?,
        })
    }
}

impl<'de> Deserialize<'de> for Proxies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Fields::deserialize(deserializer)?;
        Ok(Self([
            ("HTTP_PROXY", fields.take("httpProxy")?),
            ("HTTPS_PROXY", fields.take("httpsProxy")?),
            ("NO_PROXY", fields.take("noProxy")?),
            ("FTP_PROXY", fields.take("ftpProxy")?),
            ("ALL_PROXY", fields.take("allProxy")?),
        ]))
    }
}

impl std::fmt::Debug for Proxies {
    /// An address may contain a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxies(***)")
    }
}

impl<'de> Deserialize<'de> for AuthEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Fields::deserialize(deserializer)?;
        Ok(Self {
            auth: fields.take("auth")?,
            username: fields.take("username")?,
            password: fields.take("password")?,
            identitytoken: fields.take("identitytoken")?,
        })
    }
}

/// The keys of a JSON object, read by the rules of Docker's JSON decoder.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|fields| Self(fields.unwrap_or_default()))
    }
}

impl Fields {
    /// Takes the value of a key. The error does not show the value, which may be a secret.
    fn take<T: Default + DeserializeOwned, E: Error>(&mut self, key: &str) -> Result<T, E> {
        let known = if self.0.contains_key(key) {
            Some(key.to_owned())
        } else {
            self.0.keys().find(|name| name.eq_ignore_ascii_case(key)).cloned()
        };
        let value = known.and_then(|name| self.0.remove(&name)).unwrap_or_default();
        let value: Option<T> = serde_json::from_value(value)
            .map_err(|_| E::custom(format!("`{key}` has a form that Docker does not read")))?;
        Ok(value.unwrap_or_default())
    }
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

    /// Returns the proxy variables for builds and containers of the engine at this address, in upper and lower case:
    /// those of the address, or else the default ones.
    pub(crate) fn proxies(&self, address: &str) -> Vec<(String, String)> {
        let Some(Proxies(variables)) =
            self.proxies.get(address).or_else(|| self.proxies.get(DEFAULT_PROXIES))
        else {
            return Vec::new();
        };
        let set = variables.iter().filter(|(_, value)| !value.is_empty());
        set.flat_map(|(name, value)| {
            [(*name).to_owned(), name.to_lowercase()].map(|name| (name, value.clone()))
        })
        .collect()
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
        // Docker takes an empty file for a missing one.
        Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(None),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| DockerConfigError::Invalid { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DockerConfigError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<DockerConfig>, DockerConfigError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        DockerConfig::read(directory.path())
    }

    /// Findings, B5.
    #[test]
    fn missing_and_null_keys_have_default_values() {
        for text in [
            r#"{"auths": null, "credHelpers": null, "credsStore": null, "currentContext": null, "unknown": 1}"#,
            "{}",
            "null",
        ] {
            let config = read(text).unwrap().unwrap();
            assert!(config.auths.is_empty() && config.cred_helpers.is_empty(), "{text}");
            assert!(config.creds_store.is_empty() && config.current_context.is_empty(), "{text}");
        }
        let nulls =
            r#"{"auths": {"x": null, "y": {"auth": null, "username": "u"}}, "credHelpers": {"z": null}}"#;
        let config = read(nulls).unwrap().unwrap();
        assert_eq!((config.auths["x"].auth.as_str(), config.auths["y"].username.as_str()), ("", "u"));
        assert_eq!(config.cred_helpers["z"], "");
        assert!(read(" \n").unwrap().is_none());
    }

    #[test]
    fn the_case_of_keys_does_not_matter() {
        let config = read(r#"{"Auths": {"x": {"Auth": "a"}}, "credhelpers": {"y": "h"}, "CREDSSTORE": "s"}"#);
        let config = config.unwrap().unwrap();
        assert_eq!((config.auths["x"].auth.as_str(), config.creds_store.as_str()), ("a", "s"));
        assert_eq!(config.cred_helpers["y"], "h");
        // An exact key comes first.
        let config = read(r#"{"CredsStore": "other", "credsStore": "own"}"#).unwrap().unwrap();
        assert_eq!(config.creds_store, "own");
    }

    /// Findings, B14.
    #[test]
    fn proxies_are_those_of_the_engine_or_the_default_ones() {
        let text = r#"{"proxies": {
            "default": {"httpProxy": "http://p:1", "noProxy": "a,b", "ftpProxy": "", "allProxy": null},
            "tcp://other:2375": {"httpsProxy": "http://q:2"}
        }}"#;
        let config = read(text).unwrap().unwrap();
        let of = |address: &str| {
            let proxies = config.proxies(address);
            proxies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let default = "HTTP_PROXY=http://p:1 http_proxy=http://p:1 NO_PROXY=a,b no_proxy=a,b";
        assert_eq!(of("unix:///var/run/docker.sock"), default);
        assert_eq!(of("tcp://other:2375"), "HTTPS_PROXY=http://q:2 https_proxy=http://q:2");
        for none in [r#"{"proxies": null}"#, r#"{"proxies": {"tcp://other:2375": {"httpProxy": "x"}}}"#, "{}"]
        {
            assert!(read(none).unwrap().unwrap().proxies("unix:///x").is_empty(), "{none}");
        }
        assert!(!format!("{config:?}").contains("p:1"));
    }

    #[test]
    fn a_wrong_form_is_named_without_its_value() {
        let error = read(r#"{"auths": {"x": {"auth": ["a-password"]}}}"#).unwrap_err();
        let text = crate::exit::chain(&error);
        assert!(text.contains("`auths` has a form that Docker does not read"), "{text}");
        assert!(!text.contains("a-password"), "{text}");
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
