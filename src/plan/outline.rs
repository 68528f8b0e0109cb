//! A plan as people and programs read it: `runner plan`.

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
    /// The version of this form.
    pub(crate) version: u32,
    pub(crate) pipeline: String,
    /// Where effects would go.
    pub(crate) mode: Mode,
    /// What would be built.
    pub(crate) source: Source,
    /// The phases, in the order in which they run.
    pub(crate) phases: Vec<PhaseOutline>,
    /// The images that steps use.
    pub(crate) images: Vec<ImageOutline>,
    /// The calls that notifications would make to AWS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notifications: Vec<ChangeOutline>,
    /// What cannot be known before the run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
    /// What keeps this version of runner from running the pipeline.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
}

/// What would be built.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Source {
    /// Why the build runs.
    pub(crate) event: &'static str,
    pub(crate) commit: Option<String>,
    pub(crate) branch: Option<String>,
    pub(crate) tag: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PhaseOutline {
    pub(crate) name: PhaseName,
    /// After which outcome it runs.
    pub(crate) when: &'static str,
    pub(crate) steps: Vec<StepOutline>,
    /// The steps that run whatever happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) finally: Vec<StepOutline>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct StepOutline {
    /// What the log would call it.
    pub(crate) title: String,
    /// What it does: the key of its kind.
    pub(crate) kind: &'static str,
    /// After which outcome it runs.
    pub(crate) when: &'static str,
    /// `runs`, `left-out`, or `unknown` where it depends on what nothing says.
    pub(crate) verdict: &'static str,
    /// Why it is left out or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What it changes, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changes: Vec<ChangeOutline>,
    /// The steps of a parallel group, which run in any order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) parallel: Vec<StepOutline>,
}

impl StepOutline {
    /// What the step and the steps of its group change.
    pub(crate) fn all_changes(&self) -> Vec<&ChangeOutline> {
        self.changes.iter().chain(self.parallel.iter().flat_map(Self::all_changes)).collect()
    }
}

/// A call that changes something.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChangeOutline {
    /// As IAM spells it, or `registry:UploadBlobs` (all blobs of an image) and `registry:PutManifest`.
    pub(crate) action: &'static str,
    pub(crate) target: String,
    /// When it happens, where it does not always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) condition: Option<String>,
    /// The role that is assumed for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ImageOutline {
    /// Its name in the pipeline.
    pub(crate) name: String,
    pub(crate) repository: String,
    pub(crate) tags: Vec<String>,
    /// The context's directory, as the file writes it.
    pub(crate) context: String,
    /// How large the context is.
    #[serde(flatten)]
    pub(crate) size: ContextSize,
}

/// How large a build context is, without what `.dockerignore` leaves out.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ContextSize {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_bytes: Option<u64>,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context_problem: Option<String>,
}

/// Everything an outline is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) pipeline: &'a Pipeline,
    /// The phases that are asked for; all where there are none.
    pub(crate) selected: &'a [PhaseName],
    /// What is being built.
    pub(crate) context: &'a BuildContext,
    /// Where effects would go.
    pub(crate) mode: Mode,
    /// The values of `${…}`.
    pub(crate) values: &'a Values,
    pub(crate) asks: &'a AskList<'a>,
    /// Sizes of contexts, by image.
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
        .filter(|notify| mode == Mode::Publish && super::condition::is_told(notify, context))
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

/// The changes among asks. `condition` holds for all of them.
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
