//! A corpus of task definitions: whole documents in `fixtures/task-definitions`, and a small one for each thing that they can hold. All of
//! them are rendered, registered, described and rendered again, and nothing gets lost on the way.

use crate::harness::{Project, ecs, unique};
use crate::recorded_aws::{Answer, RecordedAws};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What `RegisterTaskDefinition` refuses, and what is therefore left out beside nulls and an empty list of tags.
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

/// Documents that the bed's ECS does not keep as they are, and why. What is sent of them is seen all the same.
const NOT_KEPT: [(&str, &str); 8] = [
    ("build-agent.json", "it refuses containers on EC2 that have only `memoryReservation`"),
    ("cli-skeleton.json", "it does not know `enableFaultInjection`"),
    ("describe-bare.json", "it does not know `enableFaultInjection`"),
    ("describe-of-tomorrow.json", "it drops what its model does not know"),
    ("ecs-anywhere.json", "it takes `EXTERNAL` for Fargate, and makes the network mode `awsvpc`"),
    ("fault-injection.json", "it does not know `enableFaultInjection`"),
    ("fields-of-tomorrow.json", "it drops what its model does not know"),
    ("graviton-api.yml", "it drops what its model does not know"),
];

/// A task definition from a file of a user.
struct Document {
    /// The file's name.
    name: String,
    text: String,
}

impl Document {
    fn is_yaml(&self) -> bool {
        Path::new(&self.name).extension().is_some_and(|extension| extension == "yml")
    }

    fn value(&self) -> Value {
        if self.is_yaml() {
            serde_yaml::from_str(&self.text).unwrap()
        } else {
            serde_json::from_str(&self.text).unwrap()
        }
    }

    /// The request that must come out of it.
    fn request(&self) -> Value {
        request(self.value())
    }

    fn family(&self) -> String {
        self.request()["family"].as_str().unwrap().to_owned()
    }

    /// The same document of another family. Nothing else of its text changes.
    fn of_family(&self, family: &str) -> Self {
        let old = self.family();
        let (mut from, mut to) = (format!("\"family\": \"{old}\""), format!("\"family\": \"{family}\""));
        if !self.text.contains(&from) {
            (from, to) = (from.replace(": ", ":"), to.replace(": ", ":"));
        }
        if self.is_yaml() {
            let line = self.text.lines().find(|line| line.starts_with("family:")).unwrap();
            (from, to) = (line.to_owned(), format!("family: {family}"));
        }
        assert_eq!(self.text.matches(&from).count(), 1, "{}", self.name);
        Self { name: self.name.clone(), text: self.text.replace(&from, &to) }
    }

    /// Whether what comes out is what must come out of it. The tests' YAML parser has floats for numbers.
    #[track_caller]
    fn assert_request(&self, text: &str) {
        let rendered: Value = serde_json::from_str(text).unwrap();
        if self.is_yaml() {
            assert_eq!(with_floats(&rendered), with_floats(&self.request()), "{}", self.name);
            return;
        }
        assert_eq!(rendered, self.request(), "{}", self.name);
        // The order of fields, and the numbers as they are written: all of them are in the file, one after the other.
        assert_eq!(rendered.to_string(), self.request().to_string(), "{}", self.name);
        assert_eq!(numbers(text).len(), numbers(&self.request().to_string()).len(), "{}", self.name);
        let mut source = numbers(&self.text).into_iter();
        for number in numbers(text) {
            assert!(source.any(|known| known == number), "{}: {number} is written otherwise", self.name);
        }
    }
}

/// The documents of the folder, and those with one feature each.
fn corpus() -> Vec<Document> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/task-definitions");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<Document> = files
        .map(|path| Document {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&path).unwrap(),
        })
        .collect();
    documents.sort_by(|one, other| one.name.cmp(&other.name));
    for (at, (task, container)) in features().into_iter().enumerate() {
        let family = format!("feature-{at}");
        let text = definition(&family, &task, &container).to_string();
        documents.push(Document { name: format!("{family}.json"), text });
    }
    documents
}

