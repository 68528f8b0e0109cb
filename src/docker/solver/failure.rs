//! Errors of builds, in the same words whatever the engine.

use super::DockerError;
use crate::text::{one_line, shortened};
use bollard_buildkit_proto::google::rpc;
use prost::Message;
use serde::Deserialize;

/// The longest command that an error quotes, in characters.
const MAX_COMMAND: usize = 120;

/// The detail of an error with its place in a file (BuildKit, `errdefs.Source`).
#[derive(Deserialize)]
struct Source {
    info: SourceInfo,
    #[serde(default)]
    ranges: Vec<SourceRange>,
}

#[derive(Deserialize)]
struct SourceInfo {
    filename: String,
}

#[derive(Deserialize)]
struct SourceRange {
    start: Position,
}

#[derive(Deserialize)]
struct Position {
    line: usize,
}

/// Turns the status of a build that failed into an error, with the place in the Dockerfile if the engine names it.
pub(super) fn solve_error(status: &tonic::Status) -> DockerError {
    let message = status.message().trim();
    let message = message.strip_prefix("failed to solve: ").unwrap_or(message);
    let message = message.strip_prefix("rpc error: code = Unknown desc = ").unwrap_or(message);
    if status.code() == tonic::Code::Unavailable {
        return DockerError::Session(message.to_owned().into());
    }
    let text = command_failure(message).unwrap_or_else(|| message.to_owned());
    // Errors of the parser have the line in their text.
    let place = place(status.details()).filter(|_| !message.contains("parse error"));
    DockerError::Build(match place {
        Some(place) => format!("{place}: {text}"),
        None => text,
    })
}

/// Returns `FILE:LINE` from the details of a status.
fn place(details: &[u8]) -> Option<String> {
    let status = rpc::Status::decode(details).ok()?;
    let source = status.details.iter().find(|detail| detail.type_url.contains("errdefs.Source"))?;
    let Source { info, ranges } = serde_json::from_slice(&source.value).ok()?;
    let line = ranges.first().map(|range| range.start.line).filter(|line| *line > 0)?;
    Some(format!("{}:{line}", info.filename))
}

/// The failure of a command in the Dockerfile, for the log and as an error. Engines before 23.0 and later ones quote the
/// command in different ways.
pub(super) fn command_failure(message: &str) -> Option<String> {
    let (command, code) = message.rsplit_once(": exit code: ")?;
    let command = if let Some(command) = command.strip_prefix("executor failed running [") {
        command.strip_suffix(']')?.to_owned()
    } else {
        let quoted = command.strip_prefix("process ")?;
        unquoted(quoted.strip_suffix(" did not complete successfully")?)?
    };
    let command = command.strip_prefix("/bin/sh -c ").unwrap_or(&command);
    Some(format!("`{}` ended with exit code {code}", shortened(&one_line(command), MAX_COMMAND)))
}

/// Reads a string that Go has quoted. What JSON has no escape for stays as it is.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    Some(serde_json::from_str(text).unwrap_or_else(|_| inner.replace("\\\"", "\"").replace("\\\\", "\\")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_buildkit_proto::google::protobuf::Any;

    /// Findings, H12.
    #[test]
    fn a_failing_command_has_its_place_and_one_sentence_on_every_engine() {
        let source = r#"{"info":{"filename":"web.Dockerfile","data":"RlJPTSBh"},"ranges":[{"start":{"line":7,"character":0},"end":{"line":8}}]}"#;
        let details = rpc::Status {
            details: vec![
                Any {
                    type_url: "github.com/moby/buildkit/stack.Stack+json".to_owned(),
                    value: b"{}".to_vec(),
                },
                Any {
                    type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
                    value: source.as_bytes().to_vec(),
                },
            ],
            ..rpc::Status::default()
        };
        let details = details.encode_to_vec();
        let text = |message: &str| {
            let status = tonic::Status::with_details(tonic::Code::Unknown, message, details.clone().into());
            solve_error(&status).to_string()
        };
        let expected = "the build failed: web.Dockerfile:7: `echo \"a\" >&2; exit 2` ended with exit code 2";
        for message in [
            "executor failed running [/bin/sh -c echo \"a\" >&2; exit 2]: exit code: 2",
            "failed to solve: process \"/bin/sh -c echo \\\"a\\\" >&2; exit 2\" did not complete successfully: exit code: 2",
        ] {
            assert_eq!(text(message), expected);
        }
        assert_eq!(
            text("failed to compute cache key: \"/x\": not found"),
            "the build failed: web.Dockerfile:7: failed to compute cache key: \"/x\": not found"
        );
        assert_eq!(
            text("dockerfile parse error on line 3: unknown instruction: CPY"),
            "the build failed: dockerfile parse error on line 3: unknown instruction: CPY"
        );
        let plain = tonic::Status::new(
            tonic::Code::Unknown,
            "process \"/bin/x\" did not complete successfully: exit code: 1",
        );
        assert_eq!(solve_error(&plain).to_string(), "the build failed: `/bin/x` ended with exit code 1");
    }
}
