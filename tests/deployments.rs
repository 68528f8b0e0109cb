//! Deployments against a scripted ECS: exit code, message and calls of each.

use crate::ecs_api::{EcsApi, Fault, Scenario, Script, Service, Step, TaskOutcome, revision, steps};
use crate::harness::{Outcome, Project, api_at, ecs, log_configuration, revisions};
use indoc::formatdoc;
use serde_json::{Value, json};

/// Why the circuit breaker says that it rolls back.
pub const BROKEN: &str = "Service deployment rolled back because the circuit breaker threshold was exceeded.";

/// A task definition whose container has a log.
fn definition(family: &str) -> Value {
    let log = log_configuration();
    json!({ "family": family, "containerDefinitions": [{ "name": "web", "image": "new", "memory": 64, "logConfiguration": log,
        "healthCheck": { "command": ["CMD", "curl", "http://localhost/up"] } }] })
}

/// A project that registers a revision and deploys it to services.
pub fn project(services: &[&Service], options: &str) -> Project {
    let (cluster, family) = (&services[0].cluster, &services[0].name);
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let names = names.join(", ");
    Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        phases:
          post_build:
            steps:
              - task-definition: {{ file: td.json }}
              - deploy: {{ cluster: {cluster}, services: [{names}], {options} }}
    "})
    .file("td.json", definition(family).to_string())
}

pub fn publish(project: &Project, ecs: &EcsApi) -> Outcome {
    project.runner("run --publish").on(ecs).run()
}

/// How a scenario ends.
#[derive(Clone, Copy)]
pub struct End {
    pub exit: i32,
    /// What the last lines say, as far as it has to be said.
    pub says: &'static [&'static str],
    /// The number of the revision that the service has then; 0 where that means nothing.
    pub runs: u32,
}

/// A scenario with one service.
pub struct Case {
    pub name: &'static str,
    pub options: &'static str,
    pub service: fn(Service) -> Service,
    pub end: End,
    /// What the log has, wherever.
    pub shows: &'static [&'static str],
    /// How often the service is updated, and ECS asked to roll back.
    pub changes: (usize, usize),
}

impl Case {
    fn shows(mut self, lines: &'static [&'static str]) -> Self {
        self.shows = lines;
        self
    }

    fn changes(mut self, updates: usize, rollbacks: usize) -> Self {
        self.changes = (updates, rollbacks);
        self
    }
}

fn case(
    name: &'static str,
    options: &'static str,
    service: fn(Service) -> Service,
    (exit, runs, says): (i32, u32, &'static [&'static str]),
) -> Case {
    Case { name, options, service, end: End { exit, says, runs }, shows: &[], changes: (1, 0) }
}

fn failed_to_start(reason: &str) -> TaskOutcome {
    TaskOutcome::stopped("TaskFailedToStart", reason)
}

fn crash() -> Step {
    steps::fail_task(TaskOutcome::exited("web", 1).logs("web", &["starting", "panic: no DATABASE_URL"]))
}

/// The circuit breaker's way through a failure.
fn broken(step: &Step) -> Script {
    let failing = [step.clone(), step.clone(), step.clone()];
    let end = [steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)];
    [steps::pending(), steps::progress(0, 1)].into_iter().chain(failing).chain(end).collect::<Vec<_>>().into()
}

pub const STUCK: &str = "wait: 1s";
const LEAVE: &str = "on-failure: leave";
pub const WAIT: &str = "wait: 30s";

