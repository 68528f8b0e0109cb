//! Patterns for branches and tags.

/// A pattern: `*` matches any text without `/`, `**` any text, `?` one character except `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    /// Parses a pattern. The error is a message with its help.
    pub(crate) fn parse(pattern: &str) -> Result<Self, (String, &'static str)> {
        if pattern.is_empty() {
            return Err(("an empty pattern matches nothing".to_owned(), "write `**` for any name"));
        }
        if pattern.starts_with('!') {
            return Err((
                format!("`{pattern}`: `!` has no meaning in patterns"),
                "use `except` to exclude builds",
            ));
        }
        if pattern.starts_with("refs/") {
            return Err((
                format!("`{pattern}` is a full reference"),
                "write only the name: `main` for `refs/heads/main`, `v1` for `refs/tags/v1`",
            ));
        }
        if pattern.starts_with('^') || pattern.ends_with('$') {
            return Err((
                format!("`{pattern}` looks like a regular expression"),
                "a pattern matches the whole name; `*` matches any text without `/`, `**` any text",
            ));
        }
        if pattern.chars().any(char::is_whitespace) || pattern.contains(',') {
            return Err((
                format!("`{pattern}`: names of branches and tags contain no spaces or commas"),
                "write several patterns as a list",
            ));
        }
        if let Some(found) = pattern.chars().find(|c| "[]{}()|\\".contains(*c)) {
            return Err((
                format!("`{pattern}`: `{found}` has no meaning in patterns"),
                "`*` matches any text without `/`, `**` any text, `?` one character; write several patterns as a list",
            ));
        }
        Ok(Self(pattern.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole name matches. The time is at most proportional to the product of both lengths.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // `reached[n]`: the pattern up to here matches the first `n` characters of the name.
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        let mut pattern = self.0.chars().peekable();
        while let Some(character) = pattern.next() {
            let mut next = vec![false; name.len() + 1];
            let any = character == '*' && pattern.next_if_eq(&'*').is_some();
            for at in 0..=name.len() {
                next[at] = match character {
                    '*' => reached[at] || (at > 0 && next[at - 1] && (any || name[at - 1] != '/')),
                    '?' => at > 0 && reached[at - 1] && name[at - 1] != '/',
                    literal => at > 0 && reached[at - 1] && name[at - 1] == literal,
                };
            }
            reached = next;
        }
        reached[name.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn stars_and_question_marks() {
        assert!(matches("main", "main") && !matches("main", "main2") && !matches("main", "my/main"));
        assert!(matches("release/*", "release/1.2") && !matches("release/*", "release/1/2"));
        assert!(matches("release/**", "release/1/2") && matches("**", "a/b") && !matches("*", "a/b"));
        assert!(matches("v?.*", "v1.20") && !matches("v?.*", "v10.2") && !matches("a?b", "a/b"));
        assert!(matches("*-fix", "ä-fix") && matches("***", "a/b"));
    }

    #[test]
    fn patterns_that_mean_something_else_elsewhere_are_refused() {
        for pattern in ["", "!main", "refs/heads/main", "^main$", "v[0-9]", "{a,b}", "a\\b"] {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn no_pattern_is_slow() {
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}
