//! The pipeline as its file says it: checked for shape, not yet joined with a commit, a mode or an environment.

use super::diagnostic::Diagnostic;
use super::glob::Glob;
use super::source::{Span, Spanned};
use super::template::{Reference, Template};
use indexmap::{IndexMap, IndexSet};
use std::fmt;
use std::time::Duration;

/// A reference to something the file names elsewhere, such as an image.
pub type Name = Spanned<String>;

/// A whole pipeline file.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The pipeline's name, shown in logs and notifications.
    pub name: String,
    /// Where AWS calls go.
    pub aws: AwsAccess,
    /// Environment of all steps.
    pub env: Env,
    /// Images by the name that steps use.
    pub images: IndexMap<String, Image>,
    /// The phases that the file gives, in the order in which they run.
    pub phases: Vec<Phase>,
    /// Who is told about the run.
    pub notify: Vec<Notify>,
    /// How long the run may take.
    pub timeout: Option<Duration>,
    /// Every `${…}` of the file, in its order.
    pub uses: Vec<Use>,
    /// What of the file no executor carries out yet.
    pub unready: Vec<Diagnostic>,
}

impl Pipeline {
    /// The phase of that name, where the file gives it.
    pub fn phase(&self, name: PhaseName) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// All steps, those of `finally` and of parallel groups (after their group) included, in the order of the file.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.phases.iter().flat_map(Phase::all_steps).flat_map(Step::tree)
    }

    /// The names of the variables that hold secrets: those that are fetched, and those that are used as secrets.
    pub fn secret_names(&self) -> Vec<&str> {
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
pub struct Use {
    /// What it refers to.
    pub reference: Reference,
    /// It brings a default.
    pub has_default: bool,
    /// The scalar that it stands in.
    pub span: Span,
    /// The part of the file that it stands in.
    pub zone: Zone,
}

/// Parts of the file, by when their `${…}` are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
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
pub struct AwsAccess {
    /// The region.
    pub region: Option<Template>,
    /// A role to assume.
    pub role_arn: Option<Template>,
    /// What the role's trust policy asks for.
    pub external_id: Option<Template>,
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
    /// Variables that a buildspec can export.
    pub exported: Vec<Name>,
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
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// An ECR repository name, or a full `registry/path`.
    pub repository: Template,
    /// The build context's directory.
    pub context: Template,
    /// The Dockerfile, relative to the pipeline file's directory as every path, or else in the context.
    pub dockerfile: Option<Template>,
    /// The stage to build.
    pub target: Option<Template>,
    /// Build arguments.
    pub args: IndexMap<String, Template>,
    /// Labels of the image.
    pub labels: IndexMap<String, Template>,
    /// Names of environment variables given to the build as secrets.
    pub secrets: Vec<Name>,
    /// SSH agents and keys for `RUN --mount=type=ssh`.
    pub ssh: Vec<Template>,
    /// Further contexts by name.
    pub contexts: IndexMap<String, Template>,
    /// The network of `RUN`: the engine's default where absent.
    pub network: Option<Network>,
    /// Further host names and their addresses.
    pub extra_hosts: IndexMap<String, Template>,
    /// Platforms, as `os/arch[/variant]`.
    pub platforms: Vec<String>,
    /// Tags to push.
    pub tags: Vec<Template>,
    /// Images that are built before this one.
    pub depends_on: Vec<Name>,
    /// Images whose inline cache the build may use.
    pub cache_from: Vec<Template>,
    /// Whether the image carries its own build cache.
    pub cache_to: CacheTo,
    /// How layers are compressed.
    pub compression: Compression,
    /// Create the ECR repository where it does not exist.
    pub create: Option<Create>,
    /// Wait for the scan's findings.
    pub scan: Option<Scan>,
    /// Skip what is there already.
    pub skip_unchanged: bool,
    /// The place of the image's name.
    pub span: Span,
}

/// `network`: what `RUN` reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The engine's default.
    Default,
    /// Nothing.
    None,
    /// The engine's own network.
    Host,
}

/// `cache.to`: where a build leaves its cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheTo {
    /// Nowhere but in the engine.
    #[default]
    None,
    /// In the image's own configuration.
    Inline,
    /// Beside the image, in its registry.
    Registry,
}

/// `compression` of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip, which everything reads.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

