//! The files of a build context: the selection for a build, in the order and form of BuildKit's file sync.

use super::ignore::{IgnoreFile, Inherited, PatternError, Patterns, Rules, is_own_file};
use super::pattern::Matcher;
pub(crate) use super::stat::has_content;
use super::stat::stat;
use crate::limits;
use bollard_buildkit_proto::fsutil::types::Stat;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of threads that hash files, and the size of their buffers in bytes.
const DIGEST_THREADS: usize = 8;
const DIGEST_BUFFER: usize = 256 * 1024;
/// How many symbolic links are followed in a row before they count as a loop; the same limit as moby's.
const MAX_LINKS: usize = 255;

/// The files that a build requests.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Patterns of excluded files, in the syntax of `.dockerignore`.
    pub(crate) exclude: Vec<String>,
    /// Patterns of included files. Without any, all files are included.
    pub(crate) include: Vec<String>,
    /// Included paths whose symbolic links are followed, so that the targets are included as well.
    pub(crate) follow: Vec<String>,
    /// The rules for the patterns of excluded files.
    pub(crate) rules: Rules,
}

/// A build context that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    /// A file or directory cannot be read.
    #[error("cannot read {} of the build context", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The protocol cannot transfer the name.
    #[error("the file name {0:?} in the build context is not UTF-8; add it to .dockerignore")]
    Name(PathBuf),
    /// A pattern of an ignore file is not valid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A pattern of an ignore file is not valid, with its line.
    #[error("{}:{line}: the pattern cannot be used", file.display())]
    Placed {
        file: PathBuf,
        line: usize,
        #[source]
        source: PatternError,
    },
}

impl ContextError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// Adds the file and line of a pattern that is not valid.
    #[must_use]
    pub(crate) fn placed(self, ignore: impl FnOnce() -> IgnoreFile) -> Self {
        let Self::Pattern(source) = self else { return self };
        let ignore = ignore();
        match ignore.place(&source) {
            Some((file, line)) => Self::Placed { file: file.to_owned(), line, source },
            None => Self::Pattern(source),
        }
    }
}

/// Returns the path of the Dockerfile of a build. A name is relative to `directory`; without a name it is `Dockerfile`
/// in the context. If there is no such file, the other directory is tried.
pub(crate) fn dockerfile(directory: &Path, context: &Path, named: Option<&str>) -> PathBuf {
    let (first, second) = match named {
        Some(named) => (directory.join(named), context.join(named)),
        None => (context.join("Dockerfile"), directory.join("Dockerfile")),
    };
    if !first.is_file() && second.is_file() { second } else { first }
}

/// Calls `entry` with the stat of every selected file, parents first and sorted as BuildKit expects. `entry` returns
/// whether to continue.
pub(crate) fn walk(
    root: &Path,
    selection: &Selection,
    entry: &mut dyn FnMut(Stat) -> bool,
) -> Result<(), ContextError> {
    let exclude = Patterns::new(selection.exclude.iter().map(String::as_str), selection.rules)?;
    let followed = follow_links(root, &selection.follow);
    let include: Vec<Vec<Component>> =
        selection.include.iter().chain(&followed).map(|pattern| components(pattern)).collect();
    // The root as a path to follow includes everything.
    let everything =
        (selection.include.is_empty() && selection.follow.is_empty()) || include.iter().any(Vec::is_empty);
    let mut walk = Walk {
        root,
        exclude,
        include: if everything { Vec::new() } else { include },
        everything,
        entry,
        pending: Vec::new(),
        linked: HashMap::new(),
    };
    walk.directory("", &Inherited::default())?;
    Ok(())
}

