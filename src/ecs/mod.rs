//! What is known of Amazon ECS without asking it: task definitions as documents (every shape, changes without loss, what differs),
//! services and tasks, what has become of a deployment and why its tasks ended, what `CodeDeploy` is asked for.

pub mod appspec;
pub mod code_deploy;
pub mod diagnosis;
pub mod diff;
mod fields;
pub mod needs;
mod number;
pub mod revisions;
pub mod service;
pub mod task;
pub mod task_definition;
pub mod verdict;
