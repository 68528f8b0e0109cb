//! `runner doctor`: each check passes, fails with advice, or is reported as not possible.

use crate::harness::{Outcome, Project, ecs, secrets_manager, unique};
use crate::recorded_aws::RecordedAws;
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};

fn checks(outcome: &Outcome) -> Vec<(String, String, String)> {
    let report: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    assert_eq!(report["version"], 1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = report["checks"].as_array().unwrap().iter();
    all.map(|check| (text(&check["subject"]), text(&check["state"]), text(&check["mend"]))).collect()
}

#[track_caller]
fn has(checks: &[(String, String, String)], subject: &str, state: &str, mend: &str) {
    let found = checks.iter().find(|(name, _, _)| name == subject);
    let Some((_, found_state, found_mend)) = found else { panic!("no {subject} in {checks:#?}") };
    assert_eq!(found_state, state, "{checks:#?}");
    assert!(found_mend.contains(mend), "{checks:#?}");
}

fn project(name: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh, parameter-store: {{ A: "/{name}/none" }}, secrets-manager: {{ S: "{name}:k", M: "{name}:none" }} }}
        images: {{ app: {{ repository: {name} }}, new: {{ repository: {name}-new, create: true }} }}
        phases:
          build:
            steps:
              - run: 'true'
              - build: [app, new]
              - push: [app, new]
              - task-definition: {{ family: {name}-none, containers: {{ web: {{ image: app }} }}, task-role: "{name}-role" }}
              - deploy: {{ cluster: {name}, services: [there, absent] }}
              - deploy: {{ cluster: {name}-none, service: s }}
    "#})
}

#[test]
fn every_resource_of_a_pipeline_is_checked() {
    let name = unique("doctor");
    ecs("CreateCluster", &json!({ "clusterName": name }));
    ecs(
        "RegisterTaskDefinition",
        &json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "x", "memory": 64 }] }),
    );
    ecs(
        "CreateService",
        &json!({ "cluster": name, "serviceName": "there", "taskDefinition": name, "desiredCount": 1 }),
    );
    secrets_manager("CreateSecret", &json!({ "Name": name, "SecretString": "{\"k\":\"a-secret-value\"}" }));
    let outcome = project(&name).runner("doctor --json").aws().run().exits(3).says_not("a-secret-value");
    let checks = checks(&outcome);
    for subject in ["Docker Engine", "BuildKit", "shell sh", "region", "credentials", "secret S"] {
        has(&checks, subject, "good", "");
    }
    has(&checks, "secret A", "missing", "aws ssm put-parameter");
    has(&checks, "secret M", "missing", "");
    has(
        &checks,
        &format!("repository {name}"),
        "missing",
        &format!("aws ecr create-repository --repository-name {name}"),
    );
    has(&checks, &format!("repository {name}-new"), "good", "");
    has(&checks, &format!("service {name}/there"), "good", "");
    has(&checks, &format!("service {name}/absent"), "missing", "aws ecs create-service");
    has(&checks, &format!("service {name}-none/s"), "missing", "aws ecs create-cluster");
    has(&checks, &format!("task definition {name}-none"), "missing", "aws ecs register-task-definition");
    has(&checks, &format!("role {name}-role"), "missing", "aws iam create-role");
}

#[test]
fn each_permission_is_simulated() {
    let name = unique("simulate");
    let answer = |action: &str, body: &str| {
        (action == "iam:SimulatePrincipalPolicy").then(|| {
            let decision = if body.contains("ecs%3AUpdateService") { "implicitDeny" } else { "allowed" };
            let text = format!(
                "<SimulatePrincipalPolicyResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated><EvaluationResults><member><EvalActionName>x</EvalActionName><EvalDecision>{decision}</EvalDecision></member></EvaluationResults></SimulatePrincipalPolicyResult></SimulatePrincipalPolicyResponse>"
            );
            (200, text)
        })
    };
    let aws = RecordedAws::scripted(None, answer);
    let outcome =
        project(&name).runner("doctor --json").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(3);
    let checks = checks(&outcome);
    has(&checks, "permission ecr:PutImage", "good", "");
    let statement = format!("arn:aws:ecs:us-east-1:123456789012:service/{name}/absent");
    has(&checks, "permission ecs:UpdateService", "missing", &statement);
    // A permission of this kind is missing, not unknown, and everything else goes on.
    has(&checks, &format!("repository {name}"), "missing", "");
}

#[test]
fn denied_reads_are_no_failure() {
    let name = unique("denied");
    let project = Project::new(&formatdoc! {r"
        version: 1
        name: t
        images: {{ app: {{ repository: {name} }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "});
    let aws = RecordedAws::start(Some("ecr:DescribeRepositories"));
    let outcome = project.runner("doctor --json").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(0);
    has(&checks(&outcome), &format!("repository {name}"), "could-not-check", "ecr:DescribeRepositories");
}

/// Findings, B15.
#[test]
fn a_repository_of_ecr_public_is_checked_by_its_login() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        images: { app: { repository: public.ecr.aws/alias/app } }
        phases: { build: { steps: [{ build: app }, { push: app }] } }
    "});
    let doctor = |aws: &RecordedAws| {
        project.runner("doctor --json").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(0)
    };
    let token = r#"{"authorizationData":{"authorizationToken":"QVdTOnRoZS10b2tlbg=="}}"#;
    let aws = RecordedAws::scripted(None, move |action, _| {
        (action == "ecr-public:GetAuthorizationToken").then(|| (200, token.to_owned()))
    });
    let subject = "repository public.ecr.aws/alias/app";
    has(&checks(&doctor(&aws).says_not("the-token")), subject, "good", "");
    let denied = RecordedAws::start(Some("ecr-public:GetAuthorizationToken"));
    let checks = checks(&doctor(&denied));
    has(&checks, subject, "could-not-check", "ecr-public:GetAuthorizationToken");
}

#[test]
fn a_machine_without_docker_and_credentials_gets_help() {
    let project = project("nothing");
    let call = || {
        project
            .runner("doctor")
            .env("DOCKER_HOST", "unix:///nowhere")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    };
    let outcome = call().run().exits(3);
    outcome
        .says("missing          Docker Engine")
        .says("start Docker (`sudo systemctl start docker`)")
        .says("missing          region")
        .says("set AWS_REGION")
        .says("`runner run --local` needs none");
    let outcome = call().env("AWS_REGION", "us-east-1").run().exits(3);
    outcome.says("missing          credentials").says("give the CodeBuild project a service role");
    let without = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin", "--"];
    let outcome = call().env("CODEBUILD_BUILD_ID", "a:1").run_under(&without).exits(3);
    outcome.says("privileged mode is off").says("privilegedMode=true");
}

#[test]
fn without_a_pipeline_the_machine_is_checked() {
    let project = Project::new("");
    std::fs::remove_file(project.path("pipeline.yml")).unwrap();
    project
        .runner("doctor")
        .run()
        .exits(0)
        .says("good             Docker Engine")
        .says("there is no pipeline.yml here");
}
