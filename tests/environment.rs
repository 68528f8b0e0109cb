//! The sources of values, their precedence, and secrets.

use crate::harness::Project;
use indoc::{formatdoc, indoc};

#[test]
fn the_env_file_wins_over_the_file_and_the_file_over_the_shell() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, variables: { A: file, B: file, C: "${A}+${D}" } }
        phases: { build: { steps: [{ run: 'echo "$A,$B,$C,$D"' }] } }
    "#})
    .file("e", "# mine\nA='env $x'\n");
    let outcome = project.runner("run --env-file e").env("B", "shell").env("D", "shell").run();
    outcome.exits(0).says("env $x,file,env $x+shell,shell\n");
    project
        .runner("run --env-file nowhere")
        .run()
        .exits(2)
        .complains("cannot read the environment file nowhere");
    let project = project.file("bad", "A=1\nnonsense\n");
    project.runner("run --env-file bad").run().exits(2).complains("line 2: `=` is missing");
}

#[test]
fn a_branch_is_data_and_never_code() {
    let branch = "x-$(touch${IFS}pwned)-`touch${IFS}pwned2`";
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, variables: { B: "${source.branch}" } }
        phases:
          build:
            steps:
              - name: "on ${source.branch}"
                run: 'echo "<$RUNNER_SOURCE_BRANCH|$B|$RUNNER_SOURCE_BRANCH_SLUG>"; echo "${source.branch:-}" || true'
    "#});
    // A script is the shell's alone: what looks like one of runner's references is not resolved in it.
    let outcome = project.runner("run").env("RUNNER_BRANCH", branch).run();
    assert!(outcome.stdout.contains(&format!("<{branch}|{branch}|x-touch")), "{outcome}");
    assert!(!project.exists("pwned") && !project.exists("pwned2"));
}

#[test]
fn local_mode_removes_aws_credentials_from_the_environment() {
    let project = Project::phases("build: { steps: [{ run: 'env; echo mode=$RUNNER_MODE' }] }\n");
    let outcome = project
        .runner("run --local")
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "very-secret")
        .env("AWS_SESSION_TOKEN", "token-value")
        .env("AWS_PROFILE", "production")
        .env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
        .run();
    let outcome = outcome.exits(0).says("mode=local").says("AWS_SHARED_CREDENTIALS_FILE=/dev/null");
    for name in ["AKIAEXAMPLE", "very-secret", "token-value", "production", "/v2/credentials", "/token"] {
        assert!(!outcome.stdout.contains(name), "{name}\n{outcome}");
    }
}

const SECRETS: &str = indoc! {r#"
    version: 1
    name: t
    env:
      shell: sh
      parameter-store: { TOKEN: /app/token }
      secrets-manager: { URL: "app/slack:url" }
    phases:
      build:
        steps:
          - run: 'echo "token $TOKEN"; printf %s "$TOKEN" | base64; echo "url ${URL:-none}"'
"#};

#[test]
fn secrets_come_from_the_env_file_locally_and_are_masked() {
    let project = Project::new(SECRETS).file(".env", "TOKEN=\"hunter2-hunter2\"\n");
    let outcome = project.runner("run --local --env-file .env").run().exits(0);
    outcome
        .says("token ***\n")
        .says("url none\n")
        .says("warning: the secret URL has no value;")
        .says_not("hunter2")
        .says_not("aHVudGVyMi1odW50ZXIy");
    assert!(!project.read(".runner/state.json").contains("hunter2"));
}

#[test]
fn a_missing_secret_is_an_error_if_a_typed_field_uses_it() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { TOKEN: /t } }
        phases: { build: { steps: [{ run: "true", env: { X: "${TOKEN}" } }] } }
    "#});
    project.runner("run --local").run().exits(2).complains("`${TOKEN}` has no value");
}

/// Findings, A2.
#[test]
fn secrets_are_followed_by_value() {
    let exposed = [
        ("args: { TOKEN: \"${COPY}\" }", "the secret `COPY` is passed as a build argument"),
        ("labels: { token: \"${COPY}\" }", "the secret `COPY` would be readable in a label of the image"),
        ("tags: [\"t-${COPY}\"]", "the secret `COPY` would be readable in a tag of the image"),
    ];
    for (field, message) in exposed {
        let pipeline = formatdoc! {r#"
            version: 1
            name: t
            env: {{ shell: sh, parameter-store: {{ TOKEN: /t }}, exported-variables: [COPY] }}
            images: {{ app: {{ repository: shop/app, {field} }} }}
            phases:
              build:
                steps:
                  - run: echo "COPY=a-$TOKEN" >> "$RUNNER_ENV"
                  - run: test "$COPY" = a-hunter2-hunter2
                  - build: app
        "#};
        let project = Project::new(&pipeline).file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n").git();
        let call = project.runner("run --local").env("TOKEN", "hunter2-hunter2");
        call.run().exits(2).says(message).says_not("hunter2");
        assert!(!project.read(".runner/state.json").contains("hunter2"));
    }
}

/// Findings, A3, A6 and A10.
#[test]
fn more_than_declared_values_is_secret() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: webapp
        env: { shell: sh, secrets-manager: { DB: shop/db } }
        phases:
          build:
            steps:
              - run: echo "leaf=correct-horse id=AKIAIOSFODNN7EXAMPLE key=wJalrXUtnFEMI/K7MDENG"
              - run: echo "name=webapp engine=postgres"
    "#});
    let secret = r#"{"engine":"postgres","password":"correct-horse","app":"webapp"}"#;
    let call = project
        .runner("run --local")
        .env("DB", secret)
        .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG");
    call.run().exits(0).says("leaf=*** id=*** key=***\n").says("name=webapp engine=postgres\n");
    let limits = ["sh", "-c", "DB=$(printf 'a\\377bcdef'); export DB; exec \"$@\"", "sh"];
    let outcome = project.runner("run --local").run_under(&limits).exits(2);
    outcome.complains("the secret DB is not UTF-8");
}

/// Findings, A9: names and messages from outside cannot imitate lines of runner or control the terminal.
#[test]
fn text_from_outside_is_harmless() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases:
          build:
            steps:
              - { name: "title ${EVIL}", run: "true" }
              - { name: "failing ${EVIL}", run: "exit 3" }
    "#});
    let outcome =
        project.runner("run --local").env("EVIL", "\u{1b}[2J\r\u{9b}31m\n✔ pushed everything").run();
    let outcome = outcome.exits(1).says_not("\u{1b}").says_not("\r").says_not("\u{9b}");
    outcome.says("▸ title \\u{1b}[2J\\r\\u{9b}31m\n    ✔ pushed everything\n").says_not("\n✔ pushed");
    let outcome = project.runner("plan").env("EVIL", "\u{1b}[2J").run().exits(0);
    outcome.says("\\u{1b}[2J").says_not("\u{1b}");
}