/// What task definitions hold: fields of the task, and of its container `web`.
fn features() -> Vec<(Value, Value)> {
    let task = |fields: Value| (fields, json!({}));
    let container = |fields: Value| (json!({}), fields);
    vec![
        task(json!({})),
        task(
            json!({ "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512" }),
        ),
        task(
            json!({ "requiresCompatibilities": ["FARGATE", "EC2"], "networkMode": "awsvpc", "cpu": "0.5 vCPU", "memory": "1 GB" }),
        ),
        task(json!({ "networkMode": "bridge" })),
        task(
            json!({ "taskRoleArn": "arn:aws:iam::123456789012:role/path/task", "executionRoleArn": "start" }),
        ),
        task(
            json!({ "volumes": [{ "name": "b", "host": {} }, { "name": "a", "host": { "sourcePath": "/srv" } }] }),
        ),
        task(
            json!({ "volumes": [{ "name": "fs", "efsVolumeConfiguration": { "fileSystemId": "fs-1", "rootDirectory": "/", "transitEncryption": "ENABLED" } }] }),
        ),
        task(json!({ "volumes": [], "placementConstraints": [], "tags": [] })),
        task(json!({ "placementConstraints": [{ "type": "memberOf", "expression": "attribute:x == y" }] })),
        task(json!({ "runtimePlatform": { "cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX" } })),
        task(json!({ "ephemeralStorage": { "sizeInGiB": 30 } })),
        task(json!({ "pidMode": "task", "ipcMode": "none" })),
        task(json!({ "tags": [{ "key": "b", "value": "" }, { "key": "a", "value": "1" }] })),
        task(json!({ "volumes": null, "memory": null })),
        container(json!({ "cpu": 0, "essential": false })),
        container(
            json!({ "environment": [{ "name": "B", "value": "" }, { "name": "A", "value": "x=y \"z\" ü" }] }),
        ),
        container(
            json!({ "secrets": [{ "name": "S", "valueFrom": "arn:aws:ssm:eu-west-1:123456789012:parameter/s" }, { "name": "A", "valueFrom": "/a" }] }),
        ),
        container(
            json!({ "environment": [], "mountPoints": [], "volumesFrom": [], "portMappings": [], "links": [] }),
        ),
        container(
            json!({ "portMappings": [{ "containerPort": 80 }, { "containerPort": 443, "hostPort": 8443, "protocol": "tcp" }, { "containerPort": 53, "protocol": "udp", "name": "dns" }] }),
        ),
        container(
            json!({ "healthCheck": { "command": ["CMD-SHELL", "curl -f http://localhost/ || exit 1"] } }),
        ),
        container(
            json!({ "healthCheck": { "command": ["CMD", "true"], "interval": 10, "timeout": 2, "retries": 1, "startPeriod": 60 } }),
        ),
        container(
            json!({ "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": "/g", "awslogs-region": "eu-west-1", "awslogs-stream-prefix": "web", "mode": "" }, "secretOptions": [] } }),
        ),
        container(json!({ "entryPoint": ["sh", "-c"], "command": ["", "echo $X", "ü"] })),
        container(json!({ "dockerLabels": { "z": "", "a.b/c": "1" } })),
        container(json!({ "ulimits": [{ "name": "nofile", "softLimit": 1024, "hardLimit": 0 }] })),
        container(
            json!({ "linuxParameters": { "initProcessEnabled": false, "capabilities": { "drop": ["ALL"], "add": [] } } }),
        ),
        container(
            json!({ "mountPoints": [{ "sourceVolume": "v", "containerPath": "/v", "readOnly": false }] }),
        ),
        container(
            json!({ "readonlyRootFilesystem": false, "privileged": false, "interactive": false, "pseudoTerminal": true }),
        ),
        container(
            json!({ "dnsServers": ["10.0.0.2"], "extraHosts": [{ "hostname": "db", "ipAddress": "10.0.0.3" }], "hostname": "h", "user": "0:0", "workingDirectory": "/" }),
        ),
        container(json!({ "startTimeout": 0, "stopTimeout": 120, "memoryReservation": 32 })),
        container(
            json!({ "resourceRequirements": [{ "type": "GPU", "value": "1" }], "systemControls": [{ "namespace": "net.core.somaxconn", "value": "1024" }] }),
        ),
        container(
            json!({ "repositoryCredentials": { "credentialsParameter": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s" } }),
        ),
        container(
            json!({ "dependsOn": [{ "containerName": "side", "condition": "START" }], "image": format!("r.example/app@sha256:{:064}", 0) }),
        ),
        container(json!({ "links": null, "environment": null, "cpu": 128 })),
    ]
}

fn definition(family: &str, task: &Value, container: &Value) -> Value {
    let mut definition = json!({ "family": family, "containerDefinitions": [{ "name": "web", "image": "i", "memory": 64 }, { "name": "side", "image": "j", "memory": 32 }] });
    let merge = |into: &mut Value, from: &Value| {
        into.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
    };
    merge(&mut definition, task);
    merge(&mut definition["containerDefinitions"][0], container);
    definition
}

/// The request that a document in any shape is.
fn request(document: Value) -> Value {
    let (mut definition, tags) = match document {
        Value::Object(mut outer) if outer.contains_key("taskDefinition") => {
            (outer["taskDefinition"].take(), outer.get_mut("tags").map(Value::take))
        }
        bare => (bare, None),
    };
    let fields = definition.as_object_mut().unwrap();
    if let Some(tags) = tags {
        fields.insert("tags".to_owned(), tags);
    }
    fields.retain(|name, value| {
        let is_no_tags = name == "tags" && *value == json!([]);
        !is_no_tags && !READ_ONLY.contains(&name.as_str())
    });
    without_nulls(&definition)
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

fn with_floats(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), with_floats(value)));
            fields.collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(with_floats).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other.clone(),
    }
}

