//! The styles of text on a terminal.

use anstyle::{AnsiColor, Style};

/// The styles of a stream. Without colour all of them are plain: `format!("{red}text{red:#}")` is then `text`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Styles {
    pub(crate) bold: Style,
    pub(crate) dim: Style,
    pub(crate) green: Style,
    pub(crate) yellow: Style,
    pub(crate) red: Style,
    /// The label of an error: bold and red.
    pub(crate) error: Style,
}

impl Styles {
    pub(crate) fn new(color: bool) -> Self {
        if !color {
            return Self::default();
        }
        Self {
            bold: Style::new().bold(),
            dim: Style::new().dimmed(),
            green: AnsiColor::Green.on_default(),
            yellow: AnsiColor::Yellow.on_default(),
            red: AnsiColor::Red.on_default(),
            error: AnsiColor::Red.on_default().bold(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(color: bool) -> String {
        let Styles { red, .. } = Styles::new(color);
        format!("{red}text{red:#}")
    }

    #[test]
    fn text_has_escape_codes_only_with_colour() {
        assert_eq!(painted(false), "text");
        assert_eq!(painted(true), "\x1b[31mtext\x1b[0m");
    }
}
