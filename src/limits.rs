//! The limits of the system on this process (getrlimit(2)): advice for an exhausted one, and the soft limit of open
//! files.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::error::Error;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread::Builder;

/// The stack of a thread, in bytes: Rust's default, whatever `RUST_MIN_STACK` says.
pub(crate) const STACK: usize = 2 * 1024 * 1024;
/// The memory that a small run uses, without the program itself and its stacks, in bytes.
const NEEDED: u64 = 16 * 1024 * 1024;
/// The threads of a small run in addition to the workers.
const THREADS: u64 = 4;

/// The soft limit of open files that this process was started with. It is set once, like the limit itself.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit of open files to the hard one: parallel steps use several files each. The commands of steps
/// get the given limit back, because a program that uses select(2) cannot handle more than 1024 files.
pub(crate) fn raise_open_files() {
    let given = GIVEN.get_or_init(|| getrlimit(Resource::Nofile));
    // Without the permission the given limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: given.maximum, ..*given });
}

/// The soft limit of open files that this process was started with, if it was raised. For the environment of a process
/// of this program that starts others.
pub(crate) fn given_open_files() -> Option<String> {
    let given = GIVEN.get()?;
    Some(given.current.map_or_else(|| "unlimited".to_owned(), |files| files.to_string()))
}

/// Runs `start`, which starts a process, with a soft limit of open files that [`given_open_files`] returned.
pub(crate) fn with_open_files<T>(given: Option<&str>, start: impl FnOnce() -> T) -> T {
    let raised = getrlimit(Resource::Nofile);
    let lower = |given: &str| {
        let current = given.parse().ok();
        setrlimit(Resource::Nofile, Rlimit { current, ..raised })
    };
    let _ = given.map(lower);
    let started = start();
    let _ = given.map(|_| setrlimit(Resource::Nofile, raised));
    started
}

/// A thread that is not started yet. Starting it returns an error if no other one is allowed.
pub(crate) fn thread() -> Builder {
    Builder::new().stack_size(STACK)
}

/// Why the memory that is left under the limit on address space does not suffice for this many workers.
pub(crate) fn lack_of_memory(workers: usize) -> Option<String> {
    let limit = getrlimit(Resource::As).current?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let used = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix(" kB"))?;
    let left = limit.saturating_sub(used.trim().parse::<u64>().ok()? * 1024);
    let needed = NEEDED + (workers as u64 + THREADS) * STACK as u64;
    (left < needed).then(|| {
        format!(
            "the limit on memory leaves {} MiB, and runner needs {} MiB",
            left >> 20,
            needed.div_ceil(1 << 20)
        )
    })
}

/// Advice for an error that an exhausted limit caused.
pub(crate) fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    let mut error = Some(error);
    while let Some(cause) = error {
        if let Some(advice) = cause.downcast_ref::<io::Error>().and_then(io_advice) {
            return Some(advice);
        }
        error = cause.source();
    }
    None
}

fn io_advice(error: &io::Error) -> Option<String> {
    match error.get_ref() {
        // An error of another library inside of one of this kind.
        Some(inner) => advice(inner),
        None => of_errno(Errno::from_io_error(error)?),
    }
}

fn of_errno(errno: Errno) -> Option<String> {
    match errno {
        Errno::MFILE => Some(format!(
            "raise the limit of open files, {} (`ulimit -n`, or `--ulimit nofile=N` for a container)",
            value(Resource::Nofile)
        )),
        Errno::NFILE => Some("raise the machine's limit of open files (`sysctl fs.file-max`)".to_owned()),
        Errno::NOMEM => Some(memory()),
        _ => None,
    }
}

/// Advice for a process or thread that could not be started because of an exhausted limit.
pub(crate) fn start_advice(error: &io::Error) -> Option<String> {
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN) => Some(processes()),
        _ => advice(error),
    }
}

/// Advice for this process if its runtime cannot start, which does not say why.
pub(crate) fn runtime_advice() -> String {
    match UnixStream::pair() {
        Err(error) => start_advice(&error).unwrap_or_else(processes),
        Ok(_) => processes(),
    }
}

fn processes() -> String {
    let limit = value(Resource::Nproc);
    let processes = format!(
        "raise the limit of processes and threads, {limit} (`ulimit -u`, or `--pids-limit N` for a container)"
    );
    match getrlimit(Resource::As).current {
        // A thread needs memory for its stack.
        Some(_) => format!("{processes}, or {}", memory()),
        None => processes,
    }
}

/// Advice if no memory is left.
pub(crate) fn memory() -> String {
    match getrlimit(Resource::As).current {
        Some(bytes) => format!("raise the limit on memory, {} KiB (`ulimit -v`)", bytes / 1024),
        None => "give the machine or the container more memory".to_owned(),
    }
}

fn value(resource: Resource) -> String {
    getrlimit(resource).current.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}
