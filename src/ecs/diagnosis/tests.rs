use super::*;
use serde_json::json;

const ECR: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/web:v7";
const GROUP: &str = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web-tg/0123456789abcdef";
const SECRET: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-AbCdEf";

fn definition() -> Value {
    json!({
        "family": "web", "cpu": "256", "memory": "512",
        "containerDefinitions": [
            { "name": "web", "image": ECR, "essential": true, "memory": 384, "command": ["node", "server.js"],
              "healthCheck": { "command": ["CMD-SHELL", "curl -f http://localhost/ || exit 1"] },
              "secrets": [
                  { "name": "DB_PASSWORD", "valueFrom": format!("{SECRET}:password::") },
                  { "name": "DB_USER", "valueFrom": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db:user::" },
                  { "name": "API_KEY", "valueFrom": "arn:aws:ssm:eu-west-1:123456789012:parameter/prod/api-key" },
                  { "name": "FLAG", "valueFrom": "flag" }
              ],
              "logConfiguration": { "logDriver": "awslogs", "options": { "awslogs-group": "/ecs/web" } } },
            { "name": "proxy", "image": "envoy:1.30" },
            { "name": "router", "image": "public.ecr.aws/aws-observability/aws-for-fluent-bit:stable", "essential": false }
        ]
    })
}

fn container(name: &str, exit_code: Option<i32>, reason: Option<&str>) -> Container {
    Container { name: name.into(), exit_code, reason: reason.map(Into::into), ..Container::default() }
}

fn task(stop_code: &str, reason: &str, containers: Vec<Container>) -> Task {
    Task {
        arn: "arn:aws:ecs:eu-west-1:123456789012:task/main/aaa111".into(),
        stop_code: (!stop_code.is_empty()).then(|| stop_code.into()),
        stopped_reason: (!reason.is_empty()).then(|| reason.into()),
        containers,
        ..Task::default()
    }
}

fn log(container: &str, lines: &[&str]) -> ContainerLog {
    ContainerLog { container: container.into(), lines: lines.iter().map(ToString::to_string).collect() }
}

fn diagnosed(task: &Task, logs: &[ContainerLog]) -> Cause {
    diagnose(&Evidence { task, definition: &definition(), logs, health_path: Some("/health") })
}

#[track_caller]
fn expect(cause: &Cause, kind: CauseKind, fragments: &[&str], from: &str) {
    let text = format!("{} — {}", cause.sentence, cause.help.as_deref().unwrap_or_default());
    assert_eq!(cause.kind, kind, "{from}\n{text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "no {fragment:?} in {text:?}\nof {from}");
    }
    assert!(!cause.sentence.ends_with('.') && !text.contains("  "), "{text}");
}

/// Fargate's messages are in `stoppedReason`, those of the agent on EC2 in the container's `reason`.
/// Findings, D8: registries other than ECR do not say whether an image is missing or private, and no role helps there.
#[test]
fn an_image_of_another_registry_is_missing_not_denied() {
    let retried =
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref";
    for (message, kind, image) in [
        (format!("{retried} docker.io/acme/nope:v1: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"),
         CauseKind::ImageMissing, "`docker.io/acme/nope:v1`"),
        (format!("{retried} quay.io/acme/nope:v1: unexpected status from HEAD request: 401 UNAUTHORIZED: access to the requested resource is not authorized"),
         CauseKind::ImageMissing, "`quay.io/acme/nope:v1`"),
        ("CannotPullContainerError: Error response from daemon: pull access denied for acme/nope, repository does not exist or may require 'docker login'".into(),
         CauseKind::ImageMissing, "`acme/nope`"),
        (format!("{retried} ghcr.io/acme/nope:v1: failed to authorize: failed to fetch anonymous token: unexpected status: 403 Forbidden"),
         CauseKind::ImageDenied, "`ghcr.io/acme/nope:v1`"),
    ] {
        let definition = json!({ "containerDefinitions": [] });
        let cause = reason::read(&message, None, &Definition(&definition)).unwrap();
        let text = format!("{} — {}", cause.sentence, cause.help.unwrap_or_default());
        assert_eq!(cause.kind, kind, "{message}\n{text}");
        assert!(text.contains("`repositoryCredentials`") && !text.contains("ecr:"), "{text}");
        assert!(text.contains(image), "{text}");
    }
}

#[test]
fn messages_about_images() {
    let retried = "CannotPullContainerError: pull image manifest has been retried";
    for (message, kind, fragments) in [
        (format!("{retried} 7 time(s): failed to resolve ref {ECR}: {ECR}: not found"), CauseKind::ImageMissing,
         &[ECR, "container `web`", "does not exist", "push the image first"][..]),
        (format!("CannotPullContainerError: Error response from daemon: manifest for {ECR} not found: manifest unknown: Requested image not found"),
         CauseKind::ImageMissing, &[ECR, "`web`"]),
        ("CannotPullContainerError: Error response from daemon: pull access denied for some/nonsense, repository does not exist or may require 'docker login': denied: requested access to the resource is denied".into(),
         CauseKind::ImageMissing, &["image `some/nonsense`", "is private"]),
        ("CannotPullContainerError: API error (404): repository serverless-batch not found: does not exist or no pull access".into(),
         CauseKind::ImageMissing, &["does not exist, or is private"]),
        ("CannotPullContainerError: The task can’t pull the image. Check whether the image exists. Error response from daemon: x".into(),
         CauseKind::ImageMissing, &["the image does not exist"]),
        (format!("CannotPullContainerError: The task can’t pull the image. Check that the role has the permissions to pull images from the registry. Error response from daemon: pull access denied for {ECR}, repository does not exist or may require 'docker login': denied: User: arn:aws:sts::123456789012:assumed-role/MyBrokenRole/xyz is not authorized to perform: ecr:BatchGetImage on resource: arn:aws:ecr:eu-west-1:123456789012:repository/web because no identity-based policy allows the ecr:BatchGetImage action"),
         CauseKind::ImageDenied, &[ECR, "role `MyBrokenRole` lacks `ecr:BatchGetImage`", "ecr:GetDownloadUrlForLayer", "ecr:GetAuthorizationToken"]),
        (format!("CannotPullContainerError: inspect image has been retried 1 time(s): failed to resolve ref \"{ECR}\": unexpected status code [manifests v7]: 403 Forbidden"),
         CauseKind::ImageDenied, &[ECR, "no permission to pull"]),
        ("ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been retried 1 time(s): operation error ECR: GetAuthorizationToken, https response error StatusCode: 400, RequestID: 2446, api error AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/exec/a5209 is not authorized to perform: ecr:GetAuthorizationToken on resource: * because no identity-based policy allows the ecr:GetAuthorizationToken action".into(),
         CauseKind::ImageDenied, &["role `exec` lacks `ecr:GetAuthorizationToken`"]),
        ("ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError: send request failed caused by: Post \"https://api.ecr.us-west-2.amazonaws.com/\": dial tcp 52.94.184.143:443: i/o timeout. Please check your task network configuration.".into(),
         CauseKind::ImageUnreachable, &["cannot be reached", "NAT gateway", "ecr.api, ecr.dkr and s3", "`assign-public-ip`"]),
        (format!("CannotPullContainerError: The task cannot pull {ECR}@sha256:88e8 from the registry {ECR}@sha256:88e8. There is a connection issue between the task and the registry. Check your task network configuration. : failed to copy: httpReadSeeker: failed open: failed to do request: Get {ECR}: dial tcp 52.219.41.3:443: i/o timeout"),
         CauseKind::ImageUnreachable, &[ECR, "container `web`"]),
        ("CannotPullContainerError: API error (500): Get https://xxx.dkr.ecr.us-east-1.amazonaws.com/v2/: net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)".into(),
         CauseKind::ImageUnreachable, &["cannot be reached"]),
        ("CannotPullContainerError: Error response from daemon: Get \"https://8.dkr.ecr.us-west-2.amazonaws.commmmm/v2/\": dial tcp: lookup 8.dkr.ecr.us-west-2.amazonaws.commmmm on 10.0.0.2:53: no such host".into(),
         CauseKind::ImageUnreachable, &["cannot be reached"]),
        ("CannotPullContainerError: inspect image has been retried 5 time(s): httpReaderSeeker: failed open: unexpected status code https://registry-1.docker.io/v2/library/envoy/manifests/1.30: 429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit.".into(),
         CauseKind::ImageUnreachable, &["too many requests", "pull-through cache"]),
        ("CannotPullContainerError: write /var/lib/docker/tmp/GetImageBlob111111111: no space left on device".into(),
         CauseKind::Disk, &["the disk is full", "ephemeralStorage"]),
        (format!("CannotPullContainerError: pull image manifest has been retried 7 time(s): image Manifest does not contain descriptor matching platform 'linux/amd64' {ECR}"),
         CauseKind::WrongArchitecture, &[ECR, "not built for X86_64", "linux/amd64", "ARM64"]),
        ("CannotPullContainerError: Error response from daemon: no matching manifest for linux/amd64 in the manifest list entries".into(),
         CauseKind::WrongArchitecture, &["X86_64"]),
        ("CannotPullContainerError: ref pull has been retried 1 time(s): number of layers and diffIDs don't match: 3 != 15".into(),
         CauseKind::Unknown, &["cannot be pulled", "3 != 15"]),
    ] {
        let on_fargate = task("TaskFailedToStart", &message, vec![container("web", None, None)]);
        expect(&diagnosed(&on_fargate, &[]), kind, fragments, &message);
        let on_ec2 = task("TaskFailedToStart", "Task failed to start", vec![container("web", None, Some(&message))]);
        let cause = diagnosed(&on_ec2, &[]);
        assert_eq!((cause.kind, cause.container.as_deref()), (kind, Some("web")), "{message}");
    }
}

#[test]
fn messages_about_secrets_and_logs() {
    let asm = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s):";
    let ssm = "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secrets from ssm: service call has been retried 1 time(s):";
    let logs = "ResourceInitializationError: failed to validate logger args:";
    for (message, kind, fragments) in [
        (format!("{asm} failed to fetch secret {SECRET} from secrets manager: ResourceNotFoundException: Secrets Manager can't find the specified secret."),
         CauseKind::SecretMissing, &[SECRET, "variables `DB_PASSWORD` and `DB_USER` of container `web`", "does not exist"][..]),
        (format!("{asm} failed to fetch secret {SECRET} from secrets manager: ResourceNotFoundException: Secrets Manager can't find the specified secret value for staging label: AWSCURRENT."),
         CauseKind::SecretMissing, &[SECRET, "has no value yet"]),
        (format!("{asm} retrieved secret from Secrets Manager did not contain json key password"),
         CauseKind::SecretMissing, &[SECRET, "no key `password`", "variable `DB_PASSWORD`"]),
        (format!("{asm} retrieved secret from Secrets Manager did not contain json key app_definition_id."),
         CauseKind::SecretMissing, &["no key `app_definition_id`"]),
        (format!("{asm} failed to fetch secret {SECRET} from secrets manager: InvalidRequestException: You can't perform this operation on the secret because it was marked for deletion."),
         CauseKind::SecretMissing, &[SECRET, "marked for deletion"]),
        (format!("{asm} failed to fetch secret {SECRET}::x:y from secrets manager: InvalidParameter: 1 validation error(s) found. - minimum field size of 32, GetSecretValueInput.VersionId."),
         CauseKind::SecretMissing, &["not well-formed"]),
        (format!("{asm} invalid character 'p' looking for beginning of value"), CauseKind::SecretMissing, &["not a JSON document"]),
        (format!("{asm} failed to fetch secret {SECRET} from secrets manager: operation error Secrets Manager: GetSecretValue, https response error StatusCode: 400, RequestID: d45b, api error AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/exec/1 is not authorized to perform: secretsmanager:GetSecretValue on resource: {SECRET} because no identity-based policy allows the secretsmanager:GetSecretValue action"),
         CauseKind::SecretDenied, &[SECRET, "`DB_PASSWORD`", "role `exec`", "secretsmanager:GetSecretValue", "kms:Decrypt"]),
        (format!("{asm} failed to fetch secret {SECRET} from secrets manager: AccessDeniedException: Access to KMS is not allowed"),
         CauseKind::SecretDenied, &[SECRET, "kms:Decrypt"]),
        (format!("Fetching secret data from AWS Secrets Manager in region eu-west-1: secret {SECRET}: AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/exec/8 is not authorized to perform: secretsmanager:GetSecretValue"),
         CauseKind::SecretDenied, &[SECRET, "`DB_PASSWORD`"]),
        ("ResourceInitializationError: unable to pull secrets or registry auth: unable to retrieve secret from asm: There is a connection issue between the task and AWS Secrets Manager. Check your task network configuration. failed to fetch secret".into(),
         CauseKind::Network, &["cannot reach Secrets Manager", "secretsmanager, ecr.api"]),
        (format!("{ssm} invalid ssm parameters: /prod/api-key"), CauseKind::SecretMissing, &["parameter `/prod/api-key`", "variable `API_KEY`"]),
        ("Fetching secret data from SSM Parameter Store in eu-west-1: invalid parameters: flag".into(),
         CauseKind::SecretMissing, &["parameter `flag`", "variable `FLAG`"]),
        (format!("{ssm} AccessDeniedException: User: arn:aws:sts::123456789012:assumed-role/exec/17 is not authorized to perform: ssm:GetParameters on resource: arn:aws:ssm:eu-west-1:123456789012:parameter/prod/api-key because no identity-based policy allows the ssm:GetParameters action status code: 400"),
         CauseKind::SecretDenied, &["`API_KEY`", "ssm:GetParameters"]),
        (format!("{ssm} RequestCanceled: request context canceled caused by: context deadline exceeded. Please check your task network configuration."),
         CauseKind::Network, &["Systems Manager", "ssm, ecr.api"]),
        ("ResourceInitializationError: unable to pull secrets or registry auth: pull command failed: : signal: killed".into(),
         CauseKind::Network, &["NAT gateway"]),
        (format!("{logs} create stream has been retried 1 times: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist."),
         CauseKind::LogGroupMissing, &["log group `/ecs/web` does not exist", "awslogs-create-group"]),
        ("CannotStartContainerError: Error response from daemon: failed to initialize logging driver: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist.".into(),
         CauseKind::LogGroupMissing, &["/ecs/web"]),
        (format!("{logs} The task cannot find the Amazon CloudWatch log group defined in the task definition. There is a connection issue between the task and Amazon CloudWatch. Check your network configuration. : signal: killed"),
         CauseKind::Network, &["/ecs/web", "VPC endpoints for logs"]),
        (format!("{logs} create stream has been retried 1 times: failed to create Cloudwatch log group: AccessDeniedException: User: arn:aws:sts::1:assumed-role/exec/1 is not authorized to perform: logs:CreateLogGroup on resource: x"),
         CauseKind::RoleDenied, &["`logs:CreateLogGroup`", "logs:CreateLogStream"]),
    ] {
        let stopped = task("TaskFailedToStart", &message, vec![container("web", None, None)]);
        expect(&diagnosed(&stopped, &[]), kind, fragments, &message);
    }
}

