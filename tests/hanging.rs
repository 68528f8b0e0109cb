//! What accepts connections and never answers: the run's time limit and signals end it from the first second on.

use crate::harness::{Call, Project, eventually, secrets_manager, ssm, unique};
use crate::recorded_aws::RecordedAws;
use indoc::{formatdoc, indoc};
use serde_json::json;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// A listener whose connections are accepted by the kernel, and its address. No answer ever comes.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    (listener, address)
}

/// A pipeline with these keys, whose only step says so.
fn with(keys: &str) -> Project {
    Project::new(&format!(
        "version: 1\nname: t\n{keys}\nphases:\n  build: {{ steps: [{{ run: [echo, a step has run] }}] }}\n"
    ))
}

/// The call ends in time, with this code, before any step.
#[track_caller]
fn ends(call: Call<'_>, code: i32, message: &str) {
    let begin = Instant::now();
    let outcome = call.run().exits(code).complains(message).says_not("a step has run");
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}\n{outcome}", begin.elapsed());
}

/// Findings, E1.
#[test]
fn the_time_limit_of_a_run_holds_while_it_prepares() {
    let (_listener, address) = silent();
    let message = "the run took longer than 2s while it was still reading secrets and checking access to AWS";
    for keys in [
        "env: { parameter-store: { A: /a } }",
        "env: { secrets-manager: { A: a } }",
        "aws: { role-arn: 'arn:aws:iam::123456789012:role/x' }\nenv: { parameter-store: { A: /a } }",
    ] {
        let project = with(keys);
        let call = || project.runner("run --publish --timeout 2s").aws();
        ends(call().env("AWS_ENDPOINT_URL", &address), 7, message);
        let project = with(&format!("timeout: 2s\n{keys}"));
        let call = project.runner("run --publish --timeout 1h").aws();
        ends(call.env("AWS_ENDPOINT_URL", &address), 7, message);
    }
}

/// Findings, E1: a later call knows that the phase failed.
#[test]
fn a_phase_that_could_not_be_prepared_in_time_has_failed() {
    let (_listener, address) = silent();
    let project = Project::new(indoc! {"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { A: /a } }
        phases:
          build: { steps: [{ run: 'true' }] }
          post_build: { steps: [{ run: echo never }, { run: echo because, when: failure }] }
    "});
    let call = project.runner("run --publish --phase build --timeout 1s").aws();
    ends(call.env("AWS_ENDPOINT_URL", &address), 7, "the run took longer than 1s");
    let project = project.file("env", "A=given-value\n");
    let later = project.runner("run --publish --phase post_build --env-file env").aws();
    later.run().exits(7).says("\nbecause\n").says_not("\nnever");
}

/// Findings, E1.
#[test]
fn the_time_limit_holds_while_credentials_are_fetched() {
    let (_listener, address) = silent();
    let project = with("env: { parameter-store: { A: /a } }");
    for variable in ["AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI"] {
        let call = project.runner("run --publish --timeout 1s").env("AWS_REGION", "us-east-1");
        let call = call.env(variable, &address).env("AWS_ENDPOINT_URL", &address);
        ends(call, 7, "the run took longer than 1s");
    }
}

/// Findings, E1.
#[test]
fn the_time_limit_holds_while_git_and_the_file_are_read() {
    let project = with("").file("bin/git", "#!/bin/sh\necho $$ > git.pid\nexec sleep 600\n");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(project.path("bin/git"), executable).unwrap();
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap());
    let gone = || !std::path::Path::new("/proc").join(project.read("git.pid").trim()).exists();
    let message = "the run took longer than 1s while it was still reading the pipeline file and asking git";
    ends(project.runner("run --timeout 1s").env("PATH", &path), 7, message);
    eventually(gone, "git lives on");
    std::fs::remove_file(project.path("git.pid")).unwrap();
    let mut running = project.runner("run").env("PATH", &path).start();
    running.until_exists(&project.path("git.pid"));
    running.signal("TERM");
    running.finish().exits(143).complains("stopped before anything ran");
    eventually(gone, "git lives on");
    // A pipe into which no one writes.
    assert!(std::process::Command::new("mkfifo").arg(project.path("pipe")).status().unwrap().success());
    ends(project.runner("run --file pipe --timeout 1s"), 7, message);
}

/// Findings, E1.
#[test]
fn signals_end_a_run_that_prepares() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let (listener, address) = silent();
        let project = with("env: { parameter-store: { A: /a } }");
        let call = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &address).start();
        let connection = listener.accept().unwrap();
        let begin = Instant::now();
        call.signal(name);
        call.finish().exits(code).complains("stopped before anything ran");
        assert!(begin.elapsed() < Duration::from_secs(3), "{name}: {:?}", begin.elapsed());
        drop(connection);
    }
}

