//! The guard: the parent of a command and, as a subreaper (prctl(2)), of all descendants that lose their parent. It
//! ends all of them on request, and when runner exits, which closes the socket.

use super::protocol::{Reply, Request, receive, send};
use super::{OPEN_FILES, tree};
use crate::limits;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, setsid, wait};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// The hidden subcommand that runs a guard.
pub(crate) const GUARD: &str = "guard";
/// Its `argv[0]`.
pub(crate) const NAME: &str = "runner";
/// The grace period for processes that outlived their command.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// The interval between passes that kill processes. A pass misses processes that are forked during it.
pub(crate) const PASS: Duration = Duration::from_millis(1);
/// After this time the interval is longer: the remaining processes hang in the kernel or run as another user.
const SLOW_AFTER: Duration = Duration::from_secs(1);
const SLOW_PASS: Duration = Duration::from_millis(50);
/// After this time without success, KILL is given up.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// An event that the guard handles.
enum GuardEvent {
    /// A request of runner. The file receives the command's output.
    Request(Request, Option<OwnedFd>),
    /// Runner has ended.
    Orphaned,
    /// A child has ended.
    Reaped(Pid, WaitStatus),
    /// The last child has ended, and so has every descendant.
    NoChildren,
}

/// Serves runner, whose socket is stdin, until runner and all descendants have ended.
pub(crate) fn main() -> io::Result<()> {
    // In its own session it receives no signals of a terminal or of runner's process group.
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    // It must outlive a signal to all of runner's descendants to clean up.
    for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)))?;
    }
    let socket = Arc::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    let (messages, inbox) = mpsc::channel();
    let (first_child, children) = mpsc::channel();
    let (requests, reading) = (messages.clone(), socket.clone());
    // The thread that reads starts last, because a guard without threads has to read the request that it refuses.
    let reaping = limits::thread().spawn(move || reap(&children, &messages));
    let started = reaping.and_then(|_| limits::thread().spawn(move || read(&reading, &requests)));
    if let Err(error) = started {
        return refuse(&socket, &error);
    }
    Guard { socket, inbox, first_child, job: None, orphaned: false }.serve();
    Ok(())
}

/// Replies to the first request that no command can be started.
fn refuse(socket: &UnixStream, error: &io::Error) -> io::Result<()> {
    receive::<Request>(socket)?;
    send(socket, &Reply::Failed { errno: error.raw_os_error().unwrap_or_default() })
}

/// Whether a process is a guard.
pub(crate) fn is_guard(process: Pid) -> bool {
    let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    arguments == format!("{NAME}\0{GUARD}\0").as_bytes()
}

/// Forwards the requests of runner.
fn read(socket: &UnixStream, messages: &Sender<GuardEvent>) {
    while let Ok(Some((request, file))) = receive(socket) {
        if messages.send(GuardEvent::Request(request, file)).is_err() {
            return;
        }
    }
    let _ = messages.send(GuardEvent::Orphaned);
}

/// Reaps every child that ends, from the first child until there are none left.
fn reap(first_child: &Receiver<()>, messages: &Sender<GuardEvent>) {
    while first_child.recv().is_ok() {
        loop {
            let message = match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => GuardEvent::Reaped(pid, status),
                Err(rustix::io::Errno::INTR) | Ok(None) => continue,
                Err(_) => break,
            };
            if messages.send(message).is_err() {
                return;
            }
        }
        if messages.send(GuardEvent::NoChildren).is_err() {
            return;
        }
    }
}

struct Guard {
    socket: Arc<UnixStream>,
    inbox: Receiver<GuardEvent>,
    /// Wakes the thread that reaps.
    first_child: Sender<()>,
    /// The command whose processes may still live.
    job: Option<ProcessGroup>,
    /// Whether runner has ended.
    orphaned: bool,
}

/// A command and its descendants.
struct ProcessGroup {
    leader: Pid,
    /// Kept until the job ends, because dropping it reaps a command that has ended, which is the task of [`reap`].
    #[expect(dead_code, reason = "kept to delay its drop")]
    handle: duct::Handle,
    grace: Duration,
    /// The names of processes that outlived the command.
    left: Vec<String>,
    /// When to send KILL, once TERM was sent.
    kill_at: Option<Instant>,
    /// When KILL was sent first.
    killing_since: Option<Instant>,
}

