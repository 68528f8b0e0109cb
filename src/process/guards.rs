//! Runner's side of the guards: commands are handed to them, their output is passed on, and they are told when to end it all.

use super::guard::{GUARD, HOPELESS, NAME, PASS};
use super::owner::{Owner, VARIABLE};
use super::protocol::{Reply, Request, frame, send_with};
use super::tree::{Stat, children, descendants, signal};
use super::{Command, Ended, Ending, ProcessError, Stopping};
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

/// How much is read from a command at a time, in bytes.
const CHUNK: usize = 64 * 1024;
/// How long output is awaited of what a command started when that has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How often runner looks whether a guard has been stopped.
const LOOK: Duration = Duration::from_millis(500);
/// How long a guard without a command may take to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The guards of a run: one for every command that runs at a time, used again when its command is through.
#[derive(Clone)]
pub(crate) struct Guards {
    pool: Arc<Mutex<Pool>>,
    /// What the processes of this run are known by.
    owner: Arc<str>,
    /// Held by every guard: who works in this directory is not gone before what runner started.
    lock: Arc<File>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Guard>,
    /// All guards that live, those with a command included.
    pids: HashSet<Pid>,
}

/// A guard, and the socket to it.
struct Guard {
    /// Gone once somebody waits for it.
    child: Option<Child>,
    /// Gone once it is told to end.
    socket: Option<Framed<UnixStream, LengthDelimitedCodec>>,
    pool: Arc<Mutex<Pool>>,
}

impl Guards {
    /// No guard yet. If one should be killed, this process gets its children. The file is open for as long as a guard lives.
    pub(crate) fn begin(lock: &Arc<File>) -> Self {
        let _ = set_child_subreaper(Some(getpid()));
        let owner = Owner::current().map(|owner| owner.to_string()).unwrap_or_default();
        Self { pool: Arc::default(), owner: owner.into(), lock: lock.clone() }
    }

    /// What the processes and containers of this run are known by.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Runs a command to its end, sending what it writes to stdout and stderr, in its order, to `output`. When this is through,
    /// nothing that the command started lives any longer. When it is dropped, the guard sees to that by itself.
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
            // `./x.sh` starts from the command's directory, not from ours.
            argv[0] = command.dir.join(program).into_os_string();
        }
        let mut env = command.env.clone();
        env.push((VARIABLE.into(), OsString::from(&*self.owner)));
        let dir = command.dir.clone().into_os_string();
        let request = Request::Run { argv, dir, env, grace: stopping.grace };
        let lost = |source| ProcessError::Guard { what: "has ended", source };
        let (reader, writer) = os_pipe::pipe().map_err(lost)?;
        let mut guard = self.hand_over(&request, &OwnedFd::from(writer)).await?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(lost)?;
        match follow(&mut guard, reader, output, stopping).await {
            Ok(Outcome::Ended(ended)) => {
                if ended.alive.is_empty() {
                    self.pool().idle.push(guard);
                }
                Ok(ended)
            }
            Ok(Outcome::Failed(errno)) => {
                self.pool().idle.push(guard);
                let source = io::Error::from_raw_os_error(errno);
                let program = program.to_string_lossy().into_owned();
                Err(match source.kind() {
                    io::ErrorKind::NotFound => ProcessError::NoProgram(program),
                    _ => ProcessError::Start { program, source },
                })
            }
            Err(source) => {
                let guards = self.clone();
                let _ = tokio::task::spawn_blocking(move || guards.orphaned(guard)).await;
                Err(lost(source))
            }
        }
    }

    /// Ends the guards. None of them has a command any more, so that they end at once.
    pub(crate) async fn close(&self) {
        let guards = std::mem::take(&mut self.pool().idle);
        let ended = tokio::task::spawn_blocking(|| guards.into_iter().for_each(Guard::end));
        let _ = tokio::time::timeout(FAREWELL, ended).await;
    }

    /// Gives a command to a guard: an idle one, or a new one where there is none or somebody has ended it.
    async fn hand_over(&self, request: &Request, output: &OwnedFd) -> Result<Guard, ProcessError> {
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

    /// Starts this program anew, as a guard.
    fn start(&self) -> Result<Guard, ProcessError> {
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            let theirs = theirs.into_std()?;
            theirs.set_nonblocking(false)?;
            // Its place in /proc is this very program, whatever has become of its file.
            let mut command = std::process::Command::new("/proc/self/exe");
            command
                .arg0(NAME)
                .arg(GUARD)
                .env_clear()
                .env(VARIABLE, &*self.owner)
                .stdin(OwnedFd::from(theirs))
                .stdout(self.lock.try_clone()?)
                .stderr(Stdio::null());
            // Under the lock, so that nobody takes it for an orphan.
            let mut pool = self.pool();
            let child = command.spawn()?;
            pool.pids.insert(Pid::from_child(&child));
            let socket = Some(LengthDelimitedCodec::builder().new_framed(ours));
            Ok(Guard { child: Some(child), socket, pool: self.pool.clone() })
        };
        start().map_err(|source| ProcessError::Guard { what: "cannot be started", source })
    }

    /// A guard was killed. What it watched over is this process's now: all its children of other sessions that are no guards.
    fn orphaned(&self, guard: Guard) {
        guard.kill();
        let own = getsid(None).ok();
        let end = std::time::Instant::now() + HOPELESS;
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

    async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.socket()?.get_mut().write_all(&frame(request)?).await
    }

    /// Sends a request with the file that its command writes to.
    async fn send_with(&mut self, request: &Request, file: &OwnedFd) -> io::Result<()> {
        let bytes = frame(request)?;
        let socket = self.socket()?.get_mut();
        let send = || send_with(socket.as_fd(), &bytes, file.as_fd());
        let sent = socket.async_io(Interest::WRITABLE, send).await?;
        socket.write_all(&bytes[sent..]).await
    }

    /// Lets it go on where somebody has stopped it: it has work to do.
    fn wake(&self) {
        if let Some(pid) = self.child.as_ref().map(Pid::from_child)
            && Stat::of(pid).is_some_and(|stat| matches!(stat.state, 'T' | 't'))
        {
            signal(&[pid], Signal::CONT);
        }
    }

    async fn receive(&mut self) -> io::Result<Reply> {
        let reply = self.socket()?.next().await;
        let reply = reply.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
        Ok(serde_json::from_slice(&reply)?)
    }

    /// Lets it end what it watches over, and waits for its own end.
    fn end(mut self) {
        drop(self.socket.take());
        self.wait();
    }

    /// Ends it and nothing else.
    fn kill(mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
        self.wait();
    }

    fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
            self.pool.lock().unwrap_or_else(PoisonError::into_inner).pids.remove(&Pid::from_child(&child));
        }
    }
}

