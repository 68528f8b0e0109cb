//! Connecting to the engine: TLS, ssh, contexts, and starting one.

use crate::harness::{Outcome, Project, eventually, shell, unique};
use crate::servers::{SshServer, TlsEngine};
use indoc::formatdoc;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// All that is asked of an engine: a build, a test with a service and files, an export.
fn everything() -> Project {
    let name = unique("engine");
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        images: {{ app: {{ repository: {name}, tags: ["${{TAG:-t}}"] }} }}
        phases:
          build:
            steps:
              - build: app
              - test: app
                command: [sh, -c, 'wget -qO- db:80/ | grep served && mkdir /out && echo copied > /out/file']
                copy-out: {{ /out/: out }}
                services:
                  db:
                    image: busybox:1.36
                    command: [sh, -c, 'mkdir /www && echo served > /www/index.html && exec httpd -f -p 80 -h /www']
                    ready: {{ command: [test, -e, /www/index.html] }}
              - push: app
    "#})
    .file("Dockerfile", "FROM busybox:1.36\nCOPY Dockerfile /\nRUN echo run by BuildKit\n")
}

#[track_caller]
fn did_everything(project: &Project, outcome: Outcome) {
    outcome.exits(0).says("run by BuildKit").says("served").says("local.invalid/engine-");
    assert_eq!(project.read("out/file"), "copied\n");
}

#[test]
fn an_engine_behind_tls() {
    let engine = TlsEngine::start();
    engine.load("busybox:1.36");
    let project = everything();
    let (network, certificates) = (engine.network(), engine.certificates("certs"));
    let call = |arguments: &str| project.runner(arguments).env("DOCKER_HOST", "tcp://127.0.0.1:2376");
    let verified = |arguments: &str, directory: &str| {
        call(arguments).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", directory)
    };
    did_everything(&project, verified("run", &certificates).run_under(&network));
    let doctor = verified("doctor", &certificates).run_under(&network);
    doctor.says("at 127.0.0.1:2376 (TLS)").says("good             BuildKit");
    // The usual place, and the usual directory.
    let home = project.path(".home/.docker");
    std::fs::create_dir(&home).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(Path::new(&certificates).join(file), home.join(file)).unwrap();
    }
    let usual = project.runner("run").env("DOCKER_TLS_VERIFY", "1").run_under(&network);
    did_everything(&project, usual);

    // As with docker, the path alone asks for no TLS, and DOCKER_TLS for no check.
    let plain = call("run").env("DOCKER_CERT_PATH", &certificates).run_under(&network);
    plain.exits(3).ends_with("an engine with TLS needs DOCKER_TLS_VERIFY=1");
    std::fs::remove_file(home.join("ca.pem")).unwrap();
    let unchecked = call("doctor").env("DOCKER_TLS", "1").run_under(&network);
    unchecked.says("its certificate is not checked");
    let no_ca = call("run").env("DOCKER_TLS_VERIFY", "1").run_under(&network);
    no_ca
        .exits(3)
        .ends_with("/.docker/ca.pem for TLS, which DOCKER_TLS_VERIFY requires: No such file")
        .ends_with("set DOCKER_CERT_PATH to the directory");
    verified("run", &engine.certificates("other")).run_under(&network).exits(3).ends_with("certificate");
    // A docker context has certificates of its own.
    let config = project.path(".home/.docker");
    docker_context(&config, "far", r#"{"Host": "tcp://127.0.0.1:2376"}"#);
    let own = config.join(format!("contexts/tls/{FAR}/docker"));
    std::fs::create_dir_all(&own).unwrap();
    let by_context = |command: &str| project.runner(command).env("DOCKER_CONTEXT", "far").run_under(&network);
    let missing = by_context("run").exits(3);
    missing
        .ends_with("the docker context `far`: cannot use")
        .ends_with("for TLS, which the docker context requires");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(Path::new(&certificates).join(file), own.join(file)).unwrap();
    }
    did_everything(&project, by_context("run"));
    by_context("doctor").says("at 127.0.0.1:2376 (TLS), the docker context `far`");

    let half = engine.certificates("half");
    std::fs::create_dir(&half).unwrap();
    let copy =
        |file: &str| std::fs::copy(format!("{certificates}/{file}"), format!("{half}/{file}")).unwrap();
    copy("ca.pem");
    let nobody = verified("run", &half).run_under(&network).exits(3);
    nobody.ends_with("without a client certificate: there is no").ends_with("half/cert.pem");
    copy("cert.pem");
    verified("run", &half).run_under(&network).exits(3).ends_with("half/key.pem for TLS");
    std::fs::write(format!("{half}/key.pem"), "no key\n").unwrap();
    let wrong = verified("run", &half).run_under(&network).exits(3);
    wrong.ends_with("half/key.pem for TLS, which DOCKER_TLS_VERIFY requires: it contains no such item");
}

