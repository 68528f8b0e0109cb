//! `push`: to a registry and into a layout.

use crate::harness::{Project, docker, docker_config, ecr, registry, served_digest, unique};
use crate::servers::{PlainRegistry, RecordedAws, RecordedEngine};
use indoc::{formatdoc, indoc};
use serde_json::json;

fn project(repository: &str, more: &str) -> Project {
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: "{repository}", tags: ["${{TAG:-v1}}", latest], {more} }} }}
        phases:
          build:
            steps: [{{ build: app }}, {{ push: app }}, {{ run: 'echo $RUNNER_IMAGE_APP_URI' }}]
            finally: [{{ run: echo cleaned }}]
          post_build: {{ steps: [{{ run: echo never }}] }}
    "#})
    .file(
        "Dockerfile",
        "FROM busybox:1.36\nRUN mkdir /d && echo one > /d/one\nCOPY Dockerfile /d/\nCMD [\"cat\", \"/d/one\"]\n",
    )
}

#[test]
fn local_and_publish_give_the_same_digest_and_the_engine_runs_it() {
    let repository = unique("push");
    let project = project(&repository, "create: true");
    let local = project.runner("run --local").run().exits(0);
    let index = project.json(&format!(".runner/registry/{repository}/index.json"));
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let local = local.says(&format!("local.invalid/{repository}@{digest}\n"));
    assert!(!local.stdout.contains(&registry()));
    let reference = format!("{}/{repository}@{digest}", registry());
    project.runner("run --publish").aws().run().exits(0).says(&format!("{reference}\n"));
    for tag in ["v1", "latest"] {
        assert_eq!(served_digest(&repository, tag), digest);
    }
    // What was pushed is pulled by the engine, and is the image that was built.
    let built = project.json(".runner/state.json")["images"]["app"]["id"].as_str().unwrap().to_owned();
    docker(&["rmi", "-f", &built]);
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.json"), docker_config()).unwrap();
    docker(&["--config", home.path().to_str().unwrap(), "pull", "-q", &reference]);
    assert_eq!(docker(&["run", "--rm", &reference]), "one\n");
    assert_eq!(docker(&["image", "inspect", "-f", "{{.Id}}", &reference]).trim(), built);
    docker(&["rmi", "-f", &built]);
}

#[test]
fn the_layout_is_read_by_other_tools_and_keeps_only_what_is_tagged() {
    let repository = unique("layout");
    let project = project(&repository, "");
    project.runner("run").env("TAG", "v1").run().exits(0);
    let layout = project.path(&format!(".runner/registry/{repository}"));
    let inspect = |tag: &str| {
        let reference = format!("oci:{}:{tag}", layout.display());
        crate::harness::shell("skopeo", &["inspect", &reference])
    };
    assert!(inspect("latest").contains("sha256:"));
    let blobs = || std::fs::read_dir(layout.join("blobs/sha256")).unwrap().count();
    let before = blobs();
    project.runner("run").env("TAG", "v1").run().exits(0);
    assert_eq!(blobs(), before, "nothing is stored twice");
    let project = project.file("Dockerfile", "FROM busybox:1.36\nRUN echo other > /other\n");
    project.runner("run").env("TAG", "v1").run().exits(0);
    assert!(blobs() <= before, "what no tag leads to is gone");
    assert!(inspect("v1").contains("sha256:"));
}

#[test]
fn a_second_push_sends_nothing() {
    let repository = unique("again");
    let project = project(&repository, "create: true");
    project.runner("run --publish").aws().run().exits(0).says("blobs sent");
    project.runner("run --publish").aws().run().exits(0).says("0 blobs sent (0 B)");
}

#[test]
fn a_repository_that_does_not_exist_is_named_unless_it_may_be_created() {
    let repository = unique("missing");
    let outcome = project(&repository, "").runner("run --publish").aws().run().exits(3);
    outcome
        .says("cleaned\n")
        .says_not("\nnever")
        .ends_with(&format!("has no repository `{repository}`"))
        .ends_with("create: true");
    project(&repository, "create: true")
        .runner("run --publish")
        .aws()
        .run()
        .exits(0)
        .says("creating the ECR repository");
    let found = ecr("DescribeRepositories", &json!({ "repositoryNames": [repository] }));
    assert_eq!(found["repositories"][0]["repositoryName"], repository.as_str());
}

