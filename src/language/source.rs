//! The text of a file, and positions in it.

use serde::{Serialize, Serializer};

/// A half-open range of byte offsets in a [`SourceFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    /// Offset of the first byte.
    pub(crate) start: usize,
    /// Offset just past the last byte.
    pub(crate) end: usize,
}

/// A value with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Only the value: moving it in the file changes nothing.
impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T> Spanned<T> {
    pub(crate) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// A file with its text.
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    /// The path as the user wrote it, for messages.
    pub(crate) name: String,
    /// The whole text, without a byte order mark.
    pub(crate) text: String,
    /// The offset of each line.
    lines: Vec<usize>,
}

impl SourceFile {
    /// Removes a leading byte order mark.
    pub(crate) fn new(name: impl Into<String>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text: text.to_owned(), lines }
    }

    /// The line and column of a byte offset, both counted from 1, the column in characters.
    pub(crate) fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = floor_boundary(&self.text, offset);
        let line = self.lines.partition_point(|start| *start <= offset);
        (line, self.text[self.lines[line - 1]..offset].chars().count() + 1)
    }

    /// The part of `span` in its first line, at character boundaries, for the caret of a message.
    pub(crate) fn first_line(&self, span: Span) -> Span {
        let start = floor_boundary(&self.text, span.start);
        let end = floor_boundary(&self.text, span.end).max(start);
        let line_end = self.text[start..end].find(['\n', '\r']).map_or(end, |length| start + length);
        Span { start, end: line_end }
    }

    /// The lines from the first to the last of these places.
    pub(crate) fn window(&self, places: impl Iterator<Item = Span>) -> Span {
        let (mut start, mut end) = (self.text.len(), 0);
        for span in places.map(|span| self.first_line(span)) {
            start = start.min(span.start);
            end = end.max(span.end);
        }
        let line = self.lines.partition_point(|line| *line <= start);
        let line_end = self.text[end..].find('\n').map_or(self.text.len(), |length| end + length);
        Span { start: self.lines[line - 1], end: line_end }
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
