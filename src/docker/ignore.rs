//! `.dockerignore` files, with the semantics of moby/patternmatcher: `**`, `!`, the last match wins, and a match of a
//! directory applies to everything below it.

use super::context::ContextError;
use super::pattern::Matcher;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The version of the pattern rules. Runner follows the docker command of the engine's release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Rules {
    /// The rules of moby/patternmatcher and of Docker 23.0 and later.
    #[default]
    Current,
    /// The rules of Docker 20.10: `+(){}|` are part of regular expressions, a pattern matches the directory above a
    /// path only if it has the same number of components, and a `!` includes entries of an ignored directory only if it
    /// names the directory literally.
    Before23,
}

/// A list of patterns.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    patterns: Vec<Pattern>,
    rules: Rules,
}

#[derive(Debug)]
struct Pattern {
    matcher: Matcher,
    text: String,
    /// Whether it begins with `!` and so includes paths again.
    negated: bool,
    /// Its components if it is negated.
    components: Vec<Component>,
}

/// The patterns that matched a directory. Its entries inherit them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inherited(Vec<bool>);

/// A pattern that is not valid.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a valid ignore pattern")]
pub(crate) struct PatternError(String);

impl Patterns {
    /// Compiles patterns from [`IgnoreFile::patterns`].
    pub(crate) fn new<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
        rules: Rules,
    ) -> Result<Self, PatternError> {
        let mut compiled = Vec::new();
        for written in patterns {
            if written.trim().is_empty() {
                continue;
            }
            let text = clean(written.trim());
            let (negated, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, text.as_str()),
            };
            let matcher = Matcher::new(text, rules).filter(|_| !text.is_empty());
            let matcher = matcher.ok_or_else(|| PatternError(written.to_owned()))?;
            let components = if negated { Component::parse(text) } else { Vec::new() };
            compiled.push(Pattern { matcher, text: text.to_owned(), negated, components });
        }
        Ok(Self { patterns: compiled, rules })
    }

    /// Returns whether a relative path is ignored, given the patterns that matched its directory, and what its own
    /// entries inherit.
    pub(crate) fn matches(&self, path: &str, inherited: &Inherited) -> (bool, Inherited) {
        let mut ignored = false;
        let mut hits = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            hits[at] = match self.rules {
                Rules::Current => {
                    inherited.0.get(at).copied().unwrap_or_default()
                        || (pattern.negated == ignored && pattern.matcher.is_match(path))
                }
                Rules::Before23 => pattern.matches_before_23(path),
            };
            if hits[at] {
                ignored = !pattern.negated;
            }
        }
        (ignored, Inherited(hits))
    }

    /// Whether an ignored directory is sent whenever it is entered, and not only if an entry is included.
    pub(crate) fn sends_entered(&self) -> bool {
        self.rules == Rules::Before23
    }

    /// Whether named pipes are part of a context.
    pub(crate) fn sends_pipes(&self) -> bool {
        self.rules == Rules::Current
    }

    /// Whether a `!` pattern may include an entry below an ignored directory.
    pub(crate) fn may_keep_below(&self, directory: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.negated).any(|pattern| match self.rules {
            Rules::Current => reaches_below(&pattern.components, directory),
            Rules::Before23 => {
                let rest = pattern.text.strip_prefix(directory);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        })
    }
}

impl Pattern {
    /// Whether it matches the path, or the parent directory with the same number of components as the pattern.
    fn matches_before_23(&self, path: &str) -> bool {
        let depth = self.text.split('/').count();
        let above = path.match_indices('/').nth(depth - 1).map(|(at, _)| &path[..at]);
        self.matcher.is_match(path) || above.is_some_and(|above| self.matcher.is_match(above))
    }
}

/// The ignore file of a context: `<Dockerfile>.dockerignore`, or else `.dockerignore`. In builds the engine reads these
/// files itself; this type is for operations without an engine and for messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct IgnoreFile {
    path: PathBuf,
    /// The cleaned patterns with their line numbers.
    patterns: Vec<(usize, String)>,
}

