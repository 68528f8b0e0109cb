//! The normal form of a task definition, which is equal for equivalent ones: without defaults, with sorted sets.

use super::fields::{Default, Field, Kind, Shape};
use super::model::REQUEST;
use super::number;
use super::task_definition::Request;
use serde_json::{Map, Number, Value, json};

/// The lists whose order means something, by the field that holds them. All others that ECS defines are sets.
const ORDERED: [&str; 9] = [
    "command",
    "credentialSpecs",
    "dnsSearchDomains",
    "dnsServers",
    "entryPoint",
    "environmentFiles",
    "extraHosts",
    "mountOptions",
    "volumesFrom",
];

/// Defaults that ECS's model does not state in a form that `.dev.d/ecs-model` understands: the object's field, the field
/// and the value. The source is the text of the same model (ECS's API reference) unless a line names another.
fn more_defaults() -> [(&'static str, &'static str, Value); 12] {
    [
        ("containerDefinitions", "essential", json!(true)),
        ("healthCheck", "startPeriod", json!(0)),
        ("restartPolicy", "restartAttemptPeriod", json!(300)),
        ("devices", "permissions", json!(["mknod", "read", "write"])),
        // The only value.
        ("proxyConfiguration", "type", json!("APPMESH")),
        ("efsVolumeConfiguration", "rootDirectory", json!("/")),
        ("s3filesVolumeConfiguration", "rootDirectory", json!("/")),
        // Zero is no port: ECS selects one.
        ("efsVolumeConfiguration", "transitEncryptionPort", json!(0)),
        ("s3filesVolumeConfiguration", "transitEncryptionPort", json!(0)),
        // The developer guide, "Docker volume parameters".
        ("dockerVolumeConfiguration", "scope", json!("task")),
        ("dockerVolumeConfiguration", "driver", json!("local")),
        // Docker selects the directory.
        ("host", "sourcePath", json!("")),
    ]
}

/// The defaults of Fargate, by the developer guide, "Task definition parameters".
const FARGATE_PLATFORM: [(&str, &str); 2] =
    [("operatingSystemFamily", "LINUX"), ("cpuArchitecture", "X86_64")];

/// The normal form.
pub(super) fn normal(request: &Request) -> Map<String, Value> {
    let mut fields = request.fields().clone();
    fields.values_mut().for_each(normal_numbers);
    for (field, unit, per_unit) in [("cpu", "vcpu", 1024.0), ("memory", "gb", 1024.0)] {
        if let Some(value) = fields.get_mut(field) {
            *value = Value::from(amount(value, unit, per_unit));
        }
    }
    let is_on_fargate = fields
        .get("requiresCompatibilities")
        .and_then(Value::as_array)
        .is_some_and(|kinds| kinds.iter().any(|kind| kind == "FARGATE"));
    // In other network modes, a container port without a host port gets a random one.
    let shares_ports =
        is_on_fargate || fields.get("networkMode").is_some_and(|mode| mode == "awsvpc" || mode == "host");
    let containers = fields.get_mut("containerDefinitions").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        normal_ports(container, shares_ports);
        normal_devices(container);
    }
    if is_on_fargate {
        if let Some(platform) = fields.get_mut("runtimePlatform").and_then(Value::as_object_mut) {
            platform.retain(|field, value| {
                !FARGATE_PLATFORM.iter().any(|(name, default)| field == name && value == default)
            });
        }
        // Its network mode has no default.
        let mode = fields.remove("networkMode");
        normal_object("", &REQUEST, &mut fields);
        fields.extend(mode.map(|mode| ("networkMode".to_owned(), mode)));
    } else {
        normal_object("", &REQUEST, &mut fields);
    }
    sorted(fields)
}

/// Removes default values and sorts sets. `holder` is the field that holds the object.
fn normal_object(holder: &str, shape: &Shape, fields: &mut Map<String, Value>) {
    let names: Vec<String> = fields.keys().cloned().collect();
    for name in names {
        let Some(field) = shape.field(&name) else { continue };
        let Some(value) = fields.get_mut(&name) else { continue };
        normal_value(&name, &field.kind, value);
        if default_of(holder, field).is_some_and(|default| *value == default) {
            fields.remove(&name);
        }
    }
}

