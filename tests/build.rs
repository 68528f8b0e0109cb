//! `build`: images through the engine's BuildKit.

use crate::harness::{Project, docker, exclusive, registry, unique};
use crate::servers::{OwnEngine, PlainRegistry, copy_to_registry};

/// A project with one image and a Dockerfile; `steps` follow its build.
fn project(dockerfile: &str, image: &str, steps: &str) -> Project {
    let repository = unique("build");
    Project::new(&format!(
        "version: 1\nname: t\nenv: {{ shell: sh, variables: {{ NPM_TOKEN: \"\" }} }}\nimages:\n  app: {{ repository: {repository}, tags: [t1, \"${{TAG:-t2}}\"], {image} }}\nphases:\n  build:\n    steps:\n      - build: app\n{steps}"
    ))
    .file("Dockerfile", dockerfile)
}

fn image_id(project: &Project) -> String {
    project.json(".runner/state.json")["images"]["app"]["id"].as_str().unwrap().to_owned()
}

#[test]
fn args_labels_target_and_tags() {
    let project = project(
        "FROM busybox:1.36 AS one\nARG WHAT\nRUN echo \"got $WHAT\" > /what\nFROM one AS two\nRUN exit 1\n",
        "target: one, args: { WHAT: \"a b ${HOME}\" }, labels: { x.y: \"${WORD}\" }",
        "      - { test: app, command: [cat, /what] }\n",
    );
    let outcome = project.runner("run").env("WORD", "z").run().exits(0);
    outcome.says(&format!("got a b {}", project.path(".home").display())).says("[one 2/2] RUN");
    let image = image_id(&project);
    assert_eq!(docker(&["image", "inspect", "-f", "{{index .Config.Labels \"x.y\"}}", &image]).trim(), "z");
    let tags = docker(&["image", "inspect", "-f", "{{.RepoTags}}", &image]);
    assert!(tags.contains(":t1") && tags.contains(":t2") && tags.contains("local.invalid/"), "{tags}");
}

#[test]
fn a_failing_build_is_exit_1_with_its_output() {
    let project = project("FROM busybox:1.36\nRUN echo before-the-end && exit 9\n", "", "");
    let outcome = project.runner("run").run().exits(1).says("before-the-end\n");
    outcome.ends_with("build › build app: the build failed").ends_with("exit code: 9");
}

#[test]
fn a_missing_dockerfile_or_context_is_named() {
    let missing = project("", "dockerfile: nowhere/Dockerfile", "");
    missing
        .runner("run")
        .run()
        .exits(2)
        .ends_with("there is no Dockerfile at")
        .ends_with("nowhere/Dockerfile");
    let missing = project("", "context: nowhere", "");
    missing.runner("run").run().exits(3).ends_with("nowhere of the build context");
}

#[test]
fn the_context_honours_dockerignore_and_never_has_runners_files() {
    let project = project(
        "FROM busybox:1.36\nCOPY . /c\nRUN find /c | sort\n",
        "",
        "      - { test: app, command: [find, /c, -type, f, -o, -type, l] }\n",
    )
    .file(".dockerignore", "*.log\n!keep.log\nsecret\n.home\n.git\n")
    .file("a.log", "")
    .file("keep.log", "")
    .file("secret/key", "")
    .file("sub/deep/file", "")
    .file("imagedefinitions.json", "[]")
    .file("imageDetail.json", "{}")
    .file(".runner/old", "");
    std::os::unix::fs::symlink("keep.log", project.path("link")).unwrap();
    let outcome = project.runner("run").run().exits(0);
    let after = outcome.stdout.split("▸ test app").nth(1).unwrap();
    let mut files: Vec<&str> = after.lines().filter(|line| line.starts_with("/c")).collect();
    files.sort_unstable();
    let expected = [
        "/c/.dockerignore",
        "/c/Dockerfile",
        "/c/keep.log",
        "/c/link",
        "/c/pipeline.yml",
        "/c/sub/deep/file",
    ];
    assert_eq!(files, expected, "{outcome}");
}

#[test]
fn only_what_the_build_needs_is_read() {
    // Reading this file would fail the build: it is larger than the disk.
    let project =
        project("FROM busybox:1.36\nCOPY small /small\n", "", "").file("small", "x").file("huge", "");
    let huge = std::fs::File::options().write(true).open(project.path("huge")).unwrap();
    huge.set_len(1 << 42).unwrap();
    project.runner("run").run().exits(0);
}

#[test]
fn a_second_build_of_the_same_commit_is_from_the_cache_only() {
    let _cache = exclusive("build-cache");
    let project = project("FROM busybox:1.36\nCOPY . /c\nRUN date > /d\n", "", "      - push: app\n");
    let project = project.file(".dockerignore", ".home\n").git();
    project.runner("run").run().exits(0);
    let first = project.json(".runner/state.json");
    project.runner("run").run().exits(0).says("2 of 2 steps cached");
    let second = project.json(".runner/state.json");
    assert_eq!(first["images"], second["images"]);
}

