//! The published form of events, `runner.events/1`: one JSON object per line. `docs/events.md` describes it for readers,
//! and `docs/events.schema.json` is its schema. A field never changes its meaning within a version.

use super::{CaseStatus, Cause, CommandEnd, Ending, Event, Kind, SkipReason, VertexStatus};
use crate::exit::Exit;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// The name of the format, with its version.
pub(crate) const FORMAT: &str = "runner.events/1";
/// The version that every line carries.
const VERSION: u8 = 1;

/// The line of an event, without the newline. Returns `None` for events that are not published.
pub(crate) fn line(event: &Event) -> Option<String> {
    let (name, fields) = fields(&event.kind)?;
    let mut line = Map::new();
    line.insert("v".to_owned(), VERSION.into());
    line.insert("n".to_owned(), event.number.into());
    line.insert("at".to_owned(), event.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into());
    line.insert("ms".to_owned(), milliseconds(event.elapsed));
    line.insert("call".to_owned(), event.call.into());
    line.insert("type".to_owned(), name.into());
    line.insert("id".to_owned(), event.id.as_str().into());
    line.insert("parent".to_owned(), event.id.parent().into());
    if let Value::Object(fields) = fields {
        // Fields without a value are omitted.
        line.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Some(Value::Object(line).to_string())
}

fn milliseconds(time: Duration) -> Value {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

/// The type and the fields of an event.
fn fields(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::OutputEnded | Kind::Live(_) => return None,
        Kind::BuildOpened(_) | Kind::BuildPlanned(_) | Kind::BuildFinished { .. } => build(kind)?,
        Kind::CallStarted { phases, arguments } => (
            "call.started",
            json!({
                "runner": { "version": env!("CARGO_PKG_VERSION") }, "phases": phases, "pid": std::process::id(),
                "argv": arguments,
            }),
        ),
        Kind::CallFinished { ending, exit, elapsed, .. } => {
            ("call.finished", finished(ending, *exit, *elapsed))
        }
        Kind::PhaseStarted => ("phase.started", json!({})),
        Kind::PhaseSkipped { reason } => ("phase.skipped", json!({ "reason": self::reason(reason) })),
        Kind::PhaseFinished { ending, elapsed } => ("phase.finished", ended(ending, *elapsed)),
        Kind::GroupStarted { .. } | Kind::GroupFinished { .. } => group(kind)?,
        Kind::StepStarted(_) | Kind::StepSkipped { .. } | Kind::StepFinished { .. } => step(kind)?,
        Kind::AttemptStarted { number } => ("attempt.started", json!({ "number": number })),
        Kind::AttemptFinished { ending, elapsed, retry_in, .. } => {
            ("attempt.finished", with(ended(ending, *elapsed), "retry_in_ms", retry_in.map(milliseconds)))
        }
        Kind::CommandFinished(end) => (
            "command.finished",
            match end {
                CommandEnd::Exited(code) => json!({ "exit": code }),
                CommandEnd::Signalled(signal) => json!({ "signal": signal }),
                CommandEnd::Stopped => json!({ "stopped": true }),
            },
        ),
        Kind::Output(chunk) => ("output", output(chunk.bytes())),
        Kind::Note(text) => ("note", json!({ "level": "info", "text": text })),
        Kind::Warning(text) => ("note", json!({ "level": "warning", "text": text })),
        Kind::VertexStarted { name } => ("vertex.started", json!({ "name": name })),
        Kind::VertexFinished { name, status, elapsed, error } => {
            let status = match status {
                VertexStatus::Cached => "cached",
                VertexStatus::Done => "done",
                VertexStatus::Failed => "failed",
            };
            let duration = milliseconds(*elapsed);
            let fields = json!({ "name": name, "status": status, "duration_ms": duration, "error": error });
            ("vertex.finished", fields)
        }
        Kind::ImageStarted { .. } | Kind::ImageBuilt(_) | Kind::ImageUnchanged { .. } => image(kind)?,
        Kind::PushStarted { .. } | Kind::PushFinished(_) | Kind::ScanFinished(_) => image(kind)?,
        Kind::TestStarted { .. } | Kind::TestCase(_) | Kind::TestFinished(_) => test(kind)?,
        Kind::ServicesReady { .. } => test(kind)?,
        Kind::FileWritten { subject, path, what } => {
            ("file.written", json!({ "subject": subject, "path": path, "what": what.as_str() }))
        }
        Kind::DefinitionRegistered(_) | Kind::DefinitionRendered { .. } => definition(kind)?,
        Kind::TaskStarted { .. } | Kind::TaskFinished(_) | Kind::TaskPlanned { .. } => task(kind)?,
        Kind::DeploymentStarted { .. } | Kind::DeploymentState { .. } => deployment(kind)?,
        Kind::DeploymentFinished(_) | Kind::DeploymentPlanned { .. } => deployment(kind)?,
        Kind::ScheduleMoved { name, before, after } => {
            ("schedule.moved", json!({ "name": name, "before": before, "after": after }))
        }
        Kind::ValueExported { name, value } => ("value.exported", json!({ "name": name, "value": value })),
        Kind::StopRequested { by } => ("stop.requested", json!({ "by": by })),
        Kind::MaskAdded { count } => ("mask.added", json!({ "count": count })),
    })
}

