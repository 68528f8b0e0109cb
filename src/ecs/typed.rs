//! Gives the values of a task definition the types that ECS expects. YAML reads `256` and `true` as a number and a
//! boolean, and people leave empty list entries.

use super::field_path::FieldPath;
use super::fields::{Kind, Shape};
use super::task_definition::TaskDefinitionError;
use serde_json::{Map, Value};

/// Writes numbers and booleans as texts if ECS expects a text, and drops nulls from lists. Any other wrong type is an
/// error with its place.
pub(super) fn typed(shape: &Shape, fields: &mut Map<String, Value>) -> Result<(), TaskDefinitionError> {
    object(&FieldPath::default(), shape, fields)
}

fn object(
    place: &FieldPath,
    shape: &Shape,
    fields: &mut Map<String, Value>,
) -> Result<(), TaskDefinitionError> {
    for (name, value) in fields {
        if let Some(field) = shape.field(name) {
            let is_needed = NEVER_EMPTY.contains(&(place.holder(), field.name));
            let place = place.field(name);
            if is_needed && *value == "" {
                return Err(TaskDefinitionError::Empty(place));
            }
            of_kind(&place, &field.kind, value)?;
        }
    }
    Ok(())
}

/// Texts that ECS refuses if they are empty, by the field that holds the object.
const NEVER_EMPTY: [(&str, &str); 5] = [
    ("", "family"),
    ("", "taskRoleArn"),
    ("", "executionRoleArn"),
    ("containerDefinitions", "name"),
    ("containerDefinitions", "image"),
];

