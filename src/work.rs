//! `.runner/`: the working directory, which one run uses at a time.

use crate::exit::Failure;
use crate::files::{Directory, Readers, TEMPORARY};
use crate::limits;
use crate::process::owner::{Fate, Owner};
use rustix::fs::OFlags;
use serde::Serialize;
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
/// The file that makes git ignore the directory.
const IGNORE: &str = ".gitignore";
/// The directory for requests that local mode does not send to ECS.
const ECS_DIRECTORY: &str = "ecs";
/// The directory for notifications that local mode does not send.
pub(crate) const NOTIFICATIONS_DIRECTORY: &str = "notifications";
/// The largest content of the lock file that is read, in bytes.
const MAX_LOCK: u64 = 4096;
/// How long to wait for the processes of a killed run: longer than most grace periods.
const KILLED_RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// Advice for a file that cannot be written.
pub(crate) const NOT_WRITABLE: &str = "check that the disk is not full and the directory is writable";

/// `.runner/`, locked by this run.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) directory: Directory,
    /// Held until the run has finished and everything that it started is gone.
    pub(crate) lock: Arc<File>,
}

impl Work {
    /// Creates the directory, ignored by git, and locks it, because two runs would overwrite each other's state.
    /// Removes the temporary files of killed runs, because they may contain secrets.
    pub(crate) async fn acquire(path: PathBuf) -> Result<Self, Failure> {
        let unusable = |error: io::Error| unusable(&path, &error);
        let directory = Directory::create(&path).map_err(unusable)?;
        let begin = Instant::now();
        let lock = loop {
            if let Some(lock) = lock(&directory).map_err(unusable)? {
                break lock;
            }
            // The guards of a killed run hold the lock until they have ended its processes.
            let holder = directory.read_small(LOCK, MAX_LOCK).unwrap_or_default();
            let gone = Owner::parse(String::from_utf8_lossy(&holder).trim())
                .is_some_and(|owner| owner.fate() == Fate::Gone);
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
        ignore(&directory)?;
        directory.remove(TEMPORARY_DIRECTORY).map_err(unusable)?;
        let work = Self { directory, lock: Arc::new(lock) };
        work.create_temporary()?;
        Ok(work)
    }

    /// Opens a directory below, and creates what is missing.
    pub(crate) fn within(&self, below: impl AsRef<Path>) -> Result<Directory, Failure> {
        let path = self.directory.path().join(&below);
        self.directory.within(below).map_err(|error| unusable(&path, &error))
    }

    /// Creates the directory for temporary files, which a command such as `git clean` may have removed.
    fn create_temporary(&self) -> Result<PathBuf, Failure> {
        Ok(self.within(TEMPORARY_DIRECTORY)?.path().to_owned())
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

    /// Writes a request that local mode does not send to ECS, and returns its path. Names come from outside, so they
    /// cannot be paths.
    pub(crate) fn write_ecs(&self, name: &str, request: &impl Serialize) -> Result<PathBuf, Failure> {
        let directory = self.within(ECS_DIRECTORY)?;
        let file = ecs_file(name);
        directory.write_json(&file, request, Readers::Owner)?;
        Ok(directory.path().join(file))
    }

    /// The same for a request that a build may make more than once: a number makes its name unique.
    pub(crate) fn write_new_ecs(&self, name: &str, request: &impl Serialize) -> Result<PathBuf, Failure> {
        let directory = self.within(ECS_DIRECTORY)?;
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        let free = names.find(|name| !directory.contains(&ecs_file(name)));
        self.write_ecs(&free.unwrap_or_else(|| name.to_owned()), request)
    }

    /// Removes the requests that an earlier build would have sent.
    pub(crate) fn remove_requests(&self) {
        for stale in [NOTIFICATIONS_DIRECTORY, ECS_DIRECTORY] {
            let _ = self.directory.remove(stale);
        }
    }
}

fn ecs_file(name: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let safe: String = name.chars().map(|c| if is_safe(c) { c } else { '_' }).collect();
    format!("{safe}.json")
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = self.directory.remove(TEMPORARY_DIRECTORY);
    }
}

/// Opens the `.runner/` of a directory, perhaps another one than that of the pipeline file, and creates it.
pub(crate) fn open(parent: &Path) -> Result<Directory, Failure> {
    let path = parent.join(WORK_DIRECTORY);
    let directory = Directory::create(&path).map_err(|error| unusable(&path, &error))?;
    ignore(&directory)?;
    Ok(directory)
}

/// Makes git ignore the directory.
fn ignore(directory: &Directory) -> Result<(), Failure> {
    if !directory.contains(IGNORE) {
        directory.write_whole(IGNORE, b"*\n", Readers::All)?;
    }
    Ok(())
}

/// Locks `.runner/`. Returns `None` if another process holds the lock.
fn lock(directory: &Directory) -> io::Result<Option<File>> {
    let lock = directory.file(LOCK, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE, 0o666)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The failure for a file or directory that cannot be created or written.
pub(crate) fn unusable(directory: &Path, error: &io::Error) -> Failure {
    // Something else has the name, perhaps from a hostile checkout.
    let is_other = error.kind() == io::ErrorKind::InvalidInput;
    let help = if is_other { "remove it; runner follows no links there" } else { NOT_WRITABLE };
    let failure = Failure::environment(format!("cannot use {}: {error}", directory.display()));
    failure.help(help).limited(limits::advice(error))
}

/// The temporary files that [`remove_temporary`] found.
pub(crate) enum Files {
    Removed(Vec<PathBuf>),
    /// A run is using the directory.
    InUse,
}

/// Removes the temporary files of killed runs: in `.runner/`, and next to the files for CodePipeline.
pub(crate) fn remove_temporary(work: &Path, artifacts: &Path) -> io::Result<Files> {
    let directory = match Directory::open(work) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::Removed(Vec::new())),
        opened => opened?,
    };
    let Some(_lock) = lock(&directory)? else { return Ok(Files::InUse) };
    let mut removed = Vec::new();
    if directory.remove(TEMPORARY_DIRECTORY)? {
        removed.push(work.join(TEMPORARY_DIRECTORY));
    }
    directory.remove_temporary(&mut removed)?;
    for entry in std::fs::read_dir(artifacts).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            std::fs::remove_file(entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(Files::Removed(removed))
}