/// A registry on this machine that answers every request with this status.
fn refusing_registry(status: u16, message: &'static str) -> String {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let ping = request.url() == "/v2/";
            let code = if ping && status != 401 { 200 } else { status };
            let body = format!("{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"{message}\"}}]}}");
            let basic = tiny_http::Header::from_bytes("WWW-Authenticate", "Basic realm=\"test\"").unwrap();
            let _ = request
                .respond(tiny_http::Response::from_string(body).with_status_code(code).with_header(basic));
        }
    });
    address.to_string()
}

#[test]
fn a_refused_push_stops_the_run_with_the_cause() {
    let may_not = "you may not";
    let full = "The repository with name 'app' in registry with id '123456789012' already has the maximum allowed number of images which is '10000'";
    for (status, message, cause) in [
        (401, may_not, "requires a login"),
        (403, may_not, "DENIED you may not"),
        (400, may_not, "400 DENIED you may not"),
        (403, full, "raise the quota `Images per repository` in Service Quotas"),
    ] {
        let address = refusing_registry(status, message);
        let project = project(&format!("{address}/app"), "");
        let outcome = project.runner("run --publish").run().exits(3).says("cleaned\n").says_not("\nnever");
        outcome.ends_with("build › push app").ends_with(cause).ends_with(&address);
        assert!(
            !project.exists(".runner/tmp") || project.path(".runner/tmp").read_dir().unwrap().count() == 0
        );
    }
}

#[test]
fn an_unreachable_registry_is_named() {
    let project = project("127.0.0.1:1/app", "");
    project.runner("run --publish").run().exits(3).ends_with("the registry 127.0.0.1:1 cannot be reached");
}

#[test]
fn names_that_no_registry_accepts_are_located() {
    let project = project("Web App", "");
    project
        .runner("run")
        .run()
        .exits(2)
        .complains("`Web App` is not a valid repository name")
        .complains("pipeline.yml:4:30");
    let project = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: a, tags: [a/b] } }
        phases: { build: { steps: [{ build: app }] } }
    "});
    let project = project.file("Dockerfile", "FROM scratch\n");
    project.runner("run").run().exits(2).complains("`a/b` is not a valid tag").complains("pipeline.yml:3:40");
    // What only a value brings in is said when the step comes to it.
    let project = Project::new(indoc! {r#"
        version: 1
        name: t
        images: { app: { repository: a, tags: ["${TAG}"] } }
        phases: { build: { steps: [{ build: app }] } }
    "#});
    let project = project.file("Dockerfile", "FROM scratch\n");
    let outcome = project.runner("run").env("TAG", "a/b").run();
    outcome.exits(2).ends_with("pipeline.yml:3:40: `a/b` is not a valid tag");
}

#[test]
fn a_push_that_is_stopped_leaves_no_half_written_blob() {
    let repository = unique("stopped");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {repository}, tags: ["${{TAG:-t}}"] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nRUN head -c 100000000 /dev/urandom > /large\n");
    let running = project.runner("run").start();
    let blobs = project.path(&format!(".runner/registry/{repository}/blobs/sha256"));
    let half_written = || {
        let names = std::fs::read_dir(&blobs).into_iter().flatten().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with('.')).count()
    };
    crate::harness::eventually(|| half_written() > 0, "no blob was begun");
    running.signal("TERM");
    running.finish().exits(143);
    assert_eq!(half_written(), 0);
}

