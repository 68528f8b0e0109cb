//! Whole logs of runs, one file a scenario in `fixtures/logs`. `RUNNER_TEST_UPDATE=1` writes them.

use crate::bed::unique;
use crate::ecs_api::{EcsApi, Scenario, Service, TaskOutcome, steps};
use crate::harness::{Outcome, Project, log_configuration, shell};
use indoc::{formatdoc, indoc};
use regex::Regex;
use serde_json::json;
use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

/// What differs from run to run, and what a golden file has instead.
static CHANGING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let changing = [
        (r"\b123456789012\b", "ACCOUNT"),
        (r"\blocal-\d{8}-\d{6}-\d+\b", "BUILD"),
        (r"-\d+-\d+-\d{1,9}\b", ""),
        (r"\b[0-9a-f]{64}\b", "DIGEST"),
        (r"\b[0-9a-f]{40}\b", "COMMIT"),
        (r"\b[0-9a-f]{32}\b", "ID"),
        (r"\b[0-9a-f]{12}\b", "SHORT-ID"),
        (r"\bat [0-9a-f]{7}\b", "at COMMIT"),
        (r"\b\d+ h \d+ min\b|\b\d+ min \d+ s\b|\b\d+(\.\d+)? m?s\b", "TIME"),
        (r"\b\d+(\.\d+)? [kMG]?B\b", "SIZE"),
        (r"\b127\.0\.0\.1:\d+\b", "ENDPOINT"),
        // Engines before 23.0 do not name the place.
        (r"the build failed: Dockerfile:\d+: ", "the build failed: "),
        (r"^runner \d+\.\d+\.\d+\b", "runner VERSION"),
    ];
    changing.into_iter().map(|(pattern, name)| (Regex::new(pattern).unwrap(), name)).collect()
});

/// A log without what differs from run to run.
pub fn normalised(project: &Project, log: &str) -> String {
    let root = project.root().display().to_string();
    let real = project.root().canonicalize().unwrap().display().to_string();
    let log = log.replace(&real, "PROJECT").replace(&root, "PROJECT");
    let log = CHANGING.iter().fold(log, |log, (pattern, name)| pattern.replace_all(&log, *name).into_owned());
    without_engine(&log)
}

/// A log without the engine's own work during a build (loading, pulling, exporting), which comes in any order. The
/// instructions of the Dockerfile stay.
fn without_engine(log: &str) -> String {
    let (mut hidden, mut known, mut kept) = (HashSet::new(), Vec::new(), String::new());
    for line in log.lines() {
        let vertex = line.strip_prefix('#').and_then(|rest| rest.split_once(' '));
        let Some((number, text)) = vertex else {
            hidden.clear();
            known.clear();
            kept.push_str(&format!("{line}\n"));
            continue;
        };
        if !known.contains(&number) {
            known.push(number);
            if text.starts_with("[internal]") || text.starts_with("exporting") || text.contains("] FROM ") {
                hidden.insert(number);
            }
        }
        if !hidden.contains(number) {
            kept.push_str(&format!("#N {text}\n"));
        }
    }
    kept
}

/// Compares the log of a run, whole, with `fixtures/logs/NAME.txt`. Its last line is the exit code.
#[track_caller]
fn golden(name: &str, project: &Project, outcome: &Outcome) {
    let stderr = match outcome.stderr.as_str() {
        "" => String::new(),
        text => format!("--- stderr\n{text}"),
    };
    let code = outcome.code.unwrap();
    let found = normalised(project, &format!("{}{stderr}--- exit {code}\n", outcome.stdout));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/logs").join(format!("{name}.txt"));
    if std::env::var_os("RUNNER_TEST_UPDATE").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(expected == found, "{}\n--- expected\n{expected}\n--- found\n{found}", file.display());
}

/// Runs phases of scripts.
#[track_caller]
fn scripts(name: &str, phases: &str) {
    let project = Project::phases(phases).git();
    golden(name, &project, &project.runner("run").run());
}

