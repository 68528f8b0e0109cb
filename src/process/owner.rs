//! The owner of processes and containers: the runner process that created them. `gc` uses it to find what an ended
//! process left behind.

use super::tree::{all, lives, stat};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use std::fmt;

/// The environment variable with the owner in all processes of a run.
pub(crate) const VARIABLE: &str = "RUNNER_OWNER";

/// A process, identified uniquely across machines, boots and reused ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The boot of the machine and the namespace in which the id is valid.
    namespace: String,
    pid: Pid,
    /// When it started, in clock ticks since the boot.
    started: u64,
}

/// The state of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Gone,
    /// Unknown: it belongs to another container, machine or boot, or is hidden.
    Elsewhere,
}

impl Owner {
    pub(crate) fn current() -> Option<Self> {
        let pid = getpid();
        Some(Self { namespace: namespace()?, pid, started: stat(pid)?.starttime })
    }

    /// Parses the output of `Display`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let started = parts.next()?.parse().ok()?;
        let pid = Pid::from_raw(parts.next()?.parse().ok().filter(|pid| *pid > 0)?)?;
        let namespace = parts.next()?.to_owned();
        Some(Self { namespace, pid, started })
    }

    /// Returns its current state.
    pub(crate) fn fate(&self) -> Fate {
        if namespace().is_none_or(|current| current != self.namespace) {
            return Fate::Elsewhere;
        }
        match stat(self.pid) {
            Some(stat) if stat.starttime == self.started && lives(&stat) => Fate::Lives,
            Some(_) => Fate::Gone,
            // /proc may hide other users' processes (`hidepid`), but kill(2) still reports whether one exists.
            None if test_kill_process(self.pid) == Err(Errno::SRCH) => Fate::Gone,
            None => Fate::Elsewhere,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.namespace, self.pid, self.started)
    }
}

/// Identifies the scope of process ids: this boot of the machine, and this namespace.
fn namespace() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let number: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    Some(format!("{}.{number}", boot.trim().replace('-', "")))
}

/// Returns the processes with an owner in their environment, with that owner. Omits processes that this user is not
/// allowed to inspect.
pub(crate) fn owned() -> Vec<(Pid, Owner)> {
    let prefix = format!("{VARIABLE}=");
    let owned = all().into_iter().filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|variable| variable.strip_prefix(prefix.as_bytes()))?;
        Some((pid, Owner::parse(std::str::from_utf8(value).ok()?)?))
    });
    owned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_recognized() {
        let owner = Owner::current().unwrap();
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner.clone()));
        assert_eq!(owner.fate(), Fate::Lives);
        assert_eq!(Owner { started: owner.started + 1, ..owner.clone() }.fate(), Fate::Gone);
        assert_eq!(Owner { namespace: "elsewhere.1".to_owned(), ..owner }.fate(), Fate::Elsewhere);
        assert_eq!(Owner::parse("a.b.c"), None);
        assert_eq!(Owner::parse("x.-1.5"), None);
    }
}
