//! `$RUNNER_ENV`, exported variables, and roles for commands.

use crate::harness::{Project, shell};
use crate::recorded_aws::RecordedAws;
use indoc::{formatdoc, indoc};

#[test]
fn variables_reach_later_scripts_and_typed_fields() {
    let project = Project::phases(indoc! {r#"
        install:
          steps:
            - run: |
                echo "VERSION=1.2.3" >> "$RUNNER_ENV"
                { echo 'NOTES<<END'; echo 'two = lines'; echo '$(touch injected)'; echo END; } >> "$RUNNER_ENV"
            - name: "Release ${VERSION}"
              run: 'echo "$VERSION|$NOTES|$ALSO"'
              env: { ALSO: "v${VERSION}" }
        build: { steps: [{ run: 'echo "later $VERSION"' }] }
    "#});
    let outcome = project.runner("run --phase install").run().exits(0).says("▸ Release 1.2.3\n");
    outcome.says("1.2.3|two = lines\n$(touch injected)|v1.2.3\n");
    // Another call of the same build finds it.
    project.runner("run --phase build").run().exits(0).says("later 1.2.3\n");
    assert!(!project.exists("injected"));
    let left: Vec<_> = std::fs::read_dir(project.path(".runner")).unwrap().flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with("env-")), "{left:?}");
}

#[test]
fn variables_of_a_failed_step_reach_later_steps() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - run: echo WHY=disk >> "$RUNNER_ENV"; exit 1
            - { run: 'echo "because of $WHY"', when: failure }
    "#});
    project.runner("run").run().exits(1).says("because of disk\n");
}

#[test]
fn an_unreadable_line_fails_the_step_and_is_named() {
    for (text, reason) in [
        ("A=1\\nnonsense", "line 2: `=` is missing"),
        ("A<<END\\nx", "line 1: the block that begins here is not closed"),
        ("RUNNER_MODE=publish", "line 1: names that begin with RUNNER_ are reserved"),
        ("PATH =x", "line 1: the text before `=`"),
    ] {
        let project = Project::phases(&formatdoc! {r#"
            build:
              steps:
                - run: printf '{text}\n' >> "$RUNNER_ENV"
                - run: echo never
        "#});
        project.runner("run").run().exits(1).says_not("\nnever").ends_with(reason);
    }
}

#[test]
fn a_variable_with_a_secret_is_set_but_not_kept() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { TOKEN: /t } }
        phases:
          build:
            steps:
              - run: echo "HEADER=Bearer $TOKEN" >> "$RUNNER_ENV"
              - run: test "$HEADER" = "Bearer $TOKEN" && echo same
          post_build: { steps: [{ run: 'echo "[$HEADER]"' }] }
    "#});
    let call =
        |phase: &str| project.runner(&format!("run --phase {phase}")).env("TOKEN", "hunter2-hunter2").run();
    call("build").exits(0).says("\nsame\n").says("HEADER contains a secret").says_not("hunter2");
    assert!(!project.read(".runner/state.json").contains("hunter2"));
    call("post_build").exits(0).says("\n[]\n");
}

#[test]
fn exported_variables_reach_the_shell_as_data() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env:
          shell: sh
          variables: { PLAIN: "it's $(touch injected) `x` \"", BRANCH: "${source.branch}" }
          exported-variables: [PLAIN, BRANCH, LATE, NEVER]
        phases: { build: { steps: [{ run: 'echo LATE=late >> "$RUNNER_ENV"' }] } }
    "#});
    let run = project.runner("run").env("RUNNER_BRANCH", "$(touch injected);x").run().exits(0);
    run.says("NEVER has no value and is not exported");
    let script = "cd \"$1\"; . .runner/exports.sh; env | grep -E '^(PLAIN|BRANCH|LATE|NEVER)=' | sort";
    let exported = shell("sh", &["-c", script, "sh", project.root().to_str().unwrap()]);
    assert_eq!(
        exported.lines().collect::<Vec<_>>(),
        ["BRANCH=$(touch injected);x", "LATE=late", "PLAIN=it's $(touch injected) `x` \""]
    );
    assert!(!project.exists("injected"));
}

#[test]
fn a_branch_is_never_code_wherever_its_name_goes() {
    let branch = "x'\"$(touch injected)`touch injected`;touch injected|&<>*?[]{}\\ ${HOME}";
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, variables: { FROM: "${source.branch}" } }
        phases:
          build:
            steps:
              - name: "on ${source.branch}"
                run: 'printf "%s\n" "$FROM" "$RUNNER_SOURCE_BRANCH" "$OWN"; eval true'
                env: { OWN: "${source.branch}" }
    "#});
    let outcome = project.runner("run").env("RUNNER_BRANCH", branch).run().exits(0);
    assert_eq!(outcome.stdout.matches(&format!("\n{branch}")).count(), 3, "{outcome}");
    assert!(!project.exists("injected"));
}