impl Drop for Guard {
    /// It ends what it watches over and then itself, which nobody waits for. That it is collected is up to a thread.
    fn drop(&mut self) {
        if self.child.is_some() {
            let guard =
                Self { child: self.child.take(), socket: self.socket.take(), pool: self.pool.clone() };
            std::thread::spawn(|| guard.end());
        }
    }
}

/// What came of a request to run a command.
enum Outcome {
    Ended(Ended),
    /// It could not be started; the kernel's number of the error.
    Failed(i32),
}

/// Follows a command until it and all that it started are gone.
async fn follow(
    guard: &mut Guard,
    mut pipe: pipe::Receiver,
    output: &mpsc::Sender<Vec<u8>>,
    stopping: &Stopping,
) -> io::Result<Outcome> {
    let mut buffer = Vec::with_capacity(CHUNK);
    let mut open = true;
    let (mut stopped, mut killed, mut swept) = (false, false, false);
    // What the guard has said: how the command ended, and that nothing lives any longer.
    let (mut status, mut clear) = (None, None);
    // When what holds the output is ended, once the command has ended; then when the output is closed all the same, because
    // somebody holds it who does not belong to the command. What is in the pipe by then is there to be read.
    let mut patience = None;
    let mut waiting = None;
    let mut look = tokio::time::interval(LOOK);
    while open || clear.is_none() {
        let pending = !buffer.is_empty();
        let due = !pending && patience.is_some_and(|patience| patience <= Instant::now());
        if clear.is_some() {
            open &= !due;
        } else if status.is_some() && !swept && !stopped && (due || !open) {
            swept = true;
            guard.send(&Request::Sweep).await?;
        }
        let asleep = patience.filter(|_| open && !pending && (clear.is_some() || !swept));
        tokio::select! {
            read = pipe.read_buf(&mut buffer), if open && !pending => open = read? > 0,
            permit = output.reserve(), if pending => {
                let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK));
                // Time that the reader of the log takes is not the command's.
                if let (Some(patience), Some(since)) = (&mut patience, waiting.take()) {
                    *patience += Instant::now() - since;
                }
                // Where nobody listens any more the command goes on; its output is dropped.
                if let Ok(permit) = permit {
                    permit.send(bytes);
                }
            }
            reply = guard.receive(), if clear.is_none() => {
                match reply? {
                    Reply::Failed { errno } => return Ok(Outcome::Failed(errno)),
                    Reply::Ended { status: code } => status = Some(code),
                    Reply::Clear { left, alive } => clear = Some((left, alive)),
                }
                patience = Some(Instant::now() + DRAIN);
            }
            () = stopping.soft.cancelled(), if !stopped && !swept && clear.is_none() => {
                // A command that has ended by itself is not stopped any more, only what it left behind.
                if status.is_some() {
                    swept = true;
                    guard.send(&Request::Sweep).await?;
                } else {
                    stopped = true;
                    guard.send(&Request::Stop).await?;
                }
            }
            () = stopping.hard.cancelled(), if !killed && clear.is_none() => {
                killed = true;
                stopped |= status.is_none();
                guard.send(&Request::Kill).await?;
            }
            _ = look.tick() => guard.wake(),
            () = sleep_until(asleep.unwrap_or_else(Instant::now)), if asleep.is_some() => {}
        }
        waiting = (!buffer.is_empty()).then(|| waiting.unwrap_or_else(Instant::now));
    }
    let (left, alive) = clear.unwrap_or_default();
    let ending = match status {
        Some(code @ 0..) if !stopped => Ending::Exited(code),
        Some(signal) if !stopped => Ending::Signalled(-signal),
        _ => Ending::Stopped,
    };
    Ok(Outcome::Ended(Ended { ending, left, alive }))
}
