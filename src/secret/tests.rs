//! Secrets in all forms and with every split of the stream. The encoders here are written separately from those of the
//! masker, so that a mistake in one does not hide a mistake in the other.

use super::oracle::mask_whole;
use super::{Masker, Masks, Secret};

/// Realistic secrets, with their kind.
fn secrets() -> Vec<(&'static str, String)> {
    let pem: String = (0..6).map(|at| format!("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{at}/+{at}Kq\n")).collect();
    vec![
        ("a token", "ghp_16C7e42F292c6912E7710c838347Ae178B4a".to_owned()),
        ("a password with symbols", "p@ss/w0rd 'x'\"$\\y!#&+=%;<>|`~^*?(){}[]".to_owned()),
        ("four letters", "q7Zk".to_owned()),
        ("five letters", "q7Zk9".to_owned()),
        ("digits", "4111111111111111".to_owned()),
        ("a URL", "postgres://admin:s3cr3t-pw@db.internal:5432/app?sslmode=require".to_owned()),
        ("a key in PEM", format!("-----BEGIN PRIVATE KEY-----\n{pem}-----END PRIVATE KEY-----\n")),
        (
            "a key in PEM with CRLF",
            format!("-----BEGIN EC KEY-----\r\n{}-----END EC KEY-----\r\n", pem.replace('\n', "\r\n")),
        ),
        ("JSON in one line", r#"{"user":"admin","password":"hunter2-hunter2","port":5432}"#.to_owned()),
        (
            "JSON in lines",
            "{\n  \"user\": \"administrator\",\n  \"password\": \"correct horse\"\n}\n".to_owned(),
        ),
        ("letters of many languages", "pässwörd-ключ-密码-🔑".to_owned()),
        ("a final newline", "token-with-newline\n".to_owned()),
        ("blanks around", "   padded-secret  ".to_owned()),
        ("a repetition", "aaaaaaaaaaaa".to_owned()),
        ("itself twice", "abcabcabc".to_owned()),
        ("a tab and a control character", "tab\there\u{1}and".to_owned()),
        ("percent signs", "100%25%zz%20secret".to_owned()),
        ("backslashes", "C:\\Users\\build\\secret\\n".to_owned()),
        ("quotes alone", "''\"\"''x".to_owned()),
        ("a long one", "0123456789abcdef".repeat(40)),
    ]
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8], pad: bool) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
        }
        if pad {
            out.push_str(&"=".repeat(3 - group.len()));
        }
    }
    out
}

fn percent(text: &str, plain: &str, upper: bool) -> String {
    let letter = |byte: u8| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || plain.contains(c) => c.to_string(),
        _ if upper => format!("%{byte:02X}"),
        _ => format!("%{byte:02x}"),
    };
    text.bytes().map(letter).collect()
}

fn json(text: &str, ascii: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || (ascii && !c.is_ascii()) => {
                out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out
}

/// Escapes for XML, with numbers for what is not ASCII or would not survive in an attribute.
fn xml(text: &str, quote: &str, number: impl Fn(u32) -> String) -> String {
    let letter = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => quote.to_owned(),
        c if c.is_ascii_graphic() || c == ' ' => c.to_string(),
        c => number(c.into()),
    };
    text.chars().map(letter).collect()
}

fn lines_of(text: &str, end: &str) -> String {
    text.replace("\r\n", "\n").trim_end_matches('\n').replace('\n', end)
}

/// Returns the encoded forms of a value, with their names.
fn encodings(value: &str) -> Vec<(String, String)> {
    let mut forms = vec![
        ("as it is".to_owned(), value.to_owned()),
        ("with LF".to_owned(), lines_of(value, "\n")),
        ("with CRLF".to_owned(), lines_of(value, "\r\n")),
        ("with CR".to_owned(), lines_of(value, "\r")),
        ("percent-encoded".to_owned(), percent(value, "-._~", true)),
        ("percent-encoded, lower case".to_owned(), percent(value, "-._~", false)),
        ("by encodeURIComponent".to_owned(), percent(value, "-_.!~*'()", true)),
        ("in a form".to_owned(), percent(value, "*-._ ", true).replace(' ', "+")),
        ("in JSON".to_owned(), json(value, false)),
        ("in ASCII JSON".to_owned(), json(value, true)),
        ("in JSON with slashes".to_owned(), json(value, false).replace('/', "\\/")),
        ("in JSON in JSON".to_owned(), json(&json(value, false), false)),
        ("in single quotes".to_owned(), value.replace('\'', "'\\''")),
        ("by shlex".to_owned(), value.replace('\'', "'\"'\"'")),
        ("in XML".to_owned(), xml(value, "&apos;", |number| format!("&#{number};"))),
        ("in hexadecimal XML".to_owned(), xml(value, "&#x27;", |number| format!("&#x{number:X};"))),
        ("in HTML by PHP".to_owned(), xml(value, "&#039;", |number| format!("&#x{number:x};"))),
        ("in hex".to_owned(), value.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ("in upper hex".to_owned(), value.bytes().map(|byte| format!("{byte:02X}")).collect()),
    ];
    for before in ["", "x", "xy"] {
        for after in ["", "z", "zz"] {
            let plain = base64(format!("{before}{value}{after}").as_bytes(), false);
            let name = format!("in base64 after {} and before {} bytes", before.len(), after.len());
            forms.push((name.clone(), base64(format!("{before}{value}{after}").as_bytes(), true)));
            forms.push((format!("{name}, url-safe"), plain.replace('+', "-").replace('/', "_")));
        }
    }
    forms
}

/// Masks a stream that arrives in pieces.
fn masked<'a>(masks: &Masks, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut masker = Masker::new(masks);
    let mut out: Vec<u8> = pieces.flat_map(|piece| masker.push(piece)).collect();
    out.extend(masker.finish());
    out
}

