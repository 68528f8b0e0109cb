//! Phases and steps: what every step can have.

use super::{AwsAccess, Command, Deploy, Name, RunTask, TaskDefinition, Test};
use crate::language::glob::Glob;
use crate::language::pipeline::template::Template;
use crate::language::source::{Span, Spanned};
use indexmap::IndexMap;
use std::fmt;
use std::time::Duration;

/// The phases of CodeBuild, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PhaseName {
    Install,
    PreBuild,
    Build,
    PostBuild,
}

impl PhaseName {
    /// All of them, in order.
    pub(crate) const ALL: [Self; 4] = [Self::Install, Self::PreBuild, Self::Build, Self::PostBuild];

    /// The name as files and command lines spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::PreBuild => "pre_build",
            Self::Build => "build",
            Self::PostBuild => "post_build",
        }
    }
}

impl fmt::Display for PhaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Phase {
    /// Which of the four it is.
    pub(crate) name: PhaseName,
    /// When the phase runs.
    pub(crate) when: When,
    /// Its steps; the first that fails ends them.
    pub(crate) steps: Vec<Step>,
    /// Steps that run once the phase has started, whatever happened.
    pub(crate) finally: Vec<Step>,
    /// How long its steps may take together.
    pub(crate) timeout: Option<Duration>,
}

impl Phase {
    /// Its steps and those of `finally`.
    pub(crate) fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.finally)
    }
}

/// `when`: after which outcome of what came before something runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Only while nothing has failed.
    #[default]
    Success,
    /// Only after a failure.
    Failure,
    Always,
}

impl When {
    /// The name as files spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
        }
    }

    /// Whether it allows running now.
    pub(crate) fn allows(self, failed: bool) -> bool {
        match self {
            Self::Success => !failed,
            Self::Failure => failed,
            Self::Always => true,
        }
    }
}

/// The number of a step in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StepId(pub usize);

/// A step: one action and what every action can have.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// Which one it is.
    pub(crate) id: StepId,
    /// The place of the key that says what it does.
    pub(crate) span: Span,
    /// What the user calls it.
    pub(crate) name: Option<Template>,
    /// Its own `when`, which overrides the phase's.
    pub(crate) when: Option<When>,
    pub(crate) only: Option<Filter>,
    pub(crate) except: Option<Filter>,
    pub(crate) retry: Option<Retry>,
    /// How long one attempt may take.
    pub(crate) timeout: Option<Duration>,
    /// Where its AWS calls go, instead of the pipeline's.
    pub(crate) aws: Option<AwsAccess>,
    /// Environment of this step alone.
    pub(crate) env: IndexMap<String, Template>,
    /// The working directory, relative to the pipeline file's directory.
    pub(crate) dir: Option<Template>,
    pub(crate) action: Action,
}

impl Step {
    /// The step itself and, of a parallel group, its steps.
    pub(crate) fn tree(&self) -> Vec<&Self> {
        let mut all = vec![self];
        if let Action::Parallel(steps) = &self.action {
            all.extend(steps.iter().flat_map(Self::tree));
        }
        all
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Patterns of branches, with their places.
    pub(crate) branches: Vec<Spanned<Glob>>,
    pub(crate) tags: Vec<Spanned<Glob>>,
    /// Why the build runs.
    pub(crate) events: Vec<EventKind>,
}

/// Why a build runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    #[default]
    Manual,
    /// A push to a branch.
    Push,
    Tag,
    PullRequest,
}

impl EventKind {
    pub(crate) const ALL: [Self; 4] = [Self::Push, Self::PullRequest, Self::Tag, Self::Manual];

    /// The name as files spell it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Push => "push",
            Self::Tag => "tag",
            Self::PullRequest => "pull-request",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// How many attempts follow the first.
    pub(crate) attempts: u32,
    /// The time before the second attempt.
    pub(crate) delay: Duration,
    /// What each further delay is multiplied with.
    pub(crate) backoff: u32,
}

/// The kinds of step.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Runs a command on this machine.
    Run(Command),
    Build(Vec<Name>),
    /// Runs a command in a container of an image.
    Test(Test),
    Push(Vec<Name>),
    /// Writes `imagedefinitions.json` and `imageDetail.json`: container and image.
    ImageDefinitions(IndexMap<String, Name>),
    /// Registers a task definition.
    TaskDefinition(TaskDefinition),
    /// Runs a task once.
    RunTask(RunTask),
    /// Points an ECS service to the registered task definition.
    Deploy(Deploy),
    /// Runs steps side by side.
    Parallel(Vec<Step>),
}

impl Action {
    /// The key of the file that says so.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Build(_) => "build",
            Self::Test(_) => "test",
            Self::Push(_) => "push",
            Self::ImageDefinitions(_) => "image-definitions",
            Self::TaskDefinition(_) => "task-definition",
            Self::RunTask(_) => "run-task",
            Self::Deploy(_) => "deploy",
            Self::Parallel(_) => "parallel",
        }
    }

    /// The images that the action uses, with the places that name them.
    pub(crate) fn images(&self) -> Vec<&Name> {
        match self {
            Self::Run(_) | Self::RunTask(_) | Self::Deploy(_) | Self::Parallel(_) => Vec::new(),
            Self::Build(images) | Self::Push(images) => images.iter().collect(),
            Self::Test(test) => vec![&test.image],
            Self::ImageDefinitions(pairs) => pairs.values().collect(),
            Self::TaskDefinition(definition) => {
                definition.containers.values().filter_map(|container| container.image.as_ref()).collect()
            }
        }
    }

    /// Whether the action changes something outside this machine when it publishes.
    pub(crate) fn publishes(&self) -> bool {
        match self {
            Self::Push(_) | Self::TaskDefinition(_) | Self::RunTask(_) | Self::Deploy(_) => true,
            // It names what was pushed: without a push there is nothing to name.
            Self::ImageDefinitions(_) => true,
            Self::Run(_) | Self::Build(_) | Self::Test(_) | Self::Parallel(_) => false,
        }
    }
}
