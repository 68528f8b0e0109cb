//! The pipeline as its file says it: checked for shape, not yet joined with a commit, a mode or an environment.

use super::source::Spanned;
use super::template::Template;
use indexmap::IndexMap;
use std::fmt;

/// A reference to something the file names elsewhere, such as an image.
pub type Name = Spanned<String>;

/// A whole pipeline file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The pipeline's name, shown in logs and notifications.
    pub name: String,
    /// Environment of all steps.
    pub env: Env,
    /// Images by the name that steps use.
    pub images: IndexMap<String, Image>,
    /// The phases that the file gives, in the order in which they run.
    pub phases: Vec<Phase>,
    /// Who is told about the run.
    pub notify: Vec<Notify>,
}

impl Pipeline {
    /// The phase of that name, where the file gives it.
    pub fn phase(&self, name: PhaseName) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// `env`.
#[derive(Debug, Clone, Default)]
pub struct Env {
    /// The shell of `run` scripts.
    pub shell: Shell,
    /// Plain variables.
    pub variables: IndexMap<String, Template>,
    /// Secrets in the Systems Manager Parameter Store: variable and parameter name.
    pub parameter_store: IndexMap<String, Template>,
    /// Secrets in AWS Secrets Manager: variable and reference.
    pub secrets_manager: IndexMap<String, Template>,
}

impl Env {
    /// The names of the variables whose values are secrets.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.parameter_store.keys().chain(self.secrets_manager.keys()).map(String::as_str)
    }

    /// Every name that `env` gives.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str).chain(self.secret_names())
    }
}

/// The shell that runs `run` scripts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash, with `-e` and `pipefail`.
    #[default]
    Bash,
    /// The machine's POSIX shell, with `-e`.
    Sh,
}

impl Shell {
    /// The program to start.
    pub fn program(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}

/// `images.NAME`.
#[derive(Debug, Clone)]
pub struct Image {
    /// An ECR repository name, or a full `registry/path`.
    pub repository: Template,
    /// The build context's directory.
    pub context: Template,
    /// The Dockerfile, relative to the pipeline file's directory as every path, looked up in the context first.
    pub dockerfile: Option<Template>,
    /// The stage to build.
    pub target: Option<Template>,
    /// Build arguments.
    pub args: IndexMap<String, Template>,
    /// Labels of the image.
    pub labels: IndexMap<String, Template>,
    /// Names of environment variables given to the build as secrets.
    pub secrets: Vec<Name>,
    /// Tags to push.
    pub tags: Vec<Template>,
    /// Images whose inline cache the build may use.
    pub cache_from: Vec<Template>,
    /// Whether the image carries its own build cache.
    pub cache_to: CacheTo,
    /// Create the ECR repository where it does not exist.
    pub create: bool,
}

/// `cache.to`: where a build leaves its cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheTo {
    /// Nowhere but in the engine.
    #[default]
    None,
    /// In the image's own configuration.
    Inline,
}

/// The phases of CodeBuild, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// `install`
    Install,
    /// `pre_build`
    PreBuild,
    /// `build`
    Build,
    /// `post_build`
    PostBuild,
}

impl PhaseName {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Install, Self::PreBuild, Self::Build, Self::PostBuild];

    /// The name as files and command lines spell it.
    pub fn as_str(self) -> &'static str {
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

/// `phases.PHASE`.
#[derive(Debug, Clone)]
pub struct Phase {
    /// Which of the four it is.
    pub name: PhaseName,
    /// When the phase runs.
    pub when: When,
    /// Its steps; the first that fails ends them.
    pub steps: Vec<Step>,
    /// Steps that run once the phase has started, whatever happened.
    pub finally: Vec<Step>,
}

impl Phase {
    /// Its steps and those of `finally`.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.finally)
    }
}

/// `when`: after which outcome of what came before something runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// Only while nothing has failed.
    #[default]
    Success,
    /// Only after a failure.
    Failure,
    /// In both cases.
    Always,
}

impl When {
    /// Whether it allows running now.
    pub fn allows(self, failed: bool) -> bool {
        match self {
            Self::Success => !failed,
            Self::Failure => failed,
            Self::Always => true,
        }
    }
}

/// A step: one action and what every action can have.
#[derive(Debug, Clone)]
pub struct Step {
    /// What the user calls it.
    pub name: Option<Template>,
    /// Its own `when`, which overrides the phase's.
    pub when: Option<When>,
    /// Environment of this step alone.
    pub env: IndexMap<String, Template>,
    /// The working directory, relative to the pipeline file's directory.
    pub dir: Option<Template>,
    /// What it does.
    pub action: Action,
}

