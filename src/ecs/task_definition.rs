//! Turns any form of a task definition into a `RegisterTaskDefinition` request, as JSON to keep unknown fields.

use super::field_path::FieldPath;
use super::fields;
use super::model::REQUEST;
use super::typed::typed;
use serde_json::{Map, Value, json};

/// Fields that `DescribeTaskDefinition` returns and `RegisterTaskDefinition` rejects.
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

/// An invalid task definition, or a change that does not apply to it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TaskDefinitionError {
    /// The document lacks a required part.
    #[error("this is not a task definition: {0}")]
    Shape(&'static str),
    /// A text is empty that ECS needs.
    #[error("`{0}` is empty")]
    Empty(FieldPath),
    /// A value has another type than ECS expects.
    #[error("`{place}` must be {expected}, not {found}")]
    Type { place: FieldPath, expected: &'static str, found: &'static str },
    /// A change names an unknown container.
    #[error("the task definition has no container `{name}`; it has {known}")]
    NoContainer {
        name: String,
        /// The existing names.
        known: String,
    },
    /// A change sets log options of a container without a log driver.
    #[error("the container `{0}` has no `logConfiguration` whose options could be changed")]
    NoLog(String),
}

impl TaskDefinitionError {
    /// The field at fault, if a single one is.
    pub(crate) fn place(&self) -> Option<&FieldPath> {
        match self {
            Self::Empty(place) | Self::Type { place, .. } => Some(place),
            Self::Shape(_) | Self::NoContainer { .. } | Self::NoLog(_) => None,
        }
    }
}

/// Changes to a task definition; the rest stays. It has no `Debug`, because commands and variables may hold secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) containers: Vec<ContainerPatch>,
    /// The ARN or name of the task's role.
    pub(crate) task_role: Option<String>,
    /// The ARN or name of the role that pulls images and reads secrets.
    pub(crate) execution_role: Option<String>,
    /// The task's CPU, in units or as `0.5 vCPU`.
    pub(crate) cpu: Option<String>,
    /// The task's memory, in MiB or as `1 GB`.
    pub(crate) memory: Option<String>,
    /// Tags to set; the others stay.
    pub(crate) tags: Vec<(String, String)>,
}

/// Changes to one container.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerPatch {
    pub(crate) name: String,
    pub(crate) image: Option<String>,
    /// Variables to set.
    pub(crate) environment: Vec<(String, String)>,
    /// Removes all other variables.
    pub(crate) replace_environment: bool,
    /// Variables with the ARN or parameter name of the secret that ECS puts into them; other secrets stay.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) cpu: Option<u64>,
    /// The hard memory limit in MiB.
    pub(crate) memory: Option<u64>,
    /// Log driver options to set; the others stay.
    pub(crate) log_options: Vec<(String, String)>,
    /// Docker labels to set; the others stay.
    pub(crate) labels: Vec<(String, String)>,
}

/// A `RegisterTaskDefinition` request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request(Map<String, Value>);

