//! The sizes of the files in a build context, to find what makes it large.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How many files are kept by name.
const FILES: usize = 15;

/// The sizes of a context's files and directories, in bytes. Memory use grows with the number of directories, not
/// files.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) bytes: u64,
    /// The number of files.
    pub(crate) files: u64,
    /// Directories, with a trailing slash.
    directories: BTreeMap<String, u64>,
    largest: BTreeSet<(Reverse<u64>, String)>,
}

impl Sizes {
    pub(crate) fn add(&mut self, path: &str, size: u64) {
        self.bytes += size;
        self.files += 1;
        for (end, _) in path.match_indices('/') {
            match self.directories.get_mut(&path[..=end]) {
                Some(total) => *total += size,
                None => drop(self.directories.insert(path[..=end].to_owned(), size)),
            }
        }
        if self.largest.len() < FILES || self.largest.last().is_some_and(|(Reverse(least), _)| *least < size)
        {
            self.largest.insert((Reverse(size), path.to_owned()));
            if self.largest.len() > FILES {
                self.largest.pop_last();
            }
        }
    }

    /// Returns the directories that are not empty, the largest first. Of directories with equal size the outer is
    /// first.
    pub(crate) fn directories(&self) -> Vec<(&str, u64)> {
        let mut found: Vec<_> = self
            .directories
            .iter()
            .map(|(path, size)| (path.as_str(), *size))
            .filter(|(_, size)| *size > 0)
            .collect();
        found.sort_by_key(|(_, size)| Reverse(*size));
        found
    }

    /// Returns the largest files that are not empty.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.largest.iter().map(|(size, path)| (path.as_str(), size.0)).filter(|(_, size)| *size > 0)
    }

    /// Returns the files and directories whose exclusion in `.dockerignore` would save the most, none inside
    /// another. If one entry makes up most of a directory, the entry is returned instead of the directory.
    pub(crate) fn largest_entries(&self, count: usize) -> Vec<(&str, u64)> {
        let mut entries: Vec<(&str, u64)> = self.directories().into_iter().chain(self.files()).collect();
        entries.sort_by_key(|(_, size)| Reverse(*size));
        let has_dominant_entry = |directory: &str, size: u64| {
            let inside = |path: &str| path.len() > directory.len() && path.starts_with(directory);
            entries
                .iter()
                .any(|(path, part)| directory.ends_with('/') && inside(path) && *part >= size / 10 * 8)
        };
        let mut found: Vec<(&str, u64)> = Vec::new();
        for (path, size) in &entries {
            let is_counted = found.iter().any(|(known, _)| known.ends_with('/') && path.starts_with(known));
            if found.len() < count && !is_counted && !has_dominant_entry(path, *size) {
                found.push((path, *size));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_entries_are_those_to_exclude() {
        let mut sizes = Sizes::default();
        for at in 0..100 {
            sizes.add(&format!("web/node_modules/m{}/{at}", at % 10), 10);
        }
        sizes.add("web/index.js", 50);
        sizes.add("data/dump.sql", 700);
        sizes.add("small", 1);
        assert_eq!((sizes.bytes, sizes.files), (1751, 103));
        assert_eq!(
            sizes.largest_entries(3),
            [("web/node_modules/", 1000), ("data/dump.sql", 700), ("web/index.js", 50)]
        );
        assert_eq!(sizes.directories()[0], ("web/", 1050));
    }
}
