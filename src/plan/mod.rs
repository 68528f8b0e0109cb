//! Pipeline and build context joined: what will run, with every `${…}` known to have a value. Pure.

pub mod context;
pub mod environment;
pub mod scope;

use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::model::{Action, PhaseName, Pipeline, Step};
use crate::pipeline::source::Span;
use crate::pipeline::template::{Builtin, Reference, Template, Undefined};
use crate::pipeline::{notify_templates, templates};
use crate::text::closest;
use context::{BuildContext, EventKind};
use indexmap::IndexMap;
use scope::Values;

/// Where a run's effects go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Into `.runner/`; nothing but the Docker Engine is connected to.
    Local,
    /// To registries and AWS.
    Publish,
}

impl Mode {
    /// The name as `RUNNER_MODE` carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Publish => "publish",
        }
    }
}

/// What will run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The phases of this call, in order.
    pub phases: Vec<PhaseName>,
    /// The user has named the phases of this call; others may come in further calls.
    pub single_phases: bool,
    /// Whether steps that publish are left out, because a pull request is being built.
    pub withhold_publishing: bool,
}

impl Plan {
    /// Why a step is left out of this plan, where it is.
    pub fn skip_reason(&self, step: &Step) -> Option<&'static str> {
        (self.withhold_publishing && step.action.publishes()).then_some("pull requests publish nothing")
    }
}

/// Plans a call. `selected` are the phases that the user names; all that the file has where there are none.
pub fn plan(
    pipeline: &Pipeline,
    selected: &[PhaseName],
    context: &BuildContext,
    mode: Mode,
    values: &Values,
) -> Result<Plan, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    for phase in selected {
        if pipeline.phase(*phase).is_none() {
            let message = format!("the pipeline has no phase `{phase}`");
            problems.push(Diagnostic::new(message, Span::default()));
        }
    }
    let mut check = |template: &Template, own: Option<&IndexMap<String, Template>>| {
        for (reference, has_default) in template.references() {
            let own =
                matches!(reference, Reference::Env(name) if own.is_some_and(|own| own.contains_key(name)));
            if !has_default && !own && !values.may_have(reference) {
                let reference = reference.clone();
                let span = template.span;
                problems.push(undefined(&Undefined { reference, span }, values));
            }
        }
    };
    templates(pipeline, &mut check);
    if mode == Mode::Publish {
        notify_templates(pipeline).for_each(|template| check(template, None));
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.span.start);
        return Err(problems);
    }
    let phases = pipeline
        .phases
        .iter()
        .map(|phase| phase.name)
        .filter(|name| selected.is_empty() || selected.contains(name))
        .collect();
    Ok(Plan {
        phases,
        single_phases: !selected.is_empty(),
        withhold_publishing: context.event == EventKind::PullRequest,
    })
}

/// The message for a reference without a value, with the way to give it one.
pub fn undefined(undefined: &Undefined, values: &Values) -> Diagnostic {
    let reference = &undefined.reference;
    let problem = Diagnostic::new(format!("`${{{reference}}}` has no value"), undefined.span);
    match reference {
        Reference::Env(name) => {
            let help = closest(name, values.names()).map_or_else(
                || {
                    format!(
                        "set it under `env`, in the environment or with --env-file, or write `${{{name}:-default}}`"
                    )
                },
                |candidate| format!("did you mean `${{{candidate}}}`?"),
            );
            problem.help(help)
        }
        Reference::Builtin(builtin) => problem.help(match builtin {
            Builtin::SourceCommit | Builtin::SourceCommitShort => {
                "it comes from git, or in CodeBuild from a source that is a commit (a zip from S3 is none): run in a git repository with a commit (in a container git may first need `git config --global --add safe.directory DIR`), or give the image other `tags`"
                    .to_owned()
            }
            Builtin::SourceBranch | Builtin::SourceBranchSlug => {
                "nothing says which branch this is; set RUNNER_BRANCH, which under CodePipeline can be `#{SourceVariables.BranchName}`"
                    .to_owned()
            }
            Builtin::AwsRegion => "set AWS_REGION".to_owned(),
            Builtin::ImageUri(name) | Builtin::ImageDigest(name) => {
                format!("the image `{name}` has not been pushed; a `push` step must come before")
            }
            other => format!("this build has none; write `${{{other}:-default}}` where that is all right"),
        }),
    }
}

/// The name under which a step is shown where the user gave it none.
pub fn describe(action: &Action) -> String {
    use crate::pipeline::model::{Command, TaskDefinitionBase};
    let names = |names: &[crate::pipeline::model::Name]| {
        let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
        names.join(", ")
    };
    match action {
        Action::Run(Command::Script(script)) => {
            let mut lines = script.lines().filter(|line| !line.trim().is_empty());
            let first = lines.next().unwrap_or_default().trim();
            shorten(first, lines.next().is_some())
        }
        Action::Run(Command::Argv(argv)) => shorten(&argv.join(" "), false),
        Action::Build(images) => format!("build {}", names(images)),
        Action::Push(images) => format!("push {}", names(images)),
        Action::Test(test) => format!("test {}", test.image.value),
        Action::ImageDefinitions(_) => "image definitions".to_owned(),
        Action::TaskDefinition(definition) => match &definition.base {
            TaskDefinitionBase::Family(_) => "task definition of a family".to_owned(),
            TaskDefinitionBase::File(_) => "task definition of a file".to_owned(),
            TaskDefinitionBase::Service { .. } => "task definition of a service".to_owned(),
        },
        Action::Deploy(_) => "deploy".to_owned(),
    }
}

/// At most 60 characters, with an ellipsis where something is left out.
fn shorten(text: &str, more: bool) -> String {
    let mut short: String = text.chars().take(60).collect();
    if more || short.len() < text.len() {
        short.push('…');
    }
    short
}
