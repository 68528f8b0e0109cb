//! AWS Identity and Access Management: what a role may do.

use super::{Aws, AwsError, error};
use aws_sdk_iam::types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType};

impl Aws {
    /// The ARN of a role; nothing where there is none of that name.
    pub async fn iam_role(&self, name: &str) -> Result<Option<String>, AwsError> {
        let answer = aws_sdk_iam::Client::new(&self.config).get_role().role_name(name).send().await;
        match answer {
            Ok(answer) => Ok(answer.role.map(|role| role.arn)),
            Err(failed) => match error("iam:GetRole", &format!("arn:aws:iam::*:role/{name}"), failed) {
                AwsError::Service { code, .. } if code.starts_with("NoSuchEntity") => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Whether a user or role may do something, for every resource. `passed_to` is the service that roles are passed to. Nothing
    /// where IAM says nothing.
    pub async fn iam_allows(
        &self,
        principal: &str,
        action: &str,
        resources: &[String],
        passed_to: Option<&str>,
    ) -> Result<Option<bool>, AwsError> {
        // Without it the condition of a statement about iam:PassRole does not hold.
        let context = passed_to.map(|service| {
            ContextEntry::builder()
                .context_key_name("iam:PassedToService")
                .context_key_type(ContextKeyTypeEnum::String)
                .context_key_values(service)
                .build()
        });
        let answer = aws_sdk_iam::Client::new(&self.config)
            .simulate_principal_policy()
            .set_context_entries(context.map(|entry| vec![entry]))
            .policy_source_arn(principal)
            .action_names(action)
            .set_resource_arns(Some(resources.to_vec()))
            .send()
            .await
            .map_err(|failed| error("iam:SimulatePrincipalPolicy", principal, failed))?;
        let results = answer.evaluation_results.unwrap_or_default();
        if results.is_empty() {
            return Ok(None);
        }
        let allowed = |decision: &PolicyEvaluationDecisionType| decision.as_str() == "allowed";
        Ok(Some(results.iter().all(|result| {
            // With several resources the overall decision is only a summary.
            let single = result.resource_specific_results();
            if single.is_empty() {
                allowed(&result.eval_decision)
            } else {
                single.iter().all(|one| allowed(&one.eval_resource_decision))
            }
        })))
    }
}
