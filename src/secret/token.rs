//! Tokens: the smallest parts of a text that mean something, such as a letter, an escape sequence or a pair of
//! hexadecimal digits.

use super::spelling::FormKind;

/// What a token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Byte(u8),
    Char(char),
    /// Nothing: it may stand between the bytes of a secret.
    Filler(Filler),
}

/// What may stand between the bytes of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filler {
    /// A quote of the shell, which ends or begins inside the text.
    Quote,
    /// A control sequence of the terminal, such as a colour.
    Control,
    /// A line break or blank in an encoded text.
    Blank,
    /// A separator of numbers.
    Separator,
}

impl Filler {
    /// The sum of the weights that may follow each other.
    pub(super) const MOST: u8 = 64;
    /// The weight of white space.
    pub(super) const BLANK: u8 = 1;

    /// White space may be long, such as an indentation. Nothing else is.
    pub(super) fn weight(self) -> u8 {
        match self {
            Self::Blank => Self::BLANK,
            Self::Quote | Self::Control | Self::Separator => 16,
        }
    }
}

/// One way to read the next bytes of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    /// Its length in bytes.
    pub(super) taken: usize,
    pub(super) meaning: Meaning,
}

/// The longest control sequence of a terminal, in bytes.
const LONGEST_CONTROL: usize = 32;
/// The longest character reference, in bytes.
const LONGEST_REFERENCE: usize = 12;

/// Whether the byte has only one meaning wherever it stands: itself.
pub(super) fn is_plain(kind: FormKind, byte: u8) -> bool {
    match kind {
        FormKind::Text => PLAIN_TEXT[byte as usize],
        FormKind::Base64 => byte.is_ascii_alphanumeric(),
        FormKind::Hex | FormKind::Decimal => false,
    }
}

const PLAIN_TEXT: [bool; 256] = {
    let mut plain = [true; 256];
    let special = b"\\%+'\"$&\x1b \t\n\r\x0b\x0c";
    let mut at = 0;
    while at < special.len() {
        plain[special[at] as usize] = false;
        at += 1;
    }
    plain
};

/// The byte that stands for it in a text: all white space is the same.
pub(super) fn normal(byte: u8) -> u8 {
    if is_blank(char::from(byte)) { b' ' } else { byte }
}

/// Whether a character is white space in a text.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Reads the first token of a text, which is not empty, in all ways. Returns whether there may be more ways once the text
/// continues.
pub(super) fn read(kind: FormKind, text: &[u8], tokens: &mut Vec<Token>) -> bool {
    let mut emit = |taken, meaning| tokens.push(Token { taken, meaning });
    let control = control(text, |taken| emit(taken, Meaning::Filler(Filler::Control)));
    control
        | match kind {
            FormKind::Text => text_token(text, emit),
            FormKind::Base64 => base64_token(text, emit),
            FormKind::Hex => hex_token(text, emit),
            FormKind::Decimal => decimal_token(text, emit),
        }
}

fn text_token(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    let first = text[0];
    emit(1, Meaning::Byte(normal(first)));
    match first {
        b'+' => emit(1, Meaning::Byte(b' ')),
        b'\'' | b'"' | b'$' => emit(1, Meaning::Filler(Filler::Quote)),
        _ => {}
    }
    unescape(text, |taken, meaning| {
        emit(taken, if let Meaning::Byte(byte) = meaning { Meaning::Byte(normal(byte)) } else { meaning });
    })
}

fn base64_token(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    let mut letter = |taken, byte| match byte {
        b'-' => emit(taken, Meaning::Byte(b'+')),
        b'_' => emit(taken, Meaning::Byte(b'/')),
        byte if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') => {
            emit(taken, Meaning::Byte(byte));
        }
        byte if normal(byte) == b' ' => emit(taken, Meaning::Filler(Filler::Blank)),
        _ => {}
    };
    letter(1, text[0]);
    unescape(text, |taken, meaning| {
        if let Meaning::Byte(byte) = meaning {
            letter(taken, byte);
        }
    })
}

fn hex_token(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    // `\x61`, `0x61`
    if text.starts_with(b"\\x") || text.starts_with(b"0x") {
        emit(2, Meaning::Filler(Filler::Separator));
    } else if let Some(byte) = text.get(..2).and_then(|digits| byte_of(digits, 16)) {
        emit(2, Meaning::Byte(byte));
    }
    separator(text[0], b":-,", emit);
    text.len() < 2
}

fn decimal_token(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    let digits = text.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    if let 1..=3 = digits
        && let Some(byte) = byte_of(&text[..digits], 10)
    {
        emit(digits, Meaning::Byte(byte));
    }
    separator(text[0], b",", emit);
    // The number may continue.
    digits == text.len()
}

fn separator(byte: u8, separators: &[u8], mut emit: impl FnMut(usize, Meaning)) {
    if separators.contains(&byte) {
        emit(1, Meaning::Filler(Filler::Separator));
    } else if normal(byte) == b' ' {
        emit(1, Meaning::Filler(Filler::Blank));
    }
}

/// Reads a control sequence of a terminal (ECMA-48, "CSI").
fn control(text: &[u8], emit: impl FnOnce(usize)) -> bool {
    if text[0] != b'\x1b' {
        return false;
    }
    let Some(second) = text.get(1) else { return true };
    if *second != b'[' {
        return false;
    }
    let parameters = text[2..].iter().take(LONGEST_CONTROL).take_while(|byte| matches!(byte, 0x20..=0x3f));
    let end = 2 + parameters.count();
    match text.get(end) {
        None => true,
        Some(0x40..=0x7e) => {
            emit(end + 1);
            false
        }
        Some(_) => false,
    }
}