#[test]
fn every_secret_in_every_form_is_masked_for_every_split_of_the_stream() {
    let mut cases = 0;
    let mut seed = 1u64;
    for (kind, value) in secrets() {
        let masks = Masks::default();
        masks.add(&Secret::new(&*value));
        for (name, form) in encodings(&value) {
            cases += 1;
            let (before, after) = ("before \u{7f}\u{fffd} [", "] after\r\n");
            let text = format!("{before}{form}{after}").into_bytes();
            let whole = masked(&masks, std::iter::once(text.as_slice()));
            let place = format!("{kind}, {name}");
            check(&place, &form, &whole, before, after, &value);
            assert_eq!(masked(&masks, text.chunks(1)), whole, "{place}: byte by byte");
            let cuts = if text.len() > 2000 {
                (0..text.len()).step_by(97).collect()
            } else {
                (0..text.len()).collect::<Vec<_>>()
            };
            for cut in cuts {
                let (head, tail) = text.split_at(cut);
                assert_eq!(masked(&masks, [head, tail].into_iter()), whole, "{place}: cut at {cut}");
            }
            for _ in 0..20 {
                let mut rest = text.as_slice();
                let mut pieces = Vec::new();
                while !rest.is_empty() {
                    seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let (piece, next) = rest.split_at(rest.len().min(1 + (seed >> 33) as usize % 40));
                    pieces.push(piece);
                    rest = next;
                }
                assert_eq!(masked(&masks, pieces.into_iter()), whole, "{place}: random");
            }
        }
    }
    assert!(cases >= 300, "{cases}");
}

/// Checks that the form is masked and that nothing else has changed.
#[track_caller]
fn check(place: &str, form: &str, out: &[u8], before: &str, after: &str, value: &str) {
    let out = String::from_utf8_lossy(out).into_owned();
    let inner = out.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    let inner = inner.unwrap_or_else(|| panic!("{place}: other bytes have changed: {out}"));
    assert!(inner.contains("***"), "{place}: {form:?} gave {inner:?}");
    if let Some((_, rest)) = place.split_once("in base64 after ") {
        let bytes: Vec<usize> = rest.split(' ').filter_map(|word| word.parse().ok()).collect();
        // Letters that encode part of a neighbour stay, and blanks around the value are not secret.
        let blanks = value.len() - value.trim().len();
        let most = bytes.iter().map(|others| (others * 8).div_ceil(6) + 1).sum::<usize>() + 2 + blanks * 2;
        assert!(inner.replace("***", "").len() <= most, "{place}: {form:?} gave {inner:?}");
        return;
    }
    // Blanks and line breaks around the value may stay, in any form.
    let mut rest = inner.replace("***", "");
    for blank in [
        "\\\\r", "\\r", "\\\\n", "\\n", "%0A", "%0a", "%0D", "%0d", "%20", "&#10;", "&#13;", "&#xA;",
        "&#xD;", "&#xa;", "&#xd;", "0a", "0A", "20", "+", "\r", "\n", " ",
    ] {
        rest = rest.replace(blank, "");
    }
    // A quote of the shell may end before the value's own quote.
    let rest = rest.trim_matches(if value.starts_with('\'') { '\'' } else { ' ' });
    assert_eq!(rest, "", "{place}: {form:?} gave {inner:?}");
}

#[test]
fn overlapping_secrets_become_one_mask_and_nothing_else_changes() {
    let masks = Masks::default();
    for value in ["hunter2", "hunter2-hunter2", "ter2-hun", "2-hunter2-x"] {
        masks.add(&Secret::new(value));
    }
    for (text, expected) in [
        ("hunter2 hunter", "*** hunter"),
        ("hunter2-hunter2-x", "***"),
        ("hunter2-hunter2hunter2", "******"),
        ("hunter-hunter2-y", "hunter-***-y"),
        ("ter2-hun, 2-hunter2-", "***, 2-***-"),
    ] {
        for size in 1..=text.len() {
            let out = masked(&masks, text.as_bytes().chunks(size));
            assert_eq!(String::from_utf8_lossy(&out), expected, "{text} in pieces of {size}");
        }
    }
}

