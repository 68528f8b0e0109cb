//! `--json`: secrets are masked within string values, and the document stays whole whatever the secrets are.

use crate::harness::{Call, Outcome, Project};
use indoc::formatdoc;
use serde_json::{Value, json};

/// Values that a mask over the printed text would take for a part of the document.
const SECRETS: [&str; 7] = ["true", "null", "1", "version", "success", "missing", "12345"];

/// A pipeline with one secret for each of the values, and their `--env-file`. Every value occurs in a title.
fn project() -> Project {
    let names: Vec<String> = (0..SECRETS.len()).map(|at| format!("S{at}")).collect();
    let parameters: String = names.iter().map(|name| format!("{name}: /t/{name}, ")).collect();
    let title: String = names.iter().map(|name| format!("<${{{name}}}>")).collect();
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh, parameter-store: {{ {parameters}}} }}
        images: {{ app: {{ repository: version-app, tags: ["v12345-${{source.commit}}"] }} }}
        phases:
          build:
            steps:
              - {{ name: "{title}", run: "true" }}
              - build: app
              - push: app
    "#})
    .file("Dockerfile", "FROM scratch\n")
    .file("secrets.env", env_file(|at| SECRETS[at].to_owned()))
    .file("harmless.env", env_file(|at| format!("harmless-{at}")))
}

/// The lines of an `--env-file` with a value for each secret.
fn env_file(value: impl Fn(usize) -> String) -> String {
    (0..SECRETS.len()).map(|at| format!("S{at}={}\n", value(at))).collect()
}

/// The calls need neither Docker nor AWS.
fn call<'p>(project: &'p Project, arguments: &str) -> Call<'p> {
    project
        .runner(arguments)
        .env("DOCKER_HOST", "unix:///nowhere")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_REGION", "us-east-1")
}

#[track_caller]
fn document(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// The keys of all objects in a document, with the path to each.
pub fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}/{key}");
                found.push(path.clone());
                keys(value, &path, found);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                keys(item, &format!("{path}/{at}"), found);
            }
        }
        _ => {}
    }
}

pub fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[track_caller]
fn shows_no_secret(texts: &[&str], outcome: &Outcome) {
    for secret in SECRETS.iter().filter(|secret| secret.len() >= 4) {
        let shown = texts.iter().find(|text| text.contains(secret));
        assert!(shown.is_none(), "{shown:?} shows {secret}\n{outcome}");
    }
}

/// The document with secrets has the keys and the numbers of the one without, and no string value shows a secret.
#[track_caller]
fn is_masked(with: &Outcome, without: &Outcome) {
    assert_eq!(with.code, without.code, "{with}\n{without}");
    let (masked, plain) = (document(with), document(without));
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    keys(&masked, "", &mut found);
    keys(&plain, "", &mut expected);
    assert_eq!(found, expected, "{with}\n{without}");
    assert_eq!(masked["version"], json!(1), "{with}");
    let mut found = Vec::new();
    texts(&masked, &mut found);
    shows_no_secret(&found, with);
    assert!(found.iter().any(|text| text.contains("***")), "nothing is masked\n{with}");
}

#[test]
fn plans_stay_whole() {
    let project = project();
    for mode in ["", "--local"] {
        let plan =
            |file: &str| call(&project, &format!("plan --json {mode} --env-file {file}")).run().exits(0);
        is_masked(&plan("secrets.env"), &plan("harmless.env"));
    }
}

#[test]
fn each_event_of_a_run_stays_whole() {
    let names: String = (0..SECRETS.len()).map(|at| format!("S{at}: /t/S{at}, ")).collect();
    let text: String = (0..SECRETS.len()).map(|at| format!("<$S{at}>")).collect();
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh, parameter-store: {{ {names}}} }}
        phases:
          build:
            steps:
              - {{ name: a version, run: 'echo "{text}"' }}
    "#});
    let project = project.file("secrets.env", env_file(|at| SECRETS[at].to_owned()));
    let outcome = call(&project, "run --json=output --local --env-file secrets.env").run().exits(0);
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut found = Vec::new();
    for event in &events {
        assert!(event["type"].is_string() && event["at"].is_string() && event["v"] == 1, "{event}");
        found.extend(["title", "text", "summary"].iter().filter_map(|key| event[*key].as_str()));
    }
    shows_no_secret(&found, &outcome);
    for text in ["a ***", "<***><***><1><***><***><***><***>\n"] {
        assert!(found.contains(&text), "{outcome}");
    }
}

#[test]
fn the_report_of_doctor_stays_whole() {
    let project = project();
    let doctor = |file: &str| call(&project, &format!("doctor --json --env-file {file}")).run().exits(3);
    let outcome = doctor("secrets.env");
    is_masked(&outcome, &doctor("harmless.env"));
    assert_eq!(document(&outcome)["ready"], json!(false));
}

#[test]
fn the_report_of_validate_stays_whole() {
    let project = project();
    let given = |text: &str| {
        let mut call = call(&project, text);
        for (at, secret) in SECRETS.iter().enumerate() {
            call = call.env(&format!("S{at}"), *secret);
        }
        call.run()
    };
    let valid = document(&given("validate --json").exits(0));
    assert_eq!(
        valid,
        json!({ "version": 1, "valid": true, "files": [{ "file": "pipeline.yml", "valid": true, "diagnostics": [] }] })
    );
    // A mistake that the diagnostics quote.
    let broken =
        project.read("pipeline.yml").replace("repository: version-app", "repository: \"app-${version}\"");
    std::fs::write(project.path("broken.yml"), broken).unwrap();
    let plain = call(&project, "validate --json pipeline.yml broken.yml").run().exits(2);
    is_masked(&given("validate --json pipeline.yml broken.yml"), &plain);
    // `plan` prints the same document for such a file.
    let plain = call(&project, "plan --json --file broken.yml").run().exits(2);
    is_masked(&given("plan --json --file broken.yml"), &plain);
}

#[test]
fn a_policy_stays_whole() {
    let project = project();
    let iam = |secret: &str| call(&project, "iam").env("S3", secret).run().exits(0);
    let (masked, plain) = (document(&iam("version")), document(&iam("harmless")));
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    keys(&masked, "", &mut found);
    keys(&plain, "", &mut expected);
    assert_eq!(found, expected);
    assert!(!masked.to_string().contains("version-app"), "{masked}");
}
