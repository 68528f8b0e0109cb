//! The plan as `runner plan` prints it.

use super::asks::{Ask, AskList};
use super::condition::{Verdict, verdicts};
use super::context::BuildContext;
use super::scope::Values;
use super::{Mode, title};
use crate::language::pipeline::model::{Action, Name, Phase, PhaseName, Pipeline, Step, StepId, When};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Outline {
    /// The version of this format.
    pub(crate) version: u32,
    pub(crate) pipeline: String,
    pub(crate) mode: Mode,
    pub(crate) source: Source,
    /// The phases in the order in which they run.
    pub(crate) phases: Vec<PhaseOutline>,
    /// The images that steps use.
    pub(crate) images: Vec<ImageOutline>,
    /// The changes that notifications make in AWS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notifications: Vec<ChangeOutline>,
    /// The values that are unknown before the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
    /// Why this version of runner refuses to run the pipeline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
}

/// The source of the build.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Source {
    /// The event that started the build.
    pub(crate) event: &'static str,
    pub(crate) commit: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) tag: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PhaseOutline {
    pub(crate) name: PhaseName,
    /// `success`, `failure` or `always`.
    pub(crate) when: &'static str,
    pub(crate) steps: Vec<StepOutline>,
    /// The steps of `finally`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) finally: Vec<StepOutline>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StepOutline {
    /// Its title in the log.
    pub(crate) title: String,
    /// The key of its kind.
    pub(crate) kind: &'static str,
    /// `success`, `failure` or `always`.
    pub(crate) when: &'static str,
    /// `runs`, `left-out`, or `unknown` if it depends on an unknown branch.
    pub(crate) verdict: &'static str,
    /// Why it is left out or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Its changes, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<ChangeOutline>,
    /// The steps of a parallel group. They run in any order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parallel: Vec<StepOutline>,
}

impl StepOutline {
    /// The changes of the step and of the steps of its group.
    pub(crate) fn all_changes(&self) -> Vec<&ChangeOutline> {
        self.changes.iter().chain(self.parallel.iter().flat_map(Self::all_changes)).collect()
    }
}

/// A change of something outside of this machine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChangeOutline {
    /// As IAM spells it, or `registry:UploadBlobs` (all blobs of an image) and `registry:PutManifest`.
    pub(crate) action: &'static str,
    pub(crate) target: String,
    /// When it happens, if not always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) condition: Option<String>,
    /// The role that makes it, if it is not the build's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ImageOutline {
    pub(crate) name: String,
    pub(crate) repository: String,
    pub(crate) tags: Vec<String>,
    /// The directory of the context as in the file.
    pub(crate) context: String,
    #[serde(flatten)]
    pub(crate) size: ContextSize,
}

/// The size of a build context without the files that `.dockerignore` excludes.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ContextSize {
    #[serde(rename = "context-files", skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<u64>,
    #[serde(rename = "context-bytes", skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    /// Why the size is unknown.
    #[serde(rename = "context-problem", skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// The input of [`outline`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) pipeline: &'a Pipeline,
    /// The selected phases; all if empty.
    pub(crate) selected: &'a [PhaseName],
    pub(crate) context: &'a BuildContext,
    pub(crate) mode: Mode,
    pub(crate) values: &'a Values,
    pub(crate) asks: &'a AskList<'a>,
    /// The sizes of contexts, by image.
    pub(crate) sizes: &'a HashMap<String, ContextSize>,
}

pub(crate) fn outline(input: &Input<'_>) -> Outline {
    let Input { pipeline, context, mode, .. } = *input;
    let verdicts = verdicts(pipeline, context);
    let wanted = |phase: &&Phase| input.selected.is_empty() || input.selected.contains(&phase.name);
    let phases =
        pipeline.phases.iter().filter(wanted).map(|phase| phase_outline(input, &verdicts, phase)).collect();
    let notifications = pipeline
        .notify
        .iter()
        .filter(|notify| mode == Mode::Publish && super::condition::notifies(notify, context))
        .flat_map(|notify| changes(input.asks.notification(notify), None))
        .collect();
    let named: Vec<Name> = pipeline.steps().flat_map(|step| step.action.images()).cloned().collect();
    let used = pipeline.in_order(&named, &|_| false);
    let used: HashSet<&str> = used.iter().map(|name| name.value.as_str()).collect();
    Outline {
        version: 1,
        pipeline: pipeline.name.clone(),
        mode,
        source: Source {
            event: context.event.as_str(),
            commit: context.commit.clone(),
            branch: context.branch.clone(),
            tag: context.tag.clone(),
        },
        phases,
        images: pipeline
            .images
            .iter()
            .filter(|(name, _)| used.contains(name.as_str()))
            .map(|(name, image)| ImageOutline {
                name: name.clone(),
                repository: input.values.known(&image.repository, None),
                tags: image.tags.iter().map(|tag| input.values.known(tag, None)).collect(),
                context: input.values.known(&image.context, None),
                size: input.sizes.get(name).cloned().unwrap_or_default(),
            })
            .collect(),
        notifications,
        unknown: Vec::new(),
        refused: Vec::new(),
    }
}

fn phase_outline(input: &Input<'_>, verdicts: &HashMap<StepId, Verdict>, phase: &Phase) -> PhaseOutline {
    let steps = |steps: &[Step], default: When| {
        steps.iter().map(|step| step_outline(input, verdicts, step, default)).collect()
    };
    PhaseOutline {
        name: phase.name,
        when: phase.when.as_str(),
        steps: steps(&phase.steps, phase.when),
        finally: steps(&phase.finally, When::Always),
    }
}

fn step_outline(
    input: &Input<'_>,
    verdicts: &HashMap<StepId, Verdict>,
    step: &Step,
    default: When,
) -> StepOutline {
    let when = step.when.unwrap_or(default);
    let (verdict, reason) = match verdicts.get(&step.id) {
        None | Some(Verdict::Runs) => ("runs", None),
        Some(Verdict::LeftOut(reason)) => ("left-out", Some(reason.clone())),
        Some(Verdict::Unknown(problem)) => ("unknown", Some(problem.message.clone())),
    };
    let condition = match (when, verdict) {
        (When::Failure, "unknown") => Some("only after a failure, if the branch matches"),
        (_, "unknown") => Some("if the branch matches"),
        (When::Failure, _) => Some("only after a failure"),
        _ => None,
    };
    let changes = if verdict == "left-out" || input.mode == Mode::Local {
        Vec::new()
    } else {
        changes(input.asks.step(step), condition)
    };
    let parallel = match &step.action {
        Action::Parallel(steps) => {
            steps.iter().map(|inner| step_outline(input, verdicts, inner, when)).collect()
        }
        _ => Vec::new(),
    };
    StepOutline {
        title: title(step, input.values, &ToOwned::to_owned),
        kind: step.action.kind(),
        when: when.as_str(),
        verdict,
        reason,
        changes,
        parallel,
    }
}

/// The changes of asks. `condition` applies to all of them.
fn changes(asks: Vec<Ask<'_>>, condition: Option<&'static str>) -> Vec<ChangeOutline> {
    asks.into_iter()
        .filter_map(|ask| {
            let change = ask.change?;
            Some(ChangeOutline {
                action: change.action,
                target: change.target,
                condition: match (condition, change.condition) {
                    (Some(outer), Some(inner)) => Some(format!("{outer}, {inner}")),
                    (outer, inner) => outer.or(inner).map(ToOwned::to_owned),
                },
                role: ask.role,
            })
        })
        .collect()
}
