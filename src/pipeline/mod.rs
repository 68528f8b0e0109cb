//! The pipeline language: from the text of a file to a [`Pipeline`], or to every mistake in it, each with its place.
//!
//! Pure: no file system, no environment, no async. The way through is [`tree`] (YAML with spans) → `decode` (the closed,
//! typed model) → `check` (references between its parts); [`template`] holds `${…}`, [`language`] the known keys.

mod check;
mod decode;
pub mod diagnostic;
pub mod duration;
pub mod glob;
pub mod language;
pub mod model;
pub mod reference;
pub mod source;
pub mod template;
pub mod tree;

pub use check::unmet;
use diagnostic::{Diagnostic, Severity};
pub use model::Pipeline;
use source::SourceFile;

/// The largest pipeline file that is read, in bytes.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// What a file holds.
#[derive(Debug)]
pub struct Parsed {
    /// The pipeline as far as it could be read, mistakes included.
    pub pipeline: Option<Pipeline>,
    /// Every mistake that could be found and everything worth knowing, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The pipeline, where nothing is wrong with it; what is wrong otherwise.
    pub fn into_valid(self) -> Result<Pipeline, Vec<Diagnostic>> {
        let is_wrong = self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        self.pipeline.filter(|_| !is_wrong).ok_or(self.diagnostics)
    }
}

/// Reads a pipeline.
pub fn parse(source: &SourceFile) -> Parsed {
    let mut diagnostics = Vec::new();
    let decoded = match tree::parse(source, &mut diagnostics) {
        Ok(node) => decode::pipeline(&node, &source.text, &mut diagnostics),
        Err(problem) => {
            diagnostics.push(problem);
            None
        }
    };
    let pipeline = decoded.map(|(pipeline, whole)| {
        check::references(&pipeline, whole, &mut diagnostics);
        pipeline
    });
    sort(&mut diagnostics);
    Parsed { pipeline, diagnostics }
}

/// Puts diagnostics into the order of the file, each once.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    diagnostics.dedup();
}
