//! `runner iam`: the policy allows every call of real runs, and nothing that no call needs.

use crate::ecs_api::{EcsApi, Service, TaskOutcome, revision, steps};
use crate::harness::{Project, ecs_service, registry, secrets_manager, ssm, task_role, unique};
use crate::servers::{AwsCall, PlainRegistry, RecordedAws};
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};

const PLACE: &str = "--region us-east-1 --account 123456789012";

/// A policy evaluator: whether one of the statements allows a call. Conditions are not looked at.
pub fn allows(policy: &Value, call: &AwsCall) -> bool {
    statements(policy).iter().any(|(actions, resources)| {
        actions.contains(&call.action) && resources.iter().any(|pattern| matches(pattern, &call.arn))
    })
}

fn statements(policy: &Value) -> Vec<(Vec<String>, Vec<String>)> {
    let list = |value: &Value| match value {
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap().to_owned()).collect(),
        one => vec![one.as_str().unwrap().to_owned()],
    };
    let all = policy["Statement"].as_array().unwrap().iter();
    all.map(|statement| {
        assert_eq!(statement["Effect"], "Allow");
        (list(&statement["Action"]), list(&statement["Resource"]))
    })
    .collect()
}

/// IAM's patterns: `*` is any text, `?` one character.
fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            matches(&pattern[1..], text)
                || text.chars().next().is_some_and(|c| matches(pattern, &text[c.len_utf8()..]))
        }
        (Some('?'), Some(c)) => matches(&pattern[1..], &text[c.len_utf8()..]),
        (Some(p), Some(c)) if p == c => matches(&pattern[p.len_utf8()..], &text[c.len_utf8()..]),
        _ => false,
    }
}

/// Sufficient: every call is allowed.
#[track_caller]
pub fn allows_all(policy: &Value, calls: &[AwsCall]) {
    for call in calls.iter().filter(|call| call.action != "sts:GetCallerIdentity") {
        assert!(allows(policy, call), "{call:?} is not allowed by\n{policy:#}");
    }
}

/// Actions that take no resource, by the service authorization reference.
const WITHOUT_RESOURCE: [&str; 7] = [
    "ecr-public:GetAuthorizationToken",
    "ecr:GetAuthorizationToken",
    "ecs:DescribeTaskDefinition",
    "ecs:ListTasks",
    "elasticloadbalancing:DescribeTargetGroups",
    "ssm:DescribeParameters",
    "sts:GetServiceBearerToken",
];

/// Sufficient: every call is allowed. Minimal: every action and every resource is needed by some call, and `*` stands only
/// where an action takes no resource.
#[track_caller]
fn fits(policy: &Value, calls: &[AwsCall]) {
    // AWS allows this one to everybody.
    let calls: Vec<&AwsCall> = calls.iter().filter(|call| call.action != "sts:GetCallerIdentity").collect();
    for call in &calls {
        assert!(allows(policy, call), "{call:?} is not allowed by\n{policy:#}");
    }
    for (actions, resources) in statements(policy) {
        for action in &actions {
            let own: Vec<&&AwsCall> = calls.iter().filter(|call| call.action == *action).collect();
            for resource in &resources {
                assert!(
                    own.iter().any(|call| matches(resource, &call.arn)),
                    "nothing needs {action} on {resource}\n{calls:#?}"
                );
                assert!(resource != "*" || WITHOUT_RESOURCE.contains(&action.as_str()), "{action} is on *");
            }
        }
    }
}

/// What the requests to a registry would need in ECR. Source: the ECR user guide, "IAM permissions for pushing an image".
fn in_ecr(requests: &[(String, String)], repository: &str) -> Vec<AwsCall> {
    let arn = format!("arn:aws:ecr:us-east-1:123456789012:repository/{repository}");
    let actions = requests.iter().filter(|(_, path)| *path != "/v2/").flat_map(|(method, path)| {
        let is_blob = path.contains("/blobs/");
        match (method.as_str(), is_blob) {
            ("HEAD", true) => vec!["ecr:BatchCheckLayerAvailability"],
            ("POST", true) => vec!["ecr:InitiateLayerUpload"],
            ("PATCH", true) => vec!["ecr:UploadLayerPart"],
            ("PUT", true) => vec!["ecr:UploadLayerPart", "ecr:CompleteLayerUpload"],
            ("GET", true) => vec!["ecr:GetDownloadUrlForLayer"],
            ("PUT", false) => vec!["ecr:PutImage"],
            _ if path.ends_with("/tags/list") => vec!["ecr:ListImages"],
            _ => vec!["ecr:BatchGetImage"],
        }
    });
    actions.map(|action| AwsCall { action: action.to_owned(), arn: arn.clone() }).collect()
}