fn build(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::BuildOpened(opened) => {
            let source = &opened.source;
            let source = json!({
                "event": source.event, "repository": source.repository, "commit": source.commit,
                "branch": source.branch, "tag": source.tag, "summary": source.summary(),
            });
            let build = json!({
                "id": opened.build_id, "number": opened.build_number, "url": opened.build_url,
                "host": if opened.in_codebuild { "codebuild" } else { "local" },
            });
            let fields = json!({
                "format": FORMAT, "pipeline": opened.pipeline, "file": { "path": opened.file },
                "build": present(build), "mode": opened.mode, "source": present(source), "first": opened.first,
            });
            ("build.opened", fields)
        }
        Kind::BuildPlanned(nodes) => {
            let node = |node: &super::Node| {
                present(json!({
                    "id": node.id.as_str(), "parent": node.id.parent(), "kind": node.kind, "title": node.title,
                    "when": node.when,
                }))
            };
            ("build.planned", json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() }))
        }
        Kind::BuildFinished { ending, exit, elapsed } => {
            ("build.finished", finished(ending, *exit, *elapsed))
        }
        _ => return None,
    })
}

fn group(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::GroupStarted { title, finally, beside, members } => {
            let members: Vec<&str> = members.iter().map(super::Id::as_str).collect();
            let fields = json!({ "title": title, "finally": finally, "beside": beside, "members": members });
            ("group.started", fields)
        }
        Kind::GroupFinished { title, ending, elapsed } => {
            ("group.finished", with(ended(ending, *elapsed), "title", Some(json!(title))))
        }
        _ => return None,
    })
}

fn step(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::StepStarted(step) => {
            let fields = json!({
                "kind": step.kind, "title": step.title, "finally": step.finally, "beside": step.beside,
                "attempts_allowed": step.attempts_allowed, "timeout_ms": step.timeout.map(milliseconds),
                "place": step.line.map(|line| json!({ "line": line })),
            });
            ("step.started", fields)
        }
        Kind::StepSkipped { title, reason } => {
            ("step.skipped", json!({ "title": title, "reason": self::reason(reason) }))
        }
        Kind::StepFinished { title, ending, elapsed, attempts } => {
            let fields = with(ended(ending, *elapsed), "title", Some(json!(title)));
            ("step.finished", with(fields, "attempts", Some(json!(attempts))))
        }
        _ => return None,
    })
}

fn image(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::ImageStarted { image } => ("image.started", json!({ "image": image })),
        Kind::ImageBuilt(built) => {
            let fields = json!({
                "image": built.image, "image_id": built.image_id, "bytes": built.bytes,
                "vertices": { "total": built.vertices, "cached": built.cached },
            });
            ("image.built", fields)
        }
        Kind::ImageUnchanged { image, digest } => {
            ("image.built", json!({ "image": image, "unchanged_from": digest }))
        }
        Kind::PushStarted { image, repository, tags } => {
            ("push.started", json!({ "image": image, "repository": repository, "tags": tags }))
        }
        Kind::PushFinished(pushed) => {
            let fields = json!({
                "image": pushed.image, "status": "succeeded", "uri": pushed.uri, "digest": pushed.digest,
                "tags": pushed.tags, "local": pushed.local,
            });
            ("push.finished", fields)
        }
        Kind::ScanFinished(scanned) => {
            let fields = json!({
                "image": scanned.image, "findings": scanned.findings, "ignored": scanned.ignored,
                "blocking": scanned.blocking, "threshold": scanned.threshold,
            });
            ("scan.finished", fields)
        }
        _ => return None,
    })
}

fn test(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::TestStarted { image } => ("test.started", json!({ "image": image })),
        Kind::TestCase(case) => {
            let status = match case.status {
                CaseStatus::Passed => "passed",
                CaseStatus::Failed => "failed",
                CaseStatus::Skipped => "skipped",
            };
            ("test.case", json!({ "name": case.name, "status": status, "message": case.message }))
        }
        Kind::TestFinished(tested) => {
            let fields = json!({
                "image": tested.image, "status": if tested.failure.is_some() { "failed" } else { "succeeded" },
                "total": tested.counts.map(|counts| counts.run),
                "failed": tested.counts.map(|counts| counts.failed),
                "skipped": tested.counts.map(|counts| counts.skipped),
                "reason": tested.failure,
            });
            ("test.finished", fields)
        }
        Kind::ServicesReady { names } => ("service.ready", json!({ "names": names })),
        _ => return None,
    })
}

