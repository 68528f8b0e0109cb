//! The spellings of a secret in logs.
//!
//! Programs differ in the characters that they escape: percent-encoders, JSON libraries, shells and languages all have
//! their own rules. Comparing text with the output of every encoder is therefore not enough. Instead, the text is
//! decoded in all ways at once, and every spelling that decodes to the secret is the secret. A [`Form`] has few
//! possible beginnings, which are precomputed; the rest is decoded token by token ([`super::reading`]).

use super::token::{ESCAPES, Filler, REFERENCES, is_plain, normal};

/// The shortest value that is masked. Shorter ones would mask half of every log.
pub(crate) const SHORTEST: usize = 4;
/// The maximum length of a precomputed beginning, in bytes.
pub(crate) const BEGINNING: usize = 8;
/// The shortest encoded value that is found across line breaks.
const FOLDED: usize = 12;
/// The maximum number of beginnings of a form, which no real value reaches.
const MAX_BEGINNINGS: usize = 4000;

/// The encoding of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FormKind {
    /// The text itself: plain, percent-encoded, quoted, escaped with backslashes as in JSON, shells and languages, or
    /// with the character references of XML. All white space is the same.
    Text,
    /// Letters of base64 in either alphabet, on one or more lines.
    Base64,
    /// The bytes of the text as pairs of hexadecimal digits, with or without separators.
    Hex,
    /// The bytes of the text as a list of decimal numbers.
    Decimal,
}

/// A form in which a secret may occur.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Form {
    kind: FormKind,
    meaning: Box<[u8]>,
    /// How many of the first bytes of the meaning are enough to be the form.
    enough: usize,
    /// By number of bytes: the longest shorter beginning of the meaning that these bytes end with and that has another
    /// next byte, plus one; zero if there is none. It is the table `next` of Knuth, Morris and Pratt 1977, "Fast pattern
    /// matching in strings".
    falls: Box<[u32]>,
    /// The text has characters that shells quote.
    quoted: bool,
}

impl Form {
    /// The meaning is not empty.
    pub(crate) fn new(kind: FormKind, meaning: &[u8]) -> Self {
        let is_quoted = |byte: &u8| !(byte.is_ascii_graphic() || *byte == b' ') || b"'\"\\".contains(byte);
        let quoted = kind == FormKind::Text && meaning.iter().any(is_quoted);
        let mut meaning: Vec<u8> = meaning.to_vec();
        if kind == FormKind::Text {
            for byte in &mut meaning {
                *byte = normal(*byte);
            }
            meaning.dedup_by(|next, byte| *next == b' ' && *byte == b' ');
        }
        Self { kind, falls: falls(&meaning).into(), enough: meaning.len(), meaning: meaning.into(), quoted }
    }

    /// Makes the first bytes enough to be the form, too.
    pub(crate) fn or_beginning(mut self, enough: usize) -> Self {
        self.enough = enough;
        self
    }

    pub(super) fn kind(&self) -> FormKind {
        self.kind
    }

    pub(super) fn meaning(&self) -> &[u8] {
        &self.meaning
    }

    pub(super) fn enough(&self) -> usize {
        self.enough
    }

    /// The next bytes of the meaning, up to the next point that is the form or the end.
    pub(super) fn next_part(&self, done: usize) -> &[u8] {
        let end = if done < self.enough { self.enough } else { self.meaning.len() };
        &self.meaning[done..end]
    }

    /// Whether the byte, where it is the next byte of the meaning, can only be meant as itself. Plain bytes are, and so is
    /// a blank: white space that continues white space is never the next byte.
    pub(super) fn is_certain(&self, byte: u8) -> bool {
        is_plain(self.kind, byte) || (self.kind == FormKind::Text && byte == b' ')
    }

    /// Returns the length of the longest beginning that the first `done` bytes end with, or are, and that has `next` as
    /// its next byte.
    pub(super) fn beginning_before(&self, mut done: usize, next: u8) -> Option<usize> {
        while self.meaning[done] != next {
            done = self.fall(done)?;
        }
        Some(done)
    }

    fn fall(&self, done: usize) -> Option<usize> {
        (self.falls[done] as usize).checked_sub(1)
    }

    /// Returns the length of the longest shorter beginning that the whole meaning ends with.
    pub(super) fn beginning_at_end(&self) -> usize {
        self.fall(self.meaning.len()).unwrap_or_default()
    }

    /// Whether the byte is white space that continues the white space before it.
    pub(super) fn is_blank_after(&self, done: usize, byte: u8) -> bool {
        self.kind == FormKind::Text && byte == b' ' && done > 0 && self.meaning[done - 1] == b' '
    }

    /// Whether a filler may stand between the bytes.
    pub(super) fn admits(&self, filler: Filler) -> bool {
        match filler {
            Filler::Quote => self.quoted,
            Filler::Control | Filler::Separator => true,
            Filler::Blank => self.kind != FormKind::Base64 || self.folds(),
        }
    }

    fn folds(&self) -> bool {
        self.meaning.len() >= FOLDED
    }

