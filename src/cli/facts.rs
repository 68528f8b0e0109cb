//! Reads the facts of the source on which plans and policies depend. A file that cannot be read has no facts.

use crate::docker::context::{self, Selection};
use crate::docker::ignore::IgnoreFile;
use crate::docker::solver::{self, is_remote};
use crate::document;
use crate::ecs::needs::Needs;
use crate::ecs::task_definition::Request;
use crate::files;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{Action, Image, Pipeline, RunTask, StepId, TaskDefinitionBase};
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
            images: needs.images.into_iter().map(|(_, image)| image).collect(),
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

/// Reports containers of the pipeline that the task definition's file does not have.
pub(crate) fn containers(pipeline: &Pipeline, definitions: &HashMap<StepId, Definition>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let no_container = |name: &str, known: &Definition, span: Span| {
        let names = || known.containers.iter().map(String::as_str);
        let help = closest(name, names()).map_or_else(
            || format!("it has {}", listed(names())),
            |found| format!("did you mean `{found}`?"),
        );
        let message = format!("the task definition's file has no container `{name}`");
        (!known.containers.iter().any(|own| own == name)).then(|| Diagnostic::new(message, span).help(help))
    };
    // The task definition of a task is known if it is the pipeline's only one and a file.
    let registers = pipeline.steps().filter(|step| matches!(step.action, Action::TaskDefinition(_))).count();
    let only = definitions.values().next().filter(|_| registers == 1);
    for step in pipeline.steps() {
        if let (Action::RunTask(RunTask { container: Some(container), .. }), Some(known)) =
            (&step.action, only)
        {
            problems.extend(no_container(&container.value, known, container.span));
        }
        let (Action::TaskDefinition(definition), Some(known)) = (&step.action, definitions.get(&step.id))
        else {
            continue;
        };
        problems.extend(
            definition.containers.iter().filter_map(|(name, change)| no_container(name, known, change.span)),
        );
    }
    problems
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
