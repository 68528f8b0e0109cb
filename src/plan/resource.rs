//! The resources of permissions: ARNs, made of the names in the pipeline.

use crate::address::partition_of;

/// The resource of an action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// For actions that take no resource.
    Any,
    /// A complete ARN.
    Exact(String),
    /// An ARN made of the names in the pipeline.
    Made {
        /// The name of the service in ARNs.
        service: &'static str,
        /// Absent if unknown.
        region: Option<String>,
        /// The service has no regions (IAM).
        global: bool,
        /// Absent if unknown.
        account: Option<String>,
        /// The part after the account.
        name: String,
    },
}

/// Replacements for the unknown parts of an ARN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill<'a> {
    pub(crate) partition: Option<&'a str>,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
}

impl Fill<'static> {
    /// Patterns that match any value.
    pub(crate) const ANY: Self = Self { partition: None, region: "*", account: "*" };
}

impl Resource {
    /// The ARN, or `*`.
    pub(crate) fn arn(&self, fill: Fill<'_>) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(arn) => arn.clone(),
            Self::Made { service, region, global, account, name } => {
                let known = region.as_deref().map(partition_of);
                let partition = known.or(fill.partition).unwrap_or("aws");
                let region = if *global { "" } else { region.as_deref().unwrap_or(fill.region) };
                let account = account.as_deref().unwrap_or(fill.account);
                format!("arn:{partition}:{service}:{region}:{account}:{name}")
            }
        }
    }
}
