//! Deployments whose state is in doubt for a moment: new things that AWS does not know yet, and single odd responses.

use crate::deployments::{BROKEN, WAIT, project, publish};
use crate::ecs_api::{EcsApi, Fault, OneOff, Scenario, Service, Step, TaskOutcome, revision, steps};
use crate::harness::revisions;
use serde_json::{Value, json};

/// Findings, D2: AWS knows what this run has made only after a moment. Every call that names it waits.
#[test]
fn a_new_revision_that_ecs_does_not_know_yet_is_waited_for() {
    for (action, code, message, nth) in [
        ("ecs:DescribeTaskDefinition", "ClientException", "Unable to describe task definition.", 1),
        ("ecs:UpdateService", "ClientException", "TaskDefinition not found.", 1),
        (
            "ecs:UpdateService",
            "InvalidParameterException",
            "The specified task definition does not exist.",
            1,
        ),
        ("ecs:DescribeTaskDefinition", "ClientException", "Unable to describe task definition.", 5),
    ] {
        let service = Service::fresh().deploys([steps::progress(0, 1), steps::succeed()]);
        let project = project(&[&service], WAIT);
        let new = format!("{}:2", service.name);
        let mut refused = 0;
        let scenario = Scenario::new([service.clone()]).also(move |called, body| {
            let is_it = called == action && body.contains(&new) && refused < nth;
            refused += usize::from(is_it);
            is_it.then(|| (400, json!({ "__type": code, "message": message }).to_string()))
        });
        let ecs = scenario.start();
        publish(&project, &ecs).exits(0).has_line(&["deployed", &service.name]);
        assert_eq!(ecs.runs(&service.name), revision(&service.name, 2));
        assert_eq!((revisions(&service.name), ecs.count("ecs:RegisterTaskDefinition")), (2, 1));
    }
    // What the run has not made is missing, and said to be.
    let service = Service::fresh();
    let ecs = EcsApi::of(service.clone());
    let family = format!("{}-never", service.name);
    let step = format!("{{ family: {family} }}");
    let missing = crate::ecs::project(&step);
    missing.runner("run --publish").on(&ecs).run().exits(3).ends_with("there is no task definition");
    assert_eq!(ecs.count("ecs:DescribeTaskDefinition"), 1);
}

/// Findings, D2: the same for a service deployment and its revision, which ECS lists before it describes them.
#[test]
fn a_service_deployment_that_ecs_does_not_know_yet_is_waited_for() {
    for action in ["ecs:DescribeServiceDeployments", "ecs:DescribeServiceRevisions"] {
        let service = Service::fresh().circuit_breaker(true, true).deploys(
            [vec![steps::progress(0, 1); 8], vec![steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)]]
                .concat(),
        );
        let project = project(&[&service], WAIT);
        let mut refused = 0;
        let scenario = Scenario::new([service.clone()]).also(move |called, body| {
            // The first look at revisions is for the last successful one.
            let is_it = called == action
                && refused < 6
                && (action != "ecs:DescribeServiceRevisions" || {
                    refused += 1;
                    refused > 1
                });
            refused += usize::from(is_it && action != "ecs:DescribeServiceRevisions");
            let asked: Value = serde_json::from_str(body).unwrap_or_default();
            let arns = asked["serviceDeploymentArns"].as_array().or(asked["serviceRevisionArns"].as_array());
            let failures: Vec<Value> =
                arns.into_iter().flatten().map(|arn| json!({ "arn": arn, "reason": "MISSING" })).collect();
            is_it.then(|| {
                (
                    200,
                    json!({ "serviceDeployments": [], "serviceRevisions": [], "failures": failures })
                        .to_string(),
                )
            })
        });
        let ecs = scenario.start();
        // Only the service deployment has the reason of the rollback.
        publish(&project, &ecs).exits(5).ends_with("circuit breaker threshold was exceeded");
        assert!(ecs.count(action) > 6, "{action}");
    }
}

/// Findings, D2: a task that was just started.
#[test]
fn a_new_task_that_ecs_does_not_know_yet_is_waited_for() {
    for count in [1, 8] {
        let mut left = count;
        let unknown = move |called: &str, body: &str| {
            if called != "ecs:DescribeTasks" || left == 0 {
                return None;
            }
            left -= 1;
            let asked: Value = serde_json::from_str(body).unwrap();
            let failures = json!([{ "arn": asked["tasks"][0], "reason": "MISSING" }]);
            Some((200, json!({ "tasks": [], "failures": failures }).to_string()))
        };
        let (outcome, ecs) = crate::run_task::played_with(OneOff::whole("web", &["done"], 0), unknown);
        outcome.exits(0).says("\ndone\n");
        assert_eq!(ecs.count("ecs:RunTask"), 1);
    }
}

