//! Mistakes in the pipeline file: they are reported with their place before anything runs.

use crate::harness::Project;
use indoc::{formatdoc, indoc};

fn refused(pipeline: &str, expected: &[&str]) {
    let project = Project::new(pipeline).git();
    let outcome = project.runner("run").run().exits(2);
    for text in expected {
        assert!(outcome.stderr.contains(text), "lacks {text:?}\n{outcome}");
    }
    assert_eq!(outcome.stdout, "", "nothing runs");
    assert!(!project.exists(".runner"), "nothing is written");
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_a_suggestion() {
    refused(
        indoc! {r"
            version: 1
            name: t
            phases:
              build:
                setps:
                  - run: echo hello
        "},
        &["pipeline.yml:5:5", "unknown key `setps` in a phase", "^^^^^", "did you mean `steps`?"],
    );
}

#[test]
fn unsupported_keys_are_refused_by_name() {
    let notify = "[{ sns: \"arn:aws:sns:eu-west-1:123456789012:t\" }, { webhook: { url: \"https://example.com\", secret: x } }]";
    refused(
        &formatdoc! {r"
            version: 1
            name: t
            notify: {notify}
            phases: {{ build: {{ steps: [{{ run: x }}] }} }}
        "},
        &["pipeline.yml:3:12", "`sns` is part of the language", "`secret` is part"],
    );
}

#[test]
fn all_errors_are_shown_in_one_go() {
    refused(
        indoc! {r"
        version: 2
        name: t
        name: u
        images: { app: { repository: app, args: [a] } }
        phases:
          build:
            when: sometimes
            steps:
              - build: apq
              - {}
              - { run: a, build: app }
    "},
        &[
            "pipeline.yml:1:10",
            "expected 1",
            "pipeline.yml:3:1",
            "duplicate key `name`",
            "pipeline.yml:4:41",
            "a mapping from names to texts",
            "pipeline.yml:7:11",
            "not one of `success`, `failure` and `always`",
            "pipeline.yml:9:16",
            "did you mean `app`?",
            "pipeline.yml:10:9",
            "this step does nothing",
            "pipeline.yml:11:19",
            "a step has one kind",
            "has 7 errors; nothing was run",
        ],
    );
}

#[test]
fn a_mistake_in_an_image_is_one_mistake() {
    let with = |image: &str| {
        formatdoc! {r"
            version: 1
            name: t
            images: {{ app: {{ {image} }} }}
            phases: {{ build: {{ steps: [{{ build: app }}] }} }}
        "}
    };
    for image in ["repository: a, tags: []", "repository: a, tags: [\"${source.comit}\"]", "target: x"] {
        refused(&with(image), &["pipeline.yml:3:", "has an error; nothing was run"]);
    }
    refused(
        indoc! {r"
            version: 1
            name: t
            images: { a.b: { repository: x }, a-b: { repository: y } }
            phases: {}
        "},
        &["would share the variable RUNNER_IMAGE_A_B_URI"],
    );
}

#[test]
fn undefined_values_are_errors_and_never_empty() {
    refused(
        indoc! {r#"
            version: 1
            name: t
            images: { a: { repository: a, tags: ["${VERSOIN}"] } }
            env: { variables: { VERSION: x } }
            phases: { build: { steps: [{ build: a }] } }
        "#},
        &["pipeline.yml:3:38", "`${VERSOIN}` has no value", "did you mean `${VERSION}`?"],
    );
    refused(
        indoc! {r#"
            version: 1
            name: t
            phases:
              build:
                steps:
                  - test: a
                    command: ["${source.comit}"]
            images: { a: { repository: a } }
        "#},
        &["unknown built-in `${source.comit}`", "did you mean `${source.commit}`?"],
    );
}

#[test]
fn a_missing_commit_is_reported_with_its_place() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { a: { repository: a, tags: ["${source.commit}"] } }
        phases: { build: { steps: [{ build: a }] } }
    "#});
    let outcome = project.runner("run").run().exits(2);
    outcome.complains("pipeline.yml:3:38").complains("run in a git repository with a commit");
}

#[test]
fn files_that_cannot_be_read_end_in_one_sentence() {
    let project = Project::phases("build: { steps: [{ run: \"true\" }] }\n");
    let call = |arguments: &str| project.runner(arguments).run();
    call("run --file nothing.yml")
        .exits(2)
        .complains("cannot read the pipeline file nothing.yml")
        .complains("--file");
    call("run --file .").exits(2).complains("it is a directory");
    let project =
        project.file("large.yml", vec![b'#'; 1024 * 1024 + 1]).file("latin.yml", b"version: 1\nname: \xfc\n");
    let call = |arguments: &str| project.runner(arguments).run();
    call("run -f large.yml").exits(2).complains("larger than 1024 KiB");
    call("run -f latin.yml").exits(2).complains("line 2 is not UTF-8");
}

#[test]
fn broken_yaml_is_located() {
    refused(
        indoc! {r#"
        version: 1
        name: "open
        phases: {}
    "#},
        &["this is not valid YAML", "pipeline.yml:"],
    );
    refused(
        indoc! {r"
        - a
        - b
    "},
        &["a pipeline is a mapping, but this is a list"],
    );
    refused("", &["a pipeline is a mapping, but this is nothing"]);
    refused(
        indoc! {r"
        version: 1
        name: t
        phases: !Ref x
    "},
        &["pipeline.yml:3:", "the tag"],
    );
    refused(
        &formatdoc! {r"
        version: 1
        name: t
        phases: {}{}
    ", "[".repeat(100), "]".repeat(100)},
        &["nested too deeply"],
    );
}

#[test]
fn alias_bombs_are_refused_quickly() {
    let mut text = formatdoc! {r"
        version: 1
        name: t
        x-0: &a0 [x, x, x, x, x, x, x, x, x, x]
    "};
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("x-{level}: &a{level} [{aliases}]\n"));
    }
    refused(&text, &["too large once its aliases are resolved"]);
}

#[test]
fn a_bom_windows_line_ends_anchors_and_own_keys_are_fine() {
    let text = "\u{feff}version: 1\r\nname: t\r\nx-base: &base { shell: sh }\r\nenv:\r\n  <<: *base\r\n  variables: { N: 3.10, Y: yes }\r\nphases:\r\n  build:\r\n    x-note: mine\r\n    steps:\r\n      - run: echo \"$N $Y\"\r\n";
    Project::new(text).runner("run").run().exits(0).says("3.10 yes\n");
}

#[test]
fn a_phase_that_the_file_does_not_have_is_an_error() {
    let project = Project::phases("build: { steps: [{ run: \"true\" }] }\n");
    project.runner("run --phase install").run().exits(2).complains("the pipeline has no phase `install`");
    project.runner("run --phase biuld").run().exits(2).complains("did you mean `build`?");
}

/// Findings, E7: a tag is refused or true, never dropped.
#[test]
fn tags_are_not_dropped() {
    for (value, tag) in [
        ("!!null 5s", "!!null"),
        ("!!binary aGk=", "!!binary"),
        ("!!python/object/apply:os.system [x]", "!!python/object/apply:os.system"),
        ("!!int 5", "!!int"),
        ("!!map 5s", "!!map"),
        ("!Sub x", "!Sub"),
    ] {
        let text = format!("version: 1\nname: t\ntimeout: {value}\nphases: {{}}\n");
        refused(&text, &["pipeline.yml:3:", &format!("the tag `{tag}` has no meaning here")]);
    }
    let project = Project::new(
        "version: 1\nname: !!str t\nphases: !!map { build: { steps: !!seq [{ run: \"true\" }] } }\n",
    );
    project.runner("run").run().exits(0);
}

/// Findings, E7: JSON's pairs of escapes are one character in double quotes, and text everywhere else.
#[test]
fn surrogate_pairs_are_characters() {
    let project = Project::new(
        r#"
version: 1
name: "\ud83d\ude00"
x-"\ud83d\ude00": {}
env: { shell: sh, variables: { A: "1\uD83D\uDE00\u00e9", B: '\ud83d\ude00', "C": "\\ud83d\\ude00", D: \ud83d\ude00 } }
phases:
  build:
    steps:
      - run: [echo, "\ud83d\ude02\ud83d\ude03", *missing]
"#,
    );
    let written = project.read("pipeline.yml").replace(", *missing", "");
    // An anchor that does not exist has its place in the file as it is written.
    project
        .runner("validate")
        .run()
        .exits(2)
        .complains("pipeline.yml:9:")
        .complains(r#"      - run: [echo, "\ud83d\ude02\ud83d\ude03", *missing]"#);
    let more = r#"      - { name: "\ud83d\ude04", run: "echo \ud83d\ude05" }
      - run: |
          printf '%s\n' "$A" "$B" "$C" "$D" '"\ud83d\ude06"'
"#;
    let project = project.file("pipeline.yml", written + more);
    project
        .runner("run")
        .run()
        .exits(0)
        .says(" · 😀 · ")
        .says("\n😂😃\n")
        .says("▸ 😄")
        .says("\n😅\n")
        .says("\n1😀é\n\\ud83d\\ude00\n\\ud83d\\ude00\n\\ud83d\\ude00\n\"\\ud83d\\ude06\"\n");
}

/// Findings, E7: places after a pair, in a file of JSON syntax too.
#[test]
fn places_after_surrogate_pairs_are_right() {
    for (text, place, says) in [
        (
            r#"{ "version": 1, "name": "\ud83d\ude00", "nmae": "é" }"#,
            "pipeline.yml:1:41",
            "did you mean `name`?",
        ),
        (
            "version: 1\nname: t\nphases: { build: { steps: [{ run: [\"é\\ud83d\\ude00\", 😀], rnu: x }] } }\n",
            "pipeline.yml:3:57",
            "did you mean `run`?",
        ),
        ("version: 1\nname: t\nenv: { variables: { \"\\ud83d\\ude00\": a } }\n", "pipeline.yml:3:21", "`😀`"),
        (
            "version: 1\nname: [\"\\ud83d\\ude00\", \"\\ud83d\"]\n",
            "pipeline.yml:2:25",
            r"`\ud83d` is only half",
        ),
        ("version: 1\n? \"\\ude00\\ud83d\"\n: x\n", "pipeline.yml:2:4", r"`\ude00` is only half"),
        (
            "version: 1\nx-a: '\\ud83d'\nx-b: \"\\\\ud83d é \\uDBFFx\"\n",
            "pipeline.yml:3:17",
            r"`\uDBFF` is only half",
        ),
    ] {
        refused(text, &[place, says]);
    }
}

/// Findings, E3: no value can have a NUL.
#[test]
fn a_nul_is_refused_with_its_place() {
    for step in [
        r#"{ run: "echo a\0b" }"#,
        r#"{ run: [echo, "a\0b"] }"#,
        r#"{ run: "true", env: { A: "a\0b" } }"#,
        r#"{ run: "true", dir: "a\0b" }"#,
    ] {
        let text = format!("version: 1\nname: t\nphases: {{ build: {{ steps: [{step}] }} }}\n");
        refused(&text, &["pipeline.yml:3:", "this has a NUL character"]);
    }
}

/// Findings, E6 and F.
#[test]
fn a_pipeline_may_come_from_a_pipe_and_its_other_spelling_is_named() {
    let project = Project::new("version: 1\nname: t\nphases: { build: { steps: [{ run: pwd }] } }\n");
    let limits = ["bash", "-c", "exec \"$1\" run --file <(cat pipeline.yml)", "bash"];
    let root = project.root().canonicalize().unwrap().display().to_string();
    project.runner("").run_under(&limits).exits(0).says(&format!("\n{root}\n"));
    std::fs::rename(project.path("pipeline.yml"), project.path("pipeline.yaml")).unwrap();
    project.runner("run").run().exits(2).complains("did you mean `pipeline.yaml`?");
}

/// Findings, F: a buildspec is named as one, whatever command gets it. A file that is nearly a pipeline is not one.
#[test]
fn a_buildspec_is_one_mistake() {
    let spec = "version: \"0.2\"\nphases: { build: { commands: make } }\n";
    let project = Project::new("").file("buildspec.yml", spec);
    let expected = indoc! {r#"
        error: this is a buildspec of CodeBuild, not a pipeline file
         --> buildspec.yml:1:10
          |
        1 | version: "0.2"
          |          ^^^^^ the version of a buildspec
          |
          = help: write the pipeline in `pipeline.yml`, with `version: 1`, and run it in the buildspec with the command `runner run`

    "#};
    for (command, end) in [
        ("validate buildspec.yml", "error: buildspec.yml has an error\n"),
        ("run --file buildspec.yml", "error: buildspec.yml has an error; nothing was run\n"),
        ("plan --file buildspec.yml", "error: buildspec.yml has an error; nothing was run\n"),
    ] {
        assert_eq!(project.runner(command).run().exits(2).stderr, format!("{expected}{end}"), "{command}");
    }
    for near in
        ["version: 0.2\nname: t\nphases: {}\n", "version: 1\nname: t\nphases: { build: { commands: [x] } }\n"]
    {
        let outcome = Project::new(near).runner("validate").run().exits(2);
        outcome.says_not("this is a buildspec");
    }
}

/// Findings, F: without git, the advice is not to run in a repository.
#[test]
fn a_missing_git_is_named() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        phases:
          build:
            steps:
              - run: [/bin/true]
                env: { COMMIT: "${source.commit}", BRANCH: "${source.branch.slug}", TAG: "${source.tag}" }
    "#})
    .git();
    // Here git would know the commit.
    let nowhere = project.path(".home").display().to_string();
    let outcome =
        project.runner("run").env("PATH", &nowhere).run().exits(2).says_not("run in a git repository");
    outcome
        .complains("`${source.commit}` has no value")
        .complains("install git, or add it to PATH: runner asks it for the commit\n")
        .complains("install git, or add it to PATH: runner asks it for the branch; or set RUNNER_BRANCH\n")
        .complains("install git, or add it to PATH: runner asks it for the tag\n");
    let plan = project.runner("plan").env("PATH", &nowhere).run().exits(0);
    plan.says("the commit: git is not installed (there is no `git` in PATH), and CodeBuild names none\n");
}

/// Findings, F: what other tools call it.
#[test]
fn variables_are_compared_with_builtins() {
    for (name, meant) in
        [("commit", "source.commit"), ("short_sha", "source.commit.short"), ("branch", "source.branch")]
    {
        let text = format!(
            "version: 1\nname: t\nphases: {{ build: {{ steps: [{{ run: x, env: {{ A: \"${{{name}}}\" }} }}] }} }}\n"
        );
        refused(&text, &[&format!("`${{{name}}}` has no value"), &format!("did you mean `${{{meant}}}`?")]);
    }
    refused(
        "version: 1\nname: \"${source.sha}\"\nphases: { build: { steps: [{ run: x, env: { A: \"${source.sha}\" } }] } }\n",
        &["unknown built-in `${source.sha}`", "did you mean `${source.commit}`?"],
    );
}

/// Findings, F: durations on the command line, in files and in variables name their units.
#[test]
fn a_duration_without_a_unit_names_the_units() {
    let units =
        "write a number and a unit, the larger unit first (`d`, `h`, `m`, `s`): `90s`, `10m`, `1h30m`";
    let project = Project::phases("build: { steps: [{ run: \"true\" }] }\n");
    for (arguments, says) in [
        ("run --timeout 5", "`5` has no unit"),
        ("run --grace 5", "`5` has no unit"),
        ("run --timeout soon", "`soon` is not a duration"),
        ("ecs deploy --cluster c --service s --wait 10", "`10` has no unit"),
        ("ecs rollback --cluster c --service s --wait 0s", "`0s` is zero"),
    ] {
        let outcome = project.runner(arguments).run().exits(2);
        outcome.complains(&format!("{says}; {units}"));
    }
    let outcome = project.runner("doctor").env("RUNNER_REGISTRY_TIMEOUT", "5").run().exits(2);
    outcome.complains("RUNNER_REGISTRY_TIMEOUT: `5` has no unit").complains(units);
}
