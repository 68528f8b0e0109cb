//! A slow and simple search for secrets: the reference for tests and fuzzing.

use super::forms::forms;
use super::search::Search;
use super::spelling::Form;
use super::token::{self, Filler, Meaning};
use std::collections::HashSet;
use std::sync::Arc;

/// Masks a string by searching it at once. Panics unless the search finds every form with one of the known beginnings,
/// and only text that is a form.
pub(crate) fn mask_whole(secrets: &[String], text: &[u8]) -> Vec<u8> {
    let forms: HashSet<Form> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let mut found = Vec::new();
    if let Some(search) = Search::new(forms.iter().cloned().map(Arc::new)) {
        search.advance(&mut search.start(), text, 0, true, |start, end| found.push((start, end)));
    }
    let in_found = marks(&found, text);
    let ranges = |known: bool| forms.iter().flat_map(|form| find(form, text, known)).collect::<Vec<_>>();
    let (least, most) = (marks(&ranges(true), text), marks(&ranges(false), text));
    for at in 0..text.len() {
        assert!(in_found[at] || !least[at], "byte {at} of {:?} is missing", String::from_utf8_lossy(text));
        assert!(!in_found[at] || most[at], "byte {at} of {:?} is no secret", String::from_utf8_lossy(text));
    }
    found.sort_unstable();
    let mut out = Vec::new();
    let mut until = 0;
    for (start, end) in found {
        if start >= until {
            out.extend_from_slice(&text[until..start]);
            out.extend_from_slice(b"***");
        }
        until = until.max(end);
    }
    out.extend_from_slice(&text[until..]);
    out
}

/// Returns for each byte whether it is in one of the ranges.
fn marks(ranges: &[(usize, usize)], text: &[u8]) -> Vec<bool> {
    let mut marks = vec![false; text.len()];
    for (start, end) in ranges {
        marks[*start..*end].fill(true);
    }
    marks
}

/// Returns the start and end of every occurrence of a form, with or without one of the known beginnings.
fn find(form: &Form, text: &[u8], known: bool) -> Vec<(usize, usize)> {
    let beginnings = form.beginnings();
    let begins = |at: &usize| !known || beginnings.iter().any(|beginning| text[*at..].starts_with(beginning));
    let end = |start: usize| last_end(form, text, start).map(|end| (start, end));
    (0..text.len()).filter(begins).filter_map(end).collect()
}

/// Returns the last position at which a form that begins here is complete, by trying every way to read every token.
fn last_end(form: &Form, text: &[u8], start: usize) -> Option<usize> {
    let mut last = None;
    let mut tokens = Vec::new();
    let mut known = HashSet::new();
    let mut open = vec![(start, 0, 0u8)];
    while let Some((at, done, filler)) = open.pop() {
        // What follows a form between it and more of it is no part of it.
        if done >= form.enough() && filler == 0 {
            last = last.max(Some(at));
        }
        if done < form.meaning().len() && at < text.len() && known.insert((at, done, filler)) {
            tokens.clear();
            token::read(form.kind(), &text[at..], &mut tokens);
            for token in &tokens {
                let at = at + token.taken;
                let rest = &form.meaning()[done..];
                let weight = match token.meaning {
                    Meaning::Byte(byte) if form.is_blank_after(done, byte) => Filler::BLANK,
                    Meaning::Byte(byte) => {
                        open.extend((rest[0] == byte).then_some((at, done + 1, 0)));
                        continue;
                    }
                    Meaning::Char(c) => {
                        let mut bytes = [0; 4];
                        let bytes = c.encode_utf8(&mut bytes).as_bytes();
                        open.extend(rest.starts_with(bytes).then_some((at, done + bytes.len(), 0)));
                        continue;
                    }
                    Meaning::Filler(filler) if done > 0 && form.admits(filler) => filler.weight(),
                    Meaning::Filler(_) => continue,
                };
                if filler + weight <= Filler::MOST {
                    open.push((at, done, filler + weight));
                }
            }
        }
    }
    last
}
