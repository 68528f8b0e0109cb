//! `build`: images through the engine's BuildKit.

use crate::harness::{Project, docker, docker_config, registry, shell, unique};
use crate::servers::{OwnEngine, PlainRegistry, Server, copy_to_registry};
use indoc::{formatdoc, indoc};

/// A project with one image and a Dockerfile; `steps` follow its build.
pub fn project(dockerfile: &str, image: &str, steps: &str) -> Project {
    let repository = unique("build");
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh, variables: {{ NPM_TOKEN: "" }} }}
        images:
          app: {{ repository: {repository}, tags: [t1, "${{TAG:-t2}}"], {image} }}
        phases:
          build:
            steps:
              - build: app
        {steps}"#})
    .file("Dockerfile", dockerfile)
}

pub fn image_id(project: &Project) -> String {
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
    outcome.ends_with("build › build app: the build failed").ends_with("ended with exit code 9");
}

#[test]
fn a_newer_dockerfile_language_is_recognized() {
    let project = project("FROM busybox:1.36\nRUN <<END\necho heredoc\nEND\n", "", "");
    let outcome = project.runner("run").run();
    // Engines from 23 on know it by themselves.
    if outcome.code != Some(0) {
        outcome.exits(1).says("help: engines before 23 need").says("# syntax=docker/dockerfile:1");
    }
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
    missing.runner("run").run().exits(2).ends_with("nowhere does not exist");
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
    let project = project("FROM busybox:1.36\nCOPY . /c\nRUN date > /d\n", "", "      - push: app\n");
    let project = project.file(".dockerignore", ".home\n").git();
    project.runner("run").run().exits(0);
    let first = project.json(".runner/state.json");
    project.runner("run").run().exits(0).says("2 of 2 steps cached");
    let second = project.json(".runner/state.json");
    assert_eq!(first["images"], second["images"]);
}

