//! `run --json`: events of real runs keep the promises of `docs/events.md`.

use crate::harness::{Outcome, Project, schema_errors};
use crate::json_output::{keys, texts};
use indoc::{formatdoc, indoc};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

fn repository_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&repository_file("docs/events.schema.json")).unwrap()
}

/// The fields that the schema names for each type.
fn fields_of_types(schema: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let rules = schema["allOf"].as_array().unwrap();
    let named = rules.iter().filter_map(|rule| {
        let name = rule["if"]["properties"]["type"]["const"].as_str()?;
        let fields = rule["then"]["properties"].as_object().unwrap();
        Some((name.to_owned(), fields.keys().cloned().collect()))
    });
    named.collect()
}

/// The events of a run. Every line of stdout is one.
#[track_caller]
pub fn events(outcome: &Outcome) -> Vec<Value> {
    let lines = outcome.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}\n{outcome}"))).collect()
}

pub fn text<'v>(event: &'v Value, field: &str) -> &'v str {
    event[field].as_str().unwrap_or_default()
}

pub fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("{field} is no number: {event}"))
}

/// The events of the calls of a build hold what the format promises of every line.
#[track_caller]
pub fn keep_their_promises(events: &[Value]) {
    let schema = schema();
    let known = fields_of_types(&schema);
    let envelope = ["v", "n", "at", "ms", "call", "type", "id", "parent"];
    let (mut ids, mut call, mut ms) = (HashSet::new(), 0, 0);
    for (event, expected) in events.iter().zip(1..) {
        assert_eq!(number(event, "n"), expected, "the numbers have a gap or repeat: {event}");
        if number(event, "call") != call {
            (call, ms) = (number(event, "call"), 0);
        }
        assert!(number(event, "ms") >= ms, "the clock of the call goes back: {event}");
        ms = number(event, "ms");
        text(event, "at").parse::<jiff::Timestamp>().unwrap();
        let id = text(event, "id");
        match event["parent"].as_str() {
            None => assert_eq!(id, "run", "no parent: {event}"),
            Some(parent) => {
                assert!(ids.contains(parent), "{parent} has not occurred before: {event}");
                assert!(
                    parent == "run" || id.starts_with(parent),
                    "{parent} is no part of the path: {event}"
                );
            }
        }
        ids.insert(id);
        let own = event.as_object().unwrap().keys().skip(envelope.len());
        let unknown: Vec<&String> = own.filter(|key| !known[text(event, "type")].contains(*key)).collect();
        assert!(unknown.is_empty(), "{unknown:?} are in neither schema nor documentation: {event}");
    }
    let errors = schema_errors(events.iter().map(|event| (&schema, event)));
    for (event, errors) in events.iter().zip(errors) {
        assert!(errors.is_empty(), "{errors:?}\n{event}");
    }
}

/// One word about each event: id, type, and how it ended or why it was skipped.
fn outline(events: &[Value]) -> Vec<String> {
    let outline = events.iter().map(|event| {
        let more = [&event["status"], &event["reason"]["code"], &event["exit"], &event["cause"]["kind"]];
        let more = more.iter().filter(|value| !value.is_null());
        let more: String = more.map(|value| format!(" {}", value.to_string().replace('"', ""))).collect();
        format!("{} {}{more}", text(event, "id"), text(event, "type"))
    });
    outline.collect()
}

