//! Logins from Docker's own configuration: `auths`, `credHelpers` and `credsStore` of `config.json`.

use crate::docker_config::{AuthEntry, DockerConfig};
use crate::secret::{Login, Secret};
use crate::text::shortened;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// How long a credential helper may take. Some of them ask the user.
const HELPER_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest response of a credential helper that is read, in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;
/// How much of a helper's own words an error shows, in characters.
const MAX_WORDS: usize = 200;
/// Docker Hub's key in the configuration. It dates from the first version of the registry API.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// What a credential helper prints if it has no login for a registry: docker/docker-credential-helpers,
/// `credentials/error.go`.
const NOT_FOUND: &str = "credentials not found";
/// Logins in base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a configured login cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoginError {
    #[error(
        "the credential helper {program}, which Docker's configuration names for {host}, is not installed"
    )]
    NoHelper { program: String, host: String },
    #[error("the credential helper {program} failed for {host}: {reason}")]
    Helper { program: String, host: String, reason: String },
    #[error("the login of `{key}` in Docker's configuration is not `user:password` in base64")]
    Entry { key: String },
}

/// The response of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperResponse {
    username: Option<String>,
    secret: Option<String>,
}

/// Returns the login for a registry's host. Runs the credential helper if one is configured.
pub(crate) async fn login(config: &DockerConfig, host: &str) -> Result<Option<Login>, LoginError> {
    let key = if is_hub(host) { HUB_KEY } else { host };
    let helper = find(&config.cred_helpers, key).map_or(&config.creds_store, |(_, helper)| helper);
    let failed = match helper.as_str() {
        "" => None,
        helper => match run_helper(helper, key).await {
            Ok(Some(login)) => return Ok(Some(login)),
            Ok(None) => None,
            Err(error) => Some(error),
        },
    };
    let found = match find(&config.auths, key) {
        Some((name, entry)) => stored(name, entry)?,
        None => None,
    };
    match (found, failed) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

/// Returns the entry of a registry by Docker's rule: the exact key, or else one with the same host, which older versions
/// of Docker wrote as a URL. If there are several of those, the one with `https://` comes first, and `http://` last.
fn find<'c, T>(entries: &'c BTreeMap<String, T>, key: &str) -> Option<(&'c String, &'c T)> {
    let rank = |name: &str| match name.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => 0,
        None => 1,
        Some(_) => 2,
    };
    entries.get_key_value(key).or_else(|| {
        entries
            .iter()
            .filter(|(name, _)| hostname(name).eq_ignore_ascii_case(hostname(key)))
            .min_by_key(|(name, _)| (rank(name), name.len()))
    })
}

/// Returns the login of an entry of `auths`. The entry is empty if a credential helper has the login.
fn stored(key: &str, entry: &AuthEntry) -> Result<Option<Login>, LoginError> {
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Login {
            user: Login::IDENTITY_TOKEN.to_owned(),
            password: Secret::new(entry.identitytoken.as_str()),
        }));
    }
    if entry.auth.is_empty() {
        let password = Secret::new(entry.password.as_str());
        return Ok((!entry.username.is_empty()).then(|| Login { user: entry.username.clone(), password }));
    }
    let text: String = entry.auth.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let decoded = BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((user, password)) if !user.is_empty() => {
            Ok(Some(Login { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) }))
        }
        _ => Err(LoginError::Entry { key: key.to_owned() }),
    }
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// Returns the host of a key, which older versions of Docker write as a URL.
fn hostname(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

async fn run_helper(helper: &str, host: &str) -> Result<Option<Login>, LoginError> {
    let program = format!("docker-credential-{helper}");
    let failed =
        |reason: String| LoginError::Helper { program: program.clone(), host: host.to_owned(), reason };
    let response = match tokio::time::timeout(HELPER_TIMEOUT, response_of(&program, host)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LoginError::NoHelper { program, host: host.to_owned() });
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("it did not answer within {} s", HELPER_TIMEOUT.as_secs()))),
    };
    match serde_json::from_slice::<HelperResponse>(&response) {
        Ok(HelperResponse { username, secret: Some(secret) }) if !secret.is_empty() => {
            Ok(Some(Login { user: username.unwrap_or_default(), password: Secret::new(secret) }))
        }
        Ok(_) => Ok(None),
        Err(_) => {
            let words = String::from_utf8_lossy(&response);
            match words.trim() {
                words if words.contains(NOT_FOUND) => Ok(None),
                "" => Err(failed("it printed nothing".to_owned())),
                // It may contain the secret.
                words if words.starts_with('{') => Err(failed("its output is not a login".to_owned())),
                words => Err(failed(shortened(&words.replace('\n', " "), MAX_WORDS))),
            }
        }
    }
}