/// `create`: how a repository is created.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// Scan images when they are pushed.
    pub scan_on_push: bool,
    /// Tags cannot be moved.
    pub immutable: bool,
    /// ECR's lifecycle policy.
    pub lifecycle_policy: Option<LifecyclePolicy>,
}

/// `create.lifecycle-policy`
#[derive(Debug, Clone)]
pub enum LifecyclePolicy {
    /// A JSON file.
    File(Template),
    /// The policy itself.
    Document(serde_json::Value),
}

/// `scan`: a gate on findings.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The least severity that counts.
    pub fail_on: Severity,
    /// How long to wait for the findings.
    pub wait: Duration,
    /// Findings that do not count.
    pub ignore: Vec<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    #[default]
    High,
    /// `critical`
    Critical,
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
    /// How long its steps may take together.
    pub timeout: Option<Duration>,
    /// The place of the phase's name.
    pub span: Span,
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
    /// The name as files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
        }
    }

    /// Whether it allows running now.
    pub fn allows(self, failed: bool) -> bool {
        match self {
            Self::Success => !failed,
            Self::Failure => failed,
            Self::Always => true,
        }
    }
}

/// The number of a step in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// A step: one action and what every action can have.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which one it is.
    pub id: StepId,
    /// The place of the key that says what it does.
    pub span: Span,
    /// What the user calls it.
    pub name: Option<Template>,
    /// Its own `when`, which overrides the phase's.
    pub when: Option<When>,
    /// Only these builds.
    pub only: Option<Filter>,
    /// Not these builds.
    pub except: Option<Filter>,
    /// Further attempts.
    pub retry: Option<Retry>,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// Where its AWS calls go, instead of the pipeline's.
    pub aws: Option<AwsAccess>,
    /// Environment of this step alone.
    pub env: IndexMap<String, Template>,
    /// The working directory, relative to the pipeline file's directory.
    pub dir: Option<Template>,
    /// What it does.
    pub action: Action,
}

impl Step {
    /// The step itself and, of a parallel group, its steps.
    pub fn tree(&self) -> Vec<&Self> {
        let mut all = vec![self];
        if let Action::Parallel(steps) = &self.action {
            all.extend(steps.iter().flat_map(Self::tree));
        }
        all
    }
}

/// `only` and `except`.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Patterns of branches, with their places.
    pub branches: Vec<Spanned<Glob>>,
    /// Patterns of tags.
    pub tags: Vec<Spanned<Glob>>,
    /// Why the build runs.
    pub events: Vec<EventKind>,
}

/// Why a build runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Somebody started it.
    #[default]
    Manual,
    /// A push to a branch.
    Push,
    /// A pushed tag.
    Tag,
    /// A pull request.
    PullRequest,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Push, Self::PullRequest, Self::Tag, Self::Manual];

    /// The name as files spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Push => "push",
            Self::Tag => "tag",
            Self::PullRequest => "pull-request",
        }
    }
}

/// `retry`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How many attempts follow the first.
    pub attempts: u32,
    /// The time before the second attempt.
    pub delay: Duration,
    /// What each further delay is multiplied with.
    pub backoff: u32,
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
    /// Runs a task once.
    RunTask(RunTask),
    /// Points an ECS service to the registered task definition.
    Deploy(Deploy),
    /// Runs steps side by side.
    Parallel(Vec<Step>),
}

