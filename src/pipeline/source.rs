//! The text of a pipeline file and positions in it.

/// A half-open range of byte offsets in a [`SourceFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset just past the last byte.
    pub end: usize,
}

/// A value together with the place it was written at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value itself.
    pub value: T,
    /// Where it stands in the file.
    pub span: Span,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// A pipeline file as the user named it, with its text.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The path as the user would write it, for messages.
    pub name: String,
    /// The whole text, without a byte order mark.
    pub text: String,
}

impl SourceFile {
    /// Takes the text of a file, dropping a leading byte order mark.
    pub fn new(name: impl Into<String>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { name: name.into(), text: text.to_owned() }
    }

    /// The line and column of a byte offset, both counted from 1, the column in characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..floor_boundary(&self.text, offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// `span` cut down to its first line and to character boundaries: what a caret can underline.
    pub fn first_line(&self, span: Span) -> Span {
        let start = floor_boundary(&self.text, span.start);
        let end = floor_boundary(&self.text, span.end).max(start);
        let line_end = self.text[start..end].find(['\n', '\r']).map_or(end, |length| start + length);
        Span { start, end: line_end }
    }
}

/// The last character boundary at or before `offset`.
fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
