//! Verification: everything that a task definition refers to is checked before anything changes.

use crate::ecs_api::{EcsApi, Fault, Scenario, Service};
use crate::harness::{
    Outcome, Project, api_at, aws_endpoint, ecs, registry, secrets_manager, ssm, task_role, unique,
};
use indoc::formatdoc;
use serde_json::{Value, json};

/// A definition with these fields, and these of its container `web`, is registered and deployed.
fn deployed(service: Service, task: &Value, container: &Value, faults: &[Fault]) -> (Outcome, EcsApi) {
    let mut definition = json!({ "family": service.name, "containerDefinitions": [{ "name": "web", "image": "new", "memory": 64 }] });
    definition.as_object_mut().unwrap().extend(task.as_object().unwrap().clone());
    definition["containerDefinitions"][0]
        .as_object_mut()
        .unwrap()
        .extend(container.as_object().unwrap().clone());
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        phases:
          build:
            steps:
              - task-definition: {{ file: td.json }}
              - deploy: {{ cluster: {0}, service: {0} }}
    ", service.name})
    .file("td.json", definition.to_string());
    let ecs = faults.iter().cloned().fold(Scenario::new([service]), Scenario::fault).start();
    (project.runner("run --publish").on(&ecs).run(), ecs)
}

#[track_caller]
fn refused(task: &Value, container: &Value, says: &[&str]) {
    let (outcome, ecs) = deployed(Service::fresh(), task, container, &[]);
    let outcome = says
        .iter()
        .fold(outcome.exits(3).ends_with("nothing was changed"), |outcome, text| outcome.ends_with(text));
    assert_eq!(ecs.count("ecs:RegisterTaskDefinition") + ecs.count("ecs:UpdateService"), 0, "{outcome}");
}

#[track_caller]
fn accepted(task: &Value, container: &Value) {
    let (outcome, _) = deployed(Service::fresh(), task, container, &[]);
    outcome.exits(0).says_not("not verified");
}

#[test]
fn roles_exist_and_trust_ecs() {
    let name = unique("role");
    let role = json!({ "taskRoleArn": format!("arn:aws:iam::123456789012:role/{name}") });
    refused(&role, &json!({}), &[&format!("the role {name} does not exist")]);
    task_role(&name);
    accepted(&role, &json!({}));
    let other = unique("lambda");
    crate::harness::role(&other, "lambda.amazonaws.com");
    refused(
        &json!({ "executionRoleArn": other }),
        &json!({}),
        &["does not trust ECS", "ecs-tasks.amazonaws.com"],
    );
}

/// Findings, D13: a role is its whole ARN, not only its last word.
#[test]
fn a_role_of_another_account_or_path_is_another_role() {
    let name = unique("role");
    task_role(&name);
    for role in ["taskRoleArn", "executionRoleArn"] {
        let with = |arn: &str| json!({ role: arn });
        for (arn, says) in [
            (format!("arn:aws:iam::123456789012:user/{name}"), "is not the ARN of a role"),
            (format!("arn:aws:sts::123456789012:assumed-role/{name}/x"), "is not the ARN of a role"),
            (format!("arn:aws:iam::123456789012:{name}"), "is not the ARN of a role"),
            (format!("arn:aws:iam::210987654321:role/{name}"), "belongs to the account 210987654321"),
            (format!("arn:aws:iam::123456789012:role/team/{name}"), "does not exist"),
            (format!("team/{name}"), "does not exist"),
        ] {
            refused(&with(&arn), &json!({}), &[says]);
        }
        accepted(&with(&format!("arn:aws:iam::123456789012:role/{name}")), &json!({}));
        accepted(&with(&name), &json!({}));
    }
    // A parameter of another account is not the one of the same name here.
    let parameter = unique("parameter");
    ssm("PutParameter", &json!({ "Name": parameter, "Value": "v", "Type": "String" }));
    let arn = format!("arn:aws:ssm:us-east-1:210987654321:parameter/{parameter}");
    let secret = json!({ "secrets": [{ "name": "S", "valueFrom": arn }] });
    let (outcome, _) = deployed(Service::fresh(), &json!({}), &secret, &[]);
    outcome.exits(0).says("not verified").says("it belongs to another account");
}

