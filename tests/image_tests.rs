//! `test`: containers of exactly the image that was built.

use crate::harness::{Project, containers_of, unique};
use indoc::{formatdoc, indoc};

fn project(steps: &str) -> Project {
    let repository = unique("test");
    Project::new(&formatdoc! {"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {repository}, tags: [t] }} }}
        phases:
          build:
            steps:
              - build: app
        {steps}    finally:
              - run: echo cleaned
          post_build: {{ steps: [{{ run: echo never }}] }}
    "})
    .file("Dockerfile", "FROM busybox:1.36\nENV BASE=image\nWORKDIR /w\nUSER 1000\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo default\"]\n")
}

#[test]
fn command_entrypoint_env_user_and_workdir() {
    let project = project(
        "      - { test: app }\n      - { test: app, command: 'echo \"$BASE $A $(id -u) $(pwd)\"', env: { A: \"${source.commit.short:-x y}\" } }\n      - { test: app, entrypoint: [echo, ep], command: [one, two], user: \"0\", workdir: /tmp }\n",
    );
    let outcome = project.runner("run").run();
    assert!(outcome.stdout.contains("default\n"), "{outcome}");
    assert!(outcome.stdout.contains("image x y 1000 /w\n"), "{outcome}");
    assert!(outcome.stdout.contains("ep one two\n"), "{outcome}");
    outcome.exits(0);
    assert_eq!(containers_of(&project), "");
}

#[test]
fn a_failing_test_is_exit_4_and_stops_the_run() {
    let project =
        project("      - { test: app, command: 'echo to-stderr >&2; exit 3' }\n      - run: echo never\n");
    let outcome =
        project.runner("run").run().exits(4).says("to-stderr\n").says("cleaned\n").says_not("\nnever");
    outcome.ends_with("the tests of the image `app` failed: exit code 3");
    assert_eq!(containers_of(&project), "");
}

#[test]
fn a_command_that_does_not_exist_in_the_image_fails_the_test() {
    let project = project("      - { test: app, entrypoint: [/no/such/program] }\n");
    project.runner("run").run().exits(4).ends_with("/no/such/program");
    assert_eq!(containers_of(&project), "");
}

#[test]
fn a_killed_command_names_its_signal() {
    let project = project("      - { test: app, command: \"sh -c 'kill -9 $$$$'; exit $?\" }\n");
    project.runner("run").run().exits(4).ends_with("signal 9");
}

#[test]
fn an_image_that_was_not_built_is_named() {
    let project = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: a, tags: [t] } }
        phases: { install: { steps: [{ build: app }] }, build: { steps: [{ test: app }] } }
    "});
    project
        .runner("run --phase build")
        .run()
        .exits(2)
        .ends_with("has not been built")
        .ends_with("put `build: app` before this step");
}
