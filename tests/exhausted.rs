//! Limits of the system that are too low: open files, processes and threads, memory.

use crate::harness::{Outcome, Project, eventually};
use indoc::indoc;
use std::os::unix::fs::PermissionsExt;

const COMMANDS: [&str; 3] = ["validate", "plan", "run"];

fn project() -> Project {
    Project::phases(indoc! {r"
        build:
          steps:
            - run: echo a script
            - run: [echo, a command]
            - parallel:
                - run: echo one
                - run: echo two
                - run: echo three
          finally: [{ run: echo done }]
    "})
}

/// It works, or it names the limit and how to raise it.
#[track_caller]
fn works_or_names(outcome: &Outcome, limit: &str) {
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    match outcome.code {
        Some(0) => {}
        Some(3) => assert!(text.contains(&format!("raise the limit {limit}")), "{limit}\n{outcome}"),
        _ => panic!("{limit}\n{outcome}"),
    }
    assert!(!text.contains("defect"), "{limit}\n{outcome}");
}

/// Findings, E4.
#[test]
fn too_few_open_files_are_named() {
    let project = project();
    for command in COMMANDS {
        for files in (3..32).chain([64]) {
            let limits = ["prlimit".to_owned(), format!("--nofile={files}:{files}"), "--".to_owned()];
            let outcome = project.runner(command).run_under(&limits);
            works_or_names(&outcome, &format!("of open files, {files} (`ulimit -n`"));
            match files {
                7 => assert_eq!(outcome.code, Some(3), "{outcome}"),
                64 => assert_eq!(outcome.code, Some(0), "{outcome}"),
                _ => {}
            }
        }
    }
}

/// Findings, E4. Root has no limit of processes, so this is another user, who has no other process.
#[test]
fn too_few_processes_and_threads_are_named() {
    let project = project();
    for path in ["", ".home"] {
        std::fs::set_permissions(project.path(path), std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let user = 100_000 + std::process::id();
    for command in COMMANDS {
        for processes in (1..24).chain([64]) {
            let text = format!(
                "prlimit --nproc={processes}:{processes} setpriv --reuid {user} --regid {user} --clear-groups --"
            );
            let limits: Vec<&str> = text.split(' ').collect();
            let outcome = project.runner(command).run_under(&limits);
            works_or_names(&outcome, &format!("of processes and threads, {processes} (`ulimit -u`"));
            match processes {
                1 => assert_eq!(outcome.code, Some(3), "{outcome}"),
                64 => assert_eq!(outcome.code, Some(0), "{outcome}"),
                _ => {}
            }
        }
    }
}

/// Findings, E4.
#[test]
fn too_little_memory_is_named() {
    let project = project();
    let mut refused = 0;
    for kib in (20_000..130_000).step_by(4_000).chain([200_000, 400_000]) {
        let bytes = kib * 1024;
        let limits = ["prlimit".to_owned(), format!("--as={bytes}:{bytes}"), "--".to_owned()];
        for command in ["validate", "run"] {
            let outcome = project.runner(command).run_under(&limits);
            // The kernel ends a program for which there is no room at all.
            if outcome.code.is_some() || !outcome.stdout.is_empty() || kib > 100_000 {
                works_or_names(&outcome, &format!("on memory, {kib} KiB (`ulimit -v`"));
            }
            refused += usize::from(outcome.code == Some(3));
        }
    }
    assert!(refused > 0);
    let thread = project.runner("run").env("RUST_MIN_STACK", "100000000000");
    thread.env("TOKIO_WORKER_THREADS", "0").run().exits(0);
}

/// Findings, E4.
#[test]
fn many_parallel_steps_need_no_higher_soft_limit() {
    let steps: String =
        (0..300).map(|step| format!("      - run: echo {step} >> started; sleep 3\n")).collect();
    let project = Project::phases(&format!("build:\n  steps:\n    - parallel:\n{steps}"));
    project.runner("run").run_under(&["prlimit", "--nofile=1024:20000", "--"]).exits(0);
    assert_eq!(project.read("started").lines().count(), 300);
    let outcome = project.runner("run").run_under(&["prlimit", "--nofile=256:256", "--"]).exits(3);
    outcome.says("raise the limit of open files, 256");
}

/// Findings, E4. A program that uses select(2) cannot handle files from 1024 on.
#[test]
fn commands_have_the_soft_limit_that_runner_was_started_with() {
    let print = "ulimit -Sn; ulimit -Hn; echo \"[$RUNNER_OPEN_FILES]\"";
    let project = Project::phases(&format!(
        indoc! {r"
            build:
              steps:
                - run: |
                    {print}
                - run: [sh, print]
                - parallel: [{{ run: sh print }}, {{ run: sh print }}]
              finally: [{{ run: sh print }}]
        "},
        print = print
    ))
    .file("print", print);
    let outcome = project.runner("run").run_under(&["prlimit", "--nofile=517:4096", "--"]).exits(0);
    for line in ["517", "4096", "[]"] {
        let count = outcome.stdout.lines().filter(|printed| printed.ends_with(line)).count();
        assert_eq!(count, 5, "{line}\n{outcome}");
    }
    // So has a program that outlives the run: an engine, whose containers inherit it.
    let project =
        project.file("write", "{ ulimit -Sn; echo \"[$RUNNER_OPEN_FILES]\"; } > new; mv new written");
    let script = project.path("write").display().to_string();
    project.runner(&format!("detached sh {script}")).env("RUNNER_OPEN_FILES", "517").run().exits(0);
    eventually(|| project.exists("written"), "the detached program did not run");
    assert_eq!(project.read("written"), "517\n[]\n");
}
