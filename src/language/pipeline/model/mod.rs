//! The pipeline as its file says it: checked for shape, not yet joined with a commit, a mode or an environment.

mod action;
mod image;
mod step;

pub(crate) use action::*;
pub(crate) use image::*;
pub(crate) use step::*;

use super::template::{Builtin, Reference, Template};
use crate::language::diagnostic::{Diagnostic, ENOUGH};
use crate::language::source::{Span, Spanned};
use indexmap::{IndexMap, IndexSet};
use std::collections::HashSet;
use std::time::Duration;

/// A reference to something the file names elsewhere, such as an image.
pub(crate) type Name = Spanned<String>;

/// A whole pipeline file.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    /// The pipeline's name, shown in logs and notifications.
    pub(crate) name: String,
    /// Where AWS calls go.
    pub(crate) aws: AwsAccess,
    /// Environment of all steps.
    pub(crate) env: Env,
    /// Images by the name that steps use.
    pub(crate) images: IndexMap<String, Image>,
    /// The phases that the file gives, in the order in which they run.
    pub(crate) phases: Vec<Phase>,
    /// Who is told about the run.
    pub(crate) notify: Vec<Notify>,
    /// How long the run may take.
    pub(crate) timeout: Option<Duration>,
    /// Every `${…}` of the file, in its order.
    pub(crate) uses: Vec<Use>,
    /// What of the file no executor carries out yet.
    pub(crate) unready: Vec<Diagnostic>,
}

impl Pipeline {
    /// The phase of that name, where the file gives it.
    pub(crate) fn phase(&self, name: PhaseName) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// All steps, those of `finally` and of parallel groups (after their group) included, in the order of the file.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.phases.iter().flat_map(Phase::all_steps).flat_map(Step::tree)
    }

    /// Images with what they depend on, each behind that and once. What `is_built` knows is not built for another one's sake.
    pub(crate) fn in_order(&self, images: &[Name], is_built: &dyn Fn(&str) -> bool) -> Vec<Name> {
        let mut found: Vec<Name> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for name in images.iter().filter(|name| self.images.contains_key(&name.value)) {
            // The way down, each image with the number of its dependencies that have been followed.
            let mut path: Vec<(&Name, usize)> = Vec::new();
            let mut next = Some(name);
            loop {
                let unseen = next.and_then(|name| {
                    let (known, _) = self.images.get_key_value(&name.value)?;
                    seen.insert(known).then_some(name)
                });
                path.extend(unseen.map(|name| (name, 0)));
                let Some((name, followed)) = path.last_mut() else { break };
                let others = self.images.get(&name.value).map(|image| &image.depends_on[*followed..]);
                let others = others.unwrap_or_default();
                let at = others.iter().position(|other| !is_built(&other.value));
                next = at.map(|at| &others[at]);
                *followed += at.map_or(others.len(), |at| at + 1);
                if next.is_none() {
                    found.push((*name).clone());
                    path.pop();
                }
            }
        }
        found
    }

    /// Whether a tag can differ from commit to commit. Of variables that the file does not give nothing is known.
    pub(crate) fn is_of_one_commit(&self, tag: &Template) -> bool {
        // Variables that have been followed without success need not be followed again.
        fn unique<'p>(pipeline: &'p Pipeline, template: &'p Template, seen: &mut HashSet<&'p str>) -> bool {
            template.references().any(|reference| match reference {
                Reference::Builtin(Builtin::SourceBranch | Builtin::SourceBranchSlug) => false,
                Reference::Builtin(Builtin::AwsRegion | Builtin::AwsAccount) => false,
                Reference::Builtin(_) => true,
                Reference::Env(name) => match pipeline.env.variables.get(name) {
                    None => true,
                    Some(value) => seen.len() < ENOUGH && seen.insert(name) && unique(pipeline, value, seen),
                },
            })
        }
        unique(self, tag, &mut HashSet::new())
    }

    /// Whether a value carries the commit, the build or its time, as far as the file tells.
    pub(crate) fn carries_commit(&self, value: &Template) -> bool {
        value.references().any(|reference| match reference {
            Reference::Env(name) => self.env.variables.get(name).is_some_and(|value| {
                value
                    .references()
                    .any(|inner| matches!(inner, Reference::Builtin(builtin) if builtin.is_of_one_build()))
            }),
            Reference::Builtin(builtin) => builtin.is_of_one_build(),
        })
    }

    /// The names of the variables that hold secrets: those that are fetched, and those that are used as secrets.
    pub(crate) fn secret_names(&self) -> Vec<&str> {
        let images = self.images.values().flat_map(|image| &image.secrets);
        let tests = self.steps().filter_map(|step| match &step.action {
            Action::Test(test) => Some(&test.secrets),
            _ => None,
        });
        let used = images.chain(tests.flatten()).map(|name| name.value.as_str());
        let names: IndexSet<&str> = self.env.secret_names().chain(used).collect();
        names.into_iter().collect()
    }
}

