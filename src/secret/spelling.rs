//! The spellings of a secret in logs.
//!
//! Programs differ in the characters that they escape: percent-encoders, JSON libraries, shells and languages all have
//! their own rules. Comparing text with the output of every encoder is therefore not enough. Instead, the text is
//! decoded in all ways at once, and every spelling that decodes to the secret is the secret. A [`Form`] has few
//! possible beginnings, which are precomputed; the rest is decoded byte by byte.

use std::sync::Arc;

/// The shortest value that is masked. Shorter ones would mask half of every log.
pub(crate) const SHORTEST: usize = 4;
/// The maximum length of a precomputed beginning, in bytes.
pub(crate) const BEGINNING: usize = 8;
/// The shortest encoded value that is found across line breaks.
const FOLDED: usize = 12;
/// The longest run of bytes without meaning (quotes, separators, line breaks) in a form.
const MEANINGLESS: u8 = 4;
/// The maximum number of beginnings of a form, which no real value reaches.
const MAX_BEGINNINGS: usize = 4000;

/// The encoding of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FormKind {
    /// The text itself: plain, percent-encoded, quoted, with references as in XML, or escaped with backslashes as in
    /// JSON, shells and languages. It may have any line endings.
    Text,
    /// Letters of base64 in either alphabet, on one or more lines.
    Base64,
    /// The bytes of the text as pairs of hexadecimal digits, with or without separators.
    Hex,
}

/// A form in which a secret may occur.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    kind: FormKind,
    meaning: Arc<[u8]>,
}

/// The progress of decoding a form in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The next byte of the text.
    at: usize,
    /// The next byte of the meaning.
    done: usize,
    /// The number of meaningless bytes directly before.
    meaningless: u8,
}

impl Reading {
    /// Starts at this position of the text.
    pub(crate) fn new(at: usize) -> Self {
        Self { at, done: 0, meaningless: 0 }
    }

    /// Adjusts the position after the first bytes of the text were removed.
    pub(crate) fn shift(&mut self, by: usize) {
        self.at -= by;
    }
}

impl Form {
    pub(crate) fn new(kind: FormKind, meaning: &[u8]) -> Self {
        Self { kind, meaning: meaning.into() }
    }

    /// Decodes further. Calls `ended` with every position at which the form is complete, and keeps the readings that
    /// need more text.
    pub(crate) fn read(&self, text: &[u8], readings: &mut Vec<Reading>, mut ended: impl FnMut(usize)) {
        let mut open = std::mem::take(readings);
        // Different ways may reach the same state. One of them is enough.
        let mut seen: Vec<Reading> = Vec::new();
        while let Some(mut reading) = open.pop() {
            // Fast path: letters and digits have only one meaning.
            while let (Some(byte), Some(meant)) = (text.get(reading.at), self.meaning.get(reading.done))
                && byte == meant
                && byte.is_ascii_alphanumeric()
                && self.kind != FormKind::Hex
            {
                reading = Reading { at: reading.at + 1, done: reading.done + 1, meaningless: 0 };
            }
            if reading.done == self.meaning.len() {
                ended(reading.at);
            } else if reading.at == text.len() {
                readings.push(reading);
            } else if !seen.contains(&reading) {
                if !open.is_empty() {
                    seen.push(reading);
                }
                let mut next = |taken: usize, meant: usize| {
                    let meaningless = if meant == 0 { reading.meaningless + 1 } else { 0 };
                    if meaningless <= MEANINGLESS {
                        open.push(Reading {
                            at: reading.at + taken,
                            done: reading.done + meant,
                            meaningless,
                        });
                    }
                };
                let rest = &text[reading.at..];
                let more = match self.kind {
                    FormKind::Text => self.read_text(rest, reading.done, &mut next),
                    FormKind::Base64 => self.read_base64(rest, reading.done, &mut next),
                    FormKind::Hex => self.read_hex(rest, reading.done, &mut next),
                };
                if more {
                    readings.push(reading);
                }
            }
        }
    }

