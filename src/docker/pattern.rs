//! A pattern of `.dockerignore`, with the semantics of moby. The pattern is converted to a regular expression in Go's
//! syntax, as in moby, and that expression to the syntax of the `regex` crate.

use super::ignore::Rules;
use regex::Regex;
use std::iter::Peekable;
use std::str::Chars;

#[derive(Debug)]
pub(crate) enum Matcher {
    Exact(String),
    /// Every path with this prefix.
    Prefix(String),
    /// Every path with this suffix.
    Suffix(String),
    Regex(Regex),
}

impl Matcher {
    /// Compiles a cleaned pattern. Returns `None` if it is not valid.
    pub(crate) fn new(pattern: &str, rules: Rules) -> Option<Self> {
        if !is_glob(pattern) {
            return None;
        }
        if rules == Rules::Current
            && let Some(simple) = Self::simple(pattern)
        {
            return Some(simple);
        }
        Regex::new(&from_go(&go_regex(pattern, rules))?).ok().map(Self::Regex)
    }

    /// Compiles one component of a path with wildcards, like Go's `filepath.Match`.
    pub(crate) fn component(glob: &str) -> Option<Self> {
        if !glob.contains(['*', '?', '[', '\\']) {
            return Some(Self::Exact(glob.to_owned()));
        }
        let mut regex = String::from("^");
        let mut rest = glob.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '*' => regex.push_str("[^/]*"),
                '?' => regex.push_str("[^/]"),
                '[' => regex.push_str(&class(&mut rest)?),
                '\\' => regex.push_str(&literal(rest.next()?)),
                other => regex.push_str(&literal(other)),
            }
        }
        Regex::new(&format!("{regex}$")).ok().map(Self::Regex)
    }

    /// The shortcuts of moby for plain text with `**` at one end. Their meaning differs from the general one: `**`
    /// before plain text matches any path with that suffix, and not only after a `/`.
    fn simple(pattern: &str) -> Option<Self> {
        let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
        if plain(pattern) {
            return Some(Self::Exact(pattern.to_owned()));
        }
        let (text, make): (&str, fn(String) -> Self) = match pattern.strip_prefix("**") {
            Some(end) => (end, Self::Suffix),
            None => (pattern.strip_suffix("**")?, Self::Prefix),
        };
        plain(text).then(|| make(text.to_owned()))
    }

    pub(crate) fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text),
            Self::Suffix(text) => path.ends_with(text) || text.strip_prefix('/') == Some(path),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// Whether Go's `filepath.Match` accepts the pattern for the name `.`, which is how moby validates it. `filepath.Match`
/// stops parsing the pattern once it does not match.
fn is_glob(pattern: &str) -> bool {
    let mut name = ".";
    let mut rest = pattern;
    while !rest.is_empty() {
        let chunk = rest.trim_start_matches('*');
        let star = chunk.len() < rest.len();
        let (chunk, after) = chunk.split_at(chunk_end(chunk));
        rest = after;
        if star && chunk.is_empty() {
            return true;
        }
        // After a star the rest of the name may start later. The name has one character, so that is its end.
        let starts = [Some(name), (star && !name.is_empty()).then_some("")];
        let mut found = None;
        for start in starts.into_iter().flatten() {
            match chunk_match(chunk, start) {
                Err(Invalid) => return false,
                Ok(Some(left)) if left.is_empty() || !rest.is_empty() => {
                    found = Some(left);
                    break;
                }
                Ok(_) => {}
            }
        }
        match found {
            Some(left) => name = left,
            None => return true,
        }
    }
    true
}

/// Returns the position of the next star outside of a class.
fn chunk_end(pattern: &str) -> usize {
    let (mut class, mut escaped) = (false, false);
    for (at, character) in pattern.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '*' if !class => return at,
            _ => {}
        }
    }
    pattern.len()
}

/// A part of a pattern that Go rejects.
struct Invalid;

/// Returns the rest of a name after a chunk that matches, or `None` if it does not match.
fn chunk_match<'n>(chunk: &str, name: &'n str) -> Result<Option<&'n str>, Invalid> {
    let mut pattern = chunk.chars().peekable();
    let mut name = name.chars();
    let mut failed = false;
    while let Some(character) = pattern.next() {
        let here = name.clone().next();
        failed |= here.is_none();
        let matched = match character {
            '[' => glob_class(&mut pattern, here).ok_or(Invalid)?,
            '?' => here != Some('/'),
            '\\' => Some(pattern.next().ok_or(Invalid)?) == here,
            other => Some(other) == here,
        };
        failed |= !matched;
        if !failed {
            name.next();
        }
    }
    Ok((!failed).then_some(name.as_str()))
}

/// Whether a character is in a class whose `[` has been read. A class has at least one range; `-` and `]` in ranges are
/// escaped. Returns `None` if the class is not valid.
fn glob_class(pattern: &mut Peekable<Chars<'_>>, character: Option<char>) -> Option<bool> {
    let negated = pattern.next_if_eq(&'^').is_some();
    let end_of_range = |pattern: &mut Peekable<Chars<'_>>| {
        let end = match pattern.next()? {
            '-' | ']' => return None,
            '\\' => pattern.next()?,
            other => other,
        };
        // The class must have an end.
        pattern.peek().map(|_| end)
    };
    let (mut matched, mut first) = (false, true);
    while first || pattern.next_if_eq(&']').is_none() {
        first = false;
        let low = end_of_range(pattern)?;
        let high = if pattern.next_if_eq(&'-').is_some() { end_of_range(pattern)? } else { low };
        matched |= character.is_some_and(|character| (low..=high).contains(&character));
    }
    Some(matched != negated)
}