const SCRIPTS: &str = indoc! {r#"
    install: { steps: [{ name: greet, run: echo hello }] }
    build:
      steps:
        - name: flaky
          run: 'echo x >> tries; test "$(wc -l < tries)" = 2'
          retry: { attempts: 2, delay: 1s }
        - name: both
          parallel:
            - { name: one, run: 'until [ -e two ]; do sleep 0.02; done' }
            - { name: two, run: touch two }
        - { name: not yet, run: echo no, when: failure }
        - { name: elsewhere, run: echo no, only: { branches: nowhere } }
        - { name: fails, run: 'echo out; echo "MASKED=x" > /dev/null; exit 3' }
        - { name: never, run: echo no }
        - { name: after all, run: echo yes, when: always }
      finally: [{ name: clean, run: echo clean }]
    post_build: { steps: [{ name: deploy, run: echo no }] }
"#};

#[test]
fn a_run_of_scripts_is_reported_step_by_step() {
    let project = Project::phases(SCRIPTS).git();
    let outcome = project.runner("run --json").run().exits(1);
    assert_eq!(outcome.stderr, "");
    let all = events(&outcome);
    keep_their_promises(&all);
    let (group, rest): (Vec<Value>, Vec<Value>) =
        all.iter().cloned().partition(|event| text(event, "id").starts_with("build.2/"));
    let expected = "\
run build.opened
call.1 call.started
run build.planned
install phase.started
install.1 step.started
install.1#1 attempt.started
install.1#1 command.finished 0
install.1#1 attempt.finished succeeded
install.1 step.finished succeeded
install phase.finished succeeded
build phase.started
build.1 step.started
build.1#1 attempt.started
build.1#1 command.finished 1
build.1#1 attempt.finished failed command-exit
build.1#2 attempt.started
build.1#2 command.finished 0
build.1#2 attempt.finished succeeded
build.1 step.finished succeeded
build.2 group.started
build.2#1 attempt.started
build.2#1 attempt.finished succeeded
build.2 group.finished succeeded
build.3 step.skipped not-failed
build.4 step.skipped condition
build.5 step.started
build.5#1 attempt.started
build.5#1 command.finished 3
build.5#1 attempt.finished failed command-exit
build.5 step.finished failed command-exit
build.6 step.skipped failed-before
build.7 step.started
build.7#1 attempt.started
build.7#1 command.finished 0
build.7#1 attempt.finished succeeded
build.7 step.finished succeeded
build.f1 step.started
build.f1#1 attempt.started
build.f1#1 command.finished 0
build.f1#1 attempt.finished succeeded
build.f1 step.finished succeeded
build phase.finished failed command-exit
post_build phase.skipped failed-before
call.1 call.finished failed 1 command-exit
run build.finished failed 1 command-exit";
    assert_eq!(outline(&rest).join("\n"), expected);
    let mut members = outline(&group);
    members.sort();
    let expected = "\
build.2/1 step.finished succeeded
build.2/1 step.started
build.2/1#1 attempt.finished succeeded
build.2/1#1 attempt.started
build.2/1#1 command.finished 0
build.2/2 step.finished succeeded
build.2/2 step.started
build.2/2#1 attempt.finished succeeded
build.2/2#1 attempt.started
build.2/2#1 command.finished 0";
    assert_eq!(members.join("\n"), expected);
    // The cause keeps its place, its kind and its exit code from the attempt to the end of the build.
    for event in
        all.iter().filter(|event| event["cause"]["text"].as_str().is_some_and(|text| text.contains('3')))
    {
        assert_eq!(event["cause"]["place"]["id"], "build.5", "{event}");
        assert_eq!(
            (text(&event["cause"], "kind"), &event["cause"]["exit"]),
            ("command-exit", &Value::from(1))
        );
    }
    let retried = all.iter().find(|event| !event["retry_in_ms"].is_null()).unwrap();
    assert_eq!((text(retried, "id"), text(&retried["cause"]["place"], "id")), ("build.1#1", "build.1"));
    let skipped = all.iter().find(|event| text(event, "id") == "build.4").unwrap();
    assert_eq!(skipped["title"], "elsewhere");
    assert_eq!(skipped["reason"]["text"], "only for the branch `nowhere`; this is a manual build of `main`");
    // What was planned has the ids of what came.
    let planned = all[2]["nodes"].as_array().unwrap().iter().map(|node| text(node, "id"));
    let planned: Vec<&str> = planned.collect();
    assert!(
        ["build.2/1", "build.f1", "build.6", "post_build.1"].iter().all(|id| planned.contains(id)),
        "{planned:?}"
    );
}

/// The event of this id and type.
#[track_caller]
fn event_of<'v>(events: &'v [Value], id: &str, kind: &str) -> &'v Value {
    let found = events.iter().find(|event| text(event, "id") == id && text(event, "type") == kind);
    found.unwrap_or_else(|| panic!("no {kind} of {id}: {}", outline(events).join("\n")))
}

