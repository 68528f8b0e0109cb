//! The exit codes of `runner`, and failures that carry one.

use std::fmt;

/// How a run ends; the numbers are part of the contract with callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// 1: a step failed: a command, a verification, a scan gate.
    StepFailed,
    /// 2: bad usage, or an invalid pipeline file.
    Usage,
    /// 3: the environment cannot serve: Docker, credentials, permission, registry or network.
    Environment,
    /// 4: image tests failed.
    TestsFailed,
    /// 5: a deployment failed, or took too long, and was rolled back.
    RolledBack,
    /// 6: a deployment failed and was not rolled back, or the rollback failed.
    NotRolledBack,
    /// 7: a timeout passed.
    Timeout,
    /// 8: a deployment was superseded by another one.
    Superseded,
    /// 128+N: stopped by signal N.
    Signal(u8),
}

impl Exit {
    /// The number that the process ends with.
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

    /// The exit of a code that an earlier process recorded.
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

/// Why something could not be done: the exit code it leads to, one sentence, and the next step to take.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What went wrong, as a sentence fragment.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
    /// It is no failure of its own: somebody asked for the end.
    pub(crate) stopped: bool,
}

impl Failure {
    /// A failure with its sentence.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None, stopped: false }
    }

    /// A failure of the environment: exit 3.
    pub(crate) fn environment(message: impl Into<String>) -> Self {
        Self::new(Exit::Environment, message)
    }

    /// A failed step: exit 1.
    pub(crate) fn step(message: impl Into<String>) -> Self {
        Self::new(Exit::StepFailed, message)
    }

    /// Wrong usage: exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What was under way ended because it was asked to.
    pub(crate) fn stopped() -> Self {
        Self { stopped: true, ..Self::new(Exit::Environment, "the run was stopped") }
    }

    /// Adds the next step to take.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A failure told by an error and everything that caused it.
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

/// An error's text followed by those of its causes, without repeating what a cause already says.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !said.is_empty() && !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