/// Converts a pattern to the regular expression of moby, character by character and without special treatment of
/// classes.
fn go_regex(pattern: &str, rules: Rules) -> String {
    let escaped = match rules {
        // The bitmap of moby/patternmatcher 0.6 has no room for `{|}`, which it means to escape as well.
        Rules::Current => ".+()$",
        Rules::Before23 => ".$",
    };
    let mut regex = String::from("^");
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                regex.push_str(if rest.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '\\' => {
                regex.push('\\');
                regex.extend(rest.next());
            }
            other => {
                if escaped.contains(other) {
                    regex.push('\\');
                }
                regex.push(other);
            }
        }
    }
    regex.push('$');
    regex
}

/// Converts a regular expression from Go to the syntax of the `regex` crate. Returns `None` if Go would reject it.
fn from_go(go: &str) -> Option<String> {
    let mut regex = String::new();
    let mut rest = go.chars().peekable();
    let mut repeated = false;
    while let Some(character) = rest.next() {
        let repeats = match character {
            '+' | '*' => true,
            // It only follows a group.
            '?' => {
                regex.push('?');
                repeated = true;
                continue;
            }
            '{' => is_count(&rest),
            _ => false,
        };
        // Go rejects a repetition of a repetition.
        if repeats && repeated {
            return None;
        }
        match character {
            '\\' => regex.push_str(&escape(rest.next()?)?),
            '[' => regex.push_str(&class(&mut rest)?),
            '{' if repeats => {
                regex.push('{');
                regex.extend(rest.by_ref().take_while(|character| *character != '}'));
                regex.push('}');
            }
            '^' | '$' | '.' | '*' | '+' | '(' | ')' | '|' => regex.push(character),
            other => regex.push_str(&literal(other)),
        }
        repeated = repeats;
    }
    Some(regex)
}

/// Whether a `{` begins a count, as in `{2}`, `{2,}` and `{2,3}`. Otherwise it is literal.
fn is_count(rest: &Peekable<Chars<'_>>) -> bool {
    let is_part = |character: &char| character.is_ascii_digit() || *character == ',';
    let text: String = rest.clone().take_while(is_part).collect();
    let (least, most) = text.split_once(',').unwrap_or((&text, ""));
    let digits = |text: &str| text.chars().all(|character| character.is_ascii_digit());
    rest.clone().nth(text.len()) == Some('}') && !least.is_empty() && digits(least) && digits(most)
}

fn literal(character: char) -> String {
    format!("\\x{{{:x}}}", u32::from(character))
}

/// Converts an escaped character: punctuation is literal, some letters are classes or characters, and all others are
/// errors.
fn escape(character: char) -> Option<String> {
    Some(match character {
        'd' => "[0-9]".to_owned(),
        'D' => "[^0-9]".to_owned(),
        's' => "[\\t\\n\\f\\r ]".to_owned(),
        'S' => "[^\\t\\n\\f\\r ]".to_owned(),
        'w' => "[0-9A-Za-z_]".to_owned(),
        'W' => "[^0-9A-Za-z_]".to_owned(),
        'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'A' | 'z' | 'b' | 'B' => format!("\\{character}"),
        other if other.is_ascii() && !other.is_ascii_alphanumeric() => literal(other),
        _ => return None,
    })
}

/// Converts a class whose `[` has been read. Go has neither nested classes nor operations on classes.
fn class(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut class = String::from("[");
    if rest.next_if_eq(&'^').is_some() {
        class.push('^');
    }
    let mut first = true;
    loop {
        match rest.peek()? {
            ']' if !first => break,
            '[' => {
                if let Some(name) = class_name(rest).ok()? {
                    class.push_str(&format!("[:{name}:]"));
                    first = false;
                    continue;
                }
            }
            _ => {}
        }
        first = false;
        let low = class_character(rest)?;
        let mut ahead = rest.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']') {
            rest.next();
            let (low, high) = (low.single()?, class_character(rest)?.single()?);
            if high < low {
                return None;
            }
            class.push_str(&format!("{}-{}", literal(low), literal(high)));
        } else {
            class.push_str(&low.text());
        }
    }
    rest.next();
    class.push(']');
    Some(class)
}

/// Reads a name such as `[:alpha:]` in a class. Returns `None` if the `[` is literal.
fn class_name(rest: &mut Peekable<Chars<'_>>) -> Result<Option<String>, Invalid> {
    // The longest name is `[:^xdigit:]`.
    let text: String = rest.clone().take(16).collect();
    let Some((name, _)) = text.strip_prefix("[:").and_then(|text| text.split_once(":]")) else {
        return Ok(None);
    };
    let known = [
        "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
        "upper", "word", "xdigit",
    ];
    if !known.contains(&name.trim_start_matches('^')) {
        return Err(Invalid);
    }
    rest.nth(name.chars().count() + 3);
    Ok(Some(name.to_owned()))
}

/// A member of a class.
enum Member {
    Single(char),
    Class(String),
}

impl Member {
    fn single(&self) -> Option<char> {
        if let Self::Single(character) = self { Some(*character) } else { None }
    }

    fn text(&self) -> String {
        match self {
            Self::Single(character) => literal(*character),
            Self::Class(text) => text.clone(),
        }
    }
}

fn class_character(rest: &mut Peekable<Chars<'_>>) -> Option<Member> {
    Some(match rest.next()? {
        '\\' => match rest.next()? {
            'A' | 'z' | 'b' | 'B' => return None,
            character if character.is_ascii_alphanumeric() => Member::Class(escape(character)?),
            character if character.is_ascii() => Member::Single(character),
            _ => return None,
        },
        character => Member::Single(character),
    })
}
