//! The binary in an image `FROM scratch`: no shell, no libraries, no certificates.

use crate::harness::{Project, docker, registry, served_digest, shell, unique};
use indoc::formatdoc;
use std::process::Command;

#[test]
fn the_binary_from_scratch_reaches_docker_the_registry_and_aws() {
    let repository = unique("scratch");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {repository}, create: true, tags: ["${{TAG:-v1}}"] }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ test: app, command: ["true"] }}, {{ push: app }}] }} }}
    "#})
    .file("Dockerfile", "FROM busybox:1.36\n");
    let image = unique("runner-scratch");
    let tree = tempfile::tempdir().unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_runner"), tree.path().join("runner")).unwrap();
    std::fs::create_dir(tree.path().join("tmp")).unwrap();
    let archive = tree.path().join("image.tar");
    let (root, archive) = (tree.path().to_str().unwrap(), archive.to_str().unwrap());
    shell("tar", &["-C", root, "-cf", archive, "runner", "tmp"]);
    docker(&["import", "-c", "ENTRYPOINT [\"/runner\"]", archive, &image]);
    assert_eq!(
        docker(&["run", "--rm", &image, "--version"]),
        format!("runner {}\n", env!("CARGO_PKG_VERSION"))
    );
    let output = Command::new("docker")
        .args(["run", "--rm", "--network", "host", "-v", "/var/run/docker.sock:/var/run/docker.sock"])
        .args([
            "-v",
            &format!("{0}:{0}", project.root().display()),
            "-w",
            &project.root().display().to_string(),
        ])
        .args(["-v", "/etc/docker/certs.d:/etc/docker/certs.d:ro"])
        .args(["-e", "AWS_REGION=us-east-1", "-e", "AWS_ACCESS_KEY_ID=t", "-e", "AWS_SECRET_ACCESS_KEY=t"])
        .args(["-e", &format!("AWS_ENDPOINT_URL={}", crate::harness::aws_endpoint())])
        .args([&image, "run", "--publish"])
        .output()
        .unwrap();
    docker(&["rmi", "-f", &image]);
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{log}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        log.contains(&format!("{}/{repository}@{}", registry(), served_digest(&repository, "v1"))),
        "{log}"
    );
}

#[test]
fn the_binary_is_static() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_runner")).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("statically linked") || text.contains("not a dynamic executable"), "{text}");
}
