//! `run-task`: one task, its log, its exit code and its end.

use crate::ecs_api::{EcsApi, Fault, OneOff, Scenario, Service, TaskOutcome};
use crate::harness::{Outcome, Project, eventually, log_configuration};
use indoc::formatdoc;
use serde_json::json;

/// A project that registers a revision and runs it once, as the service's tasks run.
fn project(service: &Service, options: &str) -> Project {
    let (cluster, name) = (&service.cluster, &service.name);
    let log = log_configuration();
    let definition = json!({ "family": name, "containerDefinitions": [
        { "name": "web", "image": "new", "memory": 64, "logConfiguration": log },
        { "name": "side", "image": "side", "memory": 64, "essential": false }] });
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        phases:
          post_build:
            steps:
              - task-definition: {{ file: td.json }}
              - run-task: {{ cluster: {cluster}, service: {name}, container: web, command: [./migrate, "--to=x"], environment: {{ A: "" }}{options} }}
    "#})
    .file("td.json", definition.to_string())
}

fn played(task: OneOff, options: &str, faults: &[Fault]) -> (Outcome, EcsApi) {
    let service = Service::fresh().fargate();
    let scenario = Scenario::new([service.clone()]).runs(task);
    let ecs = faults.iter().cloned().fold(scenario, Scenario::fault).start();
    (project(&service, options).runner("run --publish").on(&ecs).run(), ecs)
}

/// With responses in place of the stand-in's own.
pub fn played_with(
    task: OneOff,
    also: impl FnMut(&str, &str) -> Option<(u16, String)> + Send + 'static,
) -> (Outcome, EcsApi) {
    let service = Service::fresh().fargate();
    let ecs = Scenario::new([service.clone()]).runs(task).also(also).start();
    (project(&service, "").runner("run --publish").on(&ecs).run(), ecs)
}

#[test]
fn a_task_runs_as_the_services_do_and_its_log_is_shown() {
    let (outcome, ecs) = played(OneOff::whole("web", &["migrating", "3 tables migrated"], 0), "", &[]);
    let outcome = outcome.exits(0).says("\nmigrating\n").says("3 tables migrated").has_line(&["ran", "web"]);
    assert_eq!(outcome.stdout.matches("migrating").count(), 1, "{outcome}");
    let asked = &ecs.calls("ecs:RunTask")[0];
    assert_eq!(asked["launchType"], "FARGATE");
    assert_eq!(asked["networkConfiguration"]["awsvpcConfiguration"]["subnets"], json!(["subnet-1"]));
    assert_eq!(
        asked["overrides"]["containerOverrides"],
        json!([{ "name": "web", "command": ["./migrate", "--to=x"], "environment": [{ "name": "A", "value": "" }] }])
    );
    assert!(asked["taskDefinition"].as_str().unwrap().ends_with(":2"), "{asked}");
}

#[test]
fn its_exit_code_decides() {
    let (outcome, _) = played(OneOff::whole("web", &["no such table"], 3), "", &[]);
    outcome.exits(1).says("no such table").ends_with("container `web` ended with exit code 3");
    // What ends it from outside is no success, whatever it exits with.
    let ended = TaskOutcome::stopped("UserInitiated", "Task stopped by user").exit("web", 0);
    played(OneOff::starts().ends(ended), "", &[]).0.exits(1).ends_with("the task failed");
    let gone = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref r.example/x:1: r.example/x:1: not found";
    let task = OneOff::starts().ends(TaskOutcome::stopped("TaskFailedToStart", gone));
    played(task, "", &[]).0.exits(1).ends_with("push the image first");
    // Of what AWS adds to a task nothing is asked; without `container` all that are essential decide.
    let guarded = TaskOutcome::exited("web", 0).reason("aws-guardduty-agent", "it was stopped with the task");
    let service = Service::fresh().fargate();
    let project = project(&service, "");
    let text = project
        .read("pipeline.yml")
        .replace("container: web, command: [./migrate, \"--to=x\"], environment: { A: \"\" }", "wait: 1m");
    let ecs = Scenario::new([service]).runs(OneOff::starts().ends(guarded)).start();
    project.file("pipeline.yml", text).runner("run --publish").on(&ecs).run().exits(0);
}