/// A `${…}` somewhere in the file.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    /// What it refers to.
    pub(crate) reference: Reference,
    /// It brings a default.
    pub(crate) has_default: bool,
    /// The scalar that it stands in.
    pub(crate) span: Span,
    /// The part of the file that it stands in.
    pub(crate) zone: Zone,
}

/// Parts of the file, by when their `${…}` are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// `aws`, and the secrets of `env`: before anything runs.
    Start,
    /// `env.variables`: before all else.
    Variables,
    /// An image, when a step uses it: its position in the file.
    Image(usize),
    /// `env` of a step, by the step's id.
    StepEnv(StepId),
    /// The other fields of a step, which may use its `env`.
    Step(StepId),
    /// `notify`, where something is sent.
    Notify,
}

/// `aws`: which account and region calls go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AwsAccess {
    pub(crate) region: Option<Template>,
    /// A role to assume.
    pub(crate) role_arn: Option<Template>,
    /// What the role's trust policy asks for.
    pub(crate) external_id: Option<Template>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    /// The shell of `run` scripts.
    pub(crate) shell: Shell,
    pub(crate) variables: IndexMap<String, Template>,
    /// Secrets in the Systems Manager Parameter Store: variable and parameter name.
    pub(crate) parameter_store: IndexMap<String, Template>,
    /// Secrets in AWS Secrets Manager: variable and reference.
    pub(crate) secrets_manager: IndexMap<String, Template>,
    /// Variables that a buildspec can export.
    pub(crate) exported: Vec<Name>,
}

impl Env {
    /// The names of the variables whose values are secrets.
    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.parameter_store.keys().chain(self.secrets_manager.keys()).map(String::as_str)
    }

    /// Every name that `env` gives.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str).chain(self.secret_names())
    }
}

/// The shell that runs `run` scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Shell {
    /// GNU bash, with `-e` and `pipefail`.
    #[default]
    Bash,
    /// The machine's POSIX shell, with `-e`.
    Sh,
}

impl Shell {
    /// The program to start.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}

/// One entry of `notify`.
#[derive(Debug, Clone)]
pub(crate) struct Notify {
    pub(crate) target: NotifyTarget,
    /// About what; everything where the file does not say.
    pub(crate) on: Vec<NotifyOn>,
    /// Only about these builds.
    pub(crate) only: Option<Filter>,
}

#[derive(Debug, Clone)]
pub(crate) enum NotifyTarget {
    /// A Slack incoming webhook.
    Slack {
        url: Template,
    },
    /// Any HTTP endpoint that takes JSON.
    Webhook {
        /// The address to POST to.
        url: Template,
        /// Headers to send along.
        headers: IndexMap<String, Template>,
    },
    Sns(Template),
}

/// What somebody can be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NotifyOn {
    /// The run has begun.
    Started,
    /// A phase has failed.
    PhaseFailed,
    /// The pipeline is through, and nothing failed.
    Succeeded,
    /// The pipeline has failed.
    Failed,
    /// A signal stopped the run.
    Stopped,
}

impl NotifyOn {
    pub(crate) const ALL: [Self; 5] =
        [Self::Started, Self::PhaseFailed, Self::Succeeded, Self::Failed, Self::Stopped];

    /// The name as files spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::PhaseFailed => "phase-failed",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}
