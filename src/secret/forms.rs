//! The forms of a secret: the value, its lines, and both encoded.

use super::mask::Unmasked;
use super::spelling::{Form, Kind, SHORTEST};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Of a value with more lines, such as a key, nobody encodes a single one.
const ENCODED_LINES: usize = 8;

/// All forms of a value that are masked.
pub(crate) fn forms(value: &str) -> Vec<Form> {
    let trimmed = value.trim();
    let whole = lines(trimmed).join("\n");
    if !is_maskable(&whole) {
        return Vec::new();
    }
    let mut forms = vec![Form::new(Kind::Text, whole.as_bytes())];
    // What is encoded has the line ends that it was stored with, or those of a tool on the way.
    for text in [value, trimmed, &whole, &whole.replace('\n', "\r\n"), &whole.replace('\n', "\r")] {
        encoded(text.as_bytes(), &mut forms);
    }
    if whole.contains('\n') {
        let count = lines(trimmed).len();
        for line in lines(trimmed).into_iter().map(str::trim).filter(|line| is_maskable(line)) {
            forms.push(Form::new(Kind::Text, line.as_bytes()));
            if count <= ENCODED_LINES {
                encoded(line.as_bytes(), &mut forms);
            }
        }
    }
    let mut known = std::collections::HashSet::new();
    forms.retain(|form| known.insert(form.clone()));
    forms
}

/// What of a value has no form that is masked.
pub(crate) fn unmasked(value: &str) -> Unmasked {
    let lines = lines(value.trim());
    if !is_maskable(&lines.join("\n")) {
        return Unmasked::Everything;
    }
    let alone = |line: &str| line.is_empty() || is_maskable(line);
    let all = lines.into_iter().map(str::trim).all(alone);
    if all { Unmasked::Nothing } else { Unmasked::SomeLines }
}

/// The lines, whatever they end with.
fn lines(text: &str) -> Vec<&str> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .flat_map(|line| line.split('\r'))
        .collect()
}

/// Whether a text is long enough, and more than structure: the lines of a JSON secret that hold only brackets and commas would
/// mask every other JSON text.
fn is_maskable(text: &str) -> bool {
    text.chars().count() >= SHORTEST && !text.chars().all(|c| "{}[](),:\"' \t\r\n".contains(c))
}

/// base64 and hexadecimal forms.
fn encoded(value: &[u8], forms: &mut Vec<Form>) {
    for offset in 0..3 {
        // Three bytes are four letters, so a value looks different depending on how many bytes stand before it. Letters that
        // its neighbours have a part in are left out, but for the last ones, which are the value's own at the end of a text.
        let bytes: Vec<u8> = std::iter::repeat_n(0, offset).chain(value.iter().copied()).collect();
        let skipped = [0, 2, 3][offset];
        let letters = STANDARD_NO_PAD.encode(&bytes).into_bytes();
        let whole = bytes.len() / 3 * 4;
        let end = if bytes.len().is_multiple_of(3) { letters.len() } else { whole + bytes.len() % 3 };
        for end in [end, letters.len()] {
            if end >= skipped + SHORTEST {
                forms.push(Form::new(Kind::Base64, &letters[skipped..end]));
            }
        }
    }
    forms.push(Form::new(Kind::Hex, value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_short_and_no_structure() {
        for value in ["", "abc", "äöü", "  x  ", "{}[],", "\n\n", "a\r\nb"] {
            assert_eq!((forms(value).len(), unmasked(value)), (0, Unmasked::Everything), "{value:?}");
        }
        assert_eq!(unmasked("{\n  \"k\": \"longvalue\"\n}"), Unmasked::SomeLines);
        assert_eq!(unmasked("long\r\n\r\nlines\n"), Unmasked::Nothing);
    }
}
