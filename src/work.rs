//! `.runner/`: the working directory, which one run uses at a time.

use crate::exit::Failure;
use crate::files::{self, TEMPORARY};
use crate::process::owner::{Fate, Owner};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name of the directory, next to the pipeline file.
pub(crate) const WORK_DIRECTORY: &str = ".runner";
/// The file whose lock the current run holds.
const LOCK: &str = "lock";
/// The directory for files that do not outlive a run.
const TEMPORARY_DIRECTORY: &str = "tmp";
/// How long to wait for the processes of a killed run: longer than most grace periods.
const KILLED_RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// Advice for a file that cannot be written.
pub(crate) const NOT_WRITABLE: &str = "check that the disk is not full and the directory is writable";

/// `.runner/`, locked by this run.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) path: PathBuf,
    /// Held until the run has finished and everything that it started is gone.
    pub(crate) lock: Arc<File>,
}

impl Work {
    /// Creates the directory, ignored by git, and locks it, because two runs would overwrite each other's state.
    /// Removes the temporary files of killed runs, because they may contain secrets.
    pub(crate) async fn acquire(path: PathBuf) -> Result<Self, Failure> {
        let unusable = |error: io::Error| unusable(&path, &error);
        std::fs::create_dir_all(&path).map_err(unusable)?;
        let begin = Instant::now();
        let lock = loop {
            if let Some(lock) = lock(&path).map_err(unusable)? {
                break lock;
            }
            // The guards of a killed run hold the lock until they have ended its processes.
            let holder = std::fs::read_to_string(path.join(LOCK)).unwrap_or_default();
            let gone = Owner::parse(holder.trim()).is_some_and(|owner| owner.fate() == Fate::Gone);
            if !gone || begin.elapsed() > KILLED_RUN_TIMEOUT {
                let message = format!("another runner is using {}", path.display());
                let help = "wait until it has finished, or run in another copy of the source";
                return Err(Failure::environment(message).help(help));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let owner = Owner::current().map(|owner| owner.to_string()).unwrap_or_default();
        let mut file = &lock;
        file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())).map_err(unusable)?;
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            files::write_whole(&ignore, b"*\n", files::Readers::All)?;
        }
        let work = Self { path, lock: Arc::new(lock) };
        work.clear();
        work.create_temporary()?;
        Ok(work)
    }

    /// The state that the calls of a build share.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    fn temporary(&self) -> PathBuf {
        self.path.join(TEMPORARY_DIRECTORY)
    }

    /// Creates the directory for temporary files, which a command such as `git clean` may have removed.
    fn create_temporary(&self) -> Result<PathBuf, Failure> {
        let directory = self.temporary();
        std::fs::create_dir_all(&directory).map_err(|error| unusable(&directory, &error))?;
        Ok(directory)
    }

    /// Creates a temporary directory, which is removed when it is dropped.
    pub(crate) fn temporary_directory(&self) -> Result<tempfile::TempDir, Failure> {
        let directory = self.create_temporary()?;
        tempfile::tempdir_in(&directory).map_err(|error| unusable(&directory, &error))
    }

    /// Creates a temporary file that only its owner may read.
    pub(crate) fn temporary_file(&self, prefix: &str) -> Result<tempfile::NamedTempFile, Failure> {
        let directory = self.create_temporary()?;
        let file = tempfile::Builder::new().prefix(prefix).tempfile_in(&directory);
        file.map_err(|error| unusable(&directory, &error))
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.temporary());
    }

    /// The file for a request that local mode does not send to ECS. Names come from outside, so they cannot be paths.
    pub(crate) fn ecs_file(&self, name: &str) -> PathBuf {
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' })
            .collect();
        self.path.join("ecs").join(format!("{safe}.json"))
    }

    /// The same for a request that a build may make more than once: the path does not exist yet.
    pub(crate) fn new_ecs_file(&self, name: &str) -> PathBuf {
        let numbered = (2..).map(|number| self.ecs_file(&format!("{name}-{number}")));
        let mut paths = std::iter::once(self.ecs_file(name)).chain(numbered);
        paths.find(|path| !path.exists()).unwrap_or_else(|| self.ecs_file(name))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Locks `.runner/`. Returns `None` if another process holds the lock.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let lock = File::options().create(true).append(true).open(directory.join(LOCK))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The failure for a file or directory that cannot be created or written.
pub(crate) fn unusable(directory: &Path, error: &io::Error) -> Failure {
    Failure::environment(format!("cannot use {}: {error}", directory.display())).help(NOT_WRITABLE)
}

/// The temporary files that [`remove_temporary`] found.
pub(crate) enum Files {
    Removed(Vec<PathBuf>),
    /// A run is using the directory.
    InUse,
}

/// Removes the temporary files of killed runs: in `.runner/`, and next to the files for CodePipeline.
pub(crate) fn remove_temporary(work: &Path, artifacts: &Path) -> io::Result<Files> {
    if !work.is_dir() {
        return Ok(Files::Removed(Vec::new()));
    }
    let Some(_lock) = lock(work)? else { return Ok(Files::InUse) };
    let mut removed = Vec::new();
    let temporary = work.join(TEMPORARY_DIRECTORY);
    if temporary.is_dir() {
        std::fs::remove_dir_all(&temporary)?;
        removed.push(temporary);
    }
    let mut found = Vec::new();
    find_temporary(work, true, &mut found);
    find_temporary(artifacts, false, &mut found);
    for path in found {
        std::fs::remove_file(&path)?;
        removed.push(path);
    }
    Ok(Files::Removed(removed))
}

fn find_temporary(directory: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && deep {
            find_temporary(&entry.path(), deep, found);
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            found.push(entry.path());
        }
    }
}
