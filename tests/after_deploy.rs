//! After a deployment: the images of the tasks that run, scheduled tasks, and unused revisions.

use crate::ecs_api::{EcsApi, Fault, OneOff, Scenario, Service, Step, TaskOutcome, revision, steps};
use crate::harness::{
    Outcome, Project, api_at, aws_endpoint, bed, digest_in, docker_config, ecr, ecs, registry, shell, unique,
};
use crate::policy::allows_all;
use indoc::formatdoc;
use serde_json::{Value, json};

const NEW: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn call(api: &EcsApi, arguments: &str) -> Outcome {
    Project::phases("build: { steps: [] }\n").runner(&format!("ecs {arguments}")).on(api).run()
}

/// `runner ecs deploy` with another image for the container.
fn deploy(api: &EcsApi, name: &str, options: &str) -> Outcome {
    call(api, &format!("deploy --cluster {name} --service {name} {options}"))
}

/// A deployment whose tasks run these digests.
fn with_digests(service: Service, digests: &[&str]) -> Service {
    let tasks = digests.iter().map(|digest| TaskOutcome::running().digest("web", digest));
    let step = tasks.fold(Step::status("IN_PROGRESS"), Step::task);
    let count = i64::try_from(digests.len()).unwrap();
    service.desired(count).deploys([step.tasks(count, 0), steps::succeed()])
}

#[test]
fn the_digests_that_run_are_those_that_were_deployed() {
    let image = format!("registry.example.com/team/webapp@{NEW}");
    let service = Service::fresh().desired(2);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    let outcome = deploy(&api, &name, &format!("--image web={image}")).exits(0);
    outcome.complains("2 tasks run team/webapp@sha256:111111111111…").says_not("warning");
    // Otherwise no registry but ECR can be asked.
    let service = with_digests(Service::fresh(), &[NEW, OTHER]);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    deploy(&api, &name, &format!("--image web={image}"))
        .exits(0)
        .complains("1 task runs team/webapp@sha256:111111111111…")
        .complains(&format!("warning: `web` runs {OTHER}, but its task definition names {NEW}"));
    // A tag of somewhere else says nothing, and neither does a container without a digest.
    let service = Service::fresh();
    let name = service.name.clone();
    let api = EcsApi::of(service);
    deploy(&api, &name, "--image web=team/webapp:v1").exits(0).says_not("warning").says_not("task runs");
}

#[test]
fn denied_lookups_cause_one_warning() {
    let service = Service::fresh();
    let name = service.name.clone();
    let api = Scenario::new([service]).fault(Fault::denied("ecs:DescribeTasks")).start();
    let outcome = deploy(&api, &name, &format!("--image web=r.example.com/webapp@{NEW}")).exits(0);
    let told = "warning: could not verify that the tasks of";
    assert_eq!(outcome.stderr.matches(told).count(), 1, "{outcome}");
    outcome
        .complains("run the deployed images: AWS denies ecs:DescribeTasks")
        .complains("\"Action\":\"ecs:DescribeTasks\"");
}

/// An image in ECR, by its digest, and an index with it.
fn pushed(repository: &str) -> (String, String) {
    ecr("CreateRepository", &json!({ "repositoryName": repository }));
    let project = Project::phases("build: { steps: [{ run: 'true' }] }\n")
        .file(".home/.docker/config.json", docker_config())
        .file("image/Dockerfile", "FROM busybox:1.36\n");
    let tag = format!("{}/{repository}:v1", registry());
    shell("docker", &["build", "-q", "-t", &tag, project.path("image").to_str().unwrap()]);
    let outcome = project.runner(&format!("image push {tag} {tag}")).aws().run().exits(0);
    shell("docker", &["rmi", "-f", &tag]);
    let digest = outcome.stdout.trim().split_once('@').unwrap().1.to_owned();
    let ca = bed("RUNNER_TEST_CA");
    let registry = |method: &str, reference: &str, more: &[&str]| {
        let url = format!("https://{}/v2/{repository}/manifests/{reference}", registry());
        let own = ["-fsS", "--cacert", &ca, "-u", "AWS:123456789012-auth-token", "-X", method, &url];
        shell("curl", &[own.as_slice(), more].concat())
    };
    let manifest = registry("GET", &digest, &["-H", "Accept: application/vnd.oci.image.manifest.v1+json"]);
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": manifest.len(), "platform": { "os": "linux", "architecture": "amd64" } }],
    });
    let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
    let head = registry("PUT", "all", &["-H", kind, "-d", &index.to_string(), "-i"]);
    (digest, digest_in(&head))
}

