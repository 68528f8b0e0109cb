//! Elastic Load Balancing: target groups.

use super::{Aws, AwsError, error};

/// A target group, as far as a deployment needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TargetGroup {
    /// The path that its health check asks for; nothing where that is a connection alone.
    pub(crate) health_path: Option<String>,
}

impl Aws {
    /// A target group by its ARN.
    pub(crate) async fn target_group(&self, arn: &str) -> Result<TargetGroup, AwsError> {
        let answer = aws_sdk_elasticloadbalancingv2::Client::new(&self.config)
            .describe_target_groups()
            .target_group_arns(arn)
            .send()
            .await
            .map_err(|failed| match error("elasticloadbalancing:DescribeTargetGroups", "*", failed) {
                AwsError::Service { code, .. } if code == "TargetGroupNotFound" => missing(arn),
                other => other,
            })?;
        let group =
            answer.target_groups.unwrap_or_default().into_iter().next().ok_or_else(|| missing(arn))?;
        Ok(TargetGroup { health_path: group.health_check_path })
    }
}

fn missing(arn: &str) -> AwsError {
    AwsError::NotFound { what: "target group", name: arn.to_owned() }
}
