//! `--env-file`: `KEY=value` lines.

use crate::language::pipeline::template::{MAX_VALUE, is_variable_name};

/// An invalid line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub(crate) struct EnvFileError {
    /// The line's number, from 1.
    pub(crate) line: usize,
    pub(crate) reason: &'static str,
}

/// Parses an environment file. `#` begins a comment line. Single quotes are literal; double quotes support `\n`, `\t`,
/// `\"`, `\\` and `\$`. `export` before the name is allowed.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |reason| EnvFileError { line: at + 1, reason };
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(error("`=` is missing"))?;
        let name = name.trim();
        if !is_variable_name(name) {
            return Err(error("the text before `=` is not a valid variable name"));
        }
        let value = value_of(value.trim()).ok_or(error("a quote is not closed, or text follows it"))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

/// Parses the file `$RUNNER_ENV` of a command: lines `KEY=value` with literal values, and blocks that begin with `KEY<<MARK`
/// and end with a line `MARK`. Empty lines are ignored.
pub(crate) fn parse_handed_on(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let error = |reason| EnvFileError { line: at + 1, reason };
        let (equals, block) = (line.find('='), line.find("<<"));
        let (name, value) = match (equals, block) {
            (Some(equals), block) if block.is_none_or(|block| equals < block) => {
                (&line[..equals], line[equals + 1..].to_owned())
            }
            (_, Some(block)) => {
                let mark = &line[block + 2..];
                if mark.is_empty() {
                    return Err(error("the mark after `<<` is missing"));
                }
                let mut value = Vec::new();
                loop {
                    match lines.next() {
                        Some((_, line)) if line == mark => break,
                        Some((_, line)) => value.push(line),
                        None => return Err(error("the block that begins here is not closed")),
                    }
                }
                (&line[..block], value.join("\n"))
            }
            _ => return Err(error("`=` is missing")),
        };
        if !is_variable_name(name) {
            return Err(error("the text before `=` or `<<` is not a valid variable name"));
        }
        if name.starts_with("RUNNER_") {
            return Err(error("names that begin with RUNNER_ are reserved"));
        }
        if value.contains('\0') {
            return Err(error("a variable cannot contain a NUL"));
        }
        if name.len() + value.len() + 2 > MAX_VALUE {
            return Err(error("a variable cannot be longer than 128 KiB"));
        }
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

fn value_of(text: &str) -> Option<String> {
    if let Some(rest) = text.strip_prefix('\'') {
        return rest.strip_suffix('\'').filter(|inner| !inner.contains('\'')).map(ToOwned::to_owned);
    }
    let Some(rest) = text.strip_prefix('"') else {
        return Some(text.to_owned());
    };
    let mut value = String::new();
    let mut characters = rest.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return characters.as_str().is_empty().then_some(value),
            '\\' => match characters.next()? {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_values() {
        let text = "# comment\nA=1\n\nexport B = two words \nC='$x \\n'\nD=\"a\\nb\\\"c\"\nE=\nF=a=b#c\n";
        let variables = parse(text).unwrap();
        let expected =
            [("A", "1"), ("B", "two words"), ("C", "$x \\n"), ("D", "a\nb\"c"), ("E", ""), ("F", "a=b#c")];
        assert_eq!(variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn variables_from_commands() {
        let text = "A=1\n\nB=x=<<y \r\nC<<END\ntwo\n=lines\nEND\nA=2\n";
        let variables = parse_handed_on(text).unwrap();
        let expected = [("A", "1"), ("B", "x=<<y "), ("C", "two\n=lines"), ("A", "2")];
        assert_eq!(variables, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        for (text, line) in
            [("A=1\nnonsense", 2), ("A<<E\nx", 1), ("A<<\n", 1), ("1A=x", 1), ("RUNNER_MODE=x", 1)]
        {
            assert_eq!(parse_handed_on(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(parse("A=1\nnonsense\n").unwrap_err().line, 2);
        assert_eq!(parse("1A=x").unwrap_err().line, 1);
        assert_eq!(parse("A=\"open").unwrap_err().line, 1);
    }
}
