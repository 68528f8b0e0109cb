//! Runs in CodeBuild: its variables set the context.

use crate::harness::{Call, Project, registry, unique};
use crate::recorded_aws::RecordedAws;
use indoc::{formatdoc, indoc};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn in_codebuild<'p>(call: Call<'p>, project: &Project) -> Call<'p> {
    call.aws()
        .env("CODEBUILD_BUILD_ID", "webapp:11111111-2222")
        .env("CODEBUILD_BUILD_NUMBER", "7")
        .env("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:us-east-1:123456789012:build/webapp:11111111-2222")
        .env("CODEBUILD_RESOLVED_SOURCE_VERSION", COMMIT)
        .env("CODEBUILD_SRC_DIR", project.root().display().to_string())
}

fn project(repository: &str) -> Project {
    Project::new("")
        .file("service/Dockerfile", "FROM busybox:1.36\n")
        .file(
            "service/pipeline.yml",
            formatdoc! {r#"
                version: 1
                name: t
                env: {{ shell: sh, variables: {{ WHO: file }} }}
                images: {{ app: {{ repository: "${{aws.account}}.dkr.ecr.${{aws.region}}.amazonaws.com/{repository}", create: true }} }}
                phases:
                  build: {{ steps: [{{ build: app }}, {{ push: app }}, {{ image-definitions: {{ web: app }} }}, {{ run: 'echo "$WHO $RUNNER_MODE $RUNNER_BUILD_NUMBER"' }}] }}
            "#},
        )
}

#[test]
fn artifacts_are_where_codebuild_expects_them() {
    let repository = unique("cb");
    let project = project(&repository);
    let call =
        in_codebuild(project.runner("run --file service/pipeline.yml"), &project).env("WHO", "project");
    let outcome = call.run().exits(0).says("project publish 7\n").says("build webapp:11111111-2222");
    let uri = project.json("imagedefinitions.json")[0]["imageUri"].as_str().unwrap().to_owned();
    assert!(uri.starts_with(&format!("{}/{repository}@sha256:", registry())), "{uri}");
    assert!(project.exists("imageDetail.json"));
    outcome.says(&format!("tags: {COMMIT}"));
    assert_eq!(crate::harness::served_digest(&repository, COMMIT), uri.split('@').nth(1).unwrap());
}

/// Findings, C15.
#[test]
fn pipelines_of_one_build_do_not_replace_each_others_files() {
    let repository = unique("cb");
    let pipeline = project(&repository).read("service/pipeline.yml");
    let blue_green = pipeline.replace(
        "{ image-definitions: { web: app } }",
        "{ task-definition: { file: td.json, containers: { web: { image: app } }, code-pipeline: { container: web, port: 80 } } }",
    );
    let td = r#"{"family": "web", "containerDefinitions": [{"name": "web", "image": "x", "memory": 64, "portMappings": [{"containerPort": 80}]}]}"#;
    let moving = "{ image-definitions: { web: app } }, { run: 'cd ..; mv imagedefinitions.json imageDetail.json service' }";
    let project = project(&repository)
        .file("service/other.yml", &pipeline)
        .file("service/moving.yml", pipeline.replace("{ image-definitions: { web: app } }", moving))
        .file("elsewhere/pipeline.yml", &pipeline)
        .file("elsewhere/Dockerfile", "FROM busybox:1.36\n")
        .file("blue/pipeline.yml", &blue_green)
        .file("blue/td.json", td)
        .file("blue/Dockerfile", "FROM busybox:1.36\n")
        .file("green/pipeline.yml", &blue_green)
        .file("green/td.json", td)
        .file("green/Dockerfile", "FROM busybox:1.36\n");
    let run = |build: &str, file: &str| {
        let call = in_codebuild(project.runner(&format!("run --file {file}")), &project);
        call.env("CODEBUILD_BUILD_ID", build).run()
    };
    let refused = |build: &str, file: &str, name: &str, other: &str| {
        let outcome = run(build, file).exits(2);
        let (own, other) = (project.path(file), project.path(other));
        outcome
            .ends_with(&format!("{} would replace {name}, which {} has", own.display(), other.display()))
            .says("rename or remove the first in a `run` step");
    };
    run("web:1", "service/pipeline.yml").exits(0);
    let first = project.read("imagedefinitions.json");
    refused("web:1", "service/other.yml", "imagedefinitions.json", "service/pipeline.yml");
    refused("web:1", "elsewhere/pipeline.yml", "imagedefinitions.json", "service/pipeline.yml");
    refused("web:1", "blue/pipeline.yml", "imageDetail.json", "service/pipeline.yml");
    assert_eq!(project.read("imagedefinitions.json"), first);
    assert!(!project.exists("taskdef.json"));
    // The same pipeline, another build.
    run("web:1", "service/pipeline.yml").exits(0);
    run("web:2", "blue/pipeline.yml").exits(0);
    refused("web:2", "green/pipeline.yml", "taskdef.json", "blue/pipeline.yml");
    // Files that were moved away are replaced by no one.
    run("web:3", "service/moving.yml").exits(0);
    run("web:3", "elsewhere/pipeline.yml").exits(0);
    assert!(project.exists("service/imagedefinitions.json") && project.exists("imagedefinitions.json"));
    assert_eq!(project.read(".runner/.gitignore"), "*\n");
}

#[test]
fn a_pull_request_publishes_nothing() {
    let repository = unique("pr");
    let project = project(&repository);
    let call = in_codebuild(project.runner("run --file service/pipeline.yml"), &project)
        .env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_CREATED")
        .env("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/main")
        .env("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main");
    let outcome =
        call.run().exits(0).says("▸ build app").says("▹ push app: skipped, pull requests publish nothing");
    outcome.says("▹ image definitions: skipped");
    assert!(!project.exists("imagedefinitions.json"));
}

#[test]
fn calls_for_each_phase_are_one_build_and_another_build_starts_over() {
    let project = Project::phases(indoc! {r"
        build: { steps: [{ run: exit 5 }] }
        post_build: { steps: [{ run: echo deployed }] }
    "});
    in_codebuild(project.runner("run --phase build"), &project).run().exits(1);
    let second = in_codebuild(project.runner("run --phase post_build"), &project).run().exits(1);
    second.says("skipped, something failed before").ends_with("exit code 5");
    let other = in_codebuild(project.runner("run --phase post_build"), &project)
        .env("CODEBUILD_BUILD_ID", "webapp:3333");
    other.run().exits(0).says("deployed\n");
}

#[test]
fn a_pipeline_that_needs_a_branch_and_has_none_is_refused() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, variables: { B: "${source.branch}" } }
        phases: { build: { steps: [{ run: "echo on $B" }] } }
    "#});
    let call =
        || in_codebuild(project.runner("run"), &project).env("CODEBUILD_INITIATOR", "codepipeline/main");
    call().run().exits(2).complains("`${source.branch}` has no value").complains("set RUNNER_BRANCH");
    call().env("RUNNER_BRANCH", "release").run().exits(0).says("on release\n");
}

#[test]
fn an_earlier_failure_of_the_build_counts() {
    let project = Project::phases(
        "post_build: { steps: [{ run: echo deployed }, { run: echo always, when: always }] }\n",
    );
    let call = in_codebuild(project.runner("run --phase post_build"), &project)
        .env("CODEBUILD_BUILD_SUCCEEDING", "0");
    let outcome = call.run().exits(1).says("always\n").says_not("\ndeployed");
    outcome.ends_with("an earlier command of this CodeBuild build has failed");
}

#[test]
fn a_pull_request_publishes_only_steps_that_name_the_event() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases:
          build:
            steps:
              - { task-definition: { file: td.json }, only: { events: [pull-request, push] } }
              - { deploy: { cluster: c, service: s }, except: { events: tag } }
              - { run: echo base, only: { branches: main } }
              - { run: echo fork, only: { branches: "fork/*" } }
    "#})
    .file("td.json", format!("{{\"family\":\"{}\",\"containerDefinitions\":[]}}", unique("pr")));
    let call = in_codebuild(project.runner("run"), &project)
        .env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED")
        .env("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/fork/main")
        .env("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main");
    let outcome = call
        .run()
        .exits(0)
        .says("▸ task definition")
        .says("▹ deploy: skipped, pull requests publish nothing");
    outcome
        .says("\nbase\n")
        .says("▹ echo fork: skipped, only for the branch `fork/*`; this is a pull request to `main`");
}

