//! Runner as the first process of a container. The kernel makes it the parent of all orphans and ignores signals to it
//! without a handler. A child does the work; this process forwards signals and reaps.

use crate::limits;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Whether this process is process 1.
pub(crate) fn is_first() -> bool {
    rustix::process::getpid().is_init()
}

/// Runs this program with the same arguments as a child and returns its exit code: 128+N if signal N ended it.
pub(crate) fn main() -> io::Result<u8> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2])?;
    // In its own group it does not receive a terminal's signals to this process's group, which are forwarded to it
    // already.
    let mut child =
        Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    let forward = move || {
        for signal in &mut signals {
            if let Some(signal) = Signal::from_named_raw(signal) {
                let _ = kill_process(pid, signal);
            }
        }
    };
    if let Err(error) = limits::thread().spawn(forward) {
        // Nothing else would end it.
        let _ = child.kill().and_then(|()| child.wait());
        return Err(error);
    }
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