/// Findings, D2: a second step of the same family is not misled by the family's revision before.
#[test]
fn a_family_whose_new_revision_is_not_shown_yet_gets_no_second_one() {
    let service = Service::fresh();
    let family = service.name.clone();
    let old = crate::harness::ecs("DescribeTaskDefinition", &json!({ "taskDefinition": family }));
    for answer in [
        (200, old.to_string()),
        (
            400,
            json!({ "__type": "ClientException", "message": "Unable to describe task definition." })
                .to_string(),
        ),
    ] {
        let own = family.clone();
        let scenario = Scenario::new([service.clone()]).also(move |called, body| {
            let asked: Value = serde_json::from_str(body).unwrap_or_default();
            (called == "ecs:DescribeTaskDefinition" && asked["taskDefinition"] == own).then(|| answer.clone())
        });
        let ecs = scenario.start();
        let before = revisions(&family);
        let file = json!({ "family": family, "containerDefinitions": [{ "name": "web", "image": format!("new-{before}"), "memory": 64 }] });
        let project = crate::harness::Project::phases(
            "build: { steps: [{ task-definition: { file: td.json } }, { task-definition: { file: td.json } }] }\n",
        );
        project.file("td.json", file.to_string()).runner("run --publish").on(&ecs).run().exits(0);
        assert_eq!((revisions(&family), ecs.count("ecs:RegisterTaskDefinition")), (before + 1, 1));
    }
}

/// Findings, D9: nothing final follows from one response.
#[test]
fn one_response_that_something_is_missing_is_not_believed() {
    let missing = |asked: &Value| {
        let arn = asked["services"][0].clone();
        json!({ "services": [], "failures": [{ "arn": arn, "reason": "MISSING" }] }).to_string()
    };
    let refusal = |code: &str| json!({ "__type": code, "message": "Service not found." }).to_string();
    for (action, call, status, code) in [
        ("ecs:DescribeServices", 3, 200, ""),
        ("ecs:DescribeServices", 4, 400, "ClusterNotFoundException"),
        ("ecs:UpdateService", 1, 400, "ServiceNotFoundException"),
        ("ecs:UpdateService", 1, 400, "ServiceNotActiveException"),
    ] {
        let service =
            Service::fresh().deploys([vec![steps::progress(0, 1); 6], vec![steps::succeed()]].concat());
        let project = project(&[&service], WAIT);
        let mut count = 0;
        let scenario = Scenario::new([service.clone()]).also(move |called, body| {
            count += usize::from(called == action);
            let body = || match code {
                "" => missing(&serde_json::from_str(body).unwrap()),
                code => refusal(code),
            };
            (called == action && count == call).then(|| (status, body()))
        });
        let ecs = scenario.start();
        publish(&project, &ecs).exits(0).has_line(&["deployed", &service.name]);
        assert_eq!(ecs.runs(&service.name), revision(&service.name, 2));
    }
}

/// Findings, D17: if service deployments may not be listed, a rollback by ECS is still a rollback.
#[test]
fn a_rollback_by_ecs_is_recognised_without_service_deployments() {
    let rolled_back = [steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)];
    for (steps, breaker) in [
        ([vec![steps::progress(0, 1); 2], rolled_back.to_vec()].concat(), true),
        // Between two polls.
        ([vec![steps::progress(0, 1); 2], rolled_back[1..].to_vec()].concat(), true),
        (
            [vec![steps::progress(0, 1); 2], vec![steps::alarmed("errors"), steps::rolled_back("alarm")]]
                .concat(),
            false,
        ),
    ] {
        let service = Service::fresh().circuit_breaker(breaker, breaker).deploys(steps);
        let denied = Fault::denied("ecs:ListServiceDeployments");
        // The events that announce a rollback may have been cut off.
        let scenario = Scenario::new([service.clone()]).fault(denied);
        let ecs = scenario.start();
        publish(&project(&[&service], WAIT), &ecs).exits(5).ends_with("was rolled back to");
        assert_eq!(ecs.runs(&service.name), revision(&service.name, 1));
    }
}

/// Findings, D17: a new deployment of the earlier revision is someone else's, unless ECS had a reason to roll back.
/// Without service deployments, one after failed tasks may be either, and is a rollback in effect.
#[test]
fn a_deployment_of_the_earlier_revision_by_someone_else_supersedes() {
    let case = |first: Step, faults: Vec<Fault>| {
        let service = Service::fresh();
        let replaced = steps::superseded(&revision(&service.name, 1));
        let service = service.circuit_breaker(false, false);
        let service = service.deploys([first, replaced, steps::progress(0, 1), steps::succeed()]);
        let scenario = faults.into_iter().fold(Scenario::new([service.clone()]), Scenario::fault);
        publish(&project(&[&service], WAIT), &scenario.start())
    };
    let quiet = || steps::progress(0, 1);
    let failing = || steps::fail_task(TaskOutcome::exited("web", 1));
    let denied = || vec![Fault::denied("ecs:ListServiceDeployments")];
    let says = "was superseded by another one";
    case(quiet(), denied()).exits(8).ends_with(says);
    case(quiet(), Vec::new()).exits(8).ends_with(says);
    case(failing(), Vec::new()).exits(8).ends_with(says);
    case(failing(), denied()).exits(5).ends_with("was rolled back to");
}

