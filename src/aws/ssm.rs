//! AWS Systems Manager Parameter Store.

use super::{Aws, AwsError, CALLS_AT_ONCE};
use crate::address::Arn;
use crate::secret::Secret;
use aws_sdk_ssm::types::{Parameter, ParameterStringFilter};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap};

/// How many parameters one call returns.
const AT_ONCE: usize = 10;
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
            transient: false,
        })?;
        let client = client!(aws_sdk_ssm, self);
        let mut pages = client.describe_parameters().parameter_filters(filter).into_paginator().send();
        // A page may be empty although a later page is not.
        while let Some(page) = pages.next().await {
            if !page.map_err(|failed| self.error(DESCRIBE, "*", failed))?.parameters().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The decrypted values of parameters, by the names or ARNs that were asked for.
    pub(crate) async fn parameters(&self, names: &[&str]) -> Result<HashMap<String, Secret>, AwsError> {
        let calls = names.chunks(AT_ONCE).map(|some| self.some_parameters(some));
        let parts: Vec<_> = futures_util::stream::iter(calls).buffered(CALLS_AT_ONCE).try_collect().await?;
        Ok(parts.into_iter().flatten().collect())
    }

    async fn some_parameters(&self, names: &[&str]) -> Result<Vec<(String, Secret)>, AwsError> {
        let denied = match self.parameters_at_once(names).await {
            // Policies from before runner 0.2 allow only the call for a single parameter.
            Err(denied @ AwsError::Denied { .. }) => denied,
            other => return other,
        };
        let mut values = Vec::new();
        for name in names {
            match self.parameter(name).await {
                Err(AwsError::Denied { .. }) => return Err(denied),
                other => values.push(((*name).to_owned(), other?)),
            }
        }
        Ok(values)
    }

    async fn parameters_at_once(&self, names: &[&str]) -> Result<Vec<(String, Secret)>, AwsError> {
        const ACTION: &str = "ssm:GetParameters";
        // The call rejects a name that it gets twice.
        let unique: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let resource = names.first().map_or_else(|| "*".to_owned(), |name| self.parameter_arn(name));
        let answer = client!(aws_sdk_ssm, self)
            .get_parameters()
            .set_names(Some(unique.into_iter().collect()))
            .with_decryption(true)
            .send()
            .await
            .map_err(|failed| self.error(ACTION, &resource, failed))?;
        let found = answer.parameters.unwrap_or_default();
        let value_of = |wanted: &str| {
            let is_wanted = |parameter: &&Parameter| {
                let selector = parameter.selector().unwrap_or_default();
                [parameter.name(), parameter.arn()]
                    .into_iter()
                    .flatten()
                    .any(|own| wanted == own || wanted.strip_suffix(selector) == Some(own))
            };
            found.iter().find(is_wanted)?.value().map(Secret::new)
        };
        let pairs = names.iter().map(|name| {
            value_of(name)
                .map(|value| ((*name).to_owned(), value))
                .ok_or_else(|| self.not_found("parameter", name))
        });
        pairs.collect()
    }

    /// The decrypted value of a parameter.
    async fn parameter(&self, name: &str) -> Result<Secret, AwsError> {
        let answer = client!(aws_sdk_ssm, self)
            .get_parameter()
            .name(name)
            .with_decryption(true)
            .send()
            .await
            .map_err(|failed| match self.error("ssm:GetParameter", &self.parameter_arn(name), failed) {
                AwsError::Service { code, .. } if code == "ParameterNotFound" => {
                    self.not_found("parameter", name)
                }
                other => other,
            })?;
        answer
            .parameter
            .and_then(|parameter| parameter.value)
            .map(Secret::new)
            .ok_or_else(|| self.not_found("parameter", name))
    }

    fn parameter_arn(&self, name: &str) -> String {
        match Arn::parse(name) {
            Some(_) => name.to_owned(),
            None => self.arn("ssm", &format!("parameter/{}", name.trim_start_matches('/'))),
        }
    }
}
