//! What killed runs left behind: their processes, temporary files, containers, networks, volumes and names of images.

use crate::docker::host::Endpoint;
use crate::docker::{DockerError, Engine};
use crate::exit::Failure;
use crate::process::guard::{PASS, is_guard};
use crate::process::owner::{Fate, Owner, owned};
use crate::process::tree;
use crate::work::{self, Files, WORK_DIRECTORY};
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the files may be locked by what is ending.
const LOCKED: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Cleared {
    /// What is gone, for people.
    pub(crate) removed: Vec<String>,
    /// What stays or could not be looked at, and why.
    pub(crate) kept: Vec<String>,
}

/// Removes what runs left behind whose process is gone. What lives, or may live elsewhere, is left alone. `directory` is the
/// pipeline file's, `artifacts` the one with the files for CodePipeline.
pub(crate) async fn clear(directory: &Path, artifacts: &Path, docker: &Endpoint) -> Result<Cleared, Failure> {
    let mut cleared = Cleared::default();
    // First what could make more of the rest.
    processes(&mut cleared).await;
    let work = directory.join(WORK_DIRECTORY);
    let end = Instant::now() + LOCKED;
    let mut files = work::remove_temporary(&work, artifacts);
    // The lock of a run that was killed is held a moment longer by a command that it was just starting.
    while matches!(files, Ok(Files::InUse)) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        files = work::remove_temporary(&work, artifacts);
    }
    match files {
        Ok(Files::Removed(files)) => {
            cleared.removed.extend(files.iter().map(|file| format!("file {}", file.display())));
        }
        Ok(Files::InUse) => {
            cleared.kept.push(format!("the files in {}: a runner is at work there", work.display()));
        }
        Err(error) => {
            let failure = Failure::environment(format!("cannot clear {}: {error}", work.display()));
            return Err(failure.help("remove the directory as the user who owns it"));
        }
    }
    match Engine::connect(docker).await {
        Ok(engine) => containers(&engine, &mut cleared).await,
        Err(error) => unasked(&mut cleared, &error),
    }
    Ok(cleared)
}

/// Ends the processes of owners that are gone, and everything below them. Guards among them end by themselves once nothing lives
/// below them, and until then nothing gets away from there: they are killed only if they stay.
async fn processes(cleared: &mut Cleared) {
    let begin = Instant::now();
    let mut names = BTreeSet::new();
    loop {
        let (guards, mut found): (Vec<Pid>, Vec<Pid>) = orphans().into_iter().partition(|pid| is_guard(*pid));
        if guards.is_empty() && found.is_empty() {
            break;
        }
        if begin.elapsed() > PATIENCE {
            let alive = tree::names(&[found, guards].concat());
            cleared.kept.extend(alive.iter().map(|name| format!("process {name} cannot be ended")));
            names.retain(|name| !alive.contains(name));
            break;
        }
        if begin.elapsed() > PATIENCE / 2 {
            found.extend(&guards);
        }
        names.extend(tree::names(&found));
        tree::signal(&found, Signal::KILL);
        // What forks on and on is gone again before all processes have been looked at.
        for _ in 0..20 {
            tokio::time::sleep(PASS).await;
            for guard in &guards {
                tree::signal(&tree::descendants(*guard), Signal::KILL);
            }
        }
    }
    cleared.removed.extend(names.into_iter().map(|name| format!("process {name}")));
}

fn orphans() -> Vec<Pid> {
    let gone = owned().into_iter().filter(|(_, owner)| owner.fate() == Fate::Gone);
    let with_children = gone.flat_map(|(pid, _)| [vec![pid], tree::descendants(pid)].concat());
    let living = |pid: &Pid| tree::is_alive(*pid);
    let mut pids: Vec<Pid> =
        with_children.filter(|pid| *pid != rustix::process::getpid()).filter(living).collect();
    pids.sort_by_key(|pid| pid.as_raw_nonzero());
    pids.dedup();
    pids
}

fn unasked(cleared: &mut Cleared, error: &DockerError) {
    cleared.kept.push(format!("containers were not looked for: {}", crate::exit::chain(error)));
}

async fn containers(engine: &Engine, cleared: &mut Cleared) {
    let mut elsewhere = 0;
    let owned = match engine.owned().await {
        Ok(owned) => owned,
        Err(error) => return unasked(cleared, &error),
    };
    for found in owned {
        match Owner::parse(&found.owner).map(|owner| owner.fate()) {
            Some(Fate::Gone) => {
                let name = format!("{} {}", found.kind.as_str(), found.name);
                match engine.remove(&found).await {
                    Ok(()) => cleared.removed.push(name),
                    Err(error) => cleared.kept.push(format!("{name}: {}", crate::exit::chain(&error))),
                }
            }
            Some(Fate::Lives) => {}
            Some(Fate::Elsewhere) | None => elsewhere += 1,
        }
    }
    if elsewhere > 0 {
        let kept = format!(
            "{elsewhere} with the label {}: made in another container, on another machine or before a boot, where their run may still live",
            crate::docker::OWNER_LABEL
        );
        cleared.kept.push(kept);
    }
}
