//! From any form of a task definition to a `RegisterTaskDefinition` request, as JSON, so that fields nobody here has heard
//! of survive. Pure.

use serde_json::{Map, Value, json};

/// What `DescribeTaskDefinition` returns and `RegisterTaskDefinition` refuses.
const READ_ONLY: [&str; 9] = [
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "deregisteredAt",
    "registeredBy",
    "deleteRequestedAt",
];

/// A document that is no task definition, or a change that does not fit it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TaskDefinitionError {
    /// It is not an object, or has no containers.
    #[error("this is not a task definition: {0}")]
    Shape(&'static str),
    /// A change names a container that is not there.
    #[error("the task definition has no container `{name}`; it has {known}")]
    NoContainer {
        /// The name in the pipeline.
        name: String,
        /// The names that exist.
        known: String,
    },
}

/// A change to one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerPatch {
    /// The container's name.
    pub name: String,
    /// Its new image.
    pub image: Option<String>,
    /// Variables to set or replace; the others stay.
    pub environment: Vec<(String, String)>,
}

/// A request to register a task definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Request(Map<String, Value>);

/// Reads the text of a file: JSON as JSON, so that numbers and order stay as written; anything else as YAML. The error is
/// the parser's.
pub fn parse(text: &str) -> Result<Value, String> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }
}

impl Request {
    /// Takes a task definition in any shape that files and answers have: bare, wrapped in `taskDefinition` with its tags
    /// beside it, with read-only fields, with nulls. Zero, `false` and empty texts stay.
    pub fn from_document(document: Value) -> Result<Self, TaskDefinitionError> {
        let Value::Object(mut outer) = document else {
            return Err(TaskDefinitionError::Shape("it is not an object"));
        };
        let mut fields = match outer.remove("taskDefinition") {
            Some(Value::Object(mut inner)) => {
                if let Some(tags) = outer.remove("tags") {
                    inner.entry("tags").or_insert(tags);
                }
                inner
            }
            Some(_) => return Err(TaskDefinitionError::Shape("`taskDefinition` is not an object")),
            None => outer,
        };
        for name in READ_ONLY {
            fields.remove(name);
        }
        // An empty list of tags is refused on registration; every other empty list is harmless.
        if fields.get("tags").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            fields.remove("tags");
        }
        drop_nulls(&mut fields);
        if !fields.get("containerDefinitions").is_some_and(Value::is_array) {
            return Err(TaskDefinitionError::Shape("it has no list `containerDefinitions`"));
        }
        if !fields.get("family").is_some_and(Value::is_string) {
            return Err(TaskDefinitionError::Shape("it has no `family`"));
        }
        Ok(Self(fields))
    }

    /// The family's name.
    pub fn family(&self) -> &str {
        self.0.get("family").and_then(Value::as_str).unwrap_or_default()
    }

    /// The roles that it names: of the task, and for starting it.
    pub fn roles(&self) -> Vec<String> {
        let roles =
            ["taskRoleArn", "executionRoleArn"].into_iter().filter_map(|key| self.0.get(key)?.as_str());
        roles.filter(|role| !role.is_empty()).map(ToOwned::to_owned).collect()
    }

    /// Whether it has tags.
    pub fn is_tagged(&self) -> bool {
        self.0.contains_key("tags")
    }

    /// The names of its containers.
    pub fn containers(&self) -> Vec<String> {
        self.container_fields().filter_map(name_of).map(ToOwned::to_owned).collect()
    }

    /// The CloudWatch log groups that its containers write to.
    pub fn log_groups(&self) -> Vec<String> {
        let group = |container: &Map<String, Value>| {
            let log = container.get("logConfiguration")?;
            Some(log.get("options")?.get("awslogs-group")?.as_str()?.to_owned())
        };
        self.container_fields().filter_map(group).collect()
    }

    fn container_fields(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let containers = self.0.get("containerDefinitions").and_then(Value::as_array);
        containers.into_iter().flatten().filter_map(Value::as_object)
    }

    /// Applies a change to the container of its name.
    pub fn apply(&mut self, patch: &ContainerPatch) -> Result<(), TaskDefinitionError> {
        let containers = self
            .0
            .get_mut("containerDefinitions")
            .and_then(Value::as_array_mut)
            .ok_or(TaskDefinitionError::Shape("it has no list `containerDefinitions`"))?;
        let known = known_names(containers);
        let container = containers
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .find(|container| name_of(container) == Some(&patch.name))
            .ok_or_else(|| TaskDefinitionError::NoContainer { name: patch.name.clone(), known })?;
        if let Some(image) = &patch.image {
            container.insert("image".to_owned(), Value::from(image.as_str()));
        }
        if !patch.environment.is_empty() {
            set_environment(container, &patch.environment);
        }
        Ok(())
    }

    /// The request's body.
    pub fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

