//! What runner says about builds beyond the engine's own words: causes that it knows, and no noise.

use crate::build::project;
use crate::harness::{Outcome, Project, unique};
use std::fs;

/// Findings, F: the error of a mistyped instruction has nothing to do with heredocs.
#[test]
fn a_mistyped_instruction_has_a_suggestion() {
    let project = project("", "dockerfile: app.docker", "").file("x", "");
    let build = |text: &str| {
        fs::write(project.path("app.docker"), text).unwrap();
        project.runner("run").run().exits(1)
    };
    for (text, name, meant) in [
        ("FROM busybox:1.36\nCPY x /\n", "CPY", "COPY"),
        ("FROM busybox:1.36\nRUN <<END\necho a\nEND\nRNU echo\n", "RNU", "RUN"),
        ("FROM busybox:1.36\nentrypiont [\"sh\"]\n", "ENTRYPIONT", "ENTRYPOINT"),
    ] {
        let outcome = build(text);
        // Engines before 23 stop in the heredoc. Current ones suggest the instruction themselves.
        if !outcome.stdout.contains("unknown instruction: ECHO") {
            outcome
                .says(&format!("unknown instruction: {name}"))
                .has_line(&["did you mean ", meant])
                .says_not("heredoc");
        }
    }
    build("FROM busybox:1.36\nDEPLOY x\n").says("unknown instruction: DEPLOY").says_not("help: ");
}

/// A project with an ignore file, in whose context `missing` is left out.
fn ignoring(ignore: &str, instruction: &str) -> Outcome {
    let own = unique("ignoring");
    let project = project(
        &format!("FROM busybox:1.36\nLABEL own={own}\n{instruction}\n"),
        "context: context, dockerfile: context/Dockerfile",
        "",
    );
    fs::create_dir_all(project.path("context/d/e")).unwrap();
    for file in ["a.txt", "d/b.txt", "d/e/c.txt", "imagedefinitions.json"] {
        fs::write(project.path("context").join(file), "x").unwrap();
    }
    fs::rename(project.path("Dockerfile"), project.path("context/Dockerfile")).unwrap();
    let project = project.file("context/.dockerignore", ignore);
    let outcome = project.runner("run").run().exits(1);
    let place = project.path("context").display().to_string();
    Outcome { stdout: outcome.stdout.replace(&place, "CONTEXT"), ..outcome }
}

/// Findings, F: a file that `.dockerignore` leaves out is there, and the line that leaves it out is known.
#[test]
fn a_file_that_the_ignore_file_leaves_out_is_explained() {
    for (ignore, instruction, path, pattern, line) in [
        ("# text\n\n*.txt\n", "COPY a.txt /", "a.txt", "*.txt", 3),
        ("# none\n\nd/b*\n", "ADD d/b.txt /x", "d/b.txt", "d/b*", 3),
        ("*\n!a.txt\n", "COPY d/e/c.txt /", "d/e/c.txt", "*", 1),
        ("d\n!d/e\n", "COPY [\"d/b.txt\", \"/\"]", "d/b.txt", "d", 1),
        ("/d/\n", "COPY d/e/c.txt /", "d/e/c.txt", "d", 1),
        ("**/e\r\n", "RUN --mount=type=bind,source=d/e/c.txt,target=/c true", "d/e/c.txt", "**/e", 1),
        ("a.txt\n!a.txt\n./a.*\n", "COPY ./d/../a.txt /", "a.txt", "a.*", 3),
    ] {
        let outcome = ignoring(ignore, instruction);
        outcome.ends_with(&format!(
            "help: `{path}` exists, but `{pattern}` in CONTEXT/.dockerignore:{line} leaves it out of the build context; add `!{path}` below that line, or change it"
        ));
    }
    ignoring("", "COPY imagedefinitions.json /").ends_with(
        "`imagedefinitions.json` exists, but runner's own files are never part of a build context",
    );
    // A file that is not there has no explanation.
    ignoring("*.txt\n", "COPY nowhere.txt /").ends_with("nowhere.txt").says_not("help: ");
}

/// Findings, F: steps end once, their texts are cut, and an image of the same size needs no line.
#[test]
fn the_log_of_a_build_has_no_noise() {
    let long =
        format!("RUN sleep 0.2 && echo a long text that no one needs twice in the log, as {}", unique("it"));
    let padded = |name: &str| format!("{:>60}", unique(name));
    let project = project("", "dockerfile: app.docker", "").file("x", padded("x"));
    fs::write(
        project.path("app.docker"),
        format!("FROM busybox:1.36\nLABEL of={}\n{long}\nCOPY x /x\n", unique("noise")),
    )
    .unwrap();
    let once = |project: &Project| {
        let outcome = project.runner("run").run().exits(0);
        for number in 1..20 {
            let ends = format!("#{number} done ");
            let count = outcome.stdout.lines().filter(|line| line.starts_with(&ends)).count();
            assert!(count <= 1, "{outcome}");
        }
        outcome
    };
    let cut: String = format!("[2/3] {long}").chars().take(60).collect();
    once(&project).has_line(&["  0 of 2 steps cached; slowest: ", &format!("{cut}… ")]);
    // Another build of the same size.
    fs::write(project.path("x"), padded("y")).unwrap();
    once(&project).says_not("previous image");
}
