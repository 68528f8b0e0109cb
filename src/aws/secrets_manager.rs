//! AWS Secrets Manager.

use super::{Aws, AwsError};
use crate::address::Arn;
use crate::secret::Secret;

/// The error code for a secret that is marked for deletion, and for other invalid requests.
const INVALID: &str = "InvalidRequestException";

/// A secret, its version and its JSON key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretId {
    pub(crate) id: String,
    /// The key within a JSON secret; `None` for the whole value.
    pub(crate) json_key: Option<String>,
    /// The version's stage; `AWSCURRENT` if neither stage nor version is given.
    pub(crate) stage: Option<String>,
    pub(crate) version: Option<String>,
}

impl Aws {
    /// Whether a secret exists and is not marked for deletion. Does not read its value.
    pub(crate) async fn secret_exists(&self, id: &str) -> Result<bool, AwsError> {
        let answer = client!(aws_sdk_secretsmanager, self).describe_secret().secret_id(id).send().await;
        match answer.map_err(|failed| self.error("secretsmanager:DescribeSecret", id, failed)) {
            Ok(secret) => Ok(secret.deleted_date.is_none()),
            Err(AwsError::Service { code, .. }) if code == "ResourceNotFoundException" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The value of a secret, or of one of its JSON keys.
    pub(crate) async fn secret(&self, reference: &SecretId) -> Result<Secret, AwsError> {
        const ACTION: &str = "secretsmanager:GetSecretValue";
        let resource = if Arn::parse(&reference.id).is_some() {
            reference.id.clone()
        } else {
            self.arn("secretsmanager", &format!("secret:{}-??????", reference.id))
        };
        let answer = client!(aws_sdk_secretsmanager, self)
            .get_secret_value()
            .secret_id(&reference.id)
            .set_version_stage(reference.stage.clone())
            .set_version_id(reference.version.clone())
            .send()
            .await
            .map_err(|failed| match self.error(ACTION, &resource, failed) {
                AwsError::Service { code, .. } if code == "ResourceNotFoundException" => {
                    self.not_found("secret", &reference.id)
                }
                AwsError::Service { code, message, .. } if code == INVALID && message.contains("marked") => {
                    let reason = "is marked for deletion".to_owned();
                    AwsError::UnusableSecret { name: reference.id.clone(), reason }
                }
                other => other,
            })?;
        let invalid =
            |reason: &str| AwsError::UnusableSecret { name: reference.id.clone(), reason: reason.to_owned() };
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
