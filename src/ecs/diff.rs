//! The differences between two task definitions, without those that have no meaning.

use super::normal::normal;
use super::task_definition::Request;
use crate::address::Arn;
use serde_json::{Map, Value};
use similar::TextDiff;

/// Replaces the value of an unchanged variable.
const UNCHANGED: &str = "(unchanged)";

/// A unified diff of two definitions in normal form. Returns `None` if they are equivalent.
pub(crate) fn compare(before: &Request, after: &Request) -> Option<String> {
    let (mut before, mut after) = (normal(before), normal(after));
    align_roles(&mut before, &mut after);
    if before == after {
        return None;
    }
    hide_unchanged(&mut before, &mut after);
    let lines = |value: &Map<String, Value>| {
        serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
    };
    let (before, after) = (lines(&before), lines(&after));
    let diff = TextDiff::from_lines(&before, &after);
    Some(diff.unified_diff().context_radius(3).header("before", "after").to_string())
}

/// Hides the values of unchanged variables, because people keep passwords there.
fn hide_unchanged(before: &mut Map<String, Value>, after: &mut Map<String, Value>) {
    let unchanged: Vec<(Value, Value)> = {
        let of_after: Vec<(Value, Value)> = variables(after).map(|(at, entry)| (at, entry.clone())).collect();
        let of_before = variables(before).map(|(at, entry)| (at, entry.clone()));
        of_before.filter(|one| of_after.contains(one)).collect()
    };
    for definition in [before, after] {
        for (at, entry) in variables(definition) {
            if unchanged.iter().any(|(place, known)| *place == at && known == entry) {
                entry["value"] = Value::from(UNCHANGED);
            }
        }
    }
}

/// The variables of all containers, each with the container's name.
fn variables(definition: &mut Map<String, Value>) -> impl Iterator<Item = (Value, &mut Value)> {
    let containers = definition.get_mut("containerDefinitions").and_then(Value::as_array_mut);
    containers.into_iter().flatten().flat_map(|container| {
        let name = container.get("name").cloned().unwrap_or_default();
        let entries = container.get_mut("environment").and_then(Value::as_array_mut);
        entries.into_iter().flatten().map(move |entry| (name.clone(), entry))
    })
}