/// Findings, D16.
#[test]
fn an_image_that_is_no_reference_is_refused_unless_it_is_replaced() {
    for image in [
        "/something",
        "a:abc/b",
        "Upper/case",
        "web:",
        "web@sha256:12",
        "${IMAGE}",
        &format!("sha256:{}", "a".repeat(64)),
    ] {
        let (outcome, ecs) = deployed(Service::fresh(), &json!({}), &json!({ "image": image }), &[]);
        let says = format!("td.json: the image `{image}` of the container `web`: ");
        let outcome = outcome.exits(2).ends_with(&says).ends_with("is not a valid ");
        assert_eq!(ecs.count("ecs:RegisterTaskDefinition"), 0, "{outcome}");
    }
    // A placeholder of CodePipeline is registered.
    let (outcome, _) = deployed(Service::fresh(), &json!({}), &json!({ "image": "<IMAGE1_NAME>" }), &[]);
    outcome.exits(0).says("not verified: the image of `web` is the placeholder <IMAGE1_NAME>");
    // On a laptop and by `validate`, with the place. An image that the step sets is of no interest.
    let step = |change: &str| {
        let definition = json!({ "family": "f", "containerDefinitions": [
            { "name": "web", "image": "a:abc/b", "memory": 64, "portMappings": [{ "containerPort": 80 }] },
            { "name": "log", "image": "<IMAGE1_NAME>", "memory": 64 } ] });
        Project::new(&formatdoc! {"
            version: 1
            name: t
            images: {{ app: {{ repository: app }} }}
            phases:
              build:
                steps:
                  - build: app
                  - push: app
                  - task-definition: {{ file: td.json{change} }}
        "})
        .file("td.json", definition.to_string())
        .file("Dockerfile", "FROM busybox:1.36\n")
        .git()
    };
    let kept = step(", containers: { log: { image: app } }");
    kept.runner("run").run().exits(2).ends_with("td.json: the image `a:abc/b` of the container `web`: ");
    let outcome = kept.runner("validate").run().exits(2);
    outcome
        .complains("pipeline.yml:9:34")
        .complains("the image `a:abc/b` of the container `web`: ")
        .complains("write `image` for the container `web`")
        .says_not("container `log`");
    for replaced in [", containers: { web: { image: app } }", ", code-pipeline: { container: web, port: 80 }"]
    {
        let project = step(replaced);
        let outcome = project.runner("validate").run().exits(0);
        outcome.complains("the image `<IMAGE1_NAME>` of the container `log`: it is a placeholder");
        project.runner("plan").run().exits(0);
        project.runner("run").run().exits(0);
    }
    // The base may be a revision that someone else has registered.
    let service = Service::fresh();
    let wrong = json!({ "family": service.name, "containerDefinitions": [{ "name": "web", "image": "a:abc/b", "memory": 64 }] });
    ecs("RegisterTaskDefinition", &wrong);
    let base = format!("{{ family: {}, containers: {{ web: {{ cpu: 1 }} }} }}", service.name);
    let api = EcsApi::of(service);
    let run = crate::ecs::project(&base).runner("run --publish").on(&api).run().exits(3);
    run.ends_with("nothing was changed: the image `a:abc/b` of `web`: ").ends_with("is not a valid ");
    for image in ["web", "localhost:5000/a/b:v1", &format!("r.example/a@sha256:{}", "a".repeat(64))] {
        accepted(&json!({}), &json!({ "image": image }));
    }
}

#[test]
fn secrets_and_their_keys_exist() {
    let name = unique("secret");
    let with = |value_from: &str| json!({ "secrets": [{ "name": "S", "valueFrom": value_from }] });
    refused(&json!({}), &with(&format!("/{name}")), &["the secret of `S`", "does not exist"]);
    ssm("PutParameter", &json!({ "Name": format!("/{name}"), "Value": "v", "Type": "SecureString" }));
    accepted(&json!({}), &with(&format!("/{name}")));
    accepted(&json!({}), &with(&format!("arn:aws:ssm:us-east-1:123456789012:parameter/{name}")));
    let none = format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-AbCdEf");
    refused(&json!({}), &with(&none), &["does not exist"]);
    let text = "{\"password\":\"hunter2-hunter2\"}";
    let made = secrets_manager("CreateSecret", &json!({ "Name": name, "SecretString": text }));
    let arn = made["ARN"].as_str().unwrap();
    accepted(&json!({}), &with(arn));
    accepted(&json!({}), &with(&format!("{arn}:password::")));
    refused(&json!({}), &with(&format!("{arn}:passwrod::")), &["has no key `passwrod`"]);
    // Who may not read secrets still hears of one that is not there.
    let unread = [Fault::denied("secretsmanager:GetSecretValue")];
    let (outcome, _) = deployed(Service::fresh(), &json!({}), &with(&format!("{none}:password::")), &unread);
    outcome.exits(3).ends_with("does not exist");
    let (outcome, _) = deployed(Service::fresh(), &json!({}), &with(&format!("{arn}:password::")), &unread);
    outcome.exits(0).says("not verified").says("allow `secretsmanager:GetSecretValue`");
    secrets_manager("DeleteSecret", &json!({ "SecretId": name }));
    refused(&json!({}), &with(arn), &["is scheduled for deletion"]);
    refused(&json!({}), &with(&format!("{arn}:password::")), &["marked for deletion"]);
}

#[test]
fn log_groups_exist_or_are_created() {
    let group = format!("/{}", unique("group"));
    let log = |more: Value| {
        let mut options = json!({ "awslogs-group": group, "awslogs-region": "us-east-1" });
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "logConfiguration": { "logDriver": "awslogs", "options": options } })
    };
    refused(
        &json!({}),
        &log(json!({})),
        &[&format!("the log group {group} does not exist"), "create-log-group"],
    );
    accepted(&json!({}), &log(json!({ "awslogs-create-group": "true" })));
    api_at(&aws_endpoint(), "logs", "Logs_20140328.CreateLogGroup", &json!({ "logGroupName": group }));
    accepted(&json!({}), &log(json!({})));
}

