//! The log that people read: phases and steps with their times, the commands' own output untouched, a summary.

use super::{Sink, human_duration};
use crate::event::{Event, Outcome, RunFinished, RunStarted, Status, Wants};
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::StepId;
use crate::secret::{Masker, Masks};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;

/// The longest title that lines begin with, in characters.
const PREFIX: usize = 24;

/// Writes the log of a run.
pub(crate) struct Console<W> {
    out: W,
    color: bool,
    masks: Masks,
    /// The output of the steps under way.
    streams: HashMap<StepId, Stream>,
    /// The log ends in the middle of a line, which this step wrote.
    mid_line: Option<StepId>,
    results: Vec<Outcome>,
    /// What is under way, below the log.
    view: Option<View>,
}

/// The end of a terminal, where what is under way is shown until the log goes on.
struct View {
    /// The terminal's columns and lines.
    size: fn() -> (usize, usize),
    lines: BTreeMap<StepId, Vec<String>>,
    /// How many lines are on the screen now.
    drawn: usize,
}

impl View {
    /// What takes the lines off the screen again.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// The lines, so short that each is one on the screen. Longer lists lose their beginning.
    fn draw(&mut self, masks: &Masks) -> String {
        let (columns, rows) = (self.size)();
        let all: Vec<&String> = self.lines.values().flatten().collect();
        let shown = &all[all.len().saturating_sub(rows / 2)..];
        self.drawn = shown.len();
        let line = |line: &&String| {
            let text = masks.text(line);
            let plain = text.chars().filter(|character| !character.is_control());
            format!("\x1b[2m{}\x1b[0m\n", plain.take(columns.saturating_sub(1)).collect::<String>())
        };
        shown.iter().map(line).collect()
    }
}

/// The output of a step.
struct Stream {
    masker: Masker,
    /// What its lines begin with, where it is not alone.
    prefix: String,
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
    pub(crate) fn new(out: W, color: bool, masks: &Masks) -> Self {
        Self {
            out,
            color,
            masks: masks.clone(),
            streams: HashMap::new(),
            mid_line: None,
            results: Vec::new(),
            view: None,
        }
    }

    /// The log ends on a terminal of this size, in columns and lines, and what is under way is shown below it.
    #[must_use]
    pub(crate) fn on_terminal(mut self, size: fn() -> (usize, usize)) -> Self {
        self.view = Some(View { size, lines: BTreeMap::new(), drawn: 0 });
        self
    }

    /// Shows what is under way, where the log is at the beginning of a line.
    fn show(&mut self) {
        if let (Some(view), None) = (&mut self.view, self.mid_line) {
            let (erased, drawn) = (view.erase(), view.draw(&self.masks));
            if !(erased.is_empty() && drawn.is_empty()) {
                let _ = self.out.write_all((erased + &drawn).as_bytes()).and_then(|()| self.out.flush());
            }
        }
    }

    /// Writes bytes. Where nobody reads the log any more the run goes on without it.
    fn write(&mut self, bytes: &[u8]) {
        let erased = self.view.as_mut().map(View::erase).unwrap_or_default();
        let written = self.out.write_all(erased.as_bytes()).and_then(|()| self.out.write_all(bytes));
        let _ = written.and_then(|()| self.out.flush());
    }

    /// Writes what a step wrote, with its masks.
    fn output(&mut self, step: StepId, shown: &[u8]) {
        let Some(last) = shown.last() else { return };
        let prefix = self.streams.get(&step).map(|stream| stream.prefix.clone()).unwrap_or_default();
        let ends_line = *last == b'\n';
        if prefix.is_empty() {
            self.write(shown);
        } else {
            let mut out = Vec::with_capacity(shown.len() + prefix.len() * 4);
            if self.mid_line.is_some_and(|other| other != step) {
                out.push(b'\n');
            }
            for (number, line) in shown.split_inclusive(|byte| *byte == b'\n').enumerate() {
                if number > 0 || self.mid_line != Some(step) {
                    out.extend_from_slice(prefix.as_bytes());
                }
                out.extend_from_slice(line);
            }
            self.write(&out);
        }
        self.mid_line = (!ends_line).then_some(step);
    }

    /// What the lines of a step begin with that is not alone: its title, as short as names are.
    fn prefix(&self, title: &str) -> String {
        let title = self.masks.text(title);
        let mut short: String = title.chars().take(PREFIX).collect();
        if short.len() < title.len() {
            short.push('…');
        }
        format!("{short} │ ")
    }