impl Request {
    /// Accepts the forms of files and responses: bare, wrapped in `taskDefinition` with the tags next to it, with
    /// read-only fields, with nulls. Zero, `false` and empty strings stay.
    pub(crate) fn from_document(document: Value) -> Result<Self, TaskDefinitionError> {
        if document.is_null() {
            return Err(TaskDefinitionError::Shape("it is empty"));
        }
        let Value::Object(mut outer) = document else {
            return Err(TaskDefinitionError::Shape("it is not an object"));
        };
        let mut fields = match outer.remove("taskDefinition") {
            Some(Value::Object(mut inner)) => {
                // `DescribeTaskDefinition` returns the tags next to `taskDefinition`, which may hold an empty list.
                let has_own = inner.get("tags").is_some_and(|tags| !tags.is_null() && *tags != json!([]));
                if let Some(tags) = outer.remove("tags").filter(|_| !has_own) {
                    inner.insert("tags".to_owned(), tags);
                }
                inner
            }
            Some(_) => return Err(TaskDefinitionError::Shape("`taskDefinition` is not an object")),
            None => outer,
        };
        // Responses, and what people copied from them, may spell out a missing role.
        if fields.contains_key("taskDefinitionArn") {
            for role in ["taskRoleArn", "executionRoleArn"] {
                if fields.get(role).is_some_and(|value| *value == "") {
                    fields.shift_remove(role);
                }
            }
        }
        for name in READ_ONLY {
            fields.shift_remove(name);
        }
        drop_nulls(&mut fields);
        typed(&REQUEST, &mut fields)?;
        // AWS sets reserved tags (CloudFormation, Copilot) and rejects them in requests.
        if let Some(tags) = fields.get_mut("tags").and_then(Value::as_array_mut) {
            let is_aws = |tag: &Value| {
                tag.get("key").and_then(Value::as_str).is_some_and(|key| key.starts_with("aws:"))
            };
            tags.retain(|tag| !is_aws(tag));
        }
        // Registration rejects an empty list of tags. Other empty lists are harmless.
        if fields.get("tags").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            fields.shift_remove("tags");
        }
        if !fields.get("containerDefinitions").is_some_and(Value::is_array) {
            return Err(TaskDefinitionError::Shape("it has no list `containerDefinitions`"));
        }
        if !fields.get("family").is_some_and(Value::is_string) {
            return Err(TaskDefinitionError::Shape("it has no `family`"));
        }
        Ok(Self(fields))
    }

    pub(crate) fn family(&self) -> &str {
        self.0.get("family").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn is_tagged(&self) -> bool {
        self.0.contains_key("tags")
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        self.container_fields().filter_map(name_of).map(ToOwned::to_owned).collect()
    }

    /// The CloudWatch log groups of its containers.
    pub(crate) fn log_groups(&self) -> Vec<String> {
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

    pub(crate) fn apply(&mut self, patch: &Patch) -> Result<(), TaskDefinitionError> {
        let texts = [
            ("taskRoleArn", &patch.task_role),
            ("executionRoleArn", &patch.execution_role),
            ("cpu", &patch.cpu),
            ("memory", &patch.memory),
        ];
        for (field, value) in texts {
            match value.as_deref() {
                Some("") => return Err(TaskDefinitionError::Empty(FieldPath::default().field(field))),
                Some(value) => drop(self.0.insert(field.to_owned(), Value::from(value))),
                None => {}
            }
        }
        set_pairs(&mut self.0, "tags", ["key", "value"], &patch.tags);
        for container in &patch.containers {
            self.apply_to_container(container)?;
        }
        Ok(())
    }

    fn apply_to_container(&mut self, patch: &ContainerPatch) -> Result<(), TaskDefinitionError> {
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
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                container.insert(field.to_owned(), value);
            }
        };
        set("image", patch.image.as_deref().map(Value::from));
        set("command", patch.command.clone().map(Value::from));
        set("cpu", patch.cpu.map(Value::from));
        set("memory", patch.memory.map(Value::from));
        if patch.replace_environment {
            container.shift_remove("environment");
        }
        // ECS rejects a name that is both a variable and a secret.
        remove_named(container, "secrets", &patch.environment);
        remove_named(container, "environment", &patch.secrets);
        set_pairs(container, "environment", ["name", "value"], &patch.environment);
        set_pairs(container, "secrets", ["name", "valueFrom"], &patch.secrets);
        if !patch.log_options.is_empty() {
            let log = container.get_mut("logConfiguration").and_then(Value::as_object_mut);
            let log = log.ok_or_else(|| TaskDefinitionError::NoLog(patch.name.clone()))?;
            set_fields(log, "options", &patch.log_options);
        }
        set_fields(container, "dockerLabels", &patch.labels);
        Ok(())
    }

    /// A warning for each unknown field whose name resembles a known one.
    pub(crate) fn likely_typos(&self) -> Vec<String> {
        fields::likely_typos(&self.0)
    }

    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(crate) fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

