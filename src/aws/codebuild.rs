//! AWS CodeBuild: the current build.

use super::{Aws, AwsError};
use std::time::{Duration, SystemTime};

impl Aws {
    /// The time at which CodeBuild stops a build, and the build's timeout. Returns `None` if CodeBuild reports neither.
    pub(crate) async fn codebuild_timeout(
        &self,
        build_id: &str,
    ) -> Result<Option<(SystemTime, Duration)>, AwsError> {
        let answer = client!(aws_sdk_codebuild, self).batch_get_builds().ids(build_id).send().await.map_err(
            |failed| self.error("codebuild:BatchGetBuilds", &self.arn("codebuild", "project/*"), failed),
        )?;
        let build = answer.builds.unwrap_or_default().into_iter().next();
        Ok(build.and_then(|build| {
            let minutes = u64::try_from(build.timeout_in_minutes?).ok()?;
            let start = SystemTime::try_from(build.start_time?).ok()?;
            let time = Duration::from_mins(minutes);
            Some((start + time, time))
        }))
    }
}
