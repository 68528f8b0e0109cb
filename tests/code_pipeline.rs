//! The files for `CodePipeline`'s actions, and their limits.

use crate::harness::{Project, ecs, unique};
use indoc::{formatdoc, indoc};
use serde_json::{Value, json};

/// A pipeline whose `task-definition` is for `CodePipeline`.
fn for_code_pipeline(name: &str, file: &Value, port: u16) -> Project {
    Project::new(&formatdoc! {"
        version: 1
        name: webapp
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, create: true }} }}
        phases:
          build: {{ steps: [{{ build: app }}, {{ push: app }}] }}
          post_build:
            steps:
              - task-definition:
                  file: td.json
                  containers: {{ web: {{ image: app, environment: {{ A: b }} }} }}
                  code-pipeline: {{ container: web, port: {port} }}
    "})
    .file("td.json", file.to_string())
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n")
    .git()
}

#[test]
fn the_files_for_codepipeline_are_written() {
    let name = unique("pipeline");
    let file = json!({ "family": name, "cpu": "256", "futureField": [0, false], "containerDefinitions": [
        { "name": "web", "image": "x", "memory": 64, "portMappings": [{ "containerPort": 8080 }] }, { "name": "side", "image": "side:1", "memory": 64 }] });
    let project = for_code_pipeline(&name, &file, 8080);
    project
        .runner("run --publish")
        .aws()
        .run()
        .exits(0)
        .has_line(&["wrote", "web", "taskdef.json"])
        .says("runner registered nothing");
    let written = project.json("taskdef.json");
    assert_eq!(written["containerDefinitions"][0]["image"], "<IMAGE1_NAME>");
    assert_eq!(written["containerDefinitions"][0]["environment"], json!([{ "name": "A", "value": "b" }]));
    assert_eq!(
        (&written["containerDefinitions"][1]["image"], &written["futureField"]),
        (&json!("side:1"), &json!([0, false]))
    );
    let spec: Value = serde_yaml::from_str(&project.read("appspec.yaml")).unwrap();
    let properties = &spec["Resources"][0]["TargetService"]["Properties"];
    assert_eq!(properties["TaskDefinition"], "<TASK_DEFINITION>");
    assert_eq!(properties["LoadBalancerInfo"], json!({ "ContainerName": "web", "ContainerPort": 8080 }));
    assert!(
        project.json("imageDetail.json")["ImageURI"].as_str().unwrap().contains(&format!("/{name}@sha256:"))
    );
    assert_eq!(ecs("ListTaskDefinitions", &json!({ "familyPrefix": name }))["taskDefinitionArns"], json!([]));
    let policy = project.runner("iam").run().exits(0);
    policy.says_not("ecs:").says_not("iam:PassRole");
    // A file of the user is kept.
    let own = indoc! {r"
        version: 0.0
        # <TASK_DEFINITION>
    "};
    let project = project.file("appspec.yaml", own);
    project.runner("run --publish").aws().run().exits(0).says("keeping ").says(" of the source");
    assert_eq!(project.read("appspec.yaml"), own);
    // The same on a laptop.
    project.runner("run").run().exits(0);
    assert_eq!(project.json(".runner/taskdef.json"), written);
    // What CodePipeline would stumble over.
    let project = for_code_pipeline(&name, &file, 80);
    project
        .runner("run")
        .run()
        .exits(2)
        .ends_with("port 80 of the container `web`")
        .ends_with("pipeline.yml:12:");
    let mut large = file.clone();
    large["containerDefinitions"][1]["environment"] =
        json!([{ "name": "LONG", "value": "x".repeat(70_000) }]);
    let project = for_code_pipeline(&name, &large, 8080);
    project
        .runner("run")
        .run()
        .exits(2)
        .ends_with("taskdef.json would have 69 KB, but ECS accepts at most 64 KB");
}

#[test]
fn image_detail_has_the_selected_image() {
    let step = |pairs: &str| {
        Project::new(&formatdoc! {"
            version: 1
            name: webapp
            images: {{ app: {{ repository: a }}, log: {{ repository: l }} }}
            phases: {{ build: {{ steps: [{{ build: [app, log] }}, {{ push: [app, log] }}, {{ task-definition: {{ family: f, containers: {{ web: {{ image: app }} }}, code-pipeline: {{ container: web, port: 80 }} }} }}, {{ image-definitions: {{ {pairs} }} }}] }} }}
        "})
    };
    step("web: app, log: log").runner("validate").run().exits(0).says_not("imageDetail");
    let outcome = step("log: log, web: app").runner("validate").run().exits(0);
    outcome.complains("`imageDetail.json` would name the image `log`, but `code-pipeline` uses `app`");
    // Nothing is registered that could be deployed.
    let pipeline = step("web: app")
        .read("pipeline.yml")
        .replace("{ image-definitions: { web: app } }", "{ deploy: { cluster: c, service: s } }");
    let outcome = Project::new(&pipeline).runner("validate").run().exits(2);
    outcome.complains("no task definition is registered");
}

#[test]
fn image_definitions_have_a_size_limit() {
    let name = unique("limit");
    let pairs: Vec<String> = (0..400).map(|number| format!("{}{number}: app", "c".repeat(200))).collect();
    let project = Project::new(&formatdoc! {"
        version: 1
        name: webapp
        images: {{ app: {{ repository: {name} }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}, {{ image-definitions: {{ {} }} }}] }} }}
    ", pairs.join(", ")})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"true\"]\n")
    .git();
    let outcome = project.runner("run").run().exits(2);
    outcome.ends_with("imagedefinitions.json would have ").ends_with("CodePipeline accepts at most 100 KB");
    assert!(!project.exists(".runner/imagedefinitions.json"));
}
