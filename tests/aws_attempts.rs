//! The attempt policy of AWS calls outside of deployments: what is retried, how often, and how parameters are read.

use crate::harness::{Project, ssm, unique};
use crate::recorded_aws::{Answer, RecordedAws};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A project that prints this many parameters, and their prefix.
fn project(count: usize) -> Project {
    let prefix = unique("parameter");
    let mut lines = String::new();
    for number in 0..count {
        let name = format!("/{prefix}/{number}");
        ssm(
            "PutParameter",
            &json!({ "Name": name, "Value": format!("value-{number}"), "Type": "SecureString" }),
        );
        lines.push_str(&format!("    P{number}: {name}\n"));
    }
    let checks: Vec<String> =
        (0..count).map(|number| format!("[ \"$P{number}\" = value-{number} ]")).collect();
    Project::new(&format!(
        "version: 1\nname: t\nenv:\n  shell: sh\n  parameter-store:\n{lines}phases:\n  build:\n    steps:\n      \
         - run: '{} && echo all of them'\n",
        checks.join(" && ")
    ))
}

/// Findings, D3: parameters are read ten at a time, and throttling of any length up to a minute is waited for.
#[test]
fn throttled_parameters_are_waited_for_and_read_ten_at_a_time() {
    for (status, code) in [(400, "ThrottlingException"), (500, "InternalServerError"), (429, "Unheard")] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let aws = RecordedAws::scripted(None, move |action, _| {
            let is_early = action == "ssm:GetParameters" && count.fetch_add(1, Ordering::SeqCst) < 5;
            is_early.then(|| (status, json!({ "__type": code, "message": "Not now." }).to_string()))
        });
        let project = project(12);
        let run = project.runner("run --publish").aws();
        let run = run.env("AWS_ENDPOINT_URL", &aws.endpoint).env("RUNNER_ECS_POLL", "20").run();
        run.exits(0).says("all of them\n").says_not("value-");
        assert_eq!(asked.load(Ordering::SeqCst), 7);
    }
}

/// Findings, D3: a quota is no throttling, and an outage ends after ten attempts.
#[test]
fn some_errors_are_not_waited_for_at_all_and_none_for_ever() {
    for (status, code, attempts, exit) in [
        (400, "LimitExceededException", 1, 3),
        (400, "ValidationException", 1, 1),
        (503, "ServiceUnavailable", 10, 3),
    ] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let aws = RecordedAws::scripted(None, move |action, _| {
            (action == "ssm:GetParameters").then(|| {
                count.fetch_add(1, Ordering::SeqCst);
                (status, json!({ "__type": code, "message": "Not now." }).to_string())
            })
        });
        let project = project(1);
        let run = project.runner("run --publish").aws();
        run.env("AWS_ENDPOINT_URL", &aws.endpoint).env("RUNNER_ECS_POLL", "20").run().exits(exit);
        assert_eq!(asked.load(Ordering::SeqCst), attempts, "{code}");
    }
}

/// Findings, D3: a policy that allows only the call for one parameter still serves.
#[test]
fn parameters_are_read_one_by_one_if_only_that_is_allowed() {
    let aws = RecordedAws::start(Some("ssm:GetParameters"));
    let project = project(2);
    project
        .runner("run --publish")
        .aws()
        .env("AWS_ENDPOINT_URL", &aws.endpoint)
        .run()
        .exits(0)
        .says("all of them\n");
    // If neither is allowed, the statement is for the call that runner prefers.
    let aws = RecordedAws::played(|calls, _| match calls[0].action.as_str() {
        "ssm:GetParameters" | "ssm:GetParameter" => Answer::Denied(calls[0].clone()),
        _ => Answer::Forwarded,
    });
    let denied = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(3);
    denied.complains("AWS denies ssm:GetParameters").complains(r#""Action":"ssm:GetParameters""#);
    let missing = Project::new(
        "version: 1\nname: t\nenv: { shell: sh, parameter-store: { A: /not/there, B: arn:aws:ssm:us-east-1:123456789012:parameter/nor/there } }\n\
         phases: { build: { steps: [{ run: 'true' }] } }\n",
    );
    missing.runner("run --publish").aws().run().exits(3).complains("there is no parameter `/not/there`");
}
