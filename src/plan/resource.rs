//! What permissions are about: ARNs, made from what the pipeline names.

use crate::address::partition_of;

/// What an action works on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// The action takes no resource.
    Any,
    /// An ARN that is known whole.
    Exact(String),
    /// An ARN made from what the pipeline names.
    Made {
        /// The service, as ARNs spell it.
        service: &'static str,
        /// The region; nothing where it is not known.
        region: Option<String>,
        /// The service has no regions (IAM).
        global: bool,
        /// The account; nothing where it is not known.
        account: Option<String>,
        /// The part behind the account.
        name: String,
    },
}

/// What stands in an ARN for what is not known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill<'a> {
    pub(crate) partition: Option<&'a str>,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
}

impl Fill<'static> {
    /// A pattern for all of them.
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
