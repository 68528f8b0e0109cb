//! Tests of the stand-in itself.

use super::{EcsApi, Fault, OneOff, Scenario, Script, Service, TaskOutcome, revision, steps};
use crate::bed::{api_at, ecs, ecs_service};
use serde_json::{Value, json};

fn ask(api: &EcsApi, operation: &str, body: &Value) -> Value {
    let target = format!("AmazonEC2ContainerServiceV20141113.{operation}");
    let answer = api_at(&api.endpoint, "ecs", &target, body);
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{operation}: {error}: {answer}"))
}

/// A service, and its family with a second revision that writes logs.
fn service() -> Service {
    let name = ecs_service();
    let log = json!({ "logDriver": "awslogs", "options": { "awslogs-group": "/g", "awslogs-stream-prefix": "p", "awslogs-region": "us-east-1" } });
    let web = json!({ "name": "web", "image": "r/web@sha256:ab", "memory": 64, "logConfiguration": log });
    ecs("RegisterTaskDefinition", &json!({ "family": name, "containerDefinitions": [web] }));
    Service::new(&name, &name, &revision(&name, 1))
}

fn describe(api: &EcsApi, name: &str) -> Value {
    ask(api, "DescribeServices", &json!({ "cluster": name, "services": [name] }))["services"][0].clone()
}

fn update(api: &EcsApi, name: &str) -> Value {
    ask(
        api,
        "UpdateService",
        &json!({ "cluster": name, "service": name, "taskDefinition": revision(name, 2) }),
    )
}

/// The newest service deployment.
fn newest(api: &EcsApi, name: &str) -> Value {
    let list = ask(api, "ListServiceDeployments", &json!({ "cluster": name, "service": name }));
    let arn = &list["serviceDeployments"][0]["serviceDeploymentArn"];
    ask(api, "DescribeServiceDeployments", &json!({ "serviceDeploymentArns": [arn] }))["serviceDeployments"]
        [0]
    .clone()
}

#[test]
fn a_deployment_passes_through_its_stages() {
    let service = service().desired(2).deploys([
        steps::pending(),
        steps::progress(1, 1).old_tasks(1),
        steps::succeed(),
    ]);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    let updated = update(&api, &name);
    let id = updated["service"]["deployments"][0]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("ecs-svc/"));
    let before = describe(&api, &name);
    assert_eq!(before["deployments"][0]["rolloutState"], "IN_PROGRESS");
    assert_eq!(before["deployments"][1]["rolloutState"], "COMPLETED");
    let halfway = describe(&api, &name);
    assert_eq!((&halfway["runningCount"], &halfway["pendingCount"]), (&json!(2), &json!(1)));
    assert_eq!(newest(&api, &name)["targetServiceRevision"]["runningTaskCount"], 1);
    let after = describe(&api, &name);
    assert_eq!(after["deployments"].as_array().unwrap().len(), 1);
    assert_eq!(after["deployments"][0]["id"], id.as_str());
    assert_eq!(newest(&api, &name)["status"], "SUCCESSFUL");
    let tasks = ask(&api, "ListTasks", &json!({ "cluster": name, "startedBy": id }));
    let tasks = ask(&api, "DescribeTasks", &json!({ "cluster": name, "tasks": tasks["taskArns"] }));
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(tasks["tasks"][0]["containers"][0]["imageDigest"], "sha256:ab");
    assert_eq!(describe(&api, &name), after);
    update(&api, &name);
    assert_eq!(api.statuses(&name), ["SUCCESSFUL", "SUCCESSFUL"], "nothing changed, and nothing was started");
    let gone = ask(&api, "DescribeServices", &json!({ "cluster": name, "services": ["other"] }));
    assert_eq!(gone["failures"][0]["reason"], "MISSING");
    assert_eq!(api.runs(&name), revision(&name, 2));
    assert_eq!((api.count("ecs:UpdateService"), api.count("ecs:DescribeServices")), (2, 5));
}

/// As `./dev demo` uses it.
#[test]
fn services_of_the_bed_need_time() {
    let name = service().name;
    let service =
        Service::at_bed(&name, &name).deploys(Script::rollout(1.0, 1)).deploys(Script::rollout(0.0, 1));
    assert_eq!((service.definition.clone(), service.desired), (revision(&name, 1), 1));
    let api = EcsApi::of(service);
    update(&api, &name);
    let state = || describe(&api, &name)["deployments"][0]["rolloutState"].as_str().unwrap().to_owned();
    assert_eq!((state(), state()), ("IN_PROGRESS".to_owned(), "IN_PROGRESS".to_owned()));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!((state(), api.runs(&name)), ("COMPLETED".to_owned(), revision(&name, 2)));
    let again = json!({ "cluster": name, "service": name, "forceNewDeployment": true });
    ask(&api, "UpdateService", &again);
    assert_eq!(state(), "COMPLETED");
}