/// The numbers of a JSON text, as they are written.
fn numbers(text: &str) -> Vec<&str> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        let end = if let Some(mut inner) = rest.strip_prefix('"') {
            while let Some(at) = inner.find(['"', '\\']) {
                let is_escape = inner[at..].starts_with('\\');
                inner = &inner[at + 1 + usize::from(is_escape)..];
                if !is_escape {
                    break;
                }
            }
            rest.len() - inner.len()
        } else {
            let is_of_it = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
            let end = rest.find(|c| !is_of_it(c)).unwrap_or(rest.len());
            found.push(&rest[..end]);
            end
        };
        rest = &rest[end..];
    }
    found
}

/// What one value says and the other one does not, as paths.
fn missing(of: &Value, from: &Value) -> Vec<String> {
    let within = |name: &str, value: &Value, other: &Value| {
        missing(value, other).into_iter().map(|path| format!("/{name}{path}")).collect::<Vec<_>>()
    };
    match (of, from) {
        (Value::Object(of), Value::Object(from)) => {
            let fields = of.iter().map(|(name, value)| match from.get(name) {
                Some(other) => within(name, value, other),
                None => vec![format!("/{name}={value}")],
            });
            fields.flatten().collect()
        }
        (Value::Array(of), Value::Array(from)) if of.len() == from.len() => {
            of.iter().zip(from).flat_map(|(value, other)| within("*", value, other)).collect()
        }
        _ if of == from => Vec::new(),
        _ => vec![format!("={of}")],
    }
}

/// A pipeline with these task definitions.
fn pipeline(steps: &[Value]) -> String {
    json!({ "version": 1, "name": "t", "phases": { "build": { "steps": steps } } }).to_string()
}

/// A project that registers these documents.
fn project(documents: &[Document]) -> Project {
    let steps: Vec<Value> =
        documents.iter().map(|document| json!({ "task-definition": { "file": document.name } })).collect();
    documents.iter().fold(Project::new(&pipeline(&steps)), |project, document| {
        project.file(&document.name, &document.text)
    })
}

fn render(project: &Project, path: &str) -> String {
    project.runner(&format!("ecs render --file {path}")).run().exits(0).stdout
}