#[test]
fn a_command_gets_the_keys_of_its_own_role() {
    let role = "arn:aws:iam::123456789012:role/assets";
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        aws: {{ region: eu-west-1 }}
        phases:
          build:
            steps:
              - run: 'echo "own $AWS_ACCESS_KEY_ID $AWS_REGION"'
              - run: 'echo "role ${{#AWS_ACCESS_KEY_ID}} $AWS_REGION"; echo "$AWS_SESSION_TOKEN"'
                aws: {{ role-arn: "{role}", region: us-west-2 }}
    "#});
    let aws = RecordedAws::start(None);
    let outcome = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run().exits(0);
    outcome.says("\nown test us-east-1\n").says("\nrole 20 us-west-2\n***\n");
    let calls = aws.calls();
    assert!(calls.iter().any(|call| call.action == "sts:AssumeRole" && call.arn == role), "{calls:?}");
    // Local mode asks no one.
    project.runner("run --local").run().exits(0).says("\nrole 0 \n");
}

#[test]
fn a_new_value_of_a_secret_is_one() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { TOKEN: /t } }
        phases:
          build: { steps: [{ run: 'echo "TOKEN=rotated-$(echo abcdef)" >> "$RUNNER_ENV"' }, { name: "with ${TOKEN}", run: 'echo "$TOKEN"' }] }
    "#});
    let run = project.runner("run --phase build").env("TOKEN", "hunter2-hunter2").run().exits(0);
    run.says("\n***\n").says("▸ with ***").says_not("rotated-abcdef");
    assert!(!project.read(".runner/state.json").contains("rotated-abcdef"));
}

#[test]
fn a_fifo_or_directory_fails_the_step_without_hanging() {
    for trick in ["mkfifo \"$RUNNER_ENV\"", "ln -s /dev/zero \"$RUNNER_ENV\"", "mkdir \"$RUNNER_ENV\""] {
        let project = Project::phases(&formatdoc! {r#"
            build:
              steps: [{{ run: 'rm "$RUNNER_ENV"; {trick}' }}]
              finally: [{{ run: echo cleaned }}]
        "#});
        let run = project.runner("run").run_under(&["timeout", "20"]).exits(1).says("\ncleaned\n");
        run.ends_with("it is not a regular file");
    }
    let long = "  build: { steps: [{ run: '{ printf A=; head -c 200000 /dev/zero | tr \"\\0\" a; echo; } > \"$RUNNER_ENV\"' }] }\n";
    Project::phases(long).runner("run").run().exits(1).ends_with("a variable cannot be longer than 128 KiB");
    let removed = Project::phases("build: { steps: [{ run: 'rm \"$RUNNER_ENV\"' }] }\n");
    removed.runner("run").run().exits(0);
}

#[test]
fn a_steps_aws_inherits_from_the_pipelines() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        aws: { region: eu-west-1, role-arn: "arn:aws:iam::210987654321:role/deploy" }
        phases:
          build:
            steps:
              - task-definition: { family: f }
                aws: { region: us-west-2 }
    "#});
    project.runner("plan").run().exits(0).says(
        "arn:aws:ecs:us-west-2:210987654321:task-definition/f as arn:aws:iam::210987654321:role/deploy",
    );
}

#[test]
fn reserved_names_are_refused_and_stale_ones_ignored() {
    let project = Project::phases("build: { steps: [{ run: x, env: { RUNNER_MODE: publish } }] }\n");
    project.runner("run").run().exits(2).complains("names that begin with RUNNER_ are reserved");
    let project = Project::phases("build: { steps: [{ run: 'echo \"[$RUNNER_SOURCE_COMMIT]\"' }] }\n");
    project.runner("run").env("RUNNER_SOURCE_COMMIT", "stale").run().exits(0).says("\n[]\n");
}

/// Findings, E5: the step that makes the environment too large fails, not the next one.
#[test]
fn variables_that_no_program_could_get_are_refused() {
    let project = Project::phases(indoc! {r#"
        build:
          steps:
            - run: |
                for n in 1 2 3 4 5 6 7; do echo "A$n=$(head -c 120000 /dev/zero | tr '\0' x)"; done >> "$RUNNER_ENV"
            - run: |
                for n in 1 2 3 4 5 6 7; do echo "B$n=$(head -c 120000 /dev/zero | tr '\0' x)"; done >> "$RUNNER_ENV"
            - name: one too many
              run: |
                for n in 1 2 3 4 5 6 7; do echo "C$n=$(head -c 120000 /dev/zero | tr '\0' x)"; done >> "$RUNNER_ENV"
            - { name: later, run: echo still-works, when: failure }
    "#});
    let limits = ["sh", "-c", "ulimit -s 8192; exec \"$@\"", "sh"];
    let run = project.runner("run").run_under(&limits).exits(1);
    run.has_line(&["✘ one too many", "all variables together would have 2.5 MB"]).says("\nstill-works\n");
}