#[test]
fn dockerfiles_of_one_context_are_distinguished() {
    let project = Project::new(&formatdoc! {"
        version: 1
        name: t
        images:
          a: {{ repository: {0}-a, dockerfile: a/Dockerfile, tags: [t] }}
          b: {{ repository: {0}-b, dockerfile: b/Dockerfile, tags: [t] }}
        phases: {{ build: {{ steps: [{{ build: [a, b] }}, {{ test: a, command: [cat, /is] }}, {{ test: b, command: [cat, /is] }}] }} }}
    ", unique("two")})
    .file("a/Dockerfile", "FROM busybox:1.36\nRUN echo aaa > /is\n")
    .file("b/Dockerfile", "FROM busybox:1.36\nRUN echo bbb > /is\n");
    for file in ["a/Dockerfile", "b/Dockerfile"] {
        let file = std::fs::File::options().write(true).open(project.path(file)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
    }
    project.runner("run").run().exits(0).says("\naaa\n").says("\nbbb\n");
}

#[test]
fn secrets_reach_the_build_but_neither_image_nor_log() {
    // A step of its own: one that another build has made is not run again, and prints nothing. And a secret of its own,
    // which no command of this or another test names: every process of the machine is looked at below.
    let (own, secret) = (unique("step"), unique("hunter2"));
    let length = secret.len();
    let project = project(
        &format!("FROM busybox:1.36\nRUN --mount=type=secret,id=NPM_TOKEN : {own}; wc -c < /run/secrets/NPM_TOKEN > /length; sleep 0.3; cat /run/secrets/NPM_TOKEN\n"),
        "secrets: [NPM_TOKEN]",
        &format!("      - {{ test: app, command: [cat, /length] }}\n      - {{ test: app, secrets: [NPM_TOKEN], command: [sh, -c, 'case $NPM_TOKEN in hunter2-*) test $${{#NPM_TOKEN}} = {length};; *) false;; esac'] }}\n"),
    )
    .file(".env", format!("NPM_TOKEN={secret}\n"));
    let mut running = project.runner("run --env-file .env").start();
    while running.has_read().is_some() {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            assert!(!command.contains(&secret), "{command}");
        }
    }
    running.finish().exits(0).says(&format!("\n{length}\n")).says("***").says_not("hunter2");
    let image = image_id(&project);
    let layers = shell("sh", &["-c", "docker save \"$1\" | grep -c hunter2 || true", "sh", &image]);
    assert_eq!(layers.trim(), "0");
    let seen = docker(&["history", "--no-trunc", &image]) + &docker(&["image", "inspect", &image]);
    assert!(!seen.contains("hunter2"));
}

/// Findings, A1: encoders print a long secret in several lines, and each gets the number of the step.
#[test]
fn a_secret_in_several_lines_of_a_build_is_masked() {
    let own = unique("own");
    let project = project(
        &format!(
            "FROM busybox:1.36\nRUN --mount=type=secret,id=NPM_TOKEN : {own}; cd /run/secrets; base64 NPM_TOKEN; od -An -tx1 NPM_TOKEN; echo the end\n"
        ),
        "secrets: [NPM_TOKEN]",
        "",
    );
    let secret: String = ('a'..='z').cycle().take(150).collect();
    let outcome = project.runner("run --local --env-file .env");
    std::fs::write(project.path(".env"), format!("NPM_TOKEN={secret}\n")).unwrap();
    let outcome = outcome.run().exits(0).says("the end\n");
    // Pieces of the secret in base64, at the beginning of its lines, and in hexadecimal.
    for piece in ["YWJjZGVm", "ZGVmZ2hp", "61 62 63 64", "71 72 73 74", "77 78 79 7a", &secret[..8]] {
        assert!(!outcome.stdout.contains(piece), "{piece}: {outcome}");
    }
}

/// Findings, A11: also in base64, at the end of a file, and across the pieces in which a file is sent.
#[test]
fn a_secret_in_the_context_causes_a_warning_with_the_file() {
    let project = project("FROM scratch\nCOPY . /\n", "", "");
    let text = project
        .read("pipeline.yml")
        .replace("env: { shell: sh,", "env: { shell: sh, parameter-store: { TOKEN: /t },");
    let large = format!("{}hunter2-hunter2{}", "x".repeat(32 * 1024 - 7), "y".repeat(40_000));
    let project = project
        .file("pipeline.yml", text)
        .file("a/config.json", "{ \"key\": \"hunter2-hunter2\" }")
        .file("b", "aHVudGVyMi1odW50ZXIy")
        .file("large", large)
        .file("harmless", "hunter2");
    let run = project.runner("run --local").env("TOKEN", "hunter2-hunter2").run().exits(0);
    for file in ["a/config.json", "b", "large"] {
        assert!(
            run.stdout.contains(&format!("warning: {file} in the build context contains a secret")),
            "{run}"
        );
    }
    run.says_not("harmless in the build context");
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
fn a_private_base_image_uses_the_login_of_dockers_configuration() {
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
fn a_private_base_image_in_ecr_uses_its_own_token() {
    let base = format!("{}/{}:v1", registry(), unique("base"));
    let engine = OwnEngine::start(&registry());
    engine.publish("busybox:1.36", &base);
    let project = project(&format!("FROM {base}\nCOPY Dockerfile /\n"), "", "");
    let run = |arguments: &str| project.runner(arguments).aws().env("DOCKER_HOST", engine.host()).run();
    // Local mode does not ask AWS for a token.
    run("run --local").exits(1).ends_with("the build failed").ends_with("401 Unauthorized");
    run("run --publish").exits(0).says_not("123456789012-auth-token");
}

#[test]
fn cache_from_brings_layers_of_an_earlier_image() {
    // An engine of its own, because its cache is emptied: that would take away what the machine's owner has there, and an
    // engine of 20.10 dies of it where builds are under way (https://github.com/moby/buildkit/issues/2157).
    let engine = OwnEngine::start("registry.internal");
    engine.load("busybox:1.36");
    let project = Project::new(
        indoc! {r#"
            version: 1
            name: t
            images:
              app: { repository: registry.internal/cache, tags: ["${TAG:-v1}"], cache: { from: "registry.internal/cache:v1", to: inline } }
            phases: { build: { steps: [{ build: app }, { push: app }] } }
        "#},
    )
    .file("Dockerfile", "FROM busybox:1.36\nRUN head -c 16 /dev/urandom > /random\n")
    .file(".home/.docker/config.json", docker_config().replace(&registry(), "registry.internal"))
    .git();
    let publish = || {
        project
            .runner("run --publish")
            .env("DOCKER_HOST", engine.host())
            .run_under(&engine.network(project.root()))
            .exits(0)
    };
    // The cache does not exist yet: that is no failure.
    publish();
    let first = project.json(".runner/state.json")["images"]["app"]["digest"].clone();
    engine.docker(&["rmi", "-f", &image_id(&project)]);
    engine.docker(&["builder", "prune", "-af"]);
    publish().says("1 of 1 steps cached");
    assert_eq!(project.json(".runner/state.json")["images"]["app"]["digest"], first);
}

#[test]
fn a_large_context_streams() {
    let project = project("FROM scratch\nCOPY large /large\n", "", "").file("large", "");
    let large = std::fs::File::options().write(true).open(project.path("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    let (outcome, peak) = project.runner("run").start().finish_measured();
    outcome.exits(0);
    docker(&["rmi", "-f", &image_id(&project)]);
    assert!(peak > 0 && peak < 100_000_000, "{peak} bytes");
}

#[test]
fn network_and_hosts_of_run() {
    let name = unique("network");
    let own = unique("line");
    let project = Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images:
          none: {{ repository: {name}, tags: [n], network: none, dockerfile: none.Dockerfile }}
          hosts: {{ repository: {name}, tags: [h], extra-hosts: {{ db.internal: 10.0.0.5, six.internal: "fd00::5" }}, dockerfile: hosts.Dockerfile }}
          host: {{ repository: {name}, tags: [o], network: host, dockerfile: host.Dockerfile }}
        phases: {{ build: {{ steps: [{{ build: [none, hosts, host] }}] }} }}
    "#})
    .file("none.Dockerfile", format!("FROM busybox:1.36\nRUN echo {own}; ls /sys/class/net | grep -v lo || echo no-network\n"))
    .file("hosts.Dockerfile", format!("FROM busybox:1.36\nRUN echo {own}; cat /etc/hosts\n"))
    .file("host.Dockerfile", format!("FROM busybox:1.36\nRUN echo {own}; ls /sys/class/net\n"));
    let run = project.runner("run").run().exits(0).says("no-network").says("10.0.0.5");
    run.says("db.internal").says("fd00::5").says("docker0");
    let wrong = Project::new(indoc! {"
        version: 1
        name: t
        images: { app: { repository: t, tags: [t], extra-hosts: { db: nowhere } } }
        phases: { build: { steps: [{ build: app }] } }
    "})
    .file("Dockerfile", "FROM busybox:1.36\n");
    wrong.runner("run").run().exits(2).says("pipeline.yml:3:").says("`nowhere` is not an IP address");
}

#[test]
fn labels_and_times_come_from_the_commit() {
    let dockerfile = "FROM busybox:1.36\nARG SOURCE_DATE_EPOCH\nRUN echo \"epoch $SOURCE_DATE_EPOCH\"\n";
    let project = project(dockerfile, "labels: { org.opencontainers.image.source: mine }", "").git();
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).current_dir(project.root()).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    };
    let (commit, time) = (git(&["rev-parse", "HEAD"]), git(&["show", "-s", "--format=%ct", "HEAD"]));
    project.runner("run").run().exits(0).says(&format!("epoch {time}"));
    let label = |name: &str| {
        let format = format!("{{{{index .Config.Labels \"org.opencontainers.image.{name}\"}}}}");
        docker(&["image", "inspect", "-f", &format, &image_id(&project)]).trim().to_owned()
    };
    let created = git(&["show", "-s", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "HEAD"]);
    assert_eq!((label("revision"), label("source"), label("created")), (commit, "mine".to_owned(), created));
}

/// `ssh-add` with its libraries, and a key that it can be tried with.
fn with_ssh(project: Project, kind: &str) -> Project {
    std::fs::create_dir_all(project.path("root/bin")).unwrap();
    let programs = ["/usr/bin/ssh-add", "/usr/bin/ssh-keygen"];
    shell("cp", &[programs[0], programs[1], &project.path("root/bin").display().to_string()]);
    let libraries = shell("ldd", &programs);
    for library in libraries.split_whitespace().filter(|word| word.starts_with("/lib")) {
        let place = project.path(&format!("root{library}"));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(library, place).unwrap();
    }
    shell("ssh-keygen", &["-q", "-t", kind, "-N", "", "-f", &project.path("key").display().to_string()]);
    project
}

const WITH_SSH: &str = "FROM busybox:1.36\nCOPY root /\nCOPY key.pub /\nRUN --mount=type=ssh,id=deploy,required ssh-add -l && echo text | ssh-keygen -Y sign -f /key.pub -n test && echo usable; ls /key\n";

/// Findings, C13: equal sources make an equal image, whenever and wherever they are built. The second build is another
/// checkout, whose files have other times, and nothing of the run gets into the image.
#[test]
fn equal_sources_make_equal_images() {
    let base = formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {}, tags: ["${{TAG:-t}}"], dockerfile: app.docker }} }}
        phases: {{ build: {{ steps: [{{ build: app }}, {{ push: app }}] }} }}
    "#, unique("equal")};
    let dockerfile =
        format!("FROM busybox:1.36\nCOPY src /src\nRUN : {}; cat /src/a > /b\n", unique("equal"));
    let sources = || {
        let project = Project::new(&base).file("app.docker", &dockerfile).file("src/a", "a");
        shell("touch", &["-d", "2001-01-01", project.path("src/a").to_str().unwrap()]);
        project
    };
    let digest = |project: &Project, env: &[(&str, &str)]| {
        let mut call = project.runner("run --local");
        for (name, value) in env {
            call = call.env(name, *value);
        }
        call.run().exits(0);
        let uri = project.json(".runner/state.json")["images"]["app"]["uri"].as_str().unwrap().to_owned();
        let (_, digest) = uri.split_once("@sha256:").unwrap();
        (image_id(project), digest.to_owned())
    };
    // The source of a pipeline is a zip file, and other builds know neither commit nor repository.
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let build = |id| [("CODEBUILD_BUILD_ID", id), ("CODEBUILD_RESOLVED_SOURCE_VERSION", commit)];
    for (first, second) in [(build("t:1").to_vec(), build("t:2").to_vec()), (Vec::new(), Vec::new())] {
        let (one, other) = (sources(), sources());
        shell("touch", &[other.path("src/a").to_str().unwrap()]);
        assert_eq!(digest(&one, &first), digest(&other, &second), "{first:?}");
    }
    let origin = sources().git();
    let clones = tempfile::tempdir().unwrap();
    let cloned = |name: &str| {
        let clone = Project::new("");
        std::fs::remove_file(clone.path("pipeline.yml")).unwrap();
        let bare = clones.path().join("origin").display().to_string();
        let url = format!("file://{bare}");
        let root = clone.root().to_str().unwrap();
        if name == "first" {
            shell("git", &["clone", "-q", "--bare", origin.root().to_str().unwrap(), &bare]);
        }
        for arguments in
            [&["init", "-q"] as &[&str], &["fetch", "-q", &url, "main"], &["checkout", "-q", "FETCH_HEAD"]]
        {
            shell("git", &[&["-C", root], arguments].concat());
        }
        clone
    };
    let (one, other) = (cloned("first"), cloned("second"));
    assert_eq!(digest(&one, &[]), digest(&other, &build("t:3")[..1]));
}

#[test]
fn the_build_can_use_a_key_without_seeing_it() {
    for kind in ["ed25519", "rsa", "ecdsa"] {
        let dockerfile = WITH_SSH.replace("; ls /key", "; ! test -e /key");
        let project = with_ssh(project(&dockerfile, "ssh: deploy=key", ""), kind);
        let outcome = project.runner("run").run().exits(0);
        outcome.says("usable\n").says(&format!("({})", kind.to_uppercase()));
    }
}

#[test]
fn an_agent_is_forwarded_and_its_absence_explained() {
    let dockerfile = WITH_SSH.replace("; ls /key", "");
    let project = with_ssh(project(&dockerfile, "ssh: [deploy]", ""), "ed25519");
    project
        .runner("run")
        .run()
        .exits(2)
        .ends_with("SSH_AUTH_SOCK is not set")
        .ends_with("ssh: [default=KEYFILE]");
    let socket = project.path("agent").display().to_string();
    let agent = Server::start("ssh-agent", &["-D", "-a", &socket], &project.path("agent.log"));
    // The socket exists a moment before the agent listens.
    let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    crate::harness::eventually(listens, "the agent does not listen");
    let mut add = std::process::Command::new("ssh-add");
    add.arg("-q").arg(project.path("key")).env("SSH_AUTH_SOCK", &socket);
    assert!(add.status().unwrap().success());
    project.runner("run").env("SSH_AUTH_SOCK", &socket).run().exits(0).says("usable\n");
    drop(agent);
    // A key with a passphrase cannot be used, which is said before anything is built.
    let key = project.path("key").display().to_string();
    shell("ssh-keygen", &["-q", "-p", "-P", "", "-N", "hunter2", "-f", &key]);
    let pipeline = project.read("pipeline.yml").replace("[deploy]", "deploy=key");
    let project = project.file("pipeline.yml", pipeline);
    project.runner("run").run().exits(2).ends_with("has a passphrase");
}

#[test]
fn a_large_context_causes_a_warning_that_names_the_largest_entries() {
    let project = project("FROM busybox:1.36\nRUN --mount=type=bind,target=/c ls /c\n", "", "")
        .file("data/dump.sql", "");
    let file = std::fs::File::options().write(true).open(project.path("data/dump.sql")).unwrap();
    file.set_len(201_000_000).unwrap();
    project
        .runner("run")
        .run()
        .exits(0)
        .says("warning: the build context has 201.0 MB")
        .says("data/dump.sql (201.0 MB)");
}

#[test]
fn the_log_names_slow_instructions_and_larger_layers() {
    let own = unique("slow");
    let dockerfile = format!("FROM busybox:1.36\nRUN : {own}; sleep 0.3\nCOPY large /\n");
    let project = project(&dockerfile, "", "").file("large", vec![b'x'; 10]);
    project
        .runner("run")
        .run()
        .exits(0)
        .says("0 of 2 steps cached; slowest: [2/3] RUN")
        .says_not("than the previous image");
    let project = project.file("large", vec![b'x'; 3_000_000]);
    let outcome = project.runner("run").run().exits(0);
    outcome
        .says("1 of 2 steps cached")
        .says("2.9 MB more than the previous image: COPY large / # buildkit +2.9 MB");
}

#[test]
fn a_cache_that_cannot_be_read_is_a_warning() {
    let cache = format!("cache: {{ from: \"{}/nothing:here\", to: registry }}", registry());
    let project = project("FROM busybox:1.36\nRUN true\n", &cache, "");
    let outcome = project.runner("run").run().exits(0);
    outcome.says("warning: the cache ").says("/nothing:here cannot be read: ");
}

#[test]
fn output_that_the_engine_cuts_is_reported() {
    let own = unique("clip");
    let dockerfile = format!(
        "FROM busybox:1.36\nRUN : {own}; i=0; while [ $i -lt 40000 ]; do echo 0123456789012345678901234567890; i=$((i+1)); done; exit 3\n"
    );
    let project = project(&dockerfile, "", "");
    project.runner("run").run().exits(1).says("warning: the engine has truncated the output of a step");
}

#[test]
fn the_syntax_line_names_the_frontend() {
    let frontend = project("FROM busybox:1.36\nENTRYPOINT [\"/bin/sh\", \"-c\", \"exit 77\"]\n", "", "");
    frontend.runner("run").run().exits(0);
    let name = format!("local.invalid/{}:1", unique("frontend"));
    docker(&["tag", &image_id(&frontend), &name]);
    let project = project(&format!("# syntax={name}\nFROM busybox:1.36\n"), "", "");
    project.runner("run").run().exits(1).ends_with("exit code: 77");
    docker(&["rmi", &name]);
}

#[test]
fn a_terminal_shows_the_current_work_and_the_whole_output_of_a_failure() {
    let own = unique("live");
    let dockerfile = format!(
        "FROM busybox:1.36\nRUN : {own}; echo hidden-output; sleep 0.5\nRUN echo before-the-end; exit 9\n"
    );
    let project = project(&dockerfile, "", "");
    let command = format!("{} run", env!("CARGO_BIN_EXE_runner"));
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(project.root())
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("\x1b[2m    hidden-output\x1b[0m\n") && shown.contains("A\x1b[J"), "{shown:?}");
    assert!(shown.contains("before-the-end\n") && !shown.contains(" hidden-output\n"), "{shown:?}");
    assert!(shown.contains("; sleep 0.5 · done "), "{shown:?}");
}
