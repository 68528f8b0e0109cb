//! `$RUNNER_MASK`: files to which commands write what is to be masked from then on, one value a line.

use crate::files;
use crate::secret::{Masks, Secret, Unmasked};
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// What was written so lately may be written again without another time on it.
const LATELY: Duration = Duration::from_millis(50);

/// The files of the commands under way. What one of them writes counts for the output of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaskFiles {
    files: Arc<Mutex<Vec<Registered>>>,
}

/// A file, and what is known of it.
#[derive(Debug)]
struct Registered {
    path: PathBuf,
    /// Node, size and time, when it was read last.
    seen: Option<(u64, u64, i64, i64)>,
    values: HashSet<String>,
    unmasked: usize,
    /// Why it cannot be read.
    broken: Option<String>,
}

/// The place of a command's file among the others, until it is dropped.
pub(crate) struct Registration {
    files: MaskFiles,
    path: PathBuf,
}

impl MaskFiles {
    pub(crate) fn watch(&self, path: &Path) -> Registration {
        self.files().push(Registered {
            path: path.to_owned(),
            seen: None,
            values: HashSet::new(),
            unmasked: 0,
            broken: None,
        });
        Registration { files: self.clone(), path: path.to_owned() }
    }

    /// Masks what has come since the last time. The answer is whether all files could be read: output must not go on otherwise.
    pub(crate) fn take_over(&self, masks: &Masks) -> bool {
        let mut files = self.files();
        files.iter_mut().for_each(|file| file.take_over(masks));
        files.iter().all(|file| file.broken.is_none())
    }

    fn files(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// How many values the file has had.
    pub(crate) fn count(&self) -> usize {
        let files = self.files.files();
        files.iter().find(|file| file.path == self.path).map_or(0, |file| file.values.len())
    }

    /// How many of the values are not masked as a whole; or why they cannot be read.
    pub(crate) fn unmasked(&self) -> Result<usize, String> {
        let files = self.files.files();
        let own = files.iter().find(|file| file.path == self.path);
        own.map_or(Ok(0), |file| file.broken.clone().map_or(Ok(file.unmasked), Err))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.files.files().retain(|file| file.path != self.path);
    }
}

impl Registered {
    fn take_over(&mut self, masks: &Masks) {
        // A command may take its file away; what it has written counts.
        let Ok(metadata) = std::fs::metadata(&self.path) else { return };
        let now = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let lately = metadata
            .modified()
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < LATELY));
        if self.seen == Some(now) && !lately {
            return;
        }
        self.seen = Some(now);
        let text = match files::read_small(&self.path, LARGEST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.broken = Some(error.to_string()),
            Ok(bytes) => match String::from_utf8(bytes) {
                Err(_) => return self.broken = Some("it is not UTF-8".to_owned()),
                Ok(text) => text,
            },
        };
        for value in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if !self.values.contains(value) {
                self.values.insert(value.to_owned());
                let all = masks.add(&Secret::new(value)) == Unmasked::Nothing;
                self.unmasked += usize::from(!all);
            }
        }
    }
}
