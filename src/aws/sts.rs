//! AWS Security Token Service: who we are.

use super::{Aws, AwsError, error};

impl Aws {
    /// The account that the credentials belong to.
    pub async fn account(&self) -> Result<String, AwsError> {
        let answer = aws_sdk_sts::Client::new(&self.config)
            .get_caller_identity()
            .send()
            .await
            .map_err(|failed| error("sts:GetCallerIdentity", failed))?;
        Ok(answer.account.unwrap_or_default())
    }
}
