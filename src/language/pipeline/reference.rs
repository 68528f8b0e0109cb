//! Names of things in AWS: secrets, parameters, task definitions.

/// The family of a task definition. The name may have a revision or be an ARN.
pub(crate) fn family_of(name: &str) -> &str {
    let family = name.rsplit('/').next().unwrap_or_default();
    family.split(':').next().unwrap_or_default()
}

/// `id[:json-key[:stage[:version-id]]]`. The id may be an ARN.
///
/// Source: the buildspec reference, `env/secrets-manager`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretReference {
    pub(crate) id: String,
    /// The key within a JSON secret; the whole value if absent.
    pub(crate) json_key: Option<String>,
    /// The version's stage; `AWSCURRENT` if neither stage nor version is given.
    pub(crate) stage: Option<String>,
    pub(crate) version: Option<String>,
}

impl SecretReference {
    /// The secret's name or ARN in a reference that is not validated.
    pub(crate) fn id_of(text: &str) -> &str {
        let parts = if text.starts_with("arn:") { 7 } else { 1 };
        text.match_indices(':').nth(parts - 1).map_or(text, |(end, _)| &text[..end])
    }

    /// Parses a reference. An ARN has seven parts: `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`. The error is a
    /// sentence fragment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let is_arn = text.starts_with("arn:");
        let id_parts = if is_arn { 7 } else { 1 };
        if is_arn
            && (parts.len() < 7
                || parts[2] != "secretsmanager"
                || parts[5] != "secret"
                || parts[6].is_empty())
        {
            return Err("this is not the ARN of a secret".to_owned());
        }
        if parts[0].is_empty() {
            return Err("the name of the secret is missing".to_owned());
        }
        // Source: the Secrets Manager API reference, CreateSecret.
        let name = parts[id_parts - 1];
        if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "/_+=.@-!".contains(*c))) {
            return Err(format!("the name of a secret cannot contain `{bad}`"));
        }
        if parts.len() > id_parts + 3 {
            return Err("this reference has too many parts".to_owned());
        }
        let part =
            |at: usize| parts.get(id_parts + at).filter(|part| !part.is_empty()).map(ToString::to_string);
        let reference =
            Self { id: parts[..id_parts].join(":"), json_key: part(0), stage: part(1), version: part(2) };
        if reference.stage.is_some() && reference.version.is_some() {
            return Err("stage and version id exclude each other".to_owned());
        }
        Ok(reference)
    }
}

/// The help for every error of [`SecretReference::parse`].
pub(crate) const SECRET_HELP: &str = "write `id[:json-key[:stage]]` or `id[:json-key]::version-id`; the id is a name or `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`";

/// Checks the name or ARN of a parameter. The error is a sentence fragment.
///
/// Source: the Systems Manager user guide, "Requirements and constraints for parameter names".
pub(crate) fn check_parameter(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name of the parameter is missing".to_owned());
    }
    if text.starts_with("arn:") {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        return match parts.as_slice() {
            [_, _, "ssm", _, _, name] if name.starts_with("parameter/") && !name.contains(['*', '?']) => {
                Ok(())
            }
            _ => Err("this is not the ARN of a parameter".to_owned()),
        };
    }
    let name = text.split(':').next().unwrap_or_default();
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "/_.-".contains(*c))) {
        return Err(format!("the name of a parameter cannot contain `{bad}`"));
    }
    if name.contains('/') && !name.starts_with('/') {
        return Err("the name of a parameter in a hierarchy begins with `/`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_with_and_without_arn() {
        let parse = |text: &str| {
            let reference = SecretReference::parse(text).unwrap();
            (reference.id, reference.json_key, reference.stage, reference.version)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("webapp/slack"), ("webapp/slack".to_owned(), None, None, None));
        assert_eq!(parse("a:k:AWSPREVIOUS"), ("a".to_owned(), some("k"), some("AWSPREVIOUS"), None));
        assert_eq!(parse("a:::v1"), ("a".to_owned(), None, None, some("v1")));
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:web-AbCdEf";
        assert_eq!(parse(&format!("{arn}:k")), (arn.to_owned(), some("k"), None, None));
        assert_eq!(SecretReference::id_of(&format!("{arn}:k:s")), arn);
        assert_eq!(SecretReference::id_of("*/a:k"), "*/a");
        for bad in
            ["", ":k", "a:k:s:v", "a:b:c:d:e", "arn:aws:s3:::bucket", "arn:aws:secretsmanager:r:1:secret:"]
        {
            assert!(SecretReference::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_parameters() {
        for good in ["/a/b", "plain", "/a:3", "arn:aws:ssm:eu-west-1:123456789012:parameter/a/b"] {
            assert_eq!(check_parameter(good), Ok(()), "{good}");
        }
        for bad in ["", "a/b", "/a b", "arn:aws:s3:::bucket"] {
            assert!(check_parameter(bad).is_err(), "{bad}");
        }
    }
}
