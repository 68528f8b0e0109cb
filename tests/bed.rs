//! The test bed: the Docker Engine, the registry and the AWS API that `./dev up` starts, and the calls that tests make there.

use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A name that no other test uses, fit for repositories, clusters and families.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}-{}-{count}-{}", std::process::id(), now % 1_000_000_000)
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
