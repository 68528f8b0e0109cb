//! AWS Systems Manager Parameter Store.

use super::{Aws, AwsError, error};
use crate::secret::Secret;

impl Aws {
    /// A parameter's value, decrypted.
    pub async fn parameter(&self, name: &str) -> Result<Secret, AwsError> {
        let resource = match name.strip_prefix("arn:") {
            Some(_) => name.to_owned(),
            None => self.arn("ssm", &format!("parameter/{}", name.trim_start_matches('/'))),
        };
        let answer = aws_sdk_ssm::Client::new(&self.config)
            .get_parameter()
            .name(name)
            .with_decryption(true)
            .send()
            .await
            .map_err(|failed| match error("ssm:GetParameter", &resource, failed) {
                AwsError::Service { code, .. } if code == "ParameterNotFound" => not_found(name),
                other => other,
            })?;
        answer.parameter.and_then(|parameter| parameter.value).map(Secret::new).ok_or_else(|| not_found(name))
    }
}

fn not_found(name: &str) -> AwsError {
    AwsError::NotFound { what: "parameter", name: name.to_owned() }
}