#[test]
fn messages_about_starting_and_surroundings() {
    let runc = "CannotStartContainerError: Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process:";
    for (code, message, kind, fragments) in [
        ("TaskFailedToStart", format!("{runc} exec: \"/app\": stat /app: no such file or directory: unknown"), CauseKind::NoSuchCommand, &["command `/app`", ECR][..]),
        ("TaskFailedToStart", format!("{runc} error during container init: exec: \"serve\": executable file not found in $PATH: unknown"), CauseKind::NoSuchCommand, &["command `serve`"]),
        ("TaskFailedToStart", format!("{runc} exec: \"/start.sh\": permission denied: unknown"), CauseKind::NoSuchCommand, &["command `/start.sh`", "chmod +x"]),
        ("TaskFailedToStart", format!("{runc} exec /app: exec format error"), CauseKind::WrongArchitecture, &["X86_64", "#!/bin/sh"]),
        ("TaskFailedToStart", "CannotStartContainerError: Error response from daemon: driver failed programming external connectivity: Bind for 0.0.0.0:8080 failed: port is already allocated".into(), CauseKind::PortInUse, &["port 8080"]),
        ("TaskFailedToStart", "CannotStartContainerError: Error response from daemon: error gathering device information while adding custom device \"/dev/dri/renderD130\": no such file or directory".into(), CauseKind::Unknown, &["cannot be started", "renderD130"]),
        ("", "OutOfMemoryError: Container killed due to memory usage".into(), CauseKind::OutOfMemory, &["`web` ran out of memory", "384 MiB"]),
        ("", "DockerTimeoutError: Could not transition to started; timed out after waiting 3m0s".into(), CauseKind::Infrastructure, &["3m0s"]),
        ("TaskFailedToStart", "Timeout waiting for EphemeralStorage provisioning to complete.".into(), CauseKind::Infrastructure, &["EphemeralStorage"]),
        ("TaskFailedToStart", "Timeout waiting for network interface provisioning to complete.".into(), CauseKind::Network, &["network interface"]),
        ("TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment enabled in subnet 'subnet-0a1b': InsufficientFreeAddressesInSubnet".into(), CauseKind::Network, &["subnet `subnet-0a1b`", "no free IP address"]),
        ("TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface: insufficient free addresses in subnet".into(), CauseKind::Network, &["no free IP address"]),
        ("TaskFailedToStart", "Unexpected EC2 error while attempting to tag the network interface: TagPolicyViolation".into(), CauseKind::Network, &["TagPolicyViolation"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to configure ENI: failed to setup regular eni: netplugin failed with no error message".into(), CauseKind::Network, &["netplugin"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: b'mount.nfs4: access denied by server while mounting 127.0.0.1:/'".into(), CauseKind::RoleDenied, &["elasticfilesystem:ClientMount"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: Failed to resolve \"fs-1.efs.eu-west-1.amazonaws.com\"".into(), CauseKind::Network, &["2049"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: mount.nfs4: mounting fs-1:/opt failed, reason given by server: No such file or directory".into(), CauseKind::Disk, &["root directory"]),
        ("TaskFailedToStart", "Capacity is unavailable at this time. Please try again later or in a different availability zone".into(), CauseKind::NoCapacity, &["no such capacity"]),
        ("", "Host EC2 (instance i-0123) terminated.".into(), CauseKind::Infrastructure, &["terminated"]),
        ("SpotInterruption", "Your Spot Task was interrupted.".into(), CauseKind::Infrastructure, &["spot"]),
        ("TerminationNotice", "ECS is performing maintenance on the underlying infrastructure hosting the task".into(), CauseKind::Infrastructure, &["infrastructure"]),
        ("ServiceSchedulerInitiated", "Scaling activity initiated by (deployment ecs-svc/9086637243870003494)".into(), CauseKind::Stopped, &["scheduler"]),
        ("UserInitiated", "Task stopped by user".into(), CauseKind::Stopped, &["a user stopped"]),
        ("ServiceSchedulerInitiated", "Task stopped for Availability Zone rebalancing".into(), CauseKind::Stopped, &["scheduler"]),
        ("ServiceSchedulerInitiated", format!("Task failed ELB health checks in (target-group {GROUP})"), CauseKind::LoadBalancerCheck, &["path `/health`", "target group `web-tg`", "grace period"]),
        ("ServiceSchedulerInitiated", "Task failed container health checks".into(), CauseKind::HealthCheck, &["`web`", "`curl -f http://localhost/ || exit 1`"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to download env files: file download command: non empty error stream: AccessDenied: User: x is not authorized to perform: s3:GetObject on resource: y".into(), CauseKind::RoleDenied, &["s3:GetObject"]),
        ("TaskFailedToStart", "ResourceInitializationError: failed to download env files: dial tcp 52.1.1.1:443: i/o timeout".into(), CauseKind::Network, &["env files"]),
        ("TaskFailedToStart", "ResourceInitializationError: something new".into(), CauseKind::Unknown, &["something new"]),
        ("", "Something new".into(), CauseKind::Unknown, &["the task stopped: Something new"]),
    ] {
        let is_of_container = kind == CauseKind::OutOfMemory || message.starts_with("Cannot");
        let of_container = is_of_container.then_some(message.as_str());
        // A task that is stopped from outside ends with SIGTERM, which has no meaning.
        let exit_code = (code == "ServiceSchedulerInitiated" || code == "UserInitiated").then_some(143);
        let reason = if of_container.is_some() { "Task failed to start" } else { &message };
        let stopped = task(code, reason, vec![container("web", exit_code, of_container)]);
        expect(&diagnosed(&stopped, &[]), kind, fragments, &message);
    }
}

/// Diagnoses a task whose essential container exited first.
fn ended(code: i32, lines: &[&str]) -> Cause {
    let containers = vec![container("web", Some(code), None)];
    diagnosed(
        &task("EssentialContainerExited", "Essential container in task exited", containers),
        &[log("web", lines)],
    )
}

#[test]
fn exit_codes_and_last_lines() {
    for (code, line, kind, fragments) in [
        (1, "Error: database is gone", CauseKind::Exited, &["container `web` ended with exit code 1"][..]),
        (0, "done", CauseKind::Exited, &["exit code 0", "must keep running"]),
        (137, "", CauseKind::Exited, &["SIGKILL", "`memory`"]),
        (139, "", CauseKind::Exited, &["SIGSEGV"]),
        (143, "", CauseKind::Exited, &["SIGTERM"]),
        (134, "", CauseKind::Exited, &["SIGABRT (exit code 134)"]),
        (
            127,
            "/bin/sh: 1: gunicorn: not found",
            CauseKind::NoSuchCommand,
            &["command `gunicorn` does not exist"],
        ),
        (127, "/entrypoint.sh: line 3: serve: command not found", CauseKind::NoSuchCommand, &["`serve`"]),
        (127, "", CauseKind::NoSuchCommand, &["command `node server.js`"]),
        (126, "", CauseKind::NoSuchCommand, &["cannot be run", "chmod +x"]),
        (
            255,
            "exec /usr/local/bin/docker-entrypoint.sh: exec format error",
            CauseKind::WrongArchitecture,
            &["X86_64", ECR],
        ),
        (
            1,
            "standard_init_linux.go:228: exec user process caused: exec format error",
            CauseKind::WrongArchitecture,
            &["X86_64"],
        ),
        (
            255,
            "exec /app/run.sh: no such file or directory",
            CauseKind::NoSuchCommand,
            &["command `/app/run.sh`", "Windows line endings"],
        ),
        (
            1,
            "standard_init_linux.go:228: exec user process caused: no such file or directory",
            CauseKind::NoSuchCommand,
            &["the command of image"],
        ),
        (1, "Error: listen EADDRINUSE: address already in use :::3000", CauseKind::PortInUse, &["port 3000"]),
        (
            1,
            "2024/05/01 12:30:45 listen tcp :8080: bind: address already in use",
            CauseKind::PortInUse,
            &["port 8080"],
        ),
        (
            1,
            "[emerg] 1#1: bind() to 0.0.0.0:80 failed (98: Address already in use)",
            CauseKind::PortInUse,
            &["port 80,"],
        ),
        (
            1,
            "ERROR: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
            CauseKind::PortInUse,
            &["port 8000"],
        ),
        (
            1,
            "Web server failed to start. Port 8081 was already in use.",
            CauseKind::PortInUse,
            &["port 8081"],
        ),
        (1, "the user name was already in use", CauseKind::Exited, &["exit code 1"]),
        (
            134,
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            CauseKind::OutOfMemory,
            &["JavaScript heap", "384 MiB"],
        ),
        (
            3,
            "Terminating due to java.lang.OutOfMemoryError: Java heap space",
            CauseKind::OutOfMemory,
            &["Java heap space"],
        ),
        (1, "open /etc/app.conf: no such file or directory", CauseKind::Exited, &["exit code 1"]),
    ] {
        let cause = ended(code, &["starting", line, "bye"]);
        expect(&cause, kind, fragments, line);
        assert_eq!(cause.container.as_deref(), Some("web"), "{line}");
    }
}

#[test]
fn logs_count_only_if_a_container_exited_first() {
    let logs = [log("web", &["java.lang.OutOfMemoryError: once upon a time", "exec format error"])];
    let checked = task(
        "ServiceSchedulerInitiated",
        "Task failed container health checks",
        vec![container("web", Some(1), None)],
    );
    assert_eq!(diagnosed(&checked, &logs).kind, CauseKind::HealthCheck);
    let failed = task("TaskFailedToStart", "Task failed to start", vec![container("web", Some(1), None)]);
    assert_eq!(diagnosed(&failed, &logs).kind, CauseKind::Exited);
    // The log of a successful container does not count.
    assert_eq!(ended(0, &["listen tcp :80: bind: address already in use"]).kind, CauseKind::Exited);
    // Nor does the log of another container.
    let other = [log("proxy", &["exec format error"])];
    let exited = task(
        "EssentialContainerExited",
        "Essential container in task exited",
        vec![container("web", Some(1), None)],
    );
    assert_eq!(diagnosed(&exited, &other).kind, CauseKind::Exited);
}

#[test]
fn the_container_that_failed_first_is_named() {
    let of = |containers: Vec<Container>| {
        diagnosed(&task("EssentialContainerExited", "Essential container in task exited", containers), &[])
    };
    let named = |containers| of(containers).container.unwrap_or_default();
    let plain = |name, code| container(name, Some(code), None);
    assert_eq!(named(vec![plain("router", 1), plain("web", 143), plain("proxy", 2)]), "proxy");
    assert_eq!(named(vec![plain("proxy", 143), plain("web", 0)]), "web");
    assert_eq!(named(vec![plain("proxy", 0), plain("web", 137)]), "web");
    assert_eq!(named(vec![plain("web", 1), plain("proxy", 2)]), "web");
    // An essential container's reason has precedence over any code; another container's counts only without other evidence.
    let killed = container("web", Some(137), Some("OutOfMemoryError: Container killed due to memory usage"));
    assert_eq!(of(vec![plain("proxy", 1), killed]).kind, CauseKind::OutOfMemory);
    let router =
        || container("router", Some(137), Some("OutOfMemoryError: Container killed due to memory usage"));
    assert_eq!(of(vec![router(), plain("web", 1)]).kind, CauseKind::Exited);
    assert_eq!(of(vec![router(), container("web", None, None)]).container.as_deref(), Some("router"));
    // A dependency of other containers, and a container that AWS adds.
    assert_eq!(named(vec![container("web", None, None), plain("router", 3)]), "router");
    assert_eq!(named(vec![plain("aws-guardduty-agent-x", 1), plain("web", 143)]), "web");
}

#[test]
fn the_unhealthy_container_is_named() {
    let mut proxy = container("proxy", Some(143), None);
    proxy.health = Some("UNHEALTHY".into());
    let stopped = task(
        "ServiceSchedulerInitiated",
        "Task failed container health checks",
        vec![container("web", None, None), proxy],
    );
    let cause = diagnosed(&stopped, &[]);
    assert_eq!(cause.sentence, "container `proxy` failed its health check");
}

#[test]
fn the_architecture_of_the_definition_counts() {
    let mut arm = definition();
    arm["runtimePlatform"] = json!({ "cpuArchitecture": "ARM64" });
    let stopped = task(
        "EssentialContainerExited",
        "Essential container in task exited",
        vec![container("web", Some(255), None)],
    );
    let logs = [log("web", &["exec /app: exec format error"])];
    let cause = diagnose(&Evidence { task: &stopped, definition: &arm, logs: &logs, health_path: None });
    expect(&cause, CauseKind::WrongArchitecture, &["not built for ARM64", "linux/arm64", "to X86_64"], "arm");
}

#[test]
fn events_about_failures() {
    let place =
        "(service web) was unable to place a task because no container instance met all of its requirements.";
    for (event, kind, fragments) in [
        (place.to_owned(), CauseKind::NoCapacity, &["no container instance meets"][..]),
        (format!("{place} The closest matching (container-instance 123456-1234) has insufficient memory available. For more information, see the Troubleshooting section of the Amazon ECS Developer Guide."),
         CauseKind::NoCapacity, &["enough memory"]),
        (format!("{place} The closest matching (container-instance 1) has insufficient CPU units available."), CauseKind::NoCapacity, &["enough CPU"]),
        (format!("{place} The closest matching (container-instance 1) is already using a port required by your task."), CauseKind::NoCapacity, &["host port"]),
        (format!("{place} The closest matching (container-instance 1) is missing an attribute required by your task."), CauseKind::NoCapacity, &["requires"]),
        (format!("{place} The closest matching container-instance 1 encountered error \"AGENT\"."), CauseKind::Infrastructure, &["agent"]),
        ("(service web) was unable to place a task. Reason: RESOURCE:ENI.".into(), CauseKind::NoCapacity, &["network interface"]),
        ("(service web) was unable to place a task. Reason: Capacity is unavailable at this time. Please try again later or in a different availability zone.".into(), CauseKind::NoCapacity, &["no such capacity"]),
        ("(service web) was unable to place a task. Reason: You've reached the limit on the number of tasks you can run concurrently.".into(), CauseKind::NoCapacity, &["Service Quotas"]),
        ("(service web) was unable to place a task. Reason: The requested MEMORY configuration is above your limit.".into(), CauseKind::NoCapacity, &["Service Quotas"]),
        ("(service web) was unable to place a task. Reason: Internal error.".into(), CauseKind::Infrastructure, &["Internal error"]),
        ("(service web) was unable to place a task. Reason: Something new.".into(), CauseKind::Unknown, &["ECS cannot start a task: Something new"]),
        ("(service web) was unable to reach steady state. Reason: No Container Instances were found in your capacity provider.".into(), CauseKind::NoCapacity, &["no instances"]),
        ("(service web) was unable to place a task because no container instance met all of its requirements. Reason: No Container Instances were found in your cluster.".into(), CauseKind::NoCapacity, &["no instances"]),
        (format!("(service web) was unable to place a task. Reason: CannotPullContainerError: pull image manifest has been retried 7 time(s): failed to resolve ref {ECR}: not found."), CauseKind::ImageMissing, &[ECR]),
        (format!("(service web) was unable to place a task. Reason: ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): failed to fetch secret {SECRET} from secrets manager: ResourceNotFoundException."), CauseKind::SecretMissing, &[SECRET]),
        ("(service web) failed to launch a task with (error ECS was unable to assume the role 'arn:aws:iam::123456789012:role/task' that was provided for this task. Please verify that the role being passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this role.)".into(),
         CauseKind::RoleDenied, &["role `arn:aws:iam::123456789012:role/task`", "ecs-tasks.amazonaws.com"]),
        (format!("(service web) (task 795dee6c) (port 80) is unhealthy in (target-group {GROUP}) due to (reason Health checks failed with these codes: [404])"),
         CauseKind::LoadBalancerCheck, &["on port 80", "status 404", "target group `web-tg`", "correct the target group's health check path"]),
        (format!("(service web) (instance i-1) (port 32875) is unhealthy in (target-group {GROUP}) due to (reason Health checks failed with these codes: [502])."), CauseKind::LoadBalancerCheck, &["status 502", "program itself"]),
        (format!("(service web) (port 80) is unhealthy in (target-group {GROUP}) due to (reason Request timed out)"), CauseKind::LoadBalancerCheck, &["not answered in time", "security group"]),
        (format!("(service web) (port 80) is unhealthy in (target-group {GROUP}) due to (reason Target is in an Availability Zone that is not enabled for the load balancer)"), CauseKind::LoadBalancerCheck, &["Availability Zone", "subnet in each zone"]),
        ("(service web) (instance i-1) is unhealthy in (elb classic) due to (reason Instance has failed at least the UnhealthyThreshold number of health checks consecutively.)".into(), CauseKind::LoadBalancerCheck, &["`classic`", "UnhealthyThreshold"]),
        (format!("(service web) failed to register targets in (target-group {GROUP}) with (error The following targets are not in the target group VPC 'vpc-1': 'i-1')"), CauseKind::LoadBalancerCheck, &["`web-tg`", "vpc-1"]),
        ("service web failed to register targets in target-group web with (error User: x is not authorized to perform: elasticloadbalancing:RegisterTargets on resource: y)".into(), CauseKind::RoleDenied, &["`web`"]),
        ("(service web) (task 1) failed container health checks.".into(), CauseKind::HealthCheck, &["health check"]),
        ("(service web) is unable to consistently start tasks successfully. For more information, see the Troubleshooting section.".into(), CauseKind::Unknown, &["keep failing"]),
        ("(service web) operations are being throttled on elb. Will try again later.".into(), CauseKind::Infrastructure, &["throttled"]),
        ("(service web) was unable to stop or start tasks during a deployment because of the service deployment configuration. Update the minimumHealthyPercent or maximumPercent value and try again.".into(), CauseKind::NoCapacity, &["`maximumPercent`"]),
        ("(service web) (deployment ecs-svc/1) deployment failed: tasks failed to start.".into(), CauseKind::Unknown, &["tasks failed to start"]),
        ("(service web) failed to launch a task with (error Unable to create network interface: insufficient free addresses in subnet 'subnet-1')".into(), CauseKind::Network, &["subnet-1", "no free IP"]),
    ] {
        let cause = diagnose_event(&event).unwrap_or_else(|| panic!("no cause in {event}"));
        assert_eq!(cause.kind, kind, "{event}\n{cause:?}");
        let text = format!("{} — {}", cause.sentence, cause.help.unwrap_or_default());
        for fragment in fragments {
            assert!(text.contains(fragment), "no {fragment:?} in {text:?}");
        }
        assert!(!text.contains("795dee6c"), "events of several tasks are to be equal: {text}");
    }
}

#[test]
fn events_about_progress_have_no_cause() {
    for event in [
        "(service web) has started 2 tasks: (task a) (task b).",
        "(service web) has reached a steady state.",
        "(service web) registered 1 targets in (target-group tg)",
        "(service web) deregistered 1 targets in (target-group tg)",
        "(service web) has begun draining connections on 1 tasks.",
        "(service web) has stopped 1 running tasks: (task a).",
        "(service web) (deployment ecs-svc/1) deployment completed.",
        "(service web) rolling back to deployment ecs-svc/2.",
    ] {
        assert_eq!(diagnose_event(event), None, "{event}");
    }
}

#[test]
fn permanent_failures_are_hopeless() {
    for (kind, tasks) in [
        (CauseKind::ImageMissing, Some(1)),
        (CauseKind::WrongArchitecture, Some(1)),
        (CauseKind::NoSuchCommand, Some(1)),
        (CauseKind::SecretMissing, Some(1)),
        (CauseKind::LogGroupMissing, Some(1)),
        (CauseKind::ImageDenied, Some(2)),
        (CauseKind::SecretDenied, Some(2)),
        (CauseKind::RoleDenied, Some(2)),
        (CauseKind::ImageUnreachable, None),
        (CauseKind::Exited, None),
        (CauseKind::OutOfMemory, None),
        (CauseKind::Stopped, None),
        (CauseKind::Unknown, None),
    ] {
        assert_eq!(kind.hopeless_after(), tasks, "{kind:?}");
    }
}

#[test]
fn groups_name_the_most_frequent_cause_first() {
    let with = |id: &str, code: i32| {
        let mut exited = task(
            "EssentialContainerExited",
            "Essential container in task exited",
            vec![container("web", Some(code), None)],
        );
        exited.arn = format!("arn:aws:ecs:eu-west-1:123456789012:task/main/{id}");
        exited
    };
    let tasks = [with("a", 2), with("b", 1), with("c", 1)];
    let definition = definition();
    let logs = [log("router", &["noise"]), log("web", &["Error: no database", "    at start"])];
    let causes: Vec<(Evidence<'_>, Cause)> = tasks
        .iter()
        .map(|task| Evidence { task, definition: &definition, logs: &logs, health_path: None })
        .map(|evidence| (evidence, diagnose(&evidence)))
        .collect();
    let groups = group(&causes);
    let sizes: Vec<usize> = groups.iter().map(|group| group.tasks.len()).collect();
    assert_eq!(sizes, [2, 1]);
    assert_eq!(
        (groups[0].tasks.as_slice(), groups[0].exit_code),
        (&["b".to_owned(), "c".to_owned()][..], Some(1))
    );
    assert_eq!(
        groups[0].lines(),
        [
            "2 tasks: container `web` ended with exit code 1 (EssentialContainerExited: Essential container in task exited)",
            "  web | Error: no database",
            "  web |     at start",
        ]
    );
}

#[test]
fn lines_have_the_agents_message_and_the_help() {
    let message =
        format!("CannotPullContainerError: Error response from daemon: manifest for {ECR} not found");
    let stopped =
        task("TaskFailedToStart", "Task failed to start", vec![container("web", None, Some(&message))]);
    let definition = definition();
    let evidence = Evidence { task: &stopped, definition: &definition, logs: &[], health_path: None };
    let groups = group(&[(evidence, diagnose(&evidence))]);
    assert_eq!(
        groups[0].lines(),
        [
            format!(
                "1 task: image `{ECR}` of container `web` does not exist (TaskFailedToStart: Task failed to start: {message})"
            ),
            "  help: push the image first, or correct `image`".to_owned(),
        ]
    );
    // A message that the sentence already contains is not repeated.
    let strange = task("", "Something new", Vec::new());
    let evidence = Evidence { task: &strange, definition: &definition, logs: &[], health_path: None };
    assert_eq!(
        group(&[(evidence, diagnose(&evidence))])[0].lines(),
        ["1 task: the task stopped: Something new"]
    );
}

#[test]
fn missing_evidence_is_reported() {
    let cause = diagnose(&Evidence {
        task: &Task::default(),
        definition: &Value::Null,
        logs: &[],
        health_path: None,
    });
    expect(&cause, CauseKind::Unknown, &["ECS reports no reason"], "nothing");
    // Without a definition every container counts.
    let exited = task("EssentialContainerExited", "", vec![container("x", Some(1), None)]);
    let cause = diagnose(&Evidence { task: &exited, definition: &Value::Null, logs: &[], health_path: None });
    assert_eq!(cause.sentence, "container `x` ended with exit code 1");
}
