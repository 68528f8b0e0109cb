//! Logins from Docker's own configuration: `auths`, `credHelpers` and `credsStore` of `config.json`.

use crate::docker_config::DockerConfig;
use crate::secret::{Login, Secret};
use base64::Engine;
use serde::Deserialize;
use std::io::Read;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long a credential helper may take. Some of them ask the user.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest response of a credential helper that is read, in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;
/// Docker Hub's key in the configuration. It dates from the first version of the registry API.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The response of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperResponse {
    username: String,
    secret: String,
}

/// Returns the login for a registry's host. Runs the credential helper if one is configured, and blocks until it has answered.
pub(crate) fn login(config: &DockerConfig, host: &str) -> Option<Login> {
    let key = if is_hub(host) { HUB_KEY } else { host };
    let matches = |name: &String| name == key || hostname(name) == hostname(key);
    let helper = config
        .cred_helpers
        .iter()
        .find(|(name, _)| matches(name))
        .map(|(_, helper)| helper)
        .or(config.creds_store.as_ref());
    if let Some(login) = helper.and_then(|helper| run_helper(helper, key)) {
        return Some(login);
    }
    let (_, entry) = config.auths.iter().find(|(name, _)| matches(name))?;
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

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Returns the host of a key, which older versions of Docker write as a URL.
fn hostname(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn run_helper(helper: &str, host: &str) -> Option<Login> {
    let reader = duct::cmd(format!("docker-credential-{helper}"), ["get"])
        .stdin_bytes(host)
        .stderr_null()
        .unchecked()
        .reader()
        .ok()?;
    // It is killed after the timeout, and also if its output has been read and it does not exit.
    let reader = Arc::new(reader);
    let (reading, (sender, response)) = (reader.clone(), mpsc::channel());
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = (&*reading).take(MAX_RESPONSE).read_to_end(&mut bytes);
        sender.send(read.map(|_| bytes))
    });
    let response = response.recv_timeout(HELPER_TIMEOUT);
    let _ = reader.kill();
    let response: HelperResponse = serde_json::from_slice(&response.ok()?.ok()?).ok()?;
    Some(Login { user: response.username, password: Secret::new(response.secret) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_host() {
        let config = serde_json::from_str(
            r#"{"auths": {"r.example:5000": {"auth": "dTpwOnc="}, "https://index.docker.io/v1/": {"auth": "aDpo"}, "plain.example": {"username": "n", "password": "s"}}}"#,
        );
        let config = config.unwrap();
        let found = login(&config, "r.example:5000").unwrap();
        assert_eq!((found.user.as_str(), found.password.expose()), ("u", "p:w"));
        assert_eq!(login(&config, "registry-1.docker.io").unwrap().user, "h");
        let plain = login(&config, "plain.example").unwrap();
        assert_eq!((plain.user.as_str(), plain.password.expose()), ("n", "s"));
        assert!(login(&config, "other").is_none());
    }
}
