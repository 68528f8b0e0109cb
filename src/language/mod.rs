//! The languages of files: YAML with spans, diagnostics, and the pipeline file.
//!
//! Pure: no file system, no environment, no async. [`tree`] parses YAML and keeps every span. [`keys`] describes a language
//! as data. [`schema`] and [`mod@reference`] generate documents from that. [`pipeline`] is the pipeline file.

pub(crate) mod diagnostic;
pub(crate) mod glob;
pub(crate) mod keys;
pub(crate) mod pipeline;
pub(crate) mod reference;
pub(crate) mod schema;
pub(crate) mod source;
pub(crate) mod tree;

/// The size limit of a file, in bytes.
pub(crate) const MAX_BYTES: u64 = 1024 * 1024;