#[test]
fn scripts_that_succeed() {
    let phases = indoc! {r#"
          install: { steps: [{ run: echo installed }] }
          build:
            steps:
              - { name: Compile, run: "echo 'compiling'; echo 'V=7' >> \"$RUNNER_ENV\"" }
              - run: [echo, "one program"]
              - { name: "Version ${V}", run: "printf 'no newline'" }
            finally: [{ name: Clean up, run: echo cleaned }]
          post_build: { steps: [{ run: echo done }] }
    "#};
    scripts("scripts-succeed", phases);
}

#[test]
fn a_script_that_fails() {
    let phases = indoc! {r"
          build:
            steps:
              - name: Compile
                run: |
                  echo compiling
                  false
                  echo never
              - { name: Package, run: echo never }
            finally: [{ name: Clean up, run: echo cleaned }]
          post_build: { steps: [{ name: Deploy, run: echo never }] }
    "};
    scripts("script-fails", phases);
}

#[test]
fn a_retry_that_succeeds() {
    let phases = indoc! {r#"
          build:
            steps:
              - name: Download
                run: 'echo x >> tries; test "$(wc -l < tries)" = 3'
                retry: { attempts: 2, delay: 1s, backoff: 1 }
    "#};
    scripts("retry-succeeds", phases);
}

#[test]
fn a_timeout() {
    let phases = indoc! {r"
          build:
            steps: [{ name: Wait, run: sleep 60, timeout: 1s }, { run: echo never }]
            finally: [{ run: echo cleaned }]
    "};
    scripts("timeout", phases);
}

#[test]
fn a_parallel_group_that_fails() {
    let phases = indoc! {r#"
          build:
            steps:
              - name: Checks
                parallel:
                  - { name: unit, run: "touch begun; sleep 60" }
                  - { name: lint, run: "until [ -e begun ]; do sleep 0.02; done; echo 'line 3: unused'; exit 9" }
              - { name: Package, run: echo never }
    "#};
    scripts("parallel-fails", phases);
}

#[test]
fn steps_for_failures() {
    let phases = indoc! {r#"
          build:
            steps:
              - { name: Before, run: echo never, when: failure }
              - { name: Break, run: exit 3 }
              - { name: Look, run: echo looking, when: failure }
              - { name: Always, run: echo always, when: always }
          post_build:
            when: always
            steps: [{ name: Report, run: "exit 4" }, { name: After, run: echo never }]
    "#};
    scripts("when", phases);
}

#[test]
fn secrets_in_the_log() {
    let phases = indoc! {r#"
          build:
            steps:
              - name: Log in
                run: |
                  echo s3cr3t-token >> "$RUNNER_MASK"
                  echo TOKEN=s3cr3t-token >> "$RUNNER_ENV"
              - { name: "Use ${TOKEN}", run: "echo \"Authorization: $TOKEN\"; printf %s \"$TOKEN\" | base64" }
              - { name: Fail, run: "cat \"/nowhere/$TOKEN\"" }
    "#};
    scripts("secrets", phases);
}

#[test]
fn a_signal() {
    let project = Project::phases(indoc! {r#"
          build:
            steps: [{ name: Wait, run: "touch begun; sleep 60" }, { name: Next, run: echo never }]
            finally: [{ run: echo cleaned }]
          post_build: { steps: [{ run: echo never }] }
    "#});
    let mut running = project.runner("run").start();
    running.until_exists(&project.path("begun"));
    running.signal("TERM");
    golden("signal", &project, &running.finish());
}

#[test]
fn a_later_call_of_a_failed_build() {
    let project = Project::phases(indoc! {r"
          build: { steps: [{ name: Compile, run: exit 3 }] }
          post_build:
            steps: [{ name: Deploy, run: echo never }, { name: Report, run: echo reported, when: always }]
    "});
    project.runner("run --phase build").run().exits(1);
    golden("later-call", &project, &project.runner("run --phase post_build").run());
}

/// Findings, F: the calls of one build have one header, and no summary of nothing.
#[test]
fn phase_by_phase() {
    let name = unique("golden");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: webapp
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, tags: ["${{source.commit}}"] }} }}
        phases:
          install: {{ steps: [{{ run: echo installed }}] }}
          pre_build: {{ steps: [{{ run: echo prepared }}] }}
          build: {{ steps: [{{ build: app }}] }}
          post_build: {{ steps: [{{ run: echo done }}] }}
    "#})
    .file("Dockerfile", DOCKERFILE)
    .git();
    // The cache of the engine.
    project.runner("run").run().exits(0);
    let mut all: Option<Outcome> = None;
    for phase in ["install", "pre_build", "build", "post_build"] {
        let outcome = project.runner(&format!("run --phase {phase}")).run().exits(0);
        all = Some(match all {
            None => outcome,
            Some(before) => Outcome { stdout: before.stdout + &outcome.stdout, ..outcome },
        });
    }
    golden("phase-by-phase", &project, &all.unwrap());
}

/// A pipeline that builds, tests, pushes, registers and deploys.
fn publishing(name: &str, dockerfile: &str, test: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: webapp
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, tags: ["${{source.commit}}", latest], create: true }} }}
        phases:
          build:
            steps:
              - build: app
              - {test}
              - push: app
          post_build:
            steps:
              - image-definitions: {{ web: app }}
              - task-definition: {{ file: td.json, containers: {{ web: {{ image: app }} }} }}
              - deploy: {{ cluster: {name}, service: {name} }}
    "#})
    .file("Dockerfile", dockerfile)
    .file("td.json", definition(name))
    .git()
}

/// A task definition whose container has a log.
pub fn definition(family: &str) -> String {
    let web = json!({ "name": "web", "image": "new", "memory": 64, "logConfiguration": log_configuration() });
    json!({ "family": family, "containerDefinitions": [web] }).to_string()
}

const DOCKERFILE: &str = "FROM busybox:1.36\nRUN echo building && echo page > /page\n";
const TEST: &str = "{ test: app, command: [cat, /page] }";

#[test]
fn publishing_in_local_mode() {
    let project = publishing(&unique("golden"), DOCKERFILE, TEST);
    // The second run finds everything in the cache of the engine, so that no order depends on time.
    project.runner("run --local").run().exits(0);
    golden("local", &project, &project.runner("run --local").run());
}

#[test]
fn a_pull_request() {
    let project = publishing(&unique("golden"), DOCKERFILE, TEST);
    // The time of the commit makes the images of both runs equal.
    let commit = shell("git", &["-C", project.root().to_str().unwrap(), "rev-parse", "HEAD"]);
    let call = || {
        let call =
            project.runner("run").aws().env("CODEBUILD_BUILD_ID", format!("webapp:{}", unique("build")));
        call.env("CODEBUILD_BUILD_NUMBER", "7")
            .env("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:us-east-1:123456789012:build/webapp:1111")
            .env("CODEBUILD_RESOLVED_SOURCE_VERSION", commit.trim())
            .env("CODEBUILD_SRC_DIR", project.root().display().to_string())
            .env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED")
            .env("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/feature")
            .env("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main")
    };
    call().run().exits(0);
    golden("pull-request", &project, &call().run());
}

#[test]
fn an_instruction_of_a_dockerfile_that_fails() {
    let dockerfile = "FROM busybox:1.36\nRUN echo 'main.c:3: error: no x' >&2; exit 2\nRUN echo never\n";
    let project = publishing(&unique("golden"), dockerfile, TEST);
    project.runner("run --local").run().exits(1);
    golden("dockerfile-fails", &project, &project.runner("run --local").run());
}

#[test]
fn tests_that_fail() {
    let xml = indoc! {r#"
        <testsuite name="cart">
          <testcase classname="Cart" name="adds"/>
          <testcase classname="Cart" name="divides"><failure message="expected 1 but was 2"/></testcase>
          <testcase name="waits"><skipped/></testcase>
        </testsuite>
    "#};
    let command = "[sh, -c, \"echo 'not ok 2 - divides'; exit 1\"]";
    let test = format!("{{ test: app, command: {command}, reports: {{ junit: /results.xml }} }}");
    let project = publishing(&unique("golden"), "FROM busybox:1.36\nCOPY results.xml /\n", &test)
        .file("results.xml", xml);
    project.runner("run --local").run().exits(4);
    golden("tests-fail", &project, &project.runner("run --local").run());
}

#[test]
fn a_service_that_is_never_ready() {
    let command = "[sh, -c, \"echo starting; sleep 300\"]";
    let db = format!("{{ image: app, command: {command}, ready: {{ port: 9, timeout: 2s }} }}");
    let test = format!("{{ test: app, command: [echo, never], services: {{ db: {db} }} }}");
    let project = publishing(&unique("golden"), DOCKERFILE, &test);
    project.runner("run --local").run().exits(4);
    golden("service-not-ready", &project, &project.runner("run --local").run());
}

#[test]
fn publishing_to_a_registry_and_a_service() {
    let service = Service::fresh().deploys([
        steps::pending(),
        steps::progress(0, 1),
        steps::progress(1, 0),
        steps::succeed(),
    ]);
    let project = publishing(&service.name, DOCKERFILE, TEST);
    // The cache of the engine.
    project.runner("run --local --phase build").run().exits(0);
    let ecs = EcsApi::of(service);
    golden("publish", &project, &project.runner("run --publish").on(&ecs).run());
    // The same commit again.
    golden("publish-again", &project, &project.runner("run --publish").on(&ecs).run());
}

#[test]
fn a_deployment_that_is_rolled_back() {
    let why = "Service deployment rolled back because the circuit breaker threshold was exceeded.";
    let crash = || {
        steps::fail_task(TaskOutcome::exited("web", 1).logs("web", &["starting", "panic: no DATABASE_URL"]))
    };
    let service = Service::fresh().deploys([
        steps::pending(),
        steps::progress(0, 1),
        crash(),
        crash(),
        steps::rolling_back(why),
        steps::rolled_back(why),
    ]);
    let project = Project::new(&formatdoc! {"
        version: 1
        name: webapp
        phases:
          post_build:
            steps:
              - task-definition: {{ file: td.json }}
              - deploy: {{ cluster: {0}, service: {0} }}
    ", service.name})
    .file("td.json", definition(&service.name))
    .git();
    let ecs = Scenario::new([service]).start();
    golden("deployment-rolled-back", &project, &project.runner("run --publish").on(&ecs).run());
}
