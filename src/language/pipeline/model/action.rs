//! The kinds of steps.

use super::Name;
use crate::duration;
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use indexmap::IndexMap;
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// A script for the shell.
    Script(String),
    /// A program and its arguments, without a shell. `${…}` is not resolved, as everywhere in `run`.
    Argv(Vec<String>),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Test {
    pub(crate) image: Name,
    /// The arguments; the image's own if absent.
    pub(crate) command: Option<Vec<Template>>,
    /// The image's own if absent.
    pub(crate) entrypoint: Option<Vec<Template>>,
    /// The secret variables of the container.
    pub(crate) secrets: Vec<Name>,
    /// User or `uid:gid` in the container.
    pub(crate) user: Option<Template>,
    /// The working directory in the container.
    pub(crate) workdir: Option<Template>,
    /// The container's memory, in bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) volumes: Vec<Template>,
    /// Containers that run during the test.
    pub(crate) services: IndexMap<String, Service>,
    /// Files to copy out: from the path in the container to the path here.
    pub(crate) copy_out: IndexMap<String, Template>,
    /// JUnit files in the container.
    pub(crate) junit: Vec<Template>,
}

/// `services.NAME` of a test.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Service {
    pub(crate) image: Template,
    /// The arguments; the image's own if absent.
    pub(crate) command: Option<Vec<Template>>,
    pub(crate) env: IndexMap<String, Template>,
    pub(crate) volumes: Vec<Template>,
    /// How to check that it is ready.
    pub(crate) ready: Option<Ready>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Ready {
    pub(crate) probe: Probe,
    /// The time limit.
    #[serde(serialize_with = "duration::serialize")]
    pub(crate) timeout: Duration,
}

/// A check that a service is ready.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probe {
    /// The image's own health check.
    Healthcheck,
    /// A port that accepts connections.
    Port(u16),
    /// A port and a path that respond.
    Http(Template),
    /// A string in the output.
    Log(Template),
    /// A command that exits with 0.
    Command(Vec<Template>),
}

#[derive(Debug, Clone)]
pub(crate) struct TaskDefinition {
    pub(crate) base: TaskDefinitionBase,
    pub(crate) containers: IndexMap<String, ContainerChange>,
    pub(crate) task_role: Option<Template>,
    /// The role that pulls images and reads secrets.
    pub(crate) execution_role: Option<Template>,
    pub(crate) cpu: Option<Template>,
    pub(crate) memory: Option<Template>,
    /// Tags of the revision.
    pub(crate) tags: IndexMap<String, Template>,
    /// Register a revision even if nothing differs.
    pub(crate) force: bool,
    /// Writes files for the `CodeDeploy` action of `CodePipeline`, which registers the revision.
    pub(crate) code_pipeline: Option<CodePipeline>,
}

#[derive(Debug, Clone)]
pub(crate) struct CodePipeline {
    /// The container behind the load balancer, which gets the image.
    pub(crate) container: Name,
    pub(crate) port: u16,
}

impl TaskDefinition {
    /// Whether the step itself registers the revision.
    pub(crate) fn registers(&self) -> bool {
        self.code_pipeline.is_none()
    }

    /// Whether a container keeps the image of the base.
    pub(crate) fn keeps_image(&self, container: &str) -> bool {
        let changed = self.containers.get(container).is_some_and(|change| change.image.is_some());
        let replaced = self.code_pipeline.as_ref().is_some_and(|wanted| wanted.container.value == container);
        !changed && !replaced
    }
}

/// The base of a new revision.
#[derive(Debug, Clone)]
pub(crate) enum TaskDefinitionBase {
    /// The latest active revision of a family.
    Family(Template),
    /// A file in the source, JSON or YAML.
    File(Template),
    /// The current revision of a service.
    Service { cluster: Template, name: Template },
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerChange {
    /// The container's new image.
    pub(crate) image: Option<Name>,
    /// Variables to set or replace; the others stay.
    pub(crate) environment: IndexMap<String, Template>,
    /// Remove the variables that are not in `environment`.
    pub(crate) replace_environment: bool,
    /// Secrets that ECS injects.
    pub(crate) secrets: IndexMap<String, Template>,
    pub(crate) command: Option<Vec<Template>>,
    pub(crate) cpu: Option<Template>,
    /// The hard limit.
    pub(crate) memory: Option<Template>,
    pub(crate) log_options: IndexMap<String, Template>,
    pub(crate) labels: IndexMap<String, Template>,
    /// The place of the container's name.
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) struct RunTask {
    pub(crate) cluster: Template,
    pub(crate) place: TaskPlace,
    /// The family, if the pipeline registers several.
    pub(crate) task_definition: Option<Template>,
    /// The container whose command is replaced.
    pub(crate) container: Option<Name>,
    pub(crate) command: Option<Vec<Template>>,
    pub(crate) environment: IndexMap<String, Template>,
    /// The time limit of the task.
    pub(crate) wait: Option<Duration>,
}

/// The network and launch type of a task.
#[derive(Debug, Clone)]
pub(crate) enum TaskPlace {
    /// Those of this service.
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
#[expect(clippy::struct_field_names, reason = "CodeDeploy is the name of the service")]
pub(crate) struct Deploy {
    pub(crate) cluster: Template,
    pub(crate) services: Vec<Template>,
    /// The family, if the pipeline registers several.
    pub(crate) task_definition: Option<Template>,
    /// The time limit of the deployment.
    pub(crate) wait: Option<Duration>,
    /// Pauses by lifecycle hooks count against the time limit.
    pub(crate) wait_includes_pauses: bool,
    pub(crate) on_failure: OnFailure,
    /// How many revisions to keep.
    pub(crate) keep_revisions: Option<u32>,
    /// Update the family's scheduled tasks to the revision.
    pub(crate) schedules: bool,
    pub(crate) code_deploy: Option<CodeDeploy>,
    /// Deploy even if nothing differs.
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnFailure {
    /// Roll back to the last successful revision.
    #[default]
    Rollback,
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

    /// The fingerprint of `skip-unchanged` covers this text. If it changes, increase the version of the fingerprint.
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
