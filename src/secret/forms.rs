//! The forms in which a secret turns up in logs: as it is, line by line, and encoded.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Shorter values would mask half of every log.
pub(super) const SHORTEST: usize = 4;
/// The length of the lines that the command `base64` writes.
const BASE64_LINE: usize = 76;
/// What percent-encoding leaves as it is (RFC 3986, unreserved characters).
const UNRESERVED: &[u8] = b"-._~";
/// What a shell's backslashes leave as it is.
const SHELL_PLAIN: &[u8] = b"-._/:=@%+,";

/// All forms of a value that are long enough to be masked.
pub(super) fn forms(value: &str) -> Vec<Vec<u8>> {
    let trimmed = value.trim();
    // A value with a final line end is encoded with it as often as without.
    let mut forms = Vec::new();
    for text in [trimmed, value] {
        forms.push(text.as_bytes().to_vec());
        forms.extend(encoded(text.as_bytes()));
        forms.extend(escaped(text));
    }
    let lines: Vec<&str> = trimmed.lines().map(str::trim).collect();
    if lines.len() > 1 {
        forms.push(lines.join("\r\n").into_bytes());
        forms.push(lines.join("\n").into_bytes());
        for line in &lines {
            forms.push(line.as_bytes().to_vec());
            forms.extend(escaped(line));
        }
    }
    forms.retain(|form| form.len() >= SHORTEST && !is_structure(form));
    forms.sort();
    forms.dedup();
    forms
}

/// base64 and hexadecimal forms.
fn encoded(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for offset in 0..3 {
        // Three bytes are four letters, so a value looks different depending on how many bytes stand before it. Letters that
        // its neighbours have a part in are left out.
        let bytes: Vec<u8> = std::iter::repeat_n(0, offset).chain(value.iter().copied()).collect();
        let skipped = [0, 2, 3][offset];
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let letters = engine.encode(&bytes).into_bytes();
            let whole = bytes.len() / 3 * 4;
            let end = if bytes.len().is_multiple_of(3) { letters.len() } else { whole + bytes.len() % 3 };
            if skipped < end {
                let core = &letters[skipped..end];
                forms.push(core.to_vec());
                if offset == 0 {
                    // The command `base64` breaks lines.
                    forms.extend(letters.chunks(BASE64_LINE).map(<[u8]>::to_vec));
                    forms.push(letters);
                }
            }
        }
    }
    forms.push(value.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect());
    forms.push(value.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect());
    forms
}

/// Percent-encoded, JSON-escaped and shell-quoted forms.
fn escaped(text: &str) -> Vec<Vec<u8>> {
    let percent = |upper: bool, space: &str| {
        let encode = |byte: u8| match byte {
            b' ' if !space.is_empty() => space.to_owned(),
            byte if byte.is_ascii_alphanumeric() || UNRESERVED.contains(&byte) => {
                char::from(byte).to_string()
            }
            byte if upper => format!("%{byte:02X}"),
            byte => format!("%{byte:02x}"),
        };
        text.bytes().map(encode).collect::<String>().into_bytes()
    };
    let backslashes = |special: &dyn Fn(char) -> bool| {
        let escape = |c: char| if special(c) { format!("\\{c}") } else { c.to_string() };
        text.chars().map(escape).collect::<String>().into_bytes()
    };
    let mut forms = vec![
        percent(true, ""),
        percent(false, ""),
        percent(true, "+"),
        text.replace('\'', "'\\''").into_bytes(),
        text.replace('\'', "'\"'\"'").into_bytes(),
        backslashes(&|c| "\"\\$`".contains(c)),
        backslashes(&|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !SHELL_PLAIN.contains(&(c as u8))),
    ];
    if let Ok(json) = serde_json::to_string(text) {
        let inner = &json[1..json.len() - 1];
        forms.push(inner.as_bytes().to_vec());
        forms.push(inner.replace('/', "\\/").into_bytes());
    }
    forms
}

/// Lines of a JSON secret that hold only structure would mask every other JSON text.
fn is_structure(form: &[u8]) -> bool {
    form.iter().all(|byte| b"{}[](),:\"' \t\r\n".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_known_at_every_alignment() {
        let secret = "correct horse battery";
        let forms = forms(secret);
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "x", "xy"] {
                for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let text = engine.encode(format!("{before}{secret}{after}"));
                    let found = forms.iter().any(|form| {
                        form.len() > 20 && text.as_bytes().windows(form.len()).any(|window| window == form)
                    });
                    assert!(found, "{text}");
                }
            }
        }
    }

    #[test]
    fn nothing_short_and_no_structure() {
        assert!(forms("abc").iter().all(|form| form.len() >= SHORTEST));
        assert!(!forms("{\n  \"k\": \"longvalue\"\n}").contains(&b"{".to_vec()));
    }
}
