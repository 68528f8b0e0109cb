//! Amazon ECS without its API: task definitions (parsing, changing, diffing), services, tasks, verdicts on deployments,
//! diagnosis of failed tasks, and `CodeDeploy`'s data. Pure.

pub(crate) mod appspec;
pub(crate) mod code_deploy;
pub(crate) mod diagnosis;
pub(crate) mod diff;
pub(crate) mod field_path;
mod fields;
mod model;
pub(crate) mod needs;
mod normal;
mod number;
pub(crate) mod revisions;
pub(crate) mod service;
pub(crate) mod task;
pub(crate) mod task_definition;
mod typed;
pub(crate) mod verdict;
