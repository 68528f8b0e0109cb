//! The log that people read: phases and steps with their times, the commands' own output untouched, a summary.

use super::{Sink, human_duration};
use crate::event::{Event, Outcome, RunFinished, RunStarted, Status};
use crate::exit::{Exit, Failure};
use crate::secret::{Masker, Masks};
use std::io::Write;

/// Writes the log of a run.
pub struct Console<W> {
    out: W,
    color: bool,
    masks: Masks,
    masker: Masker,
    /// The commands' output ended in the middle of a line.
    mid_line: bool,
    results: Vec<Outcome>,
}

#[derive(Clone, Copy)]
enum Color {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Color {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }
}

impl<W: Write> Console<W> {
    /// A log that goes to `out`.
    pub fn new(out: W, color: bool, masks: &Masks) -> Self {
        Self {
            out,
            color,
            masks: masks.clone(),
            masker: Masker::new(masks),
            mid_line: false,
            results: Vec::new(),
        }
    }

    /// Writes bytes. Where nobody reads the log any more the run goes on without it.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
            let _ = self.out.write_all(bytes).and_then(|()| self.out.flush());
        }
    }

    /// Writes a line of runner's own. What the mask holds back stays there: it may be the first half of a secret.
    fn line(&mut self, color: Color, text: &str) {
        let text = self.masks.text(text);
        let start = if self.mid_line { "\n" } else { "" };
        let line = if self.color {
            format!("{start}\x1b[{}m{text}\x1b[0m\n", color.code())
        } else {
            format!("{start}{text}\n")
        };
        self.write(line.as_bytes());
    }

    fn started(&mut self, run: &RunStarted) {
        let line = format!(
            "runner {} · {} · {} · {} · build {}",
            env!("CARGO_PKG_VERSION"),
            run.pipeline,
            run.mode,
            run.source,
            run.build_id
        );
        self.line(Color::Dim, &line);
    }

    fn failure(&mut self, prefix: &str, failure: &Failure) {
        self.line(Color::Red, &format!("{prefix}{}", failure.message));
        if let Some(help) = &failure.help {
            self.line(Color::Yellow, &format!("  help: {help}"));
        }
    }

    fn finished(&mut self, run: &RunFinished) {
        self.line(Color::Bold, "\n── summary");
        for outcome in std::mem::take(&mut self.results) {
            let line = format!("  {:<10} {:<12} {}", outcome.verb, outcome.subject, outcome.detail);
            self.line(Color::Green, &line);
        }
        let took = human_duration(run.elapsed);
        let Some(failure) = &run.failure else {
            self.line(Color::Green, &format!("✔ succeeded in {took}"));
            return;
        };
        let ending = match failure.exit {
            Exit::Signal(_) => "stopped",
            _ => "failed",
        };
        self.line(Color::Red, &format!("✘ {ending} after {took} (exit {})", failure.exit.code()));
        self.failure("  ", failure);
    }
}

impl<W: Write + Send> Sink for Console<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted(run) => self.started(run),
            Event::PhaseStarted { phase } => self.line(Color::Bold, &format!("\n── {phase}")),
            Event::PhaseSkipped { phase, reason } => {
                self.line(Color::Dim, &format!("\n── {phase}: skipped, {reason}"));
            }
            Event::PhaseFinished { phase, status, elapsed } => {
                let took = human_duration(*elapsed);
                if status.failure().is_some() {
                    self.line(Color::Red, &format!("── {phase} failed after {took}"));
                } else {
                    self.line(Color::Bold, &format!("── {phase} done in {took}"));
                }
            }
            Event::StepStarted { title, finally } => {
                let mark = if *finally { "▸ finally: " } else { "▸ " };
                self.line(Color::Bold, &format!("{mark}{title}"));
            }
            Event::StepSkipped { title, reason } => {
                self.line(Color::Dim, &format!("▹ {title}: skipped, {reason}"));
            }
            Event::Output(bytes) => {
                let shown = self.masker.push(bytes);
                self.write(&shown);
            }
            Event::OutputEnd => {
                let rest = self.masker.finish();
                self.write(&rest);
            }
            Event::Note(text) => self.line(Color::Dim, &format!("  {text}")),
            Event::Warning(text) => self.line(Color::Yellow, &format!("  warning: {text}")),
            Event::StepFinished { title, status, elapsed } => {
                let took = human_duration(*elapsed);
                match status {
                    Status::Succeeded => self.line(Color::Green, &format!("✔ {title} ({took})")),
                    Status::Failed(failure) => self.failure(&format!("✘ {title} ({took}): "), failure),
                }
            }
            Event::Result(outcome) => self.results.push(outcome.clone()),
            Event::RunFinished(run) => self.finished(run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn log(events: &[Event], masks: &Masks) -> String {
        let mut console = Console::new(Vec::new(), false, masks);
        for event in events {
            console.event(event);
        }
        String::from_utf8_lossy(&console.out).into_owned()
    }

    #[test]
    fn output_without_a_newline_does_not_swallow_the_next_line() {
        let log =
            log(&[Event::Output(b"no newline".to_vec()), Event::Note("next".to_owned())], &Masks::default());
        assert_eq!(log, "no newline\n  next\n");
    }

    #[test]
    fn secrets_are_masked_in_output_and_in_messages() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let log = log(
            &[
                Event::Output(b"pass hunt".to_vec()),
                Event::Output(b"er2\n".to_vec()),
                Event::Warning("hunter2 is weak".to_owned()),
            ],
            &masks,
        );
        assert_eq!(log, "pass ***\n  warning: *** is weak\n");
    }

    #[test]
    fn a_line_in_between_does_not_tear_a_secret_apart() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let events = [
            Event::Output(b"a hunt".to_vec()),
            Event::Note("note".to_owned()),
            Event::Output(b"er2 b hun".to_vec()),
            Event::OutputEnd,
        ];
        assert_eq!(log(&events, &masks), "a \n  note\n*** b hun");
    }
}
