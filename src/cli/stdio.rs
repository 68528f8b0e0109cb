//! The process's own standard streams.

use crate::exit::Failure;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io::{IsTerminal, Write};

/// Whether a stream takes colours.
pub(crate) fn color(stream: &impl IsTerminal, no_color: bool) -> bool {
    let forbidden = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && stream.is_terminal()
}

/// Whether stdout is a terminal whose lines can be taken back.
pub(crate) fn is_screen() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    !dumb && std::io::stdout().is_terminal()
}

/// The terminal's columns and lines; the usual ones where it does not say.
pub(crate) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Writes the result of a command to stdout. A reader that has gone away is no failure.
pub(crate) fn result(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::environment(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a result as an indented JSON document.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::environment(error.to_string()))?;
    result(&format!("{text}\n"))
}

/// Writes a text to stderr. Where nobody reads it there is nobody left to tell.
pub(crate) fn text(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a failure and its help to stderr.
pub(crate) fn error(failure: &Failure, no_color: bool) {
    let (bold, yellow, end) = if color(&std::io::stderr(), no_color) {
        ("\x1b[1;31m", "\x1b[33m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    text(&format!("{bold}error:{end} {}", failure.message));
    if let Some(help) = &failure.help {
        text(&format!("{yellow}help:{end} {help}"));
    }
}

/// stdout as the log of a run: nothing is lost where it does not take everything at once. A reader that has gone away is
/// nobody to tell; any other reason why the log stops is said once, on stderr.
pub(crate) struct Log {
    /// Nothing is written any more.
    ended: bool,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { ended: false }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let stdout = std::io::stdout();
        while !self.ended {
            match rustix::io::write(&stdout, bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                // Other programs that share it may have made it so.
                Err(Errno::AGAIN) => {
                    let mut wanted = [PollFd::new(&stdout, PollFlags::OUT)];
                    let _ = rustix::event::poll(&mut wanted, None);
                }
                Err(error) => {
                    self.ended = true;
                    if error != Errno::PIPE {
                        text(&format!(
                            "warning: the log cannot be written: {error}; the run goes on without it"
                        ));
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