fn normal_value(name: &str, kind: &Kind, value: &mut Value) {
    match (kind, value) {
        (Kind::Object(shape), Value::Object(fields)) => normal_object(name, shape, fields),
        (Kind::List(inner), Value::Array(items)) => {
            for item in items.iter_mut() {
                normal_value(name, inner, item);
            }
            if !ORDERED.contains(&name) {
                // Of two entries with one name, the last one counts, so their order stays.
                let key = |item: &Value| {
                    let name = item.get("name").or_else(|| item.get("key"));
                    name.unwrap_or(item).to_string()
                };
                items.sort_by_cached_key(key);
            }
        }
        _ => {}
    }
}

/// The value that a missing field means.
fn default_of(holder: &str, field: &Field) -> Option<Value> {
    let more = more_defaults().into_iter().find(|(of, name, _)| *of == holder && *name == field.name);
    match (more, field.default, field.kind) {
        (Some((_, _, default)), _, _) => Some(default),
        (None, Default::Text(text), _) => Some(json!(text)),
        (None, Default::Whole(number), _) => Some(json!(number)),
        (None, Default::Flag(flag), _) => Some(json!(flag)),
        // What is not switched on is off.
        (None, Default::None, Kind::Flag) => Some(json!(false)),
        (None, Default::None, _) => None,
    }
}

/// 1.50 equals 1.5, and 1e3 equals 1000.
fn normal_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => *number = number::normal(number),
        Value::Array(items) => items.iter_mut().for_each(normal_numbers),
        Value::Object(fields) => fields.values_mut().for_each(normal_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// With `shares_ports`, the host port always equals the container port.
fn normal_ports(container: &mut Map<String, Value>, shares_ports: bool) {
    let ports = container.get_mut("portMappings").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if shares_ports || port.get("hostPort") == Some(&json!(0)) {
            port.remove("hostPort");
        }
    }
}

/// A device has the host's path in the container unless another one is given.
fn normal_devices(container: &mut Map<String, Value>) {
    let devices = container.get_mut("linuxParameters").and_then(|parameters| parameters.get_mut("devices"));
    let devices = devices.and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten().filter_map(Value::as_object_mut) {
        if device.contains_key("containerPath") && device.get("containerPath") == device.get("hostPath") {
            device.remove("containerPath");
        }
    }
}

/// `0.25 vCPU` equals 256, and `1 GB` equals 1024.
fn amount(value: &Value, unit: &str, per_unit: f64) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let lower = text.trim().to_ascii_lowercase();
    let count = lower.strip_suffix(unit).and_then(|count| count.trim().parse::<f64>().ok());
    let plain = || match text.trim().parse::<Number>() {
        Ok(number) => number::normal(&number).to_string(),
        Err(_) => text.trim().to_owned(),
    };
    count.map_or_else(plain, |count| format!("{}", (count * per_unit).round()))
}

/// Sorts objects by their keys, and removes empty values.
fn sorted(fields: Map<String, Value>) -> Map<String, Value> {
    let mut entries: Vec<(String, Value)> = fields.into_iter().collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let whole = entries.into_iter().filter_map(|(name, value)| {
        let value = sorted_value(value);
        let is_empty =
            value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
        // An empty one still makes a Docker volume out of a directory of the host.
        (!is_empty || name == "dockerVolumeConfiguration").then_some((name, value))
    });
    whole.collect()
}

