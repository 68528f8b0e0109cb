//! AWS Systems Manager Parameter Store.

use super::{Aws, AwsError, error};
use crate::secret::Secret;

impl Aws {
    /// A parameter's value, decrypted.
    pub async fn parameter(&self, name: &str) -> Result<Secret, AwsError> {
        let answer = aws_sdk_ssm::Client::new(&self.config)
            .get_parameter()
            .name(name)
            .with_decryption(true)
            .send()
            .await
            .map_err(|failed| match error("ssm:GetParameter", failed) {
                AwsError::Service { code, .. } if code == "ParameterNotFound" => not_found(name),
                other => other,
            })?;
        answer.parameter.and_then(|parameter| parameter.value).map(Secret::new).ok_or_else(|| not_found(name))
    }
}

fn not_found(name: &str) -> AwsError {
    AwsError::NotFound { what: "parameter", name: name.to_owned() }
}