    /// Writes a line of a step's own. What the mask holds back stays there: it may be the first half of a secret.
    fn note(&mut self, color: Color, step: Option<StepId>, text: &str) {
        let stream = step.and_then(|step| self.streams.get(&step));
        let prefix = stream.map(|stream| stream.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let line = format!("{}{text}", prefix.unwrap_or("  "));
        self.line(color, &line);
    }

    /// Writes a line of runner's own.
    fn line(&mut self, color: Color, text: &str) {
        let text = self.masks.text(text);
        let start = if self.mid_line.take().is_some() { "\n" } else { "" };
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
    fn wants(&self) -> Wants {
        Wants { output: true, live: self.view.is_some() }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Live { step, lines } => {
                if let Some(view) = &mut self.view {
                    view.lines.insert(*step, lines.clone());
                }
            }
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
            Event::StepStarted { step, title, finally, beside } => {
                let prefix = if *beside { self.prefix(title) } else { String::new() };
                self.streams.insert(*step, Stream { masker: Masker::new(&self.masks), prefix });
                let mark = if *finally { "▸ finally: " } else { "▸ " };
                self.line(Color::Bold, &format!("{mark}{title}"));
            }
            Event::StepSkipped { title, reason } => {
                self.line(Color::Dim, &format!("▹ {title}: skipped, {reason}"));
            }
            Event::Output { step, bytes } => {
                let shown = self.streams.get_mut(step).map(|stream| stream.masker.push(bytes));
                self.output(*step, &shown.unwrap_or_default());
            }
            Event::OutputEnd { step } => {
                let rest = self.streams.get_mut(step).map(|stream| stream.masker.finish());
                self.output(*step, &rest.unwrap_or_default());
            }
            Event::Note { step, text } => self.note(Color::Dim, *step, text),
            Event::Warning { step, text } => self.note(Color::Yellow, *step, &format!("warning: {text}")),
            Event::StepFinished { step, title, status, elapsed } => {
                self.streams.remove(step);
                if let Some(view) = &mut self.view {
                    view.lines.remove(step);
                }
                let took = human_duration(*elapsed);
                match status {
                    Status::Succeeded => self.line(Color::Green, &format!("✔ {title} ({took})")),
                    Status::Failed(failure) => self.failure(&format!("✘ {title} ({took}): "), failure),
                    Status::Cancelled => {
                        let line = format!("■ {title} ({took}): ended with its group");
                        self.line(Color::Yellow, &line);
                    }
                }
            }
            Event::Result(outcome) => self.results.push(outcome.clone()),
            Event::RunFinished(run) => self.finished(run),
        }
        self.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const STEP: StepId = StepId(1);

    fn begun(step: StepId, beside: bool) -> Event {
        Event::StepStarted { step, title: format!("s{}", step.0), finally: false, beside }
    }

    fn output(step: StepId, text: &str) -> Event {
        Event::Output { step, bytes: text.as_bytes().to_vec().into() }
    }

    fn note(text: &str) -> Event {
        Event::Note { step: None, text: text.to_owned() }
    }

    fn log(events: &[Event], masks: &Masks) -> String {
        let mut console = Console::new(Vec::new(), false, masks);
        for event in events {
            console.event(event);
        }
        String::from_utf8_lossy(&console.out).into_owned()
    }

    #[test]
    fn output_without_a_newline_does_not_swallow_the_next_line() {
        let log = log(&[begun(STEP, false), output(STEP, "no newline"), note("next")], &Masks::default());
        assert_eq!(log, "▸ s1\nno newline\n  next\n");
    }

    #[test]
    fn secrets_are_masked_in_output_and_in_messages() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let events =
            [begun(STEP, false), output(STEP, "pass hunt"), output(STEP, "er2\n"), note("hunter2 is weak")];
        assert_eq!(log(&events, &masks), "▸ s1\npass ***\n  *** is weak\n");
    }

    #[test]
    fn a_line_in_between_does_not_tear_a_secret_apart() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let events = [
            begun(STEP, false),
            output(STEP, "a hunt"),
            note("note"),
            output(STEP, "er2 b hun"),
            Event::OutputEnd { step: STEP },
        ];
        assert_eq!(log(&events, &masks), "▸ s1\na \n  note\n*** b hun");
    }

    #[test]
    fn a_terminal_shows_what_is_under_way_below_the_log() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let mut console = Console::new(Vec::new(), false, &masks).on_terminal(|| (12, 10));
        let live = |lines: &[&str]| Event::Live {
            step: STEP,
            lines: lines.iter().map(ToString::to_string).collect(),
        };
        for event in [begun(STEP, false), live(&["hunter2 and more than fits"]), note("x"), live(&[])] {
            console.event(&event);
        }
        let shown = "\x1b[2m*** and mor\x1b[0m\n";
        let up = "\x1b[1A\x1b[J";
        assert_eq!(String::from_utf8(console.out).unwrap(), format!("▸ s1\n{shown}{up}  x\n{shown}{up}"));
    }

    #[test]
    fn steps_side_by_side_keep_their_lines_and_their_secrets_apart() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let other = StepId(2);
        let events = [
            begun(STEP, true),
            begun(other, true),
            output(STEP, "one\ntw"),
            output(other, "hun"),
            output(other, "ter2 and more\n"),
            output(STEP, "o hun"),
            Event::Note { step: Some(other), text: "note".to_owned() },
            Event::OutputEnd { step: STEP },
        ];
        let expected = "▸ s1\n▸ s2\ns1 │ one\ns1 │ tw\ns2 │ *** and more\ns1 │ o \ns2 │ note\ns1 │ hun";
        assert_eq!(log(&events, &masks), expected);
    }
}
