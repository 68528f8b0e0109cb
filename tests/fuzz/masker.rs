//! Fuzzes the masker against an oracle that searches for every form at every position of the whole text: for every
//! split of the stream the output is the same, and no form of a secret is in it.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports, reason = "only a part of the module is used here")]

#[path = "../../src/secret/mod.rs"]
mod secret;

use libfuzzer_sys::fuzz_target;
use secret::{Masker, Masks, Secret, mask_whole};

/// Decodes an input into secrets, a text, and the positions at which the stream is split.
fn read(input: &[u8]) -> Option<(Vec<String>, Vec<u8>, Vec<usize>)> {
    let mut bytes = input.iter().copied();
    let secrets: Vec<String> = (0..1 + bytes.next()? % 4)
        .map(|_| {
            let length = usize::from(bytes.next().unwrap_or_default() % 80);
            let value: Vec<u8> = bytes.by_ref().take(length).collect();
            String::from_utf8_lossy(&value).into_owned()
        })
        .collect();
    let mut text = Vec::new();
    let mut cuts = Vec::new();
    while let Some(byte) = bytes.next() {
        match byte {
            // A spelling of a secret, or a prefix of one.
            0xF0..=0xFB => {
                let way = bytes.next()?;
                let spelt = spell(&secrets[usize::from(way) % secrets.len()], way / 4);
                let end = spelt.len() - if byte > 0xF8 { usize::from(bytes.next()?) % (spelt.len() + 1) } else { 0 };
                text.extend_from_slice(&spelt[..end]);
            }
            0xFC..=0xFF => cuts.push(text.len()),
            byte => text.push(byte),
        }
    }
    Some((secrets, text, cuts))
}

/// Spells a text in one of the ways of real programs.
fn spell(text: &str, way: u8) -> Vec<u8> {
    let json = || serde_json::to_string(text).unwrap_or_default();
    let special = |spell: &dyn Fn(u8) -> String| -> String {
        text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { spell(byte) }).collect()
    };
    let base64 = |before: &str| {
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{before}{text}"))
    };
    let lines = |letters: String| letters.as_bytes().chunks(19).collect::<Vec<_>>().join(&b"\r\n"[..]);
    let text = match way % 16 {
        0 => special(&|byte| format!("%{byte:02X}")),
        1 => special(&|byte| format!("%{byte:02x}")),
        2 => special(&|byte| format!("%25{byte:02X}")),
        3 => special(&|byte| format!("\\x{byte:02x}")),
        4 => special(&|byte| format!("\\{byte:03o}")),
        5 => json(),
        6 => serde_json::to_string(&json()).unwrap_or_default(),
        7 => text.replace('\'', "'\\''"),
        8 => base64(""),
        9 => base64("a"),
        10 => base64("ab").replace('+', "-").replace('/', "_"),
        11 => return lines(base64("user:")),
        12 if way > 32 => text.bytes().map(|byte| format!("{byte}, ")).collect(),
        12 => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        13 => text.bytes().map(|byte| format!(":{byte:02X}")).collect(),
        14 if way > 32 => text.escape_unicode().to_string(),
        14 => text.replace('\n', "\r\n"),
        _ => text.to_owned(),
    };
    text.into_bytes()
}

fn streamed(masks: &Masks, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut masker = Masker::new(masks);
    let mut out = Vec::new();
    let mut from = 0;
    for cut in cuts.iter().chain([&text.len()]) {
        out.extend(masker.push(&text[from..*cut]));
        from = *cut;
    }
    out.extend(masker.finish());
    out
}

fuzz_target!(|input: &[u8]| {
    let Some((secrets, text, cuts)) = read(input) else { return };
    let masks = Masks::default();
    for secret in &secrets {
        masks.add(&Secret::new(secret.as_str()));
    }
    let expected = mask_whole(&secrets, &text);
    assert_eq!(streamed(&masks, &text, &[]), expected, "whole");
    assert_eq!(streamed(&masks, &text, &cuts), expected, "cut at {cuts:?}");
    let every: Vec<usize> = (1..text.len()).collect();
    assert_eq!(streamed(&masks, &text, &every), expected, "byte by byte");
});