impl IgnoreFile {
    /// Reads the file. Without a file nothing is ignored; one that cannot be read is an error, because everything would be
    /// sent.
    pub(crate) fn read(dockerfile: Option<&Path>, context: &Path) -> Result<Self, ContextError> {
        let own = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let mut found = None;
        for path in own.into_iter().chain([context.join(".dockerignore")]) {
            match std::fs::read(&path) {
                Ok(text) => {
                    found = Some((text, path));
                    break;
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(source) => return Err(ContextError::Read { path, source }),
            }
        }
        let Some((text, path)) = found else { return Ok(Self::default()) };
        let text = String::from_utf8_lossy(&text);
        let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate();
        let patterns = lines.filter(|(_, line)| !line.starts_with('#'));
        let patterns = patterns.map(|(at, line)| (at + 1, normalize(line.trim())));
        Ok(Self { path, patterns: patterns.filter(|(_, pattern)| !pattern.is_empty()).collect() })
    }

    /// Checks the patterns by the rules of an engine: some engines end when they read a malformed one (moby/moby#52203).
    pub(crate) fn check(&self, rules: Rules) -> Result<(), ContextError> {
        let patterns = self.patterns.iter().map(|(_, pattern)| pattern.as_str());
        match Patterns::new(patterns, rules) {
            Ok(_) => Ok(()),
            Err(error) => Err(ContextError::Pattern(error).placed(|| self.clone())),
        }
    }

    pub(crate) fn patterns(&self) -> Vec<String> {
        self.patterns.iter().map(|(_, pattern)| pattern.clone()).collect()
    }

    /// Returns the pattern that excludes a path by these rules, if one does. It is the last one that matches.
    pub(crate) fn excluding(&self, path: &str, rules: Rules) -> Option<Excluding<'_>> {
        let patterns = self.patterns.iter().map(|(_, pattern)| pattern.as_str());
        let patterns = Patterns::new(patterns, rules).ok()?;
        let mut inherited = Inherited::default();
        let mut ignored = false;
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            (ignored, inherited) = patterns.matches(&path[..at], &inherited);
        }
        let last = inherited.0.iter().rposition(|hit| *hit).filter(|_| ignored)?;
        let (line, pattern) = self.patterns.get(last)?;
        Some(Excluding { file: &self.path, line: *line, pattern })
    }

    /// Returns the file and line of an invalid pattern.
    pub(crate) fn place(&self, error: &PatternError) -> Option<(&Path, usize)> {
        let found = self.patterns.iter().find(|(_, pattern)| *pattern == error.0);
        found.map(|(line, _)| (self.path.as_path(), *line))
    }
}

/// A pattern that excludes a path.
pub(crate) struct Excluding<'a> {
    pub(crate) file: &'a Path,
    pub(crate) line: usize,
    pub(crate) pattern: &'a str,
}

/// Converts a trimmed line to the form of BuildKit: cleaned and relative to the context.
fn normalize(line: &str) -> String {
    let (mark, text) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if text.is_empty() {
        return mark.to_owned();
    }
    let text = clean(text);
    let relative = text.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&text);
    format!("{mark}{relative}")
}

/// A component of a `!` pattern, for deciding whether to enter an ignored directory.
#[derive(Debug)]
enum Component {
    /// Any number of directories. A class or an escaped character may match `/`.
    Anything,
    /// A directory with a matching name.
    Matching(Matcher),
    Nothing,
}

impl Component {
    fn parse(pattern: &str) -> Vec<Self> {
        let component = |component: &str| {
            if component.contains("**") || component.contains(['[', '\\']) {
                return Self::Anything;
            }
            Matcher::new(component, Rules::Current).map_or(Self::Nothing, Self::Matching)
        };
        pattern.split('/').map(component).collect()
    }
}

/// Whether a pattern may match a path below `directory`: it matches as far as both have components.
fn reaches_below(pattern: &[Component], directory: &str) -> bool {
    let mut components = pattern.iter();
    for name in directory.split('/') {
        match components.next() {
            None | Some(Component::Nothing) => return false,
            Some(Component::Anything) => return true,
            Some(Component::Matching(matcher)) if !matcher.is_match(name) => return false,
            Some(Component::Matching(_)) => {}
        }
    }
    true
}

/// A path without `.`, `..` and double slashes.
pub(crate) fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut components: Vec<&str> = Vec::new();
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." if components.last().is_some_and(|last| *last != "..") => {
                components.pop();
            }
            ".." if rooted => {}
            other => components.push(other),
        }
    }
    match (rooted, components.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".to_owned(),
        (false, path) => path,
    }
}

