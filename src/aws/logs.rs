//! Amazon CloudWatch Logs.

use super::{Aws, AwsError};
use aws_sdk_cloudwatchlogs::error::SdkError;
use aws_sdk_cloudwatchlogs::operation::get_log_events::builders::GetLogEventsFluentBuilder;
use aws_sdk_cloudwatchlogs::operation::get_log_events::{GetLogEventsError, GetLogEventsOutput};

/// A page of a log stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// Oldest first.
    pub(crate) lines: Vec<String>,
    /// The token of the next page.
    pub(crate) next: Option<String>,
}

impl Aws {
    /// The last lines of a log stream. Returns `None` if the stream does not exist.
    pub(crate) async fn log_tail(
        &self,
        group: &str,
        stream: &str,
        lines: i32,
    ) -> Result<Option<Vec<String>>, AwsError> {
        let call = self.log_events(group, stream).limit(lines).start_from_head(false);
        let found = self.found(call.send().await, group, stream)?;
        Ok(found.map(|answer| page(answer).lines))
    }

    /// The page of a log stream at the token `from`, or the first page. A stream that does not exist yet is empty.
    pub(crate) async fn log_page(
        &self,
        group: &str,
        stream: &str,
        from: Option<&str>,
    ) -> Result<Page, AwsError> {
        let call =
            self.log_events(group, stream).set_next_token(from.map(ToOwned::to_owned)).start_from_head(true);
        Ok(self.found(call.send().await, group, stream)?.map(page).unwrap_or_default())
    }

    /// Returns `None` if the group or the stream does not exist.
    fn found(
        &self,
        answer: Result<GetLogEventsOutput, SdkError<GetLogEventsError>>,
        group: &str,
        stream: &str,
    ) -> Result<Option<GetLogEventsOutput>, AwsError> {
        match answer.map_err(|failed| self.error(ACTION, &self.stream_arn(group, stream), failed)) {
            Ok(answer) => Ok(Some(answer)),
            Err(AwsError::Service { code, .. }) if code == MISSING => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a log group exists.
    pub(crate) async fn log_group_exists(&self, group: &str) -> Result<bool, AwsError> {
        let answer = client!(aws_sdk_cloudwatchlogs, self)
            .describe_log_groups()
            .log_group_name_prefix(group)
            .send()
            .await
            .map_err(|failed| self.error("logs:DescribeLogGroups", "*", failed))?;
        Ok(answer.log_groups().iter().any(|found| found.log_group_name() == Some(group)))
    }

    fn log_events(&self, group: &str, stream: &str) -> GetLogEventsFluentBuilder {
        client!(aws_sdk_cloudwatchlogs, self).get_log_events().log_group_name(group).log_stream_name(stream)
    }

    fn stream_arn(&self, group: &str, stream: &str) -> String {
        self.arn("logs", &format!("log-group:{group}:log-stream:{stream}"))
    }
}

const ACTION: &str = "logs:GetLogEvents";
/// The error code if the group or stream does not exist.
const MISSING: &str = "ResourceNotFoundException";

fn page(answer: GetLogEventsOutput) -> Page {
    let events = answer.events.unwrap_or_default().into_iter();
    Page { lines: events.filter_map(|event| event.message).collect(), next: answer.next_forward_token }
}
