//! Services that AWS `CodeDeploy` deploys: the exit code, the sentence and the calls of each.

mod stage;

use crate::ecs_api::{Fault, revision};
use crate::harness::{Project, eventually, unique};
use indoc::indoc;
use serde_json::{Value, json};
use stage::{Look, Play, Played, Stage, look};
use std::cmp::Ordering;

const ALL: [&str; 6] =
    ["BeforeInstall", "Install", "AfterInstall", "BeforeAllowTraffic", "AllowTraffic", "AfterAllowTraffic"];

/// The stages until this one is in progress.
fn until(stage: &str) -> Vec<(&'static str, &'static str)> {
    let at = ALL.iter().position(|own| *own == stage).unwrap_or(ALL.len());
    let status = |number: usize| match number.cmp(&at) {
        Ordering::Less => "Succeeded",
        Ordering::Equal => "InProgress",
        Ordering::Greater => "Pending",
    };
    ALL.iter().enumerate().map(|(number, name)| (*name, status(number))).collect()
}

fn on_its_way() -> Vec<Look> {
    vec![
        look("Created"),
        look("Queued"),
        look("InProgress").events(&until("Install")).green(0, 0.0),
        look("InProgress").events(&until("AllowTraffic")).green(1, 10.0),
    ]
}

/// The whole way.
fn success() -> Vec<Look> {
    let more = [
        look("InProgress").events(&until("")).green(1, 100.0).keeps(),
        look("Baking").events(&until("")).green(1, 100.0).keeps(),
        look("Succeeded").events(&until("")).green(1, 100.0),
    ];
    on_its_way().into_iter().chain(more).collect()
}

/// In progress until it is stopped.
fn stuck() -> Vec<Look> {
    vec![look("Created"), look("InProgress").events(&until("Install")).green(0, 0.0)]
}

fn stopped() -> Look {
    look("Stopped").error("MANUAL_STOP", "The deployment was stopped.")
}

