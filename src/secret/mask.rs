//! Replaces secret values by `***` in texts and in streams.

use super::Secret;
use super::forms::{forms, unmasked};
use super::search::{Place, Search};
use super::spelling::Form;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What a secret is replaced by.
const MASK: &[u8] = b"***";

/// The secret values of a run, shared by everything that writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Masks {
    known: Arc<Mutex<Known>>,
}

/// What of a value is not masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmasked {
    /// All of it is masked.
    Nothing,
    /// It is masked as a whole, but lines of it that are shorter than four characters, or only brackets and commas, are not masked
    /// where they stand alone.
    SomeLines,
    /// The value: it is shorter than four characters, or only brackets and commas.
    Everything,
}

#[derive(Default)]
struct Known {
    forms: HashSet<Arc<Form>>,
    /// Made when it is needed, from the forms that are known then.
    matter: Option<Arc<Matter>>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} forms", self.forms.len())
    }
}

/// How texts are looked at.
enum Matter {
    /// There is nothing to mask.
    Clear,
    /// These are looked for.
    Search(Box<Search>),
    /// There is more to mask than can be looked for, so that nothing is shown.
    Dark,
}

impl Masks {
    /// Masks a value from now on, in all its forms: its lines, base64, hexadecimal, percent-encoded, escaped and quoted. The
    /// answer is what of it cannot be masked, because half of every log would be.
    pub(crate) fn add(&self, secret: &Secret) -> Unmasked {
        let forms: Vec<Arc<Form>> = forms(secret.expose()).into_iter().map(Arc::new).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.forms.len();
        known.forms.extend(forms);
        if known.forms.len() != before {
            known.matter = None;
        }
        drop(known);
        unmasked(secret.expose())
    }

    /// The text with every secret replaced.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Nothing that may panic happens under the lock: the masks guard the messages of panics as well.
    fn matter(&self) -> Arc<Matter> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matter) = &known.matter {
            return matter.clone();
        }
        let forms: Vec<Arc<Form>> = known.forms.iter().cloned().collect();
        drop(known);
        let count = forms.len();
        let matter = Arc::new(if forms.is_empty() {
            Matter::Clear
        } else {
            let search = Search::new(forms.into_iter());
            search.map_or(Matter::Dark, |search| Matter::Search(Box::new(search)))
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have added a secret meanwhile, and then this is old already.
        if known.forms.len() == count {
            return known.matter.get_or_insert(matter).clone();
        }
        drop(known);
        self.matter()
    }
}

/// A part of the held bytes that belongs to a secret.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: usize,
    end: usize,
    /// Its mask has been shown.
    shown: bool,
}

/// Masks one stream of bytes. What may be the beginning of a secret is held back until the next bytes decide; everything before
/// it is shown at once.
pub(crate) struct Masker {
    masks: Masks,
    matter: Arc<Matter>,
    place: Option<Place>,
    /// The last bytes, which may be the beginning of a secret.
    held: Vec<u8>,
    /// The parts of them that are secret whatever comes.
    ranges: Vec<Range>,
}

impl Masker {
    /// A masker at the beginning of a stream.
    pub(crate) fn new(masks: &Masks) -> Self {
        Self {
            masks: masks.clone(),
            matter: masks.matter(),
            place: None,
            held: Vec::new(),
            ranges: Vec::new(),
        }
    }

    /// Takes the next bytes and gives what can be shown now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.scan(bytes, false)
    }

    /// Gives the rest at the end of the stream.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.scan(&[], true)
    }

    fn scan(&mut self, bytes: &[u8], at_end: bool) -> Vec<u8> {
        let matter = self.masks.matter();
        if !Arc::ptr_eq(&matter, &self.matter) {
            // There is more to mask since the last time, also in what has been held back.
            self.matter = matter.clone();
            self.place = None;
            // It will be found again, but for what is shown.
            self.ranges.retain(|range| range.shown);
        }
        let search = match &*matter {
            Matter::Clear => return bytes.to_vec(),
            Matter::Dark if bytes.is_empty() => return Vec::new(),
            Matter::Dark => return MASK.to_vec(),
            Matter::Search(search) => search,
        };
        let mut held = std::mem::take(&mut self.held);
        let (from, mut place) = match self.place.take() {
            Some(place) => (held.len(), place),
            None => (0, search.begin()),
        };
        let text = if held.is_empty() {
            bytes
        } else {
            held.extend_from_slice(bytes);
            &held
        };
        let ranges = &mut self.ranges;
        search.go_on(&mut place, text, from, |start, end| add(ranges, start, end));
        let shown = if at_end { text.len() } else { text.len() - search.pending(&place, text) };
        let out = self.show(text, shown);
        self.held = text[shown..].to_vec();
        if !at_end {
            place.moved(shown);
            self.place = Some(place);
        }
        out
    }

    /// Shows the text up to a position, and the mask of a secret that goes on there.
    fn show(&mut self, text: &[u8], shown: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(shown + MASK.len());
        let mut at = 0;
        for range in self.ranges.iter_mut().take_while(|range| range.start <= shown) {
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
            let goes_on = range.end > shown;
            range.start = range.start.saturating_sub(shown);
            range.end = range.end.saturating_sub(shown);
            goes_on
        });
        out
    }
}

/// Adds a match, which ends where the search has come to or later. Matches that overlap become one range.
fn add(ranges: &mut Vec<Range>, mut start: usize, mut end: usize) {
    let mut shown = false;
    while let Some(last) = ranges.pop_if(|last| last.end > start) {
        start = start.min(last.start);
        end = end.max(last.end);
        shown |= last.shown;
    }
    ranges.push(Range { start, end, shown });
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
