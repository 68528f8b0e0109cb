//! The parts of a task definition that diagnosis needs.

use crate::address::{Arn, split_secret};
use serde_json::Value;

/// A view of a `taskDefinition` object.
pub(crate) struct Definition<'a>(pub(crate) &'a Value);

/// A variable with the value of a secret or parameter.
pub(crate) struct Reference<'a> {
    pub(crate) container: &'a str,
    pub(crate) variable: &'a str,
    pub(crate) value_from: &'a str,
}

impl<'a> Definition<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.0.get("containerDefinitions").and_then(Value::as_array).into_iter().flatten()
    }

    fn container(&self, name: &str) -> Option<&'a Value> {
        self.containers().find(|container| text(container, "name") == Some(name))
    }

    /// Whether the task stops when this container stops. Containers that AWS adds to tasks are not in the definition.
    pub(crate) fn is_essential(&self, name: &str) -> bool {
        match self.container(name) {
            Some(container) => container.get("essential").and_then(Value::as_bool).unwrap_or(true),
            None => self.containers().next().is_none(),
        }
    }

    pub(crate) fn image(&self, name: &str) -> Option<&'a str> {
        text(self.container(name)?, "image")
    }

    /// The container whose image is in the message, or the only container.
    pub(crate) fn named_by_image(&self, message: &str) -> Option<&'a str> {
        let named = self
            .containers()
            .filter(|container| text(container, "image").is_some_and(|image| message.contains(image)))
            .max_by_key(|container| text(container, "image").map(str::len));
        named.or_else(|| self.only()).and_then(|container| text(container, "name"))
    }

    fn only(&self) -> Option<&'a Value> {
        let mut containers = self.containers();
        containers.next().filter(|_| containers.next().is_none())
    }

    /// The CPU architecture of the tasks.
    pub(crate) fn architecture(&self) -> &'a str {
        self.0.pointer("/runtimePlatform/cpuArchitecture").and_then(Value::as_str).unwrap_or("X86_64")
    }

    /// The memory limit of a container: its own, or the task's.
    pub(crate) fn memory(&self, name: &str) -> Option<String> {
        let own = self.container(name).and_then(|container| container.get("memory"));
        let limit = own.or_else(|| self.0.get("memory"))?;
        let number = limit.as_u64().or_else(|| limit.as_str()?.trim().parse().ok())?;
        Some(format!("{number} MiB"))
    }

    /// The command of a container's health check.
    pub(crate) fn health_command(&self, name: &str) -> Option<String> {
        let words = self.container(name)?.pointer("/healthCheck/command")?.as_array()?;
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        match words.as_slice() {
            ["CMD" | "CMD-SHELL", rest @ ..] => Some(rest.join(" ")),
            rest => Some(rest.join(" ")),
        }
    }

    /// The entry point and command of a container, if the definition sets either.
    pub(crate) fn command(&self, name: &str) -> Option<String> {
        let container = self.container(name)?;
        let words = ["entryPoint", "command"].iter().filter_map(|field| container.get(*field)?.as_array());
        let words: Vec<&str> = words.flatten().filter_map(Value::as_str).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    /// The log group of a container, or the first one in the definition.
    pub(crate) fn log_group(&self, name: Option<&str>) -> Option<&'a str> {
        let group = |container: &'a Value| {
            container.pointer("/logConfiguration/options/awslogs-group").and_then(Value::as_str)
        };
        name.and_then(|name| self.container(name))
            .and_then(group)
            .or_else(|| self.containers().find_map(group))
    }

    /// All variables with the value of a secret or parameter.
    pub(crate) fn references(&self) -> Vec<Reference<'a>> {
        let of_container = |container: &'a Value| {
            let name = text(container, "name").unwrap_or_default();
            let secrets = container.get("secrets").and_then(Value::as_array).into_iter().flatten();
            secrets.filter_map(move |secret| {
                let (variable, value_from) = (text(secret, "name")?, text(secret, "valueFrom")?);
                Some(Reference { container: name, variable, value_from })
            })
        };
        self.containers().flat_map(of_container).collect()
    }
}

impl Reference<'_> {
    /// Whether it refers to this secret or parameter.
    pub(crate) fn is_of(&self, named: &str) -> bool {
        if is_secret(named) || is_secret(self.value_from) {
            return same_secret(self.secret(), split_secret(named).0);
        }
        parameter(self.value_from) == parameter(named)
    }

    /// The secret without JSON key, stage and version.
    pub(crate) fn secret(&self) -> &str {
        if is_secret(self.value_from) { split_secret(self.value_from).0 } else { self.value_from }
    }

    /// The JSON key in the secret.
    pub(crate) fn json_key(&self) -> Option<&str> {
        let (_, rest) = split_secret(self.value_from);
        let key = rest.split(':').next()?;
        (is_secret(self.value_from) && !key.is_empty()).then_some(key)
    }
}

/// Whether text is the ARN of a secret of Secrets Manager.
pub(crate) fn is_secret(text: &str) -> bool {
    Arn::parse(text).is_some_and(|arn| arn.service() == "secretsmanager")
}

/// AWS appends six random characters to a secret's name, which definitions may omit.
fn same_secret(written: &str, named: &str) -> bool {
    let added = named.strip_prefix(written).or_else(|| written.strip_prefix(named));
    added.is_some_and(|added| added.is_empty() || (added.starts_with('-') && added.len() == 7))
}

/// The name of a parameter that is given by name or ARN, without leading slashes.
fn parameter(reference: &str) -> &str {
    let named = Arn::parse(reference).and_then(|arn| arn.resource().strip_prefix("parameter"));
    let name = named.unwrap_or(reference);
    name.trim_start_matches('/')
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}
