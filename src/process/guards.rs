//! Runner's side of the guards: passes commands to them, forwards the output, and requests stops.

use super::guard::{GUARD, KILL_TIMEOUT, NAME, PASS};
use super::owner::{Owner, VARIABLE};
use super::program::{self, Defect};
use super::protocol::{Reply, Request, frame, send_with};
use super::tree::{children, descendants, signal, stat};
use super::{Command, Ended, Ending, OPEN_FILES, ProcessError, Stopping};
use crate::limits;
use futures_util::StreamExt;
use rustix::process::{Pid, Signal, WaitOptions, getpid, getsid, set_child_subreaper, waitpid};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// The size of one read of output, in bytes.
const CHUNK: usize = 64 * 1024;
/// How long to wait for output of descendants after a command has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// The interval at which runner checks whether a guard has been stopped by a signal.
const WAKE_INTERVAL: Duration = Duration::from_millis(500);
/// How long idle guards may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The guards of a run: one for every parallel command. Guards are reused after their command has finished.
#[derive(Clone)]
pub(crate) struct Guards {
    pool: Arc<Mutex<Pool>>,
    /// The value of [`VARIABLE`] in the environment of all processes of this run.
    owner: Arc<str>,
    /// The lock file of the work directory. Every guard holds it, so the lock lasts until all processes have ended.
    lock: Arc<File>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Guard>,
    /// All living guards, idle or not.
    pids: HashSet<Pid>,
}

/// A guard with the socket to it.
struct Guard {
    /// `None` once it is being reaped.
    child: Option<Child>,
    /// `None` once it was asked to end.
    socket: Option<Framed<UnixStream, LengthDelimitedCodec>>,
    pool: Arc<Mutex<Pool>>,
}

impl Guards {
    /// Returns an empty pool. This process becomes a subreaper: it inherits the children of a guard that is killed.
    /// Every guard keeps the lock file open.
    pub(crate) fn new(lock: &Arc<File>) -> Self {
        let _ = set_child_subreaper(Some(getpid()));
        let owner = Owner::current().map(|owner| owner.to_string()).unwrap_or_default();
        Self { pool: Arc::default(), owner: owner.into(), lock: lock.clone() }
    }

    /// Returns the owner that marks the processes and containers of this run.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Runs a command to its end. Its stdout and stderr go to `output` in order. After this returns, all descendants of
    /// the command have ended. If the future is dropped, the guard ends them by itself.
    pub(crate) async fn run(
        &self,
        command: &Command,
        output: &mpsc::Sender<Vec<u8>>,
        stopping: &Stopping,
    ) -> Result<Ended, ProcessError> {
        let Some(program) = command.argv.first() else {
            return Err(ProcessError::NoProgram(String::new()));
        };
        if !command.dir.is_dir() {
            return Err(ProcessError::NoDirectory(command.dir.clone()));
        }
        let mut argv = command.argv.clone();
        if program.to_string_lossy().contains('/') {
            // `./x.sh` is relative to the command's directory.
            argv[0] = command.dir.join(program).into_os_string();
        }
        let mut env = command.env.clone();
        env.push((VARIABLE.into(), OsString::from(&*self.owner)));
        let dir = command.dir.clone().into_os_string();
        let request = Request::Run { argv, dir, env, grace: stopping.grace };
        let lost = |source| ProcessError::Guard { what: "has ended", source };
        let output_pipe = || {
            let (reader, writer) = os_pipe::pipe()?;
            Ok((pipe::Receiver::from_owned_fd(reader.into())?, OwnedFd::from(writer)))
        };
        let failed = |source| ProcessError::Start { program: program.to_string_lossy().into_owned(), source };
        let (reader, writer) = output_pipe().map_err(failed)?;
        let mut guard = self.assign(&request, &writer).await?;
        // The output ends when the last process has closed it.
        drop(writer);
        match follow(&mut guard, reader, output, stopping).await {
            Ok(Response::Ended(ended)) => {
                if ended.alive.is_empty() {
                    self.pool().idle.push(guard);
                }
                Ok(ended)
            }
            Ok(Response::Failed(errno)) => {
                self.pool().idle.push(guard);
                let source = io::Error::from_raw_os_error(errno);
                let file = program::file(command);
                Err(match source.kind() {
                    io::ErrorKind::NotFound => {
                        let program = program.to_string_lossy().into_owned();
                        match file.as_deref().and_then(Defect::of) {
                            Some(defect) => ProcessError::Unusable { program, defect },
                            None => ProcessError::NoProgram(program),
                        }
                    }
                    _ => failed(source),
                })
            }
            Err(source) => {
                let guards = self.clone();
                let _ = tokio::task::spawn_blocking(move || guards.kill_orphans(guard)).await;
                Err(lost(source))
            }
        }
    }

