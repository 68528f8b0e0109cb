//! A checkout may bring a `.runner` of its own. Nothing outside of it is written, overwritten or deleted.

use crate::harness::Project;
use indoc::indoc;
use std::os::unix::fs::symlink;
use std::path::Path;

const PIPELINE: &str = indoc! {r#"
    version: 1
    name: t
    env: { shell: sh, exported-variables: [A] }
    notify: [{ slack: "https://example.com/x" }]
    phases:
      build:
        steps:
          - run: echo A=1 >> "$RUNNER_ENV"
          - task-definition: { file: td.json }
"#};
const DEFINITION: &str = r#"{ "family": "f", "containerDefinitions": [{ "name": "web", "image": "busybox", "essential": true }] }"#;

/// A project beside a directory `outside` with some files.
fn project() -> Project {
    Project::new("")
        .file("clone/pipeline.yml", PIPELINE)
        .file("clone/td.json", DEFINITION)
        .file("outside/tmp/kept", "kept")
        .file("outside/kept", "kept")
        .file("outside/.runner-tmp-kept", "kept")
}

/// The files below a directory with their content, links as such.
fn content(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.push(format!("{}/", entry.path().display()));
            found.extend(content(&entry.path()));
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            found.push(format!("{}: {text}", entry.path().display()));
        }
    }
    found.sort();
    found
}

/// Findings, A12: `.runner` itself is a link.
#[test]
fn a_linked_work_directory_is_refused() {
    let project = project();
    let before = content(&project.path("outside"));
    symlink("../outside", project.path("clone/.runner")).unwrap();
    for command in ["run --file clone/pipeline.yml --local", "gc --file clone/pipeline.yml"] {
        let outcome = project.runner(command).run();
        assert_eq!(outcome.code, Some(3), "{outcome}");
        outcome.complains(".runner: it is not a directory, or a link to one");
    }
    assert_eq!(content(&project.path("outside")), before);
}

/// Findings, A12: links below `.runner`, to files and to directories. Each run ends by itself.
#[test]
fn links_in_the_work_directory_are_not_followed() {
    for name in [
        ".gitignore",
        "lock",
        "tmp",
        "state.json",
        "state-pipeline.yml.json",
        "exports.sh",
        "ecs",
        "notifications",
        "registry",
        "reports",
        "dockerd.log",
    ] {
        for target in ["../../outside", "../../outside/kept", "../../outside/none"] {
            let project = project();
            let before = content(&project.path("outside"));
            std::fs::create_dir(project.path("clone/.runner")).unwrap();
            symlink(target, project.path("clone/.runner").join(name)).unwrap();
            for command in ["run --file clone/pipeline.yml --local", "gc --file clone/pipeline.yml"] {
                let limits = ["timeout", "20"];
                let outcome = project.runner(command).run_under(&limits);
                assert!(matches!(outcome.code, Some(0 | 3)), "{name} -> {target}: {outcome}");
                assert_eq!(content(&project.path("outside")), before, "{name} -> {target}: {command}");
            }
        }
    }
}

/// Findings, E2: pipes and devices in place of files.
#[test]
fn pipes_in_the_work_directory_do_not_hang_a_run() {
    for name in ["lock", "state.json", "exports.sh", ".gitignore", "tmp", "ecs"] {
        let project = project();
        std::fs::create_dir(project.path("clone/.runner")).unwrap();
        crate::harness::shell("mkfifo", &[&project.path("clone/.runner").join(name).display().to_string()]);
        let call = project.runner("run --file clone/pipeline.yml --local --phase build");
        let outcome = call.run_under(&["timeout", "20"]);
        assert!(matches!(outcome.code, Some(0 | 3)), "{name}: {outcome}");
    }
}

/// Findings, E2: files of the source that never end.
#[test]
fn devices_and_pipes_in_place_of_a_task_definition_are_refused() {
    for target in ["/dev/zero", "/dev/random", "pipe"] {
        let project = project();
        crate::harness::shell("mkfifo", &[&project.path("clone/pipe").display().to_string()]);
        std::fs::remove_file(project.path("clone/td.json")).unwrap();
        symlink(target, project.path("clone/td.json")).unwrap();
        let limits = ["sh", "-c", "ulimit -v 4000000; exec timeout 20 \"$@\"", "sh"];
        let outcome = project.runner("run --file clone/pipeline.yml --local").run_under(&limits).exits(2);
        outcome.says("td.json: it is not a regular file");
    }
}
