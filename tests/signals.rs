//! Signals: the run stops in order, `finally` runs, and nothing is left behind.

use crate::harness::{Project, containers_of, eventually};
use indoc::indoc;
use std::time::Instant;

const SLEEPER: &str = indoc! {r"
    build:
      steps:
        - run: 'sleep 300 & echo $! > child; touch begun; wait'
        - run: echo never
      finally:
        - run: echo cleaned
"};

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
fn after_a_stop_the_same_call_starts_over() {
    let project = Project::phases(indoc! {r"
        build: { steps: [{ run: 'touch begun; sleep ${NAP:-0}' }] }
        post_build: { steps: [{ run: echo through }] }
    "});
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
    let project = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: t, tags: [t] } }
        phases: { build: { steps: [{ build: app }] } }
    "})
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
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - run: "trap '' TERM; touch begun; while :; do sleep 0.1; done"
          finally:
            - run: sleep 30
    "#});
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
    let project = Project::phases("build: { steps: [{ run: 'touch begun; seq 1 100000; touch done' }] }\n");
    let mut running = project.runner("run").start();
    running.close_stdout();
    running.finish().exits(0);
    assert!(project.exists("done"));
}

#[test]
fn a_stopped_container_test_leaves_no_container() {
    let project = Project::new(
        indoc! {r#"
            version: 1
            name: t
            images: { app: { repository: t, tags: [stopped] } }
            phases: { build: { steps: [{ build: app }, { test: app, command: [sh, -c, "echo up; sleep 300"] }] } }
        "#},
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

#[test]
fn a_reader_that_stops_reading_delays_the_run_but_not_its_end() {
    let project = Project::phases(indoc! {r"
        build:
          steps: [{ run: 'touch begun; yes a line of a flood; touch never' }]
          finally: [{ run: touch cleaned }]
    "});
    // Its output is never read.
    let mut running = project.runner("run --grace 1s").start();
    running.until_exists(&project.path("begun"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(running.ended().is_none() && !project.exists("never"), "the command waits");
    running.signal("TERM");
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = running.ended() {
            break status;
        }
        assert!(begin.elapsed().as_secs() < 15, "it hangs");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(143));
    assert!(project.exists("cleaned"));
}

#[test]
fn a_line_without_an_end_takes_no_memory() {
    let project = Project::new(indoc! {"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { A: /a, B: /b } }
        phases: { build: { steps: [{ run: 'head -c 100000000 /dev/zero' }] } }
    "})
    .file(
        "env",
        "A=correct-horse\nB=\"-----BEGIN KEY-----\\nMIIEvQIBADANBgkqhkiG9w0BAQEF\\n-----END KEY-----\\n\"\n",
    );
    let mut running = project.runner("run --env-file env").start();
    let log = running.drain();
    let (outcome, peak) = running.finish_measured();
    outcome.exits(0);
    assert!(log.join().unwrap() > 100_000_000);
    assert!(peak < 64 * 1024 * 1024, "{peak} bytes");
}

#[test]
fn a_log_that_does_not_take_everything_at_once_loses_nothing() {
    let project = Project::phases("build: { steps: [{ run: seq 1 60000 }] }\n");
    // Some programs leave the pipes that they share in this state.
    let script = "import fcntl, os, subprocess, sys, time
r, w = os.pipe()
fcntl.fcntl(w, fcntl.F_SETFL, fcntl.fcntl(w, fcntl.F_GETFL) | os.O_NONBLOCK)
child = subprocess.Popen([sys.argv[1], 'run'], stdout=w)
os.close(w)
lines = 0
while chunk := os.read(r, 4096):
    lines += chunk.count(b'\\n')
    time.sleep(0.0005)
sys.exit(child.wait() or (0 if lines > 60000 else 99))";
    let status = std::process::Command::new("python3")
        .args(["-c", script, env!("CARGO_BIN_EXE_runner")])
        .current_dir(project.root())
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_runner"))
        .arg("run")
        .current_dir(project.root())
        .stdout(full)
        .output()
        .unwrap();
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && warning.contains("the log cannot be written: No space left"),
        "{warning}"
    );
}