/// Findings, D12: a service that is being deleted is refused before anything is registered.
#[test]
fn a_service_that_is_being_deleted_is_refused() {
    let service = Service::fresh().with("status", json!("DRAINING"));
    let ecs = EcsApi::of(service.clone());
    let command = |call: &str| {
        let call = format!("ecs {call} --cluster {0} --service {0}", service.name);
        crate::harness::Project::phases("build: { steps: [] }\n").runner(&call).on(&ecs).run()
    };
    for call in ["deploy --image web=new", "deploy --dry-run --image web=new", "rollback"] {
        command(call).exits(3).complains("is being deleted: its status is DRAINING");
    }
    let base = format!(
        "{{ service: {{ cluster: {0}, name: {0} }}, containers: {{ web: {{ cpu: 1 }} }} }}",
        service.name
    );
    let run = crate::ecs::project(&base).runner("run --publish").on(&ecs).run();
    run.exits(3).ends_with("is being deleted: its status is DRAINING");
    assert_eq!((revisions(&service.name), ecs.count("ecs:UpdateService")), (1, 0));
}

/// Findings, D12: also if the revision comes from a file and the service is only named by a later step.
#[test]
fn nothing_is_registered_for_a_service_that_is_going_or_gone() {
    let run = |status: &str, steps: &str, arguments: &str, exit: i32, registered: usize| {
        let service = Service::fresh().with("status", json!(status));
        let ecs = EcsApi::of(service.clone());
        let file = json!({ "family": service.name, "containerDefinitions": [{ "name": "web", "image": "new", "memory": 64 }] });
        let project = crate::harness::Project::phases(&steps.replace("SERVICE", &service.name));
        let project = project.file("td.json", file.to_string());
        let outcome = project.runner(&format!("run --publish {arguments}")).on(&ecs).run().exits(exit);
        assert_eq!(ecs.count("ecs:RegisterTaskDefinition"), registered, "{outcome}");
        outcome
    };
    let (base, deploy) =
        ("{ task-definition: { file: td.json } }", "deploy: { cluster: SERVICE, service: SERVICE }");
    let directly = format!("build: {{ steps: [{base}, {{ {deploy} }}] }}\n");
    let later = format!("build: {{ steps: [{base}] }}\npost_build: {{ steps: [{{ {deploy} }}] }}\n");
    let after_run = format!("build: {{ steps: [{base}, {{ run: 'true' }}, {{ {deploy} }}] }}\n");
    let going = "is being deleted: its status is DRAINING";
    for (steps, arguments) in [(&directly, ""), (&later, "--phase build"), (&after_run, "")] {
        run("DRAINING", steps, arguments, 3, 0).ends_with(going);
    }
    run("INACTIVE", &directly, "", 3, 0).ends_with("there is no service");
    // A command may create it, also one of the buildspec between two phases.
    run("INACTIVE", &after_run, "", 3, 1).ends_with("there is no service");
    run("INACTIVE", &later, "--phase build", 0, 1);
    // Steps that do not deploy this family in this build do not count.
    for other in [
        format!("{deploy}, when: failure"),
        format!("{deploy}, only: {{ events: [tag] }}"),
        deploy.replace("service: SERVICE", "service: SERVICE, task-definition: another"),
    ] {
        let steps = directly.replace(deploy, &other);
        let exit = if other.contains("another") { 2 } else { 0 };
        run("DRAINING", &steps, "", exit, 1);
    }
    // Without the permission to look, the step that deploys decides.
    let service = Service::fresh();
    let scenario = Scenario::new([service.clone()]).fault(Fault::denied("ecs:DescribeServices"));
    let ecs = scenario.start();
    let file = json!({ "family": service.name, "containerDefinitions": [{ "name": "web", "image": "new", "memory": 64 }] });
    let project = crate::harness::Project::phases(&directly.replace("SERVICE", &service.name));
    let project = project.file("td.json", file.to_string());
    let outcome = project.runner("run --publish").on(&ecs).run().exits(3);
    outcome.ends_with("AWS denies ecs:DescribeServices");
    assert_eq!(ecs.count("ecs:RegisterTaskDefinition"), 1);
}