#[test]
fn images_are_in_ecr_for_the_tasks_platform() {
    let name = unique("verified");
    let image = |reference: &str| json!({ "image": format!("{}/{name}{reference}", registry()) });
    let missing = format!("@sha256:{}", "0".repeat(64));
    refused(&json!({}), &image(&missing), &["the image of `web` is not in its repository", "push it first"]);
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {name}, create: true, tags: ["${{TAG:-v1}}"] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n");
    project.runner("run --publish").aws().run().exits(0);
    accepted(&json!({}), &image(":v1"));
    refused(&json!({}), &image(":v2"), &["is not in its repository"]);
    let arm = json!({ "runtimePlatform": { "cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX" } });
    refused(
        &arm,
        &image(":v1"),
        &["is for linux/amd64, but the task runs on linux/arm64", "platforms: [linux/arm64]"],
    );
}

#[test]
fn the_load_balancer_reaches_the_container() {
    let balanced = |port: u16| {
        let group = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/none/0123456789abcdef";
        Service::fresh().with(
            "loadBalancers",
            json!([{ "targetGroupArn": group, "containerName": "web", "containerPort": port }]),
        )
    };
    let ports = json!({ "portMappings": [{ "containerPort": 80 }] });
    let (outcome, ecs) = deployed(balanced(81), &json!({}), &ports, &[]);
    outcome.exits(3).ends_with("no service was changed").ends_with("port 81 of the container `web`");
    assert_eq!(ecs.count("ecs:UpdateService"), 0);
    let (outcome, ecs) = deployed(balanced(80), &json!({}), &ports, &[]);
    outcome.exits(3).ends_with("the target group of");
    assert_eq!(ecs.count("ecs:UpdateService"), 0);
    // Without a pipeline nothing is registered before that.
    let service = balanced(81);
    let ecs = EcsApi::of(service.clone());
    let call = format!("ecs deploy --cluster {0} --service {0} --image web=new", service.name);
    let project = Project::phases("build: { steps: [] }\n");
    project.runner(&call).on(&ecs).run().exits(3).complains("no service was changed");
    assert_eq!(ecs.count("ecs:RegisterTaskDefinition"), 0);
}

#[test]
fn denied_reads_are_warnings() {
    let name = unique("denied");
    let secret = format!("arn:aws:secretsmanager:us-east-1:123456789012:secret:{name}-AbCdEf");
    let container = json!({ "secrets": [{ "name": "S", "valueFrom": secret }, { "name": "T", "valueFrom": format!("/{name}") }],
        "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": name, "awslogs-region": "us-east-1" } } });
    let denied =
        ["iam:GetRole", "secretsmanager:DescribeSecret", "ssm:DescribeParameters", "logs:DescribeLogGroups"];
    let faults: Vec<Fault> = denied.iter().map(|action| Fault::denied(action)).collect();
    let (outcome, _) = deployed(Service::fresh(), &json!({ "taskRoleArn": name }), &container, &faults);
    let outcome = outcome.exits(0);
    for action in denied {
        assert!(
            outcome
                .stdout
                .lines()
                .any(|line| line.contains("warning: not verified") && line.contains(action)),
            "{action}\n{outcome}"
        );
    }
}

#[test]
fn a_missing_rollback_target_is_reported_before_the_deployment() {
    let name = crate::harness::ecs_service();
    let image = format!("{}/{name}:gone", registry());
    let definition =
        json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": image, "memory": 64 }] });
    crate::harness::ecs("RegisterTaskDefinition", &definition);
    let service = Service::new(&name, &name, &crate::ecs_api::revision(&name, 2));
    let (outcome, _) = deployed(service, &json!({}), &json!({}), &[]);
    outcome.exits(0).has_line(&["warning:", "could not be rolled back", "is no longer in its repository"]);
}
