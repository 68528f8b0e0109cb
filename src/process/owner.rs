//! Who something belongs to: the runner process that made it. What a process that is gone has left behind can be told by it.

use super::tree::{Stat, all};
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
use std::fmt;

/// The environment variable by which the processes of a run are known.
pub(crate) const VARIABLE: &str = "RUNNER_OWNER";

/// A process of some machine, told apart from every other one that ever had its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The boot of the machine, and the namespace in which the number is valid.
    place: String,
    pid: Pid,
    /// When it started, in clock ticks since the boot.
    started: u64,
}

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Gone,
    /// It is, or was, in another container, on another machine, before a boot or hidden: from here nobody can tell.
    Elsewhere,
}

impl Owner {
    pub(crate) fn current() -> Option<Self> {
        let pid = getpid();
        Some(Self { place: place()?, pid, started: Stat::of(pid)?.started })
    }

    /// Reads what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let started = parts.next()?.parse().ok()?;
        let pid = Pid::from_raw(parts.next()?.parse().ok().filter(|pid| *pid > 0)?)?;
        let place = parts.next()?.to_owned();
        Some(Self { place, pid, started })
    }

    /// What became of it.
    pub(crate) fn fate(&self) -> Fate {
        if place().is_none_or(|here| here != self.place) {
            return Fate::Elsewhere;
        }
        match Stat::of(self.pid) {
            Some(stat) if stat.started == self.started && stat.lives() => Fate::Lives,
            Some(_) => Fate::Gone,
            // Where /proc hides the processes of others, the kernel still says whether there is one.
            None if test_kill_process(self.pid) == Err(Errno::SRCH) => Fate::Gone,
            None => Fate::Elsewhere,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.place, self.pid, self.started)
    }
}

/// Where process ids are valid: this boot of the machine, this namespace.
fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let number: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    Some(format!("{}.{number}", boot.trim().replace('-', "")))
}

/// The processes whose environment names an owner, with that owner, as far as this user may look.
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
    fn an_owner_is_known_again() {
        let owner = Owner::current().unwrap();
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner.clone()));
        assert_eq!(owner.fate(), Fate::Lives);
        assert_eq!(Owner { started: owner.started + 1, ..owner.clone() }.fate(), Fate::Gone);
        assert_eq!(Owner { place: "elsewhere.1".to_owned(), ..owner }.fate(), Fate::Elsewhere);
        assert_eq!(Owner::parse("a.b.c"), None);
        assert_eq!(Owner::parse("x.-1.5"), None);
    }
}