/// Findings, E1.
#[test]
fn the_time_limit_ends_steps_whose_calls_are_never_answered() {
    let (_listener, address) = silent();
    let host = address.strip_prefix("http://").unwrap();
    let pushing = formatdoc! {"
        version: 1
        name: t
        images: {{ app: {{ repository: '{host}/app', tags: ['${{source.commit}}'] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}], finally: [{{ run: [echo, cleaned] }}] }} }}
    "};
    let registering = indoc! {"
        version: 1
        name: t
        phases: { build: { steps: [{ task-definition: { family: web } }], finally: [{ run: [echo, cleaned] }] } }
    "};
    for pipeline in [pushing.as_str(), registering] {
        let project = Project::new(pipeline).file("Dockerfile", "FROM busybox:1.36\n").git();
        let begin = Instant::now();
        let call = project.runner("run --publish --timeout 4s").aws().env("AWS_ENDPOINT_URL", &address);
        call.run().exits(7).says("\ncleaned\n").ends_with("the run took longer than 4s");
        assert!(begin.elapsed() < Duration::from_secs(14), "{:?}", begin.elapsed());
    }
}

/// Findings, E1: people wait for an examination.
#[test]
fn doctor_does_not_wait_for_long() {
    let (_listener, address) = silent();
    let project = with("env: { parameter-store: { A: /a } }");
    let begin = Instant::now();
    let outcome = project.runner("doctor").aws().env("AWS_ENDPOINT_URL", &address).run().exits(3);
    outcome.says("cannot reach AWS for sts:GetCallerIdentity").says("check the network");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// Findings, E1.
#[test]
fn secrets_are_fetched_side_by_side() {
    let prefix = unique("side");
    let (mut keys, mut check) = (String::new(), String::new());
    for number in 0..20 {
        let name = format!("{prefix}-{number}");
        secrets_manager("CreateSecret", &json!({ "Name": name, "SecretString": format!("value-{number}") }));
        keys.push_str(&format!("    S{number}: {name}\n"));
        check.push_str(&format!("[ \"$S{number}\" = value-{number} ] && "));
    }
    let pipeline = |kind: &str, keys: &str, check: &str| {
        Project::new(&format!(
            "version: 1\nname: t\nenv:\n  shell: sh\n  {kind}:\n{keys}phases:\n  build:\n    steps:\n      \
             - run: '{check}echo all of them'\n"
        ))
    };
    let run = |project: &Project, wanted: usize| {
        let aws = RecordedAws::gathering(wanted);
        let call = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint);
        call.run().exits(0).says("\nall of them\n").says_not("value-");
        assert_eq!(aws.most_at_once(), wanted);
    };
    run(&pipeline("secrets-manager", &keys, &check), 8);
    let (mut keys, mut check) = (String::new(), String::new());
    for number in 0..21 {
        let name = format!("/{prefix}/{number}");
        ssm("PutParameter", &json!({ "Name": name, "Value": format!("value-{number}"), "Type": "String" }));
        keys.push_str(&format!("    P{number}: {name}\n"));
        check.push_str(&format!("[ \"$P{number}\" = value-{number} ] && "));
    }
    // Ten parameters by call.
    run(&pipeline("parameter-store", &keys, &check), 3);
}
