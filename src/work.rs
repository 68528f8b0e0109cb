//! `.runner/`: everything that runner writes, one run at a time.

use crate::exit::Failure;
use crate::files::{self, TEMPORARY};
use crate::process::owner::{Fate, Owner};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The directory for everything that runner writes.
pub(crate) const WORK_DIRECTORY: &str = ".runner";
/// The file whose lock says who works in `.runner/`.
const LOCK: &str = "lock";
/// The directory for what does not outlive a run.
const TEMPORARY_DIRECTORY: &str = "tmp";
/// How long the processes of a killed run are waited for: longer than most graces.
const LAST_OF_A_KILLED_RUN: Duration = Duration::from_secs(20);

/// `.runner/`, as long as it is ours.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) path: PathBuf,
    /// Held until the run is through, and everything that it started is gone.
    pub(crate) lock: Arc<File>,
}

impl Work {
    /// Makes the directory, invisible to git, and takes its lock: two runs would overwrite each other's state. What a killed
    /// run left of its temporary files goes: values that it was to mask may be among them.
    pub(crate) async fn take(path: PathBuf) -> Result<Self, Failure> {
        let unusable = |error: io::Error| unusable(&path, &error);
        std::fs::create_dir_all(&path).map_err(unusable)?;
        let begin = Instant::now();
        let lock = loop {
            if let Some(lock) = lock(&path).map_err(unusable)? {
                break lock;
            }
            // Of a run that was killed the guards hold it, until they have ended what it had started.
            let holder = std::fs::read_to_string(path.join(LOCK)).unwrap_or_default();
            let gone = Owner::parse(holder.trim()).is_some_and(|owner| owner.fate() == Fate::Gone);
            if !gone || begin.elapsed() > LAST_OF_A_KILLED_RUN {
                let message = format!("another runner is at work in {}", path.display());
                let help = "wait for it to end, or run in another copy of the source";
                return Err(Failure::environment(message).help(help));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let owner = Owner::current().map(|owner| owner.to_string()).unwrap_or_default();
        let mut file = &lock;
        file.set_len(0).and_then(|()| file.write_all(owner.as_bytes())).map_err(unusable)?;
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            files::write_whole(&ignore, b"*\n", files::Access::Everybody)?;
        }
        let work = Self { path, lock: Arc::new(lock) };
        work.clear();
        work.made_temporary()?;
        Ok(work)
    }

    /// What one call produced and the next one finds.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Where what does not outlive the run is kept.
    fn temporary(&self) -> PathBuf {
        self.path.join(TEMPORARY_DIRECTORY)
    }

    /// The same, made where a command has cleared the source of what git ignores.
    fn made_temporary(&self) -> Result<PathBuf, Failure> {
        let directory = self.temporary();
        std::fs::create_dir_all(&directory).map_err(|error| unusable(&directory, &error))?;
        Ok(directory)
    }

    /// A directory of that kind, which goes when it is dropped.
    pub(crate) fn temporary_directory(&self) -> Result<tempfile::TempDir, Failure> {
        let directory = self.made_temporary()?;
        tempfile::tempdir_in(&directory).map_err(|error| unusable(&directory, &error))
    }

    /// A file of that kind, which only its owner may read.
    pub(crate) fn temporary_file(&self, prefix: &str) -> Result<tempfile::NamedTempFile, Failure> {
        let directory = self.made_temporary()?;
        let file = tempfile::Builder::new().prefix(prefix).tempfile_in(&directory);
        file.map_err(|error| unusable(&directory, &error))
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.temporary());
    }

    /// Where local mode leaves what it would ask of ECS. Names come from outside: they are never paths.
    pub(crate) fn ecs_file(&self, name: &str) -> PathBuf {
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' })
            .collect();
        self.path.join("ecs").join(format!("{safe}.json"))
    }

    /// The same for something that a build may plan more than once: what is there already stays.
    pub(crate) fn another_ecs_file(&self, name: &str) -> PathBuf {
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

/// The lock of `.runner/`; nothing where somebody else has it.
fn lock(directory: &Path) -> io::Result<Option<File>> {
    let lock = File::options().create(true).append(true).open(directory.join(LOCK))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file or directory that cannot be made or written.
pub(crate) fn unusable(directory: &Path, error: &io::Error) -> Failure {
    Failure::environment(format!("cannot use {}: {error}", directory.display()))
        .help("is the disk full, or the directory not writable?")
}

/// What became of the temporary files of a directory.
pub(crate) enum Files {
    Removed(Vec<PathBuf>),
    /// A run is at work there.
    InUse,
}

/// Removes what a killed run left half-written: in `.runner/`, and beside the files for CodePipeline.
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
    half_written(work, true, &mut found);
    half_written(artifacts, false, &mut found);
    for path in found {
        std::fs::remove_file(&path)?;
        removed.push(path);
    }
    Ok(Files::Removed(removed))
}

fn half_written(directory: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && deep {
            half_written(&entry.path(), deep, found);
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            found.push(entry.path());
        }
    }
}