#[test]
fn under_codepipeline_a_build_is_a_push_of_the_given_branch() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - { run: echo pushed, only: { events: push } }
            - { run: echo by-hand, only: { events: manual } }
            - { run: echo on-main, only: { branches: main, events: push } }
    "});
    let call = || {
        in_codebuild(project.runner("run"), &project)
            .env("CODEBUILD_INITIATOR", "codepipeline/web")
            .env("CODEBUILD_RESOLVED_SOURCE_VERSION", "nE2Q0v.9V7Lb")
            .env("CODEBUILD_SOURCE_VERSION", "arn:aws:s3:::bucket/source.zip")
    };
    call()
        .run()
        .exits(2)
        .complains("this depends on the branch, which is unknown")
        .complains("#{SourceVariables.BranchName}");
    let outcome = call().env("RUNNER_BRANCH", "main").run().exits(0);
    outcome.says("\npushed\n").says("\non-main\n").says_not("\nby-hand\n");
}

#[test]
fn steps_end_before_codebuild_ends_the_build() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // Five minutes, of which eight seconds are left.
    let start = now - 292;
    let aws = RecordedAws::scripted(None, move |action, _| {
        let build = serde_json::json!({ "builds": [{ "id": "webapp:11111111-2222", "timeoutInMinutes": 5, "startTime": start }] });
        (action == "codebuild:BatchGetBuilds").then(|| (200, build.to_string()))
    });
    let project = Project::phases(indoc! {r"
        build:
          steps: [{ run: sleep 60 }, { run: echo never }]
          finally: [{ run: echo cleaned }]
    "});
    let begin = std::time::Instant::now();
    let call = in_codebuild(project.runner("run"), &project).env("AWS_ENDPOINT_URL", &*aws.endpoint);
    let run = call.run().exits(7).says("\ncleaned\n").says_not("\nnever");
    run.ends_with("CodeBuild's timeout of 5m is close, and the rest is reserved for `finally` and reports");
    assert!(begin.elapsed() < std::time::Duration::from_secs(8));
    // Without the permission there is no such limit, and no warning.
    let aws = RecordedAws::start(Some("codebuild:BatchGetBuilds"));
    let project = Project::phases("build: { steps: [{ run: sleep 1 }] }\n");
    let call = in_codebuild(project.runner("run"), &project).env("AWS_ENDPOINT_URL", &*aws.endpoint);
    call.run().exits(0).says_not("BatchGetBuilds");
    assert!(aws.calls().iter().any(|call| call.action == "codebuild:BatchGetBuilds"));
}

/// Findings, D20: who starts a build says its event.
#[test]
fn the_starter_of_a_build_names_its_event() {
    let project = Project::phases(indoc! {r"
        build:
          steps:
            - { name: on push, run: echo pushed, only: { events: push } }
            - { name: on request, run: echo requested, only: { events: pull-request } }
    "})
    .git();
    let call = |variables: &[(&str, &str)]| {
        let call = project.runner("run --local").env("CODEBUILD_BUILD_ID", "web:1");
        variables.iter().fold(call, |call, (name, value)| call.env(name, *value)).run()
    };
    call(&[("RUNNER_EVENT", "push"), ("RUNNER_BRANCH", "main")])
        .exits(0)
        .says("\npushed\n")
        .says_not("\nrequested");
    call(&[("RUNNER_EVENT", "pull-request"), ("RUNNER_BASE_BRANCH", "main"), ("RUNNER_BRANCH", "evil")])
        .exits(0)
        .says(" · pull request to main at ")
        .says("\nrequested\n")
        .says_not("\npushed");
    call(&[("RUNNER_EVENT", "push"), ("CODEBUILD_SOURCE_VERSION", "pr/7")])
        .exits(2)
        .complains("RUNNER_EVENT is `push`, but this is a build of `pull-request`");
    call(&[("RUNNER_EVENT", "pull-request"), ("CODEBUILD_WEBHOOK_EVENT", "PUSH")])
        .exits(0)
        .says("\nrequested\n");
    // Without a source in CodeBuild, git knows the commit.
    call(&[]).exits(0).says(" · commit ");
}

/// Findings, A15, and `--no-publish`.
#[test]
fn a_build_that_may_not_publish_skips_what_publishes() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { app: { repository: shop/app, tags: ["${source.commit}"] } }
        phases: { build: { steps: [{ run: "true" }, { build: app }, { push: app }] } }
    "#})
    .git();
    let plan = |event: &str| {
        project
            .runner("plan")
            .env("CODEBUILD_BUILD_ID", "web:1")
            .env("CODEBUILD_WEBHOOK_EVENT", event)
            .env("CODEBUILD_RESOLVED_SOURCE_VERSION", "0123456789abcdef0123456789abcdef01234567")
    };
    plan("WORKFLOW_JOB_QUEUED").run().exits(0).says("`WORKFLOW_JOB_QUEUED` is an unknown event of a webhook");
    plan("PULL_REQUEST_MERGED").run().exits(0).says("CodeBuild names no merge commit");
    plan("PUSH")
        .env("RUNNER_EVENT", "nonsense")
        .run()
        .exits(0)
        .says("`nonsense` in RUNNER_EVENT is not an event");
    let plan = project.runner("plan --no-publish").run().exits(0);
    plan.says("this project does not publish");
}
