//! Task definitions as documents: reading them in every shape, changing them without loss, and telling what differs; and why
//! tasks ended that run them.

pub mod appspec;
pub mod code_deploy;
pub mod diagnosis;
pub mod diff;
pub mod needs;
mod number;
pub mod revisions;
pub mod service;
pub mod task;
pub mod task_definition;
pub mod verdict;
