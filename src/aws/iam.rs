//! AWS Identity and Access Management: roles and simulated permissions.

use super::{Aws, AwsError};
use aws_sdk_iam::types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) arn: String,
    /// The service principals that its trust policy allows to assume it.
    pub(crate) trusted: Vec<String>,
}

impl Aws {
    /// Returns `None` if there is no role with this name.
    pub(crate) async fn iam_role(&self, name: &str) -> Result<Option<Role>, AwsError> {
        let answer = client!(aws_sdk_iam, self).get_role().role_name(name).send().await;
        let role = match answer {
            Ok(answer) => answer.role,
            Err(failed) => match self.error("iam:GetRole", &self.arn("iam", &format!("role/{name}")), failed)
            {
                AwsError::Service { code, .. } if code.starts_with("NoSuchEntity") => return Ok(None),
                other => return Err(other),
            },
        };
        Ok(role.map(|role| {
            // IAM percent-encodes the document.
            let policy = percent_decoded(&role.assume_role_policy_document.unwrap_or_default());
            let policy: Value = serde_json::from_str(&policy).unwrap_or_default();
            Role { arn: role.arn, trusted: services(&policy) }
        }))
    }

    /// Whether a user or role may perform an action on all resources. `passed_to` is the service that gets a passed
    /// role. Returns `None` if IAM's response has no result.
    pub(crate) async fn iam_allows(
        &self,
        principal: &str,
        action: &str,
        resources: &[String],
        passed_to: Option<&str>,
    ) -> Result<Option<bool>, AwsError> {
        // Statements about iam:PassRole usually have a condition on this key.
        let context = passed_to.map(|service| {
            ContextEntry::builder()
                .context_key_name("iam:PassedToService")
                .context_key_type(ContextKeyTypeEnum::String)
                .context_key_values(service)
                .build()
        });
        let answer = client!(aws_sdk_iam, self)
            .simulate_principal_policy()
            .set_context_entries(context.map(|entry| vec![entry]))
            .policy_source_arn(principal)
            .action_names(action)
            .set_resource_arns(Some(resources.to_vec()))
            .send()
            .await
            .map_err(|failed| self.error("iam:SimulatePrincipalPolicy", principal, failed))?;
        let results = answer.evaluation_results.unwrap_or_default();
        if results.is_empty() {
            return Ok(None);
        }
        let allowed = |decision: &PolicyEvaluationDecisionType| decision.as_str() == "allowed";
        Ok(Some(results.iter().all(|result| {
            // With several resources, the overall decision is only a summary.
            let single = result.resource_specific_results();
            if single.is_empty() {
                allowed(&result.eval_decision)
            } else {
                single.iter().all(|one| allowed(&one.eval_resource_decision))
            }
        })))
    }
}

/// The service principals that a trust policy allows.
fn services(policy: &Value) -> Vec<String> {
    let list = |value: &Value| match value {
        Value::Array(items) => items.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let mut found = Vec::new();
    for statement in list(policy.get("Statement").unwrap_or(&Value::Null)) {
        let allows = statement.get("Effect").and_then(Value::as_str) == Some("Allow");
        let services = statement.get("Principal").and_then(|principal| principal.get("Service"));
        let services = list(services.unwrap_or(&Value::Null));
        found.extend(services.iter().filter(|_| allows).filter_map(Value::as_str).map(ToOwned::to_owned));
    }
    found
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        if let (b'%', Some(byte)) = (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_policy_names_services_in_several_ways() {
        let text = "%7B%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Principal%22%3A%7B%22Service%22%3A%22ecs-tasks.amazonaws.com%22%7D%7D%2C%7B%22Effect%22%3A%22Deny%22%2C%22Principal%22%3A%7B%22Service%22%3A%5B%22a%22%5D%7D%7D%5D%7D";
        let policy: Value = serde_json::from_str(&percent_decoded(text)).unwrap();
        assert_eq!(services(&policy), ["ecs-tasks.amazonaws.com"]);
        let several = serde_json::json!({ "Statement": { "Effect": "Allow", "Principal": { "Service": ["a", "b"], "AWS": "*" } } });
        assert_eq!(services(&several), ["a", "b"]);
        assert!(services(&Value::Null).is_empty());
        assert_eq!(percent_decoded("100%"), "100%");
    }
}
