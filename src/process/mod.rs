//! Commands on this machine: each in a process group of its own, its output passed on live, the whole group ended
//! when the step is.

use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How much is read from a command at a time, in bytes.
const CHUNK: usize = 64 * 1024;
/// How long further output is awaited when the command is gone but something it started holds the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The working directory.
    pub dir: PathBuf,
    /// The whole environment.
    pub env: Vec<(String, String)>,
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
}

/// Runs a command to its end, sending what it writes to stdout and stderr, in its order, to `output`.
pub async fn run(
    command: &Command,
    output: &mpsc::Sender<Vec<u8>>,
    stopping: &Stopping,
) -> Result<Ending, ProcessError> {
    let (program, arguments) =
        command.argv.split_first().ok_or_else(|| ProcessError::NoProgram(String::new()))?;
    if !command.dir.is_dir() {
        return Err(ProcessError::NoDirectory(command.dir.clone()));
    }
    // `./x.sh` starts from the command's directory, not from ours.
    let path = if program.contains('/') {
        command.dir.join(program).into_os_string()
    } else {
        OsString::from(program)
    };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProcessError::NoProgram(program.clone()),
        _ => ProcessError::Start { program: program.clone(), source },
    };
    let (reader, writer) = os_pipe::pipe().map_err(failed)?;
    // The expression owns the pipe's writing end; it must be gone before the end of the output can be seen.
    let handle = duct::cmd(path, arguments)
        .dir(&command.dir)
        .full_env(command.env.iter().cloned())
        .stdin_null()
        .stderr_to_stdout()
        .stdout_file(writer)
        .unchecked()
        .before_spawn(|child| {
            child.process_group(0);
            Ok(())
        })
        .start()
        .map_err(failed)?;
    let group = handle.pids().first().and_then(|pid| i32::try_from(*pid).ok()).and_then(Pid::from_raw);
    let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
    let ended = tokio::task::spawn_blocking(move || handle.wait().map(|result| result.status));
    let ending = follow(pipe, ended, output, group, stopping).await;
    // What the command left behind in its group does not outlive the step.
    signal(group, Signal::KILL);
    ending.map_err(failed)
}

async fn follow(
    mut pipe: pipe::Receiver,
    mut ended: tokio::task::JoinHandle<io::Result<ExitStatus>>,
    output: &mpsc::Sender<Vec<u8>>,
    group: Option<Pid>,
    stopping: &Stopping,
) -> io::Result<Ending> {
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut open = true;
    let mut status = None;
    let mut stopped = false;
    let mut killed = false;
    // When the next patience ends: the grace after TERM, or the drain after the exit.
    let mut patience = None;
    while open || status.is_none() {
        let pending = !buffer.is_empty();
        tokio::select! {
            read = pipe.read_buf(&mut buffer), if open && !pending => open = read? > 0,
            permit = output.reserve(), if pending => {
                let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK));
                if status.is_some() {
                    patience = Some(Instant::now() + DRAIN);
                }
                // Where nobody listens any more the command goes on; its output is dropped.
                if let Ok(permit) = permit {
                    permit.send(bytes);
                }
            }
            joined = &mut ended, if status.is_none() => {
                status = Some(joined.map_err(io::Error::other)??);
                patience = Some(Instant::now() + DRAIN);
            }
            () = stopping.soft.cancelled(), if !stopped && status.is_none() => {
                stopped = true;
                signal(group, Signal::TERM);
                patience = Some(Instant::now() + stopping.grace);
            }
            () = stopping.hard.cancelled(), if !killed && status.is_none() => {
                (stopped, killed) = (true, true);
                signal(group, Signal::KILL);
            }
            () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() && !(pending && status.is_some()) => {
                patience = None;
                if status.is_some() {
                    open = false;
                } else {
                    killed = true;
                    signal(group, Signal::KILL);
                }
            }
        }
    }
    Ok(match status {
        _ if stopped => Ending::Stopped,
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
        },
        None => Ending::Stopped,
    })
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // The group may be gone already, which is what is wanted.
        let _ = kill_process_group(group, signal);
    }
}
