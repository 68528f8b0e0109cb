//! Tests in containers: services beside them, files in and out, results.

use crate::harness::{Project, containers_of, docker, eventually, unique};
use crate::servers::RecordedEngine;
use indoc::formatdoc;
use std::time::{Duration, Instant};

/// A pipeline that builds an image with busybox and tests it so.
pub fn project(test: &str) -> Project {
    let name = unique("tested");
    Project::new(&formatdoc! {r"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, tags: [t] }} }}
        phases:
          build:
            steps:
              - build: app
        {test}"})
    .file("Dockerfile", "FROM busybox:1.36\n")
}

pub fn networks_of(project: &Project) -> String {
    let state = project.json(".runner/state.json");
    let label = format!("label=dev.runner.run={}", state["build_id"].as_str().unwrap());
    docker(&["network", "ls", "-q", "--filter", &label])
}

/// A test with a database-like service, a web server and two others.
pub const SERVICES: &str = r#"      - test: app
        command: [sh, -c, "wget -q -O- http://web:8080/ && echo question | nc db 5432"]
        services:
          web:
            image: app
            command: [sh, -c, "mkdir /www; echo page > /www/index.html; sleep 1; httpd -f -p 8080 -h /www"]
            ready: { http: ":8080/index.html" }
          db:
            image: busybox:1.36
            command: [sh, -c, "while :; do echo answer $WORD | nc -l -p 5432; done"]
            env: { WORD: of-db }
            ready: { port: 5432, timeout: 20s }
          logger: { image: busybox:1.36, command: [sh, -c, "sleep 0.5; echo now ready; sleep 300"], ready: { log: now ready } }
          commander: { image: busybox:1.36, command: [sh, -c, "sleep 0.5; touch /up; sleep 300"], ready: { command: [test, -e, /up] } }
"#;

#[test]
fn services_have_names_during_the_test_and_are_removed_after_it() {
    let project = project(SERVICES);
    let run = project.runner("run").run().exits(0);
    run.says("services are ready: web, db, logger, commander").says("\npage\n").says("answer of-db\n");
    assert_eq!(containers_of(&project) + &networks_of(&project), "");
}

#[test]
fn a_service_that_does_not_start_shows_its_log() {
    for (ready, said) in [
        ("{ port: 9, timeout: 2s }", "the service `db` was not ready within 2 s"),
        ("{ healthcheck: true }", "the service `db` has no health check"),
    ] {
        let project = project(&format!(
            "      - test: app\n        command: [echo, never-run]\n        services:\n          db: {{ image: busybox:1.36, command: [sh, -c, \"echo why-it-does-not; sleep 300\"], ready: {ready} }}\n"
        ));
        let begin = Instant::now();
        let run =
            project.runner("run").run().exits(4).says("── log of the service db:").says_not("\nnever-run");
        assert!(run.stdout.contains("why-it-does-not\n") || said.contains("health"), "{run}");
        run.ends_with(said);
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(containers_of(&project), "");
    }
    let project = project(
        "      - test: app\n        command: [echo, never-run]\n        services: { db: { image: busybox:1.36, command: [sh, -c, \"echo last words; exit 7\"], ready: { port: 1 } } }\n",
    );
    project
        .runner("run")
        .run()
        .exits(4)
        .says("last words\n")
        .ends_with("the service `db` ended with exit code 7");
    let project =
        self::project("      - test: app\n        services: { db: { image: \"localhost:1/nowhere:1\" } }\n");
    project.runner("run").run().exits(3).ends_with("the image localhost:1/nowhere:1 could not be pulled");
}

#[test]
fn a_stopped_test_leaves_neither_services_nor_networks() {
    let project = project(&SERVICES.replace("wget -q", "touch /began; sleep 300; wget -q"));
    let running = project.runner("run").start();
    eventually(
        || project.exists(".runner/state.json") && containers_of(&project).lines().count() == 5,
        "not all containers came",
    );
    assert_eq!(networks_of(&project).lines().count(), 1);
    running.signal("TERM");
    running.finish().exits(143);
    assert_eq!(containers_of(&project), "");
    assert_eq!(networks_of(&project), "");
}

#[test]
fn files_go_in_and_out_whether_the_test_passes_or_fails() {
    let script = "cat /data/in.txt /one; ls /data/sub; mkdir -p /out/deep; echo from-inside > /out/deep/file; ln -s /etc/passwd /out/link; echo touched >> /data/in.txt; echo $(cat /bound/in.txt) > /bound/written; exit 3";
    let project = project(&format!(
        "      - test: app\n        command: [sh, -c, \"{script}\"]\n        volumes: [\"testdata:/data\", \"testdata/in.txt:/one\", \"testdata:/bound:bind\"]\n        copy-out: {{ /out: results, /out/deep/file: single.txt, /nowhere: nothing }}\n"
    ))
    .file("testdata/in.txt", "of-this-machine\n")
    .file("testdata/sub/other", "");
    let run = project.runner("run").run().exits(4).says("of-this-machine\nof-this-machine\nother\n");
    run.says("`copy-out` found nothing at /nowhere in the container")
        .says("not copied out of the container: out/link: it is a link that leads out of the directory");
    assert_eq!(project.read("results/deep/file"), "from-inside\n");
    assert_eq!(project.read("single.txt"), "from-inside\n");
    assert!(!project.exists("results/link"), "a link that leads out is not made");
    assert_eq!(project.read("testdata/in.txt"), "of-this-machine\n", "a copy is a copy");
    assert_eq!(project.read("testdata/written"), "of-this-machine\n");
    let project = self::project("      - { test: app, command: [\"true\"], volumes: [\"nowhere:/data\"] }\n");
    project.runner("run").run().exits(3).ends_with("nowhere");
    let project = self::project("      - { test: app, command: [\"true\"], volumes: [\"testdata\"] }\n");
    project.runner("run").run().exits(2).says("pipeline.yml:9:").says("is not a volume");
}

/// Findings, C4 and C5.
#[test]
fn services_that_are_done_or_slow_are_ready() {
    let run = |command: &str, ready: &str| serving(command, ready).runner("run").run();
    run("echo migration done", "{ log: migration done }").exits(0).says("\ntested\n");
    run("echo migration done; exit 3", "{ log: migration finished }").exits(4).says_not("\ntested");
    run("echo something else", "{ log: migration done, timeout: 5s }")
        .exits(4)
        .says("ended with exit code 0");
    let slow =
        "while :; do (printf 'HTTP/1.0 20'; sleep 0.3; printf '0 OK\\r\\n\\r\\n') | nc -l -p 8080; done";
    run(slow, "{ http: \":8080/\", timeout: 20s }").exits(0).says("\ntested\n");
}

/// A test of the image with a service that runs this command and has this probe.
fn serving(command: &str, ready: &str) -> Project {
    project(&format!(
        "      - test: app\n        command: [echo, tested]\n        services:\n          db: {{ image: app, command: [sh, -c, {command:?}], ready: {ready} }}\n"
    ))
}

/// Findings, C6. The test reaches a service over the network, never over the service's own loopback.
#[test]
fn a_server_on_loopback_is_not_ready() {
    let (port, http) = ("{ port: 8080, timeout: 3s }", "{ http: \":8080/\", timeout: 3s }");
    // The engine's network is out of reach there, as it is if the engine is on another machine.
    let elsewhere = ["unshare", "-n", "--"];
    let loopback = "mkdir /www; echo page > /www/index.html; httpd -f -p 127.0.0.1:8080 -h /www";
    for ready in [port, http] {
        let outcome = serving(loopback, ready).runner("run").run().exits(4).says_not("\ntested");
        outcome.ends_with("the service `db` was not ready within 3 s");
    }
    serving(loopback, port).runner("run").run_under(&elsewhere).exits(4).says_not("\ntested");
    let all = loopback.replace("127.0.0.1:", "");
    let own = loopback.replace("127.0.0.1", "$(hostname -i)");
    for command in [&all, &own] {
        serving(command, port).runner("run").run().exits(0).says("\ntested\n");
        serving(command, http).runner("run").run().exits(0).says("\ntested\n");
        serving(command, port).runner("run").run_under(&elsewhere).exits(0).says("\ntested\n");
    }
}

/// Findings, C5.
#[test]
fn a_log_is_read_once_and_in_little_memory() {
    let lines = "yes a line of a long log | head -c 4000000";
    let one_line = "head -c 4000000 /dev/zero | tr '\\0' x";
    for flood in [lines, one_line] {
        let command = format!("{flood}; echo; sleep 8; printf 'now re'; sleep 1; echo ady; sleep 300");
        let project = serving(&command, "{ log: now ready, timeout: 1m }");
        let engine = RecordedEngine::start();
        let call = project.runner("run").env("DOCKER_HOST", engine.host()).start();
        let (outcome, peak) = call.finish_measured();
        outcome.exits(0).says("\ntested\n");
        assert!(peak < 100_000_000, "{peak} bytes of memory");
        let read = engine.answered();
        // Each message has its time; a log that the engine rotates is opened again.
        assert!(read < 30_000_000, "{read} bytes read");
    }
    // Both streams of the output are read, and each by itself.
    let mixed = "printf re; sleep 1; echo x >&2; echo ady; echo ready >&2; sleep 300";
    serving(mixed, "{ log: ready, timeout: 10s }").runner("run").run().exits(0).says("\ntested\n");
}

/// Findings, C10: mistakes in the container's own settings fail the test, in words.
#[test]
fn users_groups_and_directories_that_do_not_exist_fail_the_test() {
    for (field, words) in [
        ("user: nosuch", "nosuch"),
        ("user: \"0:nosuch\"", "nosuch"),
        ("workdir: /etc/passwd", "/etc/passwd"),
        ("command: [/etc]", "/etc"),
    ] {
        let project = project(&format!("      - {{ test: app, {field} }}\n"));
        let outcome = project.runner("run").run().exits(4);
        outcome.says(words).says_not("status code");
    }
}

/// Findings, C7.
#[test]
fn volumes_follow_a_link_and_replace_no_directory() {
    let own = |volume: &str, script: &str| {
        let project = project(&format!(
            "      - {{ test: app, volumes: [\"{volume}\"], command: [sh, -c, \"{script}\"] }}\n"
        ));
        let project = project.file("real/file", "content\n").file("real/sub/other", "");
        std::os::unix::fs::symlink("real", project.path("link")).unwrap();
        std::os::unix::fs::symlink("real/file", project.path("file-link")).unwrap();
        project
    };
    for (volume, script) in [
        ("link:/data", "cat /data/file && ls /data/sub/other"),
        ("file-link:/data", "cat /data"),
        ("real/file:/etc", "cat /etc/file && test -f /etc/passwd"),
        ("real/file:/new/name", "cat /new/name"),
    ] {
        own(volume, script).runner("run").run().exits(0).says("content\n");
    }
    own("real:/etc/passwd", "true").runner("run").run().exits(3).says("copy files into a container");
}

#[test]
fn failing_tests_are_named_in_the_summary() {
    let xml = r#"<testsuites><testsuite name=\"s\"><testcase classname=\"Cart\" name=\"adds\"/><testcase classname=\"Cart\" name=\"divides\"><failure message=\"expected 1 but was 2\"/></testcase><testcase name=\"waits\"><skipped/></testcase></testsuite></testsuites>"#;
    let test = |code: u8| {
        project(&format!(
            "      - test: app\n        command: [sh, -c, 'mkdir -p /app/reports; echo \"{xml}\" > /app/reports/TEST-a.xml; echo no > /app/reports/b.txt; exit {code}']\n        reports: {{ junit: \"/app/reports/*.xml\" }}\n"
        ))
    };
    let failing = test(1);
    let run = failing.runner("run").run().exits(4);
    run.says("Cart › divides")
        .says("expected 1 but was 2")
        .ends_with("exit code 1, 2 tests, 1 failed, 1 skipped");
    assert!(failing.exists(".runner/reports/app/TEST-a.xml") && !failing.exists(".runner/reports/app/b.txt"));
    // The exit code decides.
    test(0).runner("run").run().exits(0).says("2 tests, 1 failed, 1 skipped");
    let none = project("      - { test: app, command: [\"true\"], reports: { junit: /none.xml } }\n");
    none.runner("run").run().exits(0).says("`reports` found no JUnit files in the container");
}

#[test]
fn memory_is_limited_and_running_out_of_it_is_reported() {
    let project = project(
        "      - { test: app, memory: 16m, command: [sh, -c, \"dd if=/dev/zero of=/dev/null bs=200M count=1\"] }\n",
    );
    project.runner("run").run().exits(4).says("out of memory");
}

/// Findings, C9.
#[test]
fn the_exit_code_decides_if_only_a_child_ran_out_of_memory() {
    let project = project(
        "      - { test: app, memory: 16m, command: [sh, -c, \"dd if=/dev/zero of=/dev/null bs=200M count=1; exit 0\"] }\n",
    );
    let outcome = project.runner("run").run().exits(0);
    outcome.says("warning: a process of the container ran out of memory, but the test passed");
}

#[test]
fn a_service_that_dies_during_the_test_fails_it() {
    let test = "      - test: app\n        command: [sleep, \"2\"]\n        services: { db: { image: app, command: [sh, -c, \"echo why-it-died; exit 3\"] } }\n";
    let run = project(test).runner("run").run().exits(4).says("why-it-died\n");
    run.ends_with("the service `db` ended with exit code 3 during the test");
    // One that has done its work is none that died.
    project(&test.replace("exit 3", "exit 0")).runner("run").run().exits(0);
}

#[test]
fn a_failed_copy_does_not_hide_the_failed_test() {
    let project =
        project("      - { test: app, command: [sh, -c, \"mkdir /o; exit 5\"], copy-out: { /o: taken } }\n");
    let project = project.file("taken", "a file");
    project.runner("run").run().exits(4).says("cannot copy /o").ends_with("exit code 5");
}