fn policy(project: &Project, arguments: &str) -> Value {
    let outcome = project.runner(&format!("iam {PLACE} {arguments}")).run().exits(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// A service whose deployments fail at once, so that everything is asked for that a deployment may need.
fn failing(name: &str) -> EcsApi {
    let gone = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref r.example/x:1: r.example/x:1: not found";
    let script = [steps::progress(0, 1), steps::fail_task(TaskOutcome::stopped("TaskFailedToStart", gone))];
    EcsApi::of(Service::new(name, name, &revision(name, 1)).deploys(script))
}

fn call(action: &str, arn: &str) -> AwsCall {
    AwsCall { action: action.to_owned(), arn: arn.to_owned() }
}

/// What a task definition that only ECS knows may name: roles, secrets, log groups. Those of these tests name none.
fn of_other_definitions() -> Vec<AwsCall> {
    let logs = "arn:aws:logs:us-east-1:123456789012:log-group:";
    vec![
        call("iam:PassRole", "arn:aws:iam::123456789012:role/x"),
        call("iam:GetRole", "arn:aws:iam::123456789012:role/x"),
        call(
            "secretsmanager:DescribeSecret",
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:x-AbCdEf",
        ),
        call("ssm:DescribeParameters", "*"),
        call("logs:DescribeLogGroups", &format!("{logs}:log-stream:")),
        call("logs:GetLogEvents", &format!("{logs}/x:log-stream:p/web/1")),
    ]
}

/// A service may have a load balancer, which only ECS knows.
fn of_load_balancers() -> AwsCall {
    call("elasticloadbalancing:DescribeTargetGroups", "*")
}

const DOCKERFILE: &str = "FROM busybox:1.36\nCMD [\"true\"]\n";

/// Pushes to ECR, and the same to a registry whose requests can be read: the calls of both together are those of ECR.
fn push_calls(
    pipeline: impl Fn(&str) -> String,
    name: &str,
    files: &[(&str, String)],
) -> (Value, Vec<AwsCall>) {
    let project = |repository: &str| {
        let project = Project::new(&pipeline(repository)).file("Dockerfile", DOCKERFILE);
        files.iter().fold(project, |project, (path, text)| project.file(path, text)).git()
    };
    let ecr = project(name);
    let deploys = pipeline(name).contains("deploy:");
    let mut calls = if deploys {
        let ecs = failing(name);
        ecr.runner("run --publish").on(&ecs).run().exits(5);
        ecs.aws.calls()
    } else {
        let aws = RecordedAws::start(None);
        ecr.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(0);
        aws.calls()
    };
    let plain = PlainRegistry::start();
    let other = project(&format!("\"{}/{name}\"", plain.host))
        .file(".home/.docker/config.json", plain.docker_config());
    // The second push looks into what the first one left.
    for _ in 0..2 {
        other.runner("run --publish").aws().run().exits(0);
    }
    calls.extend(in_ecr(&plain.requests(), name));
    (policy(&ecr, ""), calls)
}

#[test]
fn a_push_and_a_deployment_from_a_file() {
    let name = ecs_service();
    let role = |of: &str| format!("arn:aws:iam::123456789012:role/{name}-{of}");
    task_role(&format!("{name}-task"));
    task_role(&format!("{name}-execution"));
    let file = json!({
        "family": name, "taskRoleArn": role("task"), "executionRoleArn": role("execution"),
        "containerDefinitions": [{ "name": "web", "image": "x", "memory": 64 }],
        "tags": [{ "key": "team", "value": "a" }],
    });
    let pipeline = |repository: &str| {
        formatdoc! {r#"
            version: 1
            name: t
            images: {{ app: {{ repository: {repository}, create: true, tags: ["${{source.commit}}", latest] }} }}
            phases:
              build: {{ steps: [{{ build: app }}, {{ push: app }}, {{ image-definitions: {{ web: app }} }}] }}
              post_build:
                steps:
                  - task-definition: {{ file: td.json, containers: {{ web: {{ image: app }} }} }}
                  - deploy: {{ cluster: {name}, service: {name} }}
        "#}
    };
    let (policy, mut calls) = push_calls(pipeline, &name, &[("td.json", file.to_string())]);
    calls.push(of_load_balancers());
    fits(&policy, &calls);
    assert!(policy.to_string().contains("iam:PassedToService"), "{policy:#}");
}

#[test]
fn a_push_to_a_full_address_needs_fewer_permissions() {
    let name = unique("iam-address");
    crate::harness::ecr("CreateRepository", &json!({ "repositoryName": name }));
    let pipeline = |repository: &str| {
        let repository =
            if repository.contains(':') { repository.to_owned() } else { format!("{}/{name}", registry()) };
        formatdoc! {"
            version: 1
            name: t
            images: {{ app: {{ repository: {repository} }} }}
            phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
        "}
    };
    let (policy, calls) = push_calls(pipeline, &name, &[]);
    fits(&policy, &calls);
    assert!(!policy.to_string().contains("DescribeRepositories"), "{policy:#}");
}

/// Findings, B15.
#[test]
fn a_push_to_ecr_public_has_its_own_permissions() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        images: { app: { repository: public.ecr.aws/alias/team/app, skip-unchanged: true } }
        phases: { build: { steps: [{ build: app }, { push: app }] } }
    "})
    .file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
    .git();
    let token = r#"{"authorizationData":{"authorizationToken":"QVdTOnRoZS10b2tlbg==","expiresAt":1}}"#;
    let aws = RecordedAws::scripted(None, move |action, _| {
        (action == "ecr-public:GetAuthorizationToken").then(|| (200, token.to_owned()))
    });
    let run = |aws: &RecordedAws| {
        let run = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint);
        run.env("RUNNER_REGISTRY_PATIENCE", "1s").run()
    };
    // The bed has no way to the registry itself.
    let outcome = run(&aws).exits(3).says_not("the-token");
    outcome.ends_with("the registry public.ecr.aws cannot be reached");
    let public = "arn:aws:ecr-public::123456789012:repository/team/app";
    let mut calls = aws.calls();
    assert!(calls.contains(&call("ecr-public:GetAuthorizationToken", "*")), "{calls:?}");
    for action in
        ["BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload"]
    {
        calls.push(call(&format!("ecr-public:{action}"), public));
    }
    calls.push(call("ecr-public:PutImage", public));
    fits(&policy(&project, ""), &calls);
    // Without the permission the error names it.
    let aws = RecordedAws::start(Some("sts:GetServiceBearerToken"));
    run(&aws).exits(3).says("sts:GetServiceBearerToken");
}

/// A pull from ECR Public needs no permission and no login, and neither does a push elsewhere.
#[test]
fn a_pull_from_ecr_public_needs_no_permission() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { app: { repository: r.example/app, cache: { from: ["public.ecr.aws/alias/app:latest"] } } }
        phases:
          build:
            steps:
              - build: app
              - test: app
                services: { db: { image: "public.ecr.aws/docker/library/postgres:16" } }
              - push: app
    "#})
    .file("Dockerfile", "FROM public.ecr.aws/docker/library/busybox:1.36\n");
    let policy = policy(&project, "");
    assert_eq!(policy["Statement"], json!([]), "{policy:#}");
}

#[test]
fn secrets_a_service_as_base_and_names_that_differ_from_build_to_build() {
    let name = ecs_service();
    ssm(
        "PutParameter",
        &json!({ "Name": format!("/{name}/a"), "Value": "value-of-a", "Type": "SecureString" }),
    );
    let secret = secrets_manager(
        "CreateSecret",
        &json!({ "Name": format!("{name}/s"), "SecretString": "{\"k\":\"value-of-s\"}" }),
    );
    let arn = secret["ARN"].as_str().unwrap();
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env:
          shell: sh
          variables: {{ STAGE: {name} }}
          parameter-store: {{ A: "/${{STAGE}}/a" }}
          secrets-manager: {{ S: "{name}/s:k", W: "{arn}:k:AWSCURRENT" }}
        phases:
          build:
            steps:
              - run: test "$A$S$W" = value-of-avalue-of-svalue-of-s
              - task-definition: {{ service: {{ cluster: "${{STAGE}}", name: {name} }}, containers: {{ web: {{ environment: {{ A: b }} }} }} }}
              - deploy: {{ cluster: {name}, service: "${{CODEBUILD_X:-{name}}}" }}
    "#});
    let ecs = failing(&name);
    project.runner("run --publish").on(&ecs).run().exits(5);
    let policy = policy(&project, "");
    let mut calls = ecs.aws.calls();
    calls.extend(of_other_definitions());
    calls.push(of_load_balancers());
    fits(&policy, &calls);
    let text = policy.to_string();
    assert!(
        text.contains(&format!("service/{name}/*")),
        "a name that a build can change is a pattern: {text}"
    );
    assert!(text.contains(&format!("parameter/{name}/a\"")), "a name that the file knows is exact: {text}");
}

#[test]
fn every_role_has_a_policy_of_its_own() {
    let name = ecs_service();
    let role = "arn:aws:iam::123456789012:role/deploy";
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ parameter-store: {{ A: "/{name}" }} }}
        phases:
          build:
            steps:
              - task-definition: {{ family: {name}, containers: {{ web: {{ environment: {{ A: b }} }} }} }}
                aws: {{ role-arn: "{role}", external-id: x }}
              - deploy: {{ cluster: {name}, service: {name} }}
                aws: {{ role-arn: "{role}" }}
    "#});
    ssm("PutParameter", &json!({ "Name": format!("/{name}"), "Value": "a-value", "Type": "String" }));
    let ecs = failing(&name);
    project.runner("run --publish").on(&ecs).run().exits(5);
    let (own, mut assumed): (Vec<AwsCall>, Vec<AwsCall>) =
        ecs.aws.calls().into_iter().partition(|call| !call.action.starts_with("ecs:"));
    fits(&policy(&project, ""), &own);
    assumed.extend(of_other_definitions());
    assumed.push(of_load_balancers());
    fits(&policy(&project, &format!("--role {role}")), &assumed);
    project.runner("iam").run().exits(0).complains(&format!("runner iam --role {role}"));
    project.runner("iam --role arn:aws:iam::1:role/x").run().exits(2).complains(role);
}

