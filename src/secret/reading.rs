//! Reads a text and finds where it spells a secret, in time that is linear in the text.
//!
//! A text has several readings, because a `%` may be a percent sign or begin an escape sequence. Each reading is a stream
//! of tokens, and on each stream runs the algorithm of Knuth, Morris and Pratt: it knows how many of the last bytes are
//! the beginning of the secret, and if the next byte differs, it goes on with the longest beginning that still fits. So
//! a secret that repeats itself costs no more than another.

use super::spelling::{BEGINNING, Form, FormKind};
use super::token::{self, Filler, Meaning, Token, is_plain};
use std::collections::VecDeque;

/// The maximum number of readings of one form at a time, which only a secret that consists of escapes reaches.
const MAX_READINGS: usize = 16;

/// A reading of a text that has begun a form.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// The next byte of the text.
    at: usize,
    /// How many bytes of the form's meaning the last tokens have.
    done: usize,
    /// The weight of the fillers directly before.
    filler: u8,
    track: Track,
}

/// Where the tokens of a reading are in the text.
#[derive(Debug, Clone, Default)]
pub(super) struct Track {
    /// Tokens that are not part of the form any longer. They are kept for [`Track::covers`].
    past: VecDeque<Run>,
    /// The tokens of the form, one for each byte of its meaning.
    form: VecDeque<Run>,
}

/// Tokens at equal distances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    at: usize,
    count: usize,
    /// The distance in bytes. Zero for the bytes of one character.
    pub(super) stride: usize,
}

impl Run {
    /// Where the next token begins.
    pub(super) fn end(&self) -> usize {
        self.at + self.count * self.stride
    }

    /// Whether a token begins at this position.
    pub(super) fn begins(&self, at: usize) -> bool {
        at == self.at || (self.at < at && at < self.end() && (at - self.at).is_multiple_of(self.stride))
    }
}

/// Adds tokens behind others.
fn append(runs: &mut VecDeque<Run>, run: Run) {
    match runs.back_mut() {
        Some(last) if last.end() == run.at && (last.stride == run.stride || run.count == 1) => {
            last.count += run.count;
        }
        // Two tokens are at any distance.
        Some(last) if last.count == 1 && run.count == 1 => {
            *last = Run { count: 2, stride: run.at - last.at, ..*last }
        }
        _ => runs.push_back(run),
    }
}

impl Track {
    /// Takes the first tokens out of the form.
    fn leave(&mut self, mut count: usize) {
        while count > 0
            && let Some(first) = self.form.front_mut()
        {
            let left = Run { count: count.min(first.count), ..*first };
            first.at = left.end();
            first.count -= left.count;
            count -= left.count;
            if first.count == 0 {
                self.form.pop_front();
            }
            append(&mut self.past, left);
        }
    }

    /// Returns the run with a token that begins at this position.
    pub(super) fn covers(&self, at: usize) -> Option<Run> {
        [&self.past, &self.form].into_iter().find_map(|runs| {
            let next = runs.partition_point(|run| run.at <= at);
            let run = runs[next.checked_sub(1)?];
            run.begins(at).then_some(run)
        })
    }

    /// The end of the last token.
    pub(super) fn end(&self) -> usize {
        self.form.back().or(self.past.back()).map_or(0, Run::end)
    }
}

/// What ends a call of [`Reading::step`].
enum Step {
    /// The reading goes on.
    On,
    /// It takes more text to continue.
    Waits,
    /// The text is not the form.
    Ends,
    /// Several tokens fit.
    Forks,
}

impl Reading {
    /// A reading that begins at this position.
    pub(super) fn new(at: usize) -> Self {
        Self { at, done: 0, filler: 0, track: Track::default() }
    }

    /// The position at which the form began.
    pub(super) fn start(&self) -> usize {
        self.track.form.front().map_or(self.at, |run| run.at)
    }

    /// If this reading has tried to begin the form at this position, returns the tokens of which it is one.
    pub(super) fn covers(&self, at: usize) -> Option<Run> {
        let next = Run { at, count: 1, stride: 1 };
        (at == self.at).then_some(next).or_else(|| self.track.covers(at))
    }

    /// Adds this to other readings of the same form. Of two that have come to the same point, the one that began first
    /// stays.
    pub(super) fn join(self, readings: &mut Vec<Self>) {
        if readings.iter().any(|other| other.replaces(&self)) {
            return;
        }
        readings.retain(|other| !self.replaces(other));
        readings.push(self);
        let latest = |index: &usize| (readings[*index].start(), usize::MAX - readings[*index].done);
        if readings.len() > MAX_READINGS
            && let Some(index) = (0..readings.len()).max_by_key(latest)
        {
            readings.swap_remove(index);
        }
    }

