//! The events of a run as JSON lines, `runner.events/1`.

use super::Sink;
use crate::event::{Event, Kind, Wants, wire};
use std::io::Write;

/// Writes a line for each event.
pub(crate) struct JsonLines<W> {
    out: W,
    /// Whether to write the output of commands as well.
    output: bool,
}

impl<W: Write> JsonLines<W> {
    pub(crate) fn new(out: W, output: bool) -> Self {
        Self { out, output }
    }
}

impl<W: Write + Send> Sink for JsonLines<W> {
    fn wants(&self) -> Wants {
        Wants { output: self.output, numbered_output: self.output, live: false }
    }

    fn event(&mut self, event: &Event) {
        debug_assert!(self.output || !matches!(event.kind, Kind::Output(_)), "output was not asked for");
        if let Some(mut line) = wire::line(event) {
            line.push('\n');
            // If the reader has gone away, the run goes on without it.
            let _ = self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}
