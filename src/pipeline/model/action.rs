//! What each kind of step says.

use super::Name;
use crate::pipeline::source::Span;
use crate::pipeline::template::Template;
use indexmap::IndexMap;
use std::time::Duration;

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
    /// What `CodePipeline`'s action for `CodeDeploy` gets, which registers the revision itself then.
    pub code_pipeline: Option<CodePipeline>,
}

/// `task-definition.code-pipeline`
#[derive(Debug, Clone)]
pub struct CodePipeline {
    /// The container that the load balancer reaches, and that gets the image.
    pub container: Name,
    /// Its port.
    pub port: u16,
}

impl TaskDefinition {
    /// Whether the step registers the revision, so that others can use it.
    pub fn registers(&self) -> bool {
        self.code_pipeline.is_none()
    }
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
    /// Point the family's scheduled tasks to the revision.
    pub schedules: bool,
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
