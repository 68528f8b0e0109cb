//! Programs that outlive the run: in their own session, not descendants of runner, and without the variable by which
//! `gc` finds the processes of a run.

use super::OPEN_FILES;
use super::owner::VARIABLE;
use super::tree::{lives, stat};
use crate::limits;
use rustix::process::{Pid, child_subreaper, set_child_subreaper, setsid};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The hidden subcommand that starts a detached program and ends.
pub(crate) const DETACHED: &str = "detached";

/// A detached program.
#[derive(Debug, Clone)]
pub(crate) struct Detached {
    pid: Pid,
    /// When it started, which distinguishes it from a later process with the same id.
    started: Option<u64>,
}

impl Detached {
    /// Starts a program whose output goes to `log`. Its parent is process 1, or the nearest subreaper above runner.
    pub(crate) fn start<'a>(
        program: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
        environment: impl IntoIterator<Item = (&'a str, &'a str)>,
        log: File,
    ) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("runner")
            .arg(DETACHED)
            .arg(program)
            .args(arguments)
            .envs(environment)
            .env_remove(VARIABLE)
            .envs(limits::given_open_files().map(|files| (OPEN_FILES, files)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(log);
        // As a subreaper this process would become the parent of the program and of its orphans. So it is none for the
        // few milliseconds of the start.
        let subreaper = child_subreaper()?;
        set_child_subreaper(None)?;
        let output = command.output();
        set_child_subreaper(subreaper)?;
        let reply = String::from_utf8_lossy(&output?.stdout).into_owned();
        let pid = reply.parse().ok().and_then(Pid::from_raw);
        pid.map(Self::of).ok_or_else(|| io::Error::other(reply))
    }

    /// Returns a running process that runner has not started.
    pub(crate) fn of(pid: Pid) -> Self {
        Self { pid, started: stat(pid).map(|stat| stat.starttime) }
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&self) -> bool {
        stat(self.pid).is_some_and(|stat| lives(&stat) && self.started == Some(stat.starttime))
    }
}

/// The hidden subcommand: starts the program and prints its process id or the error.
pub(crate) fn main(argv: &[OsString]) -> io::Result<()> {
    setsid()?;
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log = || io::stderr().as_fd().try_clone_to_owned();
    let mut command = Command::new::<&OsStr>(program);
    command.args(arguments).env_remove(OPEN_FILES).stdin(Stdio::null()).stdout(log()?).stderr(log()?);
    let given = std::env::var(OPEN_FILES).ok();
    let child = limits::with_open_files(given.as_deref(), || command.spawn());
    let reply = child.map_or_else(|error| error.to_string(), |child| child.id().to_string());
    io::stdout().write_all(reply.as_bytes())
}
