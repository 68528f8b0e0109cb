//! The human-readable log: phases and steps with their times, the output of commands unchanged, a summary.

use super::summary::{self, Summary};
use super::{Sink, human_duration};
use crate::event::{BuildOpened, Cause, Ending, Event, Kind, Wants};
use crate::exit::Exit;
use crate::secret::Shown;
use crate::style::Styles;
use anstyle::Style;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use unicode_width::UnicodeWidthChar;

/// The longest title in the prefix of a line, in characters.
const PREFIX: usize = 24;

/// Writes the log of a run.
pub(crate) struct Console<W> {
    out: W,
    styles: Styles,
    /// The prefixes of running steps' lines by id. The prefix of a step that runs alone is empty.
    prefixes: HashMap<String, String>,
    /// The step whose output ends in the middle of a line.
    mid_line: Option<String>,
    summary: Summary,
    /// The current work, below the log.
    view: Option<View>,
}

/// The current work, shown below the log until the log continues.
struct View {
    /// Returns the terminal's columns and lines.
    size: fn() -> (usize, usize),
    lines: BTreeMap<String, Vec<Shown>>,
    /// How many lines are on the screen.
    drawn: usize,
}

impl View {
    /// The escape codes that remove the lines from the screen.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// The lines, cut so that none wraps. Only the last ones are shown if there are too many.
    fn draw(&mut self) -> String {
        let (columns, rows) = (self.size)();
        let all: Vec<&Shown> = self.lines.values().flatten().collect();
        let shown = &all[all.len().saturating_sub(rows / 2)..];
        self.drawn = shown.len();
        let dim = Styles::new(true).dim;
        let line = |line: &&Shown| format!("{dim}{}{dim:#}\n", cut(line, columns.saturating_sub(1)));
        shown.iter().map(line).collect()
    }
}

/// The beginning of a string that fits into this many columns of a terminal, without control characters.
fn cut(text: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |character: &char| {
        used += character.width().unwrap_or(0);
        used <= columns
    };
    text.chars().filter(|character| !character.is_control()).take_while(fits).collect()
}

impl<W: Write> Console<W> {
    pub(crate) fn new(out: W, color: bool) -> Self {
        Self {
            out,
            styles: Styles::new(color),
            prefixes: HashMap::new(),
            mid_line: None,
            summary: Summary::default(),
            view: None,
        }
    }

    /// Shows the current work below the log, on a terminal with these columns and lines.
    #[must_use]
    pub(crate) fn on_terminal(mut self, size: fn() -> (usize, usize)) -> Self {
        self.view = Some(View { size, lines: BTreeMap::new(), drawn: 0 });
        self
    }

    /// Shows the current work if the log is at the start of a line.
    fn show(&mut self) {
        if let (Some(view), None) = (&mut self.view, &self.mid_line) {
            let (erased, drawn) = (view.erase(), view.draw());
            if !(erased.is_empty() && drawn.is_empty()) {
                let _ = self.out.write_all((erased + &drawn).as_bytes()).and_then(|()| self.out.flush());
            }
        }
    }

    /// Writes bytes. If the reader of the log is gone, the run continues without it.
    fn write(&mut self, bytes: &[u8]) {
        let erased = self.view.as_mut().map(View::erase).unwrap_or_default();
        let written = self.out.write_all(erased.as_bytes()).and_then(|()| self.out.write_all(bytes));
        let _ = written.and_then(|()| self.out.flush());
    }