#[rustfmt::skip]
pub fn cases() -> Vec<Case> {
    vec![
        case("success", WAIT, |service| service.deploys([steps::pending(), steps::progress(0, 1), steps::progress(1, 0), steps::succeed()]),
            (0, 2, &["\n  deployed "])),
        case("slow success", WAIT, |service| service.desired(3).deploys(
            [vec![steps::progress(0, 3); 8], vec![steps::progress(2, 1); 8], vec![steps::succeed()]].concat()),
            (0, 2, &["\n  deployed "])),
        case("at once", WAIT, |service| service, (0, 2, &["\n  deployed "])),
        case("image cannot be pulled", WAIT, |service| service.deploys([steps::progress(0, 1), steps::fail_task(failed_to_start(
            "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref 123456789012.dkr.ecr.us-east-1.amazonaws.com/webapp:gone: 123456789012.dkr.ecr.us-east-1.amazonaws.com/webapp:gone: not found")), steps::progress(0, 1)]),
            (5, 1, &["failed and was rolled back to", "image `new`"])).changes(1, 1),
        case("image may not be pulled", WAIT, |service| service.deploys([vec![steps::progress(0, 1)], vec![steps::fail_task(failed_to_start(
            "CannotPullContainerError: Error response from daemon: pull access denied for 123456789012.dkr.ecr.us-east-1.amazonaws.com/webapp, repository does not exist or may require 'docker login': denied: User: arn:aws:sts::123456789012:assumed-role/start/x is not authorized to perform: ecr:BatchGetImage on resource: arn:aws:ecr:us-east-1:123456789012:repository/webapp because no identity-based policy allows the ecr:BatchGetImage action")); 2], vec![steps::progress(0, 1)]].concat()),
            (5, 1, &["failed and was rolled back to", "ecr:BatchGetImage"])).changes(1, 1),
        case("secret is missing", WAIT, |service| service.deploys([steps::progress(0, 1), steps::fail_task(failed_to_start(
            "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret arn:aws:secretsmanager:us-east-1:123456789012:secret:db-AbCdEf from secrets manager: ResourceNotFoundException: Secrets Manager can't find the specified secret.")), steps::progress(0, 1)]),
            (5, 1, &["rolled back", "secret:db-AbCdEf"])).changes(1, 1),
        case("crash loop", WAIT, |service| service.deploys(broken(&crash())),
            (5, 1, &["failed and was rolled back to", "exit code 1"])).shows(&["a task failed: container `web` ended with exit code 1", "web | panic: no DATABASE_URL", "failed (threshold "]),
        case("crash loop without a circuit breaker", STUCK, |service| service.circuit_breaker(false, false).deploys([crash(), crash(), steps::progress(0, 1)]),
            (5, 1, &["rolled back", "exit code 1"])).changes(1, 1),
        case("failing health check", WAIT, |service| service.deploys(broken(&steps::fail_task(
            TaskOutcome::stopped("ServiceSchedulerInitiated", "Task failed container health checks").health("web", "UNHEALTHY")))),
            (5, 1, &["rolled back", "http://localhost/up"])),
        case("failing health check of the load balancer", WAIT, |service| service.deploys(broken(&steps::fail_task(
            TaskOutcome::stopped("ServiceSchedulerInitiated", "Task failed ELB health checks in (target-group arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/web/0123456789abcdef)").exit("web", 137)))),
            (5, 1, &["rolled back", "target group `web`"])),
        case("out of memory", WAIT, |service| service.deploys(broken(&steps::fail_task(
            TaskOutcome::exited("web", 137).reason("web", "OutOfMemoryError: Container killed due to memory usage")))),
            (5, 1, &["rolled back", "memory"])),
        case("wrong architecture", WAIT, |service| service.deploys([steps::progress(0, 1), steps::fail_task(
            TaskOutcome::exited("web", 255).logs("web", &["exec /app/server: exec format error"])), steps::progress(0, 1)]),
            (5, 1, &["rolled back", "is not built for X86_64"])).changes(1, 1),
        case("port in use", WAIT, |service| service.deploys(broken(&steps::fail_task(
            TaskOutcome::exited("web", 1).logs("web", &["Error: listen EADDRINUSE: address already in use :::8080"])))),
            (5, 1, &["rolled back", "8080"])),
        case("no capacity", STUCK, |service| service.deploys([steps::progress(0, 1).event(
            "(service web) was unable to place a task because no container instance met all of its requirements. Reason: No Container Instances were found in your cluster.")]),
            (5, 1, &["rolled back", "cannot place a task"])).changes(1, 1),
        case("rollback by the circuit breaker", WAIT, |service| service.deploys([steps::progress(0, 1), steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)]),
            (5, 1, &["rolled back", "circuit breaker"])),
        case("circuit breaker that does not roll back", WAIT, |service| service.circuit_breaker(true, false).deploys(
            [steps::progress(0, 1), steps::stopped("Service deployment stopped because the circuit breaker threshold was exceeded.")]).deploys([steps::succeed()]),
            (5, 1, &["rolled back", "circuit breaker"])).changes(2, 0),
        case("circuit breaker that does not roll back, left", LEAVE, |service| service.circuit_breaker(true, false).deploys(
            [steps::progress(0, 1), steps::stopped("Service deployment stopped because the circuit breaker threshold was exceeded.")]),
            (6, 2, &["failed and was not rolled back", "circuit breaker"])),
        case("rollback by an alarm", WAIT, |service| service.alarms(&["errors"]).deploys(
            [steps::progress(1, 0).alarms("MONITORING", &["errors"], &[]), steps::alarmed("errors"), steps::rolled_back("Service deployment rolled back because a CloudWatch alarm was triggered.")]),
            (5, 1, &["rolled back", "alarm"])).shows(&["alarms quiet: errors", "alarm: errors"]),
        case("rollback that fails", WAIT, |service| service.deploys([steps::progress(0, 1), steps::rolling_back(BROKEN), steps::rollback_failed("The rollback failed.")]),
            (6, 0, &["and so did the rollback"])),
        case("rollback on request that fails", STUCK, |service| service.deploys(
            Script::from([steps::progress(0, 1)]).when_stopped([steps::rollback_failed("The rollback failed.")])),
            (6, 0, &["and so did the rollback"])).changes(1, 1),
        case("superseded", WAIT, |service| {
            let other = revision(&service.name, 1);
            service.deploys([steps::progress(0, 1), steps::superseded(&other), steps::progress(0, 1), steps::succeed()])
        }, (8, 1, &["superseded by another one"])),
        case("stuck for ever", STUCK, |service| service.deploys([steps::progress(0, 1)]),
            (5, 1, &["rolled back", "longer than 1s"])).changes(1, 1),
        case("stuck for ever, left", "wait: 1s, on-failure: leave", |service| service.deploys([steps::progress(0, 1)]),
            (7, 2, &["is still deploying"])),
        case("crash loop, left", "wait: 1s, on-failure: leave", |service| service.circuit_breaker(false, false).deploys([crash(), crash(), steps::progress(0, 1)]),
            (7, 2, &["is still deploying", "exit code 1"])),
        case("service deleted meanwhile", WAIT, |service| service.deploys([steps::progress(0, 1), steps::deleted()]),
            (6, 0, &["the service was deleted in the meantime"])),
        case("blue/green through all stages", WAIT, |service| service.strategy("BLUE_GREEN").deploys(
            ["RECONCILE_SERVICE", "PRE_SCALE_UP", "SCALE_UP", "POST_SCALE_UP", "TEST_TRAFFIC_SHIFT", "POST_TEST_TRAFFIC_SHIFT", "PRODUCTION_TRAFFIC_SHIFT", "POST_PRODUCTION_TRAFFIC_SHIFT", "BAKE_TIME", "CLEAN_UP"]
                .map(|stage| steps::progress(1, 0).stage(stage)).into_iter().chain([steps::succeed()]).collect::<Vec<_>>()),
            (0, 2, &["\n  deployed "])).shows(&["in progress · test traffic shift", "in progress · production traffic shift", "in progress · bake time", "in progress · clean up"]),
        case("blue/green that fails before production", WAIT, |service| service.strategy("BLUE_GREEN").deploys(
            [steps::progress(1, 0).stage("TEST_TRAFFIC_SHIFT"), steps::rolling_back("A lifecycle hook failed.").stage("POST_TEST_TRAFFIC_SHIFT"), steps::rolled_back("A lifecycle hook failed.")]),
            (5, 1, &["rolled back", "lifecycle hook"])),
        case("canary", WAIT, |service| service.strategy("CANARY").deploys(
            [steps::progress(1, 0).weight(10.0).stage("PRODUCTION_TRAFFIC_SHIFT"), steps::progress(1, 0).weight(100.0), steps::succeed()]),
            (0, 2, &["\n  deployed "])).shows(&["10 % of the traffic", "100 % of the traffic"]),
        case("linear with an alarm", WAIT, |service| service.strategy("LINEAR").alarms(&["errors"]).deploys(
            [steps::progress(1, 0).weight(20.0), steps::progress(1, 0).weight(40.0), steps::alarmed("errors"), steps::rolled_back("Service deployment rolled back because a CloudWatch alarm was triggered.")]),
            (5, 1, &["rolled back", "alarm"])).shows(&["20 % of the traffic", "40 % of the traffic", "alarm: errors"]),
        case("someone stops it", WAIT, |service| service.deploys([steps::progress(0, 1), Step::status("STOPPED").reason("Service deployment stopped by a user.")]).deploys([steps::succeed()]),
            (5, 1, &["rolled back", "stopped by a user"])).changes(2, 0),
    ]
}

