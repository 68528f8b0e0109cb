//! Task definitions as documents: reading them in every shape, changing them without loss, and telling what differs.

pub mod diff;
pub mod task_definition;