    /// Returns the possible beginnings of the form, of four to eight bytes.
    pub(crate) fn beginnings(&self) -> Vec<Vec<u8>> {
        let mut ways = Vec::new();
        let mut open = vec![(Vec::new(), 0, false)];
        while let Some((begun, done, folded)) = open.pop() {
            if self.kind == FormKind::Text {
                ways.extend(before_control(&begun));
            }
            if begun.len() >= self.shortest_beginning() || done == self.meaning.len() {
                ways.push(begun[..begun.len().min(BEGINNING)].to_vec());
                continue;
            }
            // The plain spelling is the first one, and is never left out.
            for (index, (spelling, meant, folds)) in self.spellings(done).into_iter().enumerate().rev() {
                let has_room = index == 0 || open.len() + ways.len() < MAX_BEGINNINGS;
                // A line has more than four letters, so there is at most one line break.
                if has_room && !(folds && folded) {
                    open.push(([begun.as_slice(), &spelling].concat(), done + meant, folded || folds));
                }
            }
        }
        ways.retain(|way| way.len() >= SHORTEST);
        ways.sort();
        ways.dedup();
        ways
    }

    /// A list of two or three decimal numbers is no more than a date or a version.
    fn shortest_beginning(&self) -> usize {
        if self.kind == FormKind::Decimal { BEGINNING } else { SHORTEST }
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
                let folds = done > 0 && self.folds();
                let ends: &[&str] = if folds {
                    &[
                        "", "\n", "\r\n", "\\n", "\\r\\n", "%0A", "%0a", "&#10;", "&#xA;", "&#xa;", " ",
                        "\n ", "\n  ", "\n\t",
                    ]
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
            FormKind::Decimal => {
                let between: &[&str] = if done > 0 {
                    &[
                        ",", ", ", " ", "  ", "   ", "\n", "\n ", "\n  ", "\n   ", ",\n", ",\n ", ",\n  ",
                        ",\n   ", ",\n    ",
                    ]
                } else {
                    &[""]
                };
                between
                    .iter()
                    .map(|between| (format!("{between}{}", rest[0]).into_bytes(), 1, false))
                    .collect()
            }
        }
    }
}

/// Returns the beginnings in which a control sequence of the terminal comes next.
fn before_control(begun: &[u8]) -> Vec<Vec<u8>> {
    // There are few first bytes of a parameter, or of a sequence without parameters.
    let rests: &[&str] = match begun.len() {
        1 => &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ";", "?", "m", "K"],
        2 | 3 => &[""],
        _ => &[],
    };
    rests.iter().map(|rest| [begun, b"\x1b[", rest.as_bytes()].concat()).collect()
}

/// Returns the spellings of the first character of a text, which may be inside quotes.
fn spellings_of_text(rest: &[u8], inside: bool) -> Vec<(Vec<u8>, usize, bool)> {
    let length = match rest[0] {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    };
    let bytes = &rest[..length.min(rest.len())];
    let mut ways: Vec<Vec<u8>> = vec![bytes.to_vec()];
    if bytes == b" " {
        ways.extend(spellings_of_blank());
    } else if !bytes[0].is_ascii_alphanumeric() {
        ways.extend(escapes_of_char(bytes).into_iter().map(String::into_bytes));
        if bytes[0].is_ascii_graphic() {
            ways.extend(["\\", "\\\\", "\\\\\\"].map(|run| [run.as_bytes(), bytes].concat()));
        }
        if inside && (!bytes[0].is_ascii_graphic() || b"'\"\\".contains(&bytes[0])) {
            quote(&mut ways);
        }
    }
    ways.into_iter().map(|way| (way, bytes.len(), false)).collect()
}

/// Adds the spellings with a quote of the shell before them.
fn quote(ways: &mut Vec<Vec<u8>>) {
    let quotes = ["'", "\"", "'\"", "\"'", "''", "'$'"];
    let in_shells = |way: &&Vec<u8>| way.len() <= 4 && !b"%&".contains(&way[0]);
    let quoted = |quote: &str| {
        ways.iter().filter(in_shells).map(|way| [quote.as_bytes(), way].concat()).collect::<Vec<_>>()
    };
    let quoted: Vec<_> = quotes.into_iter().flat_map(quoted).collect();
    ways.extend(quoted);
}