    /// Decodes one character in all ways. Calls `next` with the bytes that it uses of the text and of the meaning.
    /// Returns whether there may be another way that needs more text.
    fn read_text(&self, rest: &[u8], done: usize, next: &mut impl FnMut(usize, usize)) -> bool {
        let meant = self.meaning[done];
        let quoted = |byte: u8| !(byte.is_ascii_graphic() || byte == b' ') || b"'\"\\".contains(&byte);
        let before = done.checked_sub(1).map(|before| self.meaning[before]);
        if rest[0] == meant {
            next(1, 1);
        }
        if rest[0] == b'+' && meant == b' ' {
            next(1, 1);
        }
        // Shell quotes that end or begin inside the text.
        if done > 0 && b"'\"$".contains(&rest[0]) && (quoted(meant) || before.is_some_and(quoted)) {
            next(1, 0);
        }
        if meant == b'\n' && rest[0] == b'\r' {
            next(1, 1);
            next(1, 0);
        }
        unescape(rest, |taken, unit| {
            let mut bytes = [0; 4];
            let bytes: &[u8] = match unit {
                Unit::Byte(byte) => {
                    bytes[0] = byte;
                    &bytes[..1]
                }
                Unit::Char(c) => c.encode_utf8(&mut bytes).as_bytes(),
            };
            if self.meaning[done..].starts_with(bytes) {
                next(taken, bytes.len());
            }
            if meant == b'\n' && bytes == b"\r" {
                next(taken, 1);
                next(taken, 0);
            }
        })
    }

    fn read_base64(&self, rest: &[u8], done: usize, next: &mut impl FnMut(usize, usize)) -> bool {
        let meant = self.meaning[done];
        let is_meant =
            |byte: u8| byte == meant || (meant == b'+' && byte == b'-') || (meant == b'/' && byte == b'_');
        let folds = done > 0 && self.meaning.len() >= FOLDED;
        let is_end = |byte: u8| folds && b"\r\n".contains(&byte);
        if is_meant(rest[0]) {
            next(1, 1);
        }
        if is_end(rest[0]) {
            next(1, 0);
        }
        unescape(rest, |taken, unit| match unit {
            Unit::Byte(byte) if is_meant(byte) => next(taken, 1),
            Unit::Byte(byte) if is_end(byte) => next(taken, 0),
            _ => {}
        })
    }

    fn read_hex(&self, rest: &[u8], done: usize, next: &mut impl FnMut(usize, usize)) -> bool {
        let pair = [rest[0], *rest.get(1).unwrap_or(&b'0')];
        if rest.len() > 1 && hex(&pair) == Some(u32::from(self.meaning[done])) {
            next(2, 1);
        }
        if done > 0 && b":- ,\r\n".contains(&rest[0]) {
            next(1, 0);
        }
        // `\x61`, `0x61`
        if done > 0 && (rest.starts_with(b"\\x") || rest.starts_with(b"0x")) {
            next(2, 0);
        }
        rest.len() < 2
    }

    /// Returns the possible beginnings of the form, of four to eight bytes.
    pub(crate) fn beginnings(&self) -> Vec<Vec<u8>> {
        let mut ways = Vec::new();
        let mut open = vec![(Vec::new(), 0, false)];
        while let Some((begun, done, folded)) = open.pop() {
            if begun.len() >= SHORTEST || done == self.meaning.len() {
                ways.push(begun[..begun.len().min(BEGINNING)].to_vec());
                continue;
            }
            for (spelling, meant, folds) in self.spellings(done) {
                // A line has more than four letters, so there is at most one line break.
                if !(folds && folded) && open.len() + ways.len() < MAX_BEGINNINGS {
                    open.push(([begun.as_slice(), &spelling].concat(), done + meant, folded || folds));
                }
            }
        }
        ways.sort();
        ways.dedup();
        ways
    }