/// Plays a scenario, with faults. Whatever they are, one revision is registered at most, and the exit code tells the truth.
pub fn play(case: &Case, faults: &[Fault]) -> (Outcome, EcsApi, Service) {
    // Where a fault has runner itself go back, that is a deployment of its own, and succeeds.
    let service = (case.service)(Service::fresh()).deploys([steps::succeed()]);
    // A call that is made again takes the SDK a second or two.
    let options = if faults.is_empty() { case.options.to_owned() } else { case.options.replace("1s", "5s") };
    let project = project(&[&service], &options);
    let scenario = faults.iter().cloned().fold(Scenario::new([service.clone()]), Scenario::fault);
    let ecs = scenario.start();
    let outcome = publish(&project, &ecs);
    (outcome, ecs, service)
}

/// What is not as the scenario's end says.
pub fn problems(case: &Case, (outcome, ecs, service): &(Outcome, EcsApi, Service)) -> Vec<String> {
    let mut problems = Vec::new();
    let mut holds = |condition: bool, text: String| {
        if !condition {
            problems.push(format!("{}: {text}\n{outcome}", case.name));
        }
    };
    holds(outcome.code == Some(case.end.exit), format!("exit {:?}", outcome.code));
    let log: Vec<&str> = outcome.stdout.lines().collect();
    let tail = log[log.len().saturating_sub(8)..].join("\n");
    for text in case.end.says {
        holds(tail.contains(text), format!("{text:?} is missing"));
    }
    holds(revisions(&service.name) == 2, format!("{} revisions", revisions(&service.name)));
    let runs = revision(&service.name, case.end.runs);
    holds(case.end.runs == 0 || ecs.runs(&service.name) == runs, format!("runs {}", ecs.runs(&service.name)));
    problems
}