/// Reads a character reference of XML and HTML.
fn reference(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    let name = text[1..].iter().take(LONGEST_REFERENCE);
    let name = name.take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'#').count();
    let end = 1 + name;
    let Some(last) = text.get(end) else { return true };
    if *last != b';' {
        return false;
    }
    let c = match &text[1..end] {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16).and_then(char::from_u32),
        [b'#', digits @ ..] => number(digits, 10).and_then(char::from_u32),
        name => REFERENCES.iter().find(|(_, known)| known.as_bytes() == name).map(|(c, _)| *c),
    };
    if let Some(c) = c {
        emit(end + 1, meaning_of(c));
    }
    false
}

/// The character references that XML defines.
pub(super) const REFERENCES: [(char, &str); 5] =
    [('&', "amp"), ('<', "lt"), ('>', "gt"), ('"', "quot"), ('\'', "apos")];

/// Control characters and their letters after a backslash.
pub(super) const ESCAPES: [(u8, char); 8] =
    [(b'\n', 'n'), (b'\r', 'r'), (b'\t', 't'), (8, 'b'), (12, 'f'), (7, 'a'), (11, 'v'), (27, 'E')];

fn meaning_of(c: char) -> Meaning {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => Meaning::Byte(normal(byte)),
        _ => Meaning::Char(c),
    }
}

/// Emits what a number in an escape sequence may mean: a byte, or the character with this code point.
fn byte_or_char(taken: usize, number: Option<u32>, emit: &mut impl FnMut(usize, Meaning)) {
    if let Some(byte) = number.and_then(|number| u8::try_from(number).ok()) {
        emit(taken, Meaning::Byte(byte));
        if !byte.is_ascii() {
            emit(taken, Meaning::Char(char::from(byte)));
        }
    }
}

/// Decodes the escape sequence or character reference at the start of a text in all ways. Returns whether there may be another one that needs
/// more text.
fn unescape(text: &[u8], mut emit: impl FnMut(usize, Meaning)) -> bool {
    match text[0] {
        b'%' => {
            if text.get(1) == Some(&b'u') {
                return utf16(text, 2, emit);
            }
            let Some(digits) = text.get(1..3) else { return true };
            let first = number(digits, 16);
            byte_or_char(3, first, &mut emit);
            // Encoded twice.
            if first == Some(u32::from(b'%')) {
                let Some(digits) = text.get(3..5) else { return true };
                byte_or_char(5, number(digits, 16), &mut emit);
            }
            false
        }
        b'\\' => {
            // JSON inside JSON doubles backslashes.
            let run = text.iter().take(4).take_while(|byte| **byte == b'\\').count();
            for pairs in [2, 4] {
                if run >= pairs {
                    emit(pairs, Meaning::Byte(b'\\'));
                }
            }
            let Some(escaped) = text.get(run) else { return true };
            let after = run + 1;
            match escaped {
                b'u' if text.get(after) == Some(&b'{') => return braced(text, after + 1, emit),
                b'u' => return utf16(text, after, emit),
                b'U' => {
                    let Some(digits) = text.get(after..after + 8) else { return true };
                    if let Some(c) = number(digits, 16).and_then(char::from_u32) {
                        emit(after + 8, meaning_of(c));
                    }
                }
                b'x' => {
                    let Some(digits) = text.get(after..after + 2) else { return true };
                    byte_or_char(after + 2, number(digits, 16), &mut emit);
                }
                b'0'..=b'7' => {
                    let Some(digits) = text.get(run..run + 3) else { return true };
                    byte_or_char(run + 3, number(digits, 8), &mut emit);
                }
                b'e' => emit(after, Meaning::Byte(27)),
                letter if letter.is_ascii_alphabetic() => {
                    if let Some((byte, _)) = ESCAPES.iter().find(|(_, known)| *known == char::from(*letter)) {
                        emit(after, Meaning::Byte(*byte));
                    }
                }
                other if other.is_ascii() && !other.is_ascii_digit() && *other != b'\\' => {
                    emit(after, Meaning::Byte(*other));
                }
                _ => {}
            }
            false
        }
        b'&' => reference(text, emit),
        _ => false,
    }
}

/// Decodes the digits of `\u{1f511}` and its closing brace.
fn braced(text: &[u8], from: usize, mut emit: impl FnMut(usize, Meaning)) -> bool {
    let digits = text[from..].iter().take(6).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let end = from + digits;
    match text.get(end) {
        None => return true,
        Some(b'}') => {
            if let Some(c) = number(&text[from..end], 16).and_then(char::from_u32) {
                emit(end + 1, meaning_of(c));
            }
        }
        Some(_) => {}
    }
    false
}

/// Decodes the four digits of `\u00e9` or `%u00e9` and, for a surrogate, those of the escape sequence after it. The
/// digits begin after `lead` bytes.
fn utf16(text: &[u8], lead: usize, mut emit: impl FnMut(usize, Meaning)) -> bool {
    let unit = |at: usize| text.get(at..at + 4).map(|digits| number(digits, 16));
    let Some(high) = unit(lead) else { return true };
    let Some(high) = high else { return false };
    if let Some(c) = char::from_u32(high) {
        emit(lead + 4, meaning_of(c));
        return false;
    }
    let second = lead + 4 + lead;
    let Some(low) = unit(second) else { return true };
    let units = [high, low.unwrap_or_default()].map(|unit| u16::try_from(unit).unwrap_or_default());
    if let Some(Ok(c)) = char::decode_utf16(units).next() {
        emit(second + 4, Meaning::Char(c));
    }
    false
}

fn byte_of(digits: &[u8], radix: u32) -> Option<u8> {
    number(digits, radix).and_then(|number| u8::try_from(number).ok())
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let add =
        |number: u32, digit: &u8| number.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}