    /// Writes the output of a step.
    fn output(&mut self, step: &str, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let prefix = self.prefixes.get(step).cloned().unwrap_or_default();
        let ends_line = *last == b'\n';
        if prefix.is_empty() {
            self.write(bytes);
        } else {
            let mut out = Vec::with_capacity(bytes.len() + prefix.len() * 4);
            if self.mid_line.as_ref().is_some_and(|other| other != step) {
                out.push(b'\n');
            }
            for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
                if number > 0 || self.mid_line.as_deref() != Some(step) {
                    out.extend_from_slice(prefix.as_bytes());
                }
                out.extend_from_slice(line);
            }
            self.write(&out);
        }
        self.mid_line = (!ends_line).then(|| step.to_owned());
    }

    /// Writes one of runner's own lines about a step.
    fn note(&mut self, style: Style, step: &str, text: &str) {
        let prefix = self.prefixes.get(step).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map_or("  ", String::as_str);
        // Only the first line of a text can look like a line of runner.
        let text = text.replace('\n', &format!("\n{prefix}  "));
        let line = format!("{prefix}{text}");
        self.line(style, &line);
    }

    /// Writes one of runner's own lines.
    fn line(&mut self, style: Style, text: &str) {
        let start = if self.mid_line.take().is_some() { "\n" } else { "" };
        self.write(format!("{start}{style}{text}{style:#}\n").as_bytes());
    }

    fn opened(&mut self, build: &BuildOpened) {
        let line = format!(
            "runner {} · {} · {} · {} · build {}",
            env!("CARGO_PKG_VERSION"),
            build.pipeline,
            build.mode,
            build.source.summary(),
            build.build_id
        );
        self.line(self.styles.dim, &indented(&line));
    }

    fn cause(&mut self, prefix: &str, cause: &Cause) {
        self.line(self.styles.red, &format!("{prefix}{}", indented(&cause.text)));
        if let Some(help) = &cause.help {
            self.line(self.styles.yellow, &format!("  help: {}", indented(help)));
        }
    }

    fn started(&mut self, step: &str, title: &Shown, finally: bool, beside: bool) {
        let prefix = if beside { prefix(title) } else { String::new() };
        self.prefixes.insert(step.to_owned(), prefix);
        let mark = if finally { "▸ finally: " } else { "▸ " };
        self.line(self.styles.bold, &format!("{mark}{}", indented(title)));
    }

    fn finished(&mut self, step: &str, title: &Shown, ending: &Ending, took: &str) {
        self.prefixes.remove(step);
        if let Some(view) = &mut self.view {
            view.lines.retain(|id, _| id != step);
        }
        let title = indented(title);
        match ending {
            Ending::Succeeded => self.line(self.styles.green, &format!("✔ {title} ({took})")),
            Ending::Failed(cause) => self.cause(&format!("✘ {title} ({took}): "), cause),
            Ending::Stopped(cause) => self.cause(&format!("■ {title} ({took}): "), cause),
            Ending::Cancelled => {
                self.line(self.styles.yellow, &format!("■ {title} ({took}): ended with its group"));
            }
        }
    }

    fn ended(&mut self, ending: &Ending, exit: Exit, took: &str, last: bool) {
        if !last && matches!(ending, Ending::Succeeded) && self.summary.lines().is_empty() {
            // The phases of this call are done, as the log says, and the build goes on.
            return;
        }
        self.line(self.styles.bold, "\n── summary");
        for result in std::mem::take(&mut self.summary).lines() {
            let line = format!("  {:<10} {:<12} {}", result.verb, result.subject, result.detail);
            self.line(self.styles.green, &indented(line.trim_end()));
        }
        match ending {
            Ending::Succeeded | Ending::Cancelled => {
                self.line(self.styles.green, &format!("✔ succeeded in {took}"));
            }
            Ending::Failed(cause) | Ending::Stopped(cause) => {
                let verb = if matches!(ending, Ending::Stopped(_)) { "stopped" } else { "failed" };
                self.line(self.styles.red, &format!("✘ {verb} after {took} (exit {})", exit.code()));
                self.cause("  ", cause);
            }
        }
    }

    /// A failed attempt that is followed by another one.
    fn retried(&mut self, event: &Event, ending: &Ending, retry_in: std::time::Duration, allowed: u32) {
        let number = event.id.as_str().rsplit('#').next().unwrap_or_default();
        let reason = ending.cause().map(|cause| cause.text.to_string()).unwrap_or_default();
        let text = format!(
            "warning: attempt {number} of {allowed} failed: {reason}; retrying in {:.1} s",
            retry_in.as_secs_f64()
        );
        self.note(self.styles.yellow, event.id.of_step(), &text);
    }
}

/// A text whose further lines are indented, so that only its first line can look like a line of runner.
fn indented(text: &str) -> String {
    text.replace('\n', "\n    ")
}

/// The prefix of a parallel step's lines: its title, shortened.
fn prefix(title: &Shown) -> String {
    let mut short: String = title.chars().take(PREFIX).collect();
    if short.len() < title.len() {
        short.push('…');
    }
    format!("{short} │ ")
}

impl<W: Write + Send> Sink for Console<W> {
    fn wants(&self) -> Wants {
        Wants { output: true, numbered_output: false, live: self.view.is_some() }
    }

    fn event(&mut self, event: &Event) {
        let step = event.id.of_step();
        match &event.kind {
            Kind::Live(lines) => {
                if let Some(view) = &mut self.view {
                    view.lines.insert(step.to_owned(), lines.clone());
                }
            }
            // The first call of the build has named it.
            Kind::BuildOpened(build) if !build.continues => self.opened(build),
            Kind::PhaseStarted => self.line(self.styles.bold, &format!("\n── {step}")),
            Kind::PhaseSkipped { reason } => {
                self.line(self.styles.dim, &format!("\n── {step}: skipped, {}", indented(&reason.text)));
            }
            Kind::PhaseFinished { ending, elapsed } => {
                let took = human_duration(*elapsed);
                match ending {
                    Ending::Failed(_) => {
                        self.line(self.styles.red, &format!("── {step} failed after {took}"));
                    }
                    Ending::Stopped(_) => {
                        self.line(self.styles.red, &format!("── {step} stopped after {took}"));
                    }
                    _ => self.line(self.styles.bold, &format!("── {step} done in {took}")),
                }
            }
            Kind::StepStarted(started) => {
                self.started(step, &started.title, started.finally, started.beside);
            }
            Kind::GroupStarted { title, finally, beside, .. } => {
                self.started(step, title, *finally, *beside);
            }
            Kind::StepSkipped { title, reason } => {
                let (title, reason) = (indented(title), indented(&reason.text));
                self.line(self.styles.dim, &format!("▹ {title}: skipped, {reason}"));
            }
            Kind::Output(chunk) => self.output(step, chunk.bytes()),
            Kind::Note(text) => self.note(self.styles.dim, step, text),
            Kind::Warning(text) => self.note(self.styles.yellow, step, &format!("warning: {text}")),
            Kind::AttemptFinished { ending, retry_in: Some(retry_in), allowed, .. } => {
                self.retried(event, ending, *retry_in, *allowed);
            }
            Kind::StepFinished { title, ending, elapsed, .. }
            | Kind::GroupFinished { title, ending, elapsed } => {
                self.finished(step, title, ending, &human_duration(*elapsed));
            }
            Kind::CallFinished { ending, exit, elapsed, last } => {
                self.ended(ending, *exit, &human_duration(*elapsed), *last);
            }
            kind => match summary::deployment_state(kind) {
                Some(state) => self.note(self.styles.dim, step, &state),
                None => self.summary.add(kind),
            },
        }
        self.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Events, Id, StepStarted};
    use crate::secret::Masks;
    use tokio::sync::mpsc;

