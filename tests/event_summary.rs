//! `run --json`: the summary of the log follows from the events alone.

use crate::bed::unique;
use crate::ecs_api::{EcsApi, Service, steps};
use crate::events::{events, keep_their_promises, number, text};
use crate::golden::{definition, normalised};
use crate::harness::{Outcome, Project};
use indoc::{formatdoc, indoc};
use serde_json::Value;
use std::collections::BTreeSet;

/// The summary of the log, rebuilt from events alone.
fn summary(events: &[Value]) -> String {
    let mut lines: Vec<(String, String, String)> = Vec::new();
    let mut failed: Vec<(String, String, String)> = Vec::new();
    let mut verdict = String::new();
    for event in events {
        let of = |field: &str| text(event, field).to_owned();
        let mut line =
            |verb: &str, subject: String, detail: String| lines.push((verb.to_owned(), subject, detail));
        let seconds = || event["duration_ms"].as_f64().unwrap() / 1000.0;
        match text(event, "type") {
            "image.built" if event["unchanged_from"].is_string() => {
                line(
                    "unchanged",
                    of("image"),
                    format!("the image of the same sources is {}", of("unchanged_from")),
                );
            }
            "image.built" => {
                let id = of("image_id").replace("sha256:", "")[..12].to_owned();
                let size = size(number(event, "bytes"));
                let (cached, total) = (&event["vertices"]["cached"], &event["vertices"]["total"]);
                line("built", of("image"), format!("{id} · {size} · {cached} of {total} steps cached"));
            }
            "test.case" if text(event, "status") == "failed" => {
                failed.push(("failed".to_owned(), of("name"), of("message")));
            }
            "test.finished" => {
                let skipped = event["skipped"].as_u64().filter(|count| *count > 0);
                let skipped = skipped.map(|count| format!(", {count} skipped")).unwrap_or_default();
                let detail = match (event["reason"].as_str(), event["total"].as_u64()) {
                    (Some(reason), _) => format!("failed: {reason}"),
                    (None, Some(total)) => format!("{total} tests, {} failed{skipped}", event["failed"]),
                    (None, None) => "passed".to_owned(),
                };
                line("tested", of("image"), detail);
                lines.append(&mut failed);
            }
            "push.finished" => {
                line(if event["local"] == true { "stored" } else { "pushed" }, of("image"), of("uri"));
            }
            "file.written" => line("wrote", of("subject"), of("path")),
            "definition.registered" if event["unchanged"] == true => {
                let detail = "same content; no new revision registered";
                line("unchanged", of("revision"), detail.to_owned());
            }
            "definition.registered" => line("registered", of("revision"), of("arn")),
            "definition.rendered" => {
                line(
                    if event["changes_only"] == true { "planned" } else { "rendered" },
                    of("family"),
                    of("file"),
                );
            }
            "task.planned" => line("planned", of("family"), format!("would run once in {}", of("cluster"))),
            "task.finished" => {
                let (cluster, revision) = (of("cluster"), of("revision"));
                line("ran", of("subject"), format!("{cluster} · {revision} in {:.0} s", seconds()));
            }
            "deployment.planned" => {
                line("planned", of("service"), format!("would run a new revision of {}", of("family")));
            }
            "deployment.finished" => {
                let (cluster, revision) = (of("cluster"), of("revision"));
                match text(event, "status") {
                    "successful" => {
                        line(
                            "deployed",
                            of("service"),
                            format!("{cluster} · {revision} in {:.0} s", seconds()),
                        );
                    }
                    "unchanged" => {
                        line("unchanged", of("service"), format!("{cluster} · already runs {revision}"));
                    }
                    _ => {}
                }
            }
            "call.finished" if text(event, "status") == "succeeded" => {
                verdict = format!("✔ succeeded in {:.1} s\n", seconds());
            }
            "call.finished" => {
                let verb = if text(event, "status") == "stopped" { "stopped" } else { "failed" };
                let cause = &event["cause"];
                let help = cause["help"].as_str().map(|help| format!("  help: {help}\n")).unwrap_or_default();
                let (took, exit, text) = (seconds(), &event["exit"], text(cause, "text"));
                verdict = format!("✘ {verb} after {took:.1} s (exit {exit})\n  {text}\n{help}");
            }
            _ => {}
        }
    }
    let lines = lines.iter().map(|(verb, subject, detail)| format!("  {verb:<10} {subject:<12} {detail}"));
    let lines: String = lines.map(|line| format!("{}\n", line.trim_end())).collect();
    format!("── summary\n{lines}{verdict}")
}

/// A size as the log writes it.
fn size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or(format!("{bytes} B"), |(unit, name)| {
        format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit)
    })
}

/// The summary that the log of a run has is the one that the events of another run of the project give.
#[track_caller]
fn say_the_same(project: &Project, log: &Outcome, events_of: &Outcome) {
    let (_, expected) = log.stdout.rsplit_once("\n── summary\n").unwrap_or_else(|| panic!("{log}"));
    let expected = normalised(project, &format!("── summary\n{expected}"));
    let all = events(events_of);
    keep_their_promises(&all);
    assert_eq!(normalised(project, &summary(&all)), expected, "{log}\n{events_of}");
}

