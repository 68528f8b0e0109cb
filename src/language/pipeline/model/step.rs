//! Phases, and the keys of every step.

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
    pub(crate) const ALL: [Self; 4] = [Self::Install, Self::PreBuild, Self::Build, Self::PostBuild];

    /// The name in files and on the command line.
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
    pub(crate) name: PhaseName,
    pub(crate) when: When,
    pub(crate) steps: Vec<Step>,
    /// Steps that run at the end of the phase if it has started, also after a failure.
    pub(crate) finally: Vec<Step>,
    /// The time limit of its steps together.
    pub(crate) timeout: Option<Duration>,
}

impl Phase {
    /// Its steps, then those of `finally`.
    pub(crate) fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.finally)
    }
}

/// `when`: whether a phase or step runs after a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Only if nothing has failed.
    #[default]
    Success,
    /// Only after a failure.
    Failure,
    Always,
}

impl When {
    /// The name in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
        }
    }
}

/// The position of a step in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StepId(pub usize);

/// A step: an action and the keys of every step.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) id: StepId,
    /// The place of the key of its kind.
    pub(crate) span: Span,
    pub(crate) name: Option<Template>,
    /// Overrides the phase's `when`.
    pub(crate) when: Option<When>,
    pub(crate) only: Option<Filter>,
    pub(crate) except: Option<Filter>,
    pub(crate) retry: Option<Retry>,
    /// The time limit of one attempt.
    pub(crate) timeout: Option<Duration>,
    /// Overrides the pipeline's `aws`.
    pub(crate) aws: Option<AwsAccess>,
    pub(crate) env: IndexMap<String, Template>,
    /// The working directory, relative to that of the pipeline file.
    pub(crate) dir: Option<Template>,
    pub(crate) action: Action,
}

impl Step {
    /// The step itself, then the steps of a parallel group.
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
    pub(crate) branches: Vec<Spanned<Glob>>,
    pub(crate) tags: Vec<Spanned<Glob>>,
    pub(crate) events: Vec<EventKind>,
}

/// The event that started a build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EventKind {
    #[default]
    Manual,
    Push,
    Tag,
    PullRequest,
    PullRequestMerged,
}

impl EventKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Push, Self::PullRequest, Self::PullRequestMerged, Self::Tag, Self::Manual];

    /// The name in files.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Push => "push",
            Self::Tag => "tag",
            Self::PullRequest => "pull-request",
            Self::PullRequestMerged => "pull-request-merged",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// The number of retries.
    pub(crate) attempts: u32,
    /// The delay before the first retry.
    pub(crate) delay: Duration,
    /// The factor from each delay to the next.
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
    /// Updates ECS services to the registered task definition.
    Deploy(Deploy),
    /// Runs steps in parallel.
    Parallel(Vec<Step>),
}

impl Action {
    /// The key in files.
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

    /// The images that the action names.
    pub(crate) fn images(&self) -> Vec<&Name> {
        match self {
            Self::Build(images) | Self::Push(images) => images.iter().collect(),
            Self::Test(test) => vec![&test.image],
            Self::ImageDefinitions(pairs) => pairs.values().collect(),
            Self::TaskDefinition(definition) => {
                definition.containers.values().filter_map(|container| container.image.as_ref()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the action writes files for CodePipeline, which CodeBuild takes as artifacts.
    pub(crate) fn writes_artifacts(&self) -> bool {
        match self {
            Self::ImageDefinitions(_) => true,
            Self::TaskDefinition(definition) => definition.code_pipeline.is_some(),
            _ => false,
        }
    }

    /// Whether the action changes something outside this machine when it publishes.
    pub(crate) fn publishes(&self) -> bool {
        match self {
            Self::Push(_) | Self::TaskDefinition(_) | Self::RunTask(_) | Self::Deploy(_) => true,
            // It writes the addresses of pushed images.
            Self::ImageDefinitions(_) => true,
            Self::Run(_) | Self::Build(_) | Self::Test(_) | Self::Parallel(_) => false,
        }
    }
}
