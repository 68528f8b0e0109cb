//! `runner plan`: what would run and change, compared with what runs do.

use crate::ecs_api::{EcsApi, Service, revision};
use crate::harness::{Project, ecs_service, shell};
use crate::servers::PlainRegistry;
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};

fn plan(project: &Project, arguments: &str) -> Value {
    let outcome = project.runner(&format!("plan --json {arguments}")).run().exits(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

/// Every change of a plan, in its order, with the step that makes it.
fn changes(plan: &Value) -> Vec<(String, String, bool)> {
    fn of_step(step: &Value, all: &mut Vec<(String, String, bool)>) {
        for change in step["changes"].as_array().into_iter().flatten() {
            let text = |key: &str| change[key].as_str().unwrap().to_owned();
            all.push((text("action"), text("target"), change.get("condition").is_some()));
        }
        step["parallel"].as_array().into_iter().flatten().for_each(|inner| of_step(inner, all));
    }
    let mut all = Vec::new();
    for phase in plan["phases"].as_array().unwrap() {
        for list in ["steps", "finally"] {
            phase[list].as_array().into_iter().flatten().for_each(|step| of_step(step, &mut all));
        }
    }
    all
}

/// The calls of AWS that change nothing.
fn reads(action: &str) -> bool {
    let (_, operation) = action.split_once(':').unwrap();
    ["Get", "Describe", "List", "BatchCheck", "BatchGet"].iter().any(|prefix| operation.starts_with(prefix))
        || matches!(action, "iam:PassRole" | "sts:AssumeRole" | "ecs:TagResource")
}

#[test]
fn a_run_makes_the_changes_that_the_plan_lists_in_their_order() {
    let name = ecs_service();
    let registry = PlainRegistry::start();
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images:
          app: {{ repository: "{host}/{name}", tags: ["${{source.commit}}", latest] }}
          worker: {{ repository: {name}-worker, create: true, labels: {{ a: b }} }}
        phases:
          build:
            steps:
              - build: [app, worker]
              - push: [worker, app]
              - {{ push: app, only: {{ branches: other }} }}
            finally:
              - {{ run: 'true', when: failure }}
          post_build:
            steps:
              - task-definition: {{ family: {name}, containers: {{ web: {{ image: app }} }} }}
              - {{ deploy: {{ cluster: {name}, service: {name}, task-definition: {name} }}, when: failure }}
              - deploy: {{ cluster: {name}, service: {name} }}
    "#, host = registry.host})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n")
    .file(".home/.docker/config.json", registry.docker_config())
    .file(".gitignore", ".home\n")
    .git();
    let call = project.runner("plan --json").env("AWS_REGION", "us-east-1");
    let call = call.env("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:us-east-1:123456789012:build/t:1");
    let commit = shell("git", &["-C", project.root().to_str().unwrap(), "rev-parse", "HEAD"]);
    let call = call.env("CODEBUILD_BUILD_ID", "t:1").env("CODEBUILD_SOURCE_VERSION", "main");
    let outcome = call.env("CODEBUILD_RESOLVED_SOURCE_VERSION", commit.trim()).run().exits(0);
    let plan: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(!project.exists(".runner"), "a plan writes nothing");
    assert!(registry.requests().is_empty(), "a plan sends no request");

    let ecs = EcsApi::of(Service::new(&name, &name, &revision(&name, 1)));
    let aws = &ecs.aws;
    project.runner("run --publish").on(&ecs).run().exits(0);
    let of_aws: Vec<(String, String)> = aws
        .calls()
        .into_iter()
        .filter(|call| !reads(&call.action))
        .map(|call| (call.action, call.arn.trim_end_matches(":1").to_owned()))
        .collect();
    let mut of_registry: Vec<(String, String)> = Vec::new();
    for (method, path) in registry.requests() {
        let path = path.strip_prefix("/v2/").unwrap();
        let change = match (method.as_str(), path.split_once("/blobs/"), path.split_once("/manifests/")) {
            ("POST" | "PUT" | "PATCH", Some((name, _)), _) => {
                ("registry:UploadBlobs".to_owned(), format!("{}/{name}", registry.host))
            }
            ("PUT", _, Some((name, tag))) => {
                ("registry:PutManifest".to_owned(), format!("{}/{name}:{tag}", registry.host))
            }
            _ => continue,
        };
        // All blobs of an image count as one.
        if of_registry.last() != Some(&change) {
            of_registry.push(change);
        }
    }
    let planned = changes(&plan);
    let own = |wanted: &dyn Fn(&str, &str) -> bool| {
        let own = planned.iter().filter(|(action, target, _)| wanted(action, target));
        own.map(|(action, target, _)| (action.clone(), target.clone())).collect::<Vec<_>>()
    };
    let to_plain =
        own(&|action, target| action.starts_with("registry:") && target.starts_with(&registry.host));
    assert_eq!(to_plain, of_registry);
    // The step that runs only after a failure is marked, and did not run.
    let conditional =
        planned.iter().filter(|(action, _, condition)| action == "ecs:UpdateService" && *condition);
    assert_eq!(conditional.count(), 1);
    let mut to_aws = own(&|action, _| !action.starts_with("registry:"));
    let update = to_aws.iter().position(|(action, _)| action == "ecs:UpdateService").unwrap();
    to_aws.remove(update);
    // No deployment failed.
    to_aws.retain(|(action, _)| action != "ecs:StopServiceDeployment");
    assert_eq!(to_aws, of_aws);
    // Between the two: an image is pushed before it is deployed, as in the plan.
    let order: Vec<&str> = planned.iter().map(|(action, _, _)| action.as_str()).collect();
    let last_push = order.iter().rposition(|action| *action == "registry:PutManifest").unwrap();
    assert!(last_push < order.iter().position(|action| *action == "ecs:RegisterTaskDefinition").unwrap());
}

const CONDITIONS: &str = indoc! {r#"
    version: 1
    name: t
    env: { shell: sh }
    phases:
      build:
        steps:
          - { run: echo on-main, only: { branches: main } }
          - { run: echo on-release, only: { branches: "release/*" } }
          - { run: echo not-pushed, except: { events: push } }
          - { run: echo tagged, only: { tags: "v*" } }
"#};

#[test]
fn skip_reasons_are_the_same_in_plan_and_run() {
    let project = Project::new(CONDITIONS).git();
    let planned = plan(&project, "--local");
    let steps = planned["phases"][0]["steps"].as_array().unwrap();
    let verdicts: Vec<&str> = steps.iter().map(|step| step["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["runs", "left-out", "runs", "left-out"]);
    let reason = "only for the branch `release/*`; this is a manual build of `main`";
    assert_eq!(steps[1]["reason"], reason);
    let run = project.runner("run").run().exits(0).says("\non-main\n").says("\nnot-pushed\n");
    run.says(&format!("▹ echo on-release: skipped, {reason}"))
        .says("▹ echo tagged: skipped, only for the tag `v*`");
    project.runner("plan --local").run().exits(0).says(&format!("- echo on-release — {reason}"));
}

#[test]
fn without_a_branch_the_plan_says_so_and_the_run_does_not_begin() {
    let project = Project::new(CONDITIONS);
    let planned = plan(&project, "");
    assert_eq!(planned["phases"][0]["steps"][0]["verdict"], "unknown");
    assert_eq!(planned["source"]["branch"], Value::Null);
    let outcome = project.runner("run").run().exits(2);
    outcome.complains("pipeline.yml:7:48").complains("RUNNER_BRANCH").complains("this depends on the branch");
    let run = project.runner("run").env("RUNNER_BRANCH", "release/1").run().exits(0);
    run.says("\non-release\n").says_not("\non-main\n");
}

#[test]
fn an_image_pushed_only_by_a_skipped_step_is_reported_before_anything_runs() {
    let project = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: a } }
        phases:
          build:
            steps:
              - build: app
              - { push: app, only: { branches: other } }
              - image-definitions: { web: app }
    "})
    .git();
    for command in ["run --local", "plan"] {
        let outcome = project.runner(command).run().exits(2).complains("pipeline.yml:9:35");
        outcome
            .complains("by a step that is left out of this build")
            .complains("only for the branch `other`");
    }
    assert!(!project.exists(".runner"));
}

#[test]
fn skipped_steps_need_no_values() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        images: { app: { repository: a, tags: ["${source.tag}"] } }
        phases:
          build:
            steps:
              - { build: app, only: { tags: "v*" } }
              - { push: app, only: { tags: "v*" } }
              - { run: echo "tag $TAG", env: { TAG: "${source.tag}" }, only: { tags: "v*" } }
              - run: echo always
    "#})
    .git();
    project.runner("run").run().exits(0).says("\nalways\n").says_not("has no value");
}

#[test]
fn images_with_their_tags_and_the_size_of_their_contexts() {
    let project = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: webapp, context: src } }
        phases: { build: { steps: [{ build: app }] } }
    "})
    .file("src/Dockerfile", "FROM scratch\n")
    .file("src/.dockerignore", "# left out\nlarge\n**/*.log\n")
    .file("src/large", vec![b'x'; 100_000])
    .file("src/a/b.log", "log")
    .file("src/a/c", vec![b'x'; 1000])
    .git();
    let commit = shell("git", &["-C", project.root().to_str().unwrap(), "rev-parse", "HEAD"]);
    let image = &plan(&project, "")["images"][0];
    assert_eq!(image["tags"], json!([commit.trim()]));
    assert_eq!(image["context-files"], 3, "{image}");
    let bytes = image["context-bytes"].as_u64().unwrap();
    assert!((1000..2000).contains(&bytes), "{image}");
    project.runner("plan").run().exits(0).says("context     src (3 files, 1.0 kB)");
}