#[test]
fn the_corpus_is_rendered_without_loss_and_repeatably() {
    let documents = corpus();
    let folder = documents.iter().filter(|document| !document.name.starts_with("feature-")).count();
    assert!(folder >= 30 && documents.len() >= 60, "{folder} of {}", documents.len());
    let project = project(&documents);
    for document in &documents {
        let rendered = render(&project, &document.name);
        document.assert_request(&rendered);
        std::fs::write(project.path("again.json"), &rendered).unwrap();
        assert_eq!(render(&project, "again.json"), rendered, "{}", document.name);
    }
    let yaml = render(&project, "graviton-api.yml");
    assert!(
        yaml.contains(r#""futureRatio": 1.50"#) && yaml.contains(r#""futureCount": 18446744073709551616"#)
    );
}

#[test]
fn every_shape_of_every_feature_is_rendered_without_loss() {
    let project = Project::new("");
    for (task, container) in features() {
        let mut bare = definition("f", &task, &container);
        bare["fromTomorrow"] = json!({ "deep": [{ "zero": 0, "no": false, "empty": "", "none": [] }] });
        bare["containerDefinitions"][0]["alsoNew"] = json!([0, "", false]);
        let expected = request(bare.clone());
        let mut described = bare.clone();
        for field in ["taskDefinitionArn", "status", "registeredBy"] {
            described[field] = json!("x");
        }
        for field in ["revision", "registeredAt", "deregisteredAt", "deleteRequestedAt"] {
            described[field] = json!(1.5);
        }
        described["requiresAttributes"] = json!([{ "name": "x" }]);
        described["compatibilities"] = json!(["EC2"]);
        let tags = described.as_object_mut().unwrap().shift_remove("tags");
        let wrapped = json!({ "taskDefinition": described, "tags": tags });
        for (path, text) in [
            ("wrapped.json", wrapped.to_string()),
            // Flow style, which is JSON, in a document that is not.
            ("bare.yml", format!("--- # YAML\n{bare:#}\n")),
        ] {
            std::fs::write(project.path(path), text).unwrap();
            let rendered: Value = serde_json::from_str(&render(&project, path)).unwrap();
            assert_eq!(rendered, expected, "{path}");
        }
    }
}

#[test]
fn the_corpus_equals_its_description_by_ecs() {
    let reason = |document: &Document| {
        NOT_KEPT.iter().find(|(name, _)| document.name == *name).map(|(_, reason)| *reason)
    };
    let (kept, others): (Vec<_>, Vec<_>) =
        corpus().into_iter().partition(|document| reason(document).is_none());
    assert!(kept.len() >= 60 && others.len() == NOT_KEPT.len());
    let kept: Vec<Document> = kept.iter().map(|document| document.of_family(&unique("corpus"))).collect();
    let project = project(&kept);
    let bed = only_ecs();
    let run = |word: &str| {
        let call = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &bed.endpoint);
        let outcome = call.run().exits(0);
        kept.iter().fold(outcome, |outcome, document| {
            outcome.has_line(&[word, &format!("{}:1", document.family())])
        });
    };
    run("registered");
    let described = |family: &str| {
        ecs("DescribeTaskDefinition", &json!({ "taskDefinition": family, "include": ["TAGS"] }))
    };
    for document in &kept {
        let answer = described(&document.family());
        std::fs::write(project.path("described.json"), answer.to_string()).unwrap();
        let rendered: Value = serde_json::from_str(&render(&project, "described.json")).unwrap();
        assert_eq!(missing(&document.request(), &rendered), [""; 0], "{}", document.name);
        // What ECS adds.
        let defaults =
            ["=[]", "/cpu=0", "/essential=true", "/networkMode=\"bridge\"", "/rootDirectory=\"/\""];
        for added in missing(&rendered, &document.request()) {
            assert!(defaults.iter().any(|default| added.ends_with(default)), "{}: {added}", document.name);
        }
    }
    run("unchanged");
    // The list of exceptions is not older than the bed.
    for document in others {
        let document = document.of_family(&unique("corpus"));
        ecs("RegisterTaskDefinition", &document.request());
        let lost = missing(&document.request(), &request(described(&document.family())));
        assert!(!lost.is_empty(), "{}: {:?} does not hold any more", document.name, reason(&document));
    }
}

/// The bed, of which nothing but ECS may be asked: what the corpus names, such as roles and images, is nowhere.
fn only_ecs() -> RecordedAws {
    RecordedAws::played(|calls, _| {
        let is_ecs = calls[0].action.starts_with("ecs:");
        if is_ecs { Answer::Forwarded } else { Answer::Denied(calls[0].clone()) }
    })
}

/// An ECS that keeps every byte of what is registered, by family.
struct FaithfulEcs {
    api: RecordedAws,
    revisions: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
}

impl FaithfulEcs {
    fn start() -> Self {
        let revisions: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
        let known = revisions.clone();
        let api = RecordedAws::played(move |calls, body| {
            let action = calls[0].action.as_str();
            if !action.starts_with("ecs:") {
                return Answer::Denied(calls[0].clone());
            }
            let (asked, mut known): (Value, _) = (serde_json::from_str(body).unwrap(), known.lock().unwrap());
            let family = asked["family"].as_str().or(asked["taskDefinition"].as_str()).unwrap();
            let of_family = known.entry(family.to_owned()).or_default();
            if action == "ecs:RegisterTaskDefinition" {
                of_family.push(body.to_owned());
            }
            let Some(latest) = of_family.last() else {
                let refusal =
                    json!({ "__type": "ClientException", "message": "Unable to describe task definition." });
                return Answer::Said(400, refusal.to_string());
            };
            Answer::Said(200, answer(latest, of_family.len()))
        });
        Self { api, revisions }
    }

    /// The body of a family's registration.
    fn body(&self, family: &str, revision: usize) -> String {
        self.revisions.lock().unwrap()[family][revision - 1].clone()
    }

