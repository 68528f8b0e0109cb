//! `.dockerignore` patterns, with the semantics of moby/patternmatcher: `**`, `!`, the last match wins, and what holds
//! for a directory holds for everything below it.

use regex::Regex;
use std::path::Path;

/// A list of patterns.
#[derive(Debug, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// The pattern's literal directories, to tell what a `!` could bring back.
    text: String,
    exclusion: bool,
}

/// Which patterns matched a directory; its entries start from there.
#[derive(Debug, Clone, Default)]
pub struct Inherited(Vec<bool>);

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a valid ignore pattern")]
pub struct PatternError(String);

impl Patterns {
    /// Compiles patterns as they stand in an ignore file, one each.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut compiled = Vec::new();
        for written in patterns {
            let text = written.trim();
            if text.is_empty() {
                continue;
            }
            let invalid = || PatternError(written.to_owned());
            let (exclusion, text) = match text.strip_prefix('!') {
                Some("") => return Err(invalid()),
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            let text = clean(text);
            let regex = Regex::new(&translate(&text)).map_err(|_| invalid())?;
            compiled.push(Pattern { regex, text, exclusion });
        }
        Ok(Self { patterns: compiled })
    }

    /// Whether a path (relative, with `/`) is ignored, given what its directory matched; and what its own entries
    /// inherit.
    pub fn matches(&self, path: &str, inherited: &Inherited) -> (bool, Inherited) {
        let mut ignored = false;
        let mut hits = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            let hit = inherited.0.get(at).copied().unwrap_or_default()
                || (pattern.exclusion == ignored && pattern.regex.is_match(path));
            hits[at] = hit;
            if hit {
                ignored = !pattern.exclusion;
            }
        }
        (ignored, Inherited(hits))
    }

    /// Whether something below an ignored directory could be brought back by a `!` pattern.
    pub fn may_keep_below(&self, directory: &str) -> bool {
        self.patterns
            .iter()
            .filter(|pattern| pattern.exclusion)
            .any(|pattern| reaches_below(&pattern.text, directory))
    }
}

/// The patterns that hold for a context: those of `<Dockerfile>.dockerignore`, or else of `.dockerignore`. Comments and empty
/// lines are left out. In builds the engine asks for these files itself; this is for what happens without one.
pub fn patterns_of(dockerfile: Option<&Path>, context: &Path) -> Vec<String> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        std::path::PathBuf::from(name)
    });
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let text = own.as_deref().and_then(read).or_else(|| read(&context.join(".dockerignore")));
    let text = text.unwrap_or_default();
    let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.starts_with('#'));
    lines.map(str::trim).filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect()
}

/// Whether a pattern could match a path below `directory`: its components agree as far as both go.
fn reaches_below(pattern: &str, directory: &str) -> bool {
    let mut components = pattern.split('/');
    for name in directory.split('/') {
        match components.next() {
            None => return true,
            Some(component) if component.contains("**") => return true,
            Some(component) => {
                let matches = Regex::new(&translate(component)).is_ok_and(|regex| regex.is_match(name));
                if !matches {
                    return false;
                }
            }
        }
    }
    true
}

/// Go's `filepath.Clean` with the leading slash taken off.
fn clean(text: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." if components.last().is_some_and(|last| *last != "..") => {
                components.pop();
            }
            ".." if text.starts_with('/') => {}
            other => components.push(other),
        }
    }
    if components.is_empty() { ".".to_owned() } else { components.join("/") }
}

/// The regular expression of a pattern, made character by character as moby does.
fn translate(pattern: &str) -> String {
    let mut regex = String::from("(?s)^");
    // moby's shortcut, which is also a meaning of its own: `**` and then plain text is any path with that end.
    if let Some(end) = pattern.strip_prefix("**")
        && !end.is_empty()
        && !end.starts_with('/')
        && !end.contains(['*', '?', '[', ']', '\\'])
    {
        return format!("{regex}.*{}$", regex::escape(end));
    }
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.peek() == Some(&'*') => {
                characters.next();
                if characters.peek() == Some(&'/') {
                    characters.next();
                }
                regex.push_str(if characters.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '\\' => match characters.next() {
                Some(next) => push_literal(&mut regex, next),
                None => regex.push_str("\\\\"),
            },
            '[' => regex.push('['),
            ']' => regex.push(']'),
            '^' | '-' => regex.push(character),
            other => push_literal(&mut regex, other),
        }
    }
    regex.push('$');
    regex
}

fn push_literal(regex: &mut String, character: char) {
    regex.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])));
}

/// Whether a path of a build context is never sent, whatever the ignore files say: runner's own files.
pub fn is_own_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        name == ".runner" || name == "imagedefinitions.json" || name == "imageDetail.json"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a path is ignored, asked directory by directory as a walk does.
    fn ignored(patterns: &[&str], path: &str) -> bool {
        let patterns = Patterns::new(patterns.iter().copied()).unwrap();
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
            (&["a/**/z"], "a/b/c/z", true),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(ignored(patterns, path), *expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn a_bare_exclamation_mark_is_an_error() {
        assert!(Patterns::new(["!"]).is_err());
    }

    #[test]
    fn an_ignored_directory_is_entered_only_where_something_may_come_back() {
        let patterns = Patterns::new(["*", "!src/*/keep", "!**/deep"]).unwrap();
        assert!(patterns.may_keep_below("src"));
        assert!(patterns.may_keep_below("src/a"));
        let patterns = Patterns::new(["*", "!src/*/keep"]).unwrap();
        assert!(!patterns.may_keep_below("node_modules"));
    }
}
