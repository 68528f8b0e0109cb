//! `--env-file`: `KEY=value` lines.

use crate::pipeline::template::is_variable_name;

/// A line that is no assignment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {reason}")]
pub struct EnvFileError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Reads an environment file: `#` begins a comment line, single quotes are literal, double quotes know `\n`, `\t`, `\"`,
/// `\\` and `\$`; an `export` before the name is allowed.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let error = |reason| EnvFileError { line: at + 1, reason };
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(error("there is no `=`"))?;
        let name = name.trim();
        if !is_variable_name(name) {
            return Err(error("what stands before `=` is not the name of a variable"));
        }
        let value = value_of(value.trim()).ok_or(error("a quote is not closed, or text follows it"))?;
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
    fn errors_name_the_line() {
        assert_eq!(parse("A=1\nnonsense\n").unwrap_err().line, 2);
        assert_eq!(parse("1A=x").unwrap_err().line, 1);
        assert_eq!(parse("A=\"open").unwrap_err().line, 1);
    }
}
