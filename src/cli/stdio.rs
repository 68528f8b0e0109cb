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

/// Whether stdout is a terminal that can move its cursor.
pub(crate) fn is_screen() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    !dumb && std::io::stdout().is_terminal()
}

/// The terminal's columns and lines; 80 × 24 if it does not report them.
pub(crate) fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Writes to stdout. A reader that has closed it is no failure.
pub(crate) fn write_stdout(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::environment(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a line to stderr. An error is ignored: there is no other stream to report it on.
pub(crate) fn write_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// stdout as the log of a run. It waits until a full pipe takes the rest. If the reader has closed the pipe the log ends
/// silently; any other error ends it with one warning on stderr.
pub(crate) struct Log {
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
                // Another program that shares the stream may have made it non-blocking.
                Err(Errno::AGAIN) => {
                    let mut wanted = [PollFd::new(&stdout, PollFlags::OUT)];
                    let _ = rustix::event::poll(&mut wanted, None);
                }
                Err(error) => {
                    self.ended = true;
                    if error != Errno::PIPE {
                        write_stderr(&format!(
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