#[test]
fn a_task_that_cannot_start_is_explained() {
    let (outcome, _) = played(OneOff::refused("RESOURCE:MEMORY", ""), "", &[]);
    outcome.exits(3).ends_with("no container instance has enough memory left (RESOURCE:MEMORY)");
    let service = Service::fresh();
    let project = project(&service, "").file(
        "pipeline.yml",
        formatdoc! {"
            version: 1
            name: t
            phases:
              build:
                steps:
                  - task-definition: {{ file: td.json }}
                  - run-task: {{ cluster: {0}, service: {0}, container: wbe, command: x }}
        ", service.name},
    );
    let outcome = project.runner("validate").run().exits(2);
    outcome.complains("pipeline.yml:7:").complains("has no container `wbe`").complains("did you mean `web`?");
    let ecs = EcsApi::of(service);
    project.runner("run --publish").on(&ecs).run().exits(2).ends_with("has no container `wbe`");
    assert_eq!(ecs.count("ecs:RunTask"), 0);
}

#[test]
fn a_task_that_takes_too_long_is_stopped() {
    let task = OneOff::starts().runs("web", &["waiting"]);
    let (outcome, ecs) = played(task.clone(), ", wait: 1s", &[]);
    outcome.exits(7).says("waiting").ends_with("the task took longer than 1s and was stopped");
    assert_eq!(ecs.count("ecs:StopTask"), 1);
    let service = Service::fresh().fargate();
    let project = project(&service, "");
    let ecs = Scenario::new([service]).runs(task).start();
    let running = project.runner("run --publish").on(&ecs).start();
    eventually(|| ecs.count("ecs:DescribeTasks") > 2, "it never ran");
    running.signal("TERM");
    running.finish().exits(143).says("was stopped");
    assert_eq!(ecs.count("ecs:StopTask"), 1);
    // What could not be stopped is not said to be.
    let (outcome, _) =
        played(OneOff::starts().runs("web", &["x"]), ", wait: 1s", &[Fault::denied("ecs:StopTask")]);
    outcome.exits(7).says("could not stop the task").ends_with("continues, because it could not be stopped");
}

#[test]
fn one_task_is_started_despite_failed_calls() {
    let task = OneOff::whole("web", &["done"], 0);
    for fault in [
        Fault::lost("ecs:RunTask"),
        Fault::throttled("ecs:RunTask"),
        Fault::garbage("ecs:RunTask"),
        Fault::server_error("ecs:DescribeTasks").at([2, 3, 4]),
        Fault::garbage("logs:GetLogEvents"),
    ] {
        let (outcome, ecs) = played(task.clone(), "", &[fault]);
        outcome.exits(0).says("\ndone\n");
        assert_eq!(ecs.tasks("STOPPED").len(), 1);
    }
    // Without its log the task is waited for all the same.
    let (outcome, _) = played(task, "", &[Fault::denied("logs:GetLogEvents")]);
    outcome.exits(0).says("warning: could not read the log of web");
}

#[test]
fn local_mode_writes_what_would_run() {
    let service = Service::new("prod", "webapp", "webapp:1");
    let project = project(&service, "");
    project.runner("run").run().exits(0).has_line(&["planned", "webapp"]);
    let planned = project.json(".runner/ecs/run-task-prod-webapp.json");
    assert_eq!(planned["command"], json!(["./migrate", "--to=x"]));
    assert_eq!(planned["environment"], json!({ "A": "" }));
    // A second task of the family does not take the first one's file.
    let text = project.read("pipeline.yml");
    let last = text.lines().last().unwrap();
    std::fs::write(project.path("pipeline.yml"), format!("{text}{}\n", last.replace("./migrate", "./seed")))
        .unwrap();
    project.runner("run").run().exits(0);
    assert_eq!(project.json(".runner/ecs/run-task-prod-webapp.json")["command"][0], "./migrate");
    assert_eq!(project.json(".runner/ecs/run-task-prod-webapp-2.json")["command"][0], "./seed");
}
