//! Unpacks the archive of a container's file or directory: whole or not at all, and only below its target.

use crate::files::Directory;
use crate::secret::{Masker, Masks};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// The target of files from a container.
#[derive(Debug, Clone)]
pub(crate) struct CopyTarget {
    /// An existing or new directory. Links in its path are followed.
    pub(crate) base: PathBuf,
    /// The directory or file below it. No link in this part of the path is followed. Empty for `base` itself.
    pub(crate) below: PathBuf,
    /// A directory for files until all of them have arrived.
    pub(crate) staging: PathBuf,
    /// The secrets to mask in the files, if people read them.
    pub(crate) masks: Option<Masks>,
}

/// The files of an archive.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// The copied files.
    pub(crate) files: Vec<PathBuf>,
    /// Entries that were left out, with the reasons.
    pub(crate) left_out: Vec<String>,
    /// The archive has only a link, to this path in the container.
    pub(crate) link: Option<PathBuf>,
}

/// The largest file that is kept only because a link may lead to it, in bytes.
const MAX_UNWANTED: u64 = 64 * 1024 * 1024;

/// The size of a piece of a file that is masked, in bytes.
const CHUNK: usize = 64 * 1024;

/// An entry that will be placed.
enum Entry {
    Directory,
    /// A file with its number in the staging directory.
    File(usize),
    /// A link to a path that is relative to the link.
    Link(PathBuf),
}

/// Unpacks an archive of one file or directory. With a pattern only the files in the directory that match it. The names
/// come from the container and are not trusted: none of them can lead out of the target.
pub(crate) fn unpack(reader: impl Read, target: &CopyTarget, pattern: Option<&str>) -> io::Result<Unpacked> {
    let mut unpacked = Unpacked::default();
    let mut entries: Vec<(PathBuf, Entry)> = Vec::new();
    // The numbers of files by their whole names, for hard links.
    let mut numbers: HashMap<PathBuf, usize> = HashMap::new();
    let mut own_name = None;
    let mut archive = tar::Archive::new(reader);
    for (number, entry) in archive.entries()?.enumerate() {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        // The first part is the name of the requested file or directory.
        let rest: PathBuf = name.components().skip(1).collect();
        let kind = entry.header().entry_type();
        if !is_below(&rest) {
            unpacked.left_out.push(format!("{}: its name leads out of the directory", name.display()));
            continue;
        }
        let is_wanted = pattern.is_none_or(|pattern| {
            rest.components().count() == 1 && glob(pattern, &rest.to_string_lossy()) && !kind.is_dir()
        });
        if kind.is_file() && (is_wanted || entry.size() <= MAX_UNWANTED) {
            let mut file = File::options().write(true).create_new(true).open(staged(target, number))?;
            match &target.masks {
                Some(masks) => copy_masked(&mut entry, &mut file, Masker::new(masks))?,
                None => drop(io::copy(&mut entry, &mut file)?),
            }
            let executable = entry.header().mode().unwrap_or_default() & 0o111;
            file.set_permissions(fs::Permissions::from_mode(0o644 | executable))?;
            numbers.insert(name.clone(), number);
            if rest.as_os_str().is_empty() {
                own_name = name.file_name().map(PathBuf::from);
            }
        }
        if !is_wanted {
            continue;
        }
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let placed = match link {
            _ if kind.is_dir() => Ok(Entry::Directory),
            _ if kind.is_file() => Ok(Entry::File(number)),
            Some(link) if kind.is_hard_link() => match numbers.get(&link) {
                Some(number) => Ok(Entry::File(*number)),
                None => Err("it is a hard link to a file that is not copied"),
            },
            Some(link) if kind.is_symlink() && rest.as_os_str().is_empty() => {
                unpacked.link = Some(link);
                continue;
            }
            Some(link) if kind.is_symlink() => {
                if is_inside(&rest, &link) {
                    Ok(Entry::Link(link))
                } else {
                    Err("it is a link that leads out of the directory")
                }
            }
            _ => Err("it is neither a file nor a directory"),
        };
        match placed {
            Ok(entry) => entries.push((rest, entry)),
            Err(reason) => unpacked.left_out.push(format!("{}: {reason}", name.display())),
        }
    }
    if pattern.is_some() {
        entries = resolved(entries, &numbers, &mut unpacked.left_out);
    }
    place(target, own_name.as_deref(), entries, &mut unpacked)?;
    Ok(unpacked)
}

