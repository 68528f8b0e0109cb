//! Failures of the environment: exit 3, a clear message, advice.

use crate::harness::{Project, aws_endpoint, ecs, unique};
use indoc::{formatdoc, indoc};
use serde_json::json;

const BUILD: &str = indoc! {r#"
    version: 1
    name: t
    images: { app: { repository: a, tags: ["${TAG:-t}"] } }
    phases: { build: { steps: [{ build: app }, { push: app }] } }
"#};

fn app(pipeline: &str) -> Project {
    Project::new(pipeline).file("Dockerfile", "FROM busybox:1.36\n")
}

#[test]
fn no_docker() {
    let project = app(BUILD);
    let run = |host: &str| project.runner("run").env("DOCKER_HOST", host).run();
    run("unix:///nonexistent/docker.sock")
        .exits(3)
        .ends_with("there is no Docker Engine: /nonexistent/docker.sock does not exist")
        .ends_with("systemctl start docker");
    run("tcp://127.0.0.1:1").exits(3).ends_with("the Docker Engine at 127.0.0.1:1 does not answer");
    for wrong in
        ["npipe:////./pipe/docker", "ssh://-oProxyCommand=id", "ssh://me:word@host", "tcp://host:port"]
    {
        run(wrong).exits(3).ends_with(&format!("`{wrong}` in DOCKER_HOST"));
    }
    std::fs::write(project.path("socket"), "").unwrap();
    let file = format!("unix://{}", project.path("socket").display());
    run(&file).exits(3).ends_with("does not answer");
}

#[test]
fn an_engine_that_is_too_old() {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let _ = request.respond(tiny_http::Response::from_string(
                "{\"Version\":\"19.03.15\",\"ApiVersion\":\"1.40\"}",
            ));
        }
    });
    let outcome = app(BUILD).runner("run").env("DOCKER_HOST", format!("tcp://{address}")).run();
    outcome
        .exits(3)
        .ends_with("Docker Engine 19.03.15 speaks API 1.40, but runner needs 1.41 (Docker 20.10)");
}

#[test]
fn no_region_and_no_credentials() {
    let project = app(BUILD);
    let outcome = project.runner("run --publish").env("AWS_EC2_METADATA_DISABLED", "true").run();
    outcome.exits(3).complains("no AWS region is set").complains("set AWS_REGION").says_not("▸ build app");
    let call = project
        .runner("run --publish")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_REGION", "us-east-1");
    call.run()
        .exits(3)
        .complains("there are no AWS credentials")
        .complains("--local")
        .says_not("▸ build app");
}

/// Findings, D18: an empty variable is unset, and messages name the region and its source.
#[test]
fn the_region_is_named_with_its_source() {
    let project = app(BUILD);
    let bare = || project.runner("run --publish").env("AWS_EC2_METADATA_DISABLED", "true");
    bare().env("AWS_REGION", "").run().exits(3).complains("no AWS region is set");
    bare()
        .env("AWS_REGION", "")
        .env("AWS_DEFAULT_REGION", "")
        .run()
        .exits(3)
        .complains("no AWS region is set");
    let empty = bare().env("AWS_REGION", "").env("AWS_DEFAULT_REGION", "eu-west-1").run();
    empty.exits(3).complains("there are no AWS credentials");
    for (name, region) in
        [("AWS_REGION", "Ireland"), ("AWS_DEFAULT_REGION", "eu_west_1"), ("AWS_REGION", "eu-west-1a")]
    {
        let run = bare().env(name, region).run().exits(3);
        run.complains(&format!("`{region}` is not the name of a region (it comes from {name})"))
            .complains("write a region such as eu-central-1");
    }
    // A wrong region has other clusters, and its own host.
    let diff = |region: &str, endpoint: Option<&str>| {
        let file = r#"{ "family": "f", "containerDefinitions": [] }"#;
        let project = Project::phases("build: { steps: [] }\n").file("td.json", file);
        let call = project.runner("ecs diff --cluster prod --service web --file td.json").aws();
        let call = call.env("AWS_REGION", region).env("RUNNER_ECS_POLL", "20");
        match endpoint {
            Some(endpoint) => call.env("AWS_ENDPOINT_URL", endpoint).run(),
            None => call.run(),
        }
    };
    let missing = diff("eu-west-3", None).exits(3);
    missing.complains("there is no cluster `prod` in eu-west-3 (from AWS_REGION)").complains("or the region");
    let away = diff("eu-west-9", Some("http://127.0.0.1:1")).exits(3);
    away.complains("cannot reach AWS for ecs:DescribeServices in eu-west-9 (from AWS_REGION)");
}