#[test]
fn images_in_ecr_are_compared_by_the_digests_of_their_tags() {
    let repository = unique("after");
    let (digest, index) = pushed(&repository);
    let image = |reference: &str| format!("--image web={}/{repository}{reference}", registry());
    let with = |digests: &[&str], reference: &str, more: &str| {
        let service = with_digests(Service::fresh(), digests);
        let name = service.name.clone();
        let api = EcsApi::of(service);
        let options = format!("{} --on-failure leave {more}", image(reference));
        (deploy(&api, &name, &options), api)
    };
    // An index is pinned, and an image of it runs.
    let (outcome, _) = with(&[&digest, &index], &format!("@{index}"), "");
    outcome.exits(0).complains(&format!("2 tasks run {repository}@{}…", &index[..19])).says_not("warning");
    // Something else runs: the deployment stands, and nothing follows.
    let (outcome, api) = with(&[&digest, OTHER], &format!("@{digest}"), "--keep-revisions 1 --schedules");
    outcome
        .exits(1)
        .complains("the container `web` of the task ")
        .complains(&format!(" runs {OTHER} instead of the deployed {digest}"))
        .complains("1 task runs");
    for action in ["ecs:DeregisterTaskDefinition", "scheduler:ListSchedules", "events:ListEventBuses"] {
        assert_eq!(api.count(action), 0, "{action}");
    }
    assert_eq!(api.count("ecs:UpdateService"), 1);
    // A tag stands for what it stands for now.
    let (outcome, _) = with(&[&digest], ":v1", "");
    outcome
        .exits(0)
        .complains(&format!("1 task runs {repository}:v1@{}…", &digest[..19]))
        .says_not("warning");
    let (outcome, _) = with(&[OTHER, OTHER], ":v1", "");
    assert_eq!(outcome.stderr.matches("the tag may have moved").count(), 1, "{outcome}");
    outcome
        .exits(0)
        .complains(&format!("`web` runs {OTHER}, but {}/{repository}:v1 is {digest} now", registry()));
}

// Who uses revisions.

fn events(operation: &str, body: &Value) -> Value {
    let answer = api_at(&aws_endpoint(), "events", &format!("AWSEvents.{operation}"), body);
    serde_json::from_str(&answer).unwrap_or_default()
}

/// A call of `EventBridge` Scheduler at the bed.
fn scheduler(method: &str, path: &str, body: &Value) -> Value {
    let url = format!("{}{path}", aws_endpoint());
    let authorization = "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/scheduler/aws4_request, SignedHeaders=host, Signature=x";
    let body = body.to_string();
    let mut arguments = vec!["-sS", "-X", method, "-H", authorization, &url];
    if method != "GET" {
        arguments.extend(["-H", "Content-Type: application/json", "-d", &body]);
    }
    serde_json::from_str(&shell("curl", &arguments)).unwrap_or_default()
}

fn cluster(name: &str) -> String {
    format!("arn:aws:ecs:us-east-1:123456789012:cluster/{name}")
}

const ROLE: &str = "arn:aws:iam::123456789012:role/starts-tasks";

/// A rule that starts a revision in a cluster.
fn rule(bus: &str, name: &str, cluster_name: &str, definition: &str) {
    // Only the default bus has schedules.
    let pattern = json!({ "source": ["a"] }).to_string();
    let when = if bus == "default" {
        ("ScheduleExpression", "rate(1 day)")
    } else {
        ("EventPattern", pattern.as_str())
    };
    events("PutRule", &json!({ "Name": name, "EventBusName": bus, when.0: when.1 }));
    events(
        "PutTargets",
        &json!({ "Rule": name, "EventBusName": bus, "Targets": [
            { "Id": "mail", "Arn": "arn:aws:sns:us-east-1:123456789012:t" },
            { "Id": "task", "Arn": cluster(cluster_name), "RoleArn": ROLE, "Input": "{\"containerOverrides\":[]}",
              "RetryPolicy": { "MaximumRetryAttempts": 0 }, "BrandNew": { "a": [0, false, ""] },
              "EcsParameters": { "TaskDefinitionArn": definition, "TaskCount": 2, "LaunchType": "FARGATE",
                "NetworkConfiguration": { "awsvpcConfiguration": { "Subnets": ["subnet-1"], "AssignPublicIp": "DISABLED" } },
                "PropagateTags": "TASK_DEFINITION", "Tags": [{ "Key": "k", "Value": "v" }], "EnableECSManagedTags": true } },
        ] }),
    );
}