    /// Returns the spellings of the next character: their bytes, the number of bytes that they mean, and whether a line
    /// break comes first.
    fn spellings(&self, done: usize) -> Vec<(Vec<u8>, usize, bool)> {
        let rest = &self.meaning[done..];
        match self.kind {
            FormKind::Text => spellings_of_text(rest, done > 0),
            FormKind::Base64 => {
                let letters: &[&str] = match rest[0] {
                    b'+' => &["+", "-", "%2B", "%2b", "&#43;", "&#x2B;", "&#x2b;"],
                    b'/' => &["/", "_", "%2F", "%2f", "\\/", "&#47;", "&#x2F;", "&#x2f;"],
                    _ => &[],
                };
                let mut letters: Vec<Vec<u8>> =
                    letters.iter().map(|letter| letter.as_bytes().to_vec()).collect();
                if letters.is_empty() {
                    letters.push(vec![rest[0]]);
                }
                let folds = done > 0 && self.meaning.len() >= FOLDED;
                let ends: &[&str] = if folds {
                    &["", "\n", "\r\n", "\\n", "\\r\\n", "%0A", "%0a", "&#10;", "&#xA;", "&#xa;"]
                } else {
                    &[""]
                };
                let spell = |end: &&str| {
                    letters
                        .iter()
                        .map(|letter| ([end.as_bytes(), letter].concat(), 1, !end.is_empty()))
                        .collect::<Vec<_>>()
                };
                ends.iter().flat_map(spell).collect()
            }
            FormKind::Hex => {
                let between: &[&str] =
                    if done > 0 { &["", ":", "-", " ", ", ", "\\x", " 0x", ", 0x", "\n"] } else { &[""] };
                let digits = [format!("{:02x}", rest[0]), format!("{:02X}", rest[0])];
                let spell = |between: &&str| {
                    digits
                        .iter()
                        .map(|digits| (format!("{between}{digits}").into_bytes(), 1, false))
                        .collect::<Vec<_>>()
                };
                between.iter().flat_map(spell).collect()
            }
        }
    }
}

/// Returns the spellings of the first character of a string, which may be inside quotes.
fn spellings_of_text(rest: &[u8], inside: bool) -> Vec<(Vec<u8>, usize, bool)> {
    let length = match rest[0] {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    };
    let bytes = &rest[..length.min(rest.len())];
    let mut ways: Vec<Vec<u8>> = vec![bytes.to_vec()];
    if !bytes[0].is_ascii_alphanumeric() {
        let each = |spell: &dyn Fn(&u8) -> String| bytes.iter().map(spell).collect::<String>().into_bytes();
        let mut words = vec![
            each(&|byte| format!("%{byte:02X}")),
            each(&|byte| format!("%{byte:02x}")),
            each(&|byte| format!("%25{byte:02X}")),
            each(&|byte| format!("%25{byte:02x}")),
            each(&|byte| format!("\\{byte:03o}")),
            each(&|byte| format!("\\x{byte:02x}")),
            each(&|byte| format!("\\x{byte:02X}")),
        ];
        let text = String::from_utf8_lossy(bytes);
        for backslashes in ["\\", "\\\\"] {
            let units = |spell: &dyn Fn(u16) -> String| text.encode_utf16().map(spell).collect::<String>();
            words.push(units(&|unit| format!("{backslashes}u{unit:04x}")).into_bytes());
            words.push(units(&|unit| format!("{backslashes}u{unit:04X}")).into_bytes());
            if let Some((_, letter)) = ESCAPES.iter().find(|(byte, _)| *byte == bytes[0]) {
                words.push(format!("{backslashes}{letter}").into_bytes());
            }
        }
        for number in text.chars().map(u32::from) {
            words.extend(
                [
                    format!("&#{number};"),
                    format!("&#0{number};"),
                    format!("&#x{number:x};"),
                    format!("&#x{number:X};"),
                ]
                .map(String::into_bytes),
            );
        }
        if let Some((_, name)) = ENTITIES.iter().find(|(byte, _)| *byte == bytes[0]) {
            words.push(format!("&{name};").into_bytes());
        }
        if bytes[0].is_ascii_graphic() || bytes[0] == b' ' {
            words.extend(["\\", "\\\\", "\\\\\\"].map(|run| [run.as_bytes(), bytes].concat()));
        }
        match bytes[0] {
            b' ' => words.push(b"+".to_vec()),
            b'\n' => {
                words.extend(
                    ["\r\n", "\r", "%0D%0A", "%0d%0a", "\\r\\n", "\\\\r\\\\n"]
                        .map(|end| end.as_bytes().to_vec()),
                );
            }
            _ => {}
        }
        ways.extend(words);
        if inside && (!bytes[0].is_ascii_graphic() || b"'\"\\".contains(&bytes[0])) && bytes != b" " {
            let quotes = ["'", "\"", "'\"", "\"'", "''", "'$'"];
            let quoted: Vec<Vec<u8>> = quotes
                .iter()
                .flat_map(|quote| ways.iter().map(|way| [quote.as_bytes(), way].concat()))
                .collect();
            ways.extend(quoted);
        }
    }
    ways.into_iter().map(|way| (way, bytes.len(), false)).collect()
}

