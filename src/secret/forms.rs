//! The forms of a secret: the value and its lines, as text and encoded.

use super::mask::Unmasked;
use super::spelling::{Form, FormKind, SHORTEST};
use super::token::is_blank;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Lines are masked in encoded form only if the value has at most this many: single lines of a key are never encoded.
const ENCODED_LINES: usize = 8;

/// Returns all forms of a value that are masked.
pub(crate) fn forms(value: &str) -> Vec<Form> {
    let trimmed = value.trim();
    let whole = lines(trimmed).join("\n");
    if !is_maskable(&whole) {
        return Vec::new();
    }
    let mut forms = vec![Form::new(FormKind::Text, whole.as_bytes())];
    // An encoded value has the line endings that it was stored with, or those of a tool in between.
    for text in [value, trimmed, &whole, &whole.replace('\n', "\r\n"), &whole.replace('\n', "\r")] {
        encoded(text.as_bytes(), &mut forms);
    }
    if whole.contains('\n') {
        let count = lines(trimmed).len();
        for line in lines(trimmed).into_iter().map(str::trim).filter(|line| is_maskable(line)) {
            forms.push(Form::new(FormKind::Text, line.as_bytes()));
            if count <= ENCODED_LINES {
                encoded(line.as_bytes(), &mut forms);
            }
        }
    }
    let mut known = std::collections::HashSet::new();
    forms.retain(|form| known.insert(form.clone()));
    forms
}

/// Returns which part of a value has no form that is masked.
pub(crate) fn unmasked(value: &str) -> Unmasked {
    let lines = lines(value.trim());
    if !is_maskable(&lines.join("\n")) {
        return Unmasked::Everything;
    }
    let alone = |line: &str| line.is_empty() || is_maskable(line);
    let all = lines.into_iter().map(str::trim).all(alone);
    if all { Unmasked::Nothing } else { Unmasked::SomeLines }
}

/// Splits a string into lines, with any line ending.
fn lines(text: &str) -> Vec<&str> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .flat_map(|line| line.split('\r'))
        .collect()
}

/// Whether a string is long enough and not just punctuation. Lines of a JSON secret that consist of brackets and commas
/// would mask every other JSON text. White space counts as one character, because all white space is the same.
fn is_maskable(text: &str) -> bool {
    let words = text
        .split(is_blank)
        .filter(|word| !word.is_empty())
        .map(|word| word.chars().count() + 1)
        .sum::<usize>();
    words > SHORTEST && !text.chars().all(|c| "{}[](),:\"' \t\r\n".contains(c))
}

/// Adds the forms of a value in base64 and as numbers.
fn encoded(value: &[u8], forms: &mut Vec<Form>) {
    for offset in 0..3 {
        // Three bytes make four letters, so the encoding depends on the number of bytes before the value. Letters that
        // encode part of a neighbour are left out, except for the last ones: they belong to the value alone at the end
        // of a text.
        let bytes: Vec<u8> = std::iter::repeat_n(0, offset).chain(value.iter().copied()).collect();
        let skipped = [0, 2, 3][offset];
        let letters = STANDARD_NO_PAD.encode(&bytes).into_bytes();
        let whole = bytes.len() / 3 * 4;
        let end = if bytes.len().is_multiple_of(3) { letters.len() } else { whole + bytes.len() % 3 };
        if letters.len() >= skipped + SHORTEST {
            let form = Form::new(FormKind::Base64, &letters[skipped..]);
            forms.push(form.or_beginning((end - skipped).max(SHORTEST)));
        }
    }
    forms.extend([FormKind::Hex, FormKind::Decimal].map(|kind| Form::new(kind, value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_values_and_punctuation_have_no_forms() {
        for value in ["", "abc", "äöü", "  x  ", "{}[],", "\n\n", "a\r\nb", "a    b", "a\u{b}\u{c}\tb"] {
            assert_eq!((forms(value).len(), unmasked(value)), (0, Unmasked::Everything), "{value:?}");
        }
        assert_eq!(unmasked("{\n  \"k\": \"longvalue\"\n}"), Unmasked::SomeLines);
        assert_eq!(unmasked("long\r\n\r\nlines\n"), Unmasked::Nothing);
    }
}
