//! What the parts of a pipeline say of each other: everything that is named must exist, and be there when it is used.

mod flow;
mod images;
mod secrets;

use super::model::{Action, Name, Pipeline, Step, StepId, TaskDefinition, TaskDefinitionBase, Use, Zone};
use super::reference::family_of;
use super::template::{Builtin, Reference};
use crate::language::diagnostic::{Diagnostic, ENOUGH};
use crate::language::source::Span;
use crate::text::{closest, listed};
use flow::Flow;
use std::collections::{HashMap, HashSet};

/// Reports every reference to something that the file does not define, and every use of something that cannot be there.
/// `whole` says that no step was lost on the way, so that what steps give each other can be judged.
pub(crate) fn references(pipeline: &Pipeline, whole: bool, problems: &mut Vec<Diagnostic>) {
    images::check(pipeline, problems);
    names(pipeline, problems);
    secrets::check(pipeline, problems);
    containers(pipeline, problems);
    families(pipeline, problems);
    image_detail(pipeline, problems);
    task_definition_file(pipeline, problems);
    for used in pipeline.uses.iter().filter(|used| used.zone == Zone::Variables) {
        early(pipeline, used, problems);
    }
    if whole {
        Flow::new(pipeline, &HashMap::new(), problems).check();
    }
}

/// Reports every step of this build that needs what only steps make that are left out of it, with the reasons why they are.
pub(crate) fn unmet(pipeline: &Pipeline, left_out: &HashMap<StepId, String>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    if !left_out.is_empty() {
        Flow::new(pipeline, left_out, &mut problems).check();
    }
    problems
}

fn names(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let known: HashSet<&str> = pipeline.env.names().collect();
    for secret in pipeline.images.values().flat_map(|image| &image.secrets) {
        secret_exists(pipeline, &known, secret, problems);
    }
    for step in pipeline.steps() {
        if problems.len() > ENOUGH {
            return;
        }
        for image in step.action.images() {
            if !pipeline.images.contains_key(&image.value) && problems.len() < ENOUGH {
                problems.push(unknown_image(pipeline, &image.value, image.span));
            }
        }
        if let Action::Test(test) = &step.action {
            for secret in &test.secrets {
                secret_exists(pipeline, &known, secret, problems);
            }
        }
    }
    for used in &pipeline.uses {
        if let Some(name) = used.image()
            && !pipeline.images.contains_key(name)
            && problems.len() < ENOUGH
        {
            problems.push(unknown_image(pipeline, name, used.span));
        }
    }
}

impl Use {
    /// The image whose address or digest is referred to.
    fn image(&self) -> Option<&str> {
        match &self.reference {
            Reference::Builtin(Builtin::ImageUri(name) | Builtin::ImageDigest(name)) => Some(name),
            _ => None,
        }
    }
}

fn unknown_image(pipeline: &Pipeline, name: &str, span: Span) -> Diagnostic {
    let known = || pipeline.images.keys().map(String::as_str);
    let help = match closest(name, known()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None if pipeline.images.is_empty() => "the file describes no image; add it under `images`".to_owned(),
        None => format!("known images: {}", listed(known())),
    };
    Diagnostic::new(format!("there is no image `{name}`"), span).help(help)
}

fn secret_exists(pipeline: &Pipeline, known: &HashSet<&str>, name: &Name, problems: &mut Vec<Diagnostic>) {
    if known.contains(name.value.as_str()) || problems.len() > ENOUGH {
        return;
    }
    let help = closest(&name.value, pipeline.env.names()).map_or_else(
        || "secrets are named under `env`, in `parameter-store` or `secrets-manager`".to_owned(),
        |candidate| format!("did you mean `{candidate}`?"),
    );
    problems.push(Diagnostic::new(format!("`env` gives no `{}`", name.value), name.span).help(help));
}

fn task_definition(step: &Step) -> Option<&TaskDefinition> {
    match &step.action {
        Action::TaskDefinition(definition) => Some(definition),
        _ => None,
    }
}

