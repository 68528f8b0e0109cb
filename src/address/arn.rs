//! Amazon Resource Names. Source: the IAM user guide, "Amazon Resource Names (ARNs)".

use std::fmt;

/// `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`, split into its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arn<'a> {
    text: &'a str,
    service: &'a str,
    region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> Arn<'a> {
    /// Returns `None` for text that is not an ARN, such as a plain name.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix("arn:")?.splitn(5, ':');
        let (_partition, service, region) = (parts.next()?, parts.next()?, parts.next()?);
        let (account, resource) = (parts.next()?, parts.next()?);
        Some(Self { text, service, region, account, resource })
    }

    /// Whether the text starts like an ARN. It may lack parts: in a template, one value may supply several of them.
    pub(crate) fn is_prefix_of(text: &str) -> bool {
        text.starts_with("arn:")
    }

    /// The service, such as `ecs`.
    pub(crate) fn service(&self) -> &'a str {
        self.service
    }

    /// Returns `None` for global resources, such as IAM roles.
    pub(crate) fn region(&self) -> Option<&'a str> {
        Some(self.region).filter(|region| !region.is_empty())
    }

    /// Returns `None` for resources without an account, such as S3 buckets.
    pub(crate) fn account(&self) -> Option<&'a str> {
        Some(self.account).filter(|account| !account.is_empty())
    }

    /// Everything after the account, such as `role/path/deploy` or `secret:db-AbCdEf`.
    pub(crate) fn resource(&self) -> &'a str {
        self.resource
    }

    /// The last segment of the resource: `deploy` of `role/path/deploy`, `web:4` of `task-definition/web:4`.
    pub(crate) fn resource_name(&self) -> &'a str {
        short_name(self.resource)
    }
}

impl fmt::Display for Arn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// The short name of a cluster, service, task, role or revision that is given by its ARN or by its name.
pub(crate) fn short_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Splits `ID[:JSON-KEY[:STAGE[:VERSION-ID]]]` after the secret's id, which may be an ARN.
/// Source: the buildspec reference, `env/secrets-manager`, and the ECS developer guide, `valueFrom`.
pub(crate) fn split_secret(reference: &str) -> (&str, &str) {
    // arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME
    split_id(reference, 6)
}

/// Splits `NAME[:VERSION]` after the parameter's name, which may be an ARN.
pub(crate) fn split_parameter(reference: &str) -> (&str, &str) {
    // arn:aws:ssm:REGION:ACCOUNT:parameter/NAME
    split_id(reference, 5)
}

/// Splits at the first colon that belongs neither to an ARN of this form nor to a plain name.
fn split_id(reference: &str, colons_of_arn: usize) -> (&str, &str) {
    let colons = if Arn::is_prefix_of(reference) { colons_of_arn } else { 0 };
    match reference.match_indices(':').nth(colons) {
        Some((at, _)) => (&reference[..at], &reference[at + 1..]),
        None => (reference, ""),
    }
}

/// Whether text is the id of an AWS account.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The AWS partition that a region belongs to.
pub(crate) fn partition_of(region: &str) -> &'static str {
    match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_split_once() {
        let text = "arn:aws:ecs:eu-west-1:123456789012:task-definition/web:4";
        let arn = Arn::parse(text).unwrap();
        assert_eq!((arn.service(), arn.region()), ("ecs", Some("eu-west-1")));
        assert_eq!(arn.account(), Some("123456789012"));
        assert_eq!((arn.resource(), arn.resource_name()), ("task-definition/web:4", "web:4"));
        assert_eq!(arn.to_string(), text);
        let role = Arn::parse("arn:aws-cn:iam::123456789012:role/path/deploy").unwrap();
        assert_eq!((role.region(), role.resource_name()), (None, "deploy"));
        let bucket = Arn::parse("arn:aws:s3:::bucket").unwrap();
        assert_eq!((bucket.account(), bucket.resource_name()), (None, "bucket"));
    }

    #[test]
    fn names_are_not_arns() {
        for name in ["", "web", "web:4", "main/web", "arn:", "arn:aws:ecs:eu-west-1:1", "ARN:a:b:c:d:e"] {
            assert_eq!(Arn::parse(name), None, "{name}");
        }
        assert!(Arn::is_prefix_of("arn:${env.ROLE}"));
    }

    #[test]
    fn short_names_of_arns_and_names() {
        for name in ["web", "main/web", "arn:aws:ecs:eu-west-1:123456789012:service/main/web"] {
            assert_eq!(short_name(name), "web");
        }
    }

    #[test]
    fn secrets_are_split_from_their_keys() {
        let id = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";
        assert_eq!(split_secret(id), (id, ""));
        assert_eq!(split_secret(&format!("{id}:user::")), (id, "user::"));
        assert_eq!(split_secret("prod/db:user:stage"), ("prod/db", "user:stage"));
        assert_eq!(split_secret("prod/db"), ("prod/db", ""));
        let parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/prod/key";
        assert_eq!(split_parameter(&format!("{parameter}:3")), (parameter, "3"));
        assert_eq!(split_parameter("/prod/key:3"), ("/prod/key", "3"));
    }
}
