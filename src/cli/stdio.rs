//! The process's own standard streams.

use crate::exit::Failure;
use std::io::{IsTerminal, Write};

/// Whether a stream takes colours.
pub(super) fn color(stream: &impl IsTerminal, no_color: bool) -> bool {
    let forbidden = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && stream.is_terminal()
}

/// Writes the result of a command to stdout. A reader that has gone away is no failure.
pub(super) fn result(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::environment(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a result as an indented JSON document.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::environment(error.to_string()))?;
    result(&format!("{text}\n"))
}

/// Writes a text to stderr. Where nobody reads it there is nobody left to tell.
pub(super) fn text(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a failure and its help to stderr.
pub(super) fn error(failure: &Failure, no_color: bool) {
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