impl Guard {
    fn serve(&mut self) {
        while !(self.orphaned && self.job.is_none()) {
            let wake = self.job.as_ref().and_then(|job| match job.killing_since {
                Some(since) if since.elapsed() > SLOW_AFTER => Some(SLOW_PASS),
                Some(_) => Some(PASS),
                None => job.kill_at.map(|at| at.saturating_duration_since(Instant::now())),
            });
            let received = match wake {
                Some(time) => self.inbox.recv_timeout(time),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Handle all pending messages before the next pass, which may be slow.
            while let Ok(message) = self.inbox.try_recv() {
                self.handle(message);
            }
            self.kill_when_due();
        }
    }

    fn handle(&mut self, message: GuardEvent) {
        match message {
            GuardEvent::Request(Request::Run { argv, dir, env, grace }, Some(output))
                if self.job.is_none() =>
            {
                self.start(argv, dir, env, grace, output);
            }
            // Runner does not send a second command, or one without a file.
            GuardEvent::Request(Request::Run { .. }, _) => self.reply(&Reply::Failed { errno: 0 }),
            GuardEvent::Request(Request::Stop, _) => self.end(None),
            GuardEvent::Request(Request::Kill, _) => self.end(Some(Duration::ZERO)),
            GuardEvent::Request(Request::Sweep, _) => {
                if let Some(job) = &mut self.job {
                    job.left = tree::names(&tree::descendants(getpid()));
                }
                self.end(Some(LEFTOVER_GRACE));
            }
            GuardEvent::Orphaned => {
                self.orphaned = true;
                self.end(None);
            }
            GuardEvent::Reaped(pid, status) => {
                if self.job.as_ref().is_some_and(|job| job.leader == pid) {
                    let signal = || status.terminating_signal().map(|signal| -signal);
                    let status = status.exit_status().or_else(signal).unwrap_or_default();
                    self.reply(&Reply::Ended { status });
                }
            }
            GuardEvent::NoChildren => self.clear(Vec::new()),
        }
    }

    fn start(
        &mut self,
        argv: Vec<OsString>,
        dir: OsString,
        env: Vec<(OsString, OsString)>,
        grace: Duration,
        output: OwnedFd,
    ) {
        let mut argv = argv.into_iter();
        let program = argv.next().unwrap_or_default();
        // The expression owns the write end of the pipe. It must be dropped, or the output never ends.
        let command = duct::cmd(program, argv)
            .dir(dir)
            .full_env(env)
            .stdin_null()
            .stderr_to_stdout()
            .stdout_file(output)
            .unchecked()
            .before_spawn(|child| {
                child.process_group(0);
                Ok(())
            });
        let given = std::env::var(OPEN_FILES).ok();
        let started = limits::with_open_files(given.as_deref(), || command.start());
        drop(command);
        let handle = match started {
            Ok(handle) => handle,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_default();
                return self.reply(&Reply::Failed { errno });
            }
        };
        let pid = handle.pids().first().and_then(|pid| i32::try_from(*pid).ok()).and_then(Pid::from_raw);
        let Some(leader) = pid else { return self.reply(&Reply::Failed { errno: 0 }) };
        self.job = Some(ProcessGroup {
            leader,
            handle,
            grace,
            left: Vec::new(),
            kill_at: None,
            killing_since: None,
        });
        let _ = self.first_child.send(());
    }

    /// Sends TERM to all processes and schedules KILL. A running grace period is never extended.
    fn end(&mut self, grace: Option<Duration>) {
        let Some(job) = &mut self.job else { return };
        let at = Instant::now() + grace.unwrap_or(job.grace);
        if job.kill_at.is_none() && grace != Some(Duration::ZERO) {
            tree::terminate(&tree::descendants(getpid()));
        }
        job.kill_at = Some(job.kill_at.map_or(at, |known| known.min(at)));
    }

    fn kill_when_due(&mut self) {
        let Some(job) = &mut self.job else { return };
        let now = Instant::now();
        if job.kill_at.is_none_or(|at| at > now) {
            return;
        }
        let since = *job.killing_since.get_or_insert(now);
        let processes = tree::descendants(getpid());
        if since.elapsed() < KILL_TIMEOUT {
            tree::signal(&processes, Signal::KILL);
        } else {
            let alive = tree::names(&processes);
            self.clear(alive);
        }
    }

    /// Reports that every process has ended, except for those that could not be ended.
    fn clear(&mut self, alive: Vec<String>) {
        if let Some(job) = self.job.take() {
            self.reply(&Reply::Clear { left: job.left, alive });
        }
    }

    /// Sends a reply. Errors are ignored: runner may have ended.
    fn reply(&self, reply: &Reply) {
        let _ = send(&self.socket, reply);
    }
}
