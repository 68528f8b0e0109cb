//! Commands on this machine. Each runs in a process group of its own under a guard: a small process of this same program,
//! which is the parent of whatever the command starts, ends all of it, and outlives runner to do so.

pub(crate) mod detached;
pub(crate) mod guard;
mod guards;
pub(crate) mod init;
pub(crate) mod owner;
mod protocol;
pub(crate) mod tree;

pub(crate) use guards::Guards;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A command to run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
    pub(crate) dir: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// How a running command is asked to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopping {
    /// Stop in order: TERM, then KILL once the grace has passed.
    pub(crate) soft: CancellationToken,
    /// Stop at once: KILL.
    pub(crate) hard: CancellationToken,
    /// Time between TERM and KILL.
    pub(crate) grace: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself, with an exit code.
    Exited(i32),
    Signalled(i32),
    /// Because it was asked to stop.
    Stopped,
}

/// What is known once a command and all that it started are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// How the command itself ended.
    pub(crate) ending: Ending,
    /// What it left behind when it ended by itself, by name. It has been ended.
    pub(crate) left: Vec<String>,
    /// What could not be ended, because it runs as another user or hangs in the kernel.
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
    /// Anything else that the system refuses.
    #[error("cannot run `{program}`")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The guard cannot be started, or ended before its command did.
    #[error("the process that watches over commands {what}")]
    Guard {
        /// What became of it.
        what: &'static str,
        #[source]
        source: io::Error,
    },
}