    /// Whether this finds everything that another reading finds.
    fn replaces(&self, other: &Self) -> bool {
        (self.at, self.done) == (other.at, other.done)
            && self.filler <= other.filler
            && self.start() <= other.start()
    }

    /// Forgets the tokens that are not part of the form.
    pub(super) fn forget(&mut self) {
        self.track.past.clear();
    }

    /// Adjusts the positions after the first bytes of the text were removed.
    pub(super) fn shift(&mut self, by: usize) {
        self.at -= by;
        self.track.form.iter_mut().for_each(|run| run.at -= by);
    }

    /// Reads on, at most to `limit` unless one token goes beyond it.
    fn step(&mut self, reader: &mut Reader<'_>, limit: usize) -> Step {
        let (form, text) = (reader.form, reader.text);
        // Plain bytes that match are nearly all of a secret.
        let meant = form.next_part(self.done);
        let plain = text[self.at..limit.max(self.at)].iter().zip(meant);
        let plain = plain.take_while(|(byte, meant)| byte == meant && form.is_certain(**byte)).count();
        if plain > 0 {
            append(&mut self.track.form, Run { at: self.at, count: plain, stride: 1 });
            self.at += plain;
            self.done += plain;
            self.filler = 0;
            return if self.completed(reader, limit) { Step::On } else { Step::Ends };
        }
        let Some(byte) = text.get(self.at) else {
            return if reader.at_end { Step::Ends } else { Step::Waits };
        };
        if is_plain(form.kind(), *byte) {
            let kept = form.beginning_before(self.done, *byte);
            let repeats = kept.is_some_and(|kept| self.repeat(reader, self.done - kept, limit));
            return if repeats || self.feed(reader, *byte, 1, limit) { Step::On } else { Step::Ends };
        }
        reader.tokens.clear();
        let incomplete = token::read(form.kind(), &text[self.at..], &mut reader.tokens);
        if incomplete && !reader.at_end {
            return Step::Waits;
        }
        reader.tokens.retain(|token| self.may_take(form, token.meaning));
        match reader.tokens[..] {
            [] => Step::Ends,
            [token] => {
                if self.take(reader, token, limit) {
                    Step::On
                } else {
                    Step::Ends
                }
            }
            _ => Step::Forks,
        }
    }

    /// Whether the reading goes on with a token of this meaning. For a character this is about its first byte.
    fn may_take(&self, form: &Form, meaning: Meaning) -> bool {
        let may_feed = |byte| form.beginning_before(self.done, byte).is_some();
        match meaning {
            Meaning::Byte(byte) => may_feed(byte) || form.is_blank_after(self.done, byte),
            Meaning::Char(c) => may_feed(c.encode_utf8(&mut [0; 4]).as_bytes()[0]),
            Meaning::Filler(filler) => self.done > 0 && form.admits(filler),
        }
    }

    /// Takes a token. Returns whether the reading goes on.
    fn take(&mut self, reader: &mut Reader<'_>, token: Token, limit: usize) -> bool {
        let form = reader.form;
        match token.meaning {
            Meaning::Byte(byte) if form.is_blank_after(self.done, byte) => {
                self.fill(token.taken, Filler::BLANK)
            }
            Meaning::Byte(byte) => self.feed(reader, byte, token.taken, limit),
            Meaning::Char(c) => {
                let mut bytes = [0; 4];
                let mut bytes = c.encode_utf8(&mut bytes).bytes();
                let last = bytes.next_back();
                // All bytes of the character begin where it begins.
                bytes.all(|byte| self.feed(reader, byte, 0, limit))
                    && last.is_some_and(|byte| self.feed(reader, byte, token.taken, limit))
            }
            Meaning::Filler(filler) => {
                self.done > 0 && form.admits(filler) && self.fill(token.taken, filler.weight())
            }
        }
    }

    fn fill(&mut self, taken: usize, weight: u8) -> bool {
        self.at += taken;
        self.filler += weight;
        self.filler <= Filler::MOST
    }

    /// Takes the next byte of the meaning. Returns whether the reading goes on.
    fn feed(&mut self, reader: &mut Reader<'_>, byte: u8, taken: usize, limit: usize) -> bool {
        let Some(done) = reader.form.beginning_before(self.done, byte) else {
            self.track.leave(self.done);
            self.done = 0;
            return false;
        };
        self.track.leave(self.done - done);
        append(&mut self.track.form, Run { at: self.at, count: 1, stride: taken });
        self.at += taken;
        self.done = done + 1;
        self.filler = 0;
        self.completed(reader, limit)
    }

