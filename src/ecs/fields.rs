//! The known fields of a `RegisterTaskDefinition` request: how `model.rs` describes them, and the detection of typos.
//! Unknown fields are sent unchanged.

use super::model::REQUEST;
use crate::text::closest;
use serde_json::{Map, Value};

/// The fields of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape(pub(super) &'static [Field]);

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Default,
}

/// The type of a value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// A whole number.
    Whole,
    /// `true` or `false`.
    Flag,
    List(&'static Kind),
    /// An object with free names, whose values are texts.
    Texts,
    Object(&'static Shape),
}

/// The value that a missing field means, if the model states it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    None,
    Text(&'static str),
    Whole(u64),
    Flag(bool),
}

impl Field {
    pub(super) const fn new(name: &'static str, kind: Kind, default: Default) -> Self {
        Self { name, kind, default }
    }
}

impl Shape {
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.0.iter().find(|field| field.name == name)
    }
}

/// A warning for each unknown field whose name resembles a known one.
pub(crate) fn likely_typos(request: &Map<String, Value>) -> Vec<String> {
    let mut typos = Vec::new();
    check("", &REQUEST, request, &mut typos);
    typos
}

/// Checks the object in the field `holder`, and its inner objects.
fn check(holder: &str, shape: &Shape, object: &Map<String, Value>, typos: &mut Vec<String>) {
    for (name, value) in object {
        if let Some(field) = shape.field(name) {
            check_value(name, &field.kind, value, typos);
        } else if let Some(close) = closest(name, shape.0.iter().map(|field| field.name)) {
            let at = if holder.is_empty() { String::new() } else { format!(" of `{holder}`") };
            typos.push(format!(
                "ECS may not know the field `{name}`{at}, which is sent unchanged; did you mean `{close}`?"
            ));
        }
    }
}

fn check_value(name: &str, kind: &Kind, value: &Value, typos: &mut Vec<String>) {
    match (kind, value) {
        (Kind::List(inner), Value::Array(items)) => {
            for item in items {
                check_value(name, inner, item, typos);
            }
        }
        (Kind::Object(shape), Value::Object(fields)) => check(name, shape, fields, typos),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn typos_are_found_at_every_depth_but_not_in_free_form_names() {
        let request = json!({
            "famly": "f", "brandNewField": { "anything": 1 },
            "volumes": [{ "name": "v", "efsVolumeConfiguration": { "fileSystemID": "fs", "authorizationConfig": { "iam": "ENABLED" } } }],
            "containerDefinitions": [{
                "name": "web", "dockerLabels": { "enviroment": "x" },
                "portMappings": [{ "contianerPort": 80 }], "healthCheck": { "comand": ["true"] },
                "logConfiguration": { "logDriver": "awslogs", "option": {}, "options": { "awslogs-grup": "g" } },
            }],
        });
        let typos = likely_typos(request.as_object().unwrap());
        let fields = [
            ("famly", "family"),
            ("fileSystemID", "fileSystemId"),
            ("contianerPort", "containerPort"),
            ("comand", "command"),
            ("option", "options"),
        ];
        assert_eq!(typos.len(), fields.len(), "{typos:#?}");
        for (field, meant) in fields {
            let is_it =
                |typo: &&String| typo.contains(&format!("`{field}`")) && typo.contains(&format!("`{meant}`"));
            assert!(typos.iter().any(|typo| is_it(&typo)), "{field}: {typos:#?}");
        }
        assert!(typos.iter().any(|typo| typo.contains("of `portMappings`")));
    }
}