/// Returns the escape sequences of a character.
fn escapes_of_char(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let each = |spell: &dyn Fn(&u8) -> String| bytes.iter().map(spell).collect::<String>();
    let mut words = vec![
        each(&|byte| format!("%{byte:02X}")),
        each(&|byte| format!("%{byte:02x}")),
        each(&|byte| format!("%25{byte:02X}")),
        each(&|byte| format!("%25{byte:02x}")),
    ];
    let c = text.chars().next().unwrap_or_default();
    let code = u32::from(c);
    words.extend([
        format!("&#{code};"),
        format!("&#0{code};"),
        format!("&#x{code:x};"),
        format!("&#x{code:X};"),
        format!("%u{code:04x}"),
        format!("%u{code:04X}"),
    ]);
    words.extend(REFERENCES.iter().filter(|(known, _)| *known == c).map(|(_, name)| format!("&{name};")));
    if let Ok(byte @ 0x80..) = u8::try_from(c) {
        words.extend([format!("%{byte:02X}"), format!("%{byte:02x}")]);
    }
    for run in ["\\", "\\\\"] {
        let units = |spell: &dyn Fn(u16) -> String| text.encode_utf16().map(spell).collect::<String>();
        words.extend([
            each(&|byte| format!("{run}{byte:03o}")),
            each(&|byte| format!("{run}x{byte:02x}")),
            each(&|byte| format!("{run}x{byte:02X}")),
            units(&|unit| format!("{run}u{unit:04x}")),
            units(&|unit| format!("{run}u{unit:04X}")),
            format!("{run}U{code:08x}"),
            format!("{run}U{code:08X}"),
            format!("{run}u{{{code:x}}}"),
            format!("{run}u{{{code:X}}}"),
            format!("{run}u{{{code:04x}}}"),
            format!("{run}u{{{code:04X}}}"),
            format!("{run}u{{{code:06x}}}"),
            format!("{run}u{{{code:06X}}}"),
        ]);
        if let Ok(byte @ 0x80..) = u8::try_from(c) {
            words.extend([
                format!("{run}x{byte:02x}"),
                format!("{run}x{byte:02X}"),
                format!("{run}{byte:03o}"),
            ]);
        }
        words.extend(
            ESCAPES.iter().filter(|(byte, _)| *byte == bytes[0]).map(|(_, letter)| format!("{run}{letter}")),
        );
    }
    words
}

/// Returns the spellings of white space besides a single blank, as far as a beginning has room for them.
fn spellings_of_blank() -> Vec<Vec<u8>> {
    let runs = [" ", "\n", "\r", "\r\n", "\t", "\\n", "\\r\\n", "\\\\n", "\\\\r\\\\n"];
    let indented = |run: &str| ["", " ", "  ", "\t", "\n"].map(|more| format!("{run}{more}"));
    let mut ways: Vec<String> = runs.into_iter().flat_map(indented).collect();
    ways.extend(["\x0b", "\x0c", "+"].map(str::to_owned));
    for blank in [" ", "\n", "\t", "\r", "\r\n"] {
        let each = |spell: &dyn Fn(&u8) -> String| blank.bytes().map(|byte| spell(&byte)).collect::<String>();
        ways.extend([
            each(&|byte| format!("%{byte:02X}")),
            each(&|byte| format!("%{byte:02x}")),
            each(&|byte| format!("%25{byte:02X}")),
            each(&|byte| format!("%25{byte:02x}")),
            each(&|byte| format!("&#{byte};")),
            each(&|byte| format!("&#x{byte:x};")),
            each(&|byte| format!("&#x{byte:X};")),
        ]);
        for run in ["\\", "\\\\"] {
            ways.extend([
                each(&|byte| {
                    let letter = ESCAPES.iter().find(|(known, _)| known == byte);
                    format!("{run}{}", letter.map_or(char::from(*byte), |(_, letter)| *letter))
                }),
                each(&|byte| format!("{run}u{byte:04x}")),
                each(&|byte| format!("{run}u{byte:04X}")),
                each(&|byte| format!("{run}x{byte:02x}")),
                each(&|byte| format!("{run}{byte:03o}")),
                each(&|byte| format!("{run}U{byte:08x}")),
                each(&|byte| format!("{run}U{byte:08X}")),
                each(&|byte| format!("{run}u{{{byte:x}}}")),
                each(&|byte| format!("{run}u{{{byte:X}}}")),
            ]);
        }
    }
    // A line break that the shell quotes: `'$'\n''`.
    ways.extend(["'$'\\n", "'\n", "\"\n"].map(str::to_owned));
    ways.into_iter().map(String::into_bytes).collect()
}

/// Returns the table [`Form::falls`].
fn falls(meaning: &[u8]) -> Vec<u32> {
    // The longest shorter beginning that the bytes before `at` end with.
    let mut kept = 0;
    let mut falls: Vec<Option<usize>> = vec![None];
    for at in 1..meaning.len() {
        let next = meaning[at];
        falls.push(if meaning[kept] == next { falls[kept] } else { Some(kept) });
        let mut shorter = Some(kept);
        while let Some(length) = shorter
            && meaning[length] != next
        {
            shorter = falls[length];
        }
        kept = shorter.map_or(0, |length| length + 1);
    }
    falls.push(Some(kept));
    // No secret has four billion bytes.
    falls.into_iter().map(|fall| fall.map_or(0, |fall| u32::try_from(fall + 1).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::reading::{Reader, Reading};
    use super::*;

    /// Whether a whole text is a form and has one of its beginnings.
    fn reads(form: &Form, text: &str) -> bool {
        let mut ends = Vec::new();
        let mut found = |start, end| ends.extend((start == 0).then_some(end));
        Reader::new(form, text.as_bytes(), true, &mut found).read(
            &mut vec![Reading::new(0)],
            &mut Vec::new(),
            0,
        );
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
        for text in ["é&#39'a+b/c=\"\\ \n\u{1}🔑", "é'a+b/c=\"\\ \n\u{1}", "é'a+b/c=\"\\ \n\u{1}x", "e'a+b/c"]
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
