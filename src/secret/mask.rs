//! Replaces secret values by `***` in texts and in streams.

use super::Secret;
use super::forms::{SHORTEST, forms};
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a secret is replaced by.
const MASK: &[u8] = b"***";

/// The secret values of a run, shared by everything that writes.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    forms: HashSet<Vec<u8>>,
    /// Made when it is needed, from the forms that are known then.
    search: Option<Arc<Search>>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} forms", self.forms.len())
    }
}

/// Finds all forms of all secrets in one pass.
struct Search {
    automaton: AhoCorasick,
    /// The forms by their first byte, for what may be the beginning of one.
    by_first: Vec<Vec<Vec<u8>>>,
    longest: usize,
}

impl Masks {
    /// Masks a value from now on, in all its forms: its lines, base64, hexadecimal, percent-encoded and escaped. Values
    /// under four bytes are not masked; the answer says whether this one is.
    pub fn add(&self, secret: &Secret) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.forms.len();
        known.forms.extend(forms(secret.expose()));
        if known.forms.len() != before {
            known.search = None;
        }
        secret.expose().trim().len() >= SHORTEST
    }

    /// The text with every secret replaced.
    pub fn text(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Nothing where there is nothing to mask.
    fn search(&self) -> Option<Arc<Search>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.forms.is_empty() {
            return None;
        }
        if known.search.is_none() {
            known.search = Search::new(&known.forms).map(Arc::new);
        }
        known.search.clone()
    }
}

impl Search {
    fn new(forms: &HashSet<Vec<u8>>) -> Option<Self> {
        // Overlapping matches are wanted: two secrets that share a part are both secrets.
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(forms).ok()?;
        let mut by_first = vec![Vec::new(); 256];
        for form in forms {
            by_first[usize::from(form[0])].push(form.clone());
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or_default();
        Some(Self { automaton, by_first, longest })
    }

    /// The ranges that hold secrets, those that touch or overlap as one.
    fn ranges(&self, bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        // Matches come in the order of their ends.
        for found in self.automaton.find_overlapping_iter(bytes) {
            let (mut start, end) = (found.start(), found.end());
            while let Some((last, _)) = ranges.pop_if(|(_, last_end)| *last_end > start) {
                start = start.min(last);
            }
            ranges.push((start, end));
        }
        ranges
    }

    /// Where the last bytes may be the beginning of a secret whose rest is still to come.
    fn beginning(&self, bytes: &[u8]) -> usize {
        let from = bytes.len().saturating_sub(self.longest);
        (from..bytes.len())
            .find(|at| {
                let rest = &bytes[*at..];
                self.by_first[usize::from(rest[0])]
                    .iter()
                    .any(|form| form.len() > rest.len() && form.starts_with(rest))
            })
            .unwrap_or(bytes.len())
    }
}

/// Masks one stream of bytes. What may be the beginning of a secret is held back until the next bytes decide.
#[derive(Debug)]
pub struct Masker {
    masks: Masks,
    held: Vec<u8>,
}

impl Masker {
    /// A masker at the beginning of a stream.
    pub fn new(masks: &Masks) -> Self {
        Self { masks: masks.clone(), held: Vec::new() }
    }

    /// Takes the next bytes and gives what can be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.scan(false)
    }

    /// Gives the rest at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.scan(true)
    }

    fn scan(&mut self, at_end: bool) -> Vec<u8> {
        let mut held = std::mem::take(&mut self.held);
        let Some(search) = self.masks.search() else {
            return held;
        };
        let ranges = search.ranges(&held);
        let mut shown = if at_end { held.len() } else { search.beginning(&held) };
        // A secret that may go on as a part of a longer one waits as a whole.
        if let Some((start, _)) = ranges.iter().find(|(start, end)| *start < shown && *end > shown) {
            shown = *start;
        }
        let mut out = Vec::with_capacity(shown);
        let mut at = 0;
        for (start, end) in ranges.into_iter().take_while(|(_, end)| *end <= shown) {
            out.extend_from_slice(&held[at..start]);
            out.extend_from_slice(MASK);
            at = end;
        }
        out.extend_from_slice(&held[at..shown]);
        self.held = held.split_off(shown);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(values: &[&str]) -> Masks {
        let masks = Masks::default();
        for value in values {
            masks.add(&Secret::new(*value));
        }
        masks
    }

    #[test]
    fn a_secret_is_masked_at_every_chunk_boundary() {
        let masks = masks(&["hunter2-hunter2", "hunter2"]);
        let text = b"a hunter2-hunter2 b hunter2 c hunt";
        for cut in 0..text.len() {
            let mut masker = Masker::new(&masks);
            let mut out = masker.push(&text[..cut]);
            out.extend(masker.push(&text[cut..]));
            out.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&out), "a *** b *** c hunt", "cut at {cut}");
        }
    }

    #[test]
    fn text_that_cannot_be_a_secret_passes_at_once() {
        let mut masker = Masker::new(&masks(&["secret"]));
        assert_eq!(masker.push(b"progress 10%\rsec"), b"progress 10%\r");
        assert_eq!(masker.push(b"ond"), b"second");
    }

    #[test]
    fn lines_and_base64_of_a_secret_are_masked() {
        let masks = masks(&["-----BEGIN-----\nabcdefgh\n"]);
        assert_eq!(masks.text("got abcdefgh here"), "got *** here");
        assert_eq!(masks.text("LS0tLS1CRUdJTi0tLS0tCmFiY2RlZmdoCg"), "***");
    }

    #[test]
    fn overlapping_secrets_become_one_mask() {
        let masks = masks(&["abcdefgh", "efghijkl"]);
        assert_eq!(masks.text("x abcdefghijkl y"), "x *** y");
        assert_eq!(masks.text("abcdefgh efghijkl"), "*** ***");
    }

    #[test]
    fn every_form_is_masked_at_every_chunk_boundary() {
        let secret = "p@ss/w0rd 'x'\"$\\y";
        let masks = masks(&[secret]);
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let percent = "p%40ss%2Fw0rd%20%27x%27%22%24%5Cy";
        let json = serde_json::to_string(secret).unwrap();
        let quoted = secret.replace('\'', "'\\''");
        for text in [secret, &hex, &hex.to_uppercase(), percent, &percent.to_lowercase(), &json, &quoted] {
            let line = format!("<{text}>");
            for cut in 0..line.len() {
                let mut masker = Masker::new(&masks);
                let mut out = masker.push(&line.as_bytes()[..cut]);
                out.extend(masker.push(&line.as_bytes()[cut..]));
                out.extend(masker.finish());
                let out = String::from_utf8(out).unwrap();
                assert!(out == "<***>" || out == "<\"***\">", "{out} of {line} cut at {cut}");
            }
        }
    }

    #[test]
    fn short_values_and_structure_are_not_masked() {
        let masks = masks(&["", "abc", "{\n  \"k\": \"longvalue\"\n}"]);
        assert_eq!(masks.text("{ abc }"), "{ abc }");
    }

    #[test]
    fn debug_output_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }
}
