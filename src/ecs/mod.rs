//! What is known of Amazon ECS without asking it: task definitions as documents (every shape, changes without loss, what differs),
//! services and tasks, what has become of a deployment and why its tasks ended, what `CodeDeploy` is asked for.

pub(crate) mod appspec;
pub(crate) mod code_deploy;
pub(crate) mod diagnosis;
pub(crate) mod diff;
mod fields;
pub(crate) mod needs;
mod number;
pub(crate) mod revisions;
pub(crate) mod service;
pub(crate) mod task;
pub(crate) mod task_definition;
pub(crate) mod verdict;
