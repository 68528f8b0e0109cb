//! The event of a build: what CodeBuild's webhook says, and what the starter of the build says.

use crate::exit::Failure;
use crate::language::pipeline::model::EventKind;
use crate::language::pipeline::starter::EVENT;

/// What is known about the event of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: EventKind,
    /// Why this build publishes nothing, whatever its steps say.
    pub(crate) publishes_nothing: Option<String>,
}

/// Decides the event. `proven` is what the webhook or the source version proves; `assumed` applies if nothing says more.
///
/// The variable can take rights from a proven event, but never add any: the author of a pull request may be able to set
/// variables of the build.
pub(crate) fn decide(
    proven: Option<Event>,
    assumed: EventKind,
    named: Option<&str>,
) -> Result<Event, Failure> {
    let Some(name) = named else {
        return Ok(proven.unwrap_or_else(|| of(assumed)));
    };
    let known = EventKind::ALL.into_iter().find(|kind| kind.as_str() == name);
    let kind = known.unwrap_or(proven.as_ref().map_or(EventKind::Manual, |proven| proven.kind));
    if known.is_none() {
        let reason = format!("`{name}` in {EVENT} is not an event");
        return Ok(Event { kind, publishes_nothing: Some(reason) });
    }
    match proven {
        None => Ok(of(kind)),
        Some(proven) if rights(kind) < rights(proven.kind) => Ok(Event { kind, ..proven }),
        Some(proven) if rights(kind) == rights(proven.kind) => Ok(proven),
        Some(proven) => {
            let message = format!("{EVENT} is `{name}`, but this is a build of `{}`", proven.kind.as_str());
            Err(Failure::usage(message)
                .help(format!("{EVENT} can only take rights from such a build; remove it")))
        }
    }
}

fn of(kind: EventKind) -> Event {
    Event { kind, publishes_nothing: None }
}

/// How much a build of an event may do. A step publishes for the lower ones only if it names them.
fn rights(kind: EventKind) -> u8 {
    match kind {
        EventKind::PullRequest => 0,
        EventKind::PullRequestMerged => 1,
        EventKind::Push | EventKind::Tag | EventKind::Manual => 2,
    }
}

/// The event that CodeBuild's webhook and the source version prove, if they do.
///
/// Source of the names: the CodeBuild user guide, "Webhook filter" and "Environment variables in build environments".
pub(crate) fn proven(
    webhook: &str,
    is_request: bool,
    is_tag: bool,
    merge_commit: Option<&str>,
) -> Option<Event> {
    match webhook {
        "PULL_REQUEST_MERGED" => {
            let reason = "CodeBuild names no merge commit of this pull request";
            let publishes_nothing = merge_commit.is_none().then(|| reason.to_owned());
            Some(Event { kind: EventKind::PullRequestMerged, publishes_nothing })
        }
        _ if webhook.starts_with("PULL_REQUEST") || is_request => Some(of(EventKind::PullRequest)),
        "PUSH" | "RELEASED" | "PRERELEASED" if is_tag => Some(of(EventKind::Tag)),
        "PUSH" => Some(of(EventKind::Push)),
        "" => is_tag.then(|| of(EventKind::Tag)),
        unknown => {
            let reason = format!("`{unknown}` is an unknown event of a webhook");
            Some(Event { kind: EventKind::Manual, publishes_nothing: Some(reason) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EventKind::{Manual, PullRequest, PullRequestMerged, Push, Tag};

    /// Findings, D20: initiators × events, spoofed ones included. The expected value is the event, with `!` if nothing is
    /// published, or `exit 2`.
    #[test]
    fn a_variable_takes_rights_but_never_adds_any() {
        let cases = [
            // What proves the event, and the results for each value of the variable: none, pull-request,
            // pull-request-merged, push, tag, manual, nonsense.
            (
                None,
                Manual,
                ["manual", "pull-request", "pull-request-merged", "push", "tag", "manual", "manual!"],
            ),
            (None, Push, ["push", "pull-request", "pull-request-merged", "push", "tag", "manual", "manual!"]),
            (
                Some(Push),
                Manual,
                ["push", "pull-request", "pull-request-merged", "push", "push", "push", "push!"],
            ),
            (Some(Tag), Manual, ["tag", "pull-request", "pull-request-merged", "tag", "tag", "tag", "tag!"]),
            (
                Some(PullRequest),
                Manual,
                ["pull-request", "pull-request", "exit 2", "exit 2", "exit 2", "exit 2", "pull-request!"],
            ),
            (
                Some(PullRequestMerged),
                Manual,
                [
                    "pull-request-merged",
                    "pull-request",
                    "pull-request-merged",
                    "exit 2",
                    "exit 2",
                    "exit 2",
                    "pull-request-merged!",
                ],
            ),
        ];
        let names = [
            None,
            Some("pull-request"),
            Some("pull-request-merged"),
            Some("push"),
            Some("tag"),
            Some("manual"),
            Some("PUSH"),
        ];
        for (proven, assumed, expected) in cases {
            for (name, expected) in names.into_iter().zip(expected) {
                let found = match decide(proven.map(of), assumed, name) {
                    Ok(Event { kind, publishes_nothing: None }) => kind.as_str().to_owned(),
                    Ok(Event { kind, publishes_nothing: Some(_) }) => format!("{}!", kind.as_str()),
                    Err(failure) => format!("exit {}", failure.exit.code()),
                };
                assert_eq!(found, expected, "{proven:?} {assumed:?} {name:?}");
            }
        }
    }

    /// Findings, A15.
    #[test]
    fn webhooks_prove_their_event() {
        let kind = |webhook: &str, is_request, is_tag| {
            proven(webhook, is_request, is_tag, Some("c"))
                .map(|event| (event.kind, event.publishes_nothing.is_none()))
        };
        assert_eq!(kind("", false, false), None);
        assert_eq!(kind("", false, true), Some((Tag, true)));
        assert_eq!(kind("", true, false), Some((PullRequest, true)));
        assert_eq!(kind("PUSH", false, false), Some((Push, true)));
        assert_eq!(kind("PUSH", true, false), Some((PullRequest, true)));
        assert_eq!(kind("RELEASED", false, true), Some((Tag, true)));
        for webhook in
            ["PULL_REQUEST_CREATED", "PULL_REQUEST_UPDATED", "PULL_REQUEST_CLOSED", "PULL_REQUEST_NEW"]
        {
            assert_eq!(kind(webhook, false, true), Some((PullRequest, true)), "{webhook}");
        }
        for webhook in ["RELEASED", "WORKFLOW_JOB_QUEUED", "push", "MERGE_GROUP"] {
            assert_eq!(kind(webhook, false, false), Some((Manual, false)), "{webhook}");
        }
        assert_eq!(kind("PULL_REQUEST_MERGED", true, false), Some((PullRequestMerged, true)));
        assert!(proven("PULL_REQUEST_MERGED", true, false, None).unwrap().publishes_nothing.is_some());
    }
}
