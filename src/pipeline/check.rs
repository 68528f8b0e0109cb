//! References between the parts of a pipeline: everything that is named must exist.

use super::diagnostic::Diagnostic;
use super::model::{Action, Name, NotifyTarget, Phase, Pipeline, TaskDefinitionBase};
use super::source::Span;
use super::template::{Builtin, Reference, Template, variable_part};
use crate::text::{closest, listed};
use indexmap::IndexMap;

/// Reports every reference to an image or a secret that the file does not define.
pub(super) fn references(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    for (at, name) in pipeline.images.keys().enumerate() {
        let same = |other: &&String| variable_part(other) == variable_part(name);
        if let (Some(other), Some(image)) =
            (pipeline.images.keys().take(at).find(same), pipeline.images.get(name))
        {
            let message = format!(
                "the images `{other}` and `{name}` would share the variable RUNNER_IMAGE_{}_URI",
                variable_part(name)
            );
            problems.push(Diagnostic::new(message, image.repository.span).help("rename one of the two"));
        }
    }
    for image in pipeline.images.values() {
        for secret in &image.secrets {
            secret_exists(pipeline, secret, problems);
        }
    }
    for step in pipeline.phases.iter().flat_map(Phase::all_steps) {
        for image in step.action.images() {
            if !pipeline.images.contains_key(&image.value) {
                problems.push(unknown_image(pipeline, &image.value, image.span));
            }
        }
        if let Action::Test(test) = &step.action {
            for secret in &test.secrets {
                secret_exists(pipeline, secret, problems);
            }
        }
    }
    let mut images_exist = |template: &Template| {
        for (reference, _) in template.references() {
            if let Reference::Builtin(Builtin::ImageUri(name) | Builtin::ImageDigest(name)) = reference
                && !pipeline.images.contains_key(name)
            {
                problems.push(unknown_image(pipeline, name, template.span));
            }
        }
    };
    templates(pipeline, &mut |template, _| images_exist(template));
    notify_templates(pipeline).for_each(images_exist);
}

fn unknown_image(pipeline: &Pipeline, name: &str, span: Span) -> Diagnostic {
    let known = || pipeline.images.keys().map(String::as_str);
    let help = closest(name, known()).map_or_else(
        || format!("known images: {}", listed(known())),
        |candidate| format!("did you mean `{candidate}`?"),
    );
    Diagnostic::new(format!("there is no image `{name}`"), span).help(help)
}

fn secret_exists(pipeline: &Pipeline, name: &Name, problems: &mut Vec<Diagnostic>) {
    if pipeline.env.names().any(|known| known == name.value) {
        return;
    }
    let help = closest(&name.value, pipeline.env.names()).map_or_else(
        || "secrets are named under `env`, in `parameter-store` or `secrets-manager`".to_owned(),
        |candidate| format!("did you mean `{candidate}`?"),
    );
    problems.push(Diagnostic::new(format!("`env` gives no `{}`", name.value), name.span).help(help));
}

/// A step's own variables, for templates that may use them.
type Own<'p> = Option<&'p IndexMap<String, Template>>;

/// Calls `visit` with every template of the pipeline that is resolved when a step or an image needs it, and with the
/// variables that only its step has. Not among them: `env.variables`, which is resolved before all else, and `notify`,
/// which has values only where something is sent.
pub fn templates<'p>(pipeline: &'p Pipeline, visit: &mut dyn FnMut(&'p Template, Own<'p>)) {
    let env = &pipeline.env;
    for template in env.parameter_store.values().chain(env.secrets_manager.values()) {
        visit(template, None);
    }
    for image in pipeline.images.values() {
        let fields = [&image.repository, &image.context].into_iter();
        let fields = fields.chain(&image.dockerfile).chain(&image.target);
        let fields = fields.chain(image.args.values()).chain(image.labels.values());
        for template in fields.chain(&image.tags).chain(&image.cache_from) {
            visit(template, None);
        }
    }
    for step in pipeline.phases.iter().flat_map(Phase::all_steps) {
        for template in step.env.values() {
            visit(template, None);
        }
        for template in step.name.iter().chain(&step.dir).chain(action_templates(&step.action)) {
            visit(template, Some(&step.env));
        }
    }
}

/// The templates of `notify`.
pub fn notify_templates(pipeline: &Pipeline) -> impl Iterator<Item = &Template> {
    pipeline.notify.iter().flat_map(|notify| {
        let (url, headers) = match &notify.target {
            NotifyTarget::Slack { url } => (url, None),
            NotifyTarget::Webhook { url, headers } => (url, Some(headers.values())),
        };
        std::iter::once(url).chain(headers.into_iter().flatten())
    })
}

fn action_templates(action: &Action) -> Vec<&Template> {
    match action {
        Action::Run(_) | Action::Build(_) | Action::Push(_) | Action::ImageDefinitions(_) => Vec::new(),
        Action::Test(test) => {
            let argv = test.command.iter().chain(&test.entrypoint).flatten();
            argv.chain(&test.user).chain(&test.workdir).collect()
        }
        Action::TaskDefinition(definition) => {
            let mut templates = match &definition.base {
                TaskDefinitionBase::Family(text) | TaskDefinitionBase::File(text) => vec![text],
                TaskDefinitionBase::Service { cluster, name } => vec![cluster, name],
            };
            let containers = definition.containers.values();
            templates.extend(containers.flat_map(|container| container.environment.values()));
            templates
        }
        Action::Deploy(deploy) => {
            std::iter::once(&deploy.cluster).chain(&deploy.services).chain(&deploy.task_definition).collect()
        }
    }
}
