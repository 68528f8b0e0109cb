//! The pipeline language: from the text of a file to a [`Pipeline`], or to every mistake in it, each with its place.
//!
//! Pure: no file system, no environment, no async. The way through is [`tree`] (YAML with spans) → `decode` (the closed,
//! typed model) → `check` (references between its parts); [`template`] holds `${…}`, [`language`] the known keys.

mod check;
mod decode;
pub(crate) mod model;
pub(crate) mod reference;
pub(crate) mod tables;
pub(crate) mod template;

use crate::language::diagnostic::{Diagnostic, Severity, sort};
use crate::language::source::SourceFile;
use crate::language::tree;
pub(crate) use check::unmet;
pub(crate) use model::Pipeline;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The pipeline as far as it could be read, mistakes included.
    pub(crate) pipeline: Option<Pipeline>,
    /// Every mistake that could be found and everything worth knowing, in the order of the file.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The pipeline, where nothing is wrong with it; what is wrong otherwise.
    pub(crate) fn into_valid(self) -> Result<Pipeline, Vec<Diagnostic>> {
        let is_wrong = self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        self.pipeline.filter(|_| !is_wrong).ok_or(self.diagnostics)
    }
}

pub(crate) fn parse(source: &SourceFile) -> Parsed {
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
