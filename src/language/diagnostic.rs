//! Diagnostics: mistakes in a file, with place and help.

use super::source::{SourceFile, Span};
use crate::text::{closest, shortened};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;
use serde_json::{Value, json};

/// How many mistakes are reported at most. The search for more stops there.
pub(crate) const MAX_PROBLEMS: usize = 500;
/// The size limit of the source lines in a message, in bytes.
const MAX_SHOWN: usize = 16 * 1024;

/// A mistake in a file, or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    pub(crate) severity: Severity,
    /// A sentence fragment.
    pub(crate) message: String,
    /// The key or scalar at fault.
    pub(crate) span: Span,
    /// The text next to the caret.
    pub(crate) label: Option<String>,
    /// Related places, each with a label.
    pub(crate) related: Vec<(Span, String)>,
    /// How to fix it.
    pub(crate) help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used.
    Warning,
}

impl Diagnostic {
    pub(crate) fn new(message: impl Into<String>, span: Span) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            label: None,
            related: Vec::new(),
            help: None,
        }
    }

    /// Makes it a warning.
    #[must_use]
    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Adds a related place.
    #[must_use]
    pub(crate) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// Sets the text next to the caret.
    #[must_use]
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets the help.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the help to `did you mean …?` if a candidate is close to `written`.
    #[must_use]
    pub(crate) fn suggest<'a>(
        mut self,
        written: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        if let Some(candidate) = closest(written, candidates) {
            self.help = Some(format!("did you mean `{candidate}`?"));
        }
        self
    }

    /// The message with file, line, column, source lines, carets and help, without a final newline.
    pub(crate) fn render(&self, source: &SourceFile, color: bool) -> String {
        let places = || std::iter::once(self.span).chain(self.related.iter().map(|(span, _)| *span));
        let window = source.window(places());
        if window.end - window.start > MAX_SHOWN {
            return self.render_without_lines(source);
        }
        let within = |span: Span| {
            let span = source.first_line(span);
            span.start - window.start..span.end - window.start
        };
        // The renderer shows carriage returns as symbols.
        let text = source.text[window.start..window.end].replace('\r', " ");
        let mut snippet = Snippet::source(text)
            .path(source.name.as_str())
            .line_start(source.line_column(window.start).0)
            .annotation(AnnotationKind::Primary.span(within(self.span)).label(self.label.as_deref()));
        for (span, label) in &self.related {
            snippet = snippet.annotation(AnnotationKind::Context.span(within(*span)).label(label.as_str()));
        }
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// For very long lines, as in a generated file: shows the text at the place instead of its lines.
    fn render_without_lines(&self, source: &SourceFile) -> String {
        let span = source.first_line(self.span);
        let (line, column) = source.line_column(span.start);
        let level = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let at: String = source.text[span.start..].chars().take_while(|c| !c.is_control()).take(60).collect();
        let help = self.help.as_ref().map(|help| format!("\n  = help: {help}")).unwrap_or_default();
        format!(
            "{level}: {}\n --> {}:{line}:{column}\n  | …{at}…{help}",
            shortened(&self.message, 400),
            source.name
        )
    }

    /// The diagnostic as data, with lines and columns counted from 1 and columns in characters.
    pub(crate) fn to_json(&self, source: &SourceFile) -> Value {
        let place = |span: Span| {
            let span = source.first_line(span);
            let ((line, column), (end_line, end_column)) =
                (source.line_column(span.start), source.line_column(span.end));
            json!({ "line": line, "column": column, "end-line": end_line, "end-column": end_column })
        };
        let mut value = place(self.span);
        value["severity"] = json!(self.severity);
        value["message"] = json!(self.message);
        if let Some(label) = &self.label {
            value["label"] = json!(label);
        }
        if let Some(help) = &self.help {
            value["help"] = json!(help);
        }
        if !self.related.is_empty() {
            let related = self.related.iter().map(|(span, label)| {
                let mut value = place(*span);
                value["label"] = json!(label);
                value
            });
            value["related"] = related.collect();
        }
        value
    }
}

/// Sorts diagnostics by place and removes duplicates.
pub(crate) fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
    diagnostics.dedup();
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
