//! `.dockerignore` files and what their patterns say of a path, with the semantics of moby/patternmatcher: `**`, `!`, the last
//! match wins, and what holds for a directory holds for everything below it.

use super::pattern::Matcher;
use std::path::{Path, PathBuf};

/// Whose rules the patterns follow: the docker command of an engine's own release leaves out what these rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Rules {
    /// Those of moby/patternmatcher and of Docker 23.0 and later.
    #[default]
    Current,
    /// Those of Docker 20.10: `+(){}|` are part of regular expressions, a pattern matches below a directory only where it has
    /// as many components, and a `!` brings nothing back below an ignored directory that it does not name letter by letter.
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
    exclusion: bool,
    /// Its components, where it may bring something back.
    above: Vec<Above>,
}

/// Which patterns matched a directory; its entries start from there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inherited(Vec<bool>);

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a valid ignore pattern")]
pub(crate) struct PatternError(String);

impl Patterns {
    /// Compiles patterns as [`IgnoreFile`] gives them.
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
            let (exclusion, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, text.as_str()),
            };
            let matcher = Matcher::new(text, rules).filter(|_| !text.is_empty());
            let matcher = matcher.ok_or_else(|| PatternError(written.to_owned()))?;
            let above = if exclusion { Above::of(text) } else { Vec::new() };
            compiled.push(Pattern { matcher, text: text.to_owned(), exclusion, above });
        }
        Ok(Self { patterns: compiled, rules })
    }

    /// Whether a path (relative, with `/`) is ignored, given what its directory matched; and what its own entries
    /// inherit.
    pub(crate) fn matches(&self, path: &str, inherited: &Inherited) -> (bool, Inherited) {
        let mut ignored = false;
        let mut hits = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            hits[at] = match self.rules {
                Rules::Current => {
                    inherited.0.get(at).copied().unwrap_or_default()
                        || (pattern.exclusion == ignored && pattern.matcher.is_match(path))
                }
                Rules::Before23 => pattern.matches_before_23(path),
            };
            if hits[at] {
                ignored = !pattern.exclusion;
            }
        }
        (ignored, Inherited(hits))
    }

    /// Whether an ignored directory is sent for being entered, and not only for what is found there.
    pub(crate) fn sends_entered(&self) -> bool {
        self.rules == Rules::Before23
    }

    /// Whether something below an ignored directory could be brought back by a `!` pattern.
    pub(crate) fn may_keep_below(&self, directory: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.exclusion).any(|pattern| match self.rules {
            Rules::Current => reaches_below(&pattern.above, directory),
            Rules::Before23 => {
                let rest = pattern.text.strip_prefix(directory);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        })
    }
}

impl Pattern {
    /// Whether it matches the path, or the directory above it that has as many components as the pattern.
    fn matches_before_23(&self, path: &str) -> bool {
        let depth = self.text.split('/').count();
        let above = path.match_indices('/').nth(depth - 1).map(|(at, _)| &path[..at]);
        self.matcher.is_match(path) || above.is_some_and(|above| self.matcher.is_match(above))
    }
}

/// The ignore file that holds for a context: `<Dockerfile>.dockerignore`, or else `.dockerignore`. In builds the engine asks
/// for these files itself; this is for what happens without one, and for messages.
#[derive(Debug, Default)]
pub(crate) struct IgnoreFile {
    path: PathBuf,
    /// Cleaned patterns with the numbers of their lines.
    patterns: Vec<(usize, String)>,
}

impl IgnoreFile {
    /// Reads it. Where there is none, nothing is ignored.
    pub(crate) fn read(dockerfile: Option<&Path>, context: &Path) -> Self {
        let own = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let read = |path: PathBuf| Some((std::fs::read(&path).ok()?, path));
        let Some((text, path)) = own.and_then(read).or_else(|| read(context.join(".dockerignore"))) else {
            return Self::default();
        };
        let text = String::from_utf8_lossy(&text);
        let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().enumerate();
        let patterns = lines.filter(|(_, line)| !line.starts_with('#'));
        let patterns = patterns.map(|(at, line)| (at + 1, normalize(line.trim())));
        Self { path, patterns: patterns.filter(|(_, pattern)| !pattern.is_empty()).collect() }
    }

    pub(crate) fn patterns(&self) -> Vec<String> {
        self.patterns.iter().map(|(_, pattern)| pattern.clone()).collect()
    }

    /// Where a pattern stands: the file and the number of the line.
    pub(crate) fn place(&self, error: &PatternError) -> Option<(&Path, usize)> {
        let found = self.patterns.iter().find(|(_, pattern)| *pattern == error.0);
        found.map(|(line, _)| (self.path.as_path(), *line))
    }
}

/// A trimmed line as BuildKit hands it on: cleaned and relative to the context.
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

/// What a component of a pattern means for the directories above what the pattern could match.
#[derive(Debug)]
enum Above {
    /// Any number of directories; a class and an escaped character can stand for a `/`.
    Anything,
    /// A directory of such a name.
    Matching(Matcher),
    Nothing,
}

impl Above {
    fn of(pattern: &str) -> Vec<Self> {
        let component = |component: &str| {
            if component.contains("**") || component.contains(['[', '\\']) {
                return Self::Anything;
            }
            Matcher::new(component, Rules::Current).map_or(Self::Nothing, Self::Matching)
        };
        pattern.split('/').map(component).collect()
    }
}

/// Whether a pattern could match a path below `directory`: its components agree as far as both go.
fn reaches_below(pattern: &[Above], directory: &str) -> bool {
    let mut components = pattern.iter();
    for name in directory.split('/') {
        match components.next() {
            None | Some(Above::Nothing) => return false,
            Some(Above::Anything) => return true,
            Some(Above::Matching(matcher)) if !matcher.is_match(name) => return false,
            Some(Above::Matching(_)) => {}
        }
    }
    true
}

fn clean(text: &str) -> String {
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

/// Whether a path of a build context is never sent, whatever the ignore files say: runner's own files.
pub(crate) fn is_own_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        name == ".runner" || name == "imagedefinitions.json" || name == "imageDetail.json"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path is ignored, asked directory by directory as a walk does.
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
    fn releases_differ() {
        // Patterns, a path, and whether it is ignored: now, and by Docker 20.10.
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
    fn what_docker_refuses_is_an_error() {
        for pattern in ["!", "!/", "a[", "[]a]", "[a-]", "a\\", "[z-a]", "\\y", "\\ü", "[\\y]"] {
            let patterns = [normalize(pattern)];
            assert!(Patterns::new(patterns.iter().map(String::as_str), Rules::Current).is_err(), "{pattern}");
        }
        // Go looks no further than it needs to.
        assert!(Patterns::new(["?/*a/[x*"], Rules::Before23).is_ok());
        assert!(Patterns::new(["x/*\\"], Rules::Before23).is_ok());
        for pattern in ["c++", "a(", "*+"] {
            assert!(Patterns::new([pattern], Rules::Current).is_ok(), "{pattern}");
            assert!(Patterns::new([pattern], Rules::Before23).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_ignored_directory_is_entered_only_where_something_may_come_back() {
        let patterns = Patterns::new(["*", "!src/*/keep", "!**/deep"], Rules::Current).unwrap();
        assert!(patterns.may_keep_below("src"));
        assert!(patterns.may_keep_below("src/a"));
        let patterns = Patterns::new(["*", "!src/*/keep"], Rules::Current).unwrap();
        assert!(!patterns.may_keep_below("node_modules"));
    }
}