/// Copies text, with `***` in the place of secrets.
fn copy_masked(reader: &mut impl Read, file: &mut File, mut masker: Masker) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match reader.read(&mut chunk) {
            Ok(0) => break file.write_all(&masker.finish()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        file.write_all(&masker.push(&chunk[..length]))?;
    }
}

/// Replaces links by the files that they lead to, because a pattern may select only the link.
fn resolved(
    entries: Vec<(PathBuf, Entry)>,
    numbers: &HashMap<PathBuf, usize>,
    left_out: &mut Vec<String>,
) -> Vec<(PathBuf, Entry)> {
    let mut found = Vec::new();
    for (rest, entry) in entries {
        let Entry::Link(link) = &entry else {
            found.push((rest, entry));
            continue;
        };
        let is_target = |name: &Path| {
            let below: PathBuf = name.components().skip(1).collect();
            below == normalised(&rest.with_file_name(link))
        };
        match numbers.iter().find(|(name, _)| is_target(name)) {
            Some((_, number)) => found.push((rest, Entry::File(*number))),
            None => left_out.push(format!("{}: it is a link to a file that is not copied", rest.display())),
        }
    }
    found
}

/// A path without `.` and `..`.
fn normalised(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    whole
}

fn staged(target: &CopyTarget, number: usize) -> PathBuf {
    target.staging.join(number.to_string())
}

/// Puts the entries at their places, now that all of them have arrived.
fn place(
    target: &CopyTarget,
    own_name: Option<&Path>,
    entries: Vec<(PathBuf, Entry)>,
    unpacked: &mut Unpacked,
) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let base = Directory::create_following(&target.base)?;
    let is_directory = |path: &Path| base.is_directory(path);
    for (rest, entry) in entries {
        let mut path = target.below.join(rest);
        // A file that is copied into an existing directory keeps its name.
        if let (Entry::File(_), Some(own)) = (&entry, own_name)
            && (path.as_os_str().is_empty() || is_directory(&path))
        {
            path.push(own);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        match entry {
            Entry::Directory => drop(base.within(&path)?),
            Entry::File(number) => {
                base.within(parent)?.place(&staged(target, number), name)?;
                unpacked.files.push(target.base.join(&path));
            }
            Entry::Link(link) => {
                base.within(parent)?.link(&link, name)?;
                unpacked.files.push(target.base.join(&path));
            }
        }
    }
    Ok(())
}