impl Action {
    /// The key of the file that says so.
    pub fn kind(&self) -> &'static str {
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
    pub fn images(&self) -> Vec<&Name> {
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
    pub fn publishes(&self) -> bool {
        match self {
            Self::Push(_) | Self::TaskDefinition(_) | Self::RunTask(_) | Self::Deploy(_) => true,
            // It names what was pushed: without a push there is nothing to name.
            Self::ImageDefinitions(_) => true,
            Self::Run(_) | Self::Build(_) | Self::Test(_) | Self::Parallel(_) => false,
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
    /// The container's memory, in bytes.
    pub memory: Option<u64>,
    /// Files for the container.
    pub volumes: Vec<Template>,
    /// Containers beside the test.
    pub services: IndexMap<String, Service>,
    /// Files to copy out: path in the container, path here.
    pub copy_out: IndexMap<String, Template>,
    /// JUnit files in the container.
    pub junit: Vec<Template>,
}

/// `services.NAME` of a test.
#[derive(Debug, Clone)]
pub struct Service {
    /// The image.
    pub image: Template,
    /// Arguments; the image's own where absent.
    pub command: Option<Vec<Template>>,
    /// The container's variables.
    pub env: IndexMap<String, Template>,
    /// Files for the container.
    pub volumes: Vec<Template>,
    /// How to tell that it is up.
    pub ready: Option<Ready>,
}

/// `services.NAME.ready`
#[derive(Debug, Clone)]
pub struct Ready {
    /// What shows it.
    pub probe: Probe,
    /// How long it may take.
    pub timeout: Duration,
}

/// What shows that a service is up.
#[derive(Debug, Clone)]
pub enum Probe {
    /// The image's own health check.
    Healthcheck,
    /// A port that accepts connections.
    Port(u16),
    /// Port and path that answer.
    Http(Template),
    /// A text in the output.
    Log(Template),
    /// A command that ends with 0.
    Command(Vec<Template>),
}

/// `task-definition`.
#[derive(Debug, Clone)]
pub struct TaskDefinition {
    /// What the new revision is made from.
    pub base: TaskDefinitionBase,
    /// Changes by container.
    pub containers: IndexMap<String, ContainerChange>,
    /// The role of the task.
    pub task_role: Option<Template>,
    /// The role that pulls images and reads secrets.
    pub execution_role: Option<Template>,
    /// The task's CPU.
    pub cpu: Option<Template>,
    /// The task's memory.
    pub memory: Option<Template>,
    /// Tags of the revision.
    pub tags: IndexMap<String, Template>,
    /// Register also where nothing differs.
    pub force: bool,
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
    /// Remove the variables that `environment` does not name.
    pub replace_environment: bool,
    /// Secrets that ECS injects.
    pub secrets: IndexMap<String, Template>,
    /// The container's arguments.
    pub command: Option<Vec<Template>>,
    /// CPU units.
    pub cpu: Option<Template>,
    /// The hard limit of memory.
    pub memory: Option<Template>,
    /// Options of the log driver.
    pub log_options: IndexMap<String, Template>,
    /// Docker labels.
    pub labels: IndexMap<String, Template>,
    /// The place of the container's name.
    pub span: Span,
}

/// `run-task`
#[derive(Debug, Clone)]
pub struct RunTask {
    /// The cluster.
    pub cluster: Template,
    /// Where the task runs.
    pub place: TaskPlace,
    /// The family, where the pipeline registers several.
    pub task_definition: Option<Template>,
    /// The container whose command is replaced.
    pub container: Option<Name>,
    /// Arguments for this run.
    pub command: Option<Vec<Template>>,
    /// Variables for this run.
    pub environment: IndexMap<String, Template>,
    /// How long the task may take.
    pub wait: Option<Duration>,
}

/// Where a task runs.
#[derive(Debug, Clone)]
pub enum TaskPlace {
    /// As this service's tasks do.
    Service(Template),
    /// In this network.
    Network {
        /// Subnet ids.
        subnets: Vec<Template>,
        /// Security group ids.
        security_groups: Vec<Template>,
        /// A public address.
        assign_public_ip: bool,
        /// The launch type.
        launch_type: LaunchType,
    },
}

/// ECS's launch types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchType {
    /// `FARGATE`
    Fargate,
    /// `EC2`
    Ec2,
    /// `EXTERNAL`
    External,
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
    /// How long the deployment may take.
    pub wait: Option<Duration>,
    /// What happens to a deployment that fails.
    pub on_failure: OnFailure,
    /// How many revisions stay.
    pub keep_revisions: Option<u32>,
    /// Deploy through CodeDeploy.
    pub code_deploy: Option<CodeDeploy>,
    /// Deploy also where nothing differs.
    pub force: bool,
}

/// `deploy.on-failure`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Go back to the last successful revision.
    #[default]
    Rollback,
    /// Leave it as it is.
    Leave,
}

/// `deploy.code-deploy`
#[derive(Debug, Clone)]
pub struct CodeDeploy {
    /// The application.
    pub application: Template,
    /// The deployment group.
    pub group: Template,
}

/// One entry of `notify`.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Who is told.
    pub target: NotifyTarget,
    /// About what; everything where the file does not say.
    pub on: Vec<NotifyOn>,
    /// Only about these builds.
    pub only: Option<Filter>,
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
        /// A key that signs the body.
        secret: Option<Template>,
    },
    /// An SNS topic.
    Sns(Template),
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