#[test]
fn dockerfiles_of_one_context_are_told_apart() {
    let project = Project::new(&format!(
        "version: 1\nname: t\nimages:\n  a: {{ repository: {0}-a, dockerfile: a/Dockerfile, tags: [t] }}\n  b: {{ repository: {0}-b, dockerfile: b/Dockerfile, tags: [t] }}\nphases: {{ build: {{ steps: [{{ build: [a, b] }}, {{ test: a, command: [cat, /is] }}, {{ test: b, command: [cat, /is] }}] }} }}\n",
        unique("two")
    ))
    .file("a/Dockerfile", "FROM busybox:1.36\nRUN echo aaa > /is\n")
    .file("b/Dockerfile", "FROM busybox:1.36\nRUN echo bbb > /is\n");
    for file in ["a/Dockerfile", "b/Dockerfile"] {
        let file = std::fs::File::options().write(true).open(project.path(file)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    }
    project.runner("run").run().exits(0).says("\naaa\n").says("\nbbb\n");
}

#[test]
fn secrets_reach_the_build_and_stay_out_of_image_and_log() {
    // A step of its own: one that another build has made is not run again, and prints nothing.
    let own = unique("step");
    let project = project(
        &format!("FROM busybox:1.36\nRUN --mount=type=secret,id=NPM_TOKEN : {own}; wc -c < /run/secrets/NPM_TOKEN > /length; cat /run/secrets/NPM_TOKEN\n"),
        "secrets: [NPM_TOKEN]",
        "      - { test: app, command: [cat, /length] }\n      - { test: app, secrets: [NPM_TOKEN], command: [sh, -c, 'test $NPM_TOKEN = hunter2-hunter2'] }\n",
    )
    .file(".env", "NPM_TOKEN=hunter2-hunter2\n");
    let outcome = project.runner("run --env-file .env").run().exits(0);
    outcome.says("15\n").says("***").says_not("hunter2");
    let image = image_id(&project);
    let seen = docker(&["history", "--no-trunc", &image]) + &docker(&["image", "inspect", &image]);
    assert!(!seen.contains("hunter2"));
}

#[test]
fn a_secret_that_the_image_does_not_name_is_explained() {
    let project = project(
        "FROM busybox:1.36\nRUN --mount=type=secret,id=OTHER,required cat /run/secrets/OTHER\n",
        "",
        "",
    );
    project.runner("run").run().exits(1).ends_with("OTHER");
}

#[test]
fn a_private_base_image_takes_the_login_of_dockers_configuration() {
    let registry = PlainRegistry::start();
    let base = format!("{}/{}:v1", registry.host, unique("base"));
    copy_to_registry("busybox:1.36", &base, &registry.docker_config());
    let dockerfile = format!("FROM {base}\nRUN true\n");
    project(&dockerfile, "", "").runner("run").run().exits(1).ends_with("the build failed");
    let with_login = project(&dockerfile, "", "").file(".home/.docker/config.json", registry.docker_config());
    with_login.runner("run").run().exits(0);
    docker(&["rmi", "-f", &image_id(&with_login)]);
}

#[test]
fn a_private_base_image_in_ecr_takes_its_own_token() {
    let base = format!("{}/{}:v1", registry(), unique("base"));
    let engine = OwnEngine::start();
    engine.publish("busybox:1.36", &base);
    let project = project(&format!("FROM {base}\nCOPY Dockerfile /\n"), "", "");
    let run = |arguments: &str| project.runner(arguments).aws().env("DOCKER_HOST", engine.host()).run();
    // Local mode does not ask AWS for a token.
    run("run --local").exits(1).ends_with("the build failed").ends_with("401 Unauthorized");
    run("run --publish").exits(0).says_not("123456789012-auth-token");
}

#[test]
fn cache_from_brings_layers_of_an_earlier_image() {
    let _cache = exclusive("build-cache");
    let registry = PlainRegistry::start();
    let image = format!("{}/{}", registry.host, unique("cache"));
    // A base of its own: BuildKit joins equal steps of builds that run at the same time, and one that another test began
    // without the cache would not look into it.
    let base = format!("{}:v1", unique("base"));
    docker(&["tag", "busybox:1.36", &base]);
    let project = Project::new(&format!(
        "version: 1\nname: t\nimages:\n  app: {{ repository: \"{image}\", tags: [\"${{TAG:-v1}}\"], cache: {{ from: \"{image}:v1\", to: inline }} }}\nphases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}\n"
    ))
    .file("Dockerfile", format!("FROM {base}\nRUN head -c 16 /dev/urandom > /random\n"))
    .file(".home/.docker/config.json", registry.docker_config());
    // The cache does not exist yet: that is no failure.
    project.runner("run --publish").run().exits(0);
    let first = project.json(".runner/state.json")["images"]["app"]["digest"].clone();
    docker(&["rmi", "-f", &image_id(&project)]);
    docker(&["builder", "prune", "-af"]);
    project.runner("run --publish").run().exits(0).says("1 of 1 steps cached");
    assert_eq!(project.json(".runner/state.json")["images"]["app"]["digest"], first);
    docker(&["rmi", "-f", &image_id(&project), &base]);
}

#[test]
fn a_large_context_streams() {
    let project = project("FROM scratch\nCOPY large /large\n", "", "").file("large", "");
    let large = std::fs::File::options().write(true).open(project.path("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    let (outcome, peak) = project.runner("run").start().finish_measured();
    outcome.exits(0);
    docker(&["rmi", "-f", &image_id(&project)]);
    assert!(peak > 0 && peak < 150 * 1024 * 1024, "{} MiB resident", peak >> 20);
}