#[test]
fn a_failed_deployment_is_rolled_back_and_its_tasks_remain() {
    let task = TaskOutcome::exited("web", 1).logs("web", &["boom", "bye"]);
    let service = service().deploys([
        steps::fail_task(task),
        steps::rolling_back("too many failures"),
        steps::rolled_back("too many failures"),
    ]);
    let name = service.name.clone();
    let api = EcsApi::of(service);
    update(&api, &name);
    assert_eq!(describe(&api, &name)["deployments"][0]["failedTasks"], 1);
    assert_eq!(newest(&api, &name)["deploymentCircuitBreaker"]["failureCount"], 1);
    let stopped = json!({ "cluster": name, "serviceName": name, "desiredStatus": "STOPPED" });
    let stopped = ask(&api, "ListTasks", &stopped);
    let tasks = ask(&api, "DescribeTasks", &json!({ "cluster": name, "tasks": stopped["taskArns"] }));
    assert_eq!(tasks["tasks"][0]["stopCode"], "EssentialContainerExited");
    let id = tasks["tasks"][0]["taskArn"].as_str().unwrap().rsplit('/').next().unwrap();
    let stream = format!("p/web/{id}");
    let events = |token: Option<&str>| {
        let mut body = json!({ "logGroupName": "/g", "logStreamName": stream, "startFromHead": true });
        if let Some(token) = token {
            body["nextToken"] = json!(token);
        }
        let answer = api_at(&api.endpoint, "logs", "Logs_20140328.GetLogEvents", &body);
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let first = events(None);
    assert_eq!(first["events"][1]["message"], "bye");
    let token = first["nextForwardToken"].as_str().unwrap();
    let second = events(Some(token));
    assert_eq!((&second["events"], &second["nextForwardToken"]), (&json!([]), &json!(token)));
    let rolling = describe(&api, &name);
    assert_eq!(rolling["taskDefinition"], revision(&name, 1));
    assert_eq!(rolling["deployments"][1]["rolloutState"], "FAILED");
    assert_eq!(describe(&api, &name)["deployments"].as_array().unwrap().len(), 1);
    let deployment = newest(&api, &name);
    assert_eq!(deployment["status"], "ROLLBACK_SUCCESSFUL");
    let arn = &deployment["rollback"]["serviceRevisionArn"];
    let found = ask(&api, "DescribeServiceRevisions", &json!({ "serviceRevisionArns": [arn] }));
    assert_eq!(found["serviceRevisions"][0]["taskDefinition"], revision(&name, 1));
}

#[test]
fn deployments_are_stopped_superseded_and_lost() {
    let service = service();
    let (name, first) = (service.name.clone(), service.definition.clone());
    let service = service
        .deploys([steps::progress(0, 1)])
        .deploys([steps::superseded(&first)])
        .deploys([steps::deleted()]);
    let api = EcsApi::of(service);
    update(&api, &name);
    describe(&api, &name);
    let stop = json!({ "serviceDeploymentArn": newest(&api, &name)["serviceDeploymentArn"], "stopType": "ROLLBACK" });
    ask(&api, "StopServiceDeployment", &stop);
    let status = || newest(&api, &name)["status"].as_str().unwrap().to_owned();
    assert_eq!(status(), "ROLLBACK_REQUESTED");
    describe(&api, &name);
    assert_eq!(status(), "ROLLBACK_IN_PROGRESS");
    describe(&api, &name);
    assert_eq!((status().as_str(), api.runs(&name)), ("ROLLBACK_SUCCESSFUL", revision(&name, 1)));
    assert_eq!(ask(&api, "StopServiceDeployment", &stop)["__type"], "ConflictException");
    update(&api, &name);
    describe(&api, &name);
    assert_eq!(api.statuses(&name)[2..], ["STOPPED", "PENDING"]);
    describe(&api, &name);
    describe(&api, &name);
    assert_eq!(api.statuses(&name)[3], "SUCCESSFUL");
    update(&api, &name);
    assert_eq!(describe(&api, &name)["status"], "INACTIVE");
    assert_eq!(describe(&api, &name), Value::Null);
    assert_eq!(update(&api, &name)["__type"], "ServiceNotFoundException");
}

#[test]
fn scripted_failures_of_calls_and_single_tasks() {
    let service = service();
    let name = service.name.clone();
    let api = Scenario::new([service])
        .runs(OneOff::refused("RESOURCE:MEMORY", ""))
        .runs(OneOff::whole("web", &["migrated"], 3))
        .fault(Fault::throttled("ecs:DescribeServices"))
        .fault(Fault::lost("ecs:UpdateService"))
        .fault(Fault::lost("ecs:RegisterTaskDefinition"))
        .fault(Fault::denied("ecs:ListTasks"))
        .start();
    assert_eq!(describe(&api, &name), Value::Null);
    assert_eq!(update(&api, &name)["__type"], "ServerException");
    assert_eq!(describe(&api, &name)["taskDefinition"], revision(&name, 2));
    let web = json!({ "name": "web", "image": "i", "memory": 64 });
    ask(&api, "RegisterTaskDefinition", &json!({ "family": name, "containerDefinitions": [web] }));
    let found = ecs("ListTaskDefinitions", &json!({ "familyPrefix": name }));
    assert_eq!(found["taskDefinitionArns"].as_array().unwrap().len(), 3);
    let denied = ask(&api, "ListTasks", &json!({ "cluster": name }));
    assert!(denied["message"].as_str().unwrap().contains("not authorized to perform: ecs:ListTasks"));
    let run = json!({ "cluster": name, "taskDefinition": revision(&name, 2), "clientToken": "t" });
    assert_eq!(ask(&api, "RunTask", &run)["failures"][0]["reason"], "RESOURCE:MEMORY");
    let task = ask(&api, "RunTask", &run)["tasks"][0]["taskArn"].clone();
    assert_eq!(ask(&api, "RunTask", &run)["tasks"][0]["taskArn"], task);
    let state = || {
        let found = ask(&api, "DescribeTasks", &json!({ "cluster": name, "tasks": [task] }));
        let task = &found["tasks"][0];
        (task["lastStatus"].as_str().unwrap().to_owned(), task["containers"][0]["exitCode"].as_i64())
    };
    for status in ["PROVISIONING", "PENDING", "RUNNING"] {
        assert_eq!(state(), (status.to_owned(), None));
    }
    assert_eq!(state(), ("STOPPED".to_owned(), Some(3)));
    assert_eq!(api.tasks("STOPPED").last().map(String::as_str), task.as_str());
}