#[test]
fn the_summary_of_a_local_run_follows_from_its_events() {
    let name = unique("events");
    let xml = indoc! {r#"
        <testsuite name="s">
          <testcase classname="Cart" name="adds"/>
          <testcase name="waits"><skipped/></testcase>
        </testsuite>
    "#};
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        images:
          app: {{ repository: {name}, tags: [\"${{source.commit}}\"] }}
          other: {{ repository: {name}-2, tags: [\"${{source.commit}}\"] }}
        phases:
          build:
            steps:
              - build: app
              - build: other
              - {{ test: app, command: [cat, /results.xml], reports: {{ junit: /results.xml }} }}
              - {{ test: other, command: [\"true\"] }}
              - push: [app, other]
          post_build:
            steps:
              - image-definitions: {{ web: app }}
              - task-definition: {{ file: td.json, containers: {{ web: {{ image: app }} }} }}
              - run-task:
                  cluster: c
                  task-definition: {name}
                  container: web
                  command: [migrate]
                  network: {{ subnets: [s] }}
                  launch-type: FARGATE
              - deploy: {{ cluster: c, service: web }}
    "})
    .file("Dockerfile", "FROM busybox:1.36\nCOPY results.xml /\n")
    .file("results.xml", xml)
    .file("td.json", definition(&name))
    .git();
    // What the builds find in the cache is the same for both.
    project.runner("run --local").run().exits(0);
    let log = project.runner("run --local").run().exits(0);
    let all = project.runner("run --local --json").run().exits(0);
    say_the_same(&project, &log, &all);
    let kinds: BTreeSet<String> = events(&all).iter().map(|event| text(event, "type").to_owned()).collect();
    for kind in
        ["image.started", "vertex.finished", "test.started", "test.case", "push.finished", "task.planned"]
    {
        assert!(kinds.contains(kind), "{kind} is missing\n{all}");
    }
}

#[test]
fn the_summary_of_failed_tests_follows_from_the_events() {
    let name = unique("events");
    let xml = indoc! {r#"
        <testsuite name="s">
          <testcase classname="Cart" name="adds"/>
          <testcase classname="Cart" name="divides"><failure message="expected 1 but was 2"/></testcase>
          <testcase name="multiplies"><failure/></testcase>
        </testsuite>
    "#};
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, tags: [\"${{source.commit}}\"] }} }}
        phases:
          build:
            steps:
              - build: app
              - {{ test: app, command: [sh, -c, exit 5], reports: {{ junit: /results.xml }} }}
              - push: app
    "})
    .file("Dockerfile", "FROM busybox:1.36\nCOPY results.xml /\n")
    .file("results.xml", xml)
    .git();
    project.runner("run --local").run().exits(4);
    let log = project.runner("run --local").run().exits(4);
    let all = project.runner("run --local --json").run().exits(4);
    say_the_same(&project, &log, &all);
    let last = events(&all).pop().unwrap();
    assert_eq!(
        (text(&last["cause"], "kind"), &last["cause"]["place"]["id"]),
        ("tests", &Value::from("build.2"))
    );
}

#[test]
fn the_summary_of_deployments_follows_from_the_events() {
    let service =
        || Service::fresh().deploys([steps::progress(0, 1), steps::progress(1, 0), steps::succeed()]);
    let broken = || {
        let why = "Service deployment rolled back because the circuit breaker threshold was exceeded.";
        Service::fresh().deploys([steps::progress(0, 1), steps::rolling_back(why), steps::rolled_back(why)])
    };
    let run = |service: &Service, arguments: &str, times: usize| {
        let name = &service.name;
        let project = Project::new(&formatdoc! {"
            version: 1
            name: t
            phases:
              post_build:
                steps:
                  - task-definition: {{ file: td.json }}
                  - deploy: {{ cluster: {name}, service: {name} }}
        "})
        .file("td.json", definition(name));
        let ecs = EcsApi::of(service.clone());
        let mut outcome = None;
        for _ in 0..times {
            outcome = Some(project.runner(&format!("run --publish {arguments}")).on(&ecs).run());
        }
        (project, outcome.unwrap())
    };
    // The second deployment changes nothing.
    for times in [1, 2] {
        let (project, log) = run(&service(), "", times);
        let (_other, all) = run(&service(), "--json", times);
        say_the_same(&project, &log.exits(0), &all.exits(0));
    }
    let (project, log) = run(&broken(), "", 1);
    let (_other, all) = run(&broken(), "--json", 1);
    let log = log.exits(5);
    say_the_same(&project, &log, &all);
    let last = events(&all).pop().unwrap();
    assert_eq!((text(&last["cause"], "kind"), &last["exit"]), ("deployment-failed", &Value::from(5)));
}
