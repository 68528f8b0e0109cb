//! Results on stdout, messages on stderr; both without secrets.

use super::stdio;
use crate::exit::Failure;
use crate::secret::{Masks, visible};
use crate::style::Styles;
use serde::Serialize;
use serde_json::Value;

/// Prints what a command has to say.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    masks: Masks,
    /// Whether stdout takes colours.
    pub(crate) color: bool,
    /// Whether stderr takes colours.
    pub(crate) stderr_color: bool,
}

impl Printer {
    /// A printer that masks the secrets that `masks` knows at the time of each call.
    pub(crate) fn new(masks: &Masks, no_color: bool) -> Self {
        Self {
            masks: masks.clone(),
            color: stdio::color(&std::io::stdout(), no_color),
            stderr_color: stdio::color(&std::io::stderr(), no_color),
        }
    }

    /// Prints the result of a command to stdout.
    pub(crate) fn result(&self, text: &str) -> Result<(), Failure> {
        let masked = self.masks.text(text);
        stdio::write_stdout(&if self.color { masked.into() } else { visible(&masked) })
    }

    /// Prints a result that repeats the caller's own arguments and is read by scripts: nothing in it is masked.
    #[expect(clippy::unused_self, reason = "all output of commands goes through a printer")]
    pub(crate) fn verbatim(&self, text: &str) -> Result<(), Failure> {
        stdio::write_stdout(text)
    }

    /// Prints a result as an indented JSON document. Secrets are masked within string values, so that the document
    /// keeps its keys, numbers and syntax whatever the secrets are.
    pub(crate) fn json(&self, document: &impl Serialize) -> Result<(), Failure> {
        self.document(serde_json::to_value(document).map_err(|error| unprintable(&error))?)
    }

    /// Prints a JSON document as [`Self::json`] does. Numbers keep the form in which they were written.
    pub(crate) fn document(&self, document: Value) -> Result<(), Failure> {
        let document = self.masks.value(document);
        let text = serde_json::to_string_pretty(&document).map_err(|error| unprintable(&error))?;
        stdio::write_stdout(&format!("{text}\n"))
    }

    /// Whether a string contains a secret.
    pub(crate) fn masks(&self, text: &str) -> bool {
        self.masks.text(text) != text
    }

    /// Prints a line to stderr.
    pub(crate) fn message(&self, text: &str) {
        let masked = self.masks.text(text);
        // Diagnostics have colours on a terminal. Their text is harmless already.
        stdio::write_stderr(&if self.stderr_color { masked.into() } else { visible(&masked) });
    }

    /// Prints a warning to stderr.
    pub(crate) fn warning(&self, text: &str) {
        self.message(&format!("warning: {}", visible(text).replace('\n', "\n  ")));
    }

    /// Prints a failure and its help to stderr.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Styles { error, yellow, .. } = Styles::new(self.stderr_color);
        let message = self.masks.shown(&failure.message).replace('\n', "\n  ");
        stdio::write_stderr(&format!("{error}error:{error:#} {message}"));
        if let Some(help) = &failure.help {
            let help = self.masks.shown(help).replace('\n', "\n  ");
            stdio::write_stderr(&format!("{yellow}help:{yellow:#} {help}"));
        }
    }
}

fn unprintable(error: &serde_json::Error) -> Failure {
    Failure::environment(format!("cannot print JSON: {error}"))
}
