//! What each kind of step says.

use super::Name;
use crate::duration;
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use indexmap::IndexMap;
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// One script for the shell.
    Script(String),
    /// A program and its arguments, without a shell and, as everywhere in `run`, without `${…}`.
    Argv(Vec<String>),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Test {
    /// The image that is tested.
    pub(crate) image: Name,
    /// Arguments; the image's own where absent.
    pub(crate) command: Option<Vec<Template>>,
    /// The image's own where absent.
    pub(crate) entrypoint: Option<Vec<Template>>,
    /// Names of secret variables that the container's environment gets.
    pub(crate) secrets: Vec<Name>,
    /// User or `uid:gid` inside the container.
    pub(crate) user: Option<Template>,
    /// Working directory inside the container.
    pub(crate) workdir: Option<Template>,
    /// The container's memory, in bytes.
    pub(crate) memory: Option<u64>,
    /// Files for the container.
    pub(crate) volumes: Vec<Template>,
    /// Containers beside the test.
    pub(crate) services: IndexMap<String, Service>,
    /// Files to copy out: path in the container, path here.
    pub(crate) copy_out: IndexMap<String, Template>,
    /// JUnit files in the container.
    pub(crate) junit: Vec<Template>,
}

/// `services.NAME` of a test.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Service {
    pub(crate) image: Template,
    /// Arguments; the image's own where absent.
    pub(crate) command: Option<Vec<Template>>,
    pub(crate) env: IndexMap<String, Template>,
    /// Files for the container.
    pub(crate) volumes: Vec<Template>,
    /// How to tell that it is up.
    pub(crate) ready: Option<Ready>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Ready {
    pub(crate) probe: Probe,
    /// How long it may take.
    #[serde(serialize_with = "duration::serialize")]
    pub(crate) timeout: Duration,
}

/// What shows that a service is up.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probe {
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

#[derive(Debug, Clone)]
pub(crate) struct TaskDefinition {
    /// What the new revision is made from.
    pub(crate) base: TaskDefinitionBase,
    pub(crate) containers: IndexMap<String, ContainerChange>,
    /// The role of the task.
    pub(crate) task_role: Option<Template>,
    /// The role that pulls images and reads secrets.
    pub(crate) execution_role: Option<Template>,
    pub(crate) cpu: Option<Template>,
    pub(crate) memory: Option<Template>,
    /// Tags of the revision.
    pub(crate) tags: IndexMap<String, Template>,
    /// Register also where nothing differs.
    pub(crate) force: bool,
    /// What `CodePipeline`'s action for `CodeDeploy` gets, which registers the revision itself then.
    pub(crate) code_pipeline: Option<CodePipeline>,
}

#[derive(Debug, Clone)]
pub(crate) struct CodePipeline {
    /// The container that the load balancer reaches, and that gets the image.
    pub(crate) container: Name,
    pub(crate) port: u16,
}

impl TaskDefinition {
    /// Whether the step registers the revision, so that others can use it.
    pub(crate) fn registers(&self) -> bool {
        self.code_pipeline.is_none()
    }
}

