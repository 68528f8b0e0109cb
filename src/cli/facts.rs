//! Reads the facts of the source on which plans and policies depend. A file that cannot be read has no facts.

use crate::address::ImageReference;
use crate::docker::context::{self, Selection};
use crate::docker::ignore::IgnoreFile;
use crate::docker::solver::{self, is_remote};
use crate::document;
use crate::ecs::needs::Needs;
use crate::ecs::task_definition::Request;
use crate::files;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{
    Action, Image, Pipeline, RunTask, StepId, TaskDefinition, TaskDefinitionBase,
};
use crate::language::pipeline::template::Template;
use crate::language::source::Span;
use crate::plan::facts::{Definition, Facts};
use crate::plan::outline::ContextSize;
use crate::plan::scope::Values;
use crate::text::{closest, listed};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The size limit of a file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Go's `os.ModeDir`, which the walk uses.
const DIRECTORY: u32 = 1 << 31;

/// Reads the facts of a pipeline.
pub(crate) fn facts(pipeline: &Pipeline, values: &Values, directory: &Path) -> Facts {
    let base_images = pipeline.images.iter().filter_map(|(name, image)| {
        let text = read(&dockerfile(image, values, directory)?)?;
        Some((name.clone(), base_images(&text, image)))
    });
    Facts { definitions: definitions(pipeline, values, directory), base_images: base_images.collect() }
}

/// The text of a file, unless it cannot be read, is too large or is not UTF-8.
fn read(path: &Path) -> Option<String> {
    String::from_utf8(files::read_small(path, MAX_BYTES).ok()?).ok()
}

/// The base files of `task-definition` steps.
pub(crate) fn definitions(
    pipeline: &Pipeline,
    values: &Values,
    directory: &Path,
) -> HashMap<StepId, Definition> {
    let definition = |file: &Path| {
        let text = read(file)?;
        let request = Request::from_document(document::parse(&text).ok()?).ok()?;
        let needs = Needs::of(request.fields());
        Some(Definition {
            images: needs.images,
            secrets: needs.secrets.into_iter().map(|(_, reference)| reference).collect(),
            family: Some(request.family().to_owned()),
            roles: needs.roles,
            log_groups: request.log_groups(),
            containers: request.containers(),
            tagged: request.is_tagged(),
        })
    };
    let steps = pipeline.steps().filter_map(|step| match &step.action {
        Action::TaskDefinition(definition) => match &definition.base {
            TaskDefinitionBase::File(file) => {
                Some((step.id, resolved(file, &values.with_step(&step.env).ok()?)?))
            }
            _ => None,
        },
        _ => None,
    });
    steps.filter_map(|(id, file)| Some((id, definition(&directory.join(file))?))).collect()
}

/// Compares the pipeline with its task definition files: containers that they do not have, and images in them that
/// cannot be pulled. A container of `image-definitions` is a warning, because its service may run another definition.
pub(crate) fn compare(pipeline: &Pipeline, definitions: &HashMap<StepId, Definition>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let registering = || pipeline.steps().filter(|step| matches!(step.action, Action::TaskDefinition(_)));
    // The task definition of a task is known if it is the pipeline's only one and a file.
    let only = definitions.values().next().filter(|_| registering().count() == 1);
    let all: Option<Vec<&Definition>> = registering().map(|step| definitions.get(&step.id)).collect();
    for step in pipeline.steps() {
        match &step.action {
            Action::RunTask(RunTask { container: Some(container), .. }) => {
                let known: Vec<&Definition> = only.into_iter().collect();
                problems.extend(no_container(&container.value, &known, container.span));
            }
            Action::ImageDefinitions(pairs) => {
                let known = all.as_deref().unwrap_or_default();
                let missing = pairs.iter().filter_map(|(name, image)| no_container(name, known, image.span));
                problems.extend(missing.map(Diagnostic::warning));
            }
            Action::TaskDefinition(definition) => {
                let Some(known) = definitions.get(&step.id) else { continue };
                let changed = definition.containers.iter();
                problems
                    .extend(changed.filter_map(|(name, change)| no_container(name, &[known], change.span)));
                problems.extend(unusable_images(definition, known));
            }
            _ => {}
        }
    }
    problems
}

