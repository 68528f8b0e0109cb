//! Names of things in AWS: secrets, parameters, task definitions.

use crate::address::{Arn, short_name, split_parameter, split_secret};

/// The family of a task definition. The name may have a revision or be an ARN.
pub(crate) fn family_of(name: &str) -> &str {
    short_name(name).split(':').next().unwrap_or_default()
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
    /// Parses a reference. An ARN has seven parts: `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`. The error is a
    /// sentence fragment.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (id, rest) = split_secret(text);
        let name = if Arn::is_prefix_of(text) {
            let arn = Arn::parse(id).filter(|arn| arn.service() == "secretsmanager");
            let name = arn.and_then(|arn| arn.resource().strip_prefix("secret:"));
            name.filter(|name| !name.is_empty()).ok_or("this is not the ARN of a secret")?
        } else {
            id
        };
        if name.is_empty() {
            return Err("the name of the secret is missing".to_owned());
        }
        // Source: the Secrets Manager API reference, CreateSecret.
        if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "/_+=.@-!".contains(*c))) {
            return Err(format!("the name of a secret cannot contain `{bad}`"));
        }
        let parts: Vec<&str> = rest.split(':').collect();
        if parts.len() > 3 {
            return Err("this reference has too many parts".to_owned());
        }
        let part = |at: usize| parts.get(at).filter(|part| !part.is_empty()).map(ToString::to_string);
        let reference = Self { id: id.to_owned(), json_key: part(0), stage: part(1), version: part(2) };
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
    if Arn::is_prefix_of(text) {
        let resource = Arn::parse(text).filter(|arn| arn.service() == "ssm").map(|arn| arn.resource());
        let is_parameter = |name: &str| name.starts_with("parameter/") && !name.contains(['*', '?']);
        let name = resource.filter(|name| is_parameter(name));
        return name.map(drop).ok_or_else(|| "this is not the ARN of a parameter".to_owned());
    }
    let (name, _) = split_parameter(text);
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
