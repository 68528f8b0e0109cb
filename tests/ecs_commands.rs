//! `runner ecs deploy`, `rollback` and `status`, without a pipeline.

use crate::ecs_api::{EcsApi, Fault, Scenario, Service, TaskOutcome, revision, steps};
use crate::harness::{
    Outcome, Project, api_at, ecs, ecs_service, registry, secrets_manager, served_digest, shell, unique,
};
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};

fn project() -> Project {
    Project::phases("build: { steps: [] }\n")
}

fn on(ecs: &EcsApi, service: &Service, arguments: &str) -> Outcome {
    let (command, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let call = format!("ecs {command} --cluster {} --service {} {rest}", service.cluster, service.name);
    project().runner(&call).on(ecs).run()
}

fn document(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

#[test]
fn a_deployment_without_a_pipeline_and_the_same_again() {
    let service = Service::fresh();
    let ecs = EcsApi::of(service.clone());
    let outcome = on(&ecs, &service, "deploy --image web=new:1").exits(0);
    assert_eq!(outcome.stdout, format!("{0} runs {0}:2\n", service.name));
    outcome.complains("changes to").complains("is being deployed").complains("has reached a steady state");
    let again = on(&ecs, &service, "deploy --image web=new:1 --json").exits(0);
    let told = document(&again);
    assert_eq!((&told["version"], &told["registered"]), (&json!(1), &json!(false)));
    assert_eq!(
        (&told["services"][0]["outcome"], &told["services"][0]["exit"]),
        (&json!("unchanged"), &json!(0))
    );
    assert_eq!((ecs.count("ecs:UpdateService"), ecs.count("ecs:RegisterTaskDefinition")), (1, 1));
    // --force does both again.
    on(&ecs, &service, "deploy --image web=new:1 --force").exits(0);
    assert_eq!((ecs.count("ecs:UpdateService"), ecs.count("ecs:RegisterTaskDefinition")), (2, 2));
    // A revision by its name is deployed as it is.
    on(&ecs, &service, &format!("deploy --task-definition {}:1", service.name)).exits(0);
    assert_eq!(
        (ecs.runs(&service.name), ecs.count("ecs:RegisterTaskDefinition")),
        (revision(&service.name, 1), 2)
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let service = Service::fresh();
    let ecs = EcsApi::of(service.clone());
    let outcome = on(&ecs, &service, "deploy --image web=new:1 --dry-run").exits(0);
    outcome
        .says("+      \"image\": \"new:1\"")
        .says(&format!("would register a revision of {}", service.name))
        .says("would deploy");
    let told = document(&on(&ecs, &service, "deploy --image web=new:1 --dry-run --json").exits(0));
    assert_eq!((&told["dryRun"], &told["registered"]), (&json!(true), &json!(true)));
    on(&ecs, &service, "deploy --dry-run").exits(0).says("nothing would change");
    let changes = ["Register", "Update", "Stop", "Deregister"];
    assert!(ecs.actions().iter().all(|action| !changes.iter().any(|change| action.contains(change))));
}

#[test]
fn a_failure_has_its_exit_code_message_and_document() {
    let gone = "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref new:1: new:1: not found";
    let script = [steps::progress(0, 1), steps::fail_task(TaskOutcome::stopped("TaskFailedToStart", gone))];
    let service = Service::fresh().deploys(script);
    let ecs = EcsApi::of(service.clone());
    let outcome = on(&ecs, &service, "deploy --image web=new:1 --json").exits(5);
    let told = &document(&outcome)["services"][0];
    assert_eq!((&told["outcome"], &told["exit"]), (&json!("rolled-back"), &json!(5)));
    assert_eq!(told["causes"][0]["stopCode"], "TaskFailedToStart");
    assert_eq!(told["causes"][0]["tasks"].as_array().unwrap().len(), 1);
    outcome
        .complains("error: ")
        .complains("failed and was rolled back")
        .complains("help: push the image first");
    assert_eq!(ecs.runs(&service.name), revision(&service.name, 1));
}

#[test]
fn a_rollback_targets_the_last_successful_deployment() {
    let gone = TaskOutcome::exited("web", 1);
    let broken = [steps::fail_task(gone), steps::rolling_back("broken"), steps::rolled_back("broken")];
    let service = Service::fresh().deploys([steps::succeed()]).deploys(broken).deploys([steps::succeed()]);
    let ecs = EcsApi::of(service.clone());
    on(&ecs, &service, "deploy --image web=two").exits(0);
    // Revision 3 never was through: it is none to go back to.
    on(&ecs, &service, "deploy --image web=three").exits(5);
    on(&ecs, &service, "deploy --image web=four").exits(0);
    assert_eq!(ecs.runs(&service.name), revision(&service.name, 4));
    let name = &service.name;
    on(&ecs, &service, "rollback --dry-run")
        .exits(0)
        .says(&format!("would deploy {name}:2 to {name} in place of {name}:4"));
    assert_eq!(ecs.runs(name), revision(name, 4));
    let told = document(&on(&ecs, &service, "rollback --json").exits(0));
    assert_eq!(
        (&told["taskDefinition"], &told["services"][0]["outcome"]),
        (&json!(revision(name, 2)), &json!("deployed"))
    );
    assert_eq!(ecs.runs(name), revision(name, 2));
    // However often one revision was deployed since.
    let forced = Service::fresh();
    let name = &forced.name;
    let ecs = EcsApi::of(forced.clone());
    on(&ecs, &forced, "deploy --image web=two").exits(0);
    let look = json!({ "cluster": name, "services": [name] });
    for _ in 0..25 {
        ecs.deploy(name, &revision(name, 2));
        api_at(&ecs.endpoint, "ecs", "AmazonEC2ContainerServiceV20141113.DescribeServices", &look);
    }
    on(&ecs, &forced, "rollback --dry-run")
        .exits(0)
        .says(&format!("{name}:1 to {name} in place of {name}:2"));
    // Where that may not be asked, nothing is guessed.
    let denied = Scenario::new([service.clone()]).fault(Fault::denied("ecs:ListServiceDeployments")).start();
    on(&denied, &service, "rollback").exits(3).complains("allow `ecs:ListServiceDeployments`");
    let fresh = Service::fresh();
    on(&EcsApi::of(fresh.clone()), &fresh, "rollback").exits(3).complains("has no other revision");
}

/// Findings, D4: a rollback deploys only what can be deployed.
#[test]
fn a_rollback_skips_inactive_revisions_or_registers_their_content_again() {
    let deregister = |name: &str, number: u32| {
        ecs("DeregisterTaskDefinition", &json!({ "taskDefinition": revision(name, number) }));
    };
    let deployed = || {
        let service = Service::fresh();
        let ecs = EcsApi::of(service.clone());
        on(&ecs, &service, "deploy --image web=two").exits(0);
        on(&ecs, &service, "deploy --image web=three").exits(0);
        (service, ecs)
    };
    // The next successful revision that is active.
    let (service, api) = deployed();
    let name = &service.name;
    deregister(name, 2);
    let plan = on(&api, &service, "rollback --dry-run").exits(0);
    plan.says(&format!("would deploy {name}:1 to {name} in place of {name}:3"))
        .complains(&format!("{name}:2 cannot be deployed, because it is no longer active"));
    on(&api, &service, "rollback").exits(0).says(&format!("{name} runs {name}:1"));
    assert_eq!((api.runs(name), api.count("ecs:RegisterTaskDefinition")), (revision(name, 1), 2));
    // None is active: the content of the last one is registered again.
    let (service, api) = deployed();
    let name = &service.name;
    deregister(name, 1);
    deregister(name, 2);
    let plan = on(&api, &service, "rollback --dry-run").exits(0);
    plan.says(&format!(
        "would deploy the content of {name}:2, registered again, to {name} in place of {name}:3"
    ));
    let planned = document(&on(&api, &service, "rollback --dry-run --json").exits(0));
    assert_eq!(planned["services"][0]["registersAgain"], true);
    let told = document(&on(&api, &service, "rollback --json").exits(0));
    assert_eq!((&told["registered"], &told["taskDefinition"]), (&json!(true), &json!(revision(name, 4))));
    assert_eq!(api.runs(name), revision(name, 4));
    let again = ecs("DescribeTaskDefinition", &json!({ "taskDefinition": revision(name, 4) }));
    assert_eq!(again["taskDefinition"]["containerDefinitions"][0]["image"], "two");
}

/// Findings, D4: the automatic rollback has the same problem, and a deployment warns of it.
#[test]
fn a_failed_deployment_rolls_back_to_the_content_of_an_inactive_revision() {
    let stopped = [steps::progress(0, 1), steps::stopped("broken")];
    let service = Service::fresh().circuit_breaker(true, false).deploys(stopped).deploys([steps::succeed()]);
    let (name, api) = (&service.name, EcsApi::of(service.clone()));
    ecs("DeregisterTaskDefinition", &json!({ "taskDefinition": revision(name, 1) }));
    on(&api, &service, "deploy --image web=two")
        .exits(5)
        .complains(&format!("{name}:1 of {name} is no longer active: a rollback would have to register"))
        .complains("registering its content again");
    let runs = api.runs(name);
    let image = ecs("DescribeTaskDefinition", &json!({ "taskDefinition": runs }));
    assert_eq!(image["taskDefinition"]["containerDefinitions"][0]["image"], "old");
    assert_eq!(runs, revision(name, 3));
}

#[test]
fn the_status_shows_the_revision_its_age_and_its_commit() {
    let service = Service::fresh().deploys([steps::succeed()]);
    let repository = unique("status");
    let project = Project::new(&formatdoc! {r"
        version: 1
        name: t
        images: {{ app: {{ repository: {repository}, create: true }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n")
    .git();
    project.runner("run --publish").aws().run().exits(0);
    let commit = shell("git", &["-C", project.root().to_str().unwrap(), "rev-parse", "HEAD"]);
    let commit = commit.trim();
    let image = format!("{}/{repository}@{}", registry(), served_digest(&repository, commit));
    let ecs = EcsApi::of(service.clone());
    on(&ecs, &service, &format!("deploy --image web={image}")).exits(0);
    let outcome = on(&ecs, &service, "status").exits(0);
    outcome
        .says("1 of 1 running")
        .says(&format!("runs {}:2 since 20", service.name))
        .says(commit)
        .says("successful");
    let told = document(&on(&ecs, &service, "status --json").exits(0));
    assert_eq!((&told["version"], &told["commit"], &told["running"]), (&json!(1), &json!(commit), &json!(1)));
    assert_eq!(told["deployments"].as_array().unwrap().len(), 2);
    assert_eq!(told["deployments"][0]["taskDefinition"], revision(&service.name, 2));
}

#[test]
fn against_the_bed_the_second_time_changes_nothing() {
    let name = ecs_service();
    let run = |arguments: &str| {
        let call = format!("{arguments} --cluster {name} --service {name}");
        project().runner(&call).aws().run()
    };
    run("ecs deploy --image web=new:1").exits(0).complains("registered");
    let state = || {
        ecs("DescribeServices", &json!({ "cluster": name, "services": [name] }))["services"][0]["taskDefinition"].clone()
    };
    let before = state();
    assert!(before.as_str().unwrap().ends_with(&format!("{name}:2")));
    run("ecs deploy --image web=new:1").exits(0).says("already");
    assert_eq!(state(), before);
    run("ecs status").exits(0).says(&format!("runs {name}:2"));
    run("ecs rollback").exits(0).complains("rolling back to the next lower revision");
    assert!(state().as_str().unwrap().ends_with(&format!("{name}:1")));
}

#[test]
fn mistakes_are_reported_before_any_change() {
    let service = Service::fresh();
    let ecs = EcsApi::of(service.clone());
    for (arguments, code, says) in [
        ("deploy --image wbe=x", 2, "no container `wbe`; it has `web`"),
        ("deploy --file none.json", 2, "could not read the task definition"),
        ("deploy --task-definition none:1", 3, "there is no task definition `none:1`"),
        ("deploy --wait soon", 2, "--wait"),
    ] {
        on(&ecs, &service, arguments).exits(code).complains(says);
    }
    project()
        .runner("ecs deploy --cluster none --service s")
        .on(&ecs)
        .run()
        .exits(3)
        .complains("there is no cluster `none`");
    let call = format!("ecs status --cluster {} --service none", service.cluster);
    project().runner(&call).on(&ecs).run().exits(3).complains("there is no service");
    assert_eq!(ecs.count("ecs:UpdateService") + ecs.count("ecs:RegisterTaskDefinition"), 0);
}

#[test]
fn secrets_are_in_no_output() {
    let name = ecs_service();
    let value = format!("hunter2-{name}");
    let text = json!({ "password": value }).to_string();
    let made = secrets_manager("CreateSecret", &json!({ "Name": name, "SecretString": text }));
    let reference = format!("{}:password::", made["ARN"].as_str().unwrap());
    let ended = TaskOutcome::stopped("EssentialContainerExited", &format!("login with {value} failed"))
        .exit("web", 1);
    let broken = [steps::fail_task(ended), steps::rolling_back(&value), steps::rolled_back(&value)];
    let service = Service::new(&name, &name, &revision(&name, 1)).deploys(broken);
    let definition = json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "new", "memory": 64, "secrets": [{ "name": "P", "valueFrom": reference }] }] });
    let project = project().file("td.json", definition.to_string());
    for more in ["", " --json"] {
        let ecs = EcsApi::of(service.clone());
        let call = format!("ecs deploy --cluster {name} --service {name} --file td.json --force{more}");
        let outcome = project.runner(&call).on(&ecs).run().exits(5).says_not(&value);
        assert!(format!("{outcome}").contains("***"), "{outcome}");
    }
}

#[test]
fn a_signal_ends_read_only_commands_at_once_and_waits_have_a_limit() {
    let service = Service::fresh();
    let hanging = |after: usize| {
        let mut asked = 0;
        Scenario::new([service.clone()])
            .also(move |action, _| {
                asked += usize::from(action == "ecs:DescribeServices");
                if asked > after {
                    std::thread::sleep(std::time::Duration::from_mins(1));
                }
                None
            })
            .start()
    };
    let (api, begin) = (hanging(0), std::time::Instant::now());
    let call = format!("ecs status --cluster {0} --service {0}", service.name);
    let project = project();
    let running = project.runner(&call).on(&api).start();
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal("TERM");
    running.finish().exits(143);
    assert!(begin.elapsed().as_secs() < 10);
    // Those before the update are answered, the looks after it are not.
    let (api, begin) = (hanging(1), std::time::Instant::now());
    let call = format!(
        "ecs deploy --cluster {0} --service {0} --image web=new --wait 1s --on-failure leave",
        service.name
    );
    project.runner(&call).on(&api).run().exits(7);
    assert!(begin.elapsed().as_secs() < 50);
}

#[test]
fn a_service_is_named_once() {
    let service = Service::fresh();
    let ecs = EcsApi::of(service.clone());
    let arguments = format!("deploy --image web=new --service {}", service.name);
    on(&ecs, &service, &arguments).exits(2).complains("is named twice");
    on(&ecs, &service, "deploy --image web=new --service nobody").exits(3).complains("there is no service");
    on(&ecs, &service, &format!("rollback --service {}", service.name)).exits(2).complains("is named twice");
    assert_eq!(ecs.count("ecs:UpdateService") + ecs.count("ecs:RegisterTaskDefinition"), 0);
}

/// Findings, F: the help of a command has all of its exit codes.
#[test]
fn the_help_of_a_command_has_its_exit_codes() {
    let project = crate::harness::Project::phases("build: { steps: [] }\n");
    let codes = |command: &str| {
        let help = project.runner(&format!("ecs {command} --help")).run().exits(0).stdout;
        let (_, rest) = help.split_once("\nExit codes:\n").unwrap_or_else(|| panic!("{help}"));
        rest.split("\n\n").next().unwrap().to_owned()
    };
    let expected = indoc! {"
        0  the services run the revision
          1  AWS refused a call
          2  bad usage, or an invalid task definition
          3  something is missing: credentials, a permission, the network, what the deployment needs
          5  it failed or took too long, and was rolled back
          6  it failed and was not rolled back
          7  it took too long, and goes on
          8  another deployment superseded it"};
    assert_eq!(codes("deploy"), format!("  {expected}"));
    let numbers = |command: &str| -> String {
        codes(command).lines().filter_map(|line| line.trim().chars().next()).collect()
    };
    assert_eq!((numbers("rollback"), numbers("diff")), ("01235678".to_owned(), "0123".to_owned()));
}