/// What a helper prints. It is killed after that even if it does not exit, and if the future is dropped.
async fn response_of(program: &str, host: &str) -> io::Result<Vec<u8>> {
    let mut helper = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = helper.stdin.take() {
        // A helper may answer without reading the name.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let mut response = Vec::new();
    if let Some(stdout) = helper.stdout.take() {
        stdout.take(MAX_RESPONSE).read_to_end(&mut response).await?;
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(config: &DockerConfig, host: &str) -> Result<Option<Login>, LoginError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(super::login(config, host))
    }

    fn user(config: &str, host: &str) -> Option<String> {
        let config = serde_json::from_str(config).unwrap();
        login(&config, host).unwrap().map(|login| login.user)
    }

    fn entries(keys: &[&str]) -> String {
        let entries: Vec<String> = keys
            .iter()
            .map(|key| format!(r#""{key}": {{"username": "of {key}", "password": "p"}}"#))
            .collect();
        format!(r#"{{"auths": {{{}}}}}"#, entries.join(", "))
    }

    #[test]
    fn logins_are_found_by_host() {
        let config = serde_json::from_str(
            r#"{"auths": {"r.example:5000": {"auth": "dTpwOnc="}, "https://index.docker.io/v1/": {"auth": "aDpo"}, "plain.example": {"username": "n", "password": "s"}}}"#,
        );
        let config = config.unwrap();
        let found = login(&config, "r.example:5000").unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.password.expose()), ("u", "p:w"));
        assert_eq!(login(&config, "registry-1.docker.io").unwrap().unwrap().user, "h");
        let plain = login(&config, "plain.example").unwrap().unwrap();
        assert_eq!((plain.user.as_str(), plain.password.expose()), ("n", "s"));
        assert!(login(&config, "other").unwrap().is_none());
    }

    /// Findings, B1.
    #[test]
    fn the_exact_key_comes_first() {
        let user = |keys: &[&str], host: &str| user(&entries(keys), host).unwrap_or_default();
        let all = ["http://r.example", "https://r.example/v1/", "r.example", "https://r.example"];
        assert_eq!(user(&all, "r.example"), "of r.example");
        assert_eq!(user(&["http://r.example:5000", "r.example:5000"], "r.example:5000"), "of r.example:5000");
        let hub = ["http://index.docker.io", "index.docker.io", "https://index.docker.io/v1/"];
        assert_eq!(user(&hub, "docker.io"), "of https://index.docker.io/v1/");
        // Without an exact key it is always the same one.
        let old = ["http://r.example", "r.example/v2/", "https://r.example/v1/"];
        assert_eq!(user(&old, "r.example"), "of https://r.example/v1/");
        assert_eq!(user(&old[..2], "r.example"), "of r.example/v2/");
        assert_eq!(user(&old[..1], "r.example"), "of http://r.example");
        // Another port is another registry.
        assert_eq!(user(&["r.example:5001", "https://r.example"], "r.example:5000"), "");
    }

    #[test]
    fn an_exact_key_without_a_login_means_none() {
        let config = r#"{"auths": {"r.example": {}, "https://r.example/v1/": {"auth": "dTpw"}}}"#;
        assert_eq!(user(config, "r.example"), None);
        let config = r#"{"auths": {"r.example": null, "https://r.example/v1/": {"auth": "dTpw"}}}"#;
        assert_eq!(user(config, "r.example"), None);
    }

    /// Findings, B12.
    #[test]
    fn a_login_that_cannot_be_used_is_named() {
        let error = |config: &str| {
            login(&serde_json::from_str(config).unwrap(), "r.example").unwrap_err().to_string()
        };
        let missing = "the credential helper docker-credential-runner-none, which Docker's configuration names for r.example, is not installed";
        assert_eq!(error(r#"{"credHelpers": {"r.example": "runner-none"}}"#), missing);
        assert_eq!(error(r#"{"credsStore": "runner-none"}"#), missing);
        let wrong = error(r#"{"auths": {"r.example": {"auth": "bm8gY29sb24="}}}"#);
        assert_eq!(
            wrong,
            "the login of `r.example` in Docker's configuration is not `user:password` in base64"
        );
        // An entry without a helper, or a login beside a helper that fails, is a login.
        let config = r#"{"credHelpers": {"r.example": ""}, "credsStore": "runner-none", "auths": {"r.example": {"auth": "dTpw"}}}"#;
        assert_eq!(user(config, "r.example").as_deref(), Some("u"));
        let config = r#"{"credsStore": "runner-none", "auths": {"r.example": {"auth": "dTpw"}}}"#;
        assert_eq!(user(config, "r.example").as_deref(), Some("u"));
    }
}
