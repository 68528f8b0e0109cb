//! Docker contexts: engines that the docker command knows by name. They are files below the directory of Docker's configuration,
//! in the layout of docker/cli, `cli/context/store`.

use super::DockerError;
use crate::text::hex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::io::ErrorKind::{NotFound, PermissionDenied};
use std::path::{Path, PathBuf};

/// The context that stands for the environment and the usual socket.
const DEFAULT: &str = "default";

/// A context that counts.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// The engine's address, as `DOCKER_HOST` has it.
    pub(crate) host: String,
    /// The directory of `ca.pem`, `cert.pem` and `key.pem`, where the engine takes TLS.
    pub(crate) certificates: Option<PathBuf>,
    /// The engine's certificate is checked.
    pub(crate) verified: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    current_context: String,
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

/// The context that `DOCKER_CONTEXT` or else the configuration names. Nothing where that is the default one.
pub(crate) fn current(
    configuration: Option<&Path>,
    variable: Option<&str>,
) -> Result<Option<Named>, DockerError> {
    let Some(directory) = configuration else { return Ok(None) };
    let name = if let Some(name) = variable {
        name.to_owned()
    } else {
        let file: Option<Configuration> =
            read(&directory.join("config.json")).map_err(DockerError::Configuration)?;
        file.unwrap_or_default().current_context
    };
    if name.is_empty() || name == DEFAULT {
        return Ok(None);
    }
    let unusable = |what: String| DockerError::UnusableContext { name: name.clone(), what };
    let contexts = directory.join("contexts");
    let identity = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes()).as_ref());
    let metadata: Option<Metadata> =
        read(&contexts.join("meta").join(&identity).join("meta.json")).map_err(unusable)?;
    let metadata =
        metadata.ok_or_else(|| unusable(format!("there is none of that name in {}", contexts.display())))?;
    let endpoint = metadata.endpoints.get("docker").filter(|endpoint| !endpoint.host.is_empty());
    let endpoint = endpoint.ok_or_else(|| unusable("it names no Docker Engine".to_owned()))?;
    let certificates = contexts.join("tls").join(identity).join("docker");
    Ok(Some(Named {
        host: endpoint.host.clone(),
        certificates: (endpoint.skip_tls_verify || certificates.is_dir()).then_some(certificates),
        verified: !endpoint.skip_tls_verify,
        name,
    }))
}

/// Reads a JSON file; nothing where there is none, or where it is somebody else's, as for a user who has root's `HOME`.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| format!("{} is not valid: {error}", path.display())),
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}
