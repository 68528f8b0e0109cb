//! A slow and simple masker: the reference for tests and fuzzing.

use super::forms::forms;
use super::spelling::{Form, Reading};

/// Masks a string by searching for every form of every secret at every position.
pub(crate) fn mask_slowly(secrets: &[String], text: &[u8]) -> Vec<u8> {
    let mut ranges: Vec<_> =
        secrets.iter().flat_map(|secret| forms(secret)).flat_map(|form| find(&form, text)).collect();
    ranges.sort_unstable();
    let mut out = Vec::new();
    let mut until = 0;
    for (start, end) in ranges {
        if start >= until {
            out.extend_from_slice(&text[until..start]);
            out.extend_from_slice(b"***");
        }
        until = until.max(end);
    }
    out.extend_from_slice(&text[until..]);
    out
}

/// Returns the start and end of every occurrence of a form.
fn find(form: &Form, text: &[u8]) -> Vec<(usize, usize)> {
    let beginnings = form.beginnings();
    let mut found = Vec::new();
    for at in 0..text.len() {
        if beginnings.iter().any(|beginning| text[at..].starts_with(beginning)) {
            let mut end = None;
            form.read(text, &mut vec![Reading::new(at)], |at| end = end.max(Some(at)));
            found.extend(end.map(|end| (at, end)));
        }
    }
    found
}
