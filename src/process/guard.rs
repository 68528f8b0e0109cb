//! The guard: the parent of a command and, as a subreaper (prctl(2)), of everything that the command's processes leave without
//! a parent. It ends all of them when runner says so, and when runner is gone: then its socket is at its end.

use super::protocol::{Reply, Request, receive, send};
use super::tree;
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

/// The hidden command of this program that makes it a guard.
pub(crate) const GUARD: &str = "guard";
/// The name under which it is started.
pub(crate) const NAME: &str = "runner";
/// How long what a command left behind may take to end before it is killed.
const LEFT_GRACE: Duration = Duration::from_secs(1);
/// Between two passes over processes that are being killed: while they fork on, a pass misses what comes during it.
pub(crate) const PASS: Duration = Duration::from_millis(1);
/// After this time passes are further apart: what still lives hangs in the kernel, or is somebody else's.
const STUBBORN: Duration = Duration::from_secs(1);
const SLOW_PASS: Duration = Duration::from_millis(50);
/// What KILL does not end in this time it does not end at all.
pub(crate) const HOPELESS: Duration = Duration::from_secs(5);

/// Something that the guard waits for.
enum Message {
    /// Runner wants something. The file is the command's output.
    Request(Request, Option<OwnedFd>),
    Alone,
    /// A child has ended.
    Reaped(Pid, WaitStatus),
    /// There is no child any more, and so nothing below one.
    Empty,
}

/// Serves runner, whose socket is stdin, until it is gone and nothing lives any more.
pub(crate) fn main() -> io::Result<()> {
    // Its own session: no signal of a terminal or of runner's process group reaches it.
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    // Whoever ends everything below runner must not end this one first: it has work left then.
    for number in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)))?;
    }
    let socket = Arc::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?));
    let (messages, inbox) = mpsc::channel();
    let (first_child, children) = mpsc::channel();
    let (requests, reading) = (messages.clone(), socket.clone());
    std::thread::spawn(move || read(&reading, &requests));
    std::thread::spawn(move || reap(&children, &messages));
    Guard { socket, inbox, first_child, job: None, alone: false }.serve();
    Ok(())
}

/// Whether a process is a guard.
pub(crate) fn is_guard(process: Pid) -> bool {
    let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    arguments == format!("{NAME}\0{GUARD}\0").as_bytes()
}

/// Hands on what runner says.
fn read(socket: &UnixStream, messages: &Sender<Message>) {
    while let Ok(Some((request, file))) = receive(socket) {
        if messages.send(Message::Request(request, file)).is_err() {
            return;
        }
    }
    let _ = messages.send(Message::Alone);
}

/// Collects every process that ends, from the first child on until there is none left.
fn reap(first_child: &Receiver<()>, messages: &Sender<Message>) {
    while first_child.recv().is_ok() {
        loop {
            let message = match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => Message::Reaped(pid, status),
                Err(rustix::io::Errno::INTR) | Ok(None) => continue,
                Err(_) => break,
            };
            if messages.send(message).is_err() {
                return;
            }
        }
        if messages.send(Message::Empty).is_err() {
            return;
        }
    }
}

struct Guard {
    socket: Arc<UnixStream>,
    inbox: Receiver<Message>,
    /// Wakes the thread that reaps.
    first_child: Sender<()>,
    /// What lives, or may.
    job: Option<Job>,
    alone: bool,
}

/// A command and what it started.
struct Job {
    leader: Pid,
    /// Held, because dropping it waits for the command if that has ended, and waiting is up to [`reap`].
    #[expect(dead_code, reason = "it is there to be dropped with the rest")]
    handle: duct::Handle,
    grace: Duration,
    /// What lived when the command itself had ended.
    left: Vec<String>,
    /// When KILL comes, once they have been asked to end.
    kill_at: Option<Instant>,
    /// When KILL came first.
    killing_since: Option<Instant>,
}

impl Guard {
    fn serve(&mut self) {
        while !(self.alone && self.job.is_none()) {
            let wake = self.job.as_ref().and_then(|job| match job.killing_since {
                Some(since) if since.elapsed() > STUBBORN => Some(SLOW_PASS),
                Some(_) => Some(PASS),
                None => job.kill_at.map(|at| at.saturating_duration_since(Instant::now())),
            });
            let received = match wake {
                Some(time) => self.inbox.recv_timeout(time),
                None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // A pass over many processes is worth less than what has come meanwhile.
            while let Ok(message) = self.inbox.try_recv() {
                self.take(message);
            }
            self.kill_when_due();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Request(Request::Run { argv, dir, env, grace }, Some(output)) if self.job.is_none() => {
                self.start(argv, dir, env, grace, output);
            }
            // Nothing that this program sends.
            Message::Request(Request::Run { .. }, _) => self.reply(&Reply::Failed { errno: 0 }),
            Message::Request(Request::Stop, _) => self.end(None),
            Message::Request(Request::Kill, _) => self.end(Some(Duration::ZERO)),
            Message::Request(Request::Sweep, _) => {
                if let Some(job) = &mut self.job {
                    job.left = tree::names(&tree::descendants(getpid()));
                }
                self.end(Some(LEFT_GRACE));
            }
            Message::Alone => {
                self.alone = true;
                self.end(None);
            }
            Message::Reaped(pid, status) => {
                if self.job.as_ref().is_some_and(|job| job.leader == pid) {
                    let signal = || status.terminating_signal().map(|signal| -signal);
                    let status = status.exit_status().or_else(signal).unwrap_or_default();
                    self.reply(&Reply::Ended { status });
                }
            }
            Message::Empty => self.clear(Vec::new()),
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
        // The expression owns the pipe's writing end; it must be gone before the end of the output can be seen.
        let started = duct::cmd(program, argv)
            .dir(dir)
            .full_env(env)
            .stdin_null()
            .stderr_to_stdout()
            .stdout_file(output)
            .unchecked()
            .before_spawn(|child| {
                child.process_group(0);
                Ok(())
            })
            .start();
        let handle = match started {
            Ok(handle) => handle,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_default();
                return self.reply(&Reply::Failed { errno });
            }
        };
        let pid = handle.pids().first().and_then(|pid| i32::try_from(*pid).ok()).and_then(Pid::from_raw);
        let Some(leader) = pid else { return self.reply(&Reply::Failed { errno: 0 }) };
        self.job = Some(Job { leader, handle, grace, left: Vec::new(), kill_at: None, killing_since: None });
        let _ = self.first_child.send(());
    }

    /// Asks everything to end, and kills it later. A grace that is running is never made longer.
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
        if since.elapsed() < HOPELESS {
            tree::signal(&processes, Signal::KILL);
        } else {
            let alive = tree::names(&processes);
            self.clear(alive);
        }
    }

    /// Nothing lives any more that could be ended.
    fn clear(&mut self, alive: Vec<String>) {
        if let Some(job) = self.job.take() {
            self.reply(&Reply::Clear { left: job.left, alive });
        }
    }

    /// Runner may be gone, and then nobody has to know.
    fn reply(&self, reply: &Reply) {
        let _ = send(&self.socket, reply);
    }
}
