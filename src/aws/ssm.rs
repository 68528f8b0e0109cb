//! AWS Systems Manager Parameter Store.

use super::{Aws, AwsError, error};
use crate::address::Arn;
use crate::secret::Secret;
use aws_sdk_ssm::types::ParameterStringFilter;

const DESCRIBE: &str = "ssm:DescribeParameters";

impl Aws {
    /// Whether a parameter exists, by name or ARN. Does not read its value.
    pub(crate) async fn parameter_exists(&self, name: &str) -> Result<bool, AwsError> {
        // An ARN drops the slash that a hierarchical name starts with.
        let names = match Arn::parse(name).and_then(|arn| arn.resource().strip_prefix("parameter/")) {
            Some(name) => vec![name.to_owned(), format!("/{name}")],
            None => vec![name.to_owned()],
        };
        let filter = ParameterStringFilter::builder().key("Name").option("Equals").set_values(Some(names));
        let filter = filter.build().map_err(|failed| AwsError::Service {
            action: DESCRIBE,
            code: "invalid request".to_owned(),
            message: failed.to_string(),
        })?;
        let client = aws_sdk_ssm::Client::new(&self.config);
        let mut pages = client.describe_parameters().parameter_filters(filter).into_paginator().send();
        // A page may be empty although a later page is not.
        while let Some(page) = pages.next().await {
            if !page.map_err(|failed| error(DESCRIBE, "*", failed))?.parameters().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The decrypted value of a parameter.
    pub(crate) async fn parameter(&self, name: &str) -> Result<Secret, AwsError> {
        let resource = match Arn::parse(name) {
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