/// Families that `deploy` and `run-task` name. Where every family that the pipeline registers is known, one that looks like a
/// typing mistake is one; and where there are several, the step has to say which it means.
fn families(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut known: Vec<String> = Vec::new();
    for definition in pipeline.steps().filter_map(task_definition).filter(|one| one.registers()) {
        let family = match &definition.base {
            TaskDefinitionBase::Family(family) => {
                family.as_literal().map(|family| family_of(&family).to_owned())
            }
            TaskDefinitionBase::File(_) | TaskDefinitionBase::Service { .. } => None,
        };
        // One that is known elsewhere only may be any.
        let Some(family) = family else { return };
        if !known.contains(&family) {
            known.push(family);
        }
        if known.len() > ENOUGH {
            return;
        }
    }
    for step in pipeline.steps() {
        let named = match &step.action {
            Action::Deploy(deploy) => &deploy.task_definition,
            Action::RunTask(task) => &task.task_definition,
            _ => continue,
        };
        match named {
            Some(template) => {
                let name = template.as_literal().filter(|name| !known.contains(name));
                let meant = name.as_deref().and_then(|name| closest(name, known.iter().map(String::as_str)));
                if let (Some(name), Some(meant)) = (&name, meant) {
                    let message = format!("no step registers the task definition `{name}`");
                    problems.push(
                        Diagnostic::new(message, template.span).help(format!("did you mean `{meant}`?")),
                    );
                }
            }
            // Each build may come to one of them only.
            None if known.len() > 1 => {
                let families = listed(known.iter().map(String::as_str));
                let message = format!("the pipeline registers several task definitions: {families}");
                problems.push(
                    Diagnostic::new(message, step.span)
                        .warning()
                        .help("where one build registers several, say which with `task-definition: FAMILY`"),
                );
            }
            None => {}
        }
    }
}

/// Containers are named in several steps, and only ECS knows all of them: a name that looks like a typing mistake of
/// another one is worth a warning.
fn containers(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let known: HashMap<&str, Span> = pipeline
        .steps()
        .filter_map(task_definition)
        .flat_map(|definition| &definition.containers)
        .map(|(name, container)| (name.as_str(), container.span))
        .collect();
    let named = pipeline.steps().flat_map(|step| match &step.action {
        Action::RunTask(task) => {
            task.container.iter().map(|name| (name.value.as_str(), name.span)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    });
    for (name, span) in named.filter(|(name, _)| !known.contains_key(name)) {
        if known.len() < ENOUGH
            && problems.len() < ENOUGH
            && let Some(candidate) = closest(name, known.keys().copied())
        {
            problems.push(
                Diagnostic::new(format!("no `task-definition` step mentions the container `{name}`"), span)
                    .warning()
                    .related(known[candidate], "this one is similar")
                    .help(format!("did you mean `{candidate}`?")),
            );
        }
    }
}

/// What `CodePipeline` gets is not written over what it is made from.
fn task_definition_file(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    for definition in pipeline.steps().filter_map(task_definition).filter(|one| !one.registers()) {
        if let TaskDefinitionBase::File(file) = &definition.base
            && file.as_literal().is_some_and(|file| file.trim_start_matches("./") == "taskdef.json")
        {
            let message = "`code-pipeline` writes `taskdef.json`, which is also what it would be made from";
            problems.push(
                Diagnostic::new(message, file.span)
                    .help("give the source another name, such as `taskdef.source.json`"),
            );
        }
    }
}

/// `imageDetail.json` holds one image: what `image-definitions` names first has to be what the task definition for `CodePipeline` asks for.
fn image_detail(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let wanted = pipeline.steps().filter_map(task_definition).find_map(|definition| {
        let by = definition.code_pipeline.as_ref()?;
        definition.containers.get(&by.container.value)?.image.as_ref()
    });
    let Some(wanted) = wanted else { return };
    for step in pipeline.steps() {
        let Action::ImageDefinitions(pairs) = &step.action else { continue };
        if let Some((_, first)) = pairs.first().filter(|(_, first)| first.value != wanted.value) {
            let message = format!(
                "`imageDetail.json` would hold the image `{}`, but `code-pipeline` is about `{}`",
                first.value, wanted.value
            );
            problems.push(
                Diagnostic::new(message, first.span)
                    .warning()
                    .related(wanted.span, "this one")
                    .help("name the container with this image first"),
            );
        }
    }
}

/// `env.variables` have their values before anything is fetched or pushed.
fn early(pipeline: &Pipeline, used: &Use, problems: &mut Vec<Diagnostic>) {
    let what = match &used.reference {
        Reference::Env(name) if pipeline.env.secret_names().any(|secret| secret == name) => {
            format!("the secret `{name}`")
        }
        _ => match used.image() {
            Some(image) => format!("the address of the image `{image}`"),
            None => return,
        },
    };
    problems.push(
        Diagnostic::new(format!("{what} is not known yet when `env.variables` get their values"), used.span)
            .help("write it in the `env` of the steps that need it"),
    );
}
