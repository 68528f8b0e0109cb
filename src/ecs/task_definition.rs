//! From any form of a task definition to a `RegisterTaskDefinition` request, as JSON, so that fields nobody here has heard
//! of survive. Pure.

use super::fields;
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
pub(crate) enum TaskDefinitionError {
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
    /// Options for a log driver that is not there.
    #[error("the container `{0}` has no `logConfiguration` whose options could change")]
    NoLog(String),
}

/// Changes to a task definition. What they do not mention stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) containers: Vec<ContainerPatch>,
    /// The role of the task, as ARN or name.
    pub(crate) task_role: Option<String>,
    /// The role that pulls images and reads secrets, as ARN or name.
    pub(crate) execution_role: Option<String>,
    /// The task's CPU, in units or as `0.5 vCPU`.
    pub(crate) cpu: Option<String>,
    /// The task's memory, in MiB or as `1 GB`.
    pub(crate) memory: Option<String>,
    /// Tags to set; the others stay.
    pub(crate) tags: Vec<(String, String)>,
}

/// A change to one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ContainerPatch {
    pub(crate) name: String,
    pub(crate) image: Option<String>,
    /// Variables to set or replace; the others stay.
    pub(crate) environment: Vec<(String, String)>,
    /// The others do not stay.
    pub(crate) replace_environment: bool,
    /// Secrets that ECS puts into variables, by ARN or parameter name; the others stay.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) cpu: Option<u64>,
    /// Its hard limit of memory, in MiB.
    pub(crate) memory: Option<u64>,
    /// Options of its log driver; the others stay.
    pub(crate) log_options: Vec<(String, String)>,
    /// Docker labels; the others stay.
    pub(crate) labels: Vec<(String, String)>,
}

/// A request to register a task definition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request(Map<String, Value>);

impl Request {
    /// Takes a task definition in any shape that files and answers have: bare, wrapped in `taskDefinition` with its tags
    /// beside it, with read-only fields, with nulls. Zero, `false` and empty texts stay.
    pub(crate) fn from_document(document: Value) -> Result<Self, TaskDefinitionError> {
        let Value::Object(mut outer) = document else {
            return Err(TaskDefinitionError::Shape("it is not an object"));
        };
        let mut fields = match outer.remove("taskDefinition") {
            Some(Value::Object(mut inner)) => {
                // Describe's answer has them beside it, where `taskDefinition` may hold an empty place for them.
                let has_own = inner.get("tags").is_some_and(|tags| !tags.is_null() && *tags != json!([]));
                if let Some(tags) = outer.remove("tags").filter(|_| !has_own) {
                    inner.insert("tags".to_owned(), tags);
                }
                inner
            }
            Some(_) => return Err(TaskDefinitionError::Shape("`taskDefinition` is not an object")),
            None => outer,
        };
        for name in READ_ONLY {
            fields.shift_remove(name);
        }
        // AWS sets tags of its own (CloudFormation, Copilot) and refuses them from anybody else.
        if let Some(tags) = fields.get_mut("tags").and_then(Value::as_array_mut) {
            let is_aws = |tag: &Value| {
                tag.get("key").and_then(Value::as_str).is_some_and(|key| key.starts_with("aws:"))
            };
            tags.retain(|tag| !is_aws(tag));
        }
        // An empty list of tags is refused on registration; every other empty list is harmless.
        if fields.get("tags").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            fields.shift_remove("tags");
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

    pub(crate) fn family(&self) -> &str {
        self.0.get("family").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it has tags.
    pub(crate) fn is_tagged(&self) -> bool {
        self.0.contains_key("tags")
    }

    /// The names of its containers.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.container_fields().filter_map(name_of).map(ToOwned::to_owned).collect()
    }

    /// The CloudWatch log groups that its containers write to.
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
            if let Some(value) = value {
                self.0.insert(field.to_owned(), Value::from(value.as_str()));
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
        // A name is either a variable or a secret: ECS refuses both.
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

    /// A sentence for each field that ECS is not known to have, and whose name is close to one that it has.
    pub(crate) fn likely_slips(&self) -> Vec<String> {
        fields::likely_slips(&self.0)
    }

    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(crate) fn into_json(self) -> Value {
        Value::Object(self.0)
    }
}

/// The fields of the definition in an answer of `DescribeTaskDefinition`.
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

/// Takes entries out of a list by their `name`.
fn remove_named(fields: &mut Map<String, Value>, list: &str, names: &[(String, String)]) {
    if let Some(entries) = fields.get_mut(list).and_then(Value::as_array_mut) {
        entries.retain(|entry| {
            let name = entry.get("name").and_then(Value::as_str);
            !names.iter().any(|(wanted, _)| name == Some(wanted))
        });
    }
}

/// Sets fields of an object within; the others stay.
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
    fn tags_that_aws_reserves_for_itself_are_not_sent() {
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
    fn what_looks_like_a_slip_is_noticed_and_sent_all_the_same() {
        let document = json!({ "family": "web", "netwrokMode": "awsvpc", "brandNew": 1,
            "containerDefinitions": [{ "name": "web", "enviroment": [] }] });
        let request = Request::from_document(document).unwrap();
        let slips = request.likely_slips();
        assert_eq!(slips.len(), 2, "{slips:?}");
        assert!(slips[0].contains("`netwrokMode`") && slips[0].contains("did you mean `networkMode`"));
        assert!(slips[1].contains("`enviroment`") && slips[1].contains("did you mean `environment`"));
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
