//! The pipeline language: from the text of a file to a [`Pipeline`], or to every mistake in it, each with its place.
//!
//! Pure: no file system, no environment, no async. The way through is [`tree`] (YAML with spans) → `decode` (the closed,
//! typed model) → `check` (references between its parts); [`template`] holds `${…}`.

mod check;
mod decode;
pub mod diagnostic;
mod keys;
pub mod model;
pub mod source;
pub mod template;
pub mod tree;

pub use check::{notify_templates, templates};
use diagnostic::Diagnostic;
pub use model::Pipeline;
use source::{SourceFile, Span};

/// The largest pipeline file that is read, in bytes.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// Reads a pipeline. On failure the list holds every mistake that could be found, in the order of the file.
pub fn parse(source: &SourceFile) -> Result<Pipeline, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let pipeline = match tree::parse(source, &mut problems) {
        Ok(node) => decode::pipeline(&node, &mut problems),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    if let Some(pipeline) = &pipeline {
        check::references(pipeline, &mut problems);
    }
    problems.sort_by_key(|problem| (problem.span.start, problem.span.end));
    problems.dedup();
    match pipeline {
        Some(pipeline) if problems.is_empty() => Ok(pipeline),
        _ if problems.is_empty() => Err(vec![Diagnostic::new("the file holds no pipeline", Span::default())]),
        _ => Err(problems),
    }
}
