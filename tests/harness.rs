//! A project in a directory of its own, and calls of `runner` in it with a scrubbed environment.

pub use crate::bed::{
    api_at, aws_endpoint, bed, digest_in, docker, docker_config, ecr, ecs, ecs_service, registry, revisions,
    role, secrets_manager, served_digest, shell, ssm, task_role, unique,
};
use crate::ecs_api::EcsApi;
use indoc::formatdoc;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory with a pipeline file.
pub struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    pub fn new(pipeline: &str) -> Self {
        let project = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(project.path(".home")).unwrap();
        project.file("pipeline.yml", pipeline)
    }

    /// A project whose pipeline is only its phases.
    pub fn phases(phases: &str) -> Self {
        let indented: String = phases.lines().map(|line| format!("  {line}\n")).collect();
        Self::new(&formatdoc! {r"
            version: 1
            name: test
            env: {{ shell: sh }}
            phases:
            {indented}"})
    }

    /// Writes a file. A Dockerfile gets a label of its own: equal images of two tests would be one in the engine, and
    /// the test that ends first would take it away.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let mut content = content.as_ref().to_vec();
        if path.ends_with("Dockerfile") {
            content.extend_from_slice(format!("LABEL of={}\n", unique("image")).as_bytes());
        }
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Makes a git repository with one commit of it. The home directory of calls is no part of it.
    pub fn git(self) -> Self {
        std::fs::create_dir_all(self.path(".git/info")).unwrap();
        std::fs::write(self.path(".git/info/exclude"), ".home\n").unwrap();
        for arguments in [
            ["init", "-q", "-b", "main"].as_slice(),
            &["add", "-A"],
            &["-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "test"],
        ] {
            let status = Command::new("git").args(arguments).current_dir(self.root()).status();
            assert!(status.unwrap().success());
        }
        self
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// A call of `runner` with these arguments, separated by blanks.
    pub fn runner(&self, arguments: &str) -> Call<'_> {
        let mut env = BTreeMap::new();
        for (name, value) in [
            ("PATH", std::env::var("PATH").unwrap()),
            ("HOME", self.path(".home").display().to_string()),
            ("LANG", "C.UTF-8".to_owned()),
        ] {
            env.insert(name.to_owned(), value);
        }
        Call { project: self, arguments: arguments.split_whitespace().map(ToOwned::to_owned).collect(), env }
    }
}

impl Drop for Project {
    /// Takes the project's images out of the engine: those that the last build made, and all with its names.
    fn drop(&mut self) {
        let below = std::fs::read_dir(self.root()).into_iter().flatten().flatten().map(|entry| entry.path());
        for directory in below.chain([self.root().to_owned()]) {
            let state = directory.join(".runner/state.json");
            // It may be a pipe.
            let state = if state.is_file() { std::fs::read(state).unwrap_or_default() } else { continue };
            let state: Value = serde_json::from_slice(&state).unwrap_or_default();
            for image in state["images"].as_object().into_iter().flat_map(|images| images.values()) {
                // Its label makes it the image of this project alone.
                if let Some(id) = image["id"].as_str() {
                    let _ = Command::new("docker").args(["rmi", "-f", id]).output();
                }
            }
        }
        let pipeline = std::fs::read_to_string(self.path("pipeline.yml")).unwrap_or_default();
        let own = format!("-{}-", std::process::id());
        let words = pipeline.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        let mut names: Vec<&str> = words.filter(|word| word.contains(&own)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let filter = format!("reference=*/{name}");
            let listed = Command::new("docker")
                .args(["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &filter])
                .output();
            let tags =
                listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            for tag in tags.lines() {
                let _ = Command::new("docker").args(["rmi", tag]).output();
            }
        }
    }
}

/// A call of `runner`, before it is made.
pub struct Call<'p> {
    project: &'p Project,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Call<'_> {
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// The AWS API of the test bed.
    pub fn aws(self) -> Self {
        self.env("AWS_ENDPOINT_URL", aws_endpoint())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// Sends its AWS calls to this stand-in for ECS, which it polls often.
    pub fn on(self, ecs: &EcsApi) -> Self {
        self.aws().env("AWS_ENDPOINT_URL", &ecs.endpoint).env("RUNNER_ECS_POLL", "20")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command
            .args(&self.arguments)
            .current_dir(self.project.root())
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Makes the call and waits for its end.
    pub fn run(self) -> Outcome {
        Outcome::new(&self.command().output().unwrap())
    }

    /// Starts the call.
    pub fn start(self) -> Running {
        Running { child: self.command().spawn().unwrap(), peak: 0 }
    }

    /// Makes the call by way of another program, whose own arguments come first.
    pub fn run_under(self, program: &[impl AsRef<OsStr>]) -> Outcome {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_runner")).args(&self.arguments);
        command.current_dir(self.project.root()).env_clear().envs(&self.env).stdin(Stdio::null());
        Outcome::new(&command.output().unwrap())
    }
}

/// A call under way.
pub struct Running {
    child: Child,
    peak: u64,
}

impl Running {
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits until the file exists, which a step of the pipeline makes.
    pub fn until_exists(&mut self, path: &Path) {
        let mut alive = || self.child.try_wait().unwrap().is_none();
        while alive() && !path.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(path.exists(), "{} never came", path.display());
    }

    /// The bytes that it has read until now; nothing once it has ended.
    pub fn has_read(&mut self) -> Option<u64> {
        if self.child.try_wait().unwrap().is_some() {
            return None;
        }
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).ok()?;
        io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok())
    }

    /// The process ids of its children.
    pub fn children(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        // A thread may be gone meanwhile.
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Closes the reading end of the log.
    pub fn close_stdout(&mut self) {
        drop(self.child.stdout.take());
    }

    /// Reads the log away, on a thread of its own.
    pub fn drain(&mut self) -> std::thread::JoinHandle<u64> {
        let mut out = self.child.stdout.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()).unwrap_or_default())
    }

    /// Reads the log so slowly that the run has to wait for its reader again and again.
    pub fn drain_slowly(&mut self) -> std::thread::JoinHandle<String> {
        let mut out = self.child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let (mut log, mut piece) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = out.read(&mut piece) {
                log.extend_from_slice(&piece[..length]);
                std::thread::sleep(Duration::from_millis(5));
            }
            String::from_utf8(log).unwrap()
        })
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn finish(self) -> Outcome {
        Outcome::new(&self.child.wait_with_output().unwrap())
    }

    /// Waits for the end; the outcome and the largest resident size on the way, in bytes. Only for short logs.
    pub fn finish_measured(mut self) -> (Outcome, u64) {
        let status = format!("/proc/{}/status", self.child.id());
        while self.child.try_wait().unwrap().is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            self.peak = self.peak.max(peak.unwrap_or_default() * 1024);
            std::thread::sleep(Duration::from_millis(20));
        }
        let peak = self.peak;
        (self.finish(), peak)
    }
}

/// What a call did.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub bytes: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            bytes: output.stdout.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "the log lacks {text:?}\n{self}");
        self
    }

    /// A line of the output has all of these.
    #[track_caller]
    pub fn has_line(self, parts: &[&str]) -> Self {
        let has = |line: &str| parts.iter().all(|part| line.contains(part));
        assert!(self.stdout.lines().any(has), "no line has {parts:?}\n{self}");
        self
    }

    #[track_caller]
    pub fn says_not(self, text: &str) -> Self {
        assert!(!self.stdout.contains(text) && !self.stderr.contains(text), "it says {text:?}\n{self}");
        self
    }

    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}\n{self}");
        self
    }

    /// The last lines of the log, which are read first.
    #[track_caller]
    pub fn ends_with(self, text: &str) -> Self {
        let lines: Vec<&str> = self.stdout.lines().collect();
        let tail = lines[lines.len().saturating_sub(4)..].join("\n");
        assert!(tail.contains(text), "the last lines lack {text:?}\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// Waits up to twenty seconds for a condition.
#[track_caller]
pub fn eventually(condition: impl Fn() -> bool, message: &str) {
    within(Duration::from_secs(20), condition, message);
}

/// Waits so long for a condition.
#[track_caller]
pub fn within(time: Duration, condition: impl Fn() -> bool, message: &str) {
    let end = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < end, "{message}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Holds a lock that all test processes share, for tests that disturb each other.
pub fn exclusive(name: &str) -> File {
    let file = File::create(std::env::temp_dir().join(format!("runner-test-{name}.lock"))).unwrap();
    file.lock().unwrap();
    file
}

/// The containers that a build left behind.
pub fn containers_of(project: &Project) -> String {
    let state = project.json(".runner/state.json");
    let label = format!("label=dev.runner.run={}", state["build_id"].as_str().unwrap());
    docker(&["ps", "-aq", "--filter", &label])
}

/// The errors of each instance under its JSON Schema, by Python's `jsonschema`, which `./dev up` provides.
#[track_caller]
pub fn schema_errors<'v>(pairs: impl IntoIterator<Item = (&'v Value, &'v Value)>) -> Vec<Vec<String>> {
    let pairs = pairs.into_iter().map(|(schema, instance)| json!({ "schema": schema, "instance": instance }));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/json_schema.py");
    let mut python = Command::new(bed("RUNNER_TEST_PYTHON"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The script reads its whole input before it writes.
    python.stdin.take().unwrap().write_all(pairs.collect::<Value>().to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "json_schema.py failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The log of a container in a task definition.
pub fn log_configuration() -> Value {
    json!({ "logDriver": "awslogs", "options": {
        "awslogs-group": "/t",
        "awslogs-region": "us-east-1",
        "awslogs-stream-prefix": "t",
        "awslogs-create-group": "true",
    } })
}
