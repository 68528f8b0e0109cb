//! Extracts parts of messages.

use crate::text::{one_line, shortened};

/// The maximum length of a quoted message.
const LONGEST: usize = 400;

/// A message on one line, without a final full stop, shortened.
pub(crate) fn excerpt(text: &str) -> String {
    let line = one_line(text);
    shortened(line.trim_end_matches('.'), LONGEST)
}

/// The text after `start`, up to one of `ends`.
pub(crate) fn between<'a>(text: &'a str, start: &str, ends: &[char]) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    let found = &rest[..rest.find(ends).unwrap_or(rest.len())];
    (!found.is_empty()).then_some(found)
}

pub(crate) fn group_name(group: &str) -> &str {
    between(group, "targetgroup/", &['/']).unwrap_or(group)
}
