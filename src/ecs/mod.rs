//! Task definitions as documents: reading them in every shape, and changing them without loss.

pub mod task_definition;