#[test]
fn a_signal_stops_steps_and_a_timeout_fails_them() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - { parallel: [{ run: 'touch begun; sleep 60' }] }
            - { run: echo no }
    "});
    let mut running = project.runner("run --json").start();
    running.until_exists(&project.path("begun"));
    running.signal("TERM");
    let all = events(&running.finish().exits(143));
    keep_their_promises(&all);
    for (id, kind) in [
        ("build.1/1#1", "attempt.finished"),
        ("build.1/1", "step.finished"),
        ("build.1", "group.finished"),
        ("build", "phase.finished"),
        ("run", "build.finished"),
    ] {
        let event = event_of(&all, id, kind);
        let cause = &event["cause"];
        assert_eq!(
            (text(event, "status"), text(cause, "text")),
            ("stopped", "stopped by SIGTERM"),
            "{event}"
        );
        assert_eq!((text(cause, "kind"), &cause["exit"]), ("stopped", &Value::from(143)), "{event}");
    }
    assert_eq!(event_of(&all, "run", "stop.requested")["by"], "stopped by SIGTERM");
    assert_eq!(event_of(&all, "build.1/1#1", "command.finished")["stopped"], true);
    assert_eq!(event_of(&all, "build.2", "step.skipped")["reason"]["code"], "stopping");

    let project = Project::phases(indoc! {r"
        build:
          steps:
            - parallel:
                - { run: sleep 60, timeout: 1s }
                - { run: sleep 60 }
    "});
    let all = events(&project.runner("run --json").run().exits(7));
    keep_their_promises(&all);
    for (id, kind) in
        [("build.1/1", "step.finished"), ("build.1", "group.finished"), ("run", "build.finished")]
    {
        let event = event_of(&all, id, kind);
        assert_eq!(
            (text(event, "status"), text(&event["cause"], "kind")),
            ("timed-out", "timeout"),
            "{event}"
        );
        assert_eq!(event["cause"]["place"]["id"], "build.1/1", "{event}");
    }
    for (id, kind) in [("build.1/2#1", "attempt.finished"), ("build.1/2", "step.finished")] {
        assert_eq!(event_of(&all, id, kind)["status"], "cancelled");
    }
}

#[test]
fn events_of_one_build_are_numbered_through_its_calls() {
    let project = Project::phases(indoc! {r#"
        build: { steps: [{ run: echo 'V=1' >> "$RUNNER_ENV" }] }
        post_build: { steps: [{ run: exit 4 }] }
    "#});
    let mut all = events(&project.runner("run --json --phase build").run().exits(0));
    let first = all.len();
    all.extend(events(&project.runner("run --json=output --phase post_build").run().exits(1)));
    keep_their_promises(&all);
    let opened = |event: &&Value| text(event, "type") == "build.opened";
    let opened: Vec<&Value> = all.iter().filter(opened).map(|event| &event["first"]).collect();
    assert_eq!(opened, [true, false]);
    assert_eq!((number(&all[first], "call"), text(&all[first + 1], "id")), (2, "call.2"));
    assert_eq!(text(all.last().unwrap(), "type"), "build.finished");
    assert!(!all[..first].iter().any(|event| text(event, "type") == "build.finished"));
}

#[test]
fn output_is_an_option_and_masked() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases:
          build:
            steps:
              - name: log in
                run: |
                  echo hunter2 >> "$RUNNER_MASK"
                  echo TOKEN=hunter2 >> "$RUNNER_ENV"
              - { name: "use ${TOKEN}", run: 'printf "a-\303\244-%s-b\n" "$TOKEN"' }
              - { name: bytes, run: 'printf "\377\n"' }
    "#});
    let outcome = project.runner("run --json=output").run().exits(0).says_not("hunter2");
    let all = events(&outcome);
    keep_their_promises(&all);
    let output: Vec<&Value> = all.iter().filter(|event| text(event, "type") == "output").collect();
    let of = |id: &str, field: &str| -> String {
        output.iter().filter(|event| text(event, "id") == id).map(|event| text(event, field)).collect()
    };
    assert_eq!(of("build.2#1", "text"), "a-ä-***-b\n", "{outcome}");
    assert_eq!(of("build.3#1", "bytes_base64"), "/wo=", "{outcome}");
    assert!(all.iter().any(|event| text(event, "title") == "use ***"), "{outcome}");
    assert!(all.iter().any(|event| text(event, "type") == "mask.added"), "{outcome}");
    // Without the request there is none, and the numbers have no gaps.
    let all = events(&project.runner("run --json").run().exits(0));
    keep_their_promises(&all);
    assert!(!all.iter().any(|event| text(event, "type") == "output"));
}

/// Values that a mask over the printed line would take for a part of it.
const SECRETS: [&str; 7] = ["true", "null", "1", "version", "success", "succeeded", "step.started"];

#[test]
fn a_line_stays_whole_whatever_the_secrets_are() {
    let names: String = (0..SECRETS.len()).map(|at| format!("S{at}: /t/S{at}, ")).collect();
    let all: String = (0..SECRETS.len()).map(|at| format!("$S{at} ")).collect();
    let run = |secret: &dyn Fn(usize) -> String| {
        let file: String = (0..SECRETS.len()).map(|at| format!("S{at}={}\n", secret(at))).collect();
        let project = Project::new(&formatdoc! {"
            version: 1
            name: t
            env: {{ shell: sh, parameter-store: {{ {names}}} }}
            phases:
              build:
                steps:
                  - {{ name: \"a ${{S3}} of ${{S4}}\", run: 'echo {all}; exit 3' }}
                  - {{ name: last, run: \"true\", when: always }}
                  - {{ run: echo never }}
        "})
        .file("secrets.env", file);
        project.runner("run --json --local --env-file secrets.env").run().exits(1)
    };
    let (masked, plain) = (
        run(&|at| SECRETS[at].to_owned()),
        run(&|at| if at == 2 { "2".to_owned() } else { format!("harmless-{at}") }),
    );
    let (masked_events, plain_events) = (events(&masked), events(&plain));
    keep_their_promises(&masked_events);
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (events, list) in [(&masked_events, &mut found), (&plain_events, &mut expected)] {
        for event in events {
            keys(event, text(event, "type"), list);
        }
    }
    assert_eq!(found, expected, "{masked}\n{plain}");
    assert_eq!(outline(&masked_events), outline(&plain_events));
    // The words of the format are no texts.
    let mut found = Vec::new();
    for event in &masked_events {
        for (key, value) in event.as_object().unwrap() {
            if !["type", "status", "kind", "nodes"].contains(&key.as_str()) {
                texts(value, &mut found);
            }
        }
    }
    for secret in SECRETS.iter().filter(|secret| secret.len() >= 4) {
        let shown = found.iter().find(|text| text.contains(secret));
        assert!(shown.is_none(), "{shown:?} shows {secret}\n{masked}");
    }
    assert!(found.contains(&"a *** of ***"), "{masked}");
}

/// The first elements of the tuples in a source file that are texts.
fn first_texts(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let pieces: Vec<&str> = code.split('"').collect();
    let texts = pieces.windows(3).filter(|three| {
        three[0].trim_end().ends_with('(') && three[2].starts_with(',') && !three[1].contains(['{', ' '])
    });
    texts.map(|three| three[1].to_owned()).collect()
}

/// The names that the `as_str` of a type returns.
fn names_of(source: &str, owner: &str) -> BTreeSet<String> {
    let code = source.split(&format!("impl {owner} {{")).nth(1).unwrap().split("\n}\n").next().unwrap();
    let names = code.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    names.map(|(_, name)| name.trim_end_matches("\",").to_owned()).collect()
}

fn set(values: &Value) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The cells of the tables of the documentation, in rows; only the rows that start with a name in code.
fn rows(document: &str) -> Vec<Vec<String>> {
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The names in code within a cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

#[test]
fn code_schema_and_documentation_name_the_same_types_fields_kinds_and_codes() {
    let schema = schema();
    let document = repository_file("docs/events.md");
    let types = first_texts(&repository_file("src/event/wire.rs"));
    assert_eq!(types, set(&schema["properties"]["type"]["enum"]));
    let fields = fields_of_types(&schema);
    assert_eq!(types, fields.keys().cloned().collect());
    let sections: BTreeMap<&str, Vec<Vec<String>>> = document
        .split("\n## ")
        .map(|section| (section.lines().next().unwrap_or_default(), rows(section)))
        .collect();
    let documented: BTreeMap<String, BTreeSet<String>> = sections["Types"]
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), names(row.get(2).map_or("", String::as_str))))
        .collect();
    assert_eq!(documented, fields);
    let in_section = |section: &str| -> BTreeSet<String> {
        sections[section].iter().map(|row| row[0].trim_matches(['`', '?']).to_owned()).collect()
    };
    let kinds = names_of(&repository_file("src/exit.rs"), "FailureKind");
    let definitions = &schema["definitions"];
    assert_eq!(kinds, set(&definitions["cause"]["properties"]["kind"]["enum"]));
    let of_cause: BTreeSet<String> =
        definitions["cause"]["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(in_section("Causes"), kinds.union(&of_cause).cloned().collect());
    let event = repository_file("src/event/mod.rs");
    let codes = names_of(&event, "SkipCode");
    assert_eq!(codes, set(&definitions["reason"]["properties"]["code"]["enum"]));
    assert_eq!(codes, in_section("Reasons for skipping"));
    let deployments = names_of(&event, "DeploymentStatus");
    let rules = schema["allOf"].as_array().unwrap();
    let rule =
        rules.iter().find(|rule| rule["if"]["properties"]["type"]["const"] == "deployment.finished").unwrap();
    assert_eq!(deployments, set(&rule["then"]["properties"]["status"]["enum"]));
    assert!(deployments.iter().all(|status| document.contains(&format!("`{status}`"))));
    assert_eq!(in_section("Statuses"), set(&definitions["status"]["enum"]));
}
