//! Amazon CloudWatch Logs.

use super::{Aws, AwsError, error};

/// A part of a log stream.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Its lines, oldest first.
    pub lines: Vec<String>,
    /// Where the next part begins.
    pub next: Option<String>,
}

impl Aws {
    /// The last lines of a log stream.
    pub async fn log_tail(&self, group: &str, stream: &str, lines: i32) -> Result<Vec<String>, AwsError> {
        let call = self.log_events(group, stream).limit(lines).start_from_head(false);
        let answer = call.send().await;
        Ok(page(answer.map_err(|failed| error(ACTION, &self.stream_arn(group, stream), failed))?).lines)
    }

    /// A log stream from where the last part ended, or from its beginning. A stream that does not exist is empty so far.
    pub async fn log_page(&self, group: &str, stream: &str, from: Option<&str>) -> Result<Page, AwsError> {
        let call =
            self.log_events(group, stream).set_next_token(from.map(ToOwned::to_owned)).start_from_head(true);
        match call.send().await.map_err(|failed| error(ACTION, &self.stream_arn(group, stream), failed)) {
            Ok(answer) => Ok(page(answer)),
            Err(AwsError::Service { code, .. }) if code == MISSING => Ok(Page::default()),
            Err(error) => Err(error),
        }
    }

    /// Whether a log group exists.
    pub async fn log_group_exists(&self, group: &str) -> Result<bool, AwsError> {
        let answer = aws_sdk_cloudwatchlogs::Client::new(&self.config)
            .describe_log_groups()
            .log_group_name_prefix(group)
            .send()
            .await
            .map_err(|failed| error("logs:DescribeLogGroups", "*", failed))?;
        Ok(answer.log_groups().iter().any(|found| found.log_group_name() == Some(group)))
    }

    fn log_events(
        &self,
        group: &str,
        stream: &str,
    ) -> aws_sdk_cloudwatchlogs::operation::get_log_events::builders::GetLogEventsFluentBuilder {
        aws_sdk_cloudwatchlogs::Client::new(&self.config)
            .get_log_events()
            .log_group_name(group)
            .log_stream_name(stream)
    }

    fn stream_arn(&self, group: &str, stream: &str) -> String {
        self.arn("logs", &format!("log-group:{group}:log-stream:{stream}"))
    }
}

const ACTION: &str = "logs:GetLogEvents";
/// The code for a group or stream that is not there.
const MISSING: &str = "ResourceNotFoundException";

fn page(answer: aws_sdk_cloudwatchlogs::operation::get_log_events::GetLogEventsOutput) -> Page {
    let events = answer.events.unwrap_or_default().into_iter();
    Page { lines: events.filter_map(|event| event.message).collect(), next: answer.next_forward_token }
}
