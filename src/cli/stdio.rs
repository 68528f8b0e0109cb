//! The process's own standard streams.

use crate::exit::Failure;
use std::io::{IsTerminal, Write};

/// Whether a stream takes colours.
pub(super) fn color(stream: &impl IsTerminal, no_color: bool) -> bool {
    let forbidden = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !forbidden && stream.is_terminal()
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