#[test]
fn an_unreachable_aws_api() {
    let call = app(BUILD).runner("run --publish").aws().env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").run();
    call.exits(3).ends_with("cannot reach AWS for ecr:DescribeRepositories").ends_with("AWS_ENDPOINT_URL");
}

#[test]
fn a_denied_call_names_the_action() {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let body = "{\"__type\":\"AccessDeniedException\",\"message\":\"User: me is not authorized\"}";
            let _ = request.respond(tiny_http::Response::from_string(body).with_status_code(400));
        }
    });
    let call =
        app(BUILD).runner("run --publish").aws().env("AWS_ENDPOINT_URL", format!("http://{address}")).run();
    let outcome = call.exits(3).ends_with("AWS denies ecr:DescribeRepositories: User: me is not authorized");
    outcome.ends_with("{\"Effect\":\"Allow\",\"Action\":\"ecr:DescribeRepositories\",\"Resource\":\"arn:aws:ecr:us-east-1:*:repository/a\"}");
}

#[test]
fn no_such_cluster_service_family_or_container() {
    let name = unique("none");
    ecs("CreateCluster", &json!({ "clusterName": name }));
    let task =
        json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "x", "memory": 64 }] });
    let run = |steps: &str| {
        let project = Project::new(&formatdoc! {r"
                version: 1
                name: t
                phases: {{ build: {{ steps: [{steps}] }} }}
            "})
        .file("td.json", task.to_string());
        project.runner("run --publish").aws().run()
    };
    let file = "{ task-definition: { file: td.json } }";
    run(&format!("{file}, {{ deploy: {{ cluster: {name}-x, service: s }} }}"))
        .exits(3)
        .ends_with("there is no cluster");
    run(&format!("{file}, {{ deploy: {{ cluster: {name}, service: s }} }}"))
        .exits(3)
        .ends_with(&format!("there is no service `{name}/s`"));
    run(&format!("{{ task-definition: {{ service: {{ cluster: {name}, name: s }} }} }}"))
        .exits(3)
        .ends_with("there is no service");
    run(&format!("{{ task-definition: {{ family: {name}-x }} }}"))
        .exits(3)
        .ends_with(&format!("there is no task definition `{name}-x`"));
    run("{ task-definition: { file: td.json, containers: { wbe: { environment: { A: b } } } } }")
        .exits(2)
        .ends_with("no container `wbe`; it has `web`");
    let local = Project::new(indoc! {r"
        version: 1
        name: t
        phases: { build: { steps: [{ deploy: { cluster: c, service: s } }] } }
    "});
    local
        .runner("run --local")
        .run()
        .exits(2)
        .complains("pipeline.yml:3:30")
        .complains("no task definition is registered");
    run("{ task-definition: { file: nowhere.json } }")
        .exits(2)
        .ends_with("could not read the task definition");
}

#[test]
fn no_such_secret() {
    let project = Project::new(indoc! {r"
        version: 1
        name: t
        env: { parameter-store: { T: /no/such } }
        phases: { build: { steps: [] } }
    "});
    project.runner("run --publish").aws().run().exits(3).complains("there is no parameter `/no/such`");
}

#[test]
fn local_mode_connects_to_nothing_but_docker() {
    let name = unique("connect");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh, parameter-store: {{ T: /t }} }}
        images: {{ app: {{ repository: {name}, create: true, tags: ["${{TAG:-t}}"] }} }}
        phases:
          build:
            steps: [{{ build: app }}, {{ test: app, command: ["true"] }}, {{ push: app }}, {{ image-definitions: {{ web: app }} }}, {{ task-definition: {{ family: f }} }}, {{ deploy: {{ cluster: c, service: s }} }}]
        notify: [{{ slack: "http://127.0.0.1:1/" }}]
    "#})
    .file("Dockerfile", "FROM busybox:1.36\n");
    let trace = project.path("trace");
    let under = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto,sendmsg",
        "-e",
        "signal=none",
        "-o",
        trace.to_str().unwrap(),
    ];
    project.runner("run --local").aws().env("AWS_ENDPOINT_URL", aws_endpoint()).run_under(&under).exits(0);
    let trace = project.read("trace");
    assert!(trace.contains("docker.sock"), "{trace}");
    assert!(!trace.contains("AF_INET"), "{trace}");
}