fn name_of(container: &Map<String, Value>) -> Option<&str> {
    container.get("name").and_then(Value::as_str)
}

fn known_names(containers: &[Value]) -> String {
    let names = containers.iter().filter_map(Value::as_object).filter_map(name_of);
    crate::text::listed(names)
}

fn set_environment(container: &mut Map<String, Value>, changes: &[(String, String)]) {
    let entry = container.entry("environment").or_insert_with(|| json!([]));
    let Some(variables) = entry.as_array_mut() else {
        return;
    };
    for (name, value) in changes {
        let known =
            variables.iter_mut().find(|variable| variable.get("name").and_then(Value::as_str) == Some(name));
        match known {
            Some(variable) => variable["value"] = Value::from(value.as_str()),
            None => variables.push(json!({ "name": name, "value": value })),
        }
    }
}

fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        drop_nulls_within(value);
    }
}

fn drop_nulls_within(value: &mut Value) {
    match value {
        Value::Object(fields) => drop_nulls(fields),
        Value::Array(items) => items.iter_mut().for_each(drop_nulls_within),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Value {
        json!({
            "taskDefinition": {
                "taskDefinitionArn": "arn", "revision": 3, "status": "ACTIVE",
                "requiresAttributes": [], "compatibilities": [], "registeredAt": 1.5,
                "deregisteredAt": 2, "registeredBy": "me", "deleteRequestedAt": 3,
                "family": "web", "cpu": "256", "futureField": { "nested": [0, false, ""] },
                "containerDefinitions": [
                    { "name": "web", "image": "old", "cpu": 0, "essential": false, "links": null,
                      "environment": [{ "name": "EMPTY", "value": "" }, { "name": "V", "value": "1" }] },
                    { "name": "sidecar", "image": "side" }
                ]
            },
            "tags": [{ "key": "team", "value": "a" }],
            "unrelated": 1
        })
    }

    #[test]
    fn nothing_is_lost_but_what_registration_refuses() {
        let request = Request::from_document(described()).unwrap();
        assert_eq!(request.family(), "web");
        assert_eq!(
            request.into_json(),
            json!({
                "family": "web", "cpu": "256", "futureField": { "nested": [0, false, ""] },
                "containerDefinitions": [
                    { "name": "web", "image": "old", "cpu": 0, "essential": false,
                      "environment": [{ "name": "EMPTY", "value": "" }, { "name": "V", "value": "1" }] },
                    { "name": "sidecar", "image": "side" }
                ],
                "tags": [{ "key": "team", "value": "a" }]
            })
        );
    }

    #[test]
    fn a_patch_changes_one_container_only() {
        let mut request = Request::from_document(described()).unwrap();
        let patch = ContainerPatch {
            name: "web".to_owned(),
            image: Some("new".to_owned()),
            environment: vec![("V".to_owned(), "2".to_owned()), ("W".to_owned(), "3".to_owned())],
        };
        request.apply(&patch).unwrap();
        let document = request.into_json();
        assert_eq!(document.pointer("/containerDefinitions/0/image"), Some(&json!("new")));
        assert_eq!(
            document.pointer("/containerDefinitions/0/environment"),
            Some(&json!([
                { "name": "EMPTY", "value": "" }, { "name": "V", "value": "2" }, { "name": "W", "value": "3" }
            ]))
        );
        assert_eq!(document.pointer("/containerDefinitions/1/image"), Some(&json!("side")));
    }

    #[test]
    fn an_unknown_container_is_an_error_that_names_the_known_ones() {
        let mut request = Request::from_document(described()).unwrap();
        let patch = ContainerPatch { name: "wbe".to_owned(), ..ContainerPatch::default() };
        let error = request.apply(&patch).unwrap_err().to_string();
        assert!(error.contains("`web` and `sidecar`"), "{error}");
    }

    #[test]
    fn documents_that_are_no_task_definitions() {
        for document in [json!([]), json!({}), json!({ "taskDefinition": 1 }), json!({ "family": "a" })] {
            assert!(Request::from_document(document).is_err());
        }
    }
}