fn target_of(bus: &str, rule: &str) -> Value {
    let targets = events("ListTargetsByRule", &json!({ "Rule": rule, "EventBusName": bus }));
    targets["Targets"].as_array().unwrap().iter().find(|target| target["Id"] == "task").unwrap().clone()
}

/// A schedule at the bed, as long as it is not dropped: whoever looks for users of revisions reads all of them.
struct Scheduled(String);

impl Drop for Scheduled {
    fn drop(&mut self) {
        scheduler("DELETE", &self.0, &json!({}));
    }
}

/// A schedule that starts a revision in a cluster.
#[must_use]
fn schedule(group: &str, name: &str, cluster_name: &str, definition: &str) -> Scheduled {
    let body = json!({
        "GroupName": group, "ScheduleExpression": "cron(0 3 * * ? *)", "ScheduleExpressionTimezone": "Europe/Berlin",
        "Description": "nightly", "StartDate": 4_000_000_000_u64, "EndDate": 4_100_000_000_u64, "State": "DISABLED",
        "KmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/k", "ActionAfterCompletion": "DELETE",
        "FlexibleTimeWindow": { "Mode": "FLEXIBLE", "MaximumWindowInMinutes": 5 },
        "Target": { "Arn": cluster(cluster_name), "RoleArn": ROLE, "Input": "{}", "BrandNew": { "a": [0, false, "", 1.50] },
            "DeadLetterConfig": { "Arn": "arn:aws:sqs:us-east-1:123456789012:q" },
            "EcsParameters": { "TaskDefinitionArn": definition, "TaskCount": 1, "EnableECSManagedTags": false,
                "CapacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 0 }] } },
    });
    scheduler("POST", &format!("/schedules/{name}"), &body);
    Scheduled(format!("/schedules/{name}?groupName={group}"))
}

/// A schedule that calls the API itself.
#[must_use]
fn calling(name: &str, cluster_name: &str, definition: &str) -> Scheduled {
    let input = json!({ "Cluster": cluster_name, "TaskDefinition": definition }).to_string();
    let body = json!({
        "ScheduleExpression": "rate(1 hour)", "FlexibleTimeWindow": { "Mode": "OFF" },
        "Target": { "Arn": "arn:aws:scheduler:::aws-sdk:ecs:runTask", "RoleArn": ROLE, "Input": input },
    });
    scheduler("POST", &format!("/schedules/{name}"), &body);
    Scheduled(format!("/schedules/{name}?groupName=default"))
}

/// More revisions of a family, up to this number.
fn register(family: &str, last: u32) {
    for number in 2..=last {
        let web = json!({ "name": "web", "image": format!("r.example.com/webapp:{number}"), "memory": 64 });
        ecs("RegisterTaskDefinition", &json!({ "family": family, "containerDefinitions": [web] }));
    }
}

/// The numbers of the revisions that are in use.
fn active(family: &str) -> Vec<u32> {
    let found = ecs("ListTaskDefinitions", &json!({ "familyPrefix": family, "status": "ACTIVE" }));
    let arns = found["taskDefinitionArns"].as_array().unwrap();
    let number = |arn: &Value| arn.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let mut numbers: Vec<u32> = arns.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

const IMAGE: &str = "--image web=r.example.com/webapp:new";

/// A family with so many revisions, of which the service runs one.
fn family(last: u32, runs: u32) -> Service {
    let service = Service::fresh();
    register(&service.name, last);
    Service::new(&service.cluster, &service.name, &revision(&service.name, runs))
}

#[test]
fn unused_revisions_are_deregistered() {
    let service = family(10, 5);
    let name = service.name.clone();
    // Another family whose name begins like this one.
    let longer = format!("{name}-worker");
    let web = json!({ "name": "web", "image": "i", "memory": 64 });
    ecs("RegisterTaskDefinition", &json!({ "family": longer, "containerDefinitions": [web] }));
    let other = Service::new(&name, &format!("{name}-b"), &revision(&name, 1));
    ecs(
        "CreateService",
        &json!({ "cluster": name, "serviceName": other.name, "taskDefinition": other.definition, "desiredCount": 1 }),
    );
    rule("default", &format!("{name}-rule"), &name, &revision(&name, 3));
    let bus = format!("{name}-bus");
    events("CreateEventBus", &json!({ "Name": bus }));
    rule(&bus, "own", &name, &revision(&name, 8));
    let _schedule = schedule("default", &format!("{name}-schedule"), &name, &revision(&name, 4));
    let _schedule = calling(&format!("{name}-call"), &name, &format!("{name}:7"));
    let api = Scenario::new([service, other]).runs(OneOff::default().state("RUNNING")).start();
    let run = json!({ "cluster": name, "taskDefinition": revision(&name, 2) });
    api_at(&api.endpoint, "ecs", "AmazonEC2ContainerServiceV20141113.RunTask", &run);
    let options = format!("{IMAGE} --keep-revisions 2");
    let outcome = deploy(&api, &name, &format!("{options} --dry-run")).exits(0);
    let plan = [6, 9].map(|number| format!("would deregister {name}:{number}\n"));
    assert!(plan.iter().all(|line| outcome.stdout.contains(line)), "{outcome}");
    assert_eq!(outcome.stdout.matches("would deregister").count(), 2, "{outcome}");
    let outcome = deploy(&api, &name, &options).exits(0);
    assert_eq!(active(&name), [1, 2, 3, 4, 5, 7, 8, 10, 11], "{outcome}");
    let outcome = [6, 9]
        .iter()
        .fold(outcome, |outcome, number| outcome.complains(&format!("{name}:{number} was deregistered")));
    for (number, by) in [
        (1, format!("the service {name}-b uses it")),
        (2, "a task runs it".to_owned()),
        (3, format!("the rule {name}-rule starts it")),
        (4, format!("the schedule {name}-schedule starts it")),
        (5, "it is the rollback target".to_owned()),
        (7, format!("the schedule {name}-call starts it")),
        (8, format!("the rule {bus}/own starts it")),
    ] {
        assert!(outcome.stderr.contains(&format!("{name}:{number} is kept: {by}")), "{number}\n{outcome}");
    }
    assert_eq!(active(&longer), [1]);
    // A revision that is deployed again: what is newer is not older.
    let again =
        deploy(&api, &name, &format!("--task-definition {name}:3 --keep-revisions 1 --json")).exits(0);
    let document: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(document["deregistered"], json!([]), "{again}");
    assert_eq!(active(&name), [1, 2, 3, 4, 5, 7, 8, 10, 11]);
}

#[test]
fn revisions_in_use_by_another_cluster_are_kept() {
    let service = family(7, 7);
    let (name, there) = (service.name.clone(), Service::fresh().name);
    // No task runs what it would run.
    let other = Service::new(&there, &there, &revision(&name, 2)).desired(0);
    let services = [service, other, Service::fresh()];
    rule("default", &format!("{name}-rule"), &there, &revision(&name, 4));
    let api = Scenario::new(services.clone()).runs(OneOff::default().state("RUNNING")).start();
    let run = json!({ "cluster": there, "taskDefinition": revision(&name, 3) });
    api_at(&api.endpoint, "ecs", "AmazonEC2ContainerServiceV20141113.RunTask", &run);
    let outcome = deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1")).exits(0);
    assert_eq!(active(&name), [2, 3, 4, 7, 8], "{outcome}");
    for (number, by) in [
        (2, format!("the service {there}/{there} uses it")),
        (3, format!("a task in {there} runs it")),
        (4, format!("the rule {name}-rule starts it")),
    ] {
        assert!(outcome.stderr.contains(&format!("{name}:{number} is kept: {by}")), "{number}\n{outcome}");
    }
    // What may not be read there keeps everything.
    let arn = format!("arn:aws:ecs:us-east-1:123456789012:service/{there}/{there}");
    let denied = format!(
        "User: arn:aws:iam::123456789012:user/x is not authorized to perform: ecs:DescribeServices on resource: {arn} because no identity-based policy allows the ecs:DescribeServices action"
    );
    let denied = json!({ "__type": "AccessDeniedException", "message": denied }).to_string();
    let api = Scenario::new(services)
        .also(move |action, body| {
            let strikes = action == "ecs:DescribeServices" && body.contains(&there);
            strikes.then(|| (400, denied.clone()))
        })
        .start();
    let outcome = deploy(&api, &name, &format!("{IMAGE}er --keep-revisions 1")).exits(0);
    assert_eq!(active(&name), [2, 3, 4, 7, 8, 9], "{outcome}");
    assert_eq!(outcome.stderr.matches("warning: ").count(), 1, "{outcome}");
    outcome
        .complains(&format!("all revisions of {name} are kept: AWS denies ecs:DescribeServices"))
        .complains(&format!("\"Resource\":\"{arn}\""));
}

#[test]
fn recently_deployed_revisions_are_kept() {
    let service = family(4, 1);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    for number in [2, 3, 4] {
        deploy(&api, &name, &format!("--task-definition {name}:{number}")).exits(0);
    }
    deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1"))
        .exits(0)
        .complains("belongs to a recent deployment");
    // All of these are within the last five deployments.
    assert_eq!(active(&name), [1, 2, 3, 4, 5]);
    for number in 6..=9 {
        deploy(&api, &name, &format!("--image web=r.example.com/webapp:n{number}")).exits(0);
    }
    deploy(&api, &name, &format!("--task-definition {name}:9 --keep-revisions 1")).exits(0);
    assert_eq!(active(&name), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_failed_lookup_keeps_all_revisions() {
    for action in [
        "ecs:ListTaskDefinitions",
        "ecs:ListClusters",
        "ecs:ListServices",
        "ecs:DescribeServiceDeployments",
        "ecs:DescribeServiceRevisions",
        "ecs:ListTasks",
        "events:ListEventBuses",
        "events:ListRuleNamesByTarget",
        "events:ListTargetsByRule",
        "scheduler:ListSchedules",
        "scheduler:GetSchedule",
    ] {
        let service = family(4, 4);
        let name = service.name.clone();
        rule("default", &format!("{name}-rule"), &name, &revision(&name, 4));
        let _schedule = schedule("default", &format!("{name}-schedule"), &name, &revision(&name, 4));
        let api = Scenario::new([service]).fault(Fault::denied(action)).start();
        let outcome = deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1")).exits(0);
        assert_eq!(active(&name), [1, 2, 3, 4, 5], "{action}\n{outcome}");
        let warning = format!("warning: all revisions of {name} are kept: AWS denies {action}");
        let line = outcome.stderr.lines().find(|line| line.starts_with(&warning));
        let line = line.unwrap_or_else(|| panic!("{action}\n{outcome}"));
        assert!(line.contains(&format!("\"Action\":\"{action}\"")), "{line}");
    }
    // It is unknown to which revision a service can roll back while someone else deploys it.
    let service = family(3, 3);
    let name = service.name.clone();
    let other = Service::new(&name, &format!("{name}-b"), &revision(&name, 2)).controller("CODE_DEPLOY");
    let body =
        json!({ "cluster": name, "serviceName": other.name, "taskDefinition": name, "desiredCount": 1 });
    ecs("CreateService", &body);
    let api = Scenario::new([service, other]).start();
    let outcome = deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1")).exits(0);
    outcome.complains(&format!("are kept: the rollback target of {name}-b is unknown"));
    assert_eq!(active(&name), [1, 2, 3, 4]);
}

#[test]
fn a_failed_deregistration_is_a_warning_and_a_failed_deployment_deregisters_nothing() {
    let service = family(3, 3);
    let name = service.name.clone();
    let api = Scenario::new([service]).fault(Fault::denied("ecs:DeregisterTaskDefinition")).start();
    let outcome = deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1")).exits(0);
    outcome
        .complains(&format!("warning: could not deregister {name}:2: AWS denies"))
        .complains(&format!("could not deregister {name}:1"));
    let why = "too many failures";
    let service = family(3, 3).deploys([steps::rolling_back(why), steps::rolled_back(why)]);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    deploy(&api, &name, &format!("{IMAGE} --keep-revisions 1 --schedules")).exits(5);
    assert_eq!(active(&name), [1, 2, 3, 4]);
    assert_eq!(api.count("scheduler:ListSchedules"), 0);
}

#[test]
fn schedules_are_updated_and_otherwise_unchanged() {
    let service = family(4, 4);
    let (name, others) = (service.name.clone(), unique("others"));
    let bus = format!("{name}-bus");
    events("CreateEventBus", &json!({ "Name": bus }));
    rule("default", &format!("{name}-a"), &name, &revision(&name, 3));
    rule(&bus, "b", &name, &revision(&name, 4));
    let mut stay = Vec::new();
    let latest = revision(&name, 4).trim_end_matches(":4").to_owned();
    for (at, (cluster, definition)) in [
        (&name, latest.as_str()),
        (&others, &revision(&name, 3)),
        (&name, &revision(&format!("{name}-worker"), 1)),
        (&name, &revision(&name, 99)),
    ]
    .into_iter()
    .enumerate()
    {
        rule("default", &format!("{name}-stays-{at}"), cluster, definition);
        stay.push(schedule("default", &format!("{name}-stays-{at}"), cluster, definition));
    }
    scheduler("POST", &format!("/schedule-groups/{name}"), &json!({}));
    let _schedule = schedule(&name, "c", &name, &revision(&name, 2));
    let _schedule = schedule("default", &format!("{name}-d"), &name, &revision(&name, 1));
    let before = [target_of("default", &format!("{name}-a")), target_of(&bus, "b")];
    let path = format!("/schedules/c?groupName={name}");
    let schedule_before = scheduler("GET", &path, &Value::Null);
    let api = EcsApi::of(service);
    let dry = deploy(&api, &name, &format!("{IMAGE} --schedules --dry-run")).exits(0);
    for moved in [format!("the rule {name}-a"), format!("the schedule {name}/c")] {
        assert!(dry.stdout.contains(&format!("would move {moved} to the new revision of {name}")), "{dry}");
    }
    let outcome = deploy(&api, &name, &format!("{IMAGE} --schedules --json")).exits(0);
    let new = revision(&name, 5);
    for (before, after) in
        before.iter().zip([target_of("default", &format!("{name}-a")), target_of(&bus, "b")])
    {
        let mut expected = before.clone();
        expected["EcsParameters"]["TaskDefinitionArn"] = json!(new);
        assert_eq!(after, expected, "{outcome}");
    }
    // The other target of the rule is not touched.
    let put = api.calls("events:PutTargets");
    assert_eq!(put.len(), 2);
    assert!(put.iter().all(|call| call["Targets"].as_array().unwrap().len() == 1), "{put:?}");
    let sent = api.calls("scheduler:UpdateSchedule");
    assert_eq!(sent.len(), 2, "{outcome}");
    let mut expected = schedule_before.clone();
    expected["Target"]["EcsParameters"]["TaskDefinitionArn"] = json!(new);
    for field in ["Arn", "Name", "CreationDate", "LastModificationDate"] {
        expected.as_object_mut().unwrap().remove(field);
    }
    assert!(sent.contains(&expected), "{sent:#?}\n{expected:#}");
    assert_eq!(scheduler("GET", &path, &Value::Null)["Target"], expected["Target"]);
    let document: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let moved = json!([
        format!("the rule {name}-a"),
        format!("the rule {bus}/b"),
        format!("the schedule {name}-d"),
        format!("the schedule {name}/c")
    ]);
    let mut told = document["moved"].as_array().unwrap().clone();
    told.sort_by_key(ToString::to_string);
    assert_eq!(json!(told), moved);
    outcome.complains(&format!("moved the schedule {name}/c: now starts {name}:5 instead of {name}:2"));
    // Nothing is left to do.
    let outcome = deploy(&api, &name, "--schedules").exits(0);
    assert_eq!((api.count("events:PutTargets"), api.count("scheduler:UpdateSchedule")), (2, 2), "{outcome}");
    // Without the option nothing is checked.
    let listed = api.count("scheduler:ListSchedules");
    deploy(&api, &name, "--image web=r.example.com/webapp:newer").exits(0);
    assert_eq!(api.count("scheduler:ListSchedules"), listed);
}

#[test]
fn schedules_that_cannot_be_updated_fail_the_step_and_are_named() {
    let service = family(2, 2);
    let name = service.name.clone();
    rule("default", &format!("{name}-a"), &name, &revision(&name, 1));
    rule("default", &format!("{name}-b"), &name, &revision(&name, 1));
    let _schedule = schedule("default", &format!("{name}-c"), &name, &revision(&name, 1));
    let _schedule = calling(&format!("{name}-d"), &name, &revision(&name, 1));
    let refused = format!("{name}-a");
    let api = Scenario::new([service])
        .also(move |action, body| {
            let is_first = action == "events:PutTargets" && body.contains(&refused);
            let entry = json!({ "TargetId": "task", "ErrorCode": "ConcurrentModificationException", "ErrorMessage": "not now" });
            is_first.then(|| (200, json!({ "FailedEntryCount": 1, "FailedEntries": [entry] }).to_string()))
        })
        .fault(Fault::denied("scheduler:UpdateSchedule"))
        .start();
    let outcome = deploy(&api, &name, &format!("{IMAGE} --schedules --keep-revisions 1")).exits(1);
    assert_eq!(api.runs(&name), revision(&name, 3));
    assert_eq!(
        target_of("default", &format!("{name}-b"))["EcsParameters"]["TaskDefinitionArn"],
        revision(&name, 3).as_str()
    );
    outcome
        .complains("warning: could not move the rule")
        .complains("ConcurrentModificationException: not now")
        .complains(&format!("moved the rule {name}-b"))
        .complains("\"Action\":\"scheduler:UpdateSchedule\"")
        .complains("not all schedules were moved to it: ")
        .complains(&format!("the rule {name}-a still starts {name}:1; "))
        .complains(&format!("the schedule {name}-c still starts {name}:1"))
        .complains(&format!("the schedule {name}-d still starts {name}:1"))
        .complains(&format!("{name}:1 is kept: "));
    let service = family(1, 1);
    let name = service.name.clone();
    let api = Scenario::new([service]).fault(Fault::denied("events:ListEventBuses")).start();
    let outcome = deploy(&api, &name, &format!("{IMAGE} --schedules")).exits(1);
    outcome.complains("could not read the rules").complains("\"Action\":\"events:ListEventBuses\"");
}

fn pipeline(name: &str, options: &str) -> Project {
    Project::new(&formatdoc! {r"
        version: 1
        name: t
        env: {{ shell: sh }}
        phases:
          post_build:
            steps:
              - task-definition: {{ family: {name}, containers: {{ web: {{ environment: {{ A: b }} }} }} }}
              - deploy: {{ cluster: {name}, service: {name}{options} }}
    "})
}

#[test]
fn cleaning_up_and_schedules_are_in_the_policy() {
    let service = family(5, 5);
    let name = service.name.clone();
    let rule_name = format!("{name}-rule");
    rule("default", &rule_name, &name, &revision(&name, 1));
    let _schedule = schedule("default", &format!("{name}-schedule"), &name, &revision(&name, 2));
    // In another cluster, what has to be allowed is the same.
    let there = Service::fresh().name;
    let api = Scenario::new([service, Service::new(&there, &there, &revision(&name, 4))]).start();
    let project = pipeline(&name, ", keep-revisions: 1, schedules: true");
    let outcome = project.runner("run --publish").on(&api).run().exits(0);
    outcome.has_line(&["moved", &rule_name]).has_line(&[&format!("{name}:3"), "was deregistered"]);
    assert_eq!(active(&name), [4, 5, 6]);
    let policy = project.runner("iam --region us-east-1 --account 123456789012").run().exits(0);
    let policy = policy.complains("rules that start tasks").complains("schedules that start tasks");
    let policy: Value = serde_json::from_str(&policy.stdout).unwrap();
    allows_all(&policy, &api.aws.calls());
    let patterns = policy.to_string();
    assert!(!patterns.contains(&format!("task/{name}/*")), "a pattern holds it already: {patterns}");
    let statements = policy["Statement"].as_array().unwrap();
    for service in ["events.amazonaws.com", "scheduler.amazonaws.com"] {
        let is =
            |statement: &&Value| statement["Condition"]["StringEquals"]["iam:PassedToService"] == service;
        assert_eq!(statements.iter().filter(is).count(), 1, "{service}\n{policy:#}");
    }
    // Nothing of it where the keys do not ask for it.
    let plain = pipeline(&name, "").runner("iam").run().exits(0).stdout;
    for action in ["events:", "scheduler:", "Deregister", "ecs:ListServices", "ecs:ListClusters"] {
        assert!(!plain.contains(action), "{action}\n{plain}");
    }
    let local = pipeline(&name, ", keep-revisions: 1, schedules: true");
    local.runner("run --local").run().exits(0);
    let planned = local.json(&format!(".runner/ecs/deploy-{name}-{name}.json"));
    assert_eq!((&planned["keepRevisions"], &planned["schedules"]), (&json!(1), &json!(true)));
}