/// Whether a path is one of runner's own files, which are never part of a build context.
pub(crate) fn is_own_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        name == ".runner" || name == "imagedefinitions.json" || name == "imageDetail.json"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path is ignored, checked directory by directory like a walk.
    fn ignored(patterns: &[&str], path: &str, rules: Rules) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|pattern| normalize(pattern)).collect();
        let patterns = Patterns::new(patterns.iter().map(String::as_str), rules).unwrap();
        let mut inherited = Inherited::default();
        let mut result = false;
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            (result, inherited) = patterns.matches(&path[..at], &inherited);
        }
        result
    }

    #[test]
    fn moby_semantics() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["*"], "a", true),
            (&["*"], "a/b", true),
            (&["*.go"], "a.go", true),
            (&["*.go"], "a/b.go", false),
            (&["**/*.go"], "a/b.go", true),
            (&["**/*.go"], "b.go", true),
            (&["a/**"], "a/b/c", true),
            (&["a/**"], "a", false),
            (&["/a"], "a", true),
            (&["a/"], "a/b", true),
            (&["./a/../b"], "b", true),
            (&["*", "!keep"], "keep", false),
            (&["*", "!keep/file"], "keep/file", false),
            (&["*", "!keep/file"], "keep/other", true),
            (&["!keep", "*"], "keep", true),
            (&["a?c"], "abc", true),
            (&["a?c"], "a/c", false),
            (&["[a-c]x"], "bx", true),
            (&["[^a]x"], "bx", true),
            (&["a\\*"], "a*", true),
            (&["a\\*"], "ab", false),
            (&["a.b"], "axb", false),
            (&["(x)|{y}+$"], "(x)|{y}+$", true),
            (&["ü*"], "übung", true),
            (&["**"], "any/thing", true),
            (&["**.pem"], "x.pem", true),
            (&["**.pem"], "a/x.pem", true),
            (&["**/x"], "yx", false),
            (&["?bc"], "übc", true),
            (&["a/**/z"], "a/z", true),
            (&["a.b**"], "a.bc/d", true),
            (&["[!a]x"], "!x", true),
            (&["a[^b]c"], "a/c", true),
            (&["a ", " b"], "b", true),
            (&["a/**/z"], "a/b/c/z", true),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(ignored(patterns, path, Rules::Current), *expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn old_and_new_rules_differ() {
        // Patterns, a path, and whether it is ignored by the current rules and by those of Docker 20.10.
        let cases: &[(&[&str], &str, bool, bool)] = &[
            (&["a+b"], "a+b", true, false),
            (&["(x)"], "x", false, true),
            (&["**foo"], "yfoo", true, false),
            (&["**foo"], "a/foo", true, true),
            (&["^"], "^", true, false),
            (&["a|b"], "ax", false, true),
            (&["**/a", "!**/b"], "x/a/b/y", false, true),
            (&["\\d"], "7", true, true),
            (&["\\d"], "d", false, false),
            (&["[*]x"], "[]x", true, true),
            (&["[*]x"], "*x", false, false),
            (&["[[:digit:]]x"], "1x", true, true),
            (&["[a[]x"], "[x", true, true),
            (&["a[^b]c"], "a/c", true, true),
            (&["/!a", "a"], "a", true, true),
            (&["a", "./!a"], "a", false, false),
            (&["!!a", "*a"], "!a", true, true),
            (&["/"], "a", false, false),
            (&["../a"], "a", false, false),
            (&["/../a"], "a", true, true),
        ];
        for (patterns, path, now, before) in cases {
            assert_eq!(ignored(patterns, path, Rules::Current), *now, "{patterns:?} {path}, now");
            assert_eq!(ignored(patterns, path, Rules::Before23), *before, "{patterns:?} {path}, before");
        }
    }

    #[test]
    fn patterns_that_docker_rejects_are_errors() {
        for pattern in ["!", "!/", "a[", "[]a]", "[a-]", "a\\", "[z-a]", "\\y", "\\ü", "[\\y]"] {
            let patterns = [normalize(pattern)];
            assert!(Patterns::new(patterns.iter().map(String::as_str), Rules::Current).is_err(), "{pattern}");
        }
        // Go stops parsing a pattern once the result is known.
        assert!(Patterns::new(["?/*a/[x*"], Rules::Before23).is_ok());
        assert!(Patterns::new(["x/*\\"], Rules::Before23).is_ok());
        for pattern in ["c++", "a(", "*+"] {
            assert!(Patterns::new([pattern], Rules::Current).is_ok(), "{pattern}");
            assert!(Patterns::new([pattern], Rules::Before23).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_ignored_directory_is_entered_only_if_a_pattern_may_include_an_entry() {
        let patterns = Patterns::new(["*", "!src/*/keep", "!**/deep"], Rules::Current).unwrap();
        assert!(patterns.may_keep_below("src"));
        assert!(patterns.may_keep_below("src/a"));
        let patterns = Patterns::new(["*", "!src/*/keep"], Rules::Current).unwrap();
        assert!(!patterns.may_keep_below("node_modules"));
    }
}