fn definition(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::DefinitionRegistered(registered) => {
            let fields = json!({
                "revision": registered.revision, "arn": registered.arn, "unchanged": registered.unchanged,
            });
            ("definition.registered", fields)
        }
        Kind::DefinitionRendered { family, file, changes_only } => {
            let fields = json!({ "family": family, "file": file, "changes_only": changes_only });
            ("definition.rendered", fields)
        }
        _ => return None,
    })
}

fn task(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::TaskStarted { arn, cluster } => ("task.started", json!({ "arn": arn, "cluster": cluster })),
        Kind::TaskFinished(task) => {
            let fields = json!({
                "subject": task.subject, "cluster": task.cluster, "revision": task.revision, "status": "succeeded",
                "duration_ms": milliseconds(task.elapsed),
            });
            ("task.finished", fields)
        }
        Kind::TaskPlanned { family, cluster } => {
            ("task.planned", json!({ "family": family, "cluster": cluster }))
        }
        _ => return None,
    })
}

fn deployment(kind: &Kind) -> Option<(&'static str, Value)> {
    Some(match kind {
        Kind::DeploymentStarted { service, cluster, before, after } => {
            let fields = json!({ "service": service, "cluster": cluster, "before": before, "after": after });
            ("deployment.started", fields)
        }
        Kind::DeploymentState { service, state, .. } => {
            ("deployment.state", json!({ "service": service, "state": state }))
        }
        Kind::DeploymentFinished(deployed) => {
            let fields = json!({
                "service": deployed.service, "cluster": deployed.cluster, "revision": deployed.revision,
                "status": deployed.status.as_str(), "duration_ms": milliseconds(deployed.elapsed),
            });
            ("deployment.finished", fields)
        }
        Kind::DeploymentPlanned { service, family } => {
            ("deployment.planned", json!({ "service": service, "family": family }))
        }
        _ => return None,
    })
}

fn reason(reason: &SkipReason) -> Value {
    json!({ "code": reason.code.as_str(), "text": reason.text })
}

fn cause(cause: &Cause) -> Value {
    present(json!({
        "kind": cause.kind.as_str(), "text": cause.text, "help": cause.help, "exit": cause.exit.code(),
        "place": cause.place.as_ref().map(|place| json!({ "id": place })),
    }))
}

/// The fields for how something ended and how long it took.
fn ended(ending: &Ending, elapsed: Duration) -> Value {
    json!({ "status": ending.status(), "duration_ms": milliseconds(elapsed), "cause": ending.cause().map(cause) })
}

fn finished(ending: &Ending, exit: Exit, elapsed: Duration) -> Value {
    with(ended(ending, elapsed), "exit", Some(exit.code().into()))
}

/// Bytes as text if they are text, otherwise as base64.
fn output(bytes: &[u8]) -> Value {
    use base64::Engine;
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "bytes_base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

/// Adds a field to an object if it has a value.
fn with(mut object: Value, name: &str, value: Option<Value>) -> Value {
    if let (Some(fields), Some(value)) = (object.as_object_mut(), value) {
        fields.insert(name.to_owned(), value);
    }
    object
}

/// Removes the fields of an object that have no value.
fn present(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Id;
    use crate::secret::{Masks, Secret};

    fn event(kind: Kind) -> Event {
        Event {
            number: 7,
            call: 2,
            at: jiff::Timestamp::from_millisecond(1_700_000_000_123).unwrap(),
            elapsed: Duration::from_millis(45),
            id: Id::phase("build").step(1, false).attempt(1),
            kind,
        }
    }

    #[test]
    fn lines_have_an_envelope_and_the_fields_of_their_type() {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let text = line(&event(Kind::Warning(masks.shown("hunter2 \"x\"\n")))).unwrap();
        let expected = "{\"v\":1,\"n\":7,\"at\":\"2023-11-14T22:13:20.123Z\",\"ms\":45,\"call\":2,\"type\":\"note\",\
                        \"id\":\"build.1#1\",\"parent\":\"build.1\",\"level\":\"warning\",\"text\":\"*** \\\"x\\\"\\n\"}";
        assert_eq!(text, expected);
        assert!(line(&event(Kind::Live(Vec::new()))).is_none());
    }
}
