//! `notify`.

use crate::harness::Project;
use indoc::{formatdoc, indoc};
use serde_json::Value;
use std::sync::mpsc;

const PHASES: &str = indoc! {r"
    phases:
      build: { steps: [{ run: 'exit ${FAIL:-0}' }] }
"};

fn pipeline(notify: &str) -> String {
    formatdoc! {r"
        version: 1
        name: webapp
        env: {{ shell: sh }}
        {PHASES}notify:
        {notify}"}
}

#[test]
fn local_mode_writes_the_payloads() {
    let project = Project::new(&pipeline(indoc! {r#"
        - slack: "${SLACK_URL}"
        - webhook: { url: "https://example.com/hook" }
          on: [failed]
    "#}));
    project.runner("run").run().exits(0);
    let started = project.json(".runner/notifications/001-started-slack.json");
    assert!(started["text"].as_str().unwrap().contains("webapp"), "{started}");
    assert_eq!(started["blocks"][0]["type"], "section");
    assert!(project.exists(".runner/notifications/002-succeeded-slack.json"));
    project.runner("run").env("FAIL", "4").run().exits(1);
    assert!(project.exists(".runner/notifications/002-phase-failed-slack.json"));
    let failed = project.json(".runner/notifications/004-failed-webhook.json");
    assert_eq!(failed["event"], "failed");
    assert_eq!(failed["exit"], 1);
    assert!(failed["reason"].as_str().unwrap().contains("exit code 4"));
}

#[test]
fn publishing_sends_them_with_headers() {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for mut request in server.incoming_requests() {
            let mut body = String::new();
            request.as_reader().read_to_string(&mut body).unwrap();
            let token = request
                .headers()
                .iter()
                .find(|header| header.field.equiv("X-Token"))
                .map(|h| h.value.to_string());
            sender.send((token, serde_json::from_str::<Value>(&body).unwrap())).unwrap();
            request.respond(tiny_http::Response::empty(204)).unwrap();
        }
    });
    let target = format!(
        "  - webhook: {{ url: \"http://{address}/hook\", headers: {{ x-token: \"${{TOKEN}}\" }} }}\n"
    );
    let project = Project::new(&pipeline(&target));
    project.runner("run --publish").env("TOKEN", "hunter2").run().exits(0);
    let all: Vec<_> = receiver.try_iter().collect();
    let mut events: Vec<&str> = all.iter().map(|(_, payload)| payload["event"].as_str().unwrap()).collect();
    events.sort_unstable();
    assert_eq!(events, ["started", "succeeded"]);
    assert_eq!(all[0].0.as_deref(), Some("hunter2"));
    assert_eq!(all[0].1["version"], 1);
}

#[test]
fn a_notification_that_fails_is_a_warning() {
    let project = Project::new(&pipeline("  - webhook: { url: \"http://127.0.0.1:1/hook\" }\n"));
    project
        .runner("run --publish")
        .run()
        .exits(0)
        .complains("warning: the webhook notification was not delivered");
    project
        .runner("run --publish")
        .env("FAIL", "1")
        .run()
        .exits(1)
        .complains("warning: the webhook notification was not delivered")
        .says_not("/hook");
}

#[test]
fn a_build_is_announced_once() {
    let two = indoc! {r#"
        phases:
          build: { steps: [{ run: "true" }] }
          post_build: { steps: [{ run: "true" }] }
    "#};
    let text = formatdoc! {r#"
        version: 1
        name: webapp
        env: {{ shell: sh }}
        {two}notify: [{{ slack: "http://127.0.0.1:1/" }}]
    "#};
    let project = Project::new(&text).git();
    project.runner("run --phase build").run().exits(0);
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(project.path(".runner/notifications"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["001-started-slack.json"]);
    project.runner("run --phase post_build").run().exits(0);
    assert_eq!(names(), ["001-started-slack.json", "001-succeeded-slack.json"]);
}

#[test]
fn receivers_get_only_the_builds_that_they_select() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases: { build: { steps: [{ run: 'true' }] } }
        notify:
          - { slack: "http://127.0.0.1:1/", only: { branches: main } }
          - { webhook: { url: "http://127.0.0.1:1/" }, only: { branches: other } }
    "#});
    project.runner("run").env("RUNNER_BRANCH", "main").run().exits(0);
    let names: Vec<String> = std::fs::read_dir(project.path(".runner/notifications"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.ends_with("-slack.json")), "{names:?}");
}
