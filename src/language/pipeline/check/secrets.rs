//! Keeps secrets out of images, tags and task definitions.

use super::task_definition;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::Pipeline;
use crate::language::pipeline::template::{Reference, Template};
use std::collections::HashMap;

/// Reports secrets in the history and the labels of images, in addresses, tags and task definitions.
pub(crate) fn check(pipeline: &Pipeline, problems: &mut Vec<Diagnostic>) {
    // Variables that hold a secret, each with the name of the secret.
    let mut secret: HashMap<&str, &str> =
        pipeline.secret_names().into_iter().map(|name| (name, name)).collect();
    // A variable that refers to a secret holds it. Variables may refer to earlier ones.
    let tables = std::iter::once(&pipeline.env.variables).chain(pipeline.steps().map(|step| &step.env));
    for (name, value) in tables.flatten() {
        if let Some(root) = secret_in(value, &secret) {
            secret.entry(name).or_insert(root);
        }
    }
    for image in pipeline.images.values() {
        for value in image.args.values() {
            if let Some(name) = secret_in(value, &secret) {
                let message = format!(
                    "the secret `{name}` is passed as a build argument, which stays in the image's history"
                );
                let help = format!(
                    "write `secrets: [{name}]` for the image, and `RUN --mount=type=secret,id={name}` in the Dockerfile"
                );
                problems.push(Diagnostic::new(message, value.span).help(help));
            }
        }
        for (what, values) in [
            ("a label", image.labels.values().collect::<Vec<_>>()),
            ("a tag", image.tags.iter().collect()),
            ("the address", vec![&image.repository]),
        ] {
            for value in values {
                if let Some(name) = secret_in(value, &secret) {
                    let message = format!("the secret `{name}` would be readable in {what} of the image");
                    problems.push(
                        Diagnostic::new(message, value.span).help("use a variable that is not a secret"),
                    );
                }
            }
        }
    }
    for definition in pipeline.steps().filter_map(task_definition) {
        for value in definition.containers.values().flat_map(|container| container.environment.values()) {
            if let Some(name) = secret_in(value, &secret) {
                let message = format!("the secret `{name}` would be readable in the task definition");
                problems.push(
                    Diagnostic::new(message, value.span)
                        .warning()
                        .help("let ECS inject it: `secrets: { NAME: ARN }` in the task definition"),
                );
            }
        }
    }
}

/// The secret that a template refers to.
fn secret_in<'p>(value: &Template, secret: &HashMap<&str, &'p str>) -> Option<&'p str> {
    value.references().find_map(|reference| match reference {
        Reference::Env(name) => secret.get(name.as_str()).copied(),
        Reference::Builtin(_) => None,
    })
}