/// What a new revision starts from.
#[derive(Debug, Clone)]
pub(crate) enum TaskDefinitionBase {
    /// The latest active revision of a family.
    Family(Template),
    /// A file in the source, JSON or YAML.
    File(Template),
    /// What a service runs now.
    Service { cluster: Template, name: Template },
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerChange {
    /// The image that the container runs from now on.
    pub(crate) image: Option<Name>,
    /// Variables that are set or replaced; the others stay.
    pub(crate) environment: IndexMap<String, Template>,
    /// Remove the variables that `environment` does not name.
    pub(crate) replace_environment: bool,
    /// Secrets that ECS injects.
    pub(crate) secrets: IndexMap<String, Template>,
    pub(crate) command: Option<Vec<Template>>,
    pub(crate) cpu: Option<Template>,
    /// The hard limit of memory.
    pub(crate) memory: Option<Template>,
    /// Options of the log driver.
    pub(crate) log_options: IndexMap<String, Template>,
    pub(crate) labels: IndexMap<String, Template>,
    /// The place of the container's name.
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct RunTask {
    pub(crate) cluster: Template,
    /// Where the task runs.
    pub(crate) place: TaskPlace,
    /// The family, where the pipeline registers several.
    pub(crate) task_definition: Option<Template>,
    /// The container whose command is replaced.
    pub(crate) container: Option<Name>,
    /// Arguments for this run.
    pub(crate) command: Option<Vec<Template>>,
    /// Variables for this run.
    pub(crate) environment: IndexMap<String, Template>,
    /// How long the task may take.
    pub(crate) wait: Option<Duration>,
}

/// Where a task runs.
#[derive(Debug, Clone)]
pub(crate) enum TaskPlace {
    /// As this service's tasks do.
    Service(Template),
    Network {
        subnets: Vec<Template>,
        security_groups: Vec<Template>,
        assign_public_ip: bool,
        launch_type: LaunchType,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaunchType {
    Fargate,
    Ec2,
    External,
}

#[derive(Debug, Clone)]
pub(crate) struct Deploy {
    pub(crate) cluster: Template,
    /// One or several services.
    pub(crate) services: Vec<Template>,
    /// The family to deploy, where the pipeline registers several.
    pub(crate) task_definition: Option<Template>,
    /// How long the deployment may take.
    pub(crate) wait: Option<Duration>,
    /// What happens to a deployment that fails.
    pub(crate) on_failure: OnFailure,
    /// How many revisions stay.
    pub(crate) keep_revisions: Option<u32>,
    /// Point the family's scheduled tasks to the revision.
    pub(crate) schedules: bool,
    pub(crate) code_deploy: Option<CodeDeploy>,
    /// Deploy also where nothing differs.
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Go back to the last successful revision.
    #[default]
    Rollback,
    /// Leave it as it is.
    Leave,
}

#[derive(Debug, Clone)]
pub(crate) struct CodeDeploy {
    pub(crate) application: Template,
    pub(crate) group: Template,
}

#[cfg(test)]
mod tests {
    use crate::language::pipeline::{self, model::Action};
    use crate::language::source::SourceFile;

    /// The fingerprint of `skip-unchanged` is made of this text: a change of it needs a new version of the fingerprint.
    #[test]
    fn the_serialised_form_of_a_test() {
        let text = |blanks: &str| {
            let text = format!(
                "version: 1\nname: t\nimages: {{ app: {{ repository: a }} }}\nphases:\n{blanks}  build:\n    steps:\n      - build: app\n      - test: app\n        command: [\"cost: 5$$ ${{source.commit}}\"]\n        memory: 512m\n        services:\n          db: {{ image: \"${{DB:-postgres:16}}\", env: {{ A: b }}, ready: {{ port: 5432, timeout: 90s }} }}\n          web: {{ image: web, ready: {{ healthcheck: true }} }}\n        copy-out: {{ /a: b }}\n"
            );
            let pipeline = pipeline::parse(&SourceFile::new("p", &text)).into_valid().unwrap();
            let test = pipeline.steps().find_map(|step| match &step.action {
                Action::Test(test) => Some(serde_json::to_string(test).unwrap()),
                _ => None,
            });
            test.unwrap()
        };
        let expected = concat!(
            r#"{"image":"app","command":["cost: 5$$ ${source.commit}"],"entrypoint":null,"secrets":[],"user":null,"workdir":null,"#,
            r#""memory":536870912,"volumes":[],"services":{"#,
            r#""db":{"image":"${DB:-postgres:16}","command":null,"env":{"A":"b"},"volumes":[],"ready":{"probe":{"port":5432},"timeout":"1m30s"}},"#,
            r#""web":{"image":"web","command":null,"env":{},"volumes":[],"ready":{"probe":"healthcheck","timeout":"1m"}}},"#,
            r#""copy-out":{"/a":"b"},"junit":[]}"#,
        );
        assert_eq!(text(""), expected);
        assert_eq!(text("\n\n"), expected, "its place in the file is no part of it");
    }
}
