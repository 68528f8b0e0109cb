//! The exit codes of `runner`, and failures that carry one.

use std::fmt;

/// How a run ends. The numbers are part of the contract with callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// 1: a step failed: a command, a verification, a scan gate.
    StepFailed,
    /// 2: bad usage, or an invalid pipeline file.
    Usage,
    /// 3: a problem of the environment: Docker, credentials, permissions, registry or network.
    Environment,
    /// 4: image tests failed.
    TestsFailed,
    /// 5: a deployment failed or timed out, and was rolled back.
    RolledBack,
    /// 6: a deployment failed and was not rolled back, or the rollback failed.
    NotRolledBack,
    /// 7: a timeout expired.
    Timeout,
    /// 8: a deployment was superseded by another one.
    Superseded,
    /// 128+N: stopped by signal N.
    Signal(u8),
}

impl Exit {
    /// Returns the exit code of the process.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::StepFailed => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            Self::TestsFailed => 4,
            Self::RolledBack => 5,
            Self::NotRolledBack => 6,
            Self::Timeout => 7,
            Self::Superseded => 8,
            Self::Signal(number) => 128 + number,
        }
    }

    /// Returns the exit for a code that an earlier process recorded.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Environment,
            4 => Self::TestsFailed,
            5 => Self::RolledBack,
            6 => Self::NotRolledBack,
            7 => Self::Timeout,
            8 => Self::Superseded,
            129.. => Self::Signal(code - 128),
            _ => Self::StepFailed,
        }
    }
}

/// Why an operation failed: the exit code, the message, and the next step for the user.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// The problem, as a sentence fragment.
    pub(crate) message: String,
    /// The next step for the user.
    pub(crate) help: Option<String>,
    /// Whether the run was stopped, so that this is not a failure of the operation itself.
    pub(crate) stopped: bool,
}

impl Failure {
    /// Returns a failure with its message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None, stopped: false }
    }

    /// Returns a failure of the environment: exit 3.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self::new(Exit::Environment, message)
    }

    /// Returns a failure of a step: exit 1.
    pub(crate) fn step(message: impl Into<String>) -> Self {
        Self::new(Exit::StepFailed, message)
    }

    /// Returns a usage error: exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Returns the failure of an operation that ended because the run was stopped.
    pub(crate) fn stopped() -> Self {
        Self { stopped: true, ..Self::new(Exit::Environment, "the run was stopped") }
    }

    /// Adds the next step for the user.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns a failure whose message is an error with all of its causes.
    pub(crate) fn caused(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, chain(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Joins the text of an error and those of its causes. A cause that the text already contains is not repeated.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let cause_text = error.to_string();
        if !cause_text.is_empty() && !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        cause = error.source();
    }
    text
}
