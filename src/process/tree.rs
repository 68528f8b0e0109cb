//! The processes below one, as `/proc` shows them.

use rustix::process::{Pid, Signal, getpid, kill_process};
use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

/// Everything below a process, zombies included, parents before children. Processes that come and go meanwhile may be missing.
pub(crate) fn descendants(of: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    let mut todo = vec![of];
    while let Some(parent) = todo.pop() {
        for child in children(parent) {
            if seen.insert(child) {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}

/// The children of all threads of a process.
pub(crate) fn children(of: Pid) -> Vec<Pid> {
    static LISTED: LazyLock<bool> =
        LazyLock::new(|| Path::new(&format!("/proc/self/task/{}/children", getpid())).exists());
    if *LISTED { listed_children(of) } else { searched_children(of) }
}

fn listed_children(of: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
    pids.filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

/// For kernels without such lists (`CONFIG_PROC_CHILDREN`).
fn searched_children(of: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| Stat::of(*pid).is_some_and(|stat| stat.parent == of.as_raw_nonzero().get());
    all().into_iter().filter(is_child).collect()
}

/// All processes that can be seen.
pub(crate) fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Sends a signal to processes. Those that are gone meanwhile are as wanted.
pub(crate) fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

/// Asks processes to end. Those that are stopped are woken up, or they could not.
pub(crate) fn terminate(processes: &[Pid]) {
    signal(processes, Signal::TERM);
    signal(processes, Signal::CONT);
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The program's name, at most 15 bytes.
    pub(crate) name: String,
    /// `R` running, `S` sleeping, `Z` zombie …
    pub(crate) state: char,
    /// The process id of its parent.
    pub(crate) parent: i32,
    /// When it started, in clock ticks since the boot.
    pub(crate) started: u64,
}

impl Stat {
    /// Of a process; nothing where there is none.
    pub(crate) fn of(process: Pid) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&std::fs::read(format!("/proc/{process}/stat")).ok()?))
    }

    /// A name may hold blanks and parentheses; proc(5) numbers the fields that follow it.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(") ")?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let state = fields.first()?.chars().next()?;
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { name, state, parent, started: fields.get(19)?.parse().ok()? })
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// The names of those processes that live, each with its id.
pub(crate) fn names(processes: &[Pid]) -> Vec<String> {
    let living = processes.iter().filter_map(|pid| Some((pid, Stat::of(*pid).filter(Stat::lives)?)));
    living.map(|(pid, stat)| format!("{} ({pid})", stat.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let text = "42 (a) S b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent, stat.started), ("a) S b", 'R', 1, 777));
    }

    #[test]
    fn children_of_this_process_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(descendants(getpid()).contains(&pid));
        assert!(listed_children(getpid()).contains(&pid) && searched_children(getpid()).contains(&pid));
        assert_eq!(names(&[pid]), [format!("sleep ({pid})")]);
        signal(&[pid], Signal::KILL);
        child.wait().unwrap();
        assert!(Stat::of(pid).is_none());
    }
}
