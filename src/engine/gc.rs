//! What killed runs left behind: their processes, temporary files, containers, networks, volumes and names of images.

use crate::docker::host::Endpoint;
use crate::docker::{DockerError, Engine};
use crate::exit::Failure;
use crate::limits;
use crate::process::guard::{PASS, is_guard};
use crate::process::owner::{Fate, Owner, owned};
use crate::process::tree;
use crate::work::{self, Files, WORK_DIRECTORY};
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long killed processes may take to end.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an ending process may still hold the lock of the files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The leftovers removed and kept, as human-readable lines.
#[derive(Debug, Default)]
pub(crate) struct Cleared {
    pub(crate) removed: Vec<String>,
    /// With the reasons.
    pub(crate) kept: Vec<String>,
}

/// Removes what killed runs left behind. Keeps what belongs to a run that lives, or that may live elsewhere.
/// `directory` is that of the pipeline file, `artifacts` that of the files for CodePipeline.
pub(crate) async fn clear(directory: &Path, artifacts: &Path, docker: &Endpoint) -> Result<Cleared, Failure> {
    let mut cleared = Cleared::default();
    // Processes first, because they could create more of the rest.
    processes(&mut cleared).await;
    let work = directory.join(WORK_DIRECTORY);
    let end = Instant::now() + LOCK_TIMEOUT;
    let mut files = work::remove_temporary(&work, artifacts);
    // A command that a killed run was just starting holds the lock for a moment longer.
    while matches!(files, Ok(Files::InUse)) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        files = work::remove_temporary(&work, artifacts);
    }
    match files {
        Ok(Files::Removed(files)) => {
            cleared.removed.extend(files.iter().map(|file| format!("file {}", file.display())));
        }
        Ok(Files::InUse) => {
            cleared.kept.push(format!("the files in {}: a runner is using them", work.display()));
        }
        Err(error) => {
            let failure = Failure::environment(format!("cannot clear {}: {error}", work.display()));
            return Err(failure.help("remove the directory as its owner").limited(limits::advice(&error)));
        }
    }
    match Engine::connect(docker).await {
        Ok(engine) => containers(&engine, &mut cleared).await,
        Err(error) => not_checked(&mut cleared, &error),
    }
    Ok(cleared)
}

/// Kills the processes of runs that are gone, and their descendants. A guard ends by itself once it has no descendants,
/// and until then none can escape it, so guards are killed last.
async fn processes(cleared: &mut Cleared) {
    let begin = Instant::now();
    let mut names = BTreeSet::new();
    loop {
        let (guards, mut found): (Vec<Pid>, Vec<Pid>) = orphans().into_iter().partition(|pid| is_guard(*pid));
        if guards.is_empty() && found.is_empty() {
            break;
        }
        if begin.elapsed() > PROCESS_TIMEOUT {
            let alive = tree::names(&[found, guards].concat());
            cleared.kept.extend(alive.iter().map(|name| format!("process {name} could not be killed")));
            names.retain(|name| !alive.contains(name));
            break;
        }
        if begin.elapsed() > PROCESS_TIMEOUT / 2 {
            found.extend(&guards);
        }
        names.extend(tree::names(&found));
        tree::signal(&found, Signal::KILL);
        // Processes that fork without end are faster than a pass over all processes, so the guards' descendants are
        // killed more often.
        for _ in 0..20 {
            tokio::time::sleep(PASS).await;
            for guard in &guards {
                tree::signal(&tree::descendants(*guard), Signal::KILL);
            }
        }
    }
    cleared.removed.extend(names.into_iter().map(|name| format!("process {name}")));
}

/// The living processes of runs that are gone, and their descendants.
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

fn not_checked(cleared: &mut Cleared, error: &DockerError) {
    cleared.kept.push(format!("containers were not checked: {}", crate::exit::chain(error)));
}

async fn containers(engine: &Engine, cleared: &mut Cleared) {
    let mut elsewhere = 0;
    let owned = match engine.owned().await {
        Ok(owned) => owned,
        Err(error) => return not_checked(cleared, &error),
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
            "{elsewhere} with the label {}: created in another container, on another machine or before a reboot, so their run may still live",
            crate::docker::OWNER_LABEL
        );
        cleared.kept.push(kept);
    }
}
