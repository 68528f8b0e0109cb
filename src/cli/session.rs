//! The session of a command: the only place that starts the runtime and handles signals, panics and failures.

use super::printer::Printer;
use crate::engine::Cancellation;
use crate::exit::{Exit, Failure};
use crate::limits;
use crate::process::Stopping;
use crate::secret::{Masks, Secret};
use futures_util::FutureExt;
use rustix::process::Pid;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Two signals that are closer together than this count as one.
const SAME_REQUEST: Duration = Duration::from_millis(200);
/// The interval at which the parent process is polled.
const PARENT_POLL: Duration = Duration::from_millis(200);
/// How long a run may take to report its end after the second signal.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long an idle thread for blocking work stays: longer than any run. While there is one, tokio queues work for which
/// it cannot start another thread; otherwise it panics.
const KEEP_ALIVE: Duration = Duration::from_hours(24 * 7);

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Session {
    /// The secrets that the command knows. Whatever is added is masked from then on.
    pub(crate) masks: Masks,
    pub(crate) printer: Printer,
}

/// Runs a command to its end, prints its failure, and returns the exit code of the process.
pub(crate) fn run(no_color: bool, command: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>) -> ExitCode {
    let masks = Masks::default();
    // Errors and commands may print the proxies of the environment.
    for password in crate::proxy::passwords() {
        masks.add(&Secret::new(password));
    }
    let printer = Printer::new(&masks, no_color);
    limits::raise_open_files();
    let runtime = runtime(&printer);
    mask_panics(&printer);
    let session = Session { masks, printer };
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(command(&session));
        // Blocking work that was cancelled must not delay the exit.
        runtime.shutdown_background();
        result
    });
    let exit = result.unwrap_or_else(|failure| {
        session.printer.failure(&failure);
        failure.exit
    });
    ExitCode::from(exit.code())
}

fn runtime(printer: &Printer) -> Result<Runtime, Failure> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(lack) = limits::lack_of_memory(workers) {
        return Err(Failure::environment(format!("cannot start: {lack}")).help(limits::memory()));
    }
    // Without a thread or a file for its own use, tokio panics, and then waits forever for threads that it has started.
    let printer = printer.clone();
    std::panic::set_hook(Box::new(move |_| {
        let failure = Failure::environment("cannot start: a limit of the system is too low")
            .help(limits::runtime_advice());
        printer.failure(&failure);
        std::process::exit(i32::from(failure.exit.code()));
    }));
    let started = Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_stack_size(limits::STACK)
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build();
    let runtime = started.map_err(|error| {
        Failure::environment(format!("cannot start: {error}")).limited(limits::start_advice(&error))
    })?;
    drop(runtime.spawn_blocking(|| ()));
    Ok(runtime)
}

/// Panic messages may contain secrets.
fn mask_panics(printer: &Printer) {
    let printer = printer.clone();
    std::panic::set_hook(Box::new(move |panic| {
        printer.message(&format!("runner has a defect, please report it: {panic}"));
    }));
}

/// Turns signals into a cancellation from now on. Until a command calls this a signal simply ends the process.
///
/// The first signal stops in order, the second at once. The death of the parent process counts as SIGHUP, because its
/// result has no reader then. A process that ignores SIGHUP, as under `nohup`, outlives its parent.
pub(crate) fn cancel_on_signals(stopping: Stopping) -> Result<Cancellation, Failure> {
    let mut signals = Signals::new().map_err(|error| {
        Failure::environment(format!("cannot listen to signals: {error}")).limited(limits::advice(&error))
    })?;
    let cancellation = Cancellation { stopping, ..Cancellation::default() };
    let cancelled = cancellation.clone();
    tokio::spawn(async move {
        let number = signals.next().await;
        cancelled.signal.store(number, Ordering::SeqCst);
        cancelled.stopping.soft.cancel();
        // Some programs send TERM and HUP together to end a process once.
        tokio::time::sleep(SAME_REQUEST).await;
        signals.forget();
        signals.next().await;
        cancelled.stopping.hard.cancel();
        tokio::time::sleep(LAST_WORDS).await;
        std::process::exit(i32::from(Exit::Signal(number).code()));
    });
    Ok(cancellation)
}

/// Whether SIGHUP was ignored when this process began, as proc(5) shows it.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// The signals that end a command, and the death of its parent.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    /// The process that started this one.
    parent: Option<Pid>,
    /// Whether the death of the parent counts as SIGHUP.
    watches_parent: bool,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let heeds_hangup = !ignores_hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: heeds_hangup.then(|| signal(SignalKind::hangup())).transpose()?,
            parent: rustix::process::getppid(),
            watches_parent: heeds_hangup,
        })
    }

    /// Waits for the next signal and returns its number.
    async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        let orphaned = async {
            // The kernel's own notice (prctl(2), PR_SET_PDEATHSIG) comes when the parent's thread ends, not its process.
            while !self.watches_parent || rustix::process::getppid() == self.parent {
                tokio::time::sleep(PARENT_POLL).await;
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
            _ = hangup => 1,
            () = orphaned => 1,
        }
    }

    /// Drops the signals that have come since the first one, and ignores hang-ups from now on: whatever stops this process often
    /// ends its terminal and its parent as well.
    fn forget(&mut self) {
        while self.terminate.recv().now_or_never().is_some() || self.interrupt.recv().now_or_never().is_some()
        {
        }
        self.hangup = None;
        self.watches_parent = false;
    }
}