    /// Ends the idle guards, which end immediately.
    pub(crate) async fn close(&self) {
        let guards = std::mem::take(&mut self.pool().idle);
        let ended = tokio::task::spawn_blocking(|| guards.into_iter().for_each(Guard::end));
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended).await;
    }

    /// Passes a command to an idle guard, or to a new one if none is idle. Idle guards that have been killed are
    /// skipped.
    async fn assign(&self, request: &Request, output: &OwnedFd) -> Result<Guard, ProcessError> {
        loop {
            let idle = self.pool().idle.pop();
            let was_idle = idle.is_some();
            let mut guard = idle.map_or_else(|| self.start(), Ok)?;
            match guard.send_with(request, output).await {
                Ok(()) => return Ok(guard),
                Err(_) if was_idle => {}
                Err(source) => return Err(ProcessError::Guard { what: "has ended", source }),
            }
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts this program as a guard.
    fn start(&self) -> Result<Guard, ProcessError> {
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            let theirs = theirs.into_std()?;
            theirs.set_nonblocking(false)?;
            // This path is the running program, even if its file was replaced or removed.
            let mut command = std::process::Command::new("/proc/self/exe");
            command
                .arg0(NAME)
                .arg(GUARD)
                .env_clear()
                .env(VARIABLE, &*self.owner)
                .envs(limits::given_open_files().map(|files| (OPEN_FILES, files)))
                .stdin(OwnedFd::from(theirs))
                .stdout(self.lock.try_clone()?)
                .stderr(Stdio::null());
            // Under the lock, so that `orphaned` does not mistake it for an orphan.
            let mut pool = self.pool();
            let child = command.spawn()?;
            pool.pids.insert(Pid::from_child(&child));
            let socket = Some(LengthDelimitedCodec::builder().new_framed(ours));
            Ok(Guard { child: Some(child), socket, pool: self.pool.clone() })
        };
        start().map_err(|source| ProcessError::Guard { what: "cannot be started", source })
    }

    /// Kills the processes of a guard that was killed. This process has inherited them: they are its children in other
    /// sessions that are not guards.
    fn kill_orphans(&self, guard: Guard) {
        guard.kill();
        let own = getsid(None).ok();
        let end = std::time::Instant::now() + KILL_TIMEOUT;
        while std::time::Instant::now() < end {
            let mut orphans = children(getpid());
            orphans.retain(|child| getsid(Some(*child)).ok() != own);
            let guards = self.pool().pids.clone();
            orphans.retain(|child| !guards.contains(child));
            if orphans.is_empty() {
                return;
            }
            for orphan in orphans {
                signal(&descendants(orphan), Signal::KILL);
                signal(&[orphan], Signal::KILL);
                let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
            }
            std::thread::sleep(PASS);
        }
    }
}

