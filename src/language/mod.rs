//! What files say: YAML with spans, diagnostics, and the languages written in it.
//!
//! Pure: no file system, no environment, no async. [`tree`] parses YAML and keeps every span, [`keys`] describes a language
//! as data, [`schema`] and [`mod@reference`] are generated from that, and [`pipeline`] is the pipeline file.

pub(crate) mod diagnostic;
pub(crate) mod glob;
pub(crate) mod keys;
pub(crate) mod pipeline;
pub(crate) mod reference;
pub(crate) mod schema;
pub(crate) mod source;
pub(crate) mod tree;

/// The largest file that is read, in bytes.
pub(crate) const MAX_BYTES: u64 = 1024 * 1024;