    /// Reports the form if it is complete, and goes on with the longest beginning of the form that is also its end.
    /// Returns whether the reading goes on.
    fn completed(&mut self, reader: &mut Reader<'_>, limit: usize) -> bool {
        let form = reader.form;
        self.report(reader);
        if self.done < form.meaning().len() {
            return true;
        }
        let kept = form.beginning_at_end();
        self.repeat(reader, self.done - kept, limit);
        self.track.leave(self.done - kept);
        self.done = kept;
        kept > 0
    }

    fn report(&self, reader: &mut Reader<'_>) {
        if self.done >= reader.form.enough() {
            (reader.found)(self.start(), self.at);
        }
    }

    /// Skips repetitions of the last `period` bytes of the meaning. These bytes, read again, lead to the same point,
    /// because what has been read has this period. Returns whether there were any.
    fn repeat(&mut self, reader: &mut Reader<'_>, period: usize, limit: usize) -> bool {
        let (form, text) = (reader.form, reader.text);
        let run = match self.track.form.back_mut() {
            Some(run) if period < self.done && run.count > period && run.stride > 0 && self.at < limit => run,
            _ => return false,
        };
        let length = period * run.stride;
        let from = self.at - length;
        let equal = equal_bytes(&text[self.at..limit], &text[from..]);
        // A decimal number ends only before another byte.
        let times = equal.saturating_sub(usize::from(form.kind() == FormKind::Decimal)) / length;
        // Other bytes may have more than one meaning.
        let is_certain = match form.kind() {
            FormKind::Hex | FormKind::Decimal => true,
            FormKind::Text | FormKind::Base64 => {
                text[from..self.at].iter().all(|byte| form.is_certain(*byte))
            }
        };
        if times == 0 || !is_certain {
            return false;
        }
        run.count += times * period;
        // The whole stretch is one occurrence after the other.
        let start = self.start();
        self.at += times * length;
        self.track.leave(times * period);
        if self.done >= form.enough() {
            (reader.found)(start, self.at);
        }
        true
    }
}

/// How many of the first bytes are equal.
pub(super) fn equal_bytes(left: &[u8], right: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let blocks = left.chunks_exact(BLOCK).zip(right.chunks_exact(BLOCK));
    let equal = BLOCK * blocks.take_while(|(left, right)| left == right).count();
    equal + left[equal..].iter().zip(&right[equal..]).take_while(|(left, right)| left == right).count()
}

/// Reads one form in a text.
pub(super) struct Reader<'a> {
    form: &'a Form,
    text: &'a [u8],
    /// The text has no continuation.
    at_end: bool,
    /// Gets the start and end of every occurrence.
    found: &'a mut dyn FnMut(usize, usize),
    tokens: Vec<Token>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        form: &'a Form,
        text: &'a [u8],
        at_end: bool,
        found: &'a mut dyn FnMut(usize, usize),
    ) -> Self {
        Self { form, text, at_end, found, tokens: Vec::new() }
    }

    /// Reads on to the end of the text. Keeps the readings that wait for more. Those that have ended go to `ended` if
    /// they reach beyond `position`: other beginnings of the form on their way need not be read again.
    pub(super) fn read(&mut self, readings: &mut Vec<Reading>, ended: &mut Vec<Track>, position: usize) {
        let mut waiting = Vec::new();
        // The reading that is the furthest behind goes first, so that readings which meet become one.
        while let Some(index) = (0..readings.len()).min_by_key(|index| readings[*index].at) {
            let mut reading = readings.swap_remove(index);
            let next = readings.iter().map(|reading| reading.at).min();
            let limit = next.unwrap_or(usize::MAX).min(self.text.len());
            loop {
                match reading.step(self, limit) {
                    Step::On if reading.at < limit || readings.is_empty() => {}
                    Step::On => {
                        reading.join(readings);
                        break;
                    }
                    Step::Waits => {
                        reading.join(&mut waiting);
                        break;
                    }
                    Step::Ends => {
                        end(ended, reading.track, position);
                        break;
                    }
                    Step::Forks => {
                        self.fork(&reading, limit, readings);
                        end(ended, reading.track, position);
                        break;
                    }
                }
            }
        }
        *readings = waiting;
    }

    /// Goes on with each of several tokens.
    fn fork(&mut self, reading: &Reading, limit: usize, readings: &mut Vec<Reading>) {
        for token in std::mem::take(&mut self.tokens) {
            let mut branch = reading.clone();
            if branch.take(self, token, limit) {
                branch.join(readings);
            }
        }
    }
}

/// Keeps the track of a reading that has ended if it is worth it.
fn end(ended: &mut Vec<Track>, track: Track, position: usize) {
    if track.end() > position + BEGINNING {
        ended.push(track);
    }
}
