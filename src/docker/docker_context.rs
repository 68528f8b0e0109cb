//! Docker contexts: engines that the docker command knows by name. They are files below Docker's configuration directory, in
//! the layout of docker/cli, `cli/context/store`.

use super::DockerError;
use crate::docker_config::{self, DockerConfig, DockerConfigError};
use crate::exit::chain;
use crate::text::hex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The context that means the environment and the default socket.
const DEFAULT: &str = "default";

/// The docker context in use.
#[derive(Debug)]
pub(crate) struct DockerContext {
    pub(crate) name: String,
    /// The engine's address, in the form of `DOCKER_HOST`.
    pub(crate) host: String,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`, if the engine uses TLS.
    pub(crate) certificates: Option<PathBuf>,
    /// Whether the engine's certificate is verified.
    pub(crate) verified: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Metadata {
    endpoints: HashMap<String, Endpoint>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Endpoint {
    host: String,
    #[serde(rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// Returns the context that `DOCKER_CONTEXT` names, or else the configuration. Returns `None` for the default context.
pub(crate) fn current(
    configuration: Option<&Path>,
    variable: Option<&str>,
) -> Result<Option<DockerContext>, DockerError> {
    let Some(directory) = configuration else { return Ok(None) };
    let name = match variable {
        Some(name) => name.to_owned(),
        None => readable(DockerConfig::read(directory))?.unwrap_or_default().current_context,
    };
    if name.is_empty() || name == DEFAULT {
        return Ok(None);
    }
    let unusable = |reason: String| DockerError::UnusableContext { name: name.clone(), reason };
    let contexts = directory.join("contexts");
    let identity = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes()).as_ref());
    let metadata: Option<Metadata> = read(&contexts.join("meta").join(&identity).join("meta.json"))
        .map_err(|error| unusable(chain(&error)))?;
    let metadata =
        metadata.ok_or_else(|| unusable(format!("there is none of that name in {}", contexts.display())))?;
    let endpoint = metadata.endpoints.get("docker").filter(|endpoint| !endpoint.host.is_empty());
    let endpoint = endpoint.ok_or_else(|| unusable("it names no Docker Engine".to_owned()))?;
    let certificates = contexts.join("tls").join(identity).join("docker");
    Ok(Some(DockerContext {
        host: endpoint.host.clone(),
        certificates: (endpoint.skip_tls_verify || certificates.is_dir()).then_some(certificates),
        verified: !endpoint.skip_tls_verify,
        name,
    }))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DockerConfigError> {
    readable(docker_config::read_json(path))
}

/// A file that belongs to another user counts as missing: the user may have root's `HOME`.
fn readable<T>(read: Result<Option<T>, DockerConfigError>) -> Result<Option<T>, DockerConfigError> {
    read.or_else(DockerConfigError::ignore_denied)
}
