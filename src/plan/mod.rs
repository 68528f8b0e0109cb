//! Joins a pipeline with a build context: which steps run, and whether every `${…}` has a value. Pure.

pub(crate) mod asks;
pub(crate) mod condition;
pub(crate) mod context;
pub(crate) mod environment;
pub(crate) mod facts;
pub(crate) mod outline;
pub(crate) mod policy;
pub(crate) mod resource;
pub(crate) mod scope;

use crate::address::Arn;
use crate::language::diagnostic::{self, Diagnostic, MAX_PROBLEMS};
use crate::language::pipeline;
use crate::language::pipeline::model::{
    Action, Command, Name, PhaseName, Pipeline, Step, StepId, TaskDefinitionBase, Zone,
};
use crate::language::pipeline::template::{
    Builtin, MAX_VALUE, Reason, Reference, Template, Unresolved, builtin_elsewhere,
};
use crate::language::source::Span;
use crate::text::closest;
use condition::Verdict;
use context::BuildContext;
use scope::{Sources, Values};
use std::collections::{HashMap, HashSet};

/// The mode of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Writes to `.runner/` and connects only to the Docker Engine.
    Local,
    /// Publishes to registries and AWS.
    Publish,
}

impl Mode {
    /// The value of `RUNNER_MODE`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Publish => "publish",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The phases of this call, in order.
    pub(crate) phases: Vec<PhaseName>,
    /// The user has named the phases. Later calls may run the others.
    pub(crate) single_phases: bool,
    /// The steps that are left out of this build, with the reasons.
    left_out: HashMap<StepId, String>,
}

impl Plan {
    /// Why a step is left out, if it is.
    pub(crate) fn skip_reason(&self, step: &Step) -> Option<&str> {
        self.left_out.get(&step.id).map(String::as_str)
    }
}

/// Values that everyone knows: a document of secrets may contain them, but masking them would make logs unreadable.
pub(crate) fn public_values(pipeline: &Pipeline, context: &BuildContext) -> HashSet<String> {
    let repositories = pipeline.images.values().filter_map(|image| image.repository.as_literal());
    let repositories = repositories.flat_map(|name| {
        let last = name.rsplit('/').next().map(ToOwned::to_owned);
        [Some(name), last].into_iter().flatten().collect::<Vec<_>>()
    });
    let literal = |template: &Option<Template>| template.as_ref().and_then(Template::as_literal);
    let known = [&context.branch, &context.region, &context.account];
    let known = known.into_iter().flatten().cloned().chain(literal(&pipeline.aws.region));
    pipeline.images.keys().cloned().chain([pipeline.name.clone()]).chain(repositories).chain(known).collect()
}

/// The values before the run, and the mistakes in `env.variables`.
pub(crate) fn values(
    pipeline: &Pipeline,
    sources: &Sources,
    context: &BuildContext,
    mode: Mode,
) -> (Values, Vec<Diagnostic>) {
    let mut builtins = context.builtins();
    // The region and the account in the file override those of the environment.
    let literal = |template: &Option<Template>| template.as_ref().and_then(Template::as_literal);
    if let Some(region) = literal(&pipeline.aws.region) {
        builtins.insert(Builtin::AwsRegion, region);
    }
    if let Some(role) = literal(&pipeline.aws.role_arn)
        && let Some(account) = Arn::parse(&role).and_then(|arn| arn.account())
    {
        builtins.insert(Builtin::AwsAccount, account.to_owned());
    }
    let (mut values, problems) = Values::new(pipeline, sources, builtins);
    values.lacks_git = context.lacks_git;
    // The check of the file has reported uses of secrets.
    let is_secret = |reference: &Reference| matches!(reference, Reference::Env(name) if pipeline.env.secret_names().any(|secret| secret == name));
    let problems = problems
        .iter()
        .filter(|problem| !is_secret(&problem.reference))
        .take(MAX_PROBLEMS)
        .map(|problem| match &problem.reference {
            Reference::Builtin(builtin @ (Builtin::BuildId | Builtin::AwsRegion | Builtin::AwsAccount)) => {
                let message = format!("`${{{builtin}}}` is unknown when `env.variables` are resolved");
                Diagnostic::new(message, problem.span).help("put it into the `env` of the steps that need it")
            }
            Reference::Env(name) if pipeline.env.variables.contains_key(name) => Diagnostic::new(
                format!("`${{{name}}}` has no value here"),
                problem.span,
            )
            .help(format!(
                "a variable may only refer to earlier ones: put `{name}` first, or set it in the environment"
            )),
            _ => unresolved(problem, &values),
        })
        .collect();
    // Outside of CodeBuild the id is generated when the run begins.
    values.promise_builtin(Builtin::BuildId);
    if mode == Mode::Publish {
        // When publishing, AWS provides these.
        for name in pipeline.env.secret_names() {
            values.promise(name);
        }
        values.promise_builtin(Builtin::AwsRegion);
        values.promise_builtin(Builtin::AwsAccount);
    }
    (values, problems)
}

