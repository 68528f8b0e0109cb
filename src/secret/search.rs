//! Finds all forms of all secrets in one pass over a stream.
//!
//! An automaton (Aho-Corasick) matches the beginnings of forms. After a match the rest of the form is read
//! ([`Form::read`]). Nearly all of a log contains no secret, so a filter comes first: the automaton is skipped if no
//! form begins with the next four bytes.

use super::spelling::{Form, Reading, SHORTEST};
use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use std::collections::HashMap;
use std::sync::Arc;

/// The smallest and the largest size of the filter in bits, as powers of two: 16 and 512 KiB, which fit into the CPU
/// caches.
const FILTER_BITS: (u32, u32) = (17, 22);
/// Bits of the filter per beginning. With this many, little other text passes it.
const SPARSE: usize = 64;

pub(crate) struct Search {
    automaton: NFA,
    start: StateID,
    /// By state: how many of the last bytes may begin a form.
    depths: Vec<u8>,
    /// By pattern of the automaton: the forms that begin with it.
    forms: Vec<Vec<Arc<Form>>>,
    filter: Filter,
}

/// The hashes of the first four bytes of all forms.
struct Filter {
    bits: u32,
    words: Vec<u64>,
}

/// The position of a search in a stream.
pub(crate) struct Cursor {
    state: StateID,
    /// Forms that have begun and match so far.
    candidates: Vec<Candidate>,
}

/// A form that has begun in the text.
struct Candidate {
    form: Arc<Form>,
    start: usize,
    readings: Vec<Reading>,
}

impl Candidate {
    /// Reads further. Returns whether the form may continue.
    fn read(&mut self, text: &[u8], found: &mut impl FnMut(usize, usize)) -> bool {
        let mut end = None;
        self.form.read(text, &mut self.readings, |at| end = end.max(Some(at)));
        if let Some(end) = end {
            found(self.start, end);
        }
        !self.readings.is_empty()
    }
}

impl Search {
    /// Returns `None` if there are more forms than an automaton can hold.
    pub(crate) fn new(forms: impl Iterator<Item = Arc<Form>>) -> Option<Self> {
        let mut begun: HashMap<Vec<u8>, Vec<Arc<Form>>> = HashMap::new();
        for form in forms {
            for beginning in form.beginnings() {
                begun.entry(beginning).or_default().push(form.clone());
            }
        }
        let (beginnings, begun): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        let automaton = NFA::new(&beginnings).ok()?;
        let start = automaton.start_state(Anchored::No).ok()?;
        let mut depths = Vec::new();
        let mut filter = Filter::new(beginnings.len());
        for beginning in &beginnings {
            let mut state = start;
            for (byte, depth) in beginning.iter().zip(1..) {
                state = automaton.next_state(Anchored::No, state, *byte);
                let at = state.as_usize();
                if depths.len() <= at {
                    depths.resize(at + 1, 0);
                }
                depths[at] = depth;
            }
            filter.add(beginning);
        }
        Some(Self { automaton, start, depths, forms: begun, filter })
    }

    /// Returns the cursor at the start of a stream.
    pub(crate) fn start(&self) -> Cursor {
        Cursor { state: self.start, candidates: Vec::new() }
    }

    /// Returns how many bytes at the end of the text may begin a form.
    pub(crate) fn pending(&self, cursor: &Cursor, text: &[u8]) -> usize {
        let begun = cursor.candidates.iter().map(|candidate| text.len() - candidate.start).max();
        self.depth(cursor.state).max(begun.unwrap_or_default())
    }

    fn depth(&self, state: StateID) -> usize {
        self.depths.get(state.as_usize()).map_or(0, |depth| usize::from(*depth))
    }

    /// Searches text from a position onwards. The bytes before it are those that were pending. Calls `found` with the
    /// start and end of every form.
    pub(crate) fn advance(
        &self,
        cursor: &mut Cursor,
        text: &[u8],
        from: usize,
        mut found: impl FnMut(usize, usize),
    ) {
        let mut candidates = std::mem::take(&mut cursor.candidates);
        candidates.retain_mut(|candidate| candidate.read(text, &mut found));
        let mut state = cursor.state;
        let mut at = from;
        while at < text.len() {
            if state == self.start {
                let windows = text[at..].windows(SHORTEST);
                match windows.clone().position(|window| self.filter.may_hold(window)) {
                    Some(skipped) => at += skipped,
                    None => at += windows.len(),
                }
            }
            // Advance by at least four bytes before the filter tests the last three again.
            let enough = at + SHORTEST;
            while at < text.len() {
                state = self.automaton.next_state(Anchored::No, state, text[at]);
                at += 1;
                if self.automaton.is_match(state) {
                    for index in 0..self.automaton.match_len(state) {
                        let pattern = self.automaton.match_pattern(state, index);
                        let start = at - self.automaton.pattern_len(pattern);
                        for form in &self.forms[pattern.as_usize()] {
                            let readings = vec![Reading::new(start)];
                            let mut candidate = Candidate { form: form.clone(), start, readings };
                            if candidate.read(text, &mut found) {
                                candidates.push(candidate);
                            }
                        }
                    }
                }
                let depth = self.depth(state);
                if at >= enough && depth < SHORTEST && at + SHORTEST <= text.len() {
                    at -= depth;
                    state = self.start;
                    break;
                }
            }
        }
        *cursor = Cursor { state, candidates };
    }
}

impl Cursor {
    /// Adjusts the positions after the first bytes of the text were removed.
    pub(crate) fn shift(&mut self, by: usize) {
        for candidate in &mut self.candidates {
            candidate.start -= by;
            candidate.readings.iter_mut().for_each(|reading| reading.shift(by));
        }
    }
}

impl Filter {
    fn new(beginnings: usize) -> Self {
        let bits = (beginnings * SPARSE).next_power_of_two().ilog2().clamp(FILTER_BITS.0, FILTER_BITS.1);
        Self { bits, words: vec![0; 1 << (bits - 6)] }
    }

    fn add(&mut self, beginning: &[u8]) {
        let (word, bit) = self.slot(beginning);
        self.words[word] |= bit;
    }

    fn may_hold(&self, bytes: &[u8]) -> bool {
        let (word, bit) = self.slot(bytes);
        self.words[word] & bit != 0
    }

    /// Returns the word and the bit for the first four bytes.
    fn slot(&self, bytes: &[u8]) -> (usize, u64) {
        let mut first = [0; SHORTEST];
        first.copy_from_slice(&bytes[..SHORTEST]);
        // Fibonacci hashing: the upper bits of the product with 2^32 divided by the golden ratio.
        let hash = u32::from_le_bytes(first).wrapping_mul(0x9E37_79B9) >> (32 - self.bits);
        (hash as usize / 64, 1 << (hash % 64))
    }
}