#[test]
fn other_text_is_shown_immediately_and_memory_stays_bounded() {
    let masks = Masks::default();
    masks.add(&Secret::new("aaaaaaaa"));
    masks.add(&Secret::new("progress-bar"));
    let mut masker = Masker::new(&masks);
    assert_eq!(masker.push(b"10%\r20%\rprog"), b"10%\r20%\r");
    assert_eq!(masker.push(b"ress 30%\xff\x00"), b"progress 30%\xff\x00");
    // An endless secret is masked once and not kept in memory.
    let mut out = masker.push(&[b'a'; 100]);
    for _ in 0..1000 {
        out.extend(masker.push(&[b'a'; 1000]));
    }
    out.extend(masker.finish());
    assert_eq!(out, b"***");
}

#[test]
fn the_masker_agrees_with_the_oracle() {
    for (kind, value) in secrets() {
        let masks = Masks::default();
        masks.add(&Secret::new(&*value));
        // All forms in one text, so that they also overlap with each other's neighbours.
        let text = encodings(&value).into_iter().map(|(_, form)| form).collect::<Vec<_>>().join(" ");
        let masked = masked(&masks, text.as_bytes().chunks(7));
        let expected = mask_whole(std::slice::from_ref(&value), text.as_bytes());
        assert_eq!(String::from_utf8_lossy(&masked), String::from_utf8_lossy(&expected), "{kind}");
    }
}

/// A sequence of pseudorandom numbers (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Secrets and texts of few different parts overlap with themselves and each other, and have many readings.
#[test]
fn repetitions_and_escapes_are_masked_as_the_oracle_does() {
    let parts: [&[&str]; 6] = [
        &["a", "b"],
        &["a", "b", "%61", "%62", "\\x61", "\\u0062"],
        &["a", "b", " ", "\n", "'", "\r\n"],
        &["a", "\n", " ", "\\n", "\r\n", "'", "%20", "%61"],
        &["YWFh", "YWJh", "\n", "\r\n", "61", " 62", "0x61, "],
        &["a", "\u{e9}", "\\xe9", "%C3%A9", "\\351", "&eacute;", "&#xe9;", "\x1b[1m", "97, ", "195,169,"],
    ];
    let mut numbers = Numbers(7);
    for round in 0..600 {
        let parts = parts[round % parts.len()];
        let text = |numbers: &mut Numbers, most: usize| {
            let count = 1 + numbers.below(most);
            (0..count).map(|_| parts[numbers.below(parts.len())]).collect::<String>()
        };
        let (secret, text) = (text(&mut numbers, 9), text(&mut numbers, 60));
        let masks = Masks::default();
        masks.add(&Secret::new(&*secret));
        let whole = masked(&masks, std::iter::once(text.as_bytes()));
        let expected = mask_whole(std::slice::from_ref(&secret), text.as_bytes());
        let shown = String::from_utf8_lossy(&whole).into_owned();
        assert_eq!(shown, String::from_utf8_lossy(&expected), "{secret:?} in {text:?}");
        let pieces = masked(&masks, text.as_bytes().chunks(1 + numbers.below(9)));
        assert_eq!(String::from_utf8_lossy(&pieces), shown, "{secret:?} in {text:?}, in pieces");
    }
}

/// Masks a text that contains a form of a secret.
fn shown(secret: &str, text: &str) -> String {
    let masks = Masks::default();
    masks.add(&Secret::new(secret));
    masks.text(text)
}

/// Findings, A5.
#[test]
fn an_escape_sequence_may_be_a_byte_or_a_code_point() {
    let secret = "p\u{e9}ss-\u{1f511}'w\u{f6}rd";
    for text in [
        r"p\xe9ss-\U0001f511'w\xf6rd",
        r"p\xC3\xA9ss-\xF0\x9F\x94\x91'w\xC3\xB6rd",
        r"p\u00e9ss-\ud83d\udd11\'w\u00F6rd",
        r"p\u{e9}ss-\u{1F511}\'w\u{f6}rd",
        r"p\u{0000e9}ss-\u{01f511}'w\u{00F6}rd",
        r"p\U000000E9ss-\U0001F511\x27w\U000000f6rd",
        r"p\351ss-\360\237\224\221\047w\366rd",
        r"p\\u00e9ss-\\ud83d\\udd11'w\\u00f6rd",
        "p%E9ss-%F0%9F%94%91%27w%F6rd",
        "p%u00E9ss-%uD83D%uDD11%27w%u00F6rd",
        "p&#233;ss-&#128273;&apos;w&#xF6;rd",
        "p&#xe9;ss-&#x1f511;&#39;w&#246;rd",
    ] {
        assert_eq!(shown(secret, &format!("<{text}>")), "<***>", "{text}");
    }
    for (secret, text) in [
        ("a&b<c>\"d'", "a&amp;b&lt;c&gt;&quot;d&apos;"),
        ("a\tb\nc d", r"a\x09b\u{a}c\u0020d"),
        ("\u{e9}\u{e9}\u{e9}\u{e9}", r"\xe9\u00e9\U000000e9\u{e9}"),
        ("\u{7f}key\u{80}", r"\x7fkey\x80"),
    ] {
        assert_eq!(shown(secret, text), "***", "{text}");
    }
}

