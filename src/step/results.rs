//! The results of steps, for later steps and later calls of the same build. They are kept in `.runner/state.json`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Results {
    /// Images by their name in the pipeline.
    pub(crate) images: IndexMap<String, ImageResult>,
    /// Registered revisions by family: the ARN, or the family alone in local mode.
    pub(crate) task_definitions: IndexMap<String, String>,
    /// The working tree was compared with its commit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) judged: bool,
    /// It differed, so images may differ from the commit.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) dirty: bool,
    /// Variables that commands have set through `$RUNNER_ENV`.
    pub(crate) variables: IndexMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ImageResult {
    /// Its id in the engine. For several platforms, the id for the engine's own platform, or for the first.
    pub(crate) id: String,
    /// The ids of the other platforms.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub(crate) platforms: IndexMap<String, String>,
    /// The digest of its sources, if the file asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
    /// The digest of the image in the repository that has the same sources: this one was not built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unchanged: Option<String>,
    /// The test steps that it has passed, by their number in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) passed: Vec<usize>,
    /// The manifest's digest, once it is pushed.
    pub(crate) digest: Option<String>,
    /// `repository@sha256:…`, once it is pushed.
    pub(crate) uri: Option<String>,
}

impl Results {
    /// Reads the results of earlier calls.
    pub(crate) fn read(fields: Map<String, Value>) -> Result<Self, String> {
        serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
    }

    /// The results as fields of the state file.
    pub(crate) fn to_fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }
}
