//! Whether a step runs in this build: `only`, `except`, and the rule that pull requests publish nothing.

use super::context::BuildContext;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{Action, EventKind, Filter, Notify, Pipeline, Step, StepId};
use crate::language::source::Span;
use crate::text::{listed, shortened};
use std::collections::HashMap;

/// The reason for skipping what publishes in the build of a pull request.
pub(crate) const PULL_REQUEST: &str = "pull requests publish nothing";

/// Whether a step runs in this build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs, unless an earlier failure or its `when` skips it.
    Runs,
    /// It is left out for this reason.
    LeftOut(String),
    /// It depends on the branch, which is unknown.
    Unknown(Diagnostic),
}

/// The verdict on every step, including the steps of parallel groups.
pub(crate) fn verdicts(pipeline: &Pipeline, context: &BuildContext) -> HashMap<StepId, Verdict> {
    let mut verdicts = HashMap::new();
    for step in pipeline.phases.iter().flat_map(crate::language::pipeline::model::Phase::all_steps) {
        visit(step, None, false, context, &mut verdicts);
    }
    verdicts
}

/// The steps that are left out, with the reasons.
pub(crate) fn left_out(verdicts: &HashMap<StepId, Verdict>) -> HashMap<StepId, String> {
    let reason = |verdict: &Verdict| match verdict {
        Verdict::LeftOut(reason) => Some(reason.clone()),
        Verdict::Runs | Verdict::Unknown(_) => None,
    };
    verdicts.iter().filter_map(|(step, verdict)| Some((*step, reason(verdict)?))).collect()
}

/// `outer` is the verdict on the group. `asked` is whether the `only` of the group names the event of a pull request.
fn visit(
    step: &Step,
    outer: Option<&Verdict>,
    asked: bool,
    context: &BuildContext,
    verdicts: &mut HashMap<StepId, Verdict>,
) {
    let asked = asked || step.only.as_ref().is_some_and(|only| only.events.contains(&context.event));
    let is_request = matches!(context.event, EventKind::PullRequest | EventKind::PullRequestMerged);
    let verdict = match (outer, &context.publishes_nothing) {
        (Some(outer), _) if *outer != Verdict::Runs => outer.clone(),
        (_, Some(reason)) if step.action.publishes() => Verdict::LeftOut(reason.clone()),
        _ if is_request && step.action.publishes() && !asked => Verdict::LeftOut(PULL_REQUEST.to_owned()),
        _ => judge(step.only.as_ref(), step.except.as_ref(), context),
    };
    if let Action::Parallel(steps) = &step.action {
        for inner in steps {
            visit(inner, Some(&verdict), asked, context, verdicts);
        }
    }
    verdicts.insert(step.id, verdict);
}

/// Whether to notify about this build. True if that depends on a branch that is unknown.
pub(crate) fn notifies(notify: &Notify, context: &BuildContext) -> bool {
    !matches!(judge(notify.only.as_ref(), None, context), Verdict::LeftOut(_))
}

fn judge(only: Option<&Filter>, except: Option<&Filter>, context: &BuildContext) -> Verdict {
    for (filter, wanted, word) in [(only, true, "only for"), (except, false, "not for")] {
        let Some(filter) = filter else { continue };
        match matches(filter, context) {
            Ok(found) if found == wanted => {}
            Ok(_) => {
                let reason = format!("{word} {}; this is {}", describe(filter), context.what());
                return Verdict::LeftOut(reason);
            }
            Err(span) => return Verdict::Unknown(no_branch(span)),
        }
    }
    Verdict::Runs
}

/// Whether a build matches a filter. The error is the place of a branch pattern that decides while the branch is
/// unknown.
fn matches(filter: &Filter, context: &BuildContext) -> Result<bool, Span> {
    if !filter.events.is_empty() && !filter.events.contains(&context.event) {
        return Ok(false);
    }
    if filter.branches.is_empty() && filter.tags.is_empty() {
        return Ok(true);
    }
    if let Some(tag) = &context.tag
        && filter.tags.iter().any(|pattern| pattern.matches(tag))
    {
        return Ok(true);
    }
    match (filter.branches.first(), &context.branch) {
        (None, _) => Ok(false),
        (Some(_), Some(branch)) => Ok(filter.branches.iter().any(|pattern| pattern.matches(branch))),
        // The build of a tag has no branch.
        (Some(_), None) if context.event == EventKind::Tag => Ok(false),
        (Some(pattern), None) => Err(pattern.span),
    }
}

fn no_branch(span: Span) -> Diagnostic {
    Diagnostic::new("this depends on the branch, which is unknown", span).help(
        "set RUNNER_BRANCH (under CodePipeline, to `#{SourceVariables.BranchName}`), or check out a branch",
    )
}