/// Whether the long suites run at full size.
pub fn is_soak() -> bool {
    std::env::var("RUNNER_SOAK").as_deref() == Ok("full")
}

/// Does something with each of many, several at a time: all of them mostly wait.
pub fn side_by_side<T: Sync>(all: &[T], work: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let problems = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // They mostly wait.
        for _ in 0..if std::env::var_os("RUNNER_SOAK").is_some() { 24 } else { 4 } {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) {
                    let found = work(one);
                    problems.lock().unwrap().extend(found);
                }
            });
        }
    });
    problems.into_inner().unwrap()
}

#[test]
fn every_scenario_has_its_exit_code_message_and_calls() {
    let cases = cases();
    assert!(cases.len() >= 25);
    let found = side_by_side(&cases, |case| {
        let played = play(case, &[]);
        let mut found = problems(case, &played);
        let (outcome, ecs, _) = &played;
        let counts = ["ecs:RegisterTaskDefinition", "ecs:UpdateService", "ecs:StopServiceDeployment"]
            .map(|action| ecs.count(action));
        if counts != [1, case.changes.0, case.changes.1] {
            found.push(format!(
                "{}: registered, updated, rolled back: {counts:?} times\n{outcome}",
                case.name
            ));
        }
        let missing = case.shows.iter().filter(|text| !outcome.stdout.contains(**text));
        found.extend(missing.map(|text| format!("{}: {text:?} is not shown\n{outcome}", case.name)));
        // A state is said once.
        let lines: Vec<&str> = outcome.stdout.lines().filter(|line| line.contains(" running")).collect();
        found.extend(lines.windows(2).filter(|two| two[0] == two[1]).map(|two| format!("twice: {}", two[0])));
        found
    });
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

/// Another service of the same cluster.
fn sibling(of: &Service) -> Service {
    Service::new(&of.cluster, &format!("{}-two", of.name), &of.definition)
}

#[test]
fn one_of_two_services_fails_and_both_are_rolled_back() {
    let fine = || Service::fresh().deploys([steps::progress(0, 1), steps::succeed()]);
    let failing = |service: Service| service.deploys(broken(&crash()));
    // The other one has finished, or is still running.
    let slow = vec![steps::progress(0, 1); 200];
    for first in [fine(), Service::fresh().deploys(slow)] {
        let second = failing(sibling(&first));
        let project = project(&[&first, &second], WAIT);
        let ecs = Scenario::new([first.clone(), second.clone()]).start();
        let outcome = publish(&project, &ecs).exits(5);
        outcome.ends_with("exit code 1").says("another service of this step has failed");
        for service in [&first, &second] {
            assert_eq!(ecs.runs(&service.name), revision(&first.name, 1));
        }
        assert_eq!((revisions(&first.name), ecs.count("ecs:RegisterTaskDefinition")), (2, 1));
    }
    // What is left is left, and each comes to its own end.
    let first = fine();
    let second = sibling(&first)
        .circuit_breaker(true, false)
        .deploys([steps::progress(0, 1), steps::stopped("broken")]);
    let project = project(&[&first, &second], LEAVE);
    let ecs = Scenario::new([first.clone(), second.clone()]).start();
    publish(&project, &ecs).exits(6).has_line(&["  deployed", &first.name]).ends_with("was not rolled back");
    assert_eq!(ecs.runs(&first.name), revision(&first.name, 2));
}

#[test]
fn a_second_run_follows_the_active_deployment_and_starts_no_other() {
    let service =
        Service::fresh().deploys([vec![steps::progress(0, 1); 200], vec![steps::succeed()]].concat());
    let project = project(&[&service], "wait: 1s, on-failure: leave");
    let ecs = EcsApi::of(service.clone());
    publish(&project, &ecs).exits(7);
    publish(&project, &ecs).exits(7).says("is already being deployed; following it");
    assert_eq!((ecs.count("ecs:UpdateService"), revisions(&service.name)), (1, 2));
    // Once it has finished, there is nothing to do.
    let through = (0..20).any(|_| publish(&project, &ecs).code == Some(0));
    assert!(through, "it never was through");
    publish(&project, &ecs).exits(0).has_line(&["unchanged", &service.name]);
    assert_eq!((ecs.count("ecs:UpdateService"), revisions(&service.name)), (1, 2));
}

#[test]
fn a_signal_rolls_the_deployment_back_or_leaves_it() {
    for (options, rolled_back) in [(WAIT, true), (LEAVE, false)] {
        let service = Service::fresh().deploys([steps::progress(0, 1)]);
        let project = project(&[&service], options);
        let ecs = EcsApi::of(service.clone());
        let running = project.runner("run --publish").on(&ecs).start();
        crate::harness::eventually(|| ecs.count("ecs:DescribeServiceDeployments") > 1, "it never began");
        running.signal("TERM");
        let outcome = running.finish().exits(143);
        assert_eq!(ecs.count("ecs:StopServiceDeployment"), usize::from(rolled_back), "{outcome}");
        outcome.says(if rolled_back { "asked ECS to roll back" } else { "continues without runner" });
    }
}

#[test]
fn a_deployment_that_completes_at_the_last_moment_is_kept() {
    let script = Script::from([steps::progress(0, 1)]).when_stopped([steps::succeed()]);
    let service = Service::fresh().deploys(script);
    let ecs = EcsApi::of(service.clone());
    publish(&project(&[&service], STUCK), &ecs).exits(0).has_line(&["  deployed", &service.name]);
    assert_eq!((ecs.count("ecs:UpdateService"), ecs.runs(&service.name)), (1, revision(&service.name, 2)));
}

#[test]
fn a_revision_that_ecs_rolled_back_to_is_deployed() {
    // Someone else's deployment fails, and ECS rolls back to the revision that this build is about to deploy.
    let back = vec![steps::rolling_back(BROKEN); 30];
    let service = Service::fresh().deploys([back, vec![steps::rolled_back(BROKEN)]].concat());
    let name = &service.name;
    let ecs_api = EcsApi::of(service.clone());
    ecs("RegisterTaskDefinition", &definition(name));
    ecs_api.deploy(name, &revision(name, 2));
    let call = format!("ecs deploy --cluster {name} --service {name} --task-definition {name}:1");
    let project = Project::phases("build: { steps: [] }\n");
    project.runner(&call).on(&ecs_api).run().exits(0).complains("is already being deployed");
    assert_eq!(ecs_api.count("ecs:UpdateService"), 0);
    assert_eq!(ecs_api.runs(name), revision(name, 1));
}

#[test]
fn a_steps_own_timeout_rolls_back_too() {
    let service = Service::fresh().deploys([steps::progress(0, 1)]);
    let text = formatdoc! {"
        version: 1
        name: t
        phases:
          build:
            steps:
              - task-definition: {{ file: td.json }}
              - {{ deploy: {{ cluster: {0}, service: {0} }}, timeout: 1s }}
    ", service.name};
    let project = Project::new(&text).file("td.json", definition(&service.name).to_string());
    let ecs = EcsApi::of(service);
    publish(&project, &ecs).exits(7).says("asked ECS to roll back").ends_with("the step took longer than 1s");
    assert_eq!(ecs.count("ecs:StopServiceDeployment"), 1);
}

#[test]
fn denied_calls_are_warnings_and_the_result_is_still_correct() {
    let optional = [
        "ecs:ListServiceDeployments",
        "ecs:DescribeServiceDeployments",
        "ecs:DescribeServiceRevisions",
        "ecs:ListTasks",
        "ecs:DescribeTasks",
        "logs:GetLogEvents",
    ];
    let cases = cases();
    let of = |name: &str| cases.iter().find(|case| case.name == name).unwrap();
    let mut all = Vec::new();
    for name in ["success", "crash loop", "superseded"] {
        all.extend(optional.iter().map(|action| (of(name), *action)));
    }
    let ever = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let found = side_by_side(&all, |(case, action)| {
        let (outcome, ecs, _) = play(case, &[Fault::denied(action)]);
        let asked = ecs.count(action) > 0;
        let warned = outcome.stdout.contains("warning: ") && outcome.stdout.contains(action);
        let mut found = Vec::new();
        if asked {
            ever.lock().unwrap().insert(*action);
        }
        if outcome.code != Some(case.end.exit) || asked && !warned {
            found.push(format!("{} without {action}\n{outcome}", case.name));
        }
        found
    });
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    assert_eq!(ever.into_inner().unwrap().len(), optional.len(), "an action was never asked for");
}

#[test]
fn stale_responses_are_ignored() {
    let cases = cases();
    let success = cases.iter().find(|case| case.name == "success").unwrap();
    // ECS shows the service as it was before the update, and may not be asked for more.
    let stale = Fault::stale("ecs:DescribeServices").at(2..5);
    let (outcome, ecs, service) = play(success, &[Fault::denied("ecs:ListServiceDeployments"), stale]);
    outcome.exits(0);
    assert_eq!(ecs.runs(&service.name), revision(&service.name, 2));
}

#[test]
fn another_deployment_is_never_rolled_back() {
    let first =
        Service::fresh().deploys([steps::progress(0, 1), steps::succeed()]).deploys([steps::succeed()]);
    let failing =
        [vec![steps::progress(0, 1); 200], vec![steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)]];
    let second = sibling(&first).deploys(failing.concat());
    let project = project(&[&first, &second], WAIT);
    let ecs_api = Scenario::new([first.clone(), second.clone()]).start();
    let running = project.runner("run --publish").on(&ecs_api).start();
    let is_through = || ecs_api.statuses(&first.name).get(1).is_some_and(|status| status == "SUCCESSFUL");
    crate::harness::eventually(is_through, "the first one is never through");
    ecs("RegisterTaskDefinition", &definition(&first.name));
    ecs_api.deploy(&first.name, &revision(&first.name, 3));
    let outcome = running.finish().exits(5);
    outcome.says(&format!("{}:3 was deployed in the meantime and is left alone", first.name));
    assert_eq!(ecs_api.runs(&first.name), revision(&first.name, 3));
    assert_eq!(ecs_api.runs(&second.name), revision(&first.name, 1));
    assert_eq!(ecs_api.count("ecs:UpdateService"), 2);
}

#[test]
fn a_superseded_deployment_is_not_retried() {
    let other = |service: &Service| revision(&service.name, 1);
    let service = Service::fresh();
    let steps = [steps::progress(0, 1), steps::superseded(&other(&service)), steps::succeed()];
    let service = service.deploys(steps).deploys([steps::succeed()]);
    let text = formatdoc! {"
        version: 1
        name: t
        phases:
          build:
            steps:
              - task-definition: {{ file: td.json }}
              - {{ deploy: {{ cluster: {0}, service: {0} }}, retry: {{ attempts: 2, delay: 1s }} }}
    ", service.name};
    let project = Project::new(&text).file("td.json", definition(&service.name).to_string());
    let ecs = EcsApi::of(service.clone());
    publish(&project, &ecs).exits(8);
    assert_eq!((ecs.count("ecs:UpdateService"), ecs.runs(&service.name)), (1, other(&service)));
}

#[test]
fn runner_completes_a_rollback_that_ecs_abandons() {
    let service = Service::fresh().deploys([steps::progress(0, 1)]).deploys([steps::succeed()]);
    let mut stopped = None;
    // ECS stops it in the very moment in which it is asked to roll back.
    let scenario = Scenario::new([service.clone()]).also(move |action, body| {
        let asked: Value = serde_json::from_str(body).unwrap_or_default();
        if action == "ecs:StopServiceDeployment" {
            stopped = asked["serviceDeploymentArn"].as_str().map(ToOwned::to_owned);
            let refusal = json!({ "__type": "ConflictException", "message": "it cannot be stopped" });
            return Some((400, refusal.to_string()));
        }
        let arn = stopped.as_ref().filter(|arn| asked["serviceDeploymentArns"][0] == arn.as_str())?;
        let state = json!({ "serviceDeploymentArn": arn, "status": "STOPPED" });
        Some((200, json!({ "serviceDeployments": [state] }).to_string()))
    });
    let ecs = scenario.start();
    let outcome = publish(&project(&[&service], STUCK), &ecs).exits(5);
    outcome.says("deploying the previous revision instead").ends_with("rolled back");
    assert_eq!(ecs.runs(&service.name), revision(&service.name, 1));
}

#[test]
fn stopped_tasks_of_the_deployment_are_found_among_many_others() {
    let many = vec![TaskOutcome::stopped("ServiceSchedulerInitiated", "Scaling activity initiated"); 305];
    let earlier = many.into_iter().fold(steps::progress(1, 0), Step::task);
    let service = Service::fresh().deploys([earlier, steps::succeed()]);
    let failing = [
        vec![crash()],
        vec![steps::progress(0, 1); 4],
        vec![steps::rolling_back(BROKEN), steps::rolled_back(BROKEN)],
    ];
    let service = service.deploys(failing.concat());
    let (name, ecs_api) = (&service.name, EcsApi::of(service.clone()));
    ecs(
        "RegisterTaskDefinition",
        &json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "two", "memory": 64 }] }),
    );
    ecs_api.deploy(name, &revision(name, 2));
    for _ in 0..3 {
        let look = json!({ "cluster": name, "services": [name] });
        api_at(&ecs_api.endpoint, "ecs", "AmazonEC2ContainerServiceV20141113.DescribeServices", &look);
    }
    publish(&project(&[&service], WAIT), &ecs_api).exits(5).ends_with("exit code 1");
}

#[test]
fn a_deployment_that_shifts_traffic_slowly_is_reported_in_time() {
    let service = Service::fresh().strategy("LINEAR").deploys([steps::succeed()]);
    let short = publish(&project(&[&service], WAIT), &EcsApi::of(service.clone())).exits(0);
    short.says("warning: the service is configured to shift traffic for 54m").says("times out after 30s");
    // Without `wait` it has that time.
    let long = publish(&project(&[&service], LEAVE), &EcsApi::of(service)).exits(0);
    long.says_not("shift traffic for");
}