/// If one side has a role's name and the other its ARN, both get the ARN.
fn align_roles(before: &mut Map<String, Value>, after: &mut Map<String, Value>) {
    for field in ["taskRoleArn", "executionRoleArn"] {
        let roles = [&*before, &*after]
            .map(|fields| fields.get(field).and_then(Value::as_str).map(ToOwned::to_owned));
        if let [Some(one), Some(other)] = roles {
            let is_of =
                |arn: &str, name: &str| Arn::parse(arn).is_some_and(|arn| arn.resource_name() == name);
            if is_of(&one, &other) {
                after.insert(field.to_owned(), Value::from(one));
            } else if is_of(&other, &one) {
                before.insert(field.to_owned(), Value::from(other));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(document: Value) -> Request {
        Request::from_document(document).unwrap()
    }

    fn written() -> Value {
        json!({
            "family": "web", "cpu": "0.25 vCPU", "memory": "0.5 GB", "networkMode": "awsvpc",
            "taskRoleArn": "task", "requiresCompatibilities": ["FARGATE", "EC2"],
            "containerDefinitions": [
                { "name": "web", "image": "i", "portMappings": [{ "containerPort": 80 }],
                  "healthCheck": { "command": ["CMD", "x"] },
                  "environment": [{ "name": "B", "value": "2" }, { "name": "A", "value": "1" }] },
                { "name": "a", "image": "j" }
            ],
            "tags": [{ "key": "z", "value": "1" }, { "key": "a", "value": "2" }]
        })
    }

    #[test]
    fn fields_that_ecs_adds_are_no_difference() {
        let described = json!({
            "taskDefinition": {
                "family": "web", "revision": 4, "cpu": "256", "memory": "512", "networkMode": "awsvpc", "volumes": [],
                "placementConstraints": [], "taskRoleArn": "arn:aws:iam::123456789012:role/path/task",
                "requiresCompatibilities": ["EC2", "FARGATE"],
                "containerDefinitions": [
                    { "name": "a", "image": "j", "cpu": 0, "essential": true, "environment": [], "mountPoints": [],
                      "volumesFrom": [], "portMappings": [], "systemControls": [] },
                    { "name": "web", "image": "i", "cpu": 0, "essential": true,
                      "portMappings": [{ "containerPort": 80, "hostPort": 80, "protocol": "tcp" }],
                      "healthCheck": { "command": ["CMD", "x"], "interval": 30, "timeout": 5, "retries": 3 },
                      "environment": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }] }
                ]
            },
            "tags": [{ "key": "a", "value": "2" }, { "key": "z", "value": "1" }]
        });
        assert_eq!(compare(&request(described), &request(written())), None);
    }

    #[test]
    fn a_host_port_counts_if_it_is_chosen() {
        let with = |mode: &str, port: Value| {
            let container = json!({ "name": "web", "image": "i", "portMappings": [port] });
            request(json!({ "family": "web", "networkMode": mode, "containerDefinitions": [container] }))
        };
        let fixed = json!({ "containerPort": 80, "hostPort": 80 });
        let [any, none] = [json!({ "containerPort": 80, "hostPort": 0 }), json!({ "containerPort": 80 })];
        for mode in ["awsvpc", "host"] {
            assert_eq!(compare(&with(mode, fixed.clone()), &with(mode, none.clone())), None);
        }
        assert_eq!(compare(&with("bridge", any), &with("bridge", none.clone())), None);
        assert!(compare(&with("bridge", fixed), &with("bridge", none)).is_some());
    }

    #[test]
    fn meaningful_differences_are_shown() {
        for (pointer, value) in [
            ("/containerDefinitions/0/image", json!("other")),
            ("/containerDefinitions/0/essential", json!(false)),
            ("/containerDefinitions/0/environment/0/value", json!("")),
            ("/containerDefinitions/0/healthCheck/command/1", json!("y")),
            ("/cpu", json!("512")),
            ("/taskRoleArn", json!("arn:aws:iam::123456789012:role/other")),
            ("/tags/0/value", json!("3")),
            ("/future", json!({ "nested": 0 })),
        ] {
            let mut changed = written();
            match changed.pointer_mut(pointer) {
                Some(place) => *place = value.clone(),
                None => match pointer.rsplit_once('/').unwrap() {
                    ("", name) => changed[name] = value.clone(),
                    (parent, name) => changed.pointer_mut(parent).unwrap()[name] = value.clone(),
                },
            }
            let difference =
                compare(&request(written()), &request(changed)).unwrap_or_else(|| panic!("{pointer}"));
            assert!(difference.contains("\n+"), "{pointer}: {difference}");
        }
        let mut changed = written();
        changed["cpu"] = json!("1024");
        let text = compare(&request(written()), &request(changed)).unwrap();
        assert!(text.contains("-  \"cpu\": \"256\",\n+  \"cpu\": \"1024\","), "{text}");
    }

    #[test]
    fn values_that_do_not_change_are_not_shown() {
        let with = |image: &str, value: &str| {
            json!({ "family": "f", "containerDefinitions": [{ "name": "a", "image": image, "environment": [
                { "name": "A", "value": value }, { "name": "PASSWORD", "value": "hunter2" }] }] })
        };
        let text = compare(&request(with("i", "1")), &request(with("j", "2"))).unwrap();
        assert!(text.contains("\"value\": \"(unchanged)\"") && text.contains("\"value\": \"2\""), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_form_of_numbers_means_nothing() {
        let with = |number: &str| {
            let text = format!(
                r#"{{ "family": "f", "cpu": {number}, "new": [{{ "a": {number} }}], "containerDefinitions": [{{ "name": "a", "cpu": {number} }}] }}"#
            );
            request(crate::document::parse(&text).unwrap())
        };
        for (one, other) in [
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("0.0", "-0"),
            ("256", "256.00"),
            ("18446744073709551616", "18446744073709551616.0"),
        ] {
            assert_eq!(compare(&with(one), &with(other)), None, "{one} {other}");
        }
        for (one, other) in [
            ("18446744073709551616", "18446744073709551617"),
            ("0.1", "0.1000000000000000055"),
            ("1e999", "1e998"),
        ] {
            assert!(compare(&with(one), &with(other)).is_some(), "{one} {other}");
        }
    }

    #[test]
    fn the_order_of_commands_means_something() {
        let with = |command: Value| json!({ "family": "f", "containerDefinitions": [{ "name": "a", "command": command }] });
        assert!(compare(&request(with(json!(["a", "b"]))), &request(with(json!(["b", "a"])))).is_some());
    }
}
