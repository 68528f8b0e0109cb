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

/// What kind of thing went wrong. The names are part of `runner.events/1`; the set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailureKind {
    /// A command ended with an exit code other than 0.
    CommandExit,
    /// A signal ended a command.
    CommandSignal,
    OutOfMemory,
    Timeout,
    /// A step of a Dockerfile failed.
    BuildVertex,
    /// Tests of an image failed.
    Tests,
    /// A registry answered with a refusal.
    RegistryRefused,
    RegistryUnreachable,
    /// IAM refused a call.
    AwsDenied,
    AwsThrottled,
    /// A resource that a call names does not exist.
    NotFound,
    DeploymentFailed,
    /// Another deployment replaced this one.
    Superseded,
    DockerUnreachable,
    /// A scan found what the pipeline does not allow.
    ScanGate,
    /// A check before the run, or before a change, found something missing.
    Preflight,
    /// The pipeline file, an argument or a value is wrong.
    BadInput,
    AwsOther,
    /// A file, a directory or a process could not be used.
    Io,
    /// Someone asked for the end.
    Stopped,
    /// The process that ran it was killed.
    Killed,
}

impl FailureKind {
    /// The name as the wire format spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CommandExit => "command-exit",
            Self::CommandSignal => "command-signal",
            Self::OutOfMemory => "out-of-memory",
            Self::Timeout => "timeout",
            Self::BuildVertex => "build-vertex",
            Self::Tests => "tests",
            Self::RegistryRefused => "registry-refused",
            Self::RegistryUnreachable => "registry-unreachable",
            Self::AwsDenied => "aws-denied",
            Self::AwsThrottled => "aws-throttled",
            Self::NotFound => "not-found",
            Self::DeploymentFailed => "deployment-failed",
            Self::Superseded => "superseded",
            Self::DockerUnreachable => "docker-unreachable",
            Self::ScanGate => "scan-gate",
            Self::Preflight => "preflight",
            Self::BadInput => "bad-input",
            Self::AwsOther => "aws-other",
            Self::Io => "io",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
        }
    }

    /// The kind of a failure whose origin names no other: what its exit code implies.
    fn of(exit: Exit) -> Self {
        match exit {
            Exit::Done | Exit::Environment => Self::Io,
            Exit::StepFailed => Self::Preflight,
            Exit::Usage => Self::BadInput,
            Exit::TestsFailed => Self::Tests,
            Exit::RolledBack | Exit::NotRolledBack => Self::DeploymentFailed,
            Exit::Timeout => Self::Timeout,
            Exit::Superseded => Self::Superseded,
            Exit::Signal(_) => Self::Stopped,
        }
    }
}

/// Why something could not be done: its kind, the exit code, one sentence, and the next step to take.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) exit: Exit,
    /// What went wrong, as a sentence fragment. It ends with the causes that the adapter reported.
    pub(crate) message: String,
    /// The next step for the user.
    pub(crate) help: Option<String>,
    /// The step or phase in which it happened, by its event id. The first one that is set stays.
    pub(crate) place: Option<String>,
}

impl Failure {
    /// A failure with its sentence. Its kind is the one that the exit code implies.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { kind: FailureKind::of(exit), exit, message: message.into(), help: None, place: None }
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

    /// Something that ended because the run was stopped.
    pub(crate) fn stopped() -> Self {
        Self::new(Exit::Environment, "the run was stopped").kind(FailureKind::Stopped)
    }

    /// Whether this is no failure of its own: someone asked for the end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.kind == FailureKind::Stopped && !matches!(self.exit, Exit::Signal(_))
    }

    /// Adds the next step for the user.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// If an exhausted limit of the system is the cause, it is a failure of the environment with this advice.
    #[must_use]
    pub(crate) fn limited(self, advice: Option<String>) -> Self {
        match advice {
            Some(_) => Self { exit: Exit::Environment, kind: FailureKind::Io, help: advice, ..self },
            None => self,
        }
    }

    /// Sets the kind.
    #[must_use]
    pub(crate) fn kind(mut self, kind: FailureKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the place unless it has one.
    #[must_use]
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.place.get_or_insert_with(|| place.to_owned());
        self
    }

    /// A failure with the text of an error and of everything that caused it.
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