/// Whether a path stays below the directory that it is relative to.
fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a link at `path` leads to something in the same tree.
fn is_inside(path: &Path, link: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in link.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// Whether a name matches a pattern in which `*` matches any text.
fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tar::EntryType;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*.xml", "a.xml", true),
            ("*.xml", "a.xml.gz", false),
            ("TEST-*.xml", "TEST-a.b.xml", true),
            ("a*a", "a", false),
            ("*", "anything", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    /// An archive of entries with their types and link targets. Files have their name as content.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, link) in entries {
            let content = if kind.is_file() { name.as_bytes() } else { b"" };
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            let fields = header.as_gnu_mut().unwrap();
            fields.name[..name.len()].copy_from_slice(name.as_bytes());
            fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    struct Place {
        root: tempfile::TempDir,
        staging: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("work")).unwrap();
            fs::create_dir_all(root.path().join("outside")).unwrap();
            fs::write(root.path().join("outside/kept"), "kept").unwrap();
            Self { root, staging: tempfile::tempdir().unwrap() }
        }

        fn unpack(&self, below: &str, archive: &[u8]) -> io::Result<Unpacked> {
            let staging = tempfile::tempdir_in(self.staging.path()).unwrap();
            let target = CopyTarget {
                base: self.root.path().join("work"),
                below: PathBuf::from(below),
                staging: staging.path().to_owned(),
                masks: None,
            };
            unpack(archive, &target, None)
        }

        fn is_untouched(&self) -> bool {
            let outside = fs::read_dir(self.root.path().join("outside")).unwrap().count();
            outside == 1 && fs::read_to_string(self.root.path().join("outside/kept")).unwrap() == "kept"
        }
    }

    /// Findings, A13: names, links of the archive and links of the workspace.
    #[test]
    fn nothing_is_written_outside_of_the_target() {
        let place = Place::new();
        for (name, target) in [("link", "../outside"), ("file", "../outside/kept")] {
            symlink(target, place.root.path().join("work").join(name)).unwrap();
        }
        let file = EntryType::Regular;
        let archives = [
            archive(&[("dir", EntryType::Directory, ""), ("dir/../../outside/new", file, "")]),
            archive(&[("dir/s", EntryType::Symlink, "../../outside"), ("dir/s/new", file, "")]),
            archive(&[("dir/s", EntryType::Symlink, "/etc")]),
            archive(&[("dir/h", EntryType::Link, "../outside/kept")]),
            archive(&[("dir/kept", file, "")]),
        ];
        for archive in &archives {
            for below in ["link", "link/deeper", "file", "", "new"] {
                let _ = place.unpack(below, archive);
                assert!(place.is_untouched(), "{below}");
            }
        }
        assert!(place.unpack("link", &archives[4]).is_err());
        // A link in place of a file is replaced.
        place.unpack("file", &archive(&[("one", file, "")])).unwrap();
        assert_eq!(fs::read_to_string(place.root.path().join("work/file")).unwrap(), "one");
    }

    /// Findings, C8.
    #[test]
    fn links_inside_the_tree_and_execute_bits_are_kept() {
        let place = Place::new();
        let found = place
            .unpack(
                "out",
                &archive(&[
                    ("d", EntryType::Directory, ""),
                    ("d/bin/tool", EntryType::Regular, ""),
                    ("d/hard", EntryType::Link, "d/bin/tool"),
                    ("d/soft", EntryType::Symlink, "bin/tool"),
                    ("d/bin/up", EntryType::Symlink, "../hard"),
                    ("d/out", EntryType::Symlink, "../../x"),
                    ("d/device", EntryType::Char, ""),
                ]),
            )
            .unwrap();
        let out = place.root.path().join("work/out");
        for name in ["bin/tool", "hard", "soft", "bin/up"] {
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), "d/bin/tool", "{name}");
        }
        assert_eq!(fs::metadata(out.join("hard")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(found.files.len(), 4);
        let expected = [
            "d/out: it is a link that leads out of the directory",
            "d/device: it is neither a file nor a directory",
        ];
        assert_eq!(found.left_out, expected);
    }

    /// Findings, A13: an archive that ends early leaves nothing.
    #[test]
    fn files_arrive_whole_or_not_at_all() {
        let place = Place::new();
        let whole = archive(&[("d/a", EntryType::Regular, ""), ("d/b", EntryType::Regular, "")]);
        assert!(place.unpack("out", &whole[..1025]).is_err());
        assert!(!place.root.path().join("work/out").exists());
    }

    /// Findings, C8: results behind a link.
    #[test]
    fn a_pattern_finds_the_file_behind_a_link() {
        let place = Place::new();
        let target = CopyTarget {
            base: place.root.path().join("work"),
            below: PathBuf::from("reports"),
            staging: place.staging.path().to_owned(),
            masks: None,
        };
        let archive = archive(&[
            ("d/a.xml", EntryType::Symlink, "./raw/a.txt"),
            ("d/raw/a.txt", EntryType::Regular, ""),
            ("d/b.xml", EntryType::Symlink, "raw/missing"),
        ]);
        let found = unpack(archive.as_slice(), &target, Some("*.xml")).unwrap();
        assert_eq!(found.files, [place.root.path().join("work/reports/a.xml")]);
        assert_eq!(fs::read_to_string(&found.files[0]).unwrap(), "d/raw/a.txt");
        assert_eq!(found.left_out, ["b.xml: it is a link to a file that is not copied"]);
    }

    #[test]
    fn a_file_keeps_its_name_in_an_existing_directory() {
        let place = Place::new();
        fs::create_dir(place.root.path().join("work/there")).unwrap();
        let one = archive(&[("one", EntryType::Regular, "")]);
        for (below, expected) in
            [("there", "work/there/one"), ("", "work/one"), ("new/name", "work/new/name")]
        {
            let files = place.unpack(below, &one).unwrap().files;
            assert_eq!(files, [place.root.path().join(expected)]);
        }
        let link = archive(&[("one", EntryType::Symlink, "/data/one")]);
        assert_eq!(place.unpack("", &link).unwrap().link, Some(PathBuf::from("/data/one")));
    }
}