fn sorted_value(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(sorted(fields)),
        Value::Array(items) => Value::Array(items.into_iter().map(sorted_value).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecs::diff::compare;

    /// Gets the holder, a field, and what wraps the object that has it.
    type Visit<'v> = &'v mut dyn FnMut(&str, &'static Field, &dyn Fn(Value) -> Value);

    /// Every field of a shape with its place: the objects and lists on the way to it, as they are in a request.
    fn each(shape: &'static Shape, holder: &'static str, wrap: &dyn Fn(Value) -> Value, visit: Visit<'_>) {
        for field in shape.0 {
            visit(holder, field, wrap);
            let (inner, is_list) = match field.kind {
                Kind::Object(inner) => (inner, false),
                Kind::List(Kind::Object(inner)) => (*inner, true),
                _ => continue,
            };
            let nested = |value: Value| {
                let value = if is_list { json!([value]) } else { value };
                wrap(json!({ field.name: value }))
            };
            each(inner, field.name, &nested, visit);
        }
    }

    fn request(fields: &Value) -> Request {
        let mut whole = json!({ "family": "f", "containerDefinitions": [] });
        whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Request::from_document(whole).unwrap()
    }

    /// Findings, D5: over every field of the model that has a default. Left out and spelt out are the same, and any other
    /// value is a difference.
    #[test]
    fn a_default_that_ecs_adds_is_no_difference() {
        let mut count = 0;
        each(&REQUEST, "", &|value| value, &mut |holder, field, wrap| {
            let Some(default) = default_of(holder, field) else { return };
            count += 1;
            let other = match &default {
                Value::Bool(flag) => json!(!flag),
                Value::Number(_) => json!(77),
                Value::Array(_) => json!(["read"]),
                _ => json!("other"),
            };
            let with = |value: &Value| wrap(json!({ "name": "n", field.name: value }));
            let without = wrap(json!({ "name": "n" }));
            let name = field.name;
            assert_eq!(compare(&request(&with(&default)), &request(&without)), None, "{holder}.{name}");
            assert!(compare(&request(&with(&other)), &request(&without)).is_some(), "{holder}.{name}");
        });
        assert!(count > 25, "{count}");
    }

    /// Findings, D5: the shapes that people reported.
    #[test]
    fn volumes_and_lists_that_ecs_completes_or_reorders_are_no_difference() {
        let volume = |configuration: Value| json!({ "volumes": [{ "name": "fs", "efsVolumeConfiguration": configuration }] });
        let container = |fields: Value| json!({ "containerDefinitions": [fields] });
        let mut two = vec![
            (
                volume(json!({ "fileSystemId": "fs-1" })),
                volume(
                    json!({ "fileSystemId": "fs-1", "rootDirectory": "/", "transitEncryption": "DISABLED" }),
                ),
            ),
            (
                volume(json!({ "fileSystemId": "fs-1" })),
                json!({ "volumes": [{ "name": "fs", "host": {}, "efsVolumeConfiguration": {
                    "fileSystemId": "fs-1", "rootDirectory": "/", "authorizationConfig": { "iam": "DISABLED" } } }] }),
            ),
        ];
        for (field, one, other) in [
            (
                "portMappings",
                json!({ "containerPort": 80 }),
                json!({ "containerPort": 81, "protocol": "tcp" }),
            ),
            (
                "mountPoints",
                json!({ "containerPath": "/a" }),
                json!({ "containerPath": "/b", "readOnly": false }),
            ),
            (
                "ulimits",
                json!({ "name": "core", "softLimit": 0, "hardLimit": 0 }),
                json!({ "name": "nofile", "softLimit": 1, "hardLimit": 1 }),
            ),
            (
                "dependsOn",
                json!({ "containerName": "a", "condition": "START" }),
                json!({ "containerName": "b", "condition": "START" }),
            ),
            (
                "systemControls",
                json!({ "namespace": "a", "value": "1" }),
                json!({ "namespace": "b", "value": "1" }),
            ),
            (
                "resourceRequirements",
                json!({ "type": "GPU", "value": "1" }),
                json!({ "type": "InferenceAccelerator", "value": "1" }),
            ),
            ("links", json!("a"), json!("b")),
        ] {
            two.push((container(json!({ field: [one, other] })), container(json!({ field: [other, one] }))));
        }
        two.push((
            container(json!({ "linuxParameters": { "capabilities": { "add": ["A", "B"], "drop": [] } } })),
            container(json!({ "linuxParameters": { "initProcessEnabled": false, "capabilities": { "add": ["B", "A"] } } })),
        ));
        let fargate =
            |platform: Value| json!({ "requiresCompatibilities": ["FARGATE"], "runtimePlatform": platform });
        two.push((
            fargate(json!({})),
            fargate(json!({ "operatingSystemFamily": "LINUX", "cpuArchitecture": "X86_64" })),
        ));
        for (one, other) in two {
            assert_eq!(compare(&request(&one), &request(&other)), None, "{one} {other}");
        }
        for (one, other) in [
            (container(json!({ "dnsServers": ["a", "b"] })), container(json!({ "dnsServers": ["b", "a"] }))),
            (
                container(json!({ "environmentFiles": [{ "value": "a" }, { "value": "b" }] })),
                container(json!({ "environmentFiles": [{ "value": "b" }, { "value": "a" }] })),
            ),
            (
                json!({ "volumes": [{ "name": "v" }] }),
                json!({ "volumes": [{ "name": "v", "dockerVolumeConfiguration": {} }] }),
            ),
            (json!({ "runtimePlatform": { "cpuArchitecture": "X86_64" } }), json!({})),
        ] {
            assert!(compare(&request(&one), &request(&other)).is_some(), "{one} {other}");
        }
    }
}
