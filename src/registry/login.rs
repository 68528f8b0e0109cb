//! Logins from Docker's own configuration: `auths`, `credHelpers` and `credsStore` of `config.json`.

use crate::secret::{Login, Secret};
use base64::Engine;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long a credential helper may take, as one that has to ask somebody, and how much it may say, in bytes.
const PATIENCE: Duration = Duration::from_mins(1);
const MAX_ANSWER: u64 = 1024 * 1024;
/// Docker Hub's key in the configuration, from the days of its first API.
const HUB_KEY: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Docker's configuration, read once.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    file: ConfigFile,
}

impl DockerConfig {
    /// Reads the file; without one there are no logins. The error names what is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        serde_json::from_slice(&bytes)
            .map(|file| Self { file })
            .map_err(|error| format!("{} is not valid: {error}", path.display()))
    }

    /// The login for a registry's host, asking a credential helper where one is set up. Blocks.
    pub(crate) fn login(&self, host: &str) -> Option<Login> {
        let key = if is_hub(host) { HUB_KEY } else { host };
        let matches = |name: &String| name == key || normalize(name) == normalize(key);
        let helper = self
            .file
            .cred_helpers
            .iter()
            .find(|(name, _)| matches(name))
            .map(|(_, helper)| helper)
            .or(self.file.creds_store.as_ref());
        if let Some(login) = helper.and_then(|helper| ask(helper, key)) {
            return Some(login);
        }
        let (_, entry) = self.file.auths.iter().find(|(name, _)| matches(name))?;
        if !entry.identitytoken.is_empty() {
            return Some(Login {
                user: Login::IDENTITY_TOKEN.to_owned(),
                password: Secret::new(entry.identitytoken.as_str()),
            });
        }
        if entry.auth.is_empty() && !entry.username.is_empty() {
            let password = Secret::new(entry.password.as_str());
            return Some(Login { user: entry.username.clone(), password });
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(&entry.auth).ok()?;
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Login { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) })
    }
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The host of a key, which older files write as an address.
fn normalize(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn ask(helper: &str, host: &str) -> Option<Login> {
    let reader = duct::cmd(format!("docker-credential-{helper}"), ["get"])
        .stdin_bytes(host)
        .stderr_null()
        .unchecked()
        .reader()
        .ok()?;
    // It ends when nobody reads it, and in any case after a while.
    let reader = Arc::new(reader);
    let (reading, (sender, answer)) = (reader.clone(), mpsc::channel());
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = (&*reading).take(MAX_ANSWER).read_to_end(&mut bytes);
        sender.send(read.map(|_| bytes))
    });
    let answer = answer.recv_timeout(PATIENCE);
    let _ = reader.kill();
    let answer: HelperAnswer = serde_json::from_slice(&answer.ok()?.ok()?).ok()?;
    Some(Login { user: answer.username, password: Secret::new(answer.secret) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        DockerConfig::read(file.path()).unwrap()
    }

    #[test]
    fn logins_are_found_by_host() {
        let config = config(
            r#"{"auths": {"r.example:5000": {"auth": "dTpwOnc="}, "https://index.docker.io/v1/": {"auth": "aDpo"}, "plain.example": {"username": "n", "password": "s"}}}"#,
        );
        let login = config.login("r.example:5000").unwrap();
        assert_eq!((login.user.as_str(), login.password.expose()), ("u", "p:w"));
        assert_eq!(config.login("registry-1.docker.io").unwrap().user, "h");
        let plain = config.login("plain.example").unwrap();
        assert_eq!((plain.user.as_str(), plain.password.expose()), ("n", "s"));
        assert!(config.login("other").is_none());
    }

    #[test]
    fn a_missing_file_has_no_logins_and_a_broken_one_is_named() {
        assert!(DockerConfig::read(Path::new("/nonexistent/config.json")).is_ok());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{").unwrap();
        assert!(DockerConfig::read(file.path()).unwrap_err().contains("is not valid"));
    }
}
