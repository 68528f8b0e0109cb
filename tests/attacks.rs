//! Attacks on the masks: secrets in every form that an encoder gives them, in every piece that a program writes, by every
//! way that output takes. No sink shows any of them. `./dev soak attacks` runs all cases, the other tests a sample.

use crate::bed::docker;
use crate::build::image_id;
use crate::ecs_api::{OneOff, Scenario, Service};
use crate::harness::{Outcome, Project, log_configuration, shell, unique};
use indoc::formatdoc;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// A secret in one form.
struct Case {
    secret: String,
    value: String,
    form: String,
    text: String,
}

fn is_full() -> bool {
    std::env::var("RUNNER_SOAK").as_deref() == Ok("full")
}

fn cases() -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attack_cases.py");
    let script = script.to_str().unwrap();
    let printed =
        if is_full() { shell("python3", &[script]) } else { shell("python3", &[script, "90", "2026"]) };
    let cases: Vec<[String; 4]> = serde_json::from_str(&printed).unwrap();
    cases.into_iter().map(|[secret, value, form, text]| Case { secret, value, form, text }).collect()
}

/// The cases one after the other, each between marks.
fn payload(cases: &[Case]) -> String {
    cases.iter().enumerate().map(|(number, case)| format!("<{number}:{}:{number}>\n", case.text)).collect()
}

/// The secrets of the cases, as `env` and for `--env-file`.
fn secrets(cases: &[Case]) -> (String, String) {
    let secrets: BTreeMap<&String, &String> = cases.iter().map(|case| (&case.secret, &case.value)).collect();
    let name = |secret: &str| format!("SECRET_{}", secret.to_uppercase());
    let names: Vec<String> = secrets.keys().map(|secret| format!("{}: /{secret}", name(secret))).collect();
    let quoted = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('$', "\\$")
            .replace('\n', "\\n")
            .replace('\t', "\\t")
    };
    let file = secrets.iter().map(|(secret, value)| format!("{}=\"{}\"\n", name(secret), quoted(value)));
    (format!("{{ {} }}", names.join(", ")), file.collect())
}

/// The parts of a text that would give a secret away: every ten bytes with at least six letters or digits. Encoded text
/// at its ends may belong to its neighbours.
fn parts(text: &str) -> HashSet<&[u8]> {
    const LENGTH: usize = 10;
    let bytes = text.as_bytes();
    let edge = 4.min(bytes.len().saturating_sub(LENGTH) / 2);
    let telling = |part: &&[u8]| part.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() >= 6;
    bytes[edge..bytes.len() - edge].windows(LENGTH).filter(telling).collect()
}

/// Checks that no case is in a text.
#[track_caller]
fn check(sink: &str, text: &str, cases: &[Case]) {
    let shown: HashSet<&[u8]> = text.as_bytes().windows(10).collect();
    let leaks: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let part =
                parts(&case.text).into_iter().chain(parts(&case.value)).find(|part| shown.contains(part))?;
            let part = String::from_utf8_lossy(part).into_owned();
            Some(format!("{} {}: {part:?} of {:?}", case.secret, case.form, case.text))
        })
        .collect();
    assert!(leaks.is_empty(), "{sink} shows {} of {} cases:\n{}", leaks.len(), cases.len(), leaks.join("\n"));
}

/// Checks everything that a run leaves for others to read.
fn check_sinks(project: &Project, outcome: &Outcome, cases: &[Case]) {
    check("stdout", &outcome.stdout, cases);
    check("stderr", &outcome.stderr, cases);
    for file in shell("find", &[project.path(".runner").to_str().unwrap(), "-type", "f"]).lines() {
        check(file, &String::from_utf8_lossy(&std::fs::read(file).unwrap()), cases);
    }
}

/// The commands that print a file whole, byte by byte, and in pieces of an odd length.
fn chunkings(file: &str) -> [String; 3] {
    [
        format!("cat {file}"),
        format!("dd if={file} bs=1 2>/dev/null"),
        format!("dd if={file} bs=13 2>/dev/null"),
    ]
}

