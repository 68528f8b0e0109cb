//! `WWW-Authenticate`: which logins a registry accepts. Pure.

use std::collections::HashMap;

/// The login that a registry asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// It has not said so.
    #[default]
    Unknown,
    Basic,
    /// A token of a service.
    Token {
        realm: String,
        service: Option<String>,
    },
    /// Only logins that runner does not know, by their names.
    Unsupported(String),
}

/// One challenge: a scheme with its parameters. The names are in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

impl Asked {
    /// Reads the values of all headers. A token has precedence over a password, which would leave this machine with
    /// every request.
    pub(super) fn read<'h>(headers: impl Iterator<Item = &'h str>) -> Self {
        let mut challenges: Vec<Challenge> = headers.flat_map(challenges).collect();
        let parameter = |challenge: &mut Challenge, name: &str| {
            challenge.parameters.remove(name).filter(|value| !value.is_empty())
        };
        let tokens = challenges.iter_mut().filter(|challenge| challenge.scheme == "bearer");
        let token =
            tokens.filter_map(|token| Some((parameter(token, "realm")?, parameter(token, "service"))));
        if let Some((realm, service)) = token.into_iter().next() {
            return Self::Token { realm, service };
        }
        let names: Vec<String> = challenges.into_iter().map(|challenge| challenge.scheme).collect();
        match names.as_slice() {
            [] => Self::Unknown,
            names if names.iter().any(|name| name == "basic") => Self::Basic,
            names => Self::Unsupported(names.join(", ")),
        }
    }
}

/// Parses one header: <https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate>.
fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let name = name.to_ascii_lowercase();
        match (after.trim_start().strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let (value, after) = value(after.trim_start());
                challenge.parameters.entry(name).or_insert(value);
                rest = after;
            }
            (Some(after), None) => rest = after,
            (None, _) if name.is_empty() => return found,
            (None, _) => {
                found.push(Challenge { scheme: name, ..Challenge::default() });
                rest = after;
            }
        }
    }
}

/// Splits a value, which may be quoted, from the text after it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[&str]) -> Asked {
        Asked::read(headers.iter().copied())
    }

    fn token(realm: &str, service: Option<&str>) -> Asked {
        Asked::Token { realm: realm.to_owned(), service: service.map(ToOwned::to_owned) }
    }

    #[test]
    fn challenges_are_parsed() {
        let own = token("https://auth.example/token", Some("r.example"));
        assert_eq!(read(&["Bearer realm=\"https://auth.example/token\",service=\"r.example\""]), own);
        assert_eq!(read(&["Basic realm=\"r\""]), Asked::Basic);
        assert_eq!(read(&[]), Asked::Unknown);
    }

    /// Findings, B5.
    #[test]
    fn all_headers_count() {
        let own = token("https://a.example/t", None);
        let bearer = "Bearer realm=\"https://a.example/t\"";
        assert_eq!(read(&["Negotiate", bearer]), own);
        assert_eq!(read(&[bearer, "Basic realm=\"x\""]), own);
        assert_eq!(read(&["Basic realm=\"x\"", bearer]), own);
        assert_eq!(read(&["Negotiate YWJj==, Bearer realm=\"https://a.example/t\""]), own);
        assert_eq!(read(&["Basic realm=\"x, Bearer y\", bearer realm=\"https://a.example/t\""]), own);
        assert_eq!(read(&["Negotiate", "NTLM", "Basic"]), Asked::Basic);
        assert_eq!(read(&["Negotiate", "NTLM"]), Asked::Unsupported("negotiate, ntlm".to_owned()));
    }

    #[test]
    fn names_have_any_case_and_values_any_form() {
        let own = token("https://a.example/t?x=1,2", Some("s"));
        assert_eq!(read(&["BEARER Realm=\"https://a.example/t?x=1,2\" , SERVICE=\"s\""]), own);
        assert_eq!(read(&["bearer service = s, realm = \"https://a.example/t?x=1\\,2\""]), own);
        assert_eq!(read(&["Bearer realm=https://a.example/t"]), token("https://a.example/t", None));
        // Another parameter whose name ends alike.
        let other = "Bearer xrealm=\"https://evil.example\",realm=\"https://a.example/t\"";
        assert_eq!(read(&[other]), token("https://a.example/t", None));
    }

    #[test]
    fn what_is_empty_is_absent() {
        assert_eq!(read(&["Bearer realm=\"https://a/t\",service=\"\""]), token("https://a/t", None));
        assert_eq!(read(&["Bearer realm=\"\"", "Basic"]), Asked::Basic);
        assert_eq!(read(&["Bearer"]), Asked::Unsupported("bearer".to_owned()));
        for broken in ["", ",", " , ,", "=", "==x", "Bearer realm=\"https://a/t", "Basic realm="] {
            let _ = read(&[broken]);
        }
    }
}
