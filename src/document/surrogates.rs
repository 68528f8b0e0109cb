//! JSON writes a character outside of the basic plane as a pair of escapes, `"\ud83d\ude00"`. Files that JSON tools write
//! are YAML, too, but YAML parsers refuse the halves. Before parsing, each pair becomes one escape of the same length,
//! whose character stands for the pair; after parsing, the character becomes the one that the pair means.
//!
//! Outside of double quotes a backslash is no escape. There the pair's text comes back as it was.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// The characters that stand for pairs: the private planes, which have one for every pair of a file of a megabyte.
const FIRST: u32 = 0xF_0000;
/// Fills an escape of ten characters up to the twelve of a pair, so that positions stay.
const FILLER: (&str, char) = ("\\e", '\u{1b}');
/// The length of a pair, and of the escape in its place, in bytes.
const LENGTH: usize = 12;

/// A text whose surrogate pairs are replaced.
pub(crate) struct Surrogates<'t> {
    original: &'t str,
    text: Cow<'t, str>,
    /// The start and the character of each pair.
    pairs: Vec<(usize, char)>,
}

impl<'t> Surrogates<'t> {
    /// No pairs, for parsers that know them.
    pub(super) fn none() -> Self {
        Self { original: "", text: Cow::Borrowed(""), pairs: Vec::new() }
    }

    /// Replaces the pairs of a text, unless it uses private planes itself.
    pub(crate) fn replace(original: &'t str) -> Self {
        let unchanged = Self { original, text: Cow::Borrowed(original), pairs: Vec::new() };
        if !original.contains("\\u") || uses_private_planes(original) {
            return unchanged;
        }
        let pairs = pairs(original);
        let mut text = original.to_owned();
        for (number, (start, _)) in (FIRST..).zip(&pairs) {
            if number > u32::from(char::MAX) {
                return unchanged;
            }
            text.replace_range(*start..start + LENGTH, &format!("\\U{number:08X}{}", FILLER.0));
        }
        Self { original, text: Cow::Owned(text), pairs }
    }

    /// The text for a parser, as long as the original.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A parsed scalar of the text, with what its pairs mean.
    pub(crate) fn restore<'s>(&self, scalar: &'s str) -> Cow<'s, str> {
        if self.pairs.is_empty() {
            return Cow::Borrowed(scalar);
        }
        let mut restored = String::new();
        let mut rest = scalar;
        while let Some((range, number, is_escaped)) = find(rest) {
            restored.push_str(&rest[..range.start]);
            match self.pairs.get(number) {
                Some((_, character)) if is_escaped => restored.push(*character),
                Some((start, _)) => restored.push_str(&self.original[*start..start + LENGTH]),
                None => restored.push_str(&rest[range.clone()]),
            }
            rest = &rest[range.end..];
        }
        if restored.is_empty() {
            return Cow::Borrowed(scalar);
        }
        restored.push_str(rest);
        Cow::Owned(restored)
    }
}

/// The first place of a pair in a parsed scalar, the pair's number, and whether it was in double quotes.
fn find(scalar: &str) -> Option<(Range<usize>, usize, bool)> {
    let number = |code: u32| usize::try_from(code.checked_sub(FIRST)?).ok();
    scalar.char_indices().find_map(|(start, c)| {
        if u32::from(c) >= FIRST {
            let end = start + c.len_utf8() + FILLER.1.len_utf8();
            scalar[..end.min(scalar.len())]
                .ends_with(FILLER.1)
                .then(|| Some((start..end, number(c.into())?, true)))?
        } else if c == '\\' {
            let text = scalar.get(start..start + LENGTH)?;
            let digits = text.strip_prefix("\\U")?.strip_suffix(FILLER.0)?;
            let code = u32::from_str_radix(digits, 16).ok()?;
            Some((start..start + LENGTH, number(code)?, false))
        } else {
            None
        }
    })
}