/// What a tag stands for in the test bed's registry.
fn manifest(repository: &str, tag: &str) -> serde_json::Value {
    let url = format!("https://{}/v2/{repository}/manifests/{tag}", registry());
    let accept =
        "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let (ca, login) = (crate::harness::bed("RUNNER_TEST_CA"), "AWS:123456789012-auth-token");
    let text = crate::harness::shell("curl", &["-fsS", "--cacert", &ca, "-u", login, "-H", accept, &url]);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn layers_are_compressed_as_asked_and_both_forms_hold_the_same_image() {
    let (gzip, zstd) = (unique("gzip"), unique("zstd"));
    let steps = indoc! {r"
        version: 1
        name: t
        phases: { build: { steps: [{ build: [a, b] }, { push: [a, b] }] } }
    "};
    let image = |name: &str, more: &str| {
        format!(
            "  {name}: {{ repository: {}, create: true, tags: [\"${{TAG:-v1}}\"]{more} }}\n",
            if name == "a" { &gzip } else { &zstd }
        )
    };
    let project =
        Project::new(&format!("{steps}images:\n{}{}", image("a", ""), image("b", ", compression: zstd")))
            .file("Dockerfile", "FROM busybox:1.36\nCOPY Dockerfile /\n");
    project.runner("run --publish").aws().run().exits(0);
    let kinds = |repository: &str| {
        let layers = manifest(repository, "v1")["layers"].as_array().unwrap().clone();
        layers
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap().rsplit('+').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&gzip), ["gzip", "gzip"]);
    assert_eq!(kinds(&zstd), ["zstd", "zstd"]);
    let configuration = |repository: &str| manifest(repository, "v1")["config"]["digest"].clone();
    assert_eq!(configuration(&gzip), configuration(&zstd));
    // Another tool reads every layer, and finds what the configuration says.
    let copies = tempfile::tempdir().unwrap();
    for repository in [&gzip, &zstd] {
        let source = format!("docker://{}/{repository}:v1", registry());
        let target = format!("dir:{}", copies.path().join(repository).display());
        let (ca, login) = (crate::harness::bed("RUNNER_TEST_CA"), "AWS:123456789012-auth-token");
        let certificates = std::path::Path::new(&ca).parent().unwrap().to_str().unwrap().to_owned();
        crate::harness::shell(
            "skopeo",
            &[
                "copy",
                "-q",
                "--dest-decompress",
                "--src-creds",
                login,
                "--src-cert-dir",
                &certificates,
                &source,
                &target,
            ],
        );
    }
}

#[test]
fn a_repository_is_created_as_the_file_says() {
    let repository = unique("created");
    let create = "create: { scan-on-push: true, immutable: true, lifecycle-policy: policy.json }";
    let broken = project(&repository, create).file("policy.json", "{ not json");
    let outcome = broken.runner("run --publish").aws().run().exits(2);
    outcome.ends_with("policy.json is not JSON").ends_with("pipeline.yml:4:");
    let policy = json!({ "rules": [{ "rulePriority": 1, "selection": { "tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 3 }, "action": { "type": "expire" } }] });
    let project = project(&repository, create).file("policy.json", policy.to_string());
    project.runner("run --publish").aws().run().exits(0);
    let found =
        ecr("DescribeRepositories", &json!({ "repositoryNames": [repository] }))["repositories"][0].clone();
    assert_eq!(found["imageTagMutability"], "IMMUTABLE");
    assert_eq!(found["imageScanningConfiguration"]["scanOnPush"], true);
    let stored = ecr("GetLifecyclePolicy", &json!({ "repositoryName": repository }));
    let stored: serde_json::Value =
        serde_json::from_str(stored["lifecyclePolicyText"].as_str().unwrap()).unwrap();
    assert_eq!(stored, policy);
}

#[test]
fn an_unchanged_layer_is_not_compressed_again_on_a_fresh_host() {
    // Whether the engine exports the image or it is read in the engine's storage.
    for storage in ["off", "auto"] {
        unchanged_layer(storage);
    }
}

fn unchanged_layer(storage: &str) {
    let repository = unique("fresh");
    let dockerfile =
        |last: &str| format!("FROM busybox:1.36\nRUN echo {repository} > /own\nRUN echo {last} > /last\n");
    let at = |last: &str| {
        project(&repository, "create: true")
            .file("Dockerfile", dockerfile(last))
            .runner("run --publish")
            .env("RUNNER_ENGINE_STORAGE", storage)
            .aws()
            .run()
            .exits(0)
    };
    at("one").says("4 blobs sent");
    let before = manifest(&repository, "v1");
    // Another directory knows nothing of the first push: only the registry does. Base and first layer are there.
    at("two").says("2 blobs sent").says("2 were there already; tags");
    let after = manifest(&repository, "v1");
    assert_eq!(before["layers"].as_array().unwrap()[..2], after["layers"].as_array().unwrap()[..2]);
    // Made from nothing they are the same.
    let elsewhere = unique("elsewhere");
    let project = project(&elsewhere, "create: true").file("Dockerfile", dockerfile("two"));
    project.runner("run --publish").aws().run().exits(0);
    assert_eq!(manifest(&elsewhere, "v1")["layers"], after["layers"]);
}

#[test]
fn blobs_of_another_repository_are_mounted() {
    let (one, two) = (unique("one"), unique("two"));
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images:
          a: {{ repository: {one}, create: true, tags: ["${{TAG:-v1}}"], args: {{ WHAT: a }} }}
          b: {{ repository: {two}, create: true, tags: ["${{TAG:-v1}}"], args: {{ WHAT: b }} }}
        phases: {{ build: {{ steps: [{{ build: [a, b] }}, {{ push: [a, b] }}] }} }}
    "#})
    .file(
        "Dockerfile",
        format!("FROM busybox:1.36\nRUN echo {one} > /own\nARG WHAT\nRUN echo $WHAT > /what\n"),
    );
    project
        .runner("run --publish")
        .aws()
        .run()
        .exits(0)
        .says("2 blobs sent")
        .says("2 came from other repositories, 0 were there already; tags");
    assert_eq!(manifest(&one, "v1")["layers"][1], manifest(&two, "v1")["layers"][1]);
}

#[test]
fn an_image_for_several_platforms_is_an_index_whose_tag_comes_last() {
    let repository = unique("platforms");
    let project = project(&repository, "create: true, platforms: [linux/arm64/v8, linux/amd64]")
        .file("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY pipeline.yml /$TARGETARCH\n");
    project.runner("run --local").run().exits(0);
    let layout = project.path(&format!(".runner/registry/{repository}"));
    let raw =
        crate::harness::shell("skopeo", &["inspect", "--raw", &format!("oci:{}:latest", layout.display())]);
    let local: serde_json::Value = serde_json::from_str(&raw).unwrap();
    project.runner("run --publish").aws().run().exits(0);
    let index = manifest(&repository, "v1");
    assert_eq!(index, local);
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| {
            format!("{}/{}", image["platform"]["os"], image["platform"]["architecture"]).replace('"', "")
        })
        .collect();
    assert_eq!(platforms, ["linux/arm64", "linux/amd64"]);
    assert_eq!(index["manifests"][0]["platform"]["variant"], "v8");
    for image in index["manifests"].as_array().unwrap() {
        let own = manifest(&repository, image["digest"].as_str().unwrap());
        assert_eq!(own["layers"].as_array().unwrap().len(), 1);
    }
    // Nothing is sent again, though the tag leads to the images only by way of the index.
    project.runner("run --publish").aws().run().exits(0).says("0 blobs sent");
}

/// A registry that has every blob and refuses to move its tag, which stands for `existing`.
fn immutable_registry(existing: std::sync::Arc<std::sync::Mutex<String>>) -> String {
    let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
    let address = server.server_addr().to_ip().unwrap();
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let is_manifest = request.url().contains("/manifests/");
            let (status, body) = match (request.method().as_str(), is_manifest) {
                ("PUT", true) => (
                    400,
                    "{\"errors\":[{\"code\":\"TAG_INVALID\",\"message\":\"The image tag 'v1' already exists and cannot be overwritten because the repository is immutable.\"}]}",
                ),
                ("GET", true) => (404, ""),
                _ => (200, ""),
            };
            let digest = existing.lock().unwrap().clone();
            let digest = tiny_http::Header::from_bytes("Docker-Content-Digest", digest).unwrap();
            let answer = tiny_http::Response::from_string(body).with_status_code(status).with_header(digest);
            let _ = request.respond(answer);
        }
    });
    address.to_string()
}

#[test]
fn an_immutable_tag_is_no_failure_if_it_has_this_image() {
    let other = format!("sha256:{}", "0".repeat(64));
    let existing = std::sync::Arc::new(std::sync::Mutex::new(other.clone()));
    let project = project(&format!("{}/app", immutable_registry(existing.clone())), "");
    let outcome = project.runner("run --publish").run().exits(1).says_not("\nnever");
    let digest =
        outcome.stdout.split(", not to ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    outcome
        .ends_with(&format!("the tag `v1` is immutable and refers to {other}, not to {digest}"))
        .ends_with("source.commit");
    // The same image is there already: an earlier build of this commit has pushed it.
    *existing.lock().unwrap() = digest.clone();
    project.runner("run --publish").run().exits(0).says(&format!("/app@{digest}"));
}

#[test]
fn the_time_of_the_image_behind_an_immutable_tag_is_named() {
    let other = format!("sha256:{}", "0".repeat(64));
    let registry = immutable_registry(std::sync::Arc::new(std::sync::Mutex::new(other.clone())));
    let aws = RecordedAws::scripted(None, move |action, _| {
        let answer = match action {
            "ecr:DescribeRepositories" => {
                json!({ "repositories": [{ "repositoryUri": format!("{registry}/app") }] })
            }
            "ecr:DescribeImages" => {
                json!({ "imageDetails": [{ "imageDigest": other, "imagePushedAt": 1_790_000_000 }] })
            }
            _ => return None,
        };
        Some((200, answer.to_string()))
    });
    let project = project("app", "");
    let outcome = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run();
    outcome.exits(1).ends_with("(pushed 2026-09-21 14:13 UTC), not to sha256:");
}

#[test]
fn a_quota_of_ecr_is_named_with_help() {
    let aws = RecordedAws::scripted(None, |action, _| {
        let refusal = json!({ "__type": "LimitExceededException", "message": "it would exceed a limit of the account" });
        (action == "ecr:CreateRepository").then(|| (400, refusal.to_string()))
    });
    let project = project(&unique("quota"), "create: true");
    let outcome = project.runner("run --publish").aws().env("AWS_ENDPOINT_URL", &aws.endpoint).run();
    outcome
        .exits(3)
        .ends_with("LimitExceededException")
        .ends_with("Service Quotas")
        .ends_with("ecr:CreateRepository");
}

#[test]
fn an_image_is_the_same_from_the_engines_storage_and_from_its_export() {
    let (registry, engine) = (PlainRegistry::start(), RecordedEngine::start());
    let name = format!("local.invalid/{}:v1", unique("storage"));
    let project = Project::new(indoc! {r"
        version: 1
        name: t
    "})
        .file(".home/.docker/config.json", registry.docker_config())
        .file(
            "Dockerfile",
            concat!(
                "FROM busybox:1.36\n",
                "RUN mkdir /d && dd if=/dev/urandom of=/d/large bs=1M count=3 && ln /d/large /d/hard && ln -s large /d/soft\n",
                "RUN rm /d/large && rm -r /var && mkdir /var && touch /d/empty && echo x > \"$(printf '/d/\\377 \\303\\274')\"\n",
                "RUN mkfifo /d/fifo && chmod 4711 /d/hard && chown 7:8 /d/empty\n",
            ),
        );
    docker(&["build", "-q", "-t", &name, project.root().to_str().unwrap()]);
    let push = |storage: &str| {
        let call = format!("image push {name} {}/{}:v1", registry.host, unique("storage"));
        let call = project.runner(&call).env("RUNNER_ENGINE_STORAGE", storage);
        let outcome = call.env("DOCKER_HOST", engine.host()).run().exits(0).says_not("tried again");
        outcome.stdout.trim().rsplit('@').next().unwrap().to_owned()
    };
    let stored = push("auto");
    assert!(!engine.was_asked("/get HTTP/1.1"), "the image was exported");
    assert_eq!(push("off"), stored);
    assert!(engine.was_asked("/get HTTP/1.1"), "the image was not exported");
    docker(&["rmi", "-f", &name]);
}

/// Findings, H10.
#[test]
fn an_image_without_layers_is_pushed_and_one_that_is_not_there_is_named() {
    let registry = PlainRegistry::start();
    let name = format!("local.invalid/{}:v1", unique("empty"));
    let project = Project::new(indoc! {r"
        version: 1
        name: t
    "})
    .file(".home/.docker/config.json", registry.docker_config())
    .file("Dockerfile", format!("FROM scratch\nLABEL name={name}\n"));
    docker(&["build", "-q", "-t", &name, project.root().to_str().unwrap()]);
    let push = |image: &str| project.runner(&format!("image push {image} {}/empty:v1", registry.host)).run();
    push(&name).exits(0).complains("1 blobs sent");
    let (_, blobs) = registry.manifest("empty", "v1").unwrap();
    let id = docker(&["image", "inspect", "-f", "{{.Id}}", &name]);
    assert_eq!(blobs[0].0, id.trim());
    push("nosuch:v1").exits(3).complains("the engine has no image nosuch:v1").complains("docker image ls");
    docker(&["rmi", "-f", &name]);
}