/// The SHA-256 of `far` and of `near`: where docker keeps contexts of these names.
const FAR: &str = "512eea46ceb3921dff4363c7069d89d4964d1d9fccaa0f411851a7aa60a5c868";
const NEAR: &str = "46ba34770bccfde756708d47d83fb7c8257fe8a4b3a35f25d385a8284021f476";

/// A docker context as the docker command writes it.
fn docker_context(config: &Path, name: &str, endpoint: &str) {
    let directory = config.join("contexts/meta").join(if name == "far" { FAR } else { NEAR });
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(r#"{{"Name": "{name}", "Metadata": {{}}, "Endpoints": {{"docker": {endpoint}}}}}"#);
    std::fs::write(directory.join("meta.json"), text).unwrap();
}

#[test]
fn the_engine_of_a_docker_context() {
    let project = everything();
    let config = project.path(".home/.docker");
    std::fs::create_dir_all(&config).unwrap();
    let socket = project.path("engine.sock");
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    docker_context(&config, "near", &format!(r#"{{"Host": "unix://{}"}}"#, socket.display()));
    docker_context(&config, "far", r#"{"Host": "unix:///nowhere.sock"}"#);
    let current = |name: &str| {
        std::fs::write(config.join("config.json"), format!(r#"{{"currentContext": "{name}"}}"#)).unwrap();
    };
    current("near");
    did_everything(&project, project.runner("run").run());
    project.runner("doctor").run().says("/engine.sock, the docker context `near`");

    // The variable goes before the file, and DOCKER_HOST before both.
    let far = project.runner("run").env("DOCKER_CONTEXT", "far").run().exits(3);
    far.ends_with("the docker context `far`: there is no Docker Engine: /nowhere.sock does not exist")
        .ends_with("or set DOCKER_HOST");
    let host = project.runner("doctor").env("DOCKER_CONTEXT", "far").env("DOCKER_HOST", "unix://");
    host.run().says("at /var/run/docker.sock").says_not("context");
    project.runner("doctor").env("DOCKER_CONTEXT", "default").run().says("at /var/run/docker.sock");

    current("gone");
    let gone = project.runner("run").run().exits(3);
    gone.ends_with("the docker context `gone` cannot be used: there is none of that name")
        .ends_with("`docker context ls`");
    docker_context(&config, "far", r#"{"Host": "npipe:////./pipe/docker"}"#);
    let foreign = project.runner("run").env("DOCKER_CONTEXT", "far").run().exits(3);
    foreign.ends_with("the docker context `far`: the address `npipe:////./pipe/docker` in its metadata");
    docker_context(&config, "far", "3");
    let broken = project.runner("run").env("DOCKER_CONTEXT", "far").run().exits(3);
    broken.ends_with("the docker context `far` cannot be used").ends_with("meta.json is not valid");
    std::fs::write(config.join("config.json"), "{").unwrap();
    let unreadable = project.runner("run").run().exits(3);
    unreadable.ends_with("config.json is not valid").ends_with("correct the file, or set DOCKER_HOST");
}

#[test]
fn an_engine_over_ssh() {
    let server = SshServer::start();
    let project = everything();
    let host = format!("ssh://{}", server.address);
    let call = |host: &str, path: String| project.runner("run").env("DOCKER_HOST", host).env("PATH", path);
    did_everything(&project, call(&host, server.program("user", "known")).run());
    let gone = || server.processes().iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    assert!(!server.processes().is_empty());
    eventually(gone, "an ssh lives on");
    let doctor = project.runner("doctor").env("DOCKER_HOST", format!("{host}/var/run/docker.sock"));
    doctor
        .env("PATH", server.program("user", "known"))
        .run()
        .says(&format!("at {host}/var/run/docker.sock"))
        .says("good             BuildKit");

    let nowhere = call(&format!("{host}/no where.sock"), server.program("user", "known")).run();
    nowhere.exits(3).ends_with("does not answer").ends_with("dial unix /no where.sock");
    let stranger = call(&host, server.program("stranger", "known")).run();
    stranger
        .exits(3)
        .ends_with("does not answer: ")
        .ends_with("Permission denied (publickey")
        .ends_with("with a known host");
    let unknown = call(&host, server.program("user", "none")).run();
    unknown.exits(3).ends_with("Host key verification failed");
    let closed = call("ssh://127.0.0.1:1", server.program("user", "known")).run();
    closed.exits(3).ends_with("Connection refused");
    let none = call(&host, project.path("").display().to_string()).run();
    none.exits(3).ends_with("`ssh`, which is not installed").ends_with("openssh-client");
}

/// A container of CodeBuild: processes, network, `/run` and images of its own. `$@` is what runs in it.
const CONTAINER: &str =
    "set -eu\nip link set lo up\nmount -t tmpfs t /run\nmount -t tmpfs t /var/lib/docker\n";

fn container(script: &str) -> Vec<String> {
    let script = format!("{CONTAINER}{script}");
    ["unshare", "-nmpf", "--kill-child", "--mount-proc", "sh", "-c", &script, "sh"]
        .map(ToOwned::to_owned)
        .to_vec()
}

fn in_codebuild() -> Project {
    let name = unique("codebuild");
    Project::new(&formatdoc! {r#"
        version: 1
        name: t
        env: {{ shell: sh }}
        images: {{ app: {{ repository: {name}, tags: ["${{TAG:-t}}"] }} }}
        phases:
          install: {{ steps: [{{ run: 'true' }}] }}
          pre_build: {{ steps: [{{ run: 'kill -9 $PPID; sleep 9' }}] }}
          build: {{ steps: [{{ build: app }}] }}
          post_build: {{ steps: [{{ push: app }}] }}
    "#})
    .file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")
}

/// A `dockerd` of the test, first in PATH.
fn with_dockerd(project: Project, text: &str) -> (Project, String) {
    let project = project.file("bin/dockerd", text);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(project.path("bin/dockerd"), mode).unwrap();
    let path = format!("{}:{}", project.path("bin").display(), std::env::var("PATH").unwrap());
    (project, path)
}

#[test]
fn a_privileged_build_starts_its_own_engine() {
    let project = in_codebuild();
    // The guard that is killed would take everything with it that runner were the parent of.
    let script = r#"
"$@" --phase install
test ! -e /run/docker.pid
"$@" --phase build
first=$(cat /run/docker.pid)
tr '\0' '\n' < /proc/$first/environ | grep -e ^BUILDKIT_ -e ^RUNNER_ || true
"$1" gc
"$@" --phase post_build
! "$@" --phase pre_build
test "$first" = "$(cat /run/docker.pid)"
kill -0 "$first"
echo the same dockerd
"#;
    let call = |arguments: &str| project.runner(arguments).env("CODEBUILD_BUILD_ID", "web:1");
    let outcome = call("run --local").run_under(&container(script)).exits(0);
    let outcome = outcome
        .says("BUILDKIT_STEP_LOG_MAX_SIZE=-1\nBUILDKIT_STEP_LOG_MAX_SPEED=-1\n")
        .says("nothing was left behind")
        .says("local.invalid/codebuild-")
        .says("the same dockerd")
        .says_not("RUNNER_OWNER");
    assert_eq!(outcome.stdout.matches("started dockerd in").count(), 1, "{outcome}");
    assert!(project.read(".runner/dockerd.log").contains("API listen on /var/run/docker.sock"));
    let mode = project.path(".runner/dockerd.log").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // It is said before, and nothing is started for it.
    let doctor = call("doctor").run_under(&container("\"$@\" || true\ntest ! -e /run/docker.pid")).exits(0);
    doctor.says("good             Docker Engine").says("not running; `runner run` starts /");
    // Elsewhere nothing is started.
    let laptop = project.runner("run --phase build").run_under(&container("\"$@\""));
    laptop.exits(3).ends_with("/var/run/docker.sock does not exist");
}

#[test]
fn an_engine_that_is_starting_is_awaited() {
    let real = shell("sh", &["-c", "command -v dockerd"]);
    // It notes its process first, and has its socket later.
    let text = format!(
        "#!/bin/sh\necho $$ > /run/docker.pid\nsleep 2\nrm /run/docker.pid\nexec {} \"$@\"\n",
        real.trim()
    );
    let (project, path) = with_dockerd(in_codebuild(), &text);
    let script = "dockerd >/dev/null 2>&1 &\nwhile [ ! -s /run/docker.pid ]; do sleep 0.05; done\n\"$@\"";
    let call = project.runner("run --local --phase build").env("CODEBUILD_BUILD_ID", "web:1");
    let outcome = call.env("PATH", path).run_under(&container(script)).exits(0);
    outcome.says("s for a dockerd that was already starting").says_not("started dockerd");
}

#[test]
fn an_engine_that_cannot_be_started_says_why() {
    let text = "#!/bin/sh\nseq 1 30\necho 'failed to start daemon: no cgroups' >&2\nexit 1\n";
    let (project, path) = with_dockerd(in_codebuild(), text);
    let call = |build: &str| project.runner("run --local --phase build").env("CODEBUILD_BUILD_ID", build);
    let failed = call("web:1").env("PATH", &path).run_under(&container("\"$@\"")).exits(3);
    failed
        .says("  12\n")
        .says_not("  11\n")
        .says("  failed to start daemon: no cgroups\n")
        .ends_with("dockerd ended before it answered")
        .ends_with(".runner/dockerd.log");

    // Without it, and without what it takes.
    let no_dockerd = call("web:2").run_under(&container("PATH=/nowhere \"$@\"")).exits(3);
    no_dockerd.ends_with("no `dockerd` in PATH");
    let drop = "exec setpriv --inh-caps=-sys_admin --bounding-set=-sys_admin \"$@\"";
    let unprivileged = call("web:3").run_under(&container(drop)).exits(3);
    unprivileged.ends_with("privileged mode is off").ends_with("`privileged_mode = true` in Terraform");
}

/// Runs a command as a user other than root.
const NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --";

#[test]
fn a_user_without_access_to_the_engine_is_named() {
    let project = in_codebuild();
    std::fs::set_permissions(project.root(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let nobody: Vec<&str> = NOBODY.split(' ').collect();
    let denied = project.runner("doctor").run_under(&nobody).exits(3);
    denied
        .says("permission to use the Docker Engine at /var/run/docker.sock is denied")
        .says("add nobody to the group `docker`");
    let call = project.runner("doctor").env("CODEBUILD_BUILD_ID", "web:1");
    let not_root = call.run_under(&container(&format!("exec {NOBODY} \"$@\""))).exits(3);
    not_root.says("nobody may not start one: only root can").says("`run-as`");
}

#[test]
fn the_wait_for_an_engine_can_be_stopped() {
    let (project, path) = with_dockerd(in_codebuild(), "#!/bin/sh\nexec sleep 600\n");
    let call =
        project.runner("run --local --phase build").env("CODEBUILD_BUILD_ID", "web:1").env("PATH", path);
    let script =
        "\"$@\" &\nwhile [ ! -e .runner/dockerd.log ]; do sleep 0.1; done\nsleep 1\nkill $!\nwait $!";
    let begin = Instant::now();
    call.run_under(&container(script)).exits(143);
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
}
