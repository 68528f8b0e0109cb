//! `run` steps: scripts, programs, order, `when`, `finally`, output.

use crate::harness::Project;
use indoc::indoc;

#[test]
fn a_failing_command_stops_the_run_and_finally_runs() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - run: |
                echo one
                false
                echo never-inline
            - run: echo never-step
          finally:
            - run: echo cleaned
        post_build:
          steps:
            - run: echo never-phase
    "});
    project
        .runner("run")
        .run()
        .exits(1)
        .says("one\n")
        .says("cleaned\n")
        .says("post_build: skipped, something failed before")
        .says_not("never-inline\n")
        .says_not("\nnever-step")
        .says_not("\nnever-phase")
        .ends_with("failed after")
        .ends_with("the command ended with exit code 1");
}

#[test]
fn a_failure_in_a_pipe_counts_in_bash() {
    let project = Project::new(indoc! {r#"
            version: 1
            name: t
            phases: { build: { steps: [{ run: "false | cat" }] } }
        "#});
    project.runner("run").run().exits(1);
}

#[test]
fn a_list_is_a_program_without_a_shell() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - run: [printf, "%s|", "$HOME", "a b", "*", "${x}"]
    "#});
    project.runner("run").run().exits(0).says("$HOME|a b|*|${x}|");
}

#[test]
fn a_program_beside_the_pipeline_file_is_found_from_anywhere() {
    let project = Project::new("").file(
        "sub/pipeline.yml",
        indoc! {"
            version: 1
            name: t
            phases: { build: { steps: [{ run: [./x.sh, one] }, { run: [../x.sh, two], dir: deep }] } }
        "},
    );
    let project = project.file("sub/x.sh", "#!/bin/sh\necho \"x $1\"\n").file("sub/deep/file", "");
    crate::harness::shell("chmod", &["+x", project.path("sub/x.sh").to_str().unwrap()]);
    project.runner("run --file sub/pipeline.yml").run().exits(0).says("x one\n").says("x two\n");
}

#[test]
fn missing_programs_are_named_with_help() {
    let project = Project::phases("build: { steps: [{ run: [no-such-program] }] }\n");
    project.runner("run").run().exits(3).ends_with("there is no program `no-such-program`");
    let project = Project::phases("build: { steps: [{ run: \"true\", dir: nowhere }] }\n");
    project.runner("run").run().exits(3).ends_with("nowhere does not exist");
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        phases: { build: { steps: [{ run: "true" }] } }
    "#});
    let outcome = project.runner("run").env("PATH", "/nonexistent").run();
    outcome.exits(3).ends_with("there is no program `bash`").ends_with("shell: sh");
}

#[test]
fn when_selects_steps_after_a_failure() {
    let project = Project::phases(indoc! {r"
        install:
          steps:
            - run: exit 7
            - { run: echo mended, when: failure }
            - { run: echo anyway, when: always }
        build: { steps: [{ run: echo no-build }] }
        post_build:
          when: always
          steps:
            - run: echo post
            - { run: echo no-success, when: success }
    "});
    let outcome = project.runner("run").run().exits(1);
    outcome
        .says("mended\n")
        .says("anyway\n")
        .says("post\n")
        .says_not("\nno-build")
        .says_not("\nno-success")
        .ends_with("install › exit 7: the command ended with exit code 7");
}

#[test]
fn a_failed_step_ends_its_phase_even_if_the_phase_always_runs() {
    let project = Project::phases(indoc! {r"
        build: { steps: [{ run: exit 5 }] }
        post_build:
          when: always
          steps: [{ run: echo first }, { run: exit 6 }, { run: echo never }, { run: echo own, when: always }]
    "});
    let outcome = project.runner("run").run().exits(1).says("first\n").says("own\n").says_not("\nnever");
    outcome.ends_with("build › exit 5: the command ended with exit code 5");
}

#[test]
fn a_failing_finally_fails_the_phase_but_the_first_failure_decides() {
    let project = Project::phases(indoc! {r#"
        build:
          steps: [{ run: "true" }]
          finally: [{ run: exit 3 }, { run: echo second }]
    "#});
    project.runner("run").run().exits(1).says("second\n").ends_with("exit code 3");
}

#[test]
fn output_is_passed_on_byte_for_byte() {
    let project = Project::phases(
        "build:\n  steps:\n    - run: printf 'a\\000b\\377c\\rd'; printf 'err\\n' >&2; printf 'no end'\n",
    );
    let outcome = project.runner("run").run().exits(0);
    let expected = b"a\0b\xffc\rderr\nno end\n";
    let found = outcome.bytes.windows(expected.len()).any(|window| window == expected);
    assert!(found, "{outcome}");
}

#[test]
fn a_lot_of_output_arrives_whole() {
    let project = Project::phases("build: { steps: [{ run: seq 1 200000 }] }\n");
    let outcome = project.runner("run").run().exits(0);
    assert_eq!(outcome.stdout.lines().filter(|line| line.parse::<u32>().is_ok()).count(), 200_000);
}

#[test]
fn nothing_leaks_between_steps() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - { run: "cd /; export X=1; umask 077; sleep 300 & echo $! > $OLDPWD/pid" }
            - run: "pwd; echo X=$X."
    "#});
    let outcome = project.runner("run").run().exits(0).says("X=.\n");
    outcome.says(&project.root().canonicalize().unwrap().display().to_string());
    let pid = project.read("pid");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
    assert!(status.is_empty() || status.contains("State:\tZ"), "the background process lives: {status}");
}

#[test]
fn a_grandchild_that_holds_the_output_does_not_hang_the_step() {
    let project = Project::phases("build: { steps: [{ run: \"setsid sleep 8 & echo started\" }] }\n");
    let begin = std::time::Instant::now();
    project.runner("run").run().exits(0).says("started\n");
    assert!(begin.elapsed().as_secs() < 6, "{:?}", begin.elapsed());
}

#[test]
fn dir_env_and_name_of_a_step() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - name: "Say ${WHAT:-hello}"
              run: "pwd; echo $A"
              dir: sub
              env: { A: "${source.commit.short}!" }
    "#});
    let project = project.file("sub/file", "").git();
    project.runner("run").run().exits(0).says("▸ Say hello\n").says("/sub\n").says("!\n");
}

#[test]
fn help_lists_the_commands_and_an_example() {
    let project = Project::phases("build: { steps: [] }\n");
    let help = project.runner("--help").run().exits(0).says("runner run --phase build").says("Exit codes");
    assert!(!help.stdout.contains("  completions "), "it does not work yet");
    let ecs = project.runner("ecs --help").run().exits(0);
    for command in ["render", "diff", "deploy", "rollback", "status"] {
        assert!(ecs.stdout.contains(&format!("  {command} ")), "{ecs}");
        project.runner(&format!("ecs {command} --help")).run().exits(0).says("Example");
    }
    project.runner("run --help").run().exits(0).says("--env-file").says("Examples:").says_not("--with-aws");
    project.runner("run --publish --local").run().exits(2);
    project.runner("walk").run().exits(2);
}

#[test]
fn a_context_is_listed_with_its_size() {
    let project = Project::phases("build: { steps: [] }\n")
        .file("src/a.txt", "12345")
        .file("src/deep/b.bin", vec![0; 3000])
        .file("node_modules/x.js", vec![0; 900_000])
        .file("odd\nname", "")
        .file(".runner/state.json", "{}")
        .file("web.Dockerfile", "FROM scratch\n")
        .file("web.Dockerfile.dockerignore", "src/deep\n")
        .file(".dockerignore", "node_modules\n.home\n*.yml\n");
    let list = project.runner("image context .").run().exits(0);
    assert_eq!(
        list.stdout,
        ".dockerignore\nodd\\nname\nsrc/a.txt\nsrc/deep/b.bin\nweb.Dockerfile\nweb.Dockerfile.dockerignore\n"
    );
    let own = project.runner("image context . -f web.Dockerfile").run().exits(0);
    assert!(own.stdout.contains("node_modules/x.js\n") && !own.stdout.contains("b.bin"), "{own}");
    let size = project.runner("image context . -f web.Dockerfile --size").run().exits(0);
    let biggest = size.stdout.lines().position(|line| line.ends_with("node_modules/")).unwrap();
    assert!(size.stdout.starts_with("900.") && biggest == 3, "{size}");
    project.runner("image context nowhere").run().exits(2).complains("there is no directory nowhere");
    project
        .runner("image context . -f nowhere")
        .run()
        .exits(2)
        .complains("there is no Dockerfile at nowhere");
}

/// Findings, F: a file that is there but cannot be run says why, from a list and from a script.
#[test]
fn a_file_that_cannot_be_run_says_why() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::phases("build: { steps: [] }\n");
    let mut elf = std::fs::read("/bin/true").unwrap();
    // A loader that does not exist.
    let loader = elf.windows(6).position(|window| window == b"/lib64").unwrap();
    elf[loader + 1] = b'X';
    let files: [(&str, &[u8]); 5] = [
        ("crlf.sh", b"#!/bin/sh\r\necho hi\r\n"),
        ("env.sh", b"#!/usr/bin/env sh\r\necho hi\r\n"),
        ("missing.sh", b"#!/opt/no such/thing -e\necho hi\n"),
        ("elf", &elf),
        ("closed.sh", b"#!/bin/sh\necho hi\n"),
    ];
    std::fs::create_dir(project.path("bin")).unwrap();
    for (name, content) in files {
        std::fs::write(project.path(name), content).unwrap();
        let mode = if name == "closed.sh" { 0o644 } else { 0o755 };
        std::fs::set_permissions(project.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::copy(project.path("crlf.sh"), project.path("bin/tool")).unwrap();
    let crlf = "has a Windows line end in its first line, which names its interpreter";
    let unix = "convert the file to Unix line ends (`sed -i 's/\\r$//' FILE`), and keep them with `*.sh text eol=lf` in .gitattributes";
    let list = |program: &str| format!("[{program}]");
    for (run, code, says, help) in [
        (list("./crlf.sh"), 3, format!("`./crlf.sh` {crlf}"), unix),
        (list("tool"), 3, format!("`tool` {crlf}"), unix),
        // The system finds `env`, which does not find `sh\r`.
        (list("./env.sh"), 1, "exit code 127".to_owned(), unix),
        ("echo before && ./crlf.sh".to_owned(), 1, "exit code 127".to_owned(), unix),
        ("(cd . && ./env.sh)".to_owned(), 1, "exit code 127".to_owned(), unix),
        (
            list("./missing.sh"),
            3,
            "`./missing.sh` needs the interpreter `/opt/no`, which is not on this machine".to_owned(),
            "install the interpreter",
        ),
        (
            list("./elf"),
            3,
            "`./elf` was built for another system: its loader is not on this machine".to_owned(),
            "a static one",
        ),
        (
            list("./closed.sh"),
            3,
            "cannot run `./closed.sh`: Permission denied".to_owned(),
            "make it executable (`chmod +x FILE`",
        ),
        (
            list("./none.sh"),
            3,
            "there is no program `./none.sh` on this machine".to_owned(),
            "install it in the build image",
        ),
    ] {
        let run = if run.starts_with('[') { run } else { format!("\"{run}\"") };
        let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap());
        let text = format!(
            "version: 1\nname: t\nenv: {{ shell: sh }}\nphases: {{ build: {{ steps: [{{ run: {run} }}] }} }}\n"
        );
        std::fs::write(project.path("pipeline.yml"), text).unwrap();
        let outcome =
            project.runner("run").env("PATH", path).run().exits(code).ends_with(&says).ends_with(help);
        if code == 1 {
            outcome.ends_with(&format!(".sh` {crlf}: "));
        }
    }
}
