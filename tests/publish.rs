//! The whole way: source to registry, image definitions, task definition and service.

use crate::harness::{Project, ecs, registry, secrets_manager, served_digest, shell, ssm, unique};
use indoc::formatdoc;
use serde_json::{Value, json};

/// A cluster and a service that runs a first revision; the name serves for all of them.
fn service() -> String {
    let name = unique("svc");
    ecs("CreateCluster", &json!({ "clusterName": name }));
    let first = json!({
        "family": name,
        "containerDefinitions": [
            { "name": "web", "image": "old", "cpu": 0, "memory": 128, "essential": true,
              "environment": [{ "name": "EMPTY", "value": "" }, { "name": "VERSION", "value": "0" }] },
            { "name": "sidecar", "image": "side:1", "cpu": 0, "memory": 64, "essential": false }
        ],
        "tags": [{ "key": "team", "value": "a" }]
    });
    ecs("RegisterTaskDefinition", &first);
    ecs(
        "CreateService",
        &json!({ "cluster": name, "serviceName": name, "taskDefinition": name, "desiredCount": 1 }),
    );
    name
}

fn project(name: &str, base: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, create: true }} }}
        phases:
          build: {{ steps: [{{ build: app }}, {{ push: app }}] }}
          post_build:
            steps:
              - image-definitions: {{ web: app, worker: app }}
              - task-definition:
                  {base}
                  containers: {{ web: {{ image: app, environment: {{ VERSION: "${{source.commit}}", NEW: "${{image.app.digest}}" }} }} }}
              - deploy: {{ cluster: {name}, service: {name} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nCMD [\"echo\", \"hello\"]\n")
    .git()
}

fn current(name: &str) -> Value {
    let services = ecs("DescribeServices", &json!({ "cluster": name, "services": [name] }));
    let arn = services["services"][0]["taskDefinition"].clone();
    ecs("DescribeTaskDefinition", &json!({ "taskDefinition": arn, "include": ["TAGS"] }))
}

#[test]
fn from_source_to_the_service_with_one_digest() {
    let name = service();
    let project = project(&name, &format!("service: {{ cluster: {name}, name: {name} }}"));
    let outcome = project.runner("run --publish").aws().run().exits(0);
    let commit = shell("git", &["-C", project.root().to_str().unwrap(), "rev-parse", "HEAD"]);
    let digest = served_digest(&name, commit.trim());
    let uri = format!("{}/{name}@{digest}", registry());
    assert_eq!(
        project.json("imagedefinitions.json"),
        json!([{ "name": "web", "imageUri": uri }, { "name": "worker", "imageUri": uri }])
    );
    assert_eq!(project.json("imageDetail.json"), json!({ "ImageURI": uri }));
    let found = current(&name);
    let definition = &found["taskDefinition"];
    assert!(definition["taskDefinitionArn"].as_str().unwrap().ends_with(&format!("{name}:2")), "{found}");
    let containers = &definition["containerDefinitions"];
    assert_eq!(containers[0]["image"], uri.as_str());
    assert_eq!(
        containers[0]["environment"],
        json!([{ "name": "EMPTY", "value": "" }, { "name": "VERSION", "value": commit.trim() }, { "name": "NEW", "value": digest }])
    );
    assert_eq!(containers[1]["image"], "side:1");
    assert_eq!(containers[1]["essential"], false);
    assert_eq!(found["tags"], json!([{ "key": "team", "value": "a" }]));
    outcome.says("pushed").says(&format!("{name}:2")).says("updated").ends_with("succeeded in");
    // The same once more changes nothing.
    let again = project.runner("run --publish").aws().run().exits(0);
    again
        .says("0 blobs sent")
        .has_line(&["unchanged", &format!("{name}:2")])
        .says(&format!("already runs {name}:2"))
        .says_not("updated");
    assert_eq!(current(&name), found);
}

#[test]
fn phases_in_separate_processes_continue_with_the_image() {
    let name = service();
    let project = project(&name, &format!("family: {name}"));
    project.runner("run --publish --phase build").aws().run().exits(0);
    assert!(!project.exists("imagedefinitions.json"));
    project.runner("run --publish --phase post_build").aws().run().exits(0);
    let pushed = project.json(".runner/state.json")["images"]["app"]["uri"].clone();
    assert_eq!(project.json("imagedefinitions.json")[0]["imageUri"], pushed);
    assert_eq!(current(&name)["taskDefinition"]["containerDefinitions"][0]["image"], pushed);
}

#[test]
fn local_mode_renders_the_request_and_the_plan() {
    let name = unique("local");
    let task = json!({
        "taskDefinition": { "family": name, "revision": 4, "status": "ACTIVE", "taskDefinitionArn": "arn:x",
            "futureField": [0, false, ""],
            "containerDefinitions": [{ "name": "web", "image": "x", "cpu": 0, "links": null }] },
        "tags": []
    });
    let project = project(&name, "file: td.json").file("td.json", task.to_string());
    project.runner("run").run().exits(0);
    let uri = project.json(".runner/imagedefinitions.json")[0]["imageUri"].clone();
    assert!(uri.as_str().unwrap().starts_with(&format!("local.invalid/{name}@sha256:")));
    assert!(!project.exists("imagedefinitions.json"), "local mode leaves the source alone");
    let request = project.json(&format!(".runner/ecs/{name}.json"));
    assert_eq!(request["containerDefinitions"][0]["image"], uri);
    assert_eq!(request["futureField"], json!([0, false, ""]));
    assert_eq!(request["containerDefinitions"][0]["cpu"], 0);
    for gone in ["revision", "status", "taskDefinitionArn", "tags"] {
        assert!(request.get(gone).is_none(), "{gone}");
    }
    let deploy = project.json(&format!(".runner/ecs/deploy-{name}-{name}.json"));
    assert_eq!(deploy["taskDefinition"], name.as_str());
}

#[test]
fn local_mode_without_the_current_definition_shows_the_changes() {
    let name = unique("local");
    let project = project(&name, &format!("family: {name}"));
    project.runner("run").run().exits(0).says("local mode does not read the current task definition");
    let changes = project.json(&format!(".runner/ecs/{name}-changes.json"));
    assert_eq!(changes["containers"][0]["name"], "web");
    let deploy = project.json(&format!(".runner/ecs/deploy-{name}-{name}.json"));
    assert_eq!(deploy["taskDefinition"], name.as_str());
}

#[test]
fn secrets_come_from_parameter_store_and_secrets_manager() {
    let name = unique("secret");
    ssm(
        "PutParameter",
        &json!({ "Name": format!("/{name}"), "Value": "parameter-value", "Type": "SecureString" }),
    );
    secrets_manager(
        "CreateSecret",
        &json!({ "Name": name, "SecretString": "{\"url\": \"https://secret.example/x\"}" }),
    );
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env:
          shell: sh
          parameter-store: {{ TOKEN: /{name} }}
          secrets-manager: {{ URL: "{name}:url" }}
        phases:
          build:
            steps:
              - run: 'echo "$TOKEN" > token; echo "$URL" > url; cat token url'
    "#});
    let outcome = project.runner("run --publish").aws().run().exits(0);
    outcome.says("***\n***\n").says_not("parameter-value").says_not("secret.example");
    assert_eq!(project.read("token"), "parameter-value\n");
    assert_eq!(project.read("url"), "https://secret.example/x\n");
    assert!(!project.read(".runner/state.json").contains("parameter-value"));
}
