//! `runner validate` and `runner schema`, on the directories of valid and invalid pipelines.

use crate::harness::{Project, schema_errors};
use indoc::{formatdoc, indoc};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Set by whoever has read the difference and means it.
const UPDATE: &str = "RUNNER_TEST_UPDATE";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pipelines").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    files.sort();
    files
}

/// A copy of the folder's pipelines, so that names in the output are the same everywhere.
fn copy(name: &str) -> Project {
    let project = Project::new("");
    for path in files(name) {
        fs::copy(&path, project.path(&path.file_name().unwrap().to_string_lossy())).unwrap();
    }
    project
}

/// Compares a text with the one beside the pipeline, whole.
fn compare(expected: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os(UPDATE).is_some() {
        fs::write(expected, found).unwrap();
    }
    let known = fs::read_to_string(expected).unwrap_or_default();
    if known != found {
        wrong.push(format!("{}\n--- expected\n{known}\n--- found\n{found}", expected.display()));
    }
}

#[test]
fn every_invalid_pipeline_has_its_expected_output() {
    let project = copy("invalid");
    let mut wrong = Vec::new();
    let files = files("invalid");
    assert!(files.len() >= 60, "{} files", files.len());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy();
        let outcome = project.runner(&format!("validate {name}")).run();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{name}\n{outcome}");
        compare(&file.with_extension("txt"), &outcome.stderr, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_valid_pipeline_has_its_plan() {
    let mut wrong = Vec::new();
    for file in files("valid") {
        let name = file.file_name().unwrap().to_string_lossy();
        // Alone in its directory: the size of its build context is part of the plan.
        let project = Project::new("");
        fs::copy(&file, project.path(&name)).unwrap();
        project.runner(&format!("validate {name}")).run().exits(0).says(&format!("{name}: valid\n"));
        // The build that CodeBuild would start for a push to main.
        let plan = project
            .runner(&format!("plan --file {name}"))
            .env("CODEBUILD_BUILD_ID", "web:1")
            .env("CODEBUILD_BUILD_NUMBER", "7")
            .env("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:eu-central-1:123456789012:build/web:1")
            .env("CODEBUILD_RESOLVED_SOURCE_VERSION", "0123456789abcdef0123456789abcdef01234567")
            .env("CODEBUILD_WEBHOOK_EVENT", "PUSH")
            .env("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/main")
            .env("AWS_REGION", "eu-central-1");
        compare(&file.with_extension("plan"), &plan.run().exits(0).stdout, &mut wrong);
        let policy = project
            .runner(&format!("iam --file {name} --account 123456789012"))
            .env("AWS_REGION", "eu-central-1");
        compare(&file.with_extension("policy"), &policy.run().exits(0).stdout, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn json_has_the_diagnostics_of_the_text() {
    let project = copy("invalid");
    for file in files("invalid") {
        let name = file.file_name().unwrap().to_string_lossy();
        let outcome = project.runner(&format!("validate --json {name}")).run().exits(2);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!((&report["version"], &report["valid"]), (&1.into(), &false.into()));
        let text = fs::read_to_string(file.with_extension("txt")).unwrap();
        for one in report["files"][0]["diagnostics"].as_array().unwrap() {
            assert!(text.contains(one["message"].as_str().unwrap()), "{name}: {one}");
            let place = format!("{name}:{}:{}\n", one["line"], one["column"]);
            assert!(text.contains(&place), "{name} lacks {place}: {text}");
        }
    }
}

#[test]
fn the_schema_accepts_every_valid_pipeline_and_refuses_wrong_shapes() {
    let schema = Project::new("").runner("schema").run().exits(0).stdout;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    // What an editor shows for a key.
    let steps = &schema["definitions"]["phase"]["properties"]["steps"];
    assert!(steps["description"].as_str().unwrap().starts_with("The steps."), "{steps:#}");
    assert_eq!(steps["examples"][0][0]["run"], "npm test");
    let document = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let yaml: Option<serde_yaml::Value> = serde_yaml::from_str(text.trim_start_matches('\u{feff}')).ok();
        yaml.and_then(|mut yaml| {
            yaml.apply_merge().ok()?;
            serde_json::to_value(yaml).ok()
        })
    };
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = [own.join("fixtures/webapp/pipeline.yml"), own.join(".ci/pipeline.yml")];
    let valid: Vec<PathBuf> = files("valid").into_iter().chain(own).collect();
    let mut documents: Vec<Value> = valid.iter().map(|path| document(path).unwrap()).collect();
    // What the language calls a wrong key, type or word, an editor shows too.
    let mut wrong = Vec::new();
    for path in files("invalid") {
        let said = fs::read_to_string(path.with_extension("txt")).unwrap();
        let is_shape =
            ["unknown key", "a mapping, but this is", "is not one of", "expected a whole number", " needs `"]
                .iter()
                .any(|words| said.starts_with("error: ") && said.lines().next().unwrap().contains(words));
        if let (true, Some(document)) = (is_shape, document(&path)) {
            wrong.push(path);
            documents.push(document);
        }
    }
    assert!(wrong.len() > 15, "only {} files were compared", wrong.len());
    let errors = schema_errors(documents.iter().map(|document| (&schema, document)));
    for (path, errors) in valid.iter().zip(&errors) {
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
    for (path, errors) in wrong.iter().zip(&errors[valid.len()..]) {
        assert!(!errors.is_empty(), "the schema accepts {}", path.display());
    }
}

#[test]
fn every_key_of_the_language_is_in_a_valid_pipeline() {
    let schema: Value =
        serde_json::from_str(&Project::new("").runner("schema").run().exits(0).stdout).unwrap();
    let mut keys: BTreeSet<String> = BTreeSet::new();
    let tables = schema["definitions"].as_object().unwrap().values().chain([&schema]);
    for table in tables {
        keys.extend(table["properties"].as_object().unwrap().keys().cloned());
    }
    let texts: Vec<String> = files("valid").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let missing: Vec<&String> =
        keys.iter().filter(|key| !texts.iter().any(|text| text.contains(&format!("{key}:")))).collect();
    assert!(missing.is_empty(), "no valid pipeline has {missing:?}");
}

#[test]
fn the_generated_documents_are_fresh() {
    let project = Project::new("");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut wrong = Vec::new();
    for (arguments, file) in [("schema", "pipeline.schema.json"), ("schema --markdown", "reference.md")] {
        compare(&docs.join(file), &project.runner(arguments).run().exits(0).stdout, &mut wrong);
    }
    assert!(wrong.is_empty(), "run `./dev generate`\n{}", wrong.join("\n\n"));
}

#[test]
fn json_is_printed_for_invalid_files_too() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        phases: { biuld: {} }
    "});
    for command in ["validate --json", "plan --json", "doctor --json"] {
        let outcome = project.runner(command).run().exits(2);
        let report: Value =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
        assert_eq!(report["files"][0]["diagnostics"][0]["help"], "did you mean `build`?", "{outcome}");
    }
}

#[test]
fn several_files_are_checked_and_the_worst_decides() {
    let good = indoc! {r"
        version: 1
        name: t
        phases: {}
    "};
    let project = Project::new(good)
        .file(
            "b.yml",
            indoc! {r"
            version: 1
            phases: {}
        "},
        )
        .file(
            "c.yml",
            indoc! {r#"
            version: 1
            name: t
            notify: [{ sns: "arn:aws:sns:eu-west-1:123456789012:t" }]
            phases: { build: { steps: [{ run: x, timeout: 1m }] } }
        "#},
        );
    project.runner("validate").run().exits(0).says("pipeline.yml: valid\n");
    let outcome = project.runner("validate pipeline.yml b.yml nowhere.yml c.yml").run().exits(2);
    let outcome = outcome.says("pipeline.yml: valid\n").says("c.yml: valid\n");
    outcome
        .complains("a pipeline needs `name`")
        .complains("cannot read the pipeline file nowhere.yml")
        .complains("warning: `sns` is part of the language");
    let report = project.runner("validate --json b.yml nowhere.yml").run().exits(2).stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["files"][1]["file"], "nowhere.yml");
}

/// Small files that ask for much: time, memory or output. In each of them a careless way is exponential or quadratic.
fn expensive_files() -> Vec<(&'static str, String)> {
    let head = "version: 1\nname: t\n";
    let repeat = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let next = |at: usize| format!("  V{at}: \"{}\"\n", format!("${{V{}}}", at + 1).repeat(10));
    let last = |at: usize| format!("  W{at}: \"{}\"\n", format!("${{W{}}}", at - 1).repeat(10));
    let push = "phases: { build: { steps: [{ build: a }, { push: a }] } }\n";
    let names: Vec<String> = (0..30_000).map(|at| format!("name{at}")).collect();
    vec![
        (
            "paths",
            format!(
                "{head}env:\n variables:\n{}  V15: x\nimages: {{ a: {{ repository: r, tags: \"${{V0}}\" }} }}\n{push}",
                repeat(15, &next)
            ),
        ),
        (
            "laughs",
            format!("{head}env:\n variables:\n  W0: laugh\n{}phases: {{}}\n", repeat(20, &|at| last(at + 1))),
        ),
        (
            "aliases",
            format!(
                "{head}phases: {{}}\nx-a: &a \"{}\"\nx-b: [{}]\n",
                "x".repeat(500_000),
                "*a,".repeat(100_000)
            ),
        ),
        (
            "tags",
            format!(
                "{head}images: {{ a: {{ repository: \"{}\", tags: [{}\"${{source.commit}}\"] }} }}\n{push}",
                "r".repeat(400_000),
                repeat(60_000, &|at| format!("t{at},"))
            ),
        ),
        (
            "device",
            format!(
                "{head}phases: {{ build: {{ steps: [{{ task-definition: {{ file: /dev/zero }} }}] }} }}\n"
            ),
        ),
        (
            "unknown-images",
            format!(
                "{head}images: {{ {} }}\nphases: {{ build: {{ steps: [{{ build: [{}] }}] }} }}\n",
                repeat(15_000, &|at| format!("image{at}: {{repository: r}}, ")),
                names.join(", ")
            ),
        ),
        (
            "undefined",
            format!(
                "{head}env:\n variables:\n{}phases: {{}}\n",
                repeat(20_000, &|at| format!("  V{at}: ${{U{at}}}\n"))
            ),
        ),
        (
            "one-line",
            format!("{head}phases: {{}}\nenv: {{ {} }}\n", repeat(60_000, &|at| format!("k{at}: 1, "))),
        ),
        (
            "unclosed",
            format!("{head}phases: {{}}\nenv: {{ variables: {{ A: \"{}\" }} }}\n", "${".repeat(300_000)),
        ),
        (
            "group",
            format!(
                "{head}phases: {{ build: {{ steps: [{{ only: {{ branches: \"{}\" }}, parallel: [{}] }}] }} }}\n",
                "b".repeat(300_000),
                "{run: x},".repeat(40_000)
            ),
        ),
        (
            "anchors",
            format!(
                "{head}phases: {{}}\nx-a: {}[{}]{}\n",
                repeat(60, &|at| format!("[&a{at} ")),
                "x,".repeat(150_000),
                "]".repeat(60)
            ),
        ),
    ]
}

#[test]
fn expensive_files_are_cheap_to_validate() {
    let files = expensive_files();
    let project = Project::new("");
    let project =
        files.iter().fold(project, |project, (name, text)| project.file(&format!("{name}.yml"), text));
    for (name, _) in &files {
        for command in ["validate", "plan --file"] {
            // The debug build is slow; what this is about takes minutes or gigabytes.
            let call = project.runner(&format!("{command} {name}.yml")).env("RUNNER_BRANCH", "main");
            let limits = ["sh", "-c", "ulimit -v 1500000; exec timeout 30 \"$@\"", "sh"];
            let outcome = call.run_under(&limits);
            assert!(
                matches!(outcome.code, Some(0 | 2)),
                "{command} {name}: {:?}\n{:.2000}",
                outcome.code,
                outcome.stderr
            );
            assert!(outcome.stderr.len() < 2_000_000, "{command} {name}: {} bytes", outcome.stderr.len());
        }
    }
}

#[test]
fn colours_are_for_terminals_only() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        phases: { biuld: {} }
    "});
    project.runner("validate").run().exits(2).says_not("\u{1b}[");
    let typescript = project.path("typescript").display().to_string();
    let on_terminal = |no_color: &str| {
        // `script` gives a terminal; the arguments after its file are not needed here.
        let call = project.runner("").env("NO_COLOR", no_color).env("TERM", "xterm");
        let command = format!("{} validate", env!("CARGO_BIN_EXE_runner"));
        let script = ["sh", "-c", "script -qec \"$1\" \"$2\"", "sh", &command, &typescript];
        let _ = call.run_under(&script);
        project.read("typescript")
    };
    assert!(on_terminal("").contains("\u{1b}[1m\u{1b}[91merror"), "{}", on_terminal(""));
    assert!(!on_terminal("1").contains("\u{1b}[1m"), "{}", on_terminal("1"));
}

#[test]
fn hostile_files_end_in_one_clear_error() {
    let head = indoc! {r"
        version: 1
        name: t
        phases: {}
    "};
    let deep = format!("{head}x-a: {}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    let block: String = (0..10_000).map(|level| format!("{}a:\n", " ".repeat(level % 300))).collect();
    let mut bomb = format!("{head}x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        bomb.push_str(&format!(
            "x-{level}: &a{level} [{}]\n",
            vec![format!("*a{}", level - 1); 10].join(", ")
        ));
    }
    let chain: String = (0..5_000)
        .map(|at| {
            format!(
                "  i{at}: {{ repository: r, tags: [\"${{source.commit}}-{at}\"], depends-on: i{} }}\n",
                at + 1
            )
        })
        .collect();
    let unknown: String = (0..20_000).map(|at| format!("      - build: image{at}\n")).collect();
    let project = Project::new(head)
        .file("deep.yml", &deep)
        .file("block.yml", block)
        .file("bomb.yml", &bomb)
        .file("latin.yml", b"version: 1\nname: caf\xe9\n")
        .file("bom.yml", format!("\u{feff}{head}"))
        .file("crlf.yml", head.replace('\n', "\r\n"))
        .file("large.yml", format!("{head}#{}", "x".repeat(1024 * 1024)))
        .file("nul.yml", b"version: 1\nname: \"a\0b\"\nphases: {}\n")
        .file("escape.yml", "version: 1\nname: t\nphases: { \"\u{1b}[31mred\": {} }\n")
        .file(
            "chain.yml",
            formatdoc! {r"
            version: 1
            name: t
            phases: {{}}
            images:
            {chain}  i5000: {{ repository: r, depends-on: i0 }}
        "},
        )
        .file(
            "unknown.yml",
            formatdoc! {r"
            version: 1
            name: t
            phases:
              build:
                steps:
            {unknown}"},
        );
    let validate = |name: &str| project.runner(&format!("validate {name}")).run();
    for (name, reason) in [
        ("deep.yml", "nested too deeply"),
        ("bomb.yml", "too large once its aliases are resolved"),
        ("latin.yml", "line 2 is not UTF-8"),
        ("large.yml", "larger than 1024 KiB"),
        (".", "it is a directory"),
        ("chain.yml", "`depends-on` is circular"),
        ("escape.yml", "unknown key"),
    ] {
        let outcome = validate(name).exits(2).complains(reason);
        assert_eq!(
            outcome.stderr.matches("error: ").count() - outcome.stderr.matches(" has an error").count(),
            1,
            "{outcome}"
        );
        assert!(!outcome.stderr.contains('\u{1b}'), "an escape gets through: {outcome}");
        assert!(outcome.stderr.len() < 200_000);
    }
    validate("block.yml").exits(2);
    validate("nul.yml").exits(2);
    validate("unknown.yml").exits(2).complains("there is no image `image0`");
    for name in ["bom.yml", "crlf.yml"] {
        validate(name).exits(0);
    }
}

/// Findings, D11: the containers of `image-definitions` are compared with the files of task definitions.
#[test]
fn containers_that_no_task_definition_file_has_are_a_warning() {
    let project = |pairs: &str, second: &str| {
        let file = |containers: &str| {
            let all: Vec<String> = containers
                .split(' ')
                .map(|name| format!("{{\"name\": \"{name}\", \"image\": \"i\"}}"))
                .collect();
            format!("{{\"family\": \"f\", \"containerDefinitions\": [{}]}}", all.join(", "))
        };
        Project::new(&formatdoc! {"
            version: 1
            name: t
            images: {{ app: {{ repository: app }} }}
            phases:
              build:
                steps:
                  - build: app
                  - push: app
                  - task-definition: {{ file: one.json, containers: {{ web: {{ image: app }} }} }}
            {second}      - image-definitions: {{ {pairs} }}
        "})
        .file("one.json", file("web log"))
        .file("two.json", file("worker"))
    };
    let two = "      - task-definition: { file: two.json }\n";
    let missing = |name: &str| format!("warning: the task definition's file has no container `{name}`");
    let outcome = project("sidecar: app, web: app", "").runner("validate").run().exits(0);
    outcome
        .complains(&missing("sidecar"))
        .complains("pipeline.yml:10:39")
        .complains("it has `web` and `log`");
    let outcome = project("lgo: app", "").runner("validate").run().exits(0);
    outcome.complains(&missing("lgo")).complains("did you mean `log`?");
    let outcome = project("sidecar: app", two).runner("validate").run().exits(0);
    outcome.complains(&missing("sidecar")).complains("`worker`");
    // One that looks like a container that a step mentions has one warning.
    let outcome = project("wbe: app", "").runner("validate").run().exits(0);
    outcome.complains("no `task-definition` step mentions the container `wbe`").says_not("has no container");
    for (pairs, second) in [
        ("web: app, log: app", ""),
        ("worker: app", two),
        ("sidecar: app", "      - task-definition: { family: other }\n"),
        ("sidecar: app", "      - task-definition: { file: nowhere.json }\n"),
    ] {
        project(pairs, second).runner("validate").run().exits(0).says_not("has no container");
    }
    // A warning does not keep `plan` from its work.
    project("sidecar: app", "").runner("plan").run().exits(0).says_not("has no container");
}