/// Returns a digest of the names, modes, contents and link targets of the selected files, but not of their times.
pub(crate) fn digest(root: &Path, selection: &Selection) -> Result<[u8; 32], ContextError> {
    let mut entries = Vec::new();
    walk(root, selection, &mut |stat| {
        entries.push(stat);
        true
    })?;
    // Files are hashed in parallel. Their hashes are then combined in the order of the files.
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(DIGEST_THREADS);
    let work = || {
        let mut hashes = Vec::new();
        let mut buffer = vec![0; DIGEST_BUFFER];
        while let Some((at, stat)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            entries.get(at).map(|stat| (at, stat))
        } {
            if has_content(stat) {
                hashes.push((at, file_digest(&root.join(&stat.path), &mut buffer)?));
            }
        }
        Ok::<_, ContextError>(hashes)
    };
    let hashes = std::thread::scope(|scope| {
        // This thread works as well, and alone if no other one can be started.
        let workers: Vec<_> =
            (1..threads).map_while(|_| limits::thread().spawn_scoped(scope, work).ok()).collect();
        let own = work();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Ok(Vec::new())))
            .chain([own])
            .collect::<Result<Vec<_>, _>>()
    })?;
    let hashes: HashMap<usize, [u8; 32]> = hashes.into_iter().flatten().collect();
    let mut whole = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for (at, stat) in entries.iter().enumerate() {
        // With the length of each part, different lists of files always hash different bytes.
        for part in [stat.path.as_bytes(), stat.linkname.as_bytes(), &stat.mode.to_be_bytes()] {
            whole.update(&(part.len() as u64).to_be_bytes());
            whole.update(part);
        }
        whole.update(hashes.get(&at).map(<[u8; 32]>::as_slice).unwrap_or_default());
    }
    Ok(bytes_of(whole))
}

/// Opens a file. Returns `None` for a socket. Does not block if the file has been replaced with a pipe.
pub(crate) fn open(path: &Path) -> io::Result<Option<fs::File>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    match fs::File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn file_digest(path: &Path, buffer: &mut [u8]) -> Result<[u8; 32], ContextError> {
    use std::io::Read;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let Some(mut file) = open(path).map_err(ContextError::read(path))? else { return Ok(bytes_of(hash)) };
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(bytes_of(hash)),
            Ok(length) => hash.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ContextError::read(path)(error)),
        }
    }
}

fn bytes_of(hash: aws_lc_rs::digest::Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}

/// A component of an included path.
enum Component {
    /// A pattern; `None` if it is not valid, which matches nothing.
    Pattern(Option<Matcher>),
    /// `**`: any components from here on.
    Any,
}

fn components(pattern: &str) -> Vec<Component> {
    pattern
        .split('/')
        .filter(|component| !component.is_empty() && *component != ".")
        .map(|component| {
            if component == "**" { Component::Any } else { Component::Pattern(Matcher::component(component)) }
        })
        .collect()
}

struct Walk<'a> {
    root: &'a Path,
    exclude: Patterns,
    include: Vec<Vec<Component>>,
    everything: bool,
    entry: &'a mut dyn FnMut(Stat) -> bool,
    /// Directories that are only sent if an entry below them is.
    pending: Vec<Stat>,
    /// The first path of every file with several paths, by device and inode. The other paths are links to it.
    linked: HashMap<(u64, u64), String>,
}

/// Whether a path is included.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inclusion {
    Yes,
    /// The path itself is not, but an entry below it may be.
    Below,
    No,
}

