//! The pipeline language: parses the text of a file into a [`Pipeline`] and reports every mistake with its location.
//!
//! Pure: no file system, no environment, no async. [`tree`] parses YAML with spans, `decode` makes the typed model, and
//! `check` verifies the references between its parts. [`template`] parses `${…}`, and [`tables`] lists the known keys.

mod check;
mod decode;
pub(crate) mod exposure;
pub(crate) mod model;
pub(crate) mod reference;
pub(crate) mod starter;
pub(crate) mod tables;
pub(crate) mod template;

use crate::language::diagnostic::{Diagnostic, Severity, sort};
use crate::language::source::SourceFile;
use crate::language::tree;
pub(crate) use check::unmet;
pub(crate) use model::Pipeline;

/// The result of parsing a file.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The pipeline without the parts that could not be decoded.
    pub(crate) pipeline: Option<Pipeline>,
    /// All mistakes and warnings, in the order of the file.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Parsed {
    /// The pipeline if it has no mistakes; the diagnostics otherwise.
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
