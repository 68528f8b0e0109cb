//! Finds all forms of all secrets in one pass over a stream.
//!
//! An automaton (Aho-Corasick) matches the beginnings of forms. After a match the rest of the form is read
//! ([`Reader`]). Nearly all of a log contains no secret, so a filter comes first: the automaton is skipped if no form
//! begins with the next four bytes.

use super::reading::{Reader, Reading, Run, Track, equal_bytes};
use super::spelling::{Form, SHORTEST};
use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use std::collections::HashMap;
use std::sync::Arc;

/// The smallest and the largest size of the filter in bits, as powers of two: 16 and 512 KiB, which fit into the CPU
/// caches.
const FILTER_BITS: (u32, u32) = (17, 22);
/// The longest period of a text whose repetitions the automaton skips, in bytes.
const LONGEST_PERIOD: usize = 4096;
/// Bits of the filter per beginning. With this many, little other text passes it.
const SPARSE: usize = 64;

pub(crate) struct Search {
    automaton: NFA,
    start: StateID,
    /// By state: how many of the last bytes may begin a form.
    depths: Vec<u8>,
    forms: Vec<Arc<Form>>,
    /// By pattern of the automaton: the forms that begin with it, as indexes.
    begun: Vec<Vec<usize>>,
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
    /// By index of the form: the forms that have begun and wait for more text.
    waiting: Vec<(usize, Vec<Reading>)>,
}

/// The forms that have begun in a text.
struct Begun<'a> {
    forms: &'a [Arc<Form>],
    text: &'a [u8],
    at_end: bool,
    found: &'a mut dyn FnMut(usize, usize),
    waiting: Vec<(usize, Vec<Reading>)>,
    /// The tracks of readings that have ended ahead of the automaton.
    ended: Vec<(usize, Track)>,
    /// By index of the form: the tokens that have covered its last beginning.
    recent: Vec<(usize, Run)>,
    quiet: Quiet,
}

impl Begun<'_> {
    /// Reads a form on. `at` is the position of the automaton.
    fn read(&mut self, index: usize, mut readings: Vec<Reading>, at: usize) {
        let mut ended = Vec::new();
        Reader::new(&self.forms[index], self.text, self.at_end, self.found).read(
            &mut readings,
            &mut ended,
            at,
        );
        self.ended.extend(ended.into_iter().map(|track| (index, track)));
        if readings.is_empty() {
            return;
        }
        match self.waiting.iter_mut().find(|(other, _)| *other == index) {
            Some((_, others)) => readings.into_iter().for_each(|reading| reading.join(others)),
            None => self.waiting.push((index, readings)),
        }
    }

    /// Begins a form, unless another reading has already tried this position.
    fn begin(&mut self, index: usize, start: usize, at: usize) {
        let recent = self.recent.iter().find(|(other, run)| *other == index && run.begins(start));
        let run = recent.map(|(_, run)| *run).or_else(|| {
            let run = self.covers(index, start)?;
            self.recent.retain(|(other, _)| *other != index);
            self.recent.push((index, run));
            Some(run)
        });
        if let Some(run) = run {
            self.quiet.covered(at, run);
            return;
        }
        self.quiet = Quiet::default();
        self.ended.retain(|(_, track)| track.end() > at);
        self.read(index, vec![Reading::new(start)], at);
    }

    fn covers(&self, index: usize, start: usize) -> Option<Run> {
        let waiting =
            self.waiting.iter().filter(|(other, _)| *other == index).flat_map(|(_, readings)| readings);
        let ended = self.ended.iter().filter(|(other, _)| *other == index);
        waiting
            .map(|reading| reading.covers(start))
            .chain(ended.map(|(_, track)| track.covers(start)))
            .find_map(|run| run)
    }
}

/// A stretch of text in which no form began that was not being read already. If the text repeats itself there, the
/// automaton does so as well, and can skip the repetitions.
#[derive(Default)]
struct Quiet {
    /// Where the readings end that cover the stretch.
    until: usize,
    /// The distance of the tokens of these readings, in bytes, unless it is one.
    stride: usize,
    /// A position in the stretch, and the state of the automaton there.
    mark: Option<(usize, StateID)>,
}