/// The start of the first escape of half a pair, from a position on.
pub(crate) fn lone_half(text: &str, from: usize) -> Option<usize> {
    let of_pairs: HashSet<usize> =
        pairs(text).iter().flat_map(|(start, _)| [*start, start + LENGTH / 2]).collect();
    escapes(text).find(|at| *at >= from && half(text, *at).is_some() && !of_pairs.contains(at))
}

fn uses_private_planes(text: &str) -> bool {
    let mut escapes = text.match_indices("\\U").filter_map(|(at, _)| text.get(at + 2..at + 10));
    text.chars().any(|c| u32::from(c) >= FIRST)
        || escapes.any(|digits| u32::from_str_radix(digits, 16).is_ok_and(|code| code >= FIRST))
}

/// The start and the character of each surrogate pair.
fn pairs(text: &str) -> Vec<(usize, char)> {
    let mut pairs: Vec<(usize, char)> = Vec::new();
    for at in escapes(text) {
        let is_second = pairs.last().is_some_and(|(start, _)| at == start + LENGTH / 2);
        let halves = [half(text, at), half(text, at + LENGTH / 2)].map(Option::unwrap_or_default);
        if let Some(Ok(c)) = char::decode_utf16(halves).next().filter(|_| !is_second)
            && u32::from(c) > 0xFFFF
        {
            pairs.push((at, c));
        }
    }
    pairs
}

/// The starts of escapes: backslashes that no backslash escapes.
fn escapes(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + bytes.get(at..)?.iter().position(|byte| *byte == b'\\')?;
        at = start + 2;
        Some(start)
    })
}

/// The surrogate that an escape at this position means.
fn half(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + LENGTH / 2)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let code = u16::from_str_radix(digits, 16).ok()?;
    (0xD800..0xE000).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_escapes_of_the_same_length() {
        for (text, count) in [
            (r#""\ud83d\ude00""#, 1),
            (r#""\uD83D\uDE00 \ud83d\udE00""#, 2),
            (r#""\\\ud83d\ude00""#, 1),
            (r#""\\ud83d\ude00""#, 0),
            (r#""\ud83d\ud83d\ude00\ude00""#, 1),
            (r#""\ud83d \ude00""#, 0),
            (r#""\ude00\ud83d""#, 0),
            (r#""\u00e9\ud83d""#, 0),
            ("\"\\ud83d\\ude0", 0),
            ("\\", 0),
            // Its own use of private planes is kept.
            (r#""\ud83d\ude00 \U000F0000\e""#, 0),
            ("\"\\ud83d\\ude00 \u{10fffd}\"", 0),
        ] {
            let surrogates = Surrogates::replace(text);
            assert_eq!(surrogates.pairs.len(), count, "{text}");
            assert_eq!(surrogates.text().len(), text.len(), "{text}");
            assert_eq!(surrogates.text() == text, count == 0, "{text}");
        }
    }

    #[test]
    fn pairs_mean_a_character_in_double_quotes_and_themselves_elsewhere() {
        let surrogates = Surrogates::replace(r#"a\uD83d\ude00b "\ud83d\uDE01" '\ud83d\ude02'"#);
        let parsed = "\u{f0001}\u{1b}";
        assert_eq!(surrogates.restore(parsed), "😁");
        assert_eq!(surrogates.restore(&format!("x{parsed}{parsed}\\y")), "x😁😁\\y");
        assert_eq!(surrogates.restore(r"a\U000F0000\eb"), r"a\uD83d\ude00b");
        assert_eq!(surrogates.restore(r"\\U000F0002\e é"), r"\\ud83d\ude02 é");
        assert_eq!(surrogates.restore("a\\é"), "a\\é");
    }

    #[test]
    fn the_half_without_its_other_half_is_found() {
        for (text, from, found) in [
            (r#""\ud83d""#, 0, Some(1)),
            (r#""\ud83d\ude00\ude00""#, 0, Some(13)),
            (r#""\ud83d\ud83d\ude00""#, 0, Some(1)),
            (r#"'\ud83d' "x\ude00""#, 9, Some(11)),
            (r#""\ud83d\ude00 \\ud83d \u00e9""#, 0, None),
        ] {
            assert_eq!(lone_half(text, from), found, "{text}");
        }
    }
}
