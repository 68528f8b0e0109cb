//! Commands on this machine. Each runs in its own process group under a guard: a small process of the same program that
//! is the ancestor of all processes of the command. The guard ends all of them, even if runner itself has exited.

pub(crate) mod detached;
pub(crate) mod guard;
mod guards;
pub(crate) mod init;
pub(crate) mod owner;
mod program;
mod protocol;
pub(crate) mod tree;

pub(crate) use guards::Guards;
pub(crate) use program::Defect;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The environment variable that passes [`crate::limits::given_open_files`] on to a process of this program.
const OPEN_FILES: &str = "RUNNER_OPEN_FILES";

/// A command to run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
    pub(crate) dir: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// The signals that stop a running command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopping {
    /// Stop gracefully: TERM, then KILL after the grace period.
    pub(crate) soft: CancellationToken,
    /// Stop immediately: KILL.
    pub(crate) hard: CancellationToken,
    /// The time between TERM and KILL.
    pub(crate) grace: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It exited by itself with this code.
    Exited(i32),
    /// It was ended by this signal.
    Signalled(i32),
    /// Runner stopped it.
    Stopped,
}

/// The result of a command after all of its processes have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// How the command itself ended.
    pub(crate) ending: Ending,
    /// The names of processes that outlived the command and were then ended.
    pub(crate) left: Vec<String>,
    /// The names of processes that could not be ended: they run as another user or hang in the kernel.
    pub(crate) alive: Vec<String>,
}

/// A command that could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// The working directory is missing.
    #[error("the working directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The program is missing.
    #[error("there is no program `{0}` on this machine")]
    NoProgram(String),
    /// The program exists, but not what it needs to start.
    #[error("`{program}` {defect}")]
    Unusable { program: String, defect: Defect },
    /// The system cannot start the program.
    #[error("cannot run `{program}`")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The guard cannot be started, or ended before its command did.
    #[error("the process that supervises commands {what}")]
    Guard {
        /// A predicate such as `has ended`.
        what: &'static str,
        #[source]
        source: io::Error,
    },
}
