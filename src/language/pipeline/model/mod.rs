//! The typed model of a pipeline file, before it is joined with a commit, a mode and an environment.

mod action;
mod image;
mod step;

pub(crate) use action::*;
pub(crate) use image::*;
pub(crate) use step::*;

use super::exposure::Exposure;
use super::template::{Builtin, Reference, Template};
use crate::language::diagnostic::{Diagnostic, MAX_PROBLEMS};
use crate::language::source::{Span, Spanned};
use indexmap::{IndexMap, IndexSet};
use std::collections::HashSet;
use std::time::Duration;

/// A name with its place, such as that of an image.
pub(crate) type Name = Spanned<String>;

/// A whole pipeline file.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    /// The name in logs and notifications.
    pub(crate) name: String,
    pub(crate) aws: AwsAccess,
    pub(crate) env: Env,
    /// Images by the name that steps use.
    pub(crate) images: IndexMap<String, Image>,
    /// The phases of the file, in the order in which they run.
    pub(crate) phases: Vec<Phase>,
    pub(crate) notify: Vec<Notify>,
    /// The time limit of the run.
    pub(crate) timeout: Option<Duration>,
    /// Every `${…}` of the file, in order.
    pub(crate) uses: Vec<Use>,
    /// The uses of keys that this version does not support.
    pub(crate) unready: Vec<Diagnostic>,
}

impl Pipeline {
    pub(crate) fn phase(&self, name: PhaseName) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// All steps in the order of the file, with those of `finally` and of parallel groups. A group comes before its steps.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.phases.iter().flat_map(Phase::all_steps).flat_map(Step::tree)
    }

    /// Images and their dependencies, each once and after its own dependencies. A dependency for which `is_built` is true is
    /// left out.
    pub(crate) fn in_order(&self, images: &[Name], is_built: &dyn Fn(&str) -> bool) -> Vec<Name> {
        let mut found: Vec<Name> = Vec::new();
        let mut seen: HashSet<&str> = HashSet::new();
        for name in images.iter().filter(|name| self.images.contains_key(&name.value)) {
            // The path to the current image; each image with the number of its dependencies that have been followed.
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

    /// Whether a tag may differ between commits. Variables from outside of the file may.
    pub(crate) fn is_of_one_commit(&self, tag: &Template) -> bool {
        // `seen` holds the variables that have been followed.
        fn unique<'p>(pipeline: &'p Pipeline, template: &'p Template, seen: &mut HashSet<&'p str>) -> bool {
            template.references().any(|reference| match reference {
                Reference::Builtin(Builtin::SourceBranch | Builtin::SourceBranchSlug) => false,
                Reference::Builtin(Builtin::AwsRegion | Builtin::AwsAccount) => false,
                Reference::Builtin(_) => true,
                Reference::Env(name) => match pipeline.env.variables.get(name) {
                    None => true,
                    Some(value) => {
                        seen.len() < MAX_PROBLEMS && seen.insert(name) && unique(pipeline, value, seen)
                    }
                },
            })
        }
        unique(self, tag, &mut HashSet::new())
    }

    /// Whether a value depends on the commit or the build, as far as the file shows.
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

    /// The variables that hold secrets: those that are fetched and those that images and tests use as secrets.
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

/// A `${…}` in the file.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) reference: Reference,
    pub(crate) has_default: bool,
    pub(crate) span: Span,
    pub(crate) zone: Zone,
    /// Where others can read the value of its field.
    pub(crate) exposure: Option<Exposure>,
}

/// The parts of a file, by the time at which their `${…}` are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// `aws` and the secrets of `env`: before the first step.
    Start,
    /// `env.variables`: first.
    Variables,
    /// An image, by its position: when a step uses it.
    Image(usize),
    /// `env` of a step, by the step's id.
    StepEnv(StepId),
    /// The other fields of a step. They may refer to its `env`.
    Step(StepId),
    /// `notify`, if the run sends notifications.
    Notify,
}

/// `aws`: the account and region of AWS calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AwsAccess {
    pub(crate) region: Option<Template>,
    /// A role to assume.
    pub(crate) role_arn: Option<Template>,
    /// The external id that the role's trust policy requires.
    pub(crate) external_id: Option<Template>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    /// The shell of `run` scripts.
    pub(crate) shell: Shell,
    pub(crate) variables: IndexMap<String, Template>,
    /// Secrets in the Systems Manager Parameter Store, by variable.
    pub(crate) parameter_store: IndexMap<String, Template>,
    /// Secrets in AWS Secrets Manager, by variable.
    pub(crate) secrets_manager: IndexMap<String, Template>,
    /// Variables that a buildspec can export.
    pub(crate) exported: Vec<Name>,
}

impl Env {
    /// The variables whose values are fetched as secrets.
    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.parameter_store.keys().chain(self.secrets_manager.keys()).map(String::as_str)
    }

    /// All variables of `env`.
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
    /// The events; all if the file names none.
    pub(crate) on: Vec<NotifyOn>,
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
        url: Template,
        /// Additional headers.
        headers: IndexMap<String, Template>,
    },
    Sns(Template),
}

/// An event that a receiver can be notified about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NotifyOn {
    Started,
    PhaseFailed,
    /// The run has finished without a failure.
    Succeeded,
    Failed,
    /// A signal has stopped the run.
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