impl Walk<'_> {
    /// Walks a directory. Returns whether to continue.
    fn directory(&mut self, directory: &str, inherited: &Inherited) -> Result<bool, ContextError> {
        let path = self.root.join(directory);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(ContextError::read(&path))? {
            let entry = entry.map_err(ContextError::read(&path))?;
            entries.push((entry.file_name(), entry));
        }
        entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        for (name, entry) in entries {
            if is_own_file(Path::new(&name)) {
                continue;
            }
            let Some(name) = name.to_str() else {
                if self.ignores_lossy(directory, &name.to_string_lossy(), inherited) {
                    continue;
                }
                return Err(ContextError::Name(entry.path()));
            };
            if !self.visit(join(directory, name), &entry, inherited)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn ignores_lossy(&self, directory: &str, name: &str, inherited: &Inherited) -> bool {
        let relative = join(directory, name);
        self.inclusion(&relative) == Inclusion::No || self.exclude.matches(&relative, inherited).0
    }

    fn visit(
        &mut self,
        relative: String,
        entry: &DirEntry,
        inherited: &Inherited,
    ) -> Result<bool, ContextError> {
        let inclusion = self.inclusion(&relative);
        if inclusion == Inclusion::No {
            return Ok(true);
        }
        let (ignored, own) = self.exclude.matches(&relative, inherited);
        let kind = entry.file_type().map_err(|source| ContextError::read(&entry.path())(source))?;
        let enter = kind.is_dir() && (!ignored || self.exclude.may_keep_below(&relative));
        let skipped = if kind.is_dir() { !enter } else { ignored || inclusion == Inclusion::Below };
        // Skip devices, which BuildKit does not copy. It copies a socket as an empty file, and current engines copy pipes.
        let is_sent = kind.is_dir()
            || kind.is_file()
            || kind.is_symlink()
            || kind.is_socket()
            || (kind.is_fifo() && self.exclude.sends_pipes());
        if skipped || !is_sent {
            return Ok(true);
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(ContextError::read(&entry.path())(error)),
        };
        let mut stat = stat(relative, entry, &metadata)?;
        if !enter {
            self.link(&mut stat, &metadata);
            return Ok(self.send(stat));
        }
        let relative = stat.path.clone();
        let before = self.pending.len();
        // Docker 20.10 also sends an ignored directory that it enters.
        let sent = self.exclude.sends_entered() || !ignored;
        if inclusion == Inclusion::Below || !sent {
            self.pending.push(stat);
        } else if !self.send(stat) {
            return Ok(false);
        }
        let proceed = self.directory(&relative, &own)?;
        self.pending.truncate(before);
        Ok(proceed)
    }

    /// Turns a file that was already sent under another path into a link to that path.
    fn link(&mut self, stat: &mut Stat, metadata: &Metadata) {
        if metadata.nlink() < 2 || !metadata.is_file() {
            return;
        }
        match self.linked.entry((metadata.dev(), metadata.ino())) {
            Entry::Occupied(first) => {
                stat.linkname.clone_from(first.get());
                stat.size = 0;
            }
            Entry::Vacant(place) => {
                place.insert(stat.path.clone());
            }
        }
    }

    /// Sends the pending parent directories and then the entry.
    fn send(&mut self, stat: Stat) -> bool {
        for directory in self.pending.drain(..) {
            if !(self.entry)(directory) {
                return false;
            }
        }
        (self.entry)(stat)
    }

    fn inclusion(&self, relative: &str) -> Inclusion {
        if self.everything {
            return Inclusion::Yes;
        }
        let names: Vec<&str> = relative.split('/').collect();
        let mut best = Inclusion::No;
        for pattern in &self.include {
            match inclusion(pattern, &names) {
                Inclusion::Yes => return Inclusion::Yes,
                Inclusion::Below => best = Inclusion::Below,
                Inclusion::No => {}
            }
        }
        best
    }
}

fn inclusion(pattern: &[Component], names: &[&str]) -> Inclusion {
    match (pattern.first(), names.first()) {
        (None, _) => Inclusion::Yes,
        (Some(_), None) => Inclusion::Below,
        (Some(Component::Any), Some(_)) => Inclusion::Yes,
        (Some(Component::Pattern(matcher)), Some(name)) => {
            if matcher.as_ref().is_some_and(|matcher| matcher.is_match(name)) {
                inclusion(&pattern[1..], &names[1..])
            } else {
                Inclusion::No
            }
        }
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// Returns the paths, which may contain wildcards, and the targets of all symbolic links on them, within the context.
fn follow_links(root: &Path, paths: &[String]) -> Vec<String> {
    let mut found = BTreeSet::new();
    // Paths with the links that led to them. A link that leads to itself, also through a wildcard in its target, is not
    // followed again: the path would grow forever.
    let mut todo: Vec<(String, Vec<String>)> =
        paths.iter().map(|path| (path.trim_start_matches('/').to_owned(), Vec::new())).collect();
    let mut steps = 0;
    while let Some((path, followed)) = todo.pop() {
        steps += 1;
        if steps > MAX_LINKS * paths.len() || !found.insert(path.clone()) {
            continue;
        }
        for (link, target) in links_on(root, &path) {
            if !followed.contains(&link) {
                let followed = followed.iter().chain([&link]).cloned().collect();
                todo.push((target, followed));
            }
            found.insert(link);
        }
    }
    found.into_iter().collect()
}

/// Returns the first symbolic link on a path, or on every path that its wildcards match, each with the path that it
/// leads to.
fn links_on(root: &Path, path: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let mut walked = vec![String::new()];
    let components: Vec<&str> = path.split('/').collect();
    for (at, component) in components.iter().enumerate() {
        let mut next = Vec::new();
        for directory in &walked {
            for name in matching_names(&root.join(directory), component) {
                let here = join(directory, &name);
                let Ok(target) = fs::read_link(root.join(&here)) else {
                    next.push(here);
                    continue;
                };
                let below = match target.strip_prefix("/") {
                    Ok(absolute) => absolute.to_owned(),
                    Err(_) => Path::new(directory).join(&target),
                };
                let rest: PathBuf = components[at + 1..].iter().collect();
                if let Some(target) = normalize(&below.join(rest)) {
                    links.push((here, target));
                }
            }
        }
        walked = next;
    }
    links
}

/// Returns the names in a directory that match a component of a path.
fn matching_names(directory: &Path, component: &str) -> Vec<String> {
    if !component.contains(['*', '?', '[', '\\']) {
        return vec![component.to_owned()];
    }
    let Some(matcher) = Matcher::component(component) else { return Vec::new() };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| matcher.is_match(name)).collect()
}

/// Resolves `.` and `..` in a path as in a chroot of the context.
fn normalize(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::stat::{GO_DIR, GO_SYMLINK};
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "Dockerfile",
            "src/main",
            "src/deep/keep",
            "src/deep/drop",
            "a.txt",
            "a/b",
            ".runner/state.json",
            "imagedefinitions.json",
            "sub/.runner/x",
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        symlink("src/main", root.path().join("link")).unwrap();
        root
    }

    fn walked(selection: &Selection) -> Vec<String> {
        let root = tree();
        let mut paths = Vec::new();
        walk(root.path(), selection, &mut |stat| {
            paths.push(stat.path);
            true
        })
        .unwrap();
        paths
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn runners_own_files_are_never_part_of_a_context() {
        let paths = walked(&Selection::default());
        assert_eq!(
            paths,
            [
                "Dockerfile",
                "a",
                "a/b",
                "a.txt",
                "link",
                "src",
                "src/deep",
                "src/deep/drop",
                "src/deep/keep",
                "src/main",
                "sub"
            ]
        );
    }

    #[test]
    fn parents_of_included_files_are_sent() {
        let paths = walked(&Selection { exclude: texts(&["*", "!src/deep/keep"]), ..Selection::default() });
        assert_eq!(paths, ["src", "src/deep", "src/deep/keep"]);
    }

    #[test]
    fn followed_paths_are_sent_with_the_targets_of_links() {
        let paths = walked(&Selection { follow: texts(&["/link", "a"]), ..Selection::default() });
        assert_eq!(paths, ["a", "a/b", "link", "src", "src/main"]);
    }

    #[test]
    fn links_that_wildcards_match_are_followed() {
        let paths = walked(&Selection { follow: texts(&["l*k", "s?c/deep/[k]eep"]), ..Selection::default() });
        assert_eq!(paths, ["link", "src", "src/deep", "src/deep/keep", "src/main"]);
    }

    #[test]
    fn a_link_to_itself_is_followed_once() {
        let root = tree();
        symlink("*/x", root.path().join("a/#c")).unwrap();
        symlink("src/deep", root.path().join("d")).unwrap();
        let follow = |paths: &[&str]| follow_links(root.path(), &texts(paths));
        assert!(follow(&["a/*", "*/b"]).len() < 10, "{:?}", follow(&["a/*", "*/b"]));
        // One link on two paths is followed for both.
        assert_eq!(
            follow(&["d/keep", "d/drop"]),
            ["d", "d/drop", "d/keep", "src/deep/drop", "src/deep/keep"]
        );
    }

    #[test]
    fn stats_carry_gos_mode_bits() {
        let root = tree();
        let mut modes = std::collections::HashMap::new();
        walk(root.path(), &Selection::default(), &mut |stat| {
            modes.insert(stat.path.clone(), stat);
            true
        })
        .unwrap();
        assert_eq!(modes["src"].mode & GO_DIR, GO_DIR);
        assert_eq!(modes["link"].mode & GO_SYMLINK, GO_SYMLINK);
        assert_eq!(modes["link"].linkname, "src/main");
        assert_eq!(modes["a.txt"].size, 1);
    }
}