#[test]
fn a_plan_needs_neither_docker_nor_credentials_nor_a_commit() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { secrets-manager: { S: "a:k" } }
        images: { app: { repository: "${aws.account}.dkr.ecr.${aws.region}.amazonaws.com/webapp", args: { N: "${CODEBUILD_BUILD_NUMBER}" } } }
        phases:
          build: { steps: [{ build: app }, { push: app }, { run-task: { cluster: c, service: s, task-definition: f } }] }
    "#});
    let outcome = project.runner("plan").env("DOCKER_HOST", "unix:///nowhere").run().exits(0);
    outcome
        .says(
            "registry:PutManifest ${aws.account}.dkr.ecr.${aws.region}.amazonaws.com/webapp:${source.commit}",
        )
        .says("ecs:RunTask arn:aws:ecs:REGION:ACCOUNT:task-definition/f")
        .says("the commit: this is not a git repository")
        .says("the region: AWS_REGION is not set")
        .says("${CODEBUILD_BUILD_NUMBER}: it gets its value during the run")
        .says("ecs:StopTask arn:aws:ecs:REGION:ACCOUNT:task/c/* (if the task takes too long)");
}

#[test]
fn a_title_uses_the_steps_own_variables_and_never_fails() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh }
        phases:
          build:
            steps:
              - { name: "Deploy ${STAGE}", env: { STAGE: prod }, run: echo "to $STAGE" }
              - { name: "Release ${source.tag}", only: { tags: "v*" }, run: echo never }
    "#})
    .git();
    let run = project.runner("run").run().exits(0).says("▸ Deploy prod\n").says("\nto prod\n");
    run.says("▹ Release ${source.tag}: skipped");
    project.runner("plan --local").run().exits(0).says("+ Deploy prod\n").says("- Release ${source.tag} —");
}

#[test]
fn secrets_that_are_given_stay_out_of_plans() {
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        env: { shell: sh, parameter-store: { TOKEN: /t } }
        phases: { build: { steps: [{ name: "with ${TOKEN}", run: x }, { deploy: { cluster: "c-${TOKEN}", service: s, task-definition: f } }] } }
    "#});
    for command in ["plan", "plan --json", "doctor", "doctor --json"] {
        let call =
            project.runner(command).env("TOKEN", "hunter2-hunter2").env("AWS_EC2_METADATA_DISABLED", "true");
        let outcome = call.run().says_not("hunter2");
        assert!(command.starts_with("doctor") || outcome.stdout.contains("with ***"), "{outcome}");
    }
}