/// The problem if none of the task definitions has a container. Without any, nothing is known.
fn no_container(name: &str, known: &[&Definition], span: Span) -> Option<Diagnostic> {
    let names = || known.iter().flat_map(|known| known.containers.iter().map(String::as_str));
    if known.is_empty() || names().any(|own| own == name) {
        return None;
    }
    let help = closest(name, names())
        .map_or_else(|| format!("it has {}", listed(names())), |found| format!("did you mean `{found}`?"));
    Some(Diagnostic::new(format!("the task definition's file has no container `{name}`"), span).help(help))
}

/// Images of containers that keep them, and that cannot be pulled.
fn unusable_images(definition: &TaskDefinition, known: &Definition) -> Vec<Diagnostic> {
    let TaskDefinitionBase::File(file) = &definition.base else { return Vec::new() };
    let kept = known.images.iter().filter(|(container, _)| definition.keeps_image(container));
    let problem = |(container, image): &(String, String)| {
        let error = ImageReference::checked(image).err()?;
        let help = format!("correct it in the file, or write `image` for the container `{container}`");
        let is_placeholder = ImageReference::is_placeholder(image);
        let what = if is_placeholder { "it is a placeholder".to_owned() } else { error.to_string() };
        let message =
            format!("the task definition's file: the image `{image}` of the container `{container}`: {what}");
        let problem = Diagnostic::new(message, file.span).help(help);
        Some(if is_placeholder { problem.warning() } else { problem })
    };
    kept.filter_map(problem).collect()
}

/// The text of a field that names a file, if its values are known.
fn resolved(template: &Template, values: &Values) -> Option<String> {
    Some(template.resolve(values).ok()?.expose().to_owned())
}

/// The Dockerfile of an image, found as in a build.
fn dockerfile(image: &Image, values: &Values, directory: &Path) -> Option<PathBuf> {
    let context = directory.join(resolved(&image.context, values)?);
    let written = match &image.dockerfile {
        Some(written) => Some(resolved(written, values)?),
        None => None,
    };
    Some(context::dockerfile(directory, &context, written.as_deref()))
}

/// The base images of a Dockerfile that name a registry or a path. Only literal arguments are resolved; others stay as
/// written.
fn base_images(dockerfile: &str, image: &Image) -> Vec<String> {
    let arguments = image.args.iter().filter_map(|(name, value)| Some((name.clone(), value.as_literal()?)));
    let names = solver::base_images(dockerfile, &arguments.collect(), &[]);
    names
        .into_iter()
        .map(|name| name.unwrap_or_else(|written| written))
        .filter(|name| name.contains('/'))
        .collect()
}

/// The sizes of the contexts of the pipeline's images without the files that `.dockerignore` excludes.
pub(crate) fn context_sizes(
    pipeline: &Pipeline,
    values: &Values,
    directory: &Path,
) -> HashMap<String, ContextSize> {
    let size = |image: &Image| {
        let unknown = |reason: String| ContextSize { problem: Some(reason), ..ContextSize::default() };
        let Some(context) = resolved(&image.context, values) else {
            return unknown("the directory is unknown before the run".to_owned());
        };
        if is_remote(&context) {
            return unknown("the engine fetches it".to_owned());
        }
        let context = directory.join(context);
        if !context.is_dir() {
            return unknown("this directory does not exist here".to_owned());
        }
        let ignore = match IgnoreFile::read(dockerfile(image, values, directory).as_deref(), &context) {
            Ok(ignore) => ignore,
            Err(error) => return unknown(crate::exit::chain(&error)),
        };
        let (mut files, mut bytes) = (0, 0);
        let selection = Selection { exclude: ignore.patterns(), ..Selection::default() };
        let walked = context::walk(&context, &selection, &mut |stat| {
            if stat.mode & DIRECTORY == 0 {
                files += 1;
                bytes += u64::try_from(stat.size).unwrap_or_default();
            }
            true
        });
        match walked {
            Ok(()) => ContextSize { files: Some(files), bytes: Some(bytes), problem: None },
            Err(error) => unknown(crate::exit::chain(&error.placed(|| ignore))),
        }
    };
    pipeline.images.iter().map(|(name, image)| (name.clone(), size(image))).collect()
}
