//! Replaces secrets with `***` in strings and streams.

use super::Secret;
use super::forms::{forms, unmasked};
use super::search::{Cursor, Search};
use super::spelling::Form;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The replacement for a secret.
const MASK: &[u8] = b"***";

/// The secrets of a run. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masks {
    registered: Arc<Mutex<Forms>>,
}

/// Which part of a value is not masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmasked {
    Nothing,
    /// The value is masked as a whole. Single lines that are shorter than four characters or consist of punctuation are
    /// not.
    SomeLines,
    /// The whole value: it is shorter than four characters or consists of punctuation.
    Everything,
}

#[derive(Default)]
struct Forms {
    forms: HashSet<Arc<Form>>,
    /// Built from the forms on first use, and discarded when a form is added.
    detector: Option<Arc<Detector>>,
}

impl std::fmt::Debug for Forms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} forms", self.forms.len())
    }
}

/// Finds the secrets in text.
enum Detector {
    /// There are no secrets.
    Empty,
    Search(Box<Search>),
    /// There are more forms than a search can hold, so all text is masked.
    Everything,
}

impl Masks {
    /// Masks a value from now on in all its forms: its lines, base64, numbers of its bytes, percent-encoded, escaped and
    /// quoted.
    /// Returns which part of it is not masked, because masking it would hide half of every log.
    pub(crate) fn add(&self, secret: &Secret) -> Unmasked {
        let forms: Vec<Arc<Form>> = forms(secret.expose()).into_iter().map(Arc::new).collect();
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let before = registered.forms.len();
        registered.forms.extend(forms);
        if registered.forms.len() != before {
            registered.detector = None;
        }
        drop(registered);
        unmasked(secret.expose())
    }

    /// Returns a masker that only searches a stream, or `None` if there are no secrets.
    pub(crate) fn finder(&self) -> Option<Masker> {
        let masker = Masker::new(self);
        (!matches!(*masker.detector, Detector::Empty)).then_some(masker)
    }

    /// Replaces every secret in a string.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Returns the current detector. No code that may panic runs under the lock, because panic messages are masked as
    /// well.
    fn detector(&self) -> Arc<Detector> {
        let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(detector) = &registered.detector {
            return detector.clone();
        }
        let forms: Vec<Arc<Form>> = registered.forms.iter().cloned().collect();
        drop(registered);
        let count = forms.len();
        let detector = Arc::new(if forms.is_empty() {
            Detector::Empty
        } else {
            let search = Search::new(forms.into_iter());
            search.map_or(Detector::Everything, |search| Detector::Search(Box::new(search)))
        });
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have added a secret in the meantime. Then this detector is outdated.
        if registered.forms.len() == count {
            return registered.detector.get_or_insert(detector).clone();
        }
        drop(registered);
        self.detector()
    }
}

/// A part of the held bytes that is a secret.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: usize,
    end: usize,
    /// Whether its mask has already been returned.
    shown: bool,
}

/// Masks a stream of bytes. Bytes that may begin a secret are held until the next bytes decide; all bytes before them
/// are returned immediately.
pub(crate) struct Masker {
    masks: Masks,
    detector: Arc<Detector>,
    cursor: Option<Cursor>,
    /// The last bytes, which may begin a secret.
    held: Vec<u8>,
    /// The parts of the held bytes that are secrets regardless of the next bytes.
    ranges: Vec<Range>,
    /// A secret was found.
    found: bool,
}

impl Masker {
    /// Returns a masker for a new stream.
    pub(crate) fn new(masks: &Masks) -> Self {
        Self {
            masks: masks.clone(),
            detector: masks.detector(),
            cursor: None,
            held: Vec::new(),
            ranges: Vec::new(),
            found: false,
        }
    }

    /// Whether the stream has had a secret, as far as it is decided.
    pub(crate) fn has_found(&self) -> bool {
        self.found
    }

    /// Takes the next bytes and returns the masked bytes that are decided.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.scan(bytes, false)
    }

    /// Ends the stream and returns the remaining masked bytes.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.scan(&[], true)
    }

    fn scan(&mut self, bytes: &[u8], at_end: bool) -> Vec<u8> {
        let detector = self.masks.detector();
        if !Arc::ptr_eq(&detector, &self.detector) {
            // A secret was added since the last call. Search the held bytes again.
            self.detector = detector.clone();
            self.cursor = None;
            // Keep only the ranges whose mask has been returned. The search finds the others again.
            self.ranges.retain(|range| range.shown);
        }
        let search = match &*detector {
            Detector::Empty => return bytes.to_vec(),
            Detector::Everything if bytes.is_empty() => return Vec::new(),
            Detector::Everything => return MASK.to_vec(),
            Detector::Search(search) => search,
        };
        let mut held = std::mem::take(&mut self.held);
        let (from, mut cursor) = match self.cursor.take() {
            Some(cursor) => (held.len(), cursor),
            None => (0, search.start()),
        };
        let text = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        let ranges = &mut self.ranges;
        search.advance(&mut cursor, text, from, at_end, |start, end| add(ranges, start, end));
        let shown = if at_end { text.len() } else { text.len() - search.pending(&cursor, text) };
        let out = self.show(text, shown);
        self.held = text[shown..].to_vec();
        if !at_end {
            cursor.shift(shown);
            self.cursor = Some(cursor);
        }
        out
    }

    /// Returns the masked text up to a position. A secret that continues after it is included as its mask.
    fn show(&mut self, text: &[u8], shown: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(shown + MASK.len());
        let mut at = 0;
        for range in self.ranges.iter_mut().take_while(|range| range.start <= shown) {
            self.found = true;
            if range.start > at {
                out.extend_from_slice(&text[at..range.start]);
            }
            if !range.shown {
                out.extend_from_slice(MASK);
                range.shown = true;
            }
            at = range.end;
        }
        if at < shown {
            out.extend_from_slice(&text[at..shown]);
        }
        self.ranges.retain_mut(|range| {
            let continues = range.end > shown;
            range.start = range.start.saturating_sub(shown);
            range.end = range.end.saturating_sub(shown);
            continues
        });
        out
    }
}

/// Adds a match. Overlapping matches become one range; the ranges stay in order.
fn add(ranges: &mut Vec<Range>, start: usize, end: usize) {
    if let Some(last) = ranges.last_mut().filter(|last| last.start <= start && start < last.end) {
        last.end = last.end.max(end);
        return;
    }
    let first = ranges.partition_point(|range| range.end <= start);
    let after = ranges.partition_point(|range| range.start < end);
    let merged =
        ranges[first..after.max(first)].iter().fold(Range { start, end, shown: false }, |merged, range| {
            Range {
                start: merged.start.min(range.start),
                end: merged.end.max(range.end),
                shown: merged.shown || range.shown,
            }
        });
    ranges.splice(first..after.max(first), [merged]);
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
