//! Checks the references between the parts of a pipeline: everything that is named must be defined, and made before it
//! is used.

mod code_pipeline;
mod flow;
mod images;
mod secrets;

use super::model::{Action, Name, Pipeline, Step, StepId, TaskDefinition, TaskDefinitionBase, Use, Zone};
use super::reference::family_of;
use super::template::{Builtin, Reference};
use crate::language::diagnostic::{Diagnostic, MAX_PROBLEMS};
use crate::language::source::Span;
use crate::text::{closest, listed};
use flow::Flow;
use std::collections::{HashMap, HashSet};

/// Reports references to undefined things, and uses of things that are not made before. The latter only if `whole`: all
/// steps could be decoded.
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
        code_pipeline::undeployed(pipeline, problems);
        Flow::new(pipeline, &HashMap::new(), problems).check();
    }
}

/// Reports steps of this build that need something that only left-out steps make, with the reasons.
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
        if problems.len() > MAX_PROBLEMS {
            return;
        }
        for image in step.action.images() {
            if !pipeline.images.contains_key(&image.value) && problems.len() < MAX_PROBLEMS {
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
            && problems.len() < MAX_PROBLEMS
        {
            problems.push(unknown_image(pipeline, name, used.span));
        }
    }
}

impl Use {
    /// The image of a reference to an address or digest.
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
        None if pipeline.images.is_empty() => "the file defines no images; add it under `images`".to_owned(),
        None => format!("known images: {}", listed(known())),
    };
    Diagnostic::new(format!("there is no image `{name}`"), span).help(help)
}

fn secret_exists(pipeline: &Pipeline, known: &HashSet<&str>, name: &Name, problems: &mut Vec<Diagnostic>) {
    if known.contains(name.value.as_str()) || problems.len() > MAX_PROBLEMS {
        return;
    }
    let help = closest(&name.value, pipeline.env.names()).map_or_else(
        || "define secrets under `env`, in `parameter-store` or `secrets-manager`".to_owned(),
        |candidate| format!("did you mean `{candidate}`?"),
    );
    problems.push(Diagnostic::new(format!("`env` does not define `{}`", name.value), name.span).help(help));
}

fn task_definition(step: &Step) -> Option<&TaskDefinition> {
    match &step.action {
        Action::TaskDefinition(definition) => Some(definition),
        _ => None,
    }
}

/// Checks the families that `deploy` and `run-task` name, if all families that the pipeline registers are known: reports
/// misspelt ones, and warns about steps that do not choose one of several.
fn families(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    let mut known: Vec<String> = Vec::new();
    for definition in pipeline.steps().filter_map(task_definition).filter(|one| one.registers()) {
        let family = match &definition.base {
            TaskDefinitionBase::Family(family) => {
                family.as_literal().map(|family| family_of(&family).to_owned())
            }
            TaskDefinitionBase::File(_) | TaskDefinitionBase::Service { .. } => None,
        };
        // An unknown family may have any name.
        let Some(family) = family else { return };
        if !known.contains(&family) {
            known.push(family);
        }
        if known.len() > MAX_PROBLEMS {
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
            // A warning, because each build may register only one of them.
            None if known.len() > 1 => {
                let families = listed(known.iter().map(String::as_str));
                let message = format!("the pipeline registers several task definitions: {families}");
                problems.push(
                    Diagnostic::new(message, step.span)
                        .warning()
                        .help("if one build registers several, choose one with `task-definition: FAMILY`"),
                );
            }
            None => {}
        }
    }
}

/// Warns about container names that look misspelt. It is no error, because only ECS knows all containers.
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
        Action::ImageDefinitions(pairs) => {
            pairs.iter().map(|(container, image)| (container.as_str(), image.span)).collect()
        }
        _ => Vec::new(),
    });
    for (name, span) in named.filter(|(name, _)| !known.contains_key(name)) {
        if known.len() < MAX_PROBLEMS
            && problems.len() < MAX_PROBLEMS
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

/// `code-pipeline` must not overwrite the file that it reads.
fn task_definition_file(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    for definition in pipeline.steps().filter_map(task_definition).filter(|one| !one.registers()) {
        if let TaskDefinitionBase::File(file) = &definition.base
            && file.as_literal().is_some_and(|file| file.trim_start_matches("./") == "taskdef.json")
        {
            let message = "`code-pipeline` would overwrite its input `taskdef.json`";
            problems.push(
                Diagnostic::new(message, file.span)
                    .help("rename the source, for example to `taskdef.source.json`"),
            );
        }
    }
}

/// `imageDetail.json` has one image: the first of `image-definitions`. The task definition for `CodePipeline` must use it.
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
                "`imageDetail.json` would name the image `{}`, but `code-pipeline` uses `{}`",
                first.value, wanted.value
            );
            problems.push(
                Diagnostic::new(message, first.span)
                    .warning()
                    .related(wanted.span, "this image")
                    .help("put the container with this image first"),
            );
        }
    }
}

/// `env.variables` are resolved before anything is fetched or pushed.
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
        Diagnostic::new(format!("{what} is unknown when `env.variables` are resolved"), used.span)
            .help("put it into the `env` of the steps that need it"),
    );
}