/// The fields of the task definition in a `DescribeTaskDefinition` response.
pub(crate) fn described(mut answer: Value) -> Map<String, Value> {
    match answer.get_mut("taskDefinition").map(Value::take) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn name_of(container: &Map<String, Value>) -> Option<&str> {
    container.get("name").and_then(Value::as_str)
}

fn known_names(containers: &[Value]) -> String {
    let names = containers.iter().filter_map(Value::as_object).filter_map(name_of);
    crate::text::listed(names)
}

/// Sets entries of a list such as `[{ "name": …, "value": … }]`; the others stay.
fn set_pairs(
    fields: &mut Map<String, Value>,
    list: &str,
    [name, value]: [&str; 2],
    changes: &[(String, String)],
) {
    if changes.is_empty() {
        return;
    }
    let entry = fields.entry(list).or_insert_with(|| json!([]));
    let Some(entries) = entry.as_array_mut() else { return };
    for (wanted, text) in changes {
        let is_wanted = |entry: &&mut Value| entry.get(name).and_then(Value::as_str) == Some(wanted);
        match entries.iter_mut().find(is_wanted) {
            Some(entry) => entry[value] = Value::from(text.as_str()),
            None => entries.push(json!({ name: wanted, value: text })),
        }
    }
}

/// Removes list entries by their `name`.
fn remove_named(fields: &mut Map<String, Value>, list: &str, names: &[(String, String)]) {
    if let Some(entries) = fields.get_mut(list).and_then(Value::as_array_mut) {
        entries.retain(|entry| {
            let name = entry.get("name").and_then(Value::as_str);
            !names.iter().any(|(wanted, _)| name == Some(wanted))
        });
    }
}

/// Sets fields of an inner object; the others stay.
fn set_fields(fields: &mut Map<String, Value>, object: &str, changes: &[(String, String)]) {
    if changes.is_empty() {
        return;
    }
    if let Some(object) = fields.entry(object).or_insert_with(|| json!({})).as_object_mut() {
        object.extend(changes.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
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
    fn only_fields_that_registration_rejects_are_lost() {
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
    fn reserved_tags_of_aws_are_removed() {
        let with = |tags: Value| {
            let document = json!({ "family": "f", "containerDefinitions": [], "tags": tags });
            Request::from_document(document).unwrap().into_json().get("tags").cloned()
        };
        let own = json!({ "key": "team", "value": "a" });
        let reserved = json!({ "key": "aws:cloudformation:stack-name", "value": "s" });
        assert_eq!(with(json!([reserved, own])), Some(json!([own])));
        assert_eq!(with(json!([reserved])), None);
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn patched(container: ContainerPatch) -> Result<Value, TaskDefinitionError> {
        let mut request = Request::from_document(described())?;
        request.apply(&Patch { containers: vec![container], ..Patch::default() })?;
        Ok(request.into_json())
    }

    #[test]
    fn a_patch_changes_one_container_only() {
        let document = patched(ContainerPatch {
            name: "web".to_owned(),
            image: Some("new".to_owned()),
            environment: pairs(&[("V", "2"), ("W", "3")]),
            ..ContainerPatch::default()
        })
        .unwrap();
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
    fn everything_of_a_container_and_a_task_can_be_changed() {
        let container = ContainerPatch {
            name: "web".to_owned(),
            environment: pairs(&[("W", "3")]),
            replace_environment: true,
            secrets: pairs(&[("S", "/s")]),
            command: Some(vec!["serve".to_owned(), String::new()]),
            cpu: Some(0),
            memory: Some(512),
            labels: pairs(&[("a.b", "c")]),
            ..ContainerPatch::default()
        };
        let mut request = Request::from_document(described()).unwrap();
        let patch = Patch {
            containers: vec![container.clone()],
            task_role: Some("task".to_owned()),
            execution_role: Some("arn:aws:iam::1:role/start".to_owned()),
            cpu: Some("0.5 vCPU".to_owned()),
            memory: Some("1024".to_owned()),
            tags: pairs(&[("team", "b"), ("commit", "1")]),
        };
        request.apply(&patch).unwrap();
        assert_eq!(
            request.into_json(),
            json!({
                "family": "web", "cpu": "0.5 vCPU", "futureField": { "nested": [0, false, ""] },
                "containerDefinitions": [
                    { "name": "web", "image": "old", "cpu": 0, "essential": false, "command": ["serve", ""], "memory": 512,
                      "environment": [{ "name": "W", "value": "3" }], "secrets": [{ "name": "S", "valueFrom": "/s" }],
                      "dockerLabels": { "a.b": "c" } },
                    { "name": "sidecar", "image": "side" }
                ],
                "tags": [{ "key": "team", "value": "b" }, { "key": "commit", "value": "1" }],
                "taskRoleArn": "task", "executionRoleArn": "arn:aws:iam::1:role/start", "memory": "1024"
            })
        );
        // A name is either a variable or a secret.
        let as_secret = ContainerPatch {
            name: "web".to_owned(),
            secrets: pairs(&[("V", "/v")]),
            ..ContainerPatch::default()
        };
        let document = patched(as_secret).unwrap();
        assert_eq!(
            document.pointer("/containerDefinitions/0/environment"),
            Some(&json!([{ "name": "EMPTY", "value": "" }]))
        );
        let log = ContainerPatch { log_options: pairs(&[("awslogs-group", "g")]), ..container };
        assert_eq!(patched(log), Err(TaskDefinitionError::NoLog("web".to_owned())));
    }

    #[test]
    fn likely_typos_are_reported_and_sent_unchanged() {
        let document = json!({ "family": "web", "netwrokMode": "awsvpc", "brandNew": 1,
            "containerDefinitions": [{ "name": "web", "enviroment": [] }] });
        let request = Request::from_document(document).unwrap();
        let typos = request.likely_typos();
        assert_eq!(typos.len(), 2, "{typos:?}");
        assert!(typos[0].contains("`netwrokMode`") && typos[0].contains("did you mean `networkMode`"));
        assert!(typos[1].contains("`enviroment`") && typos[1].contains("did you mean `environment`"));
        assert!(request.fields().contains_key("netwrokMode"));
    }

    #[test]
    fn an_unknown_container_is_an_error_that_names_the_known_ones() {
        let patch = ContainerPatch { name: "wbe".to_owned(), ..ContainerPatch::default() };
        let error = patched(patch).unwrap_err().to_string();
        assert!(error.contains("`web` and `sidecar`"), "{error}");
    }

    #[test]
    fn documents_that_are_no_task_definitions() {
        for document in [json!([]), json!({}), json!({ "taskDefinition": 1 }), json!({ "family": "a" })] {
            assert!(Request::from_document(document).is_err());
        }
    }
}