    fn count(&self) -> usize {
        self.revisions.lock().unwrap().values().map(Vec::len).sum()
    }
}

/// The answer of ECS about a revision whose registration had this body.
fn answer(body: &str, revision: usize) -> String {
    let request: Value = serde_json::from_str(body).unwrap();
    let family = request["family"].as_str().unwrap();
    let own = json!({
        "taskDefinitionArn": format!("arn:aws:ecs:us-east-1:123456789012:task-definition/{family}:{revision}"),
        "revision": revision, "status": "ACTIVE", "registeredAt": 1_767_225_600.123, "registeredBy": "arn:aws:iam::123456789012:root",
        "requiresAttributes": [{ "name": "ecs.capability.task-eni" }], "compatibilities": ["EC2"]
    });
    let own = own.to_string();
    let tags = request.get("tags").unwrap_or(&json!([])).to_string();
    let rest = body.replace(&format!(",\"tags\":{tags}"), "");
    format!("{{\"taskDefinition\":{},{},\"tags\":{tags}}}", &own[..own.len() - 1], &rest[1..])
}

#[test]
fn every_byte_of_the_corpus_reaches_ecs_and_comes_back() {
    let documents = corpus();
    let service = FaithfulEcs::start();
    let project = project(&documents);
    let run = |word: &str, revision: usize| {
        let call = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &service.api.endpoint);
        let outcome = call.run().exits(0);
        documents.iter().fold(outcome, |outcome, document| {
            outcome.has_line(&[word, &format!("{}:{revision}", document.family())])
        });
    };
    run("registered", 1);
    for document in &documents {
        document.assert_request(&service.body(&document.family(), 1));
    }
    run("unchanged", 1);
    assert_eq!(service.count(), documents.len());
    // A change to what ECS has changes nothing else.
    let container = |request: &Value| request["containerDefinitions"][0]["name"].as_str().unwrap().to_owned();
    let steps: Vec<Value> = documents
        .iter()
        .map(|document| {
            let change = json!({ container(&document.request()): { "image": null, "environment": { "PROBE": "1" } } });
            json!({ "task-definition": { "family": document.family(), "containers": without_nulls(&change) } })
        })
        .collect();
    std::fs::write(project.path("pipeline.yml"), pipeline(&steps)).unwrap();
    run("registered", 2);
    for document in &documents {
        let (first, second) = (service.body(&document.family(), 1), service.body(&document.family(), 2));
        assert_eq!(numbers(&first), numbers(&second), "{}", document.name);
        let mut expected: Value = serde_json::from_str(&first).unwrap();
        let environment = &mut expected["containerDefinitions"][0]["environment"];
        if environment.is_null() {
            *environment = json!([]);
        }
        environment.as_array_mut().unwrap().push(json!({ "name": "PROBE", "value": "1" }));
        let second: Value = serde_json::from_str(&second).unwrap();
        assert_eq!(second, expected, "{}", document.name);
    }
}

#[test]
fn fields_that_would_be_lost_are_refused() {
    let project = Project::new("");
    let twice = "{\n  \"family\": \"f\",\n  \"containerDefinitions\": [{ \"name\": \"a\", \"image\": \"i\", \"image\": \"j\" }]\n}\n";
    for (path, text, says) in [
        ("twice.json", twice, "the key `image` occurs twice at line 3 column"),
        ("twice.yml", "family: f\nfamily: g\ncontainerDefinitions: []\n", "the key `family` occurs twice"),
        ("surrogate.json", "{\n\"family\": \"\\ud800\" }", "line 2 column"),
        ("infinite.yml", "family: f\ncontainerDefinitions: []\nnew: .inf\n", "JSON has no number for `.inf`"),
    ] {
        std::fs::write(project.path(path), text).unwrap();
        let outcome = project.runner(&format!("ecs render --file {path}")).run().exits(2);
        outcome.complains(&format!("could not read the task definition {path}")).complains(says);
    }
}

#[test]
fn a_large_document_is_rendered() {
    let entries = (0..20_000).map(|at| json!({ "name": format!("V{at}"), "value": format!("{at:>40}") }));
    let document = json!({ "family": "f", "containerDefinitions": [{ "name": "a", "image": "i", "environment": entries.collect::<Value>() }] });
    let project = Project::new("").file("large.json", document.to_string());
    assert!(document.to_string().len() > 1024 * 1024);
    let rendered: Value = serde_json::from_str(&render(&project, "large.json")).unwrap();
    assert!(rendered == document);
}
