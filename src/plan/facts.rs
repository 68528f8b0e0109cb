//! What files of the source say that calls and permissions depend on. Reading them is `cli`'s.

use crate::language::pipeline::model::StepId;
use std::collections::HashMap;

/// What files of the source say, as far as they could be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The documents that `task-definition` steps start from, by step.
    pub(crate) definitions: HashMap<StepId, Definition>,
    /// The images that Dockerfiles start from, by image.
    pub(crate) base_images: HashMap<String, Vec<String>>,
}

/// What the document of a task definition says that permissions depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) family: Option<String>,
    /// Task role and execution role, as ARNs or names.
    pub(crate) roles: Vec<String>,
    /// The log groups of its containers.
    pub(crate) log_groups: Vec<String>,
    /// The images of its containers.
    pub(crate) images: Vec<String>,
    /// The secrets and parameters that it names, as `valueFrom` does.
    pub(crate) secrets: Vec<String>,
    /// The names of its containers.
    pub(crate) containers: Vec<String>,
    pub(crate) tagged: bool,
}