fn of_kind(place: &FieldPath, kind: &Kind, value: &mut Value) -> Result<(), TaskDefinitionError> {
    match (kind, value) {
        (Kind::Text, Value::String(_)) | (Kind::Whole, Value::Number(_)) | (Kind::Flag, Value::Bool(_)) => {}
        (Kind::Text, value @ (Value::Number(_) | Value::Bool(_))) => *value = Value::from(value.to_string()),
        (Kind::List(inner), Value::Array(items)) => {
            for (at, item) in items.iter_mut().enumerate().filter(|(_, item)| !item.is_null()) {
                of_kind(&place.item(at), inner, item)?;
            }
            items.retain(|item| !item.is_null());
        }
        (Kind::Texts, Value::Object(fields)) => {
            for (name, value) in fields {
                of_kind(&place.field(name), &Kind::Text, value)?;
            }
        }
        (Kind::Object(shape), Value::Object(fields)) => object(place, shape, fields)?,
        (_, value) => {
            let (expected, found) = (expected(kind), found(value));
            return Err(TaskDefinitionError::Type { place: place.clone(), expected, found });
        }
    }
    Ok(())
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Whole => "a number without quotes",
        Kind::Flag => "true or false without quotes",
        Kind::List(Kind::Object(_)) => "a list of objects",
        Kind::List(_) => "a list",
        Kind::Texts | Kind::Object(_) => "an object",
    }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use crate::ecs::task_definition::Request;
    use serde_json::{Value, json};

    fn sent(yaml: &str) -> Result<Value, String> {
        let document = crate::document::parse(yaml).unwrap();
        Request::from_document(document).map(Request::into_json).map_err(|error| error.to_string())
    }

    /// Findings, D10.
    #[test]
    fn what_yaml_reads_as_a_number_or_boolean_is_sent_as_the_text_that_ecs_expects() {
        let yaml = "family: 7\ncpu: 256\nmemory: 0.50\ntags: [{ key: 1, value: false }]\n\
                    volumes: [{ name: v, dockerVolumeConfiguration: { driverOpts: { size: 10, fast: true } } }]\n\
                    containerDefinitions:\n- name: web\n  cpu: 0\n  essential: true\n  command: [sleep, 10, 1.10]\n  \
                    environment: [{ name: A, value: true }, { name: B, value: 8080 }]\n  dockerLabels: { n: 1 }\n  \
                    logConfiguration: { logDriver: awslogs, options: { mode: non-blocking, n: 3, awslogs-create-group: true } }\n  \
                    ulimits: [{ name: nofile, softLimit: 1, hardLimit: 2 }]\n  future: [1, true, null]\n";
        let expected = json!({
            "family": "7", "cpu": "256", "memory": "0.50", "tags": [{ "key": "1", "value": "false" }],
            "volumes": [{ "name": "v", "dockerVolumeConfiguration": { "driverOpts": { "size": "10", "fast": "true" } } }],
            "containerDefinitions": [{
                "name": "web", "cpu": 0, "essential": true, "command": ["sleep", "10", "1.10"],
                "environment": [{ "name": "A", "value": "true" }, { "name": "B", "value": "8080" }],
                "dockerLabels": { "n": "1" },
                "logConfiguration": { "logDriver": "awslogs",
                    "options": { "mode": "non-blocking", "n": "3", "awslogs-create-group": "true" } },
                "ulimits": [{ "name": "nofile", "softLimit": 1, "hardLimit": 2 }],
                "future": [1, true, null],
            }],
        });
        assert_eq!(sent(yaml), Ok(expected));
    }

    /// Findings, D10 and D19: anything else is an error with its place.
    #[test]
    fn other_types_are_errors_with_their_place() {
        let container =
            |field: &str| sent(&format!("family: f\ncontainerDefinitions: [{{ name: a, {field} }}]\n"));
        for (field, says) in [
            ("cpu: '256'", "`containerDefinitions[0].cpu` must be a number without quotes, not a text"),
            (
                "essential: 'true'",
                "`containerDefinitions[0].essential` must be true or false without quotes, not a text",
            ),
            (
                "environment: { A: b }",
                "`containerDefinitions[0].environment` must be a list of objects, not an object",
            ),
            ("command: sleep 1", "`containerDefinitions[0].command` must be a list, not a text"),
            (
                "environment: [{ name: A, value: [1] }]",
                "`containerDefinitions[0].environment[0].value` must be a text, not a list",
            ),
            (
                "portMappings: [80]",
                "`containerDefinitions[0].portMappings[0]` must be an object, not a number",
            ),
            ("dockerLabels: [a]", "`containerDefinitions[0].dockerLabels` must be an object, not a list"),
            (
                "healthCheck: { interval: '30' }",
                "`containerDefinitions[0].healthCheck.interval` must be a number",
            ),
        ] {
            let error = container(field).unwrap_err();
            assert!(error.contains(says), "{field}: {error}");
        }
    }

    /// Findings, D19.
    #[test]
    fn an_empty_text_that_ecs_needs_is_named() {
        let written = |fields: &str| sent(&format!("family: f\n{fields}"));
        for (fields, place) in [
            ("taskRoleArn: ''\ncontainerDefinitions: []\n", "taskRoleArn"),
            ("executionRoleArn: ''\ncontainerDefinitions: []\n", "executionRoleArn"),
            ("containerDefinitions: [{ name: a, image: '' }]\n", "containerDefinitions[0].image"),
            ("containerDefinitions: [{ name: '', image: i }]\n", "containerDefinitions[0].name"),
        ] {
            assert_eq!(written(fields), Err(format!("`{place}` is empty")));
        }
        // An empty value of a variable means something, and a response may spell out that there is no role.
        assert!(
            written("containerDefinitions: [{ name: a, environment: [{ name: A, value: '' }] }]\n").is_ok()
        );
        assert!(written("taskDefinitionArn: arn\ntaskRoleArn: ''\ncontainerDefinitions: []\n").is_ok());
    }

    /// Findings, D14.
    #[test]
    fn nulls_are_dropped_from_the_lists_that_ecs_defines() {
        let request = json!({
            "family": "f", "volumes": [null], "tags": [null],
            "containerDefinitions": [null, { "name": "a", "environment": [null, { "name": "A", "value": "b" }],
                "command": [null, "x"], "mountPoints": [null], "linuxParameters": { "capabilities": { "add": [null] } } }],
        });
        let expected = json!({
            "family": "f", "volumes": [],
            "containerDefinitions": [{ "name": "a", "environment": [{ "name": "A", "value": "b" }],
                "command": ["x"], "mountPoints": [], "linuxParameters": { "capabilities": { "add": [] } } }],
        });
        assert_eq!(Request::from_document(request).unwrap().into_json(), expected);
    }
}