/// The kinds of step.
#[derive(Debug, Clone)]
pub enum Action {
    /// Runs a command on this machine.
    Run(Command),
    /// Builds images.
    Build(Vec<Name>),
    /// Runs a command in a container of an image.
    Test(Test),
    /// Pushes images.
    Push(Vec<Name>),
    /// Writes `imagedefinitions.json` and `imageDetail.json`: container and image.
    ImageDefinitions(IndexMap<String, Name>),
    /// Registers a task definition.
    TaskDefinition(TaskDefinition),
    /// Points an ECS service to the registered task definition.
    Deploy(Deploy),
}

impl Action {
    /// The images that the action uses, with the places that name them.
    pub fn images(&self) -> Vec<&Name> {
        match self {
            Self::Run(_) | Self::Deploy(_) => Vec::new(),
            Self::Build(images) | Self::Push(images) => images.iter().collect(),
            Self::Test(test) => vec![&test.image],
            Self::ImageDefinitions(pairs) => pairs.values().collect(),
            Self::TaskDefinition(definition) => {
                definition.containers.values().filter_map(|container| container.image.as_ref()).collect()
            }
        }
    }

    /// Whether the action changes something outside this machine when it publishes.
    pub fn publishes(&self) -> bool {
        match self {
            Self::Push(_) | Self::TaskDefinition(_) | Self::Deploy(_) => true,
            // It names what was pushed: without a push there is nothing to name.
            Self::ImageDefinitions(_) => true,
            Self::Run(_) | Self::Build(_) | Self::Test(_) => false,
        }
    }
}

/// `run`.
#[derive(Debug, Clone)]
pub enum Command {
    /// One script for the shell.
    Script(String),
    /// A program and its arguments, without a shell and, as everywhere in `run`, without `${…}`.
    Argv(Vec<String>),
}

/// `test`.
#[derive(Debug, Clone)]
pub struct Test {
    /// The image that is tested.
    pub image: Name,
    /// Arguments; the image's own where absent.
    pub command: Option<Vec<Template>>,
    /// The image's own where absent.
    pub entrypoint: Option<Vec<Template>>,
    /// Names of secret variables that the container's environment gets.
    pub secrets: Vec<Name>,
    /// User or `uid:gid` inside the container.
    pub user: Option<Template>,
    /// Working directory inside the container.
    pub workdir: Option<Template>,
}

/// `task-definition`.
#[derive(Debug, Clone)]
pub struct TaskDefinition {
    /// What the new revision is made from.
    pub base: TaskDefinitionBase,
    /// Changes by container.
    pub containers: IndexMap<String, ContainerChange>,
}

/// What a new revision starts from.
#[derive(Debug, Clone)]
pub enum TaskDefinitionBase {
    /// The latest active revision of a family.
    Family(Template),
    /// A file in the source, JSON or YAML.
    File(Template),
    /// What a service runs now.
    Service {
        /// The service's cluster.
        cluster: Template,
        /// The service's name.
        name: Template,
    },
}

/// `task-definition.containers.NAME`.
#[derive(Debug, Clone, Default)]
pub struct ContainerChange {
    /// The image that the container runs from now on.
    pub image: Option<Name>,
    /// Variables that are set or replaced; the others stay.
    pub environment: IndexMap<String, Template>,
}

/// `deploy`.
#[derive(Debug, Clone)]
pub struct Deploy {
    /// The services' cluster.
    pub cluster: Template,
    /// One or several services.
    pub services: Vec<Template>,
    /// The family to deploy, where the pipeline registers several.
    pub task_definition: Option<Template>,
}

/// One entry of `notify`.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Who is told.
    pub target: NotifyTarget,
    /// About what; everything where the file does not say.
    pub on: Vec<NotifyOn>,
}

/// Who is told.
#[derive(Debug, Clone)]
pub enum NotifyTarget {
    /// A Slack incoming webhook.
    Slack {
        /// The webhook's address.
        url: Template,
    },
    /// Any HTTP endpoint that takes JSON.
    Webhook {
        /// The address to POST to.
        url: Template,
        /// Headers to send along.
        headers: IndexMap<String, Template>,
    },
}

/// What somebody can be told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyOn {
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
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Started, Self::PhaseFailed, Self::Succeeded, Self::Failed, Self::Stopped];

    /// The name as files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::PhaseFailed => "phase-failed",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}