/// Plans a call of `runner run`. `selected` are the phases that the user names; all if empty. The errors keep the call
/// from beginning.
pub(crate) fn plan(
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
    let verdicts = condition::verdicts(pipeline, context);
    let left_out = condition::left_out(&verdicts);
    for verdict in verdicts.into_values() {
        if let Verdict::Unknown(problem) = verdict {
            problems.push(problem);
        }
    }
    problems.extend(undefined_uses(pipeline, mode, values, &left_out));
    problems.extend(pipeline::unmet(pipeline, &left_out));
    if !problems.is_empty() {
        diagnostic::sort(&mut problems);
        return Err(problems);
    }
    let phases = pipeline
        .phases
        .iter()
        .map(|phase| phase.name)
        .filter(|name| selected.is_empty() || selected.contains(name))
        .collect();
    Ok(Plan { phases, single_phases: !selected.is_empty(), left_out })
}

/// Reports every `${…}` without a value.
pub(crate) fn undefined_uses(
    pipeline: &Pipeline,
    mode: Mode,
    values: &Values,
    left_out: &HashMap<StepId, String>,
) -> Vec<Diagnostic> {
    let steps: HashMap<StepId, &Step> = pipeline.steps().map(|step| (step.id, step)).collect();
    let idle = idle_images(pipeline, left_out);
    let of_steps: HashSet<&str> =
        pipeline.steps().flat_map(|step| step.env.keys()).map(String::as_str).collect();
    let handed_on = handed_on(pipeline);
    let secrets: HashSet<&str> = pipeline.env.secret_names().collect();
    let mut problems = Vec::new();
    for used in pipeline.uses.iter().filter(|used| !used.has_default && !values.may_have(&used.reference)) {
        let is_builtin = matches!(used.reference, Reference::Builtin(_));
        let needed = match used.zone {
            // Reported by `values`.
            Zone::Variables => false,
            Zone::Notify => mode == Mode::Publish,
            // Steps and images that this build does not use need no commit, branch or tag.
            Zone::Step(id) | Zone::StepEnv(id) if is_builtin => !left_out.contains_key(&id),
            Zone::Image(position) if is_builtin => !idle.contains(&position),
            _ => true,
        };
        let own = match (&used.reference, used.zone) {
            (Reference::Env(name), Zone::Step(id)) => {
                steps.get(&id).is_some_and(|step| step.env.contains_key(name))
            }
            // Images are resolved with the variables of the steps that use them.
            (Reference::Env(name), Zone::Image(_)) => of_steps.contains(name.as_str()),
            _ => false,
        };
        let handed_on = matches!(&used.reference, Reference::Env(name)
            if used.zone != Zone::Start && handed_on.contains(name.as_str()));
        if !needed || own || handed_on || problems.len() >= MAX_PROBLEMS {
            continue;
        }
        let reference = used.reference.clone();
        let mut problem =
            unresolved(&Unresolved { reference, span: used.span, reason: Reason::Undefined }, values);
        if matches!(&used.reference, Reference::Env(name) if secrets.contains(name.as_str())) {
            "this secret has no value here: set it in --env-file or in the environment"
                .clone_into(problem.help.get_or_insert_default());
        }
        problems.push(problem);
    }
    problems
}

/// The positions of images that only left-out steps use.
fn idle_images(pipeline: &Pipeline, left_out: &HashMap<StepId, String>) -> HashSet<usize> {
    let (mut used, mut idle) = (HashSet::new(), HashSet::new());
    for step in pipeline.steps() {
        let positions =
            step.action.images().into_iter().filter_map(|name| pipeline.images.get_index_of(&name.value));
        if left_out.contains_key(&step.id) { idle.extend(positions) } else { used.extend(positions) }
    }
    idle.retain(|position| !used.contains(position));
    idle
}

/// The words that may be variables from the file `$RUNNER_ENV`: all words of commands that mention it, and the exported
/// variables.
fn handed_on(pipeline: &Pipeline) -> HashSet<&str> {
    let texts = pipeline.steps().flat_map(|step| match &step.action {
        Action::Run(Command::Script(script)) => vec![script.as_str()],
        Action::Run(Command::Argv(argv)) => argv.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    });
    let words = texts
        .filter(|text| text.contains("RUNNER_ENV"))
        // `printf "A=1\nB=2\n"` sets B.
        .flat_map(|text| text.split("\\n"))
        .flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    words.chain(pipeline.env.exported.iter().map(|name| name.value.as_str())).collect()
}

