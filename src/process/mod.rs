//! Commands on this machine. Each runs in a process group of its own under a guard: a small process of this same program,
//! which is the parent of whatever the command starts, ends all of it, and outlives runner to do so.

pub mod detached;
pub mod guard;
mod guards;
pub mod init;
pub mod owner;
mod protocol;
pub mod tree;

pub use guards::Guards;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The working directory.
    pub dir: PathBuf,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
}

/// How a running command is asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stopping {
    /// Stop in order: TERM, then KILL once the grace has passed.
    pub soft: CancellationToken,
    /// Stop at once: KILL.
    pub hard: CancellationToken,
    /// Time between TERM and KILL.
    pub grace: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with an exit code.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// Because it was asked to stop.
    Stopped,
}

/// What is known once a command and all that it started are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How the command itself ended.
    pub ending: Ending,
    /// What it left behind when it ended by itself, by name. It has been ended.
    pub left: Vec<String>,
    /// What could not be ended, because it runs as another user or hangs in the kernel.
    pub alive: Vec<String>,
}

/// A command that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The working directory is missing.
    #[error("the working directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The program is missing.
    #[error("there is no program `{0}` on this machine")]
    NoProgram(String),
    /// Anything else that the system refuses.
    #[error("cannot run `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guard cannot be started, or ended before its command did.
    #[error("the process that watches over commands {what}")]
    Guard {
        /// What became of it.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
