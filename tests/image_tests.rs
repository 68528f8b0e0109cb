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

/// Findings, B14.
#[test]
fn proxies_of_dockers_configuration_reach_builds_and_containers() {
    let config = r#"{"proxies": {"default": {"httpProxy": "http://me:pass-word-1@proxy.invalid:1", "httpsProxy": "http://proxy.invalid:2", "noProxy": "a.invalid"}}}"#;
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images:
          app: { repository: proxies, tags: ["${TAG:-t}"], args: { no_proxy: own.invalid } }
        phases:
          build:
            steps:
              - build: app
              - test: app
                env: { NO_PROXY: test.invalid }
    "#})
    .file(".home/.docker/config.json", config)
    // The engine caches what it has built once, whatever the proxies were.
    .file("unique", unique("proxies"))
    .file(
        "Dockerfile",
        indoc! {r#"
            FROM busybox:1.36
            COPY unique /
            RUN echo "built with <$HTTPS_PROXY> <$https_proxy> <$NO_PROXY> <$no_proxy> <$http_proxy> <$FTP_PROXY>"
            CMD ["sh", "-c", "echo \"tested with <$HTTPS_PROXY> <$https_proxy> <$NO_PROXY> <$no_proxy> <$http_proxy> <$ALL_PROXY>\""]
        "#},
    );
    let outcome = project.runner("run").run().exits(0).says_not("pass-word-1");
    let proxy = "<http://proxy.invalid:2> <http://proxy.invalid:2>";
    let masked = "<http://me:***@proxy.invalid:1> <>";
    outcome
        .says(&format!("built with {proxy} <own.invalid> <own.invalid> {masked}"))
        .says(&format!("tested with {proxy} <test.invalid> <a.invalid> {masked}"));
}
