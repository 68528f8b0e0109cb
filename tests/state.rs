//! `.runner/`: the state that the calls of a build share.

use crate::harness::{Project, eventually, shell};
use indoc::indoc;
use std::os::unix::fs::PermissionsExt;

const PHASES: &str = indoc! {r"
    build:
      steps: [{ run: 'exit ${FAIL:-0}' }]
    post_build:
      steps:
        - run: echo deployed
        - { run: echo always, when: always }
"};

#[test]
fn calls_for_single_phases_are_one_build() {
    let project = Project::phases(PHASES).git();
    project.runner("run --phase build").run().exits(0);
    let first = project.json(".runner/state.json");
    project.runner("run --phase post_build").run().exits(0).says("deployed\n");
    let second = project.json(".runner/state.json");
    assert_eq!(first["build_id"], second["build_id"]);
    assert_eq!(second["phases"], serde_json::json!(["build", "post_build"]));
    // The same phase again is a new build.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    project.runner("run --phase build").run().exits(0);
    assert_ne!(project.json(".runner/state.json")["build_id"], first["build_id"]);
}

#[test]
fn after_a_failed_phase_a_later_call_ends_with_the_first_failure() {
    let project = Project::phases(PHASES).git();
    project.runner("run --phase build").env("FAIL", "9").run().exits(1);
    let outcome = project.runner("run --phase post_build").run().exits(1);
    outcome.says("always\n").says_not("\ndeployed").ends_with("exit code 9");
}

#[test]
fn runners_directory_is_private_and_ignores_itself() {
    let project = Project::phases(PHASES).git();
    project.runner("run").run().exits(0);
    let state = std::fs::metadata(project.path(".runner/state.json")).unwrap();
    assert_eq!(state.permissions().mode() & 0o777, 0o600);
    let status = shell("git", &["-C", project.root().to_str().unwrap(), "status", "--porcelain"]);
    assert_eq!(status, "");
}

#[test]
fn a_second_run_in_the_same_directory_is_refused() {
    let project = Project::phases(
        "build: { steps: [{ run: 'touch begun; until test -e go; do sleep 0.05; done' }] }\n",
    );
    let mut running = project.runner("run").start();
    running.until_exists(&project.path("begun"));
    project.runner("run").run().exits(3).complains("another runner is using");
    std::fs::write(project.path("go"), "").unwrap();
    running.finish().exits(0);
    eventually(|| project.runner("run").run().code == Some(0), "the lock stays");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let project = Project::phases(PHASES).file(".runner", "a file");
    project.runner("run").run().exits(3).complains(".runner").complains("remove it");
}

#[test]
fn a_build_that_could_not_start_has_failed_for_later_phases() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { T: /no/such } }
        phases:
          build: { steps: [{ run: echo built }] }
          post_build: { steps: [{ run: echo deployed }, { run: echo always, when: always }] }
    "});
    let call = |phase: &str| {
        project.runner(&format!("run --publish --phase {phase}")).aws().env("CODEBUILD_BUILD_ID", "t:1")
    };
    call("build").run().exits(3).complains("there is no parameter `/no/such`");
    // The parameter is there now, but the build is the same.
    let outcome = call("post_build").env("T", "given-now").run().exits(3);
    outcome.says("always\n").says_not("\ndeployed").ends_with("there is no parameter `/no/such`");
}

#[test]
fn the_state_keeps_failures_without_secrets() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { T: /t } }
        images: { app: { repository: t, tags: [t], dockerfile: "${T}/x" } }
        phases: { build: { steps: [{ build: app }] } }
    "#})
    .file("Dockerfile", "FROM scratch\n");
    project.runner("run").env("T", "hunter2-hunter2").run().exits(2).says_not("hunter2");
    assert!(!project.read(".runner/state.json").contains("hunter2"));
}

#[test]
fn a_phase_whose_process_was_killed_has_failed() {
    let project = Project::phases(indoc! {r"
        build: { steps: [{ run: 'touch begun; sleep 60' }] }
        post_build: { steps: [{ run: echo deployed }] }
    "});
    let mut running = project.runner("run --phase build").start();
    running.until_exists(&project.path("begun"));
    running.signal("KILL");
    assert_eq!(running.finish().code, None);
    let outcome = project.runner("run --phase post_build").run().exits(1).says_not("\ndeployed");
    outcome.ends_with("the phase build did not finish");
}

#[test]
fn a_whole_run_never_continues_another() {
    let project = Project::phases("install: { steps: [{ run: \"false\" }] }\n").git();
    project.runner("run").run().exits(1);
    let pipeline = project.read("pipeline.yml").replace("install", "build").replace("false", "true");
    let project = project.file("pipeline.yml", pipeline);
    project.runner("run").run().exits(0);
}

#[test]
fn an_unreadable_state_is_refused() {
    let project = Project::phases(indoc! {r"
        install: { steps: [{ run: exit 1 }] }
        build: { steps: [{ run: echo deployed }] }
    "});
    project.runner("run --phase install").run().exits(1);
    std::fs::write(project.path(".runner/state.json"), "{ half").unwrap();
    let refused = project.runner("run --phase build").run().exits(3).says_not("\ndeployed");
    refused
        .complains("state.json, which holds the results of earlier calls")
        .complains("remove it to start over");
}
