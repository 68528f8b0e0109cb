//! The log that people read: phases and steps with their times, the commands' own output untouched, a summary.

use super::summary::{self, Summary};
use super::{Sink, human_duration};
use crate::event::{BuildOpened, Cause, Ending, Event, Kind, Wants};
use crate::exit::Exit;
use crate::secret::Shown;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;

/// The longest title that lines begin with, in characters.
const PREFIX: usize = 24;

/// Writes the log of a run.
pub(crate) struct Console<W> {
    out: W,
    color: bool,
    /// The running steps by id, with the prefix of their lines; it is empty for a step that runs alone.
    prefixes: HashMap<String, String>,
    /// The log ends in the middle of a line, which this step wrote.
    mid_line: Option<String>,
    summary: Summary,
    /// The current work, below the log.
    view: Option<View>,
}

/// The end of a terminal, where what is under way is shown until the log goes on.
struct View {
    /// The terminal's columns and lines.
    size: fn() -> (usize, usize),
    lines: BTreeMap<String, Vec<Shown>>,
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
    fn draw(&mut self) -> String {
        let (columns, rows) = (self.size)();
        let all: Vec<&Shown> = self.lines.values().flatten().collect();
        let shown = &all[all.len().saturating_sub(rows / 2)..];
        self.drawn = shown.len();
        let line = |line: &&Shown| {
            let plain = line.chars().filter(|character| !character.is_control());
            format!("\x1b[2m{}\x1b[0m\n", plain.take(columns.saturating_sub(1)).collect::<String>())
        };
        shown.iter().map(line).collect()
    }
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
    pub(crate) fn new(out: W, color: bool) -> Self {
        Self { out, color, prefixes: HashMap::new(), mid_line: None, summary: Summary::default(), view: None }
    }

    /// The log ends on a terminal of this size, in columns and lines, and the current work is shown below it.
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

    /// Writes bytes. If the reader of the log has gone away, the run goes on without it.
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
    fn note(&mut self, color: Color, step: &str, text: &str) {
        let prefix = self.prefixes.get(step).filter(|prefix| !prefix.is_empty());
        let line = format!("{}{text}", prefix.map_or("  ", String::as_str));
        self.line(color, &line);
    }

    /// Writes one of runner's own lines.
    fn line(&mut self, color: Color, text: &str) {
        let start = if self.mid_line.take().is_some() { "\n" } else { "" };
        let line = if self.color {
            format!("{start}\x1b[{}m{text}\x1b[0m\n", color.code())
        } else {
            format!("{start}{text}\n")
        };
        self.write(line.as_bytes());
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
        self.line(Color::Dim, &line);
    }

    fn cause(&mut self, prefix: &str, cause: &Cause) {
        self.line(Color::Red, &format!("{prefix}{}", cause.text));
        if let Some(help) = &cause.help {
            self.line(Color::Yellow, &format!("  help: {help}"));
        }
    }

    fn started(&mut self, step: &str, title: &Shown, finally: bool, beside: bool) {
        let prefix = if beside { prefix(title) } else { String::new() };
        self.prefixes.insert(step.to_owned(), prefix);
        let mark = if finally { "▸ finally: " } else { "▸ " };
        self.line(Color::Bold, &format!("{mark}{title}"));
    }

    fn finished(&mut self, step: &str, title: &Shown, ending: &Ending, took: &str) {
        self.prefixes.remove(step);
        if let Some(view) = &mut self.view {
            view.lines.retain(|id, _| id != step);
        }
        match ending {
            Ending::Succeeded => self.line(Color::Green, &format!("✔ {title} ({took})")),
            Ending::Failed(cause) => self.cause(&format!("✘ {title} ({took}): "), cause),
            Ending::Stopped(cause) => self.cause(&format!("■ {title} ({took}): "), cause),
            Ending::Cancelled => {
                self.line(Color::Yellow, &format!("■ {title} ({took}): ended with its group"));
            }
        }
    }

    fn ended(&mut self, ending: &Ending, exit: Exit, took: &str) {
        self.line(Color::Bold, "\n── summary");
        for result in std::mem::take(&mut self.summary).lines() {
            let line = format!("  {:<10} {:<12} {}", result.verb, result.subject, result.detail);
            self.line(Color::Green, line.trim_end());
        }
        match ending {
            Ending::Succeeded | Ending::Cancelled => {
                self.line(Color::Green, &format!("✔ succeeded in {took}"));
            }
            Ending::Failed(cause) | Ending::Stopped(cause) => {
                let verb = if matches!(ending, Ending::Stopped(_)) { "stopped" } else { "failed" };
                self.line(Color::Red, &format!("✘ {verb} after {took} (exit {})", exit.code()));
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
        self.note(Color::Yellow, event.id.of_step(), &text);
    }
}

/// The prefix of the lines of a step that does not run alone: its title, shortened to the length of a name.
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
            Kind::BuildOpened(build) => self.opened(build),
            Kind::PhaseStarted => self.line(Color::Bold, &format!("\n── {step}")),
            Kind::PhaseSkipped { reason } => {
                self.line(Color::Dim, &format!("\n── {step}: skipped, {}", reason.text));
            }
            Kind::PhaseFinished { ending, elapsed } => {
                let took = human_duration(*elapsed);
                match ending {
                    Ending::Failed(_) => self.line(Color::Red, &format!("── {step} failed after {took}")),
                    Ending::Stopped(_) => self.line(Color::Red, &format!("── {step} stopped after {took}")),
                    _ => self.line(Color::Bold, &format!("── {step} done in {took}")),
                }
            }
            Kind::StepStarted(started) => {
                self.started(step, &started.title, started.finally, started.beside);
            }
            Kind::GroupStarted { title, finally, beside, .. } => {
                self.started(step, title, *finally, *beside);
            }
            Kind::StepSkipped { title, reason } => {
                self.line(Color::Dim, &format!("▹ {title}: skipped, {}", reason.text));
            }
            Kind::Output(chunk) => self.output(step, chunk.bytes()),
            Kind::Note(text) => self.note(Color::Dim, step, text),
            Kind::Warning(text) => self.note(Color::Yellow, step, &format!("warning: {text}")),
            Kind::AttemptFinished { ending, retry_in: Some(retry_in), allowed, .. } => {
                self.retried(event, ending, *retry_in, *allowed);
            }
            Kind::StepFinished { title, ending, elapsed, .. }
            | Kind::GroupFinished { title, ending, elapsed } => {
                self.finished(step, title, ending, &human_duration(*elapsed));
            }
            Kind::CallFinished { ending, exit, elapsed } => {
                self.ended(ending, *exit, &human_duration(*elapsed));
            }
            kind => match summary::deployment_state(kind) {
                Some(state) => self.note(Color::Dim, step, &state),
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