    fn step(number: usize) -> Id {
        Id::phase("build").step(number, false)
    }

    fn started(events: &Events, number: usize, beside: bool) -> Kind {
        Kind::StepStarted(StepStarted {
            kind: "run",
            title: events.shown(format!("s{number}")),
            finally: false,
            beside,
            attempts_allowed: 1,
            timeout: None,
            line: None,
        })
    }

    async fn write(events: &Events, number: usize, text: &str) {
        let (output, stream) = events.of(step(number).attempt(1)).output();
        output.send(text.into()).await.unwrap();
        drop(output);
        stream.close().await;
    }

    fn open() -> (Events, mpsc::Receiver<Event>) {
        let wants = Wants { output: true, numbered_output: false, live: true };
        let (events, mut channels) = Events::open(&[wants], 64, &Masks::default(), 1, 0);
        (events, channels.remove(0))
    }

    async fn log(
        console: Console<Vec<u8>>,
        (events, mut channel): (Events, mpsc::Receiver<Event>),
    ) -> String {
        let mut console = console;
        drop(events);
        while let Some(event) = channel.recv().await {
            console.event(&event);
        }
        String::from_utf8_lossy(&console.out).into_owned()
    }

    #[tokio::test]
    async fn output_without_a_newline_does_not_swallow_the_next_line() {
        let (events, channel) = open();
        events.send_for(step(1), started(&events, 1, false)).await;
        write(&events, 1, "no newline").await;
        events.note("next").await;
        let log = log(Console::new(Vec::new(), false), (events, channel)).await;
        assert_eq!(log, "▸ s1\nno newline\n  next\n");
    }

    #[tokio::test]
    async fn a_terminal_shows_the_current_work_below_the_log() {
        let (events, channel) = open();
        events.send_for(step(1), started(&events, 1, false)).await;
        let attempt = events.of(step(1).attempt(1));
        attempt.live(vec!["more than fits in it".to_owned()]).await;
        events.note("x").await;
        attempt.live(Vec::new()).await;
        drop(attempt);
        let console = Console::new(Vec::new(), false).on_terminal(|| (12, 10));
        let shown = "\x1b[2mmore than f\x1b[0m\n";
        let up = "\x1b[1A\x1b[J";
        assert_eq!(log(console, (events, channel)).await, format!("▸ s1\n{shown}{up}  x\n{shown}{up}"));
    }

    #[test]
    fn lines_of_the_current_work_never_wrap() {
        assert_eq!(cut("日本語 text", 5), "日本");
        assert_eq!(cut("a\u{1b}b\tc", 2), "ab");
        assert_eq!(cut("e\u{301}x", 1), "e\u{301}");
    }

    #[test]
    fn colours_are_escape_codes() {
        let mut console = Console::new(Vec::new(), true);
        let Styles { bold, dim, green, yellow, red, .. } = console.styles;
        for style in [bold, dim, green, yellow, red] {
            console.line(style, "x");
        }
        let expected =
            "\x1b[1mx\x1b[0m\n\x1b[2mx\x1b[0m\n\x1b[32mx\x1b[0m\n\x1b[33mx\x1b[0m\n\x1b[31mx\x1b[0m\n";
        assert_eq!(String::from_utf8_lossy(&console.out), expected);
    }

    #[tokio::test]
    async fn steps_side_by_side_keep_their_lines_apart() {
        let (events, channel) = open();
        events.send_for(step(1), started(&events, 1, true)).await;
        events.send_for(step(2), started(&events, 2, true)).await;
        write(&events, 1, "one\ntw").await;
        write(&events, 2, "and more\n").await;
        write(&events, 1, "o").await;
        events.of(step(2).attempt(1)).note("note").await;
        write(&events, 1, "end").await;
        let log = log(Console::new(Vec::new(), false), (events, channel)).await;
        assert_eq!(log, "▸ s1\n▸ s2\ns1 │ one\ns1 │ tw\ns2 │ and more\ns1 │ o\ns2 │ note\ns1 │ end");
    }
}