/// Control characters and their letters after a backslash.
const ESCAPES: [(u8, char); 8] =
    [(b'\n', 'n'), (b'\r', 'r'), (b'\t', 't'), (8, 'b'), (12, 'f'), (7, 'a'), (11, 'v'), (27, 'E')];

/// The entities that XML predefines.
const ENTITIES: [(u8, &str); 5] =
    [(b'&', "amp"), (b'<', "lt"), (b'>', "gt"), (b'"', "quot"), (b'\'', "apos")];
/// The longest reference between `&` and `;`, in bytes. Some encoders add zeros.
const LONGEST_REFERENCE: usize = 10;

/// The meaning of an escape sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Byte(u8),
    Char(char),
}

/// Decodes the escape sequence at the start of a string in all ways. Calls `emit` with its length and meaning. Returns
/// whether there may be another one that needs more text.
fn unescape(text: &[u8], mut emit: impl FnMut(usize, Unit)) -> bool {
    let byte = |digits: &[u8], radix| number(digits, radix).and_then(|number| u8::try_from(number).ok());
    match text[0] {
        b'%' => {
            let Some(digits) = text.get(1..3) else { return true };
            let Some(first) = byte(digits, 16) else { return false };
            emit(3, Unit::Byte(first));
            // Encoded twice.
            if first == b'%' {
                let Some(digits) = text.get(3..5) else { return true };
                if let Some(second) = byte(digits, 16) {
                    emit(5, Unit::Byte(second));
                }
            }
            false
        }
        b'\\' => {
            // JSON inside JSON doubles backslashes.
            let run = text.iter().take(4).take_while(|byte| **byte == b'\\').count();
            for pairs in [2, 4] {
                if run >= pairs {
                    emit(pairs, Unit::Byte(b'\\'));
                }
            }
            let Some(escaped) = text.get(run) else { return true };
            let after = run + 1;
            match escaped {
                b'u' => return unicode(text, run, emit),
                b'x' => {
                    let Some(digits) = text.get(after..after + 2) else { return true };
                    if let Some(byte) = byte(digits, 16) {
                        emit(after + 2, Unit::Byte(byte));
                    }
                }
                b'0'..=b'7' => {
                    let Some(digits) = text.get(run..run + 3) else { return true };
                    if let Some(byte) = byte(digits, 8) {
                        emit(run + 3, Unit::Byte(byte));
                    }
                }
                b'e' => emit(after, Unit::Byte(27)),
                letter if letter.is_ascii_alphabetic() => {
                    if let Some((byte, _)) = ESCAPES.iter().find(|(_, known)| *known == char::from(*letter)) {
                        emit(after, Unit::Byte(*byte));
                    }
                }
                other if other.is_ascii() && !other.is_ascii_digit() && *other != b'\\' => {
                    emit(after, Unit::Byte(*other));
                }
                _ => {}
            }
            false
        }
        b'&' => reference(text, emit),
        _ => false,
    }
}

/// Decodes a reference of XML or HTML: `&lt;`, `&#60;`, `&#x3C;`.
fn reference(text: &[u8], mut emit: impl FnMut(usize, Unit)) -> bool {
    let rest = &text[1..text.len().min(LONGEST_REFERENCE + 2)];
    let Some(length) = rest.iter().position(|byte| *byte == b';') else {
        return rest.len() <= LONGEST_REFERENCE;
    };
    let name = &rest[..length];
    let code = match name {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16),
        [b'#', digits @ ..] => number(digits, 10),
        _ => ENTITIES.iter().find(|(_, known)| known.as_bytes() == name).map(|(byte, _)| u32::from(*byte)),
    };
    if let Some(c) = code.and_then(char::from_u32) {
        let unit = u8::try_from(c).ok().filter(u8::is_ascii).map_or(Unit::Char(c), Unit::Byte);
        emit(length + 2, unit);
    }
    false
}

