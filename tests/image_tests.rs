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

/// Findings, A4: the copied files of results are for people, too. Each test case has the secret at another place or in
/// another spelling.
#[test]
fn secrets_are_masked_in_copied_junit_files() {
    let results = indoc! {r#"
        <?xml version="1.0"?>
        <testsuite name="s">
          <properties><property name="token" value="p&amp;ss&lt;w0rd&gt;&quot;1&apos;é"/></properties>
          <testcase name="text"><failure>got p&amp;ss&lt;w0rd>"1'é in 1 s</failure></testcase>
          <testcase name="message"><failure message="got p&#38;ss&#x3C;w0rd&#62;&#34;1&#x27;&#233; in 2 s"/></testcase>
          <testcase name="cdata"><error><![CDATA[got p&ss<w0rd>"1'é in 3 s]]></error></testcase>
          <testcase name="base64"><failure>got cCZzczx3MHJkPiIxJ8Op in 4 s</failure></testcase>
          <testcase name="of p&amp;ss&lt;w0rd&gt;&quot;1&#039;&#xe9;"/>
          <system-out>p&amp;ss&lt;w0rd&gt;"1'&#xE9;</system-out>
          <!-- p&ss<w0rd>"1'é -->
        </testsuite>
    "#};
    let masked = indoc! {r#"
        <?xml version="1.0"?>
        <testsuite name="s">
          <properties><property name="token" value="***"/></properties>
          <testcase name="text"><failure>got *** in 1 s</failure></testcase>
          <testcase name="message"><failure message="got *** in 2 s"/></testcase>
          <testcase name="cdata"><error><![CDATA[got *** in 3 s]]></error></testcase>
          <testcase name="base64"><failure>got *** in 4 s</failure></testcase>
          <testcase name="of ***"/>
          <system-out>***</system-out>
          <!-- *** -->
        </testsuite>
    "#};
    // What is not UTF-8 stays as it is.
    let latin =
        b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><testsuite><testcase name=\"caf\xe9\"/></testsuite>";
    let project = project(
        "      - test: app\n        command: exit 1\n        volumes: [\"results:/r\"]\n        reports: { junit: \"/r/*.xml\" }\n",
    );
    let text = project.read("pipeline.yml").replace("shell: sh", "shell: sh, parameter-store: { TOKEN: /t }");
    let project = project
        .file("pipeline.yml", text)
        .file("results/a.xml", results)
        .file("results/latin.xml", latin)
        // It is no JUnit file, but CodeBuild shows it nevertheless.
        .file("results/broken.xml", "<testsuite><failure>p&amp;ss&lt;w0rd&gt;&quot;1&apos;é");
    let outcome = project.runner("run").env("TOKEN", "p&ss<w0rd>\"1'é").run().exits(4);
    outcome.says("got *** in 1 s").says("got *** in 2 s").says("got *** in 3 s").says_not("w0rd");
    assert_eq!(project.read(".runner/reports/app/a.xml"), masked);
    assert_eq!(project.read(".runner/reports/app/broken.xml"), "<testsuite><failure>***");
    assert_eq!(std::fs::read(project.path(".runner/reports/app/latin.xml")).unwrap(), latin);
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
