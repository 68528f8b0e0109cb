//! Builds that are refused before an engine reads their files: some files end an engine for all its users. No real engine
//! gets them here.

use crate::harness::{Outcome, Project, unique};
use indoc::formatdoc;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use tiny_http::{Response, Server};

/// A stand-in for an engine, which opens sessions, keeps what it is asked for, and builds nothing.
struct Engine {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    fn start(version: &str, api: &str) -> Self {
        let server = Server::http("127.0.0.1:0").unwrap();
        let address = server.server_addr().to_ip().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let engine = Self { address, asked: asked.clone() };
        let about = format!(r#"{{"Version":"{version}","ApiVersion":"{api}","MinAPIVersion":"1.24"}}"#);
        std::thread::spawn(move || {
            // A session ends with its connection.
            let mut sessions = Vec::new();
            for request in server.incoming_requests() {
                let path = request.url().to_owned();
                asked.lock().unwrap().push(path.clone());
                if path.ends_with("/session") {
                    sessions.push(request.upgrade("h2c", Response::empty(101)));
                } else {
                    let found = if path.contains("/images/") { 404 } else { 200 };
                    let _ = request.respond(Response::from_string(&about).with_status_code(found));
                }
            }
        });
        engine
    }

    /// The engines that read ignore files by different rules.
    fn of_both_rules() -> [Self; 2] {
        [Self::start("20.10.24", "1.41"), Self::start("28.5.2", "1.51")]
    }

    /// Builds, and checks that the engine was reached and not asked for a build.
    #[track_caller]
    fn refuses(&self, project: &Project, code: i32) -> Outcome {
        let outcome = project.runner("run").env("DOCKER_HOST", format!("tcp://{}", self.address)).run();
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        assert!(asked.iter().any(|path| path.ends_with("/_ping")), "{outcome}");
        assert!(!asked.iter().any(|path| path.ends_with("/grpc") || path.contains("/build")), "{asked:?}");
        outcome.exits(code)
    }
}

/// A project whose image has a context of its own.
fn project() -> Project {
    Project::new(&formatdoc! {r"
        version: 1
        name: t
        images: {{ app: {{ repository: {}, tags: [t], context: context, dockerfile: docker/app.docker }} }}
        phases: {{ build: {{ steps: [{{ build: app }}] }} }}
    ", unique("refused")})
    .file("docker/app.docker", "FROM scratch\nCOPY a b /\n")
    .file("context/a", "")
    .file("context/b", "")
}

/// Findings, C3 and H8.
#[test]
fn malformed_ignore_patterns_are_not_sent() {
    let engines = Engine::of_both_rules();
    let project = project();
    let files = ["context/.dockerignore", "docker/app.docker.dockerignore"];
    for pattern in
        ["[", "a[", "sub/[z-a]", "[]a]", "[a-]", "\\", "a\\", "!", "! ", "!/", "!a[", "a/[/b", "[^", "**/["]
    {
        for file in files {
            std::fs::write(project.path(file), format!("# a comment\n\nfine\n{pattern}\nalso-fine\n"))
                .unwrap();
            for engine in &engines {
                let outcome = engine.refuses(&project, 2);
                let place = project.path(file).display().to_string();
                let shown = pattern.trim_end();
                outcome
                    .ends_with(&format!("{place}:4: the pattern cannot be used: `{shown}` is not a valid"));
            }
            // The list of the context needs no engine.
            let listed = project.runner("image context context -f docker/app.docker").run().exits(3);
            let name = file.rsplit('/').next().unwrap();
            listed.complains(&format!("{name}:4: the pattern cannot be used"));
            std::fs::remove_file(project.path(file)).unwrap();
        }
    }
}

/// Findings, C3: what only some engines refuse is refused for these engines.
#[test]
fn patterns_are_judged_by_the_rules_of_the_engine() {
    let [old, new] = Engine::of_both_rules();
    let project = project().file("context/.dockerignore", "*.c++\n");
    old.refuses(&project, 2).ends_with(".dockerignore:1: the pattern cannot be used: `*.c++`");
    let outcome = project.runner("run").env("DOCKER_HOST", format!("tcp://{}", new.address)).run();
    outcome.says_not("cannot be used");
    assert!(new.asked.lock().unwrap().iter().any(|path| path.ends_with("/grpc")));
}

/// Findings, C3: the context of another name is read by the engine, too.
#[test]
fn malformed_patterns_of_named_contexts_are_not_sent() {
    let project = project().file("other/.dockerignore", "fine\na[\n").file("other/a", "");
    let named = project
        .read("pipeline.yml")
        .replace("context: context,", "context: context, contexts: { o: other },");
    let project = project.file("pipeline.yml", named);
    for engine in Engine::of_both_rules() {
        engine.refuses(&project, 2).ends_with("other/.dockerignore:2: the pattern cannot be used: `a[`");
    }
}

/// Findings, C2.
#[test]
fn dockerfiles_without_a_stage_are_not_sent() {
    let project = project();
    let [_, engine] = Engine::of_both_rules();
    for text in [
        "ARG A=1",
        "ARG A=1\n",
        "arg A=1\nARG B\n",
        "\n\n  \n# a comment\nARG A=1\n\n# FROM scratch\n",
        "# syntax=docker/dockerfile:1\nARG A=1\n",
        "# check=skip=all\n# escape=`\nARG A=`\nFROM scratch\n",
        "ARG A=\\\nFROM scratch\n",
        "ARG A=\\\n# a comment\n\nFROM=scratch\n",
        "\u{feff}ARG A=1\r\nARG B\r\n",
        "ARG A=1\nRUN <<FROM\nFROM scratch\nFROM\n",
        "ARG A=1\nCOPY <<-'END' /a\n\tFROM scratch\n\tEND\n",
        "FROMAGE scratch\n",
        "# only a comment\n",
        "",
    ] {
        std::fs::write(project.path("docker/app.docker"), text).unwrap();
        let place = project.path("docker/app.docker").display().to_string();
        let outcome = engine.refuses(&project, 2);
        assert!(
            outcome.stdout.contains(&format!("{place} has no `FROM`, so there is nothing to build")),
            "{text:?}: {outcome}"
        );
    }
}

/// Findings, C12: an ignore file that cannot be read does not count as none. Root may read every file, but a directory
/// and a loop of links are none.
#[test]
fn unreadable_ignore_files_are_errors() {
    let project = project();
    let [_, engine] = Engine::of_both_rules();
    for file in ["context/.dockerignore", "docker/app.docker.dockerignore"] {
        let path = project.path(file);
        let name = file.rsplit('/').next().unwrap();
        for (reason, make) in [
            ("Is a directory", &(|| std::fs::create_dir(&path).unwrap()) as &dyn Fn()),
            ("Too many levels of symbolic links", &|| symlink(name, &path).unwrap()),
        ] {
            make();
            let says = format!("{file} of the build context: {reason}");
            let listed = project.runner("image context context -f docker/app.docker").run().exits(2);
            listed.complains(&says);
            engine.refuses(&project, 3).ends_with(&says);
            std::fs::remove_dir(&path).or_else(|_| std::fs::remove_file(&path)).unwrap();
        }
        // A link to nothing is no file, as with docker.
        symlink("nowhere", &path).unwrap();
        project.runner("image context context -f docker/app.docker").run().exits(0);
        std::fs::remove_file(&path).unwrap();
    }
}