fn describe(filter: &Filter) -> String {
    let mut parts = Vec::new();
    for (what, patterns) in [("branch", &filter.branches), ("tag", &filter.tags)] {
        if !patterns.is_empty() {
            let plural = if patterns.len() == 1 {
                ""
            } else if what == "branch" {
                "es"
            } else {
                "s"
            };
            let patterns = listed(patterns.iter().map(|pattern| pattern.as_str()));
            // A reason is one line.
            parts.push(format!("the {what}{plural} {}", shortened(&patterns, 200)));
        }
    }
    let mut text = parts.join(" or ");
    if !filter.events.is_empty() {
        let plural = if filter.events.len() == 1 { "" } else { "s" };
        let events = listed(filter.events.iter().map(|event| event.as_str()));
        if !text.is_empty() {
            text.push_str(" with ");
        }
        text.push_str(&format!("the event{plural} {events}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::pipeline;
    use crate::language::source::SourceFile;

    fn verdict(filters: &str, context: &BuildContext) -> Verdict {
        let text =
            format!("version: 1\nname: t\nphases: {{ build: {{ steps: [{{ run: x, {filters} }}] }} }}\n");
        let pipeline = pipeline::parse(&SourceFile::new("p", &text)).into_valid().unwrap();
        verdicts(&pipeline, context)[&StepId(0)].clone()
    }

    fn on(event: EventKind, branch: Option<&str>, tag: Option<&str>) -> BuildContext {
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        BuildContext { event, branch: own(branch), tag: own(tag), ..BuildContext::default() }
    }

    /// Findings, D20: events × `only` × whether the build may publish at all.
    #[test]
    fn publishing_steps_of_pull_requests_have_to_name_the_event() {
        let text = |only: &str| {
            format!(
                "version: 1\nname: t\nimages: {{ a: {{ repository: r }} }}\nphases: {{ build: {{ steps: [{{ push: a{only} }}] }} }}\n"
            )
        };
        for event in EventKind::ALL {
            for named in EventKind::ALL.map(Some).into_iter().chain([None]) {
                let only = named.map(|event| format!(", only: {{ events: {} }}", event.as_str()));
                let source = SourceFile::new("p", &text(&only.unwrap_or_default()));
                // The push lacks its build, which is not the point.
                let pipeline = pipeline::parse(&source).pipeline.unwrap();
                let is_request = matches!(event, EventKind::PullRequest | EventKind::PullRequestMerged);
                let expected =
                    if is_request { named == Some(event) } else { named.is_none_or(|one| one == event) };
                for publishes_nothing in [None, Some("no".to_owned())] {
                    let expected = expected && publishes_nothing.is_none();
                    let context = BuildContext { publishes_nothing, ..on(event, None, None) };
                    let found = &verdicts(&pipeline, &context)[&StepId(0)];
                    assert_eq!(*found == Verdict::Runs, expected, "{event:?} {named:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn branches_tags_and_events() {
        let main = on(EventKind::Push, Some("main"), None);
        let tag = on(EventKind::Tag, None, Some("v1"));
        let runs = |filters: &str, context: &BuildContext| verdict(filters, context) == Verdict::Runs;
        assert!(runs("only: { branches: main }", &main) && !runs("only: { branches: [dev, x/*] }", &main));
        assert!(!runs("except: { branches: main }", &main) && runs("except: { branches: dev }", &main));
        assert!(
            runs("only: { branches: main, tags: v* }", &tag)
                && runs("only: { branches: main, tags: v* }", &main)
        );
        assert!(!runs("only: { branches: main }", &tag), "the build of a tag has no branch");
        assert!(runs("only: { branches: main, events: push }", &main));
        assert!(!runs("only: { branches: main, events: manual }", &main));
        assert!(runs("only: { events: tag }, except: { tags: v2 }", &tag));
    }

    #[test]
    fn reasons_name_both_sides() {
        let main = on(EventKind::Push, Some("main"), None);
        let expected =
            "only for the branches `dev` and `x/*` with the event `manual`; this is a push to `main`";
        let verdict = verdict("only: { branches: [dev, x/*], events: manual }", &main);
        assert_eq!(verdict, Verdict::LeftOut(expected.to_owned()));
    }

    #[test]
    fn an_unknown_branch_matters_only_if_it_decides() {
        let nowhere = on(EventKind::Push, None, None);
        assert!(matches!(verdict("only: { branches: main }", &nowhere), Verdict::Unknown(_)));
        assert!(matches!(verdict("only: { branches: main, events: manual }", &nowhere), Verdict::LeftOut(_)));
        assert_eq!(verdict("only: { events: push }", &nowhere), Verdict::Runs);
    }
}
