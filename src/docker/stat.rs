//! The description of a file in BuildKit's file sync, with the mode bits of Go's `os.FileMode`.

use super::context::ContextError;
use bollard_buildkit_proto::fsutil::types::Stat;
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

pub(super) const GO_DIR: u32 = 1 << 31;
pub(super) const GO_SYMLINK: u32 = 1 << 27;
const GO_PIPE: u32 = 1 << 25;
/// The Unix bits of setuid, setgid and sticky, with Go's `os.ModeSetuid`, `ModeSetgid` and `ModeSticky`.
const GO_SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// Describes an entry of a directory.
pub(super) fn stat(path: String, entry: &DirEntry, metadata: &Metadata) -> Result<Stat, ContextError> {
    let permissions = metadata.permissions().mode();
    let mut mode = permissions & 0o777;
    for (unix, go) in GO_SPECIAL {
        if permissions & unix != 0 {
            mode |= go;
        }
    }
    let mut stat = Stat {
        path,
        // The owners on this machine mean nothing in the image. Like the docker command, send root as the owner.
        uid: 0,
        gid: 0,
        mod_time: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        ..Stat::default()
    };
    if metadata.is_dir() {
        mode |= GO_DIR;
    } else if metadata.is_symlink() {
        mode |= GO_SYMLINK;
        let full = entry.path();
        let target = fs::read_link(&full).map_err(ContextError::read(&full))?;
        stat.linkname =
            target.into_os_string().into_string().map_err(|name| ContextError::Name(name.into()))?;
    } else if metadata.file_type().is_fifo() {
        mode |= GO_PIPE;
    } else {
        stat.size = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    }
    stat.mode = mode;
    Ok(stat)
}

/// Whether an entry has content of its own, which can be requested.
pub(crate) fn has_content(stat: &Stat) -> bool {
    stat.mode & (GO_DIR | GO_SYMLINK | GO_PIPE) == 0 && stat.linkname.is_empty()
}