/// The second one begins where the last character of the first one ends.
#[test]
fn spellings_of_characters_may_follow_each_other() {
    let secret = "\u{7}\u{fffd}\u{e9}\u{fffd}";
    let spellings =
        [r"\u{7}\u{fffd}\u{e9}\u{fffd}", "%07%ef%bf%bd%c3%a9%ef%bf%bd", r"\x07\ufffd\xe9\ufffd", secret];
    for first in spellings {
        for second in spellings {
            assert_eq!(shown(secret, &format!("{first}{second}$@")), "******$@", "{first}{second}");
        }
    }
}

/// Findings, A7.
#[test]
fn colours_and_other_white_space_inside_a_secret_are_masked() {
    let secret = "correct horse battery staple";
    for text in [
        "correct horse\nbattery staple",
        "correct\n  horse\n  battery\n  staple",
        "correct\t horse  battery\r\nstaple",
        "correct horse \\n battery staple",
        "correct%20horse+battery%0A%20staple",
        "\x1b[01;31m\x1b[Kcorrect\x1b[m\x1b[K horse battery staple",
        "corr\x1b[1mect hor\x1b[0;38;5;208mse bat\x1b[mtery\x1b[K staple",
    ] {
        let shown = shown(secret, &format!("<{text}>"));
        let rest = shown.replace("\x1b[01;31m", "").replace("\x1b[K", "");
        assert_eq!(rest, "<***>", "{text:?}");
    }
    for text in ["correct horse batterystaple", "correct\u{8} horse battery stapl"] {
        assert_eq!(shown(secret, text), text);
    }
}

/// Findings, A7.
#[test]
fn lists_of_byte_values_are_masked() {
    let secret = "hunter2!";
    for text in [
        "[104, 117, 110, 116, 101, 114, 50, 33]",
        "[104,117,110,116,101,114,50,33]",
        "[104 117 110 116 101 114 50 33]",
        "[\n  104,\n  117,\n  110,\n  116,\n  101,\n  114,\n  50,\n  33\n]",
        "{104 117 110  116 101 114\n  50  33}",
    ] {
        let shown = shown(secret, text);
        let inner = shown.trim_matches(['[', ']', '{', '}']).trim();
        assert_eq!(inner, "***", "{text:?}");
    }
    assert_eq!(self::shown("aaaa", "97, 97, 97, 97, 97, 977, 97"), "***, 977, 97");
    for text in ["[104, 117, 110]", "[104, 117, 110, 116, 101, 114, 50, 34]", "1041171101161011145033"] {
        assert_eq!(shown(secret, text), text);
    }
}

/// Findings, A8. With a quadratic search this takes hours, and the limit of the test runner ends it.
#[test]
fn a_secret_that_repeats_itself_takes_no_longer_than_others() {
    let zeros = base64(&[0; 12_000], false);
    let letters = "a".repeat(24_000);
    for (secret, text, mask) in [
        (letters.as_str(), letters.clone(), "***"),
        (&"ab".repeat(12_000), "ab".repeat(12_000), "***"),
        (&format!("{letters}b"), letters.clone(), ""),
        (&letters, base64(letters.as_bytes(), false), "***"),
        (
            &letters,
            base64(letters.as_bytes(), false)
                .as_bytes()
                .chunks(76)
                .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
                .collect(),
            "***",
        ),
        (&letters, "61".repeat(24_000), "***"),
        (&letters, "97, ".repeat(24_000), "***"),
        (&letters, "%61".repeat(24_000), ""),
        (&zeros, zeros.clone(), "***"),
        (&"a\n".repeat(12_000), "a\\n".repeat(12_000), "***"),
    ] {
        let text = text.repeat(40);
        let masks = Masks::default();
        masks.add(&Secret::new(secret));
        let out = masked(&masks, text.as_bytes().chunks(8000));
        if mask.is_empty() {
            assert_eq!(out, text.as_bytes());
        } else {
            assert!(out.starts_with(mask.as_bytes()) && out.len() < 40, "{}", String::from_utf8_lossy(&out));
        }
    }
}