/// Findings, D15.
#[test]
fn a_service_without_tasks_is_reported_as_such() {
    let service = Service::fresh().desired(0);
    let ecs = EcsApi::of(service.clone());
    let says = "but no task was started: its desired count is 0";
    publish(&project(&[&service], WAIT), &ecs).exits(0).says(says);
    publish(&project(&[&service], WAIT), &ecs).exits(0).says(says);
    let call = format!("ecs deploy --cluster {0} --service {0} --image web=third", service.name);
    let run = crate::harness::Project::phases("build: { steps: [] }\n").runner(&call).on(&ecs).run();
    run.exits(0).says(&format!("{0} is set to {0}:3, {says}", service.name));
    let running = Service::fresh();
    publish(&project(&[&running], WAIT), &EcsApi::of(running)).exits(0).says_not(says);
}

/// Findings, D7: the revision of one service is not deployed to another family's service.
#[test]
fn services_of_different_families_need_a_file() {
    let web = Service::fresh();
    let worker = Service::new(&web.cluster, &format!("{}-worker", web.name), &Service::fresh().definition);
    let twin = Service::new(&web.cluster, &format!("{}-twin", web.name), &web.definition);
    let ecs = Scenario::new([web.clone(), worker.clone(), twin.clone()]).start();
    let command = |call: &str, services: [&Service; 2]| {
        let services = services.map(|service| format!("--service {}", service.name)).join(" ");
        let call = format!("ecs deploy --cluster {} {services} {call}", web.cluster);
        crate::harness::Project::phases("build: { steps: [] }\n").runner(&call).on(&ecs).run()
    };
    for call in ["--image web=x", "--image web=x --dry-run", "--env web:A=b", "--force"] {
        command(call, [&web, &worker]).exits(2).complains("the services run different task definitions: ");
    }
    assert_eq!(ecs.count("ecs:RegisterTaskDefinition"), 0);
    command("--image web=x --dry-run", [&web, &twin]).exits(0);
    command(&format!("--task-definition {}", web.definition), [&web, &worker]).exits(0);
}

/// Findings, D19: a service of an external controller has no revision to compare with.
#[test]
fn a_service_without_a_task_definition_is_reported_as_such() {
    let service =
        Service::fresh().controller("EXTERNAL").with("taskDefinition", json!("")).with("taskSets", json!([]));
    let ecs = EcsApi::of(service.clone());
    let file = json!({ "family": service.name, "containerDefinitions": [{ "name": "web", "image": "i", "memory": 64 }] });
    let command = |call: &str| {
        let call = format!("ecs {call} --cluster {0} --service {0}", service.name);
        let project = crate::harness::Project::phases("build: { steps: [] }\n");
        project.file("td.json", file.to_string()).runner(&call).on(&ecs).run()
    };
    let says = "has no task definition of its own: an external controller deploys it";
    command("diff --file td.json").exits(3).complains(says);
    command("status").exits(0).says("runs no task definition of its own");
    let base = format!("{{ service: {{ cluster: {0}, name: {0} }} }}", service.name);
    crate::ecs::project(&base).runner("run --publish").on(&ecs).run().exits(3).ends_with(says);
}

/// Findings, D6: a pause by a lifecycle hook is named, with the command that continues, and does not count.
#[test]
fn a_pause_does_not_count_against_the_time() {
    let hooks =
        json!({ "lifecycleHooks": [{ "targetType": "PAUSE", "lifecycleStages": ["POST_SCALE_UP"] }] });
    let paused = || steps::progress(1, 0).stage("POST_SCALE_UP").paused("hook-7");
    let service = |end: &[crate::ecs_api::Step]| {
        Service::fresh()
            .strategy("BLUE_GREEN")
            .configuration(hooks.clone())
            .deploys([vec![paused(); 150], end.to_vec()].concat())
    };
    let command = |service: &Service| {
        format!(
            "`aws ecs continue-service-deployment --service-deployment-arn arn:aws:ecs:us-east-1:123456789012:service-deployment/{0}/{0}/",
            service.name
        )
    };
    // 150 polls of 20 ms are longer than a second.
    let own = service(&[steps::succeed()]);
    let run = publish(&project(&[&own], "wait: 1s"), &EcsApi::of(own.clone()));
    run.exits(0)
        .says("a lifecycle hook pauses this deployment at post scale up until someone continues it with `aws ecs continue-service-deployment")
        .says("that time does not count against `wait`")
        .says(&command(&own))
        .says("--hook-id hook-7`");
    // The time runs again afterwards, and with the option all the time.
    let own = service(&[steps::progress(1, 0)]);
    publish(&project(&[&own], "wait: 1s"), &EcsApi::of(own.clone()))
        .exits(5)
        .ends_with("it took longer than 1s");
    let own = service(&[steps::succeed()]);
    let run = publish(&project(&[&own], "wait: 1s, wait-includes-pauses: true"), &EcsApi::of(own.clone()));
    run.exits(5)
        .says("that time counts against `wait`")
        .ends_with("because it was paused and nothing continued it");
}
