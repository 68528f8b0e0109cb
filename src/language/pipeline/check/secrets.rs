//! Keeps secrets out of fields whose value others can read.

use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::Pipeline;
use crate::language::pipeline::template::{Reference, Template};
use std::collections::HashMap;

/// Reports secrets, and variables that contain one, in exposed fields.
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
    let mut reported = None;
    for used in &pipeline.uses {
        if let (Some(exposure), Reference::Env(name)) = (used.exposure, &used.reference)
            && let Some(root) = secret.get(name.as_str())
            // One message is enough for a scalar.
            && reported != Some(used.span)
        {
            reported = Some(used.span);
            problems.push(exposure.diagnostic(root, used.span));
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
