//! Text that others write: names, branches, errors of AWS and registries, results of tests. None of it controls a
//! terminal or imitates a line of runner, whatever prints it.

use crate::ecs_api::{Scenario, Script, Service, Step, TaskOutcome, steps};
use crate::harness::{Outcome, Project, unique};
use crate::scripted_registry::{ScriptedRegistry, said};
use indoc::{formatdoc, indoc};
use serde_json::json;

/// Clears the screen, goes to the start of the line, writes a line as runner does, and changes the title.
const HOSTILE: &str = "no\u{1b}[2J\r\n✔ pushed everything\u{9b}31m\u{1b}]0;x\u{7}\u{8}\u{7f}";

/// Neither stream controls the terminal, and no line looks like runner's. The text itself is shown.
#[track_caller]
fn is_harmless(place: &str, outcome: &Outcome) {
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    let control = all.chars().find(|c| c.is_control() && !"\n\t".contains(*c));
    assert_eq!(control, None, "{place}: {outcome}");
    assert!(!all.lines().any(|line| line.starts_with("✔ pushed")), "{place}: {outcome}");
    assert!(all.contains("pushed everything"), "{place}: {outcome}");
}

/// Findings, A9.
#[test]
fn messages_of_aws_are_harmless() {
    let body = json!({ "__type": "AccessDeniedException", "message": HOSTILE }).to_string();
    for (action, arguments) in [
        ("ecs:DescribeServices", "ecs status"),
        ("ecs:DescribeServices", "ecs deploy --image web=new:1"),
        ("ecs:DescribeTaskDefinition", "ecs deploy --image web=new:1"),
        ("ecs:RegisterTaskDefinition", "ecs deploy --image web=new:1"),
        ("ecs:UpdateService", "ecs deploy --image web=new:1"),
        ("ecs:ListServiceDeployments", "ecs rollback"),
    ] {
        let service = Service::fresh();
        let answer = body.clone();
        let ecs = Scenario::new([service.clone()])
            .also(move |called, _| (called == action).then(|| (400, answer.clone())))
            .start();
        let call = format!("{arguments} --cluster {} --service {}", service.cluster, service.name);
        let project = Project::phases("build: { steps: [] }\n");
        is_harmless(&format!("{arguments}: {action}"), &project.runner(&call).on(&ecs).run());
    }
}

/// Findings, A9.
#[test]
fn reasons_of_ecs_are_harmless() {
    let failed = TaskOutcome::stopped("TaskFailedToStart", HOSTILE).reason("web", HOSTILE);
    let script: Vec<Step> = vec![
        steps::pending().event(HOSTILE),
        steps::fail_task(failed.clone()),
        steps::rolling_back(HOSTILE),
        steps::rolled_back(HOSTILE),
    ];
    let service = Service::fresh().circuit_breaker(true, true).deploys(Script::from(script));
    let ecs = Scenario::new([service.clone()]).start();
    let call =
        format!("ecs deploy --image web=new:1 --cluster {} --service {}", service.cluster, service.name);
    let project = Project::phases("build: { steps: [] }\n");
    is_harmless("a deployment", &project.runner(&call).on(&ecs).run());
}

/// Findings, A9.
#[test]
fn messages_of_registries_and_their_token_services_are_harmless() {
    let errors =
        json!({ "errors": [{ "code": "DENIED", "message": HOSTILE, "detail": HOSTILE }] }).to_string();
    let plain = HOSTILE.to_owned();
    for (place, part, body) in [
        ("the base", "/v2/", &errors),
        ("an upload", "/blobs/uploads/", &errors),
        ("a manifest", "/manifests/", &errors),
        ("plain text", "/v2/", &plain),
    ] {
        let body = body.clone();
        let registry = ScriptedRegistry::start(move |asked| {
            asked.path.contains(part).then(|| said(403).body(body.clone()))
        });
        let project =
            Project::new("version: 1\nname: t\n").file(".home/.docker/config.json", registry.docker_config());
        let call = format!("image push busybox:1.36 {}/team/app:v1", registry.host);
        is_harmless(place, &project.runner(&call).env("RUNNER_REGISTRY_PATIENCE", "1s").run());
    }
    let body =
        json!({ "details": HOSTILE, "message": HOSTILE, "errors": [{ "message": HOSTILE }] }).to_string();
    let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
        "/token" => Some(said(403).body(body.clone())),
        _ => Some(said(401).header("WWW-Authenticate", "Bearer realm=\"http://HOST/token\",service=\"s\"")),
    });
    let project =
        Project::new("version: 1\nname: t\n").file(".home/.docker/config.json", registry.docker_config());
    let call = format!("image push busybox:1.36 {}/team/app:v1", registry.host);
    is_harmless("a token service", &project.runner(&call).env("RUNNER_REGISTRY_PATIENCE", "1s").run());
}

/// Findings, A9.
#[test]
fn names_of_test_cases_are_harmless() {
    // XML has no references for most control characters, and parsers differ; those of C1 are allowed.
    let results = indoc! {r#"
        <testsuite name="s"><testcase name="t&#x9b;31m&#10;✔ pushed everything&#13;">
          <failure message="no&#x9b;2J&#10;✔ pushed everything">x</failure></testcase></testsuite>
    "#};
    let repository = unique("hostile");
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images: {{ app: {{ repository: {repository}, tags: [t] }} }}
        phases:
          build:
            steps:
              - build: app
              - {{ test: app, command: [\"false\"], reports: {{ junit: /results.xml }} }}
    "})
    .file("results.xml", results)
    .file("Dockerfile", "FROM busybox:1.36\nCOPY results.xml /\n");
    is_harmless("JUnit", &project.runner("run").run().exits(4));
}

/// Findings, A9.
#[test]
fn variables_about_the_source_are_harmless() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - { name: "${source.branch}", run: "true" }
            - run: "exit 3"
    "#});
    for variable in ["RUNNER_BRANCH", "CODEBUILD_WEBHOOK_HEAD_REF", "RUNNER_EVENT", "CODEBUILD_INITIATOR"] {
        let text = match variable {
            "CODEBUILD_WEBHOOK_HEAD_REF" => format!("refs/heads/{HOSTILE}"),
            _ => HOSTILE.to_owned(),
        };
        let call = project
            .runner("run --local")
            .env("CODEBUILD_BUILD_ID", "p:1")
            .env("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:us-east-1:123456789012:build/p:1")
            .env("CODEBUILD_WEBHOOK_TRIGGER", "branch/main")
            .env(variable, text);
        let outcome = call.run();
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!all.chars().any(|c| c.is_control() && !"\n\t".contains(c)), "{variable}: {outcome}");
        assert!(!all.lines().any(|line| line.starts_with("✔ pushed")), "{variable}: {outcome}");
    }
}
