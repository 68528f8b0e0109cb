//! Runs a pipeline.
pub(crate) mod secrets;