impl Quiet {
    /// A form that begins here is being read already.
    fn covered(&mut self, at: usize, run: Run) {
        if self.until <= at {
            *self = Self { until: run.end(), stride: run.stride, mark: None };
        }
        self.until = self.until.min(run.end());
        if self.stride == 1 {
            self.stride = run.stride;
        } else if run.stride != 1 && run.stride != self.stride {
            *self = Self::default();
        }
    }

    /// Returns the number of bytes after a position that only repeat what was before it.
    fn repeated(&mut self, text: &[u8], at: usize, state: StateID) -> usize {
        let (mark, marked) = *self.mark.get_or_insert((at, state));
        let period = at - mark;
        if period == 0 || (state != marked && period < LONGEST_PERIOD) {
            return 0;
        }
        self.mark = Some((at, state));
        if state != marked || self.until <= at || self.stride == 0 || !period.is_multiple_of(self.stride) {
            return 0;
        }
        let equal = equal_bytes(&text[at..self.until.min(text.len())], &text[mark..]);
        equal - equal % period
    }
}

impl Search {
    /// Returns `None` if there are more forms than an automaton can hold.
    pub(crate) fn new(forms: impl Iterator<Item = Arc<Form>>) -> Option<Self> {
        let forms: Vec<Arc<Form>> = forms.collect();
        let mut begun: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (index, form) in forms.iter().enumerate() {
            for beginning in form.beginnings() {
                begun.entry(beginning).or_default().push(index);
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
        Some(Self { automaton, start, depths, forms, begun, filter })
    }

    /// Returns the cursor at the start of a stream.
    pub(crate) fn start(&self) -> Cursor {
        Cursor { state: self.start, waiting: Vec::new() }
    }

    /// Returns how many bytes at the end of the text may begin a form.
    pub(crate) fn pending(&self, cursor: &Cursor, text: &[u8]) -> usize {
        let readings = cursor.waiting.iter().flat_map(|(_, readings)| readings);
        let begun = readings.map(|reading| text.len() - reading.start()).max();
        self.depth(cursor.state).max(begun.unwrap_or_default())
    }

    fn depth(&self, state: StateID) -> usize {
        self.depths.get(state.as_usize()).map_or(0, |depth| usize::from(*depth))
    }

    /// Searches text from a position onwards. The bytes before it are those that were pending. `at_end` says that no more
    /// text follows. Calls `found` with the start and end of every form.
    pub(crate) fn advance(
        &self,
        cursor: &mut Cursor,
        text: &[u8],
        from: usize,
        at_end: bool,
        mut found: impl FnMut(usize, usize),
    ) {
        let mut begun = Begun {
            forms: &self.forms,
            text,
            at_end,
            found: &mut found,
            waiting: Vec::new(),
            ended: Vec::new(),
            recent: Vec::new(),
            quiet: Quiet::default(),
        };
        for (index, readings) in std::mem::take(&mut cursor.waiting) {
            begun.read(index, readings, from);
        }
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
                        for index in &self.begun[pattern.as_usize()] {
                            begun.begin(*index, start, at);
                        }
                    }
                    at += begun.quiet.repeated(text, at, state);
                }
                let depth = self.depth(state);
                if at >= enough && depth < SHORTEST && at + SHORTEST <= text.len() {
                    at -= depth;
                    state = self.start;
                    break;
                }
            }
        }
        let mut waiting = begun.waiting;
        waiting.iter_mut().flat_map(|(_, readings)| readings).for_each(Reading::forget);
        *cursor = Cursor { state, waiting };
    }
}

impl Cursor {
    /// Adjusts the positions after the first bytes of the text were removed.
    pub(crate) fn shift(&mut self, by: usize) {
        for reading in self.waiting.iter_mut().flat_map(|(_, readings)| readings) {
            reading.shift(by);
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
