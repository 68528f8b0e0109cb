//! AWS Secrets Manager, with CodeBuild's way of naming a secret.

use super::{Aws, AwsError, error};
use crate::secret::Secret;

/// `id[:json-key[:stage[:version-id]]]`, where the id may be an ARN with colons of its own.
/// Source: the buildspec reference, `env/secrets-manager`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretReference {
    /// Name or ARN.
    pub id: String,
    /// The key within a JSON secret; the whole value where absent.
    pub json_key: Option<String>,
    /// The version's stage; `AWSCURRENT` where neither stage nor version is given.
    pub stage: Option<String>,
    /// The version's id.
    pub version: Option<String>,
}

impl SecretReference {
    /// Reads a reference. An ARN has seven parts: `arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`.
    pub fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split(':').collect();
        let id_parts = if text.starts_with("arn:") { 7 } else { 1 };
        let cut = id_parts.min(parts.len());
        let part = |at: usize| parts.get(cut + at).filter(|part| !part.is_empty()).map(ToString::to_string);
        Self { id: parts[..cut].join(":"), json_key: part(0), stage: part(1), version: part(2) }
    }
}

impl Aws {
    /// A secret's value, or that of one key of it.
    pub async fn secret(&self, reference: &SecretReference) -> Result<Secret, AwsError> {
        const ACTION: &str = "secretsmanager:GetSecretValue";
        let answer = aws_sdk_secretsmanager::Client::new(&self.config)
            .get_secret_value()
            .secret_id(&reference.id)
            .set_version_stage(reference.stage.clone())
            .set_version_id(reference.version.clone())
            .send()
            .await
            .map_err(|failed| match error(ACTION, failed) {
                AwsError::Service { code, .. } if code == "ResourceNotFoundException" => {
                    AwsError::NotFound { what: "secret", name: reference.id.clone() }
                }
                other => other,
            })?;
        let invalid = |message: &str| AwsError::Service {
            action: ACTION,
            code: "unusable secret".to_owned(),
            message: format!("`{}` {message}", reference.id),
        };
        let text = answer.secret_string.ok_or_else(|| invalid("is binary, not text"))?;
        let Some(key) = &reference.json_key else {
            return Ok(Secret::new(text));
        };
        let document: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| invalid("is not JSON, so it has no keys"))?;
        match document.get(key) {
            Some(serde_json::Value::String(value)) => Ok(Secret::new(value.as_str())),
            Some(value) => Ok(Secret::new(value.to_string())),
            None => Err(invalid(&format!("has no key `{key}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_with_and_without_arn() {
        let parse = |text| {
            let reference = SecretReference::parse(text);
            (reference.id, reference.json_key, reference.stage, reference.version)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("webapp/slack"), ("webapp/slack".to_owned(), None, None, None));
        assert_eq!(parse("a:k:AWSPREVIOUS"), ("a".to_owned(), some("k"), some("AWSPREVIOUS"), None));
        assert_eq!(parse("a:::v1"), ("a".to_owned(), None, None, some("v1")));
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:web-AbCdEf";
        assert_eq!(parse(&format!("{arn}:k")), (arn.to_owned(), some("k"), None, None));
    }
}
