//! What is wrong with a pipeline file, where, and the way out.

use super::source::{SourceFile, Span};
use crate::text::closest;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One mistake in a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, as a sentence fragment.
    pub message: String,
    /// The key or scalar at fault.
    pub span: Span,
    /// What was expected there; printed beside the caret.
    pub label: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place.
    pub fn new(message: impl Into<String>, span: Span) -> Self {
        Self { message: message.into(), span, label: None, help: None }
    }

    /// Adds the text beside the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds `did you mean …?` where one of the candidates is close to what was written.
    #[must_use]
    pub fn suggest<'a>(mut self, written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(candidate) = closest(written, candidates) {
            self.help = Some(format!("did you mean `{candidate}`?"));
        }
        self
    }

    /// The message with file, line, column, source line, caret and help, without a final newline.
    pub fn render(&self, source: &SourceFile, color: bool) -> String {
        let span = source.first_line(self.span);
        let snippet = Snippet::source(&source.text)
            .path(source.name.as_str())
            .annotation(AnnotationKind::Primary.span(span.start..span.end).label(self.label.as_deref()));
        let mut group = Level::ERROR.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_file_line_and_column() {
        let source = SourceFile::new("pipeline.yml", "version: 1\nnmae: web\n");
        let text = Diagnostic::new("unknown key `nmae`", Span { start: 11, end: 15 })
            .suggest("nmae", ["name"])
            .render(&source, false);
        assert!(text.contains("pipeline.yml:2:1"), "{text}");
        assert!(text.contains("did you mean `name`?"), "{text}");
    }
}