/// Decodes `\u00e9` and surrogate pairs, after `run` backslashes.
fn unicode(text: &[u8], run: usize, mut emit: impl FnMut(usize, Unit)) -> bool {
    let unit = |at: usize| text.get(at..at + 4).map(hex);
    let first = run + 1;
    let Some(high) = unit(first) else { return true };
    let Some(high) = high else { return false };
    if let Some(c) = char::from_u32(high) {
        emit(first + 4, Unit::Char(c));
        return false;
    }
    let second = first + 4 + run + 1;
    let Some(low) = unit(second) else { return true };
    let units = [high, low.unwrap_or_default()].map(|unit| u16::try_from(unit).unwrap_or_default());
    if let Some(Ok(c)) = char::decode_utf16(units).next() {
        emit(second + 4, Unit::Char(c));
    }
    false
}

fn hex(digits: &[u8]) -> Option<u32> {
    number(digits, 16)
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        number.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a whole text is a form and has one of its beginnings.
    fn reads(form: &Form, text: &str) -> bool {
        let mut ends = Vec::new();
        form.read(text.as_bytes(), &mut vec![Reading::new(0)], |end| ends.push(end));
        let begins = form.beginnings().iter().any(|beginning| text.as_bytes().starts_with(beginning));
        begins && ends.contains(&text.len())
    }

    #[test]
    fn every_spelling_of_a_text_is_recognized() {
        let form = Form::new(FormKind::Text, "é'a+b/c=\"\\ \n\u{1}🔑".as_bytes());
        for text in [
            "é'a+b/c=\"\\ \n\u{1}🔑",
            "é'a+b/c=\"\\ \r\n\u{1}🔑",
            "%C3%A9%27a%2Bb/c=%22%5c+%0D%0A%01%f0%9F%94%91",
            "%25C3%25A9'a+b%252Fc=\"%255C%2520%250A%2501🔑",
            r#"\u00e9'a\u002Bb\/c\u003d\"\\ \n\u0001\ud83d\udd11"#,
            r#"\\u00E9'a+b\\/c=\\\"\\\\ \\r\\n\\u0001\\uD83D\\uDD11"#,
            r#"é'\''a+b/c="\ 
🔑"#
            .replace('\n', "\n\u{1}")
            .as_str(),
            r#"\303\251\'a+b/c="\\ \n\001\360\237\224\221"#,
            r#"\xc3\xa9\'a+b/c="\\ \n\x01\xf0\x9f\x94\x91"#,
            r#"é'"'"'a+b/c='"'\\ \n'$'\001''🔑"#,
            "é&apos;a+b/c=&quot;\\ \n\u{1}🔑",
            "&#233;&#039;a&#x2B;b&#x2f;c&#61;&#34;&#92; &#10;&#1;&#x1F511;",
            "&#xE9;&#39;a+b/c=&#x22;\\&#32;&#13;&#10;&#x01;&#0128273;",
        ] {
            assert!(reads(&form, text), "{text}");
        }
        for text in ["é'a+b/c=\"\\ \n\u{1}", "é'a+b/c=\"\\ \n\u{1}x", "e'a+b/c", "é&apos'a+b/c", "é&#;'a+b/c"]
        {
            assert!(!reads(&form, text), "{text}");
        }
    }

    #[test]
    fn encoded_forms_are_recognized_across_lines() {
        let form = Form::new(FormKind::Base64, b"ab+d/fghijklmn");
        for text in [
            "ab+d/fghijklmn",
            "ab-d_fghijklmn",
            "a\nb+d/fgh\r\nijklmn",
            "ab%2Bd%2ffghij\\nklmn",
            "ab+d\\/fghijklmn",
            "ab&#43;d&#x2F;fgh&#10;ijklmn",
        ] {
            assert!(reads(&form, text), "{text}");
        }
        let form = Form::new(FormKind::Hex, b"secret");
        for text in [
            "736563726574",
            "73:65:63:72:65:74",
            "73 65 63 72 65 74",
            "73\\x65\\x63\\x72\\x65\\x74",
            "7365637265\n74",
            "73, 0x65, 0x63, 0x72, 0x65, 0x74",
        ] {
            assert!(reads(&form, text), "{text}");
        }
        assert!(!reads(&form, "73656372657"));
    }
}
