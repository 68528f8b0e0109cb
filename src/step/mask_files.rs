//! `$RUNNER_MASK`: files to which commands write values to mask, one per line.

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
/// A file that was modified more recently may change again without a new time stamp.
const RECENT: Duration = Duration::from_millis(50);

/// The files of running commands. The values of one are masked in the output of all.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaskFiles {
    files: Arc<Mutex<Vec<MaskFile>>>,
}

/// A file and its values.
#[derive(Debug)]
struct MaskFile {
    path: PathBuf,
    /// Its inode, size and modification time at the last read.
    seen: Option<(u64, u64, i64, i64)>,
    values: HashSet<String>,
    unmasked: usize,
    /// Why it cannot be read.
    broken: Option<String>,
}

/// The registration of a command's file, which ends when this is dropped.
pub(crate) struct Watch {
    files: MaskFiles,
    path: PathBuf,
}

impl MaskFiles {
    pub(crate) fn watch(&self, path: &Path) -> Watch {
        self.files().push(MaskFile {
            path: path.to_owned(),
            seen: None,
            values: HashSet::new(),
            unmasked: 0,
            broken: None,
        });
        Watch { files: self.clone(), path: path.to_owned() }
    }

    /// Masks the new values. Returns whether all files could be read. If not, output must be held back.
    pub(crate) fn mask_new(&self, masks: &Masks) -> bool {
        let mut files = self.files();
        files.iter_mut().for_each(|file| file.mask_new(masks));
        files.iter().all(|file| file.broken.is_none())
    }

    fn files(&self) -> MutexGuard<'_, Vec<MaskFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// The number of values that the file has had.
    pub(crate) fn count(&self) -> usize {
        let files = self.files.files();
        files.iter().find(|file| file.path == self.path).map_or(0, |file| file.values.len())
    }

    /// The number of values that are not masked completely. The error is the reason why the file cannot be read.
    pub(crate) fn unmasked(&self) -> Result<usize, String> {
        let files = self.files.files();
        let own = files.iter().find(|file| file.path == self.path);
        own.map_or(Ok(0), |file| file.broken.clone().map_or(Ok(file.unmasked), Err))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.files.files().retain(|file| file.path != self.path);
    }
}

impl MaskFile {
    fn mask_new(&mut self, masks: &Masks) {
        // A command may remove its file. The values that were read stay masked.
        let Ok(metadata) = std::fs::metadata(&self.path) else { return };
        let now = (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        let is_recent = metadata
            .modified()
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < RECENT));
        if self.seen == Some(now) && !is_recent {
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
