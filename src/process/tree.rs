//! The descendants of a process, read from `/proc`.

use procfs::process::{Process, Stat};
use rustix::process::{Pid, Signal, getpid, kill_process};
use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

/// Returns all descendants of a process, including zombies, parents before children. Processes that start or end during
/// the call may be missing.
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

/// Returns the children of all threads of a process.
pub(crate) fn children(of: Pid) -> Vec<Pid> {
    static LISTED: LazyLock<bool> =
        LazyLock::new(|| Path::new(&format!("/proc/self/task/{}/children", getpid())).exists());
    if *LISTED { listed_children(of) } else { searched_children(of) }
}

/// Reads the files by path: `procfs` opens a directory for every process and thread, which makes the loops that kill
/// processes about 50 % slower.
fn listed_children(of: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
    pids.filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

/// The fallback for kernels without lists of children (`CONFIG_PROC_CHILDREN`).
fn searched_children(of: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| stat(*pid).is_some_and(|stat| stat.ppid == of.as_raw_nonzero().get());
    all().into_iter().filter(is_child).collect()
}

/// Returns all visible processes.
pub(crate) fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Sends a signal to processes. Processes that have ended are ignored.
pub(crate) fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

/// Sends TERM to processes, and CONT, because a stopped process does not handle TERM.
pub(crate) fn terminate(processes: &[Pid]) {
    signal(processes, Signal::TERM);
    signal(processes, Signal::CONT);
}

/// Returns the status of a process, or `None` if it does not exist.
pub(crate) fn stat(process: Pid) -> Option<Stat> {
    Process::new(process.as_raw_nonzero().get()).and_then(|process| process.stat()).ok()
}

/// Whether a process exists and has not ended.
pub(crate) fn is_alive(process: Pid) -> bool {
    stat(process).is_some_and(|stat| lives(&stat))
}

/// Whether a process has not ended.
pub(crate) fn lives(stat: &Stat) -> bool {
    !matches!(stat.state, 'Z' | 'X')
}

/// Returns the names of those processes that live, with their ids.
pub(crate) fn names(processes: &[Pid]) -> Vec<String> {
    let living = processes.iter().filter_map(|pid| Some((pid, stat(*pid).filter(lives)?)));
    living.map(|(pid, stat)| format!("{} ({pid})", stat.comm)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_contain_any_character() {
        use std::io::Read;
        let script = "printf 'a) S (b' > /proc/$$/comm; echo; read _";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let stat = stat(Pid::from_child(&child)).unwrap();
        child.wait().unwrap();
        assert_eq!((stat.comm.as_str(), stat.ppid), ("a) S (b", getpid().as_raw_nonzero().get()));
        assert!(stat.starttime > 0 && lives(&stat));
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
        assert!(stat(pid).is_none());
    }
}
