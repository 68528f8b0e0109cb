//! The language as JSON Schema, for editors.
//!
//! Draft 7, because the YAML language server supports it best. The schema cannot check names that the file itself
//! defines; `runner validate` does.

use super::keys::{KeyKind, Table};
use super::pipeline::tables::{PIPELINE, STEP, TEST};
use serde_json::{Map, Value, json};

pub(crate) fn schema() -> Value {
    let mut definitions = Map::new();
    table(&PIPELINE, &mut definitions);
    let root = definitions.shift_remove(PIPELINE.name).unwrap_or_default();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline of runner",
    });
    if let (Some(schema), Value::Object(root)) = (schema.as_object_mut(), root) {
        schema.extend(root);
        schema.insert("definitions".to_owned(), Value::Object(definitions));
    }
    schema
}

/// Adds a table and the tables that it refers to to the definitions.
fn table(table: &'static Table, definitions: &mut Map<String, Value>) {
    if definitions.contains_key(table.name) {
        return;
    }
    // Inserted first, because tables are recursive: steps hold steps.
    definitions.insert(table.name.to_owned(), Value::Null);
    let mut properties = Map::new();
    for key in table.keys {
        let mut property = kind(&key.kind, definitions);
        let about = if key.ready {
            key.about.to_owned()
        } else {
            format!("{} (Not supported yet by this version.)", key.about)
        };
        if let Some(property) = property.as_object_mut() {
            if property.contains_key("$ref") {
                // Draft 7 ignores the siblings of a reference.
                let reference = std::mem::take(property);
                property.insert("allOf".to_owned(), json!([reference]));
            }
            property.insert("description".to_owned(), about.into());
            if let Some(default) = key.default.and_then(yaml) {
                property.insert("default".to_owned(), default);
            }
            if let Some(example) = key.example.and_then(yaml) {
                property.insert("examples".to_owned(), json!([example]));
            }
        }
        properties.insert(key.name.to_owned(), property);
    }
    let required: Vec<&str> = table.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": table.about,
        "properties": properties,
        "patternProperties": { "^x-": { "description": "Your own key. runner ignores it." } },
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let groups = table.one_of.iter().map(|group| {
        let one: Vec<Value> = group.iter().map(|key| json!({ "required": [key] })).collect();
        json!({ "oneOf": one })
    });
    let groups: Vec<Value> = groups.collect();
    if !groups.is_empty() {
        schema["allOf"] = json!(groups);
    }
    if table.name == STEP.name {
        // These keys need `test`.
        let needs = TEST.iter().map(|key| ((*key).to_owned(), json!(["test"])));
        schema["dependencies"] = Value::Object(needs.collect());
    }
    definitions.insert(table.name.to_owned(), schema);
}

fn kind(what: &'static KeyKind, definitions: &mut Map<String, Value>) -> Value {
    match what {
        KeyKind::Text | KeyKind::Plain => json!({ "type": ["string", "number", "boolean"] }),
        KeyKind::Version => json!({ "const": 1 }),
        KeyKind::Boolean => json!({ "type": "boolean" }),
        KeyKind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        KeyKind::Duration => {
            json!({ "type": "string", "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2 })
        }
        KeyKind::Size => json!({ "type": "string", "pattern": "^[0-9]+([bB]|[kKmMgG][bB]?)$" }),
        KeyKind::Choice(words) => json!({ "enum": words }),
        KeyKind::Image => json!({ "type": "string" }),
        KeyKind::Variable => json!({ "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" }),
        KeyKind::Glob => json!({ "type": "string", "pattern": "^[^!^\\[\\]{}\\\\][^\\[\\]{}\\\\]*$" }),
        KeyKind::Table(inner) => {
            table(inner, definitions);
            json!({ "$ref": format!("#/definitions/{}", inner.name) })
        }
        KeyKind::List(item) => json!({ "type": "array", "items": kind(item, definitions) }),
        KeyKind::OneOrMore(item) => {
            let one = kind(item, definitions);
            json!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
        }
        KeyKind::Map(_, value) => {
            json!({
                "type": ["object", "null"],
                "patternProperties": { "^x-": {} },
                "additionalProperties": kind(value, definitions),
            })
        }
        KeyKind::Either(kinds) => {
            let kinds: Vec<Value> = kinds.iter().map(|one| kind(one, definitions)).collect();
            json!({ "anyOf": kinds })
        }
        KeyKind::Document => json!({ "type": "object" }),
    }
}

/// A value that a table gives as YAML.
fn yaml(text: &str) -> Option<Value> {
    serde_yaml::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::super::pipeline::tables::KINDS;
    use super::*;

    fn visit(table: &'static Table, seen: &mut Vec<&'static str>) {
        if seen.contains(&table.name) {
            return;
        }
        seen.push(table.name);
        for key in table.keys {
            for text in key.default.iter().chain(&key.example) {
                assert!(yaml(text).is_some(), "{}.{}: {text}", table.name, key.name);
            }
            assert!(key.about.ends_with('.'), "{}.{}", table.name, key.name);
            inner(&key.kind, seen);
        }
        for group in table.one_of.iter().copied().flatten() {
            assert!(table.key(group).is_some(), "{group}");
        }
    }

    fn inner(kind: &'static KeyKind, seen: &mut Vec<&'static str>) {
        match kind {
            KeyKind::Table(table) => visit(table, seen),
            KeyKind::List(kind) | KeyKind::OneOrMore(kind) | KeyKind::Map(_, kind) => inner(kind, seen),
            KeyKind::Either(kinds) => kinds.iter().for_each(|kind| inner(kind, seen)),
            _ => {}
        }
    }

    #[test]
    fn the_tables_agree_with_themselves() {
        for key in KINDS.iter().chain(TEST) {
            assert!(STEP.key(key).is_some(), "{key}");
        }
        visit(&PIPELINE, &mut Vec::new());
    }
}
