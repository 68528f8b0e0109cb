//! Elastic Load Balancing: target groups.

use super::{Aws, AwsError};

/// The fields of a target group that diagnosis needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TargetGroup {
    /// The path of its health check; `None` for TCP checks.
    pub(crate) health_path: Option<String>,
}

impl Aws {
    pub(crate) async fn target_group(&self, arn: &str) -> Result<TargetGroup, AwsError> {
        let answer = client!(aws_sdk_elasticloadbalancingv2, self)
            .describe_target_groups()
            .target_group_arns(arn)
            .send()
            .await
            .map_err(|failed| match self.error("elasticloadbalancing:DescribeTargetGroups", "*", failed) {
                AwsError::Service { code, .. } if code == "TargetGroupNotFound" => {
                    self.not_found("target group", arn)
                }
                other => other,
            })?;
        let group = answer
            .target_groups
            .unwrap_or_default()
            .into_iter()
            .next()
            .ok_or_else(|| self.not_found("target group", arn))?;
        Ok(TargetGroup { health_path: group.health_check_path })
    }
}
