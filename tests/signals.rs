//! Signals: the run stops in order, `finally` runs, nothing stays behind.

use crate::harness::{Project, containers_of, eventually};
use std::time::Instant;

const SLEEPER: &str = "  build:\n    steps:\n      - run: 'sleep 300 & echo $! > child; touch begun; wait'\n      - run: echo never\n    finally:\n      - run: echo cleaned\n";

fn is_gone(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[test]
fn term_and_int_stop_the_step_and_run_finally() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let project = Project::phases(SLEEPER);
        let mut running = project.runner("run").start();
        running.until_exists(&project.path("begun"));
        running.signal(signal);
        let outcome = running.finish().exits(code);
        outcome.says("cleaned\n").says_not("\nnever").ends_with(&format!("stopped by SIG{signal}"));
        let child = project.read("child");
        eventually(|| is_gone(&child), "the child of the step lives");
    }
}

#[test]
fn after_a_stop_the_same_call_starts_anew() {
    let project = Project::phases(
        "  build: { steps: [{ run: 'touch begun; sleep ${NAP:-0}' }] }\n  post_build: { steps: [{ run: echo through }] }\n",
    );
    let mut running = project.runner("run").env("NAP", "60").start();
    running.until_exists(&project.path("begun"));
    running.signal("INT");
    running.finish().exits(130);
    // A later phase belongs to the stopped build, and says so.
    project.runner("run --phase post_build").run().exits(130).says_not("\nthrough");
    project.runner("run").run().exits(0).says("\nthrough");
}

#[test]
fn an_engine_that_never_answers_can_be_stopped() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", silent.local_addr().unwrap());
    let project = Project::new("version: 1\nname: t\nimages: { app: { repository: t, tags: [t] } }\nphases: { build: { steps: [{ build: app }] } }\n")
        .file("Dockerfile", "FROM busybox:1.36\n");
    let begin = Instant::now();
    let running = project.runner("run").env("DOCKER_HOST", &host).start();
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal("TERM");
    running.finish().exits(143);
    assert!(begin.elapsed().as_secs() < 9, "{:?}", begin.elapsed());
    project.runner("run").env("DOCKER_HOST", &host).run().exits(3).ends_with("no answer within 10 s");
}

#[test]
fn a_second_signal_ends_at_once() {
    let project = Project::phases(
        "  build:\n    steps:\n      - run: \"trap '' TERM; touch begun; while :; do sleep 0.1; done\"\n    finally:\n      - run: sleep 30\n",
    );
    let mut running = project.runner("run").start();
    running.until_exists(&project.path("begun"));
    let begin = Instant::now();
    running.signal("TERM");
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal("TERM");
    running.finish().exits(143);
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

#[test]
fn a_closed_log_does_not_hang_the_run() {
    let project = Project::phases("  build: { steps: [{ run: 'touch begun; seq 1 100000; touch done' }] }\n");
    let mut running = project.runner("run").start();
    running.close_stdout();
    running.finish().exits(0);
    assert!(project.exists("done"));
}

#[test]
fn a_stopped_container_test_leaves_no_container() {
    let project = Project::new(
        "version: 1\nname: t\nimages: { app: { repository: t, tags: [stopped] } }\nphases: { build: { steps: [{ build: app }, { test: app, command: [sh, -c, \"echo up; sleep 300\"] }] } }\n",
    )
    .file("Dockerfile", "FROM busybox:1.36\n");
    let running = project.runner("run").start();
    eventually(
        || project.exists(".runner/state.json") && !containers_of(&project).is_empty(),
        "no container came",
    );
    running.signal("INT");
    running.finish().exits(130);
    assert_eq!(containers_of(&project), "");
}
