//! The facts of files in the source on which asks and permissions depend. `cli` reads them.

use crate::language::pipeline::model::StepId;
use std::collections::HashMap;

/// The facts of the files that could be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The base files of `task-definition` steps.
    pub(crate) definitions: HashMap<StepId, Definition>,
    /// The base images of Dockerfiles, by the name of the image.
    pub(crate) base_images: HashMap<String, Vec<String>>,
}

/// The facts of a task definition file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) family: Option<String>,
    /// The task role and the execution role, as ARNs or names.
    pub(crate) roles: Vec<String>,
    pub(crate) log_groups: Vec<String>,
    /// Containers with their images.
    pub(crate) images: Vec<(String, String)>,
    /// The secrets and parameters in `valueFrom`.
    pub(crate) secrets: Vec<String>,
    pub(crate) containers: Vec<String>,
    pub(crate) tagged: bool,
}