#[test]
fn no_form_of_a_secret_passes_a_script_parallel_steps_a_build_or_a_test() {
    let cases = cases();
    let (names, file) = secrets(&cases);
    let repository = unique("attacks");
    let [whole, bytes, odd] = chunkings("payload");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: attacks
        env: {{ shell: sh, parameter-store: {names} }}
        images: {{ app: {{ repository: {repository}, tags: [t] }} }}
        phases:
          build:
            steps:
              - run: {whole}
              - run: {bytes}
              - run: {odd}
              - parallel:
                  - run: {whole}
                  - run: {bytes}
                  - run: {odd}
              - build: app
              - test: app
                command: [sh, -c, "{whole}; {bytes}; {odd}"]
              - run: cat payload; exit 3
        notify:
          - webhook: {{ url: "http://127.0.0.1:1/" }}
    "#})
    .file("env", file)
    // Not the same as in an earlier build, which the engine would not run again.
    .file("payload", format!("{repository}\n{}", payload(&cases)))
    .file(
        "Dockerfile",
        formatdoc! {"
        FROM busybox:1.36
        COPY payload .
        RUN {whole}
        RUN {bytes}
        RUN {odd}
    "},
    );
    let outcome = project.runner("run --local --env-file env").run();
    check_sinks(&project, &outcome, &cases);
    let outcome = outcome.exits(1);
    // Every way has printed the cases, between marks.
    let last = cases.len() - 1;
    assert!(outcome.stdout.matches(&format!(":{last}>")).count() >= 13, "{outcome}");
    let image = image_id(&project);
    check("history", &docker(&["history", "--no-trunc", &image]), &cases);
    check("image", &docker(&["image", "inspect", &image]), &cases);
    // The events are another sink, with the texts as JSON.
    let outcome = project.runner("run --local --env-file env --json=output").run();
    check_sinks(&project, &outcome, &cases);
    let text = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().map(str::to_owned)
    };
    check("texts of events", &outcome.stdout.lines().filter_map(text).collect::<String>(), &cases);
    outcome.exits(1);
}

#[test]
fn no_form_of_a_secret_passes_the_log_of_a_task() {
    let cases = cases();
    let (names, file) = secrets(&cases);
    let payload = payload(&cases);
    let lines: Vec<&str> = payload.lines().collect();
    let service = Service::fresh().fargate();
    let name = &service.name;
    let definition = json!({ "family": name, "containerDefinitions": [
        { "name": "web", "image": "new", "memory": 64, "logConfiguration": log_configuration() }] });
    let project = Project::new(&formatdoc! {"
        version: 1
        name: attacks
        env: {{ shell: sh, parameter-store: {names} }}
        phases:
          post_build:
            steps:
              - task-definition: {{ file: td.json }}
              - run-task: {{ cluster: {}, service: {name}, container: web, command: [./migrate] }}
    ", service.cluster})
    .file("env", file)
    .file("td.json", definition.to_string());
    // All at once, line by line, and in two parts between which the log is read.
    let (first, second) = lines.split_at(lines.len() / 2);
    let tasks = [
        OneOff::whole("web", &lines, 0),
        lines.chunks(lines.len().div_ceil(40)).fold(OneOff::starts(), |task, lines| task.runs("web", lines)),
        OneOff::starts().runs("web", first).runs("web", second),
    ];
    for task in tasks {
        let ended = crate::ecs_api::TaskOutcome::exited("web", 3);
        let ecs = Scenario::new([service.clone()]).runs(task.ends(ended)).start();
        let outcome = project.runner("run --publish --env-file env").on(&ecs).run();
        check_sinks(&project, &outcome, &cases);
        assert!(outcome.stdout.contains(&format!(":{}>", cases.len() - 1)), "{outcome}");
    }
}
