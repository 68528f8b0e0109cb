//! `scan`: the gate on what ECR finds in a pushed image. moto knows nothing of what is pushed, so a script plays these calls.

use crate::harness::{Project, unique};
use crate::recorded_aws::RecordedAws;
use indoc::formatdoc;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

const SCAN: &str = "ecr:DescribeImageScanFindings";

fn project(scan: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {}, create: true, tags: ["${{TAG:-v1}}"], scan: {scan} }} }}
        phases:
          build: {{ steps: [{{ build: app }}, {{ push: app }}, {{ run: echo deployed }}] }}
    "#, unique("scan")})
    .file("Dockerfile", "FROM busybox:1.36\n")
}

/// An AWS that gives these answers to questions for findings, the last one for ever.
fn aws(answers: Vec<Result<Value, &'static str>>) -> RecordedAws {
    aws_that_begins((200, "{}".to_owned()), answers)
}

/// The same with an answer to the request for a scan.
fn aws_that_begins(begun: (u16, String), answers: Vec<Result<Value, &'static str>>) -> RecordedAws {
    let asked = AtomicUsize::new(0);
    RecordedAws::scripted(None, move |action, body| {
        if action == "ecr:StartImageScan" {
            return Some(begun.clone());
        }
        if action != SCAN {
            return None;
        }
        assert!(body.contains("\"imageDigest\":\"sha256:"), "{body}");
        let at = asked.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        Some(match &answers[at] {
            Ok(answer) => (200, answer.to_string()),
            Err(name) => (400, json!({ "__type": name, "message": "no" }).to_string()),
        })
    })
}

fn status(status: &str) -> Value {
    json!({ "imageScanStatus": { "status": status, "description": format!("it is {status}") } })
}

fn finding(id: &str, severity: &str) -> Value {
    json!({ "name": id, "severity": severity, "attributes": [{ "key": "package_name", "value": "zlib" }, { "key": "package_version", "value": "1.2" }] })
}

fn basic(findings: &[Value]) -> Value {
    json!({ "imageScanStatus": { "status": "COMPLETE" }, "imageScanFindings": { "imageScanCompletedAt": 1, "findings": findings } })
}

fn run(scan: &str, aws: &RecordedAws) -> crate::harness::Outcome {
    project(scan).runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run()
}

#[test]
fn findings_above_the_limit_stop_the_later_steps() {
    let found =
        basic(&[finding("CVE-1", "LOW"), finding("CVE-2", "HIGH"), finding("CVE-3", "INFORMATIONAL")]);
    let aws = aws(vec![Ok(status("IN_PROGRESS")), Ok(found)]);
    let outcome = run("{}", &aws).exits(1).says_not("\ndeployed");
    outcome
        .says("HIGH           CVE-2  zlib 1.2")
        .says("pushed")
        .ends_with("has 1 findings that are high or worse")
        .ends_with("`scan.ignore`");
    // What is ignored does not count, and what is not there to be ignored is said.
    let outcome = run("{ fail-on: high, ignore: [CVE-2, CVE-9] }", &aws).exits(0).says("\ndeployed");
    outcome
        .says("2 findings, 1 ignored, 0 of them high or worse")
        .says("names CVE-9, which the image app does not have");
    run("{ fail-on: low, ignore: [CVE-2] }", &aws).exits(1);
}

#[test]
fn enhanced_scanning_with_all_its_pages() {
    let page = |id: &str, severity: &str, more: Value| {
        let mut page = json!({ "imageScanStatus": { "status": "ACTIVE" }, "imageScanFindings": { "imageScanCompletedAt": 1, "enhancedFindings": [{
            "severity": severity, "status": "ACTIVE", "title": "t",
            "packageVulnerabilityDetails": { "vulnerabilityId": id, "vulnerablePackages": [{ "name": "ssl", "version": "3", "fixedInVersion": "4" }] }
        }] } });
        page["nextToken"] = more;
        page
    };
    let suppressed = json!({ "imageScanStatus": { "status": "ACTIVE" }, "imageScanFindings": { "imageScanCompletedAt": 1, "enhancedFindings": [{ "severity": "CRITICAL", "status": "SUPPRESSED", "title": "t" }] } });
    let outcome = run(
        "{}",
        &aws(vec![
            // Active, but nothing has been found out yet.
            Ok(json!({ "imageScanStatus": { "status": "ACTIVE" } })),
            Ok(page("CVE-1", "MEDIUM", json!("more"))),
            Ok(page("CVE-2", "CRITICAL", Value::Null)),
        ]),
    );
    outcome.exits(1).says("CRITICAL  CVE-2  ssl 3  fixed in 4").says("MEDIUM    CVE-1");
    run("{}", &aws(vec![Ok(suppressed)])).exits(0).says("0 findings");
}

#[test]
fn a_missing_scan_is_started_and_empty_findings_are_read_twice() {
    let aws =
        aws(vec![Err("ScanNotFoundException"), Ok(basic(&[])), Ok(basic(&[finding("CVE-1", "CRITICAL")]))]);
    run("{}", &aws).exits(1).ends_with("has 1 findings");
    assert!(aws.calls().iter().any(|call| call.action == "ecr:StartImageScan"));
}

#[test]
fn unknown_findings_fail_closed() {
    let never = aws(vec![Ok(status("PENDING"))]);
    run("{ wait: 2s }", &never).exits(7).ends_with("the scan did not finish within 2s: it is PENDING");
    let unsupported = aws(vec![Ok(status("UNSUPPORTED_IMAGE"))]);
    run("{}", &unsupported)
        .exits(1)
        .says_not("\ndeployed")
        .ends_with("does not scan this image: UNSUPPORTED_IMAGE");
    let denied = RecordedAws::start(Some(SCAN));
    run("{}", &denied).exits(3).ends_with("ecr:DescribeImageScanFindings");
}

#[test]
fn a_scan_on_push_is_awaited() {
    for refusal in ["LimitExceededException", "ValidationException"] {
        let begun = (400, json!({ "__type": refusal, "message": "This feature is disabled" }).to_string());
        let answers = vec![Err("ScanNotFoundException"), Ok(basic(&[finding("CVE-1", "CRITICAL")]))];
        run("{}", &aws_that_begins(begun, answers)).exits(1).ends_with("has 1 findings");
    }
}

#[test]
fn a_scan_without_a_completion_time_is_not_empty() {
    let early =
        json!({ "imageScanStatus": { "status": "COMPLETE" }, "imageScanFindings": { "findings": [] } });
    let found = basic(&[finding("CVE-1", "CRITICAL")]);
    run("{}", &aws(vec![Ok(early.clone()), Ok(early.clone()), Ok(early), Ok(found)])).exits(1);
}
