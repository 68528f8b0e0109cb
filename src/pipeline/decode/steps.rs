//! A step: exactly one kind, and the keys that every step may have.

use super::fields::{Decoder, Fields, is_ignored};
use super::phases;
use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::keys;
use crate::pipeline::model::{
    Action, Command, ContainerChange, Deploy, Step, TaskDefinition, TaskDefinitionBase, Test,
};
use crate::pipeline::tree::{Entry, Node, Value};
use crate::text::listed;

pub(super) fn step(d: &mut Decoder<'_>, node: &Node) -> Option<Step> {
    let kinds = kinds(node);
    let is_test = kinds.iter().any(|entry| entry.key == "test");
    let fields = if is_test {
        d.fields_of(node, &keys::STEP, &[&keys::KINDS, &keys::TEST])?
    } else {
        d.fields_of(node, &keys::STEP, &[&keys::KINDS])?
    };
    let action = match kinds.as_slice() {
        [kind] => action(d, kind, &fields),
        [] => {
            d.problem(
                Diagnostic::new("this step does nothing", node.span)
                    .help(format!("a step needs one of {}", listed(keys::KINDS.ready.iter().copied()))),
            );
            None
        }
        [first, second, ..] => {
            let message =
                format!("a step does one thing, but this one has `{}` and `{}`", first.key, second.key);
            d.problem(Diagnostic::new(message, second.key_span).help("make it a step of its own"));
            None
        }
    };
    Some(Step {
        name: d.optional(&fields, "name", Decoder::template),
        when: d.optional(&fields, "when", phases::when),
        env: d.variables(fields.get("env")),
        dir: d.optional(&fields, "dir", Decoder::template),
        action: action?,
    })
}

/// The entries of a step that say what it does.
fn kinds(node: &Node) -> Vec<&Entry> {
    let Value::Map(entries) = &node.value else {
        return Vec::new();
    };
    entries
        .iter()
        .filter(|entry| !is_ignored(&entry.key))
        .filter(|entry| {
            let key = entry.key.as_str();
            keys::KINDS.ready.contains(&key) || keys::KINDS.later.contains(&key)
        })
        .collect()
}

fn action(d: &mut Decoder<'_>, kind: &Entry, fields: &Fields<'_>) -> Option<Action> {
    let node = &kind.node;
    match kind.key.as_str() {
        "run" => command(d, node).map(Action::Run),
        "build" => d.one_or_more_names(node).map(Action::Build),
        "push" => d.one_or_more_names(node).map(Action::Push),
        "test" => test(d, node, fields).map(Action::Test),
        "image-definitions" => {
            let pairs = d.named(Some(node), "images", super::fields::Decoder::name);
            if pairs.is_empty() {
                d.problem(
                    Diagnostic::new("`image-definitions` names no container", kind.key_span)
                        .help("write `image-definitions: { CONTAINER: IMAGE }`"),
                );
            }
            Some(Action::ImageDefinitions(pairs))
        }
        "task-definition" => task_definition(d, node).map(Action::TaskDefinition),
        "deploy" => deploy(d, node).map(Action::Deploy),
        // The key itself has been refused already.
        _ => None,
    }
}

fn command(d: &mut Decoder<'_>, node: &Node) -> Option<Command> {
    if let Value::List(items) = &node.value {
        if items.is_empty() {
            d.problem(Diagnostic::new("`run` has no program to start", node.span));
            return None;
        }
        return Some(Command::Argv(d.list(node, "arguments", super::fields::Decoder::text)));
    }
    if let Value::Map(_) = node.value {
        d.problem(Diagnostic::new("`run` is a script or a list, but this is a mapping", node.span).help(
            "a `: ` in a plain text makes a mapping of it; write the script as a block after `run: |`",
        ));
        return None;
    }
    d.literal(node).map(Command::Script)
}

fn test(d: &mut Decoder<'_>, node: &Node, fields: &Fields<'_>) -> Option<Test> {
    let mut argv = |key: &str| d.optional(fields, key, Decoder::one_or_more_templates);
    let (command, entrypoint) = (argv("command"), argv("entrypoint"));
    Some(Test {
        command,
        entrypoint,
        secrets: d.optional(fields, "secrets", Decoder::one_or_more_names).unwrap_or_default(),
        user: d.optional(fields, "user", Decoder::template),
        workdir: d.optional(fields, "workdir", Decoder::template),
        image: d.name(node)?,
    })
}

fn task_definition(d: &mut Decoder<'_>, node: &Node) -> Option<TaskDefinition> {
    let fields = d.fields(node, &keys::TASK_DEFINITION)?;
    let bases: Vec<&Entry> =
        ["family", "file", "service"].into_iter().filter_map(|key| fields.entry(key)).collect();
    let base = match bases.as_slice() {
        [base] => match base.key.as_str() {
            "family" => d.template(&base.node).map(TaskDefinitionBase::Family),
            "file" => d.template(&base.node).map(TaskDefinitionBase::File),
            _ => base_service(d, &base.node),
        },
        [] => {
            d.problem(
                Diagnostic::new("`task-definition` has nothing to start from", fields.span)
                    .help("give it one of `family`, `file` and `service`"),
            );
            None
        }
        [_, second, ..] => {
            d.problem(
                Diagnostic::new("`task-definition` starts from one place", second.key_span)
                    .help("keep one of `family`, `file` and `service`"),
            );
            None
        }
    };
    let containers = d.named(fields.get("containers"), "containers", container);
    Some(TaskDefinition { base: base?, containers })
}

fn base_service(d: &mut Decoder<'_>, node: &Node) -> Option<TaskDefinitionBase> {
    let fields = d.fields(node, &keys::BASE_SERVICE)?;
    let cluster = d.required(&fields, "cluster").and_then(|node| d.template(node));
    let name = d.required(&fields, "name").and_then(|node| d.template(node));
    Some(TaskDefinitionBase::Service { cluster: cluster?, name: name? })
}

fn container(d: &mut Decoder<'_>, node: &Node) -> Option<ContainerChange> {
    let fields = d.fields(node, &keys::CONTAINER)?;
    Some(ContainerChange {
        image: d.optional(&fields, "image", Decoder::name),
        environment: d.text_map(fields.get("environment")),
    })
}

fn deploy(d: &mut Decoder<'_>, node: &Node) -> Option<Deploy> {
    let fields = d.fields(node, &keys::DEPLOY)?;
    let cluster = d.required(&fields, "cluster").and_then(|node| d.template(node));
    let services = match (fields.entry("service"), fields.entry("services")) {
        (Some(one), None) => d.template(&one.node).map(|service| vec![service]),
        (None, Some(several)) => d.one_or_more_templates(&several.node),
        (Some(_), Some(several)) => {
            d.problem(
                Diagnostic::new("`service` and `services` exclude each other", several.key_span)
                    .help("keep one of the two"),
            );
            None
        }
        (None, None) => {
            d.problem(Diagnostic::new("`deploy` needs `service` or `services`", fields.span));
            None
        }
    };
    let task_definition = d.optional(&fields, "task-definition", Decoder::template);
    Some(Deploy { cluster: cluster?, services: services?, task_definition })
}
