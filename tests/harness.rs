//! A project in a directory of its own, and calls of `runner` in it with a scrubbed environment.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
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
        Self::new(&format!("version: 1\nname: test\nenv: {{ shell: sh }}\nphases:\n{phases}"))
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

    /// Makes a git repository with one commit of it.
    pub fn git(self) -> Self {
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
        for state in [".runner/state.json", "service/.runner/state.json"] {
            let state = std::fs::read(self.path(state)).unwrap_or_default();
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

    /// The last lines of the log, where people look first.
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

/// A name that no other test uses, fit for repositories, clusters and families.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}-{}-{count}-{}", std::process::id(), now % 1_000_000_000)
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

pub fn bed(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with ./dev test"))
}

/// The host name of the bed's registry.
pub fn registry() -> String {
    bed("RUNNER_TEST_REGISTRY")
}

/// The address of the bed's AWS API.
pub fn aws_endpoint() -> String {
    bed("RUNNER_TEST_AWS")
}

/// The login that the bed's registry takes, as Docker's configuration writes it.
pub fn docker_config() -> String {
    let auth = "QVdTOjEyMzQ1Njc4OTAxMi1hdXRoLXRva2Vu";
    format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}", registry())
}

/// Runs a program of the machine and gives what it prints.
#[track_caller]
pub fn shell(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub fn docker(arguments: &[&str]) -> String {
    shell("docker", arguments)
}

/// A call of the bed's AWS API, by its target header.
#[track_caller]
fn api(service: &str, target: &str, body: &Value) -> Value {
    // moto may stumble over calls that come at the same time; what only asks is asked again.
    let asks = ["List", "Describe", "Get"].iter().any(|verb| target.contains(&format!(".{verb}")));
    for _ in 0..if asks { 5 } else { 0 } {
        if let Ok(answer) = serde_json::from_str(&api_at(&aws_endpoint(), service, target, body)) {
            return answer;
        }
    }
    let answer = api_at(&aws_endpoint(), service, target, body);
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{target}: {error}: {answer}"))
}

/// A call of an AWS API at this address, by its target header, and the answer as it comes.
#[track_caller]
pub fn api_at(endpoint: &str, service: &str, target: &str, body: &Value) -> String {
    let target = format!("X-Amz-Target: {target}");
    let authorization = format!(
        "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=x"
    );
    let content = "Content-Type: application/x-amz-json-1.1";
    let body = body.to_string();
    shell("curl", &["-sS", "-H", &target, "-H", content, "-H", &authorization, "-d", &body, endpoint])
}

#[track_caller]
pub fn ecs(operation: &str, body: &Value) -> Value {
    api("ecs", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), body)
}

#[track_caller]
pub fn ecr(operation: &str, body: &Value) -> Value {
    api("ecr", &format!("AmazonEC2ContainerRegistry_V20150921.{operation}"), body)
}

#[track_caller]
pub fn ssm(operation: &str, body: &Value) -> Value {
    api("ssm", &format!("AmazonSSM.{operation}"), body)
}

#[track_caller]
pub fn secrets_manager(operation: &str, body: &Value) -> Value {
    api("secretsmanager", &format!("secretsmanager.{operation}"), body)
}

/// The digest that the bed's registry serves for a tag.
#[track_caller]
pub fn served_digest(repository: &str, tag: &str) -> String {
    let url = format!("https://{}/v2/{repository}/manifests/{tag}", registry());
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let ca = bed("RUNNER_TEST_CA");
    let login = "AWS:123456789012-auth-token";
    let head = shell("curl", &["-fsSI", "--cacert", &ca, "-u", login, "-H", accept, &url]);
    digest_in(&head)
}

/// The digest that a registry names in the head of an answer.
pub fn digest_in(head: &str) -> String {
    let line = head.lines().find(|line| line.to_lowercase().starts_with("docker-content-digest:")).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// How many revisions a family has at the bed.
pub fn revisions(family: &str) -> usize {
    let found = ecs("ListTaskDefinitions", &serde_json::json!({ "familyPrefix": family }));
    found["taskDefinitionArns"].as_array().unwrap().len()
}

/// The containers that a build left behind.
pub fn containers_of(project: &Project) -> String {
    let state = project.json(".runner/state.json");
    let label = format!("label=dev.runner.run={}", state["build_id"].as_str().unwrap());
    docker(&["ps", "-aq", "--filter", &label])
}

/// A cluster and a service that runs a first revision; the name serves for all of them.
#[track_caller]
pub fn ecs_service() -> String {
    let name = unique("service");
    ecs("CreateCluster", &serde_json::json!({ "clusterName": name }));
    let first = serde_json::json!({ "family": name, "containerDefinitions": [{ "name": "web", "image": "old", "memory": 64 }], "tags": [{ "key": "team", "value": "a" }] });
    ecs("RegisterTaskDefinition", &first);
    ecs(
        "CreateService",
        &serde_json::json!({ "cluster": name, "serviceName": name, "taskDefinition": name, "desiredCount": 1 }),
    );
    name
}

/// A role that tasks may take.
#[track_caller]
pub fn task_role(name: &str) {
    role(name, "ecs-tasks.amazonaws.com");
}

/// A role that a service may take.
#[track_caller]
pub fn role(name: &str, service: &str) {
    let trust = serde_json::json!({ "Statement": [{ "Effect": "Allow", "Principal": { "Service": service }, "Action": "sts:AssumeRole" }] });
    let (role, policy) = (format!("RoleName={name}"), format!("AssumeRolePolicyDocument={trust}"));
    let fields = ["Action=CreateRole", "Version=2010-05-08", &role, &policy];
    let authorization = "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
    let mut arguments = vec!["-sS", "--fail-with-body", "-H", authorization];
    for field in &fields {
        arguments.extend(["--data-urlencode", field]);
    }
    let endpoint = aws_endpoint();
    arguments.push(&endpoint);
    shell("curl", &arguments);
}