#[test]
fn terraform_and_cloudformation_say_the_same() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { app: { repository: webapp, tags: ["${source.commit}"] } }
        phases: { build: { steps: [{ build: app }, { push: app }] } }
    "#});
    let terraform = project.runner("iam --format terraform").run().exits(0);
    let repository = "arn:${data.aws_partition.current.partition}:ecr:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}:repository/webapp";
    terraform
        .says(repository)
        .says("data \"aws_iam_policy_document\" \"runner\" {")
        .says("data \"aws_region\" \"current\" {}");
    let template = project.runner("iam --format cloudformation").run().exits(0).stdout;
    let template: serde_yaml::Value = serde_yaml::from_str(&template).unwrap();
    let document = &template["Resources"]["RunnerPolicy"]["Properties"]["PolicyDocument"];
    let text = serde_json::to_string(document).unwrap();
    assert!(
        text.contains(
            "{\"Fn::Sub\":\"arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/webapp\"}"
        ),
        "{text}"
    );
    let json = project.runner("iam").run().exits(0).complains("--region or --account");
    assert!(json.stdout.contains("arn:aws:ecr:*:*:repository/webapp"), "{json}");
}

#[test]
fn any_call_that_is_denied_names_action_resource_and_statement() {
    let name = ecs_service();
    crate::harness::ecr("CreateRepository", &json!({ "repositoryName": name }));
    ssm("PutParameter", &json!({ "Name": format!("/{name}"), "Value": "value-of-a", "Type": "String" }));
    secrets_manager("CreateSecret", &json!({ "Name": name, "SecretString": "value-of-s" }));
    let arn = |service: &str, what: &str| format!("arn:aws:{service}:us-east-1:123456789012:{what}");
    let role = "arn:aws:iam::123456789012:role/deploy";
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ parameter-store: {{ A: "/{name}" }}, secrets-manager: {{ S: {name} }} }}
        images: {{ app: {{ repository: {name}, tags: ["${{TAG:-t}}"] }}, new: {{ repository: {name}-new, create: true, tags: ["${{TAG:-t}}"] }} }}
        phases:
          build:
            steps:
              - build: [app, new]
              - push: [app, new]
              - task-definition: {{ service: {{ cluster: {name}, name: {name} }}, containers: {{ web: {{ image: app }} }} }}
              - deploy: {{ cluster: {name}, service: {name} }}
              - {{ run: 'true', aws: {{ role-arn: "{role}" }} }}
    "#})
    .file("Dockerfile", DOCKERFILE);
    for (action, resource) in [
        ("secretsmanager:GetSecretValue", arn("secretsmanager", &format!("secret:{name}-AbCdEf"))),
        ("sts:AssumeRole", role.to_owned()),
        ("ecr:DescribeRepositories", arn("ecr", &format!("repository/{name}"))),
        ("ecr:CreateRepository", arn("ecr", &format!("repository/{name}-new"))),
        ("ecr:GetAuthorizationToken", "*".to_owned()),
        ("ecs:DescribeServices", arn("ecs", &format!("service/{name}/{name}"))),
        ("ecs:DescribeTaskDefinition", "*".to_owned()),
        ("ecs:RegisterTaskDefinition", arn("ecs", &format!("task-definition/{name}:1"))),
        ("ecs:UpdateService", arn("ecs", &format!("service/{name}/{name}"))),
    ] {
        let aws = RecordedAws::start(Some(action));
        let call = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint);
        let outcome = call.env("DOCKER_CONFIG", project.path(".home").display().to_string()).run().exits(3);
        let statement = json!({ "Effect": "Allow", "Action": action, "Resource": resource }).to_string();
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(all.contains(&format!("AWS denies {action}")), "{action}: {outcome}");
        assert!(all.contains(&statement), "{action} lacks {statement}\n{outcome}");
    }
}
