//! Runner as the first process of a container: the kernel gives it every process that loses its parent, and signals without a
//! handler do nothing to it. A child does the work; this process hands signals on and collects what has ended.

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Whether this process is the first one.
pub(crate) fn is_first() -> bool {
    rustix::process::getpid().is_init()
}

/// Runs this program anew with the same arguments and gives its exit code: 128+N when a signal ended it.
pub(crate) fn main() -> io::Result<u8> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])?;
    // A group of its own: what a terminal sends to the group of this process is handed on, and must not come twice.
    let child = Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    std::thread::spawn(move || {
        for signal in &mut signals {
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _ = kill_process(pid, signal);
            }
        }
    });
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => return Ok(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let signal = || status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or_else(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
