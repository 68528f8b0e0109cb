//! Programs that outlive this run: of another session, child of nobody here, and without the marks by which what a run leaves
//! behind is found.

use super::owner::VARIABLE;
use super::tree::Stat;
use rustix::process::{Pid, child_subreaper, set_child_subreaper, setsid};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The hidden command of this program that starts another one and ends.
pub(crate) const DETACHED: &str = "detached";

/// A program that was left to itself.
#[derive(Debug, Clone)]
pub(crate) struct Detached {
    pid: Pid,
    /// When it started; by that it is told from a later process of its number.
    started: Option<u64>,
}

impl Detached {
    /// Starts a program, with what it writes in `log`. It belongs to process 1 from the beginning, or to whatever collects what
    /// loses its parent there.
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
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(log);
        // A subreaper would get the program, and later all that loses its parent below that. For these milliseconds this
        // process is none.
        let subreaper = child_subreaper()?;
        set_child_subreaper(None)?;
        let output = command.output();
        set_child_subreaper(subreaper)?;
        let answer = String::from_utf8_lossy(&output?.stdout).into_owned();
        let pid = answer.parse().ok().and_then(Pid::from_raw);
        pid.map(Self::of).ok_or_else(|| io::Error::other(answer))
    }

    /// A process that somebody else has started.
    pub(crate) fn of(pid: Pid) -> Self {
        Self { pid, started: Stat::of(pid).map(|stat| stat.started) }
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&self) -> bool {
        let stat = Stat::of(self.pid);
        stat.is_some_and(|stat| stat.lives() && self.started == Some(stat.started))
    }
}

/// The hidden command: starts the program, says what its process is, or why there is none, and ends.
pub(crate) fn main(argv: &[OsString]) -> io::Result<()> {
    setsid()?;
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log = || io::stderr().as_fd().try_clone_to_owned();
    let child = Command::new::<&OsStr>(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .spawn();
    let answer = child.map_or_else(|error| error.to_string(), |child| child.id().to_string());
    io::stdout().write_all(answer.as_bytes())
}