/// The message for a reference that cannot be replaced by its value.
pub(crate) fn unresolved(unresolved: &Unresolved, values: &Values) -> Diagnostic {
    let Unresolved { reference, span, reason } = unresolved;
    match reason {
        Reason::Undefined => undefined(reference, *span, values),
        Reason::TooLong => {
            let message = format!("this text is longer than {} KiB with its values", MAX_VALUE / 1024);
            Diagnostic::new(message, *span).help("put data of this size in a file")
        }
        // The check of the file has refused secrets by name, so this variable contains one.
        Reason::Secret(exposure) => exposure
            .diagnostic(&reference.to_string(), *span)
            .help("the variable contains a secret; use another one"),
    }
}

/// The built-in that a variable without a value may mean. Environment variables are usually in upper case.
fn builtin_for(name: &str) -> Option<&'static str> {
    let is_of_source = ["commit", "sha", "branch", "tag"].iter().any(|word| name.contains(word));
    builtin_elsewhere(name).filter(|_| is_of_source)
}

/// The message for a reference without a value.
fn undefined(reference: &Reference, span: Span, values: &Values) -> Diagnostic {
    let problem = Diagnostic::new(format!("`${{{reference}}}` has no value"), span);
    match reference {
        Reference::Env(name) => {
            let meant = closest(name, values.names()).or_else(|| builtin_for(name));
            let help = meant.map_or_else(
                || {
                    format!(
                        "set it under `env`, in the environment or with --env-file, write `${{{name}:-default}}`, or list it in `exported-variables` if a command sets it through $RUNNER_ENV"
                    )
                },
                |candidate| format!("did you mean `${{{candidate}}}`?"),
            );
            problem.help(help)
        }
        Reference::Builtin(builtin) => problem.help(match builtin {
            Builtin::SourceCommit | Builtin::SourceCommitShort if values.lacks_git => {
                "install git, or add it to PATH: runner asks it for the commit".to_owned()
            }
            Builtin::SourceBranch | Builtin::SourceBranchSlug if values.lacks_git => {
                "install git, or add it to PATH: runner asks it for the branch; or set RUNNER_BRANCH".to_owned()
            }
            Builtin::SourceTag if values.lacks_git => {
                "install git, or add it to PATH: runner asks it for the tag".to_owned()
            }
            Builtin::SourceCommit | Builtin::SourceCommitShort => {
                "run in a git repository with a commit (in a container git may need `git config --global --add safe.directory DIR`; in CodeBuild a zip from S3 has no commit), or give the image other `tags`"
                    .to_owned()
            }
            Builtin::SourceBranch | Builtin::SourceBranchSlug => {
                "the branch is unknown; set RUNNER_BRANCH (under CodePipeline, to `#{SourceVariables.BranchName}`)"
                    .to_owned()
            }
            Builtin::AwsRegion => "set AWS_REGION".to_owned(),
            Builtin::ImageUri(name) | Builtin::ImageDigest(name) => {
                format!("the image `{name}` has not been pushed; put a `push` step before this one")
            }
            other => format!("this build has none; write `${{{other}:-default}}` if it is optional"),
        }),
    }
}

/// The title of a step. References without a value stay as written.
pub(crate) fn title(step: &Step, values: &Values, hide: &dyn Fn(&str) -> String) -> String {
    match &step.name {
        Some(name) => values.known(name, Some(&step.env)),
        None => describe(&step.action, hide),
    }
}

/// The title of a step without a name.
fn describe(action: &Action, hide: &dyn Fn(&str) -> String) -> String {
    let names = |names: &[Name]| {
        let names: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
        names.join(", ")
    };
    match action {
        Action::Run(Command::Script(script)) => {
            let mut lines =
                script.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
            let first = lines.next().unwrap_or_default().trim();
            shorten(&hide(first), lines.next().is_some())
        }
        Action::Run(Command::Argv(argv)) => shorten(&hide(&argv.join(" ")), false),
        Action::Build(images) => format!("build {}", names(images)),
        Action::Push(images) => format!("push {}", names(images)),
        Action::Test(test) => format!("test {}", test.image.value),
        Action::TaskDefinition(definition) => match &definition.base {
            TaskDefinitionBase::Family(_) => "task definition of a family".to_owned(),
            TaskDefinitionBase::File(_) => "task definition from a file".to_owned(),
            TaskDefinitionBase::Service { .. } => "task definition of a service".to_owned(),
        },
        Action::RunTask(_) => "run a task".to_owned(),
        Action::Parallel(steps) => format!("{} parallel steps", steps.len()),
        other => other.kind().replace('-', " "),
    }
}

/// At most 60 characters, with an ellipsis if the text is cut or there is more.
fn shorten(text: &str, more: bool) -> String {
    let mut short: String = text.chars().take(60).collect();
    if more || short.len() < text.len() {
        short.push('…');
    }
    short
}