impl Guard {
    fn socket(&mut self) -> io::Result<&mut Framed<UnixStream, LengthDelimitedCodec>> {
        self.socket.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends a request. If the guard has ended, its last reply or the end of the socket says more than this error.
    async fn send(&mut self, request: &Request) {
        if let (Ok(socket), Ok(bytes)) = (self.socket(), frame(request)) {
            let _ = socket.get_mut().write_all(&bytes).await;
        }
    }

    /// Sends a request with the file that receives the output of its command.
    async fn send_with(&mut self, request: &Request, file: &OwnedFd) -> io::Result<()> {
        let bytes = frame(request)?;
        let socket = self.socket()?.get_mut();
        let send = || send_with(socket.as_fd(), &bytes, file.as_fd());
        let sent = socket.async_io(Interest::WRITABLE, send).await?;
        socket.write_all(&bytes[sent..]).await
    }

    /// Continues a guard that was stopped by a signal.
    fn wake(&self) {
        if let Some(pid) = self.child.as_ref().map(Pid::from_child)
            && stat(pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
        {
            signal(&[pid], Signal::CONT);
        }
    }

    async fn receive(&mut self) -> io::Result<Reply> {
        let reply = self.socket()?.next().await;
        let reply = reply.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// Closes its socket, so that it ends its processes and itself, and waits for that.
    fn end(mut self) {
        drop(self.socket.take());
        self.wait();
    }

    /// Kills it, but not its processes.
    fn kill(mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child, &self.pool);
        }
    }
}

/// Waits for a guard to end.
fn reap(mut child: Child, pool: &Mutex<Pool>) {
    let _ = child.wait();
    pool.lock().unwrap_or_else(PoisonError::into_inner).pids.remove(&Pid::from_child(&child));
}

impl Drop for Guard {
    /// Ends the guard in the background. A thread reaps it; without one it stays a zombie until this process ends.
    fn drop(&mut self) {
        drop(self.socket.take());
        if let Some(child) = self.child.take() {
            let pool = self.pool.clone();
            let _ = limits::thread().spawn(move || reap(child, &pool));
        }
    }
}

/// The outcome of a request to run a command.
enum Response {
    Ended(Ended),
    /// It could not be started; the `errno`.
    Failed(i32),
}

/// Follows a command until it and all of its descendants have ended.
async fn follow(
    guard: &mut Guard,
    mut pipe: pipe::Receiver,
    output: &mpsc::Sender<Vec<u8>>,
    stopping: &Stopping,
) -> io::Result<Response> {
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut open = true;
    let (mut stopped, mut killed, mut swept) = (false, false, false);
    // The replies of the guard: the exit status, and that every process has ended.
    let (mut status, mut clear) = (None, None);
    // The deadline for the output to end. After the command has ended, it is when the processes that hold the output
    // are ended. After all processes have ended, it is when the output is closed anyway, because a foreign process
    // holds it. Bytes in the pipe are still read.
    let mut deadline = None;
    let mut waiting = None;
    let mut wake = tokio::time::interval(WAKE_INTERVAL);
    while open || clear.is_none() {
        let pending = !buffer.is_empty();
        let due = !pending && deadline.is_some_and(|deadline| deadline <= Instant::now());
        if clear.is_some() {
            open &= !due;
        } else if status.is_some() && !swept && !stopped && (due || !open) {
            swept = true;
            guard.send(&Request::Sweep).await;
        }
        let sleep = deadline.filter(|_| open && !pending && (clear.is_some() || !swept));
        tokio::select! {
            read = pipe.read_buf(&mut buffer), if open && !pending => open = read? > 0,
            permit = output.reserve(), if pending => {
                let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK));
                // Time that the receiver of the log takes does not count.
                if let (Some(deadline), Some(since)) = (&mut deadline, waiting.take()) {
                    *deadline += Instant::now() - since;
                }
                // If the receiver is gone, the command continues and its output is dropped.
                if let Ok(permit) = permit {
                    permit.send(bytes);
                }
            }
            reply = guard.receive(), if clear.is_none() => {
                match reply? {
                    Reply::Failed { errno } => return Ok(Response::Failed(errno)),
                    Reply::Ended { status: code } => status = Some(code),
                    Reply::Clear { left, alive } => clear = Some((left, alive)),
                }
                deadline = Some(Instant::now() + DRAIN);
            }
            () = stopping.soft.cancelled(), if !stopped && !swept && clear.is_none() => {
                // If the command has ended by itself, only its descendants are stopped.
                if status.is_some() {
                    swept = true;
                    guard.send(&Request::Sweep).await;
                } else {
                    stopped = true;
                    guard.send(&Request::Stop).await;
                }
            }
            () = stopping.hard.cancelled(), if !killed && clear.is_none() => {
                killed = true;
                stopped |= status.is_none();
                guard.send(&Request::Kill).await;
            }
            _ = wake.tick() => guard.wake(),
            () = sleep_until(sleep.unwrap_or_else(Instant::now)), if sleep.is_some() => {}
        }
        waiting = (!buffer.is_empty()).then(|| waiting.unwrap_or_else(Instant::now));
    }
    let (left, alive) = clear.unwrap_or_default();
    let ending = match status {
        Some(code @ 0..) if !stopped => Ending::Exited(code),
        Some(signal) if !stopped => Ending::Signalled(-signal),
        _ => Ending::Stopped,
    };
    Ok(Response::Ended(Ended { ending, left, alive }))
}