#[test]
fn a_deployment_is_followed_through_all_its_stages() {
    let play = Play::of("wait: 30s", vec![Played::new(success())]);
    let outcome = play.run().exits(0);
    let name = &play.stage.lock().unwrap().name.clone();
    outcome
        .says(&format!("{name}:2 is being deployed by CodeDeploy: d-PLAYED000"))
        .says("BeforeInstall succeeded")
        .says("AllowTraffic in progress")
        .says("AfterAllowTraffic succeeded")
        .says("in progress · 1 of 1 running · 10 % of the traffic")
        .says("the earlier tasks are kept for 60 min")
        .has_line(&["  deployed", &format!("{name}:2")]);
    let asked = &play.api.calls("codedeploy:CreateDeployment")[0];
    assert_eq!(
        (&asked["applicationName"], &asked["deploymentGroupName"]),
        (&json!("APPLICATION"), &json!("GROUP"))
    );
    assert!(asked["description"].as_str().unwrap().starts_with("webapp, build "), "{asked}");
    assert_eq!(asked["autoRollbackConfiguration"]["enabled"], true);
    let content: Value =
        serde_json::from_str(asked["revision"]["appSpecContent"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(
        content["Resources"][0]["TargetService"]["Properties"],
        json!({ "TaskDefinition": revision(name, 2), "LoadBalancerInfo": { "ContainerName": "web", "ContainerPort": 8080 }, "PlatformVersion": "1.4.0" })
    );
    assert_eq!(play.api.count("ecs:UpdateService") + play.api.count("ecs:ListServiceDeployments"), 0);
    // What it runs is what its primary set of tasks runs.
    play.run().exits(0).has_line(&["unchanged", &format!("{name}:2")]);
    assert_eq!(play.made(), 1);
}

#[test]
fn a_failure_that_codedeploy_rolls_back() {
    let mut events = until("AfterInstall");
    events[2].1 = "Failed";
    let failed = look("Failed")
        .events(&events)
        .green(1, 0.0)
        .error("HOOK_EXECUTION_FAILURE", "A lifecycle hook has failed.");
    let looks = [on_its_way()[..3].to_vec(), vec![failed.clone(), failed.back(1)]].concat();
    let back = Played::rollback([
        look("Created"),
        look("InProgress").events(&until("AllowTraffic")),
        look("Succeeded"),
    ]);
    for options in ["wait: 30s", "wait: 30s, on-failure: leave"] {
        let looks = Played::new(looks.clone());
        let back = Played { looks: back.looks.clone(), ..Played::rollback([]) };
        let play = Play::of(options, vec![looks, back]);
        // Without a word of the pipeline the group decides.
        let is_ours = !options.contains("leave");
        let outcome = play.run().exits(5);
        outcome
            .says("AfterInstall failed: the hook said no")
            .says("CodeDeploy rolls back: d-PLAYED001")
            .ends_with("failed and was rolled back to")
            .ends_with("HOOK_EXECUTION_FAILURE: A lifecycle hook has failed");
        let asked = &play.api.calls("codedeploy:CreateDeployment")[0];
        assert_eq!(asked.get("autoRollbackConfiguration").is_some(), is_ours);
        assert_eq!(play.api.count("codedeploy:StopDeployment"), 0);
    }
}

#[test]
fn a_failure_without_a_rollback() {
    let failed = look("Failed").green(1, 0.0).error("ECS_UPDATE_ERROR", "The service could not be updated.");
    let looks = || [on_its_way()[..3].to_vec(), vec![failed.clone()]].concat();
    let own = Played { rolls_back: false, ..Played::new(looks()) };
    let play = Play::of("wait: 30s, on-failure: leave", vec![own]);
    let outcome = play.run().exits(6);
    outcome
        .ends_with("failed and was not rolled back: ECS_UPDATE_ERROR")
        .ends_with("aws deploy get-deployment --deployment-id d-PLAYED000");
    assert_eq!(play.api.count("codedeploy:StopDeployment"), 0);
    // It failed before anything was touched, when there is nothing to roll back.
    let set = json!({ "id": "ecs-svc/1", "status": "PRIMARY", "externalId": "d-BEFORE" });
    let play = Play::new(
        "wait: 30s",
        vec![Played::new(looks())],
        |stage| {
            let mut set = set;
            set["taskDefinition"] = json!(revision(&stage.name, 1));
            stage.more = json!({ "taskSets": [set], "loadBalancers": [{ "targetGroupArn": "arn:g", "containerName": "web", "containerPort": 8080 }] });
        },
        Vec::new(),
    );
    play.run().exits(5).says("the service runs only tasks of the previous revision");
    // The rollback fails as well.
    let back = Played::rollback([look("InProgress"), look("Failed")]);
    let failed = failed.clone().back(1);
    let looks = [on_its_way()[..3].to_vec(), vec![failed]].concat();
    let play = Play::of("wait: 30s", vec![Played::new(looks), back]);
    play.run().exits(6).ends_with("and so did the rollback");
}

#[test]
fn failed_tasks_are_explained() {
    let back = Played::rollback([look("Succeeded")]);
    let own = Played::new(stuck()).when_stopped([stopped(), stopped().back(1)]);
    let reason = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref docker.io/library/new:latest: docker.io/library/new:latest: not found";
    let play = Play::new(
        "wait: 30s",
        vec![own, back],
        |stage| stage.stopped = Some(("TaskFailedToStart", reason, 0)),
        Vec::new(),
    );
    let outcome = play.run().exits(5);
    outcome.says("a task failed: ").ends_with("failed and was rolled back to").ends_with("image `new`");
    assert_eq!(
        play.api.calls("codedeploy:StopDeployment"),
        [json!({ "deploymentId": "d-PLAYED000", "autoRollbackEnabled": true })]
    );
}

#[test]
fn a_deployment_that_takes_too_long() {
    let back = Played::rollback([look("InProgress"), look("Succeeded")]);
    let ending = [look("InProgress"), stopped(), stopped().back(1)];
    let play = Play::of("wait: 1s", vec![Played::new(stuck()).when_stopped(ending), back]);
    play.run().exits(5).ends_with("failed and was rolled back to").ends_with("it took longer than 1s");
    assert_eq!(play.api.count("codedeploy:StopDeployment"), 1);

    let play = Play::of("wait: 1s, on-failure: leave", vec![Played::new(stuck())]);
    play.run().exits(7).ends_with("is still deploying: it took longer than 1s");
    assert_eq!(play.api.count("codedeploy:StopDeployment"), 0);

    // It was through a moment before it could be stopped.
    let play = Play::of("wait: 1s", vec![Played::new(stuck()).when_stopped([look("Succeeded")])]);
    play.run().exits(0).says("\n  deployed ");

    // All that is left is the end of the earlier tasks.
    let looks = success()[..5].to_vec();
    let play = Play::of("wait: 1s", vec![Played::new(looks)]);
    play.run().exits(0).says("will finish when the earlier tasks end").says("\n  deployed ");
    assert_eq!(play.api.count("codedeploy:StopDeployment"), 0);
}

#[test]
fn another_deployment_is_under_way() {
    let other = || Played { age: -60.0, ..Played::new([look("InProgress")]) };
    let play = Play::new(
        "wait: 30s",
        vec![Played::new(success()), other()],
        |stage| stage.active = Some(1),
        Vec::new(),
    );
    let outcome = play.run().exits(1);
    outcome
        .ends_with("APPLICATION/GROUP has another running deployment, d-PLAYED001 (in progress, another pipeline, since ")
        .ends_with("aws deploy stop-deployment --deployment-id d-PLAYED001");
    assert_eq!(play.made(), 0);
    // One that brings the same is followed.
    let play = Play::of("wait: 30s", vec![Played::new(success())]);
    play.run().exits(0);
    let asked =
        play.api.calls("codedeploy:CreateDeployment")[0]["revision"]["appSpecContent"]["sha256"].clone();
    let family = play.stage.lock().unwrap().definition.clone();
    let again = Play::new(
        "wait: 30s",
        vec![Played { sha256: asked, ..Played::new(success()) }, other()],
        |stage| {
            stage.definition = family.clone();
            stage.active = Some(0);
        },
        Vec::new(),
    );
    let content = play.project.read("td.json");
    let again = Play { project: again.project.file("td.json", content), ..again };
    again.run().exits(0).says("is already being deployed by d-PLAYED000; following it").says("\n  deployed ");
    assert_eq!(again.made(), 0);
}

#[test]
fn another_deployment_supersedes_it() {
    let other = Played { age: 30.0, ..Played::new([look("InProgress")]) };
    let looks = [on_its_way(), vec![stopped()]].concat();
    let play = Play::of("wait: 30s", vec![Played::new(looks), other]);
    play.run()
        .exits(8)
        .ends_with("was superseded by another one: the deployment d-PLAYED001 was created in the meantime");
}

#[test]
fn a_lost_response_starts_no_second_deployment() {
    for fault in [Fault::lost("codedeploy:CreateDeployment"), Fault::garbage("codedeploy:CreateDeployment")] {
        let play = Play::new("wait: 30s", vec![Played::new(success())], |_| {}, vec![fault]);
        play.run().exits(0).says("\n  deployed ");
        assert_eq!(play.made(), 1);
    }
    // Nothing has happened: it is asked for once more.
    for fault in
        [Fault::server_error("codedeploy:CreateDeployment"), Fault::throttled("codedeploy:CreateDeployment")]
    {
        let play = Play::new("wait: 30s", vec![Played::new(success())], |_| {}, vec![fault.at([1, 2])]);
        play.run().exits(0).says("retrying: ").says("\n  deployed ");
        assert_eq!((play.made(), play.api.count("codedeploy:CreateDeployment")), (1, 3));
    }
}

#[test]
fn failed_calls_during_a_deployment() {
    let all = |action: &str| Fault::throttled(action).at(2..8);
    let play = Play::new(
        "wait: 60s",
        vec![Played::new(success())],
        |_| {},
        vec![Fault::garbage("codedeploy:GetDeployment").at(1..6)],
    );
    play.run().exits(0).says("retrying: ").says("\n  deployed ");
    for action in ["codedeploy:GetDeployment", "codedeploy:ListDeploymentTargets", "ecs:DescribeServices"] {
        let play = Play::new("wait: 60s", vec![Played::new(success())], |_| {}, vec![all(action)]);
        play.run().exits(0).says("\n  deployed ");
        assert_eq!(play.made(), 1, "{action}");
    }
    let denied = ["codedeploy:GetDeploymentGroup", "codedeploy:BatchGetDeploymentTargets", "ecs:ListTasks"];
    for action in denied {
        let play = Play::new(
            "wait: 30s",
            vec![Played::new(success())],
            |stage| stage.stopped = Some(("EssentialContainerExited", "x", 1)),
            vec![Fault::denied(action)],
        );
        play.run().exits(0).says(action).says("\n  deployed ");
    }
    let play = Play::new(
        "wait: 30s",
        vec![Played::new(success())],
        |_| {},
        vec![Fault::denied("codedeploy:GetDeployment")],
    );
    play.run().exits(3).ends_with("cannot follow it").ends_with("codedeploy:GetDeployment");
}

#[test]
fn a_run_that_is_stopped_rolls_back_or_leaves() {
    for (options, stops) in [("wait: 60s", 1), ("wait: 60s, on-failure: leave", 0)] {
        let own = Played::new(stuck()).when_stopped([stopped()]);
        let play = Play::of(options, vec![own]);
        let running = play.call().start();
        eventually(|| play.api.count("codedeploy:GetDeployment") > 2, "it never followed");
        running.signal("TERM");
        let outcome = running.finish().exits(143);
        let says = if stops == 1 {
            "the run was stopped; CodeDeploy rolls back without runner"
        } else {
            "d-PLAYED000 of"
        };
        outcome.says(says);
        assert_eq!(play.api.count("codedeploy:StopDeployment"), stops);
    }
}

#[test]
fn impossible_deployments_are_refused_before_they_start() {
    let play = Play::new(
        "wait: 30s",
        vec![Played::new(success())],
        |stage| stage.name = "other".to_owned(),
        Vec::new(),
    );
    play.run().exits(2).ends_with("APPLICATION/GROUP deploys to other/other, not to ");
    let more = |value: Value| move |stage: &mut Stage| stage.more = value;
    let by_ecs = json!({ "deploymentController": { "type": "ECS" } });
    Play::new("wait: 30s", vec![Played::new(success())], more(by_ecs), Vec::new())
        .run()
        .exits(2)
        .ends_with("is not deployed by CodeDeploy");
    let wrong = json!({ "loadBalancers": [{ "targetGroupArn": "arn:g", "containerName": "web", "containerPort": 80 }] });
    let play = Play::new("wait: 30s", vec![Played::new(success())], more(wrong), Vec::new());
    play.run().exits(3).ends_with("port 80 of the container `web`");
    assert_eq!(play.made(), 0);
    let pipeline = play.project.read("pipeline.yml").replace("group: GROUP", "group: GUORP");
    let play = Play { project: play.project.file("pipeline.yml", pipeline), ..play };
    play.run().exits(3).ends_with("there is no deployment group of CodeDeploy `APPLICATION/GUORP`");
}

#[test]
fn the_policy_allows_every_call() {
    let back = Played::rollback([look("Succeeded")]);
    let own = Played::new(stuck()).when_stopped([stopped().back(1)]);
    let play = Play::new(
        "wait: 1s",
        vec![own, back],
        |stage| stage.stopped = Some(("EssentialContainerExited", "x", 1)),
        vec![Fault::lost("codedeploy:CreateDeployment")],
    );
    play.run().exits(5);
    let policy = play.project.runner("iam --region us-east-1 --account 123456789012").run().exits(0);
    let policy: Value = serde_json::from_str(&policy.stdout).unwrap();
    crate::policy::allows_all(&policy, &play.api.aws.calls());
}

#[test]
fn local_mode_writes_the_request() {
    let name = unique("local");
    let file = json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "x" }] });
    let project = Project::new(indoc! {r"
        version: 1
        name: webapp
        phases: { post_build: { steps: [{ task-definition: { file: td.json } }, { deploy: { cluster: c, service: s, code-deploy: { application: a, group: g } } }] } }
    "})
    .file("td.json", file.to_string());
    project.runner("run").run().exits(0).says("planned");
    let planned = project.json(".runner/ecs/deploy-c-s.json");
    assert_eq!(planned["codeDeploy"]["applicationName"], "a");
    let content = planned["codeDeploy"]["revision"]["appSpecContent"]["content"].as_str().unwrap();
    assert!(content.contains(&format!("\"TaskDefinition\":\"{name}\"")), "{content}");
}
