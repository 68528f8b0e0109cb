//! Adapters' errors as failures: exit code, message, advice.

use crate::address::InvalidName;
use crate::aws::{AwsError, Denial};
use crate::docker::DockerError;
use crate::docker::context::ContextError;
use crate::ecs::task_definition::TaskDefinitionError;
use crate::exit::{Exit, Failure, FailureKind, chain};
use crate::files::WriteError;
use crate::limits;
use crate::process::ProcessError;
use crate::registry::RegistryError;
use crate::work::NOT_WRITABLE;
use std::borrow::Borrow;
use std::error::Error;
use std::io::ErrorKind;

/// How to turn on privileged mode.
const PRIVILEGED: &str = "turn it on for the CodeBuild project: Environment → Privileged in the console, `PrivilegedMode: true` in CloudFormation, `privileged_mode = true` in Terraform, or `aws codebuild update-project --name PROJECT --environment …,privilegedMode=true`";
/// AWS's error code for a quota that is used up.
const QUOTA: &str = "LimitExceededException";

/// The failure for an error that an exhausted limit of the system caused.
fn exhausted(error: &(dyn Error + 'static)) -> Option<Failure> {
    limits::advice(error).map(|advice| Failure::caused(Exit::Environment, error).help(advice))
}

impl From<ProcessError> for Failure {
    fn from(error: ProcessError) -> Self {
        let failure = Self::caused(Exit::Environment, &error);
        match error {
            ProcessError::NoProgram(program) if program == "bash" => {
                failure.help("install bash, or write `env: { shell: sh }` in the pipeline file")
            }
            ProcessError::NoProgram(_) => {
                failure.help("install it in the build image; write a shell script as text, not as a list")
            }
            ProcessError::NoDirectory(_) => {
                failure.help("`dir` is relative to the directory of the pipeline file")
            }
            ProcessError::Unusable { defect, .. } => failure.help(defect.help()),
            ProcessError::Start { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied => failure.help(
                    "make it executable (`chmod +x FILE`; `git update-index --chmod=+x FILE` keeps that in git)",
                ),
                _ => failure.limited(limits::start_advice(&source)),
            },
            ProcessError::Guard { source, .. } => failure
                .help("check that it was not killed, that memory and processes are left, and that /proc is mounted")
                .limited(limits::start_advice(&source)),
        }
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        if let Some(failure) = exhausted(&error) {
            return failure;
        }
        if let DockerError::OfContext { name, source } = error {
            let failure = Self::from(*source);
            return Self { message: format!("the docker context `{name}`: {}", failure.message), ..failure };
        }
        if let DockerError::Build(text) = &error
            && let Some(denial) = Denial::read(text)
        {
            // IAM denies pulling a base image from ECR.
            return Self::caused(Exit::Environment, &error).help(permission_advice(&denial));
        }
        let exit = match &error {
            DockerError::Build(_) | DockerError::Explained { .. } => Exit::StepFailed,
            DockerError::Start(_) | DockerError::Service { .. } => Exit::TestsFailed,
            DockerError::NoDockerfile(_) | DockerError::NoStage(_) | DockerError::Ssh(_) => Exit::Usage,
            DockerError::Context(context) if !matches!(**context, ContextError::Read { .. }) => Exit::Usage,
            _ => Exit::Environment,
        };
        let failure = Self::caused(exit, &error).kind(docker_kind(&error));
        match &error {
            DockerError::NoSocket(_) | DockerError::NoListener(_) => failure.help(
                "start Docker (`sudo systemctl start docker`), or set DOCKER_HOST to a running engine; in a container, mount /var/run/docker.sock",
            ),
            DockerError::NotPrivileged(_) => failure.help(PRIVILEGED),
            DockerError::NotRoot(_) => {
                failure.help("run the build as root: remove `run-as` from the buildspec, and `USER` from the build image")
            }
            DockerError::NoDaemon => failure.help(
                "use one of CodeBuild's standard images, install Docker in the build image, or set DOCKER_HOST to a running engine",
            ),
            DockerError::Daemon { lines, .. } if lines.is_empty() => {
                failure.help("read its output where it was started")
            }
            DockerError::Daemon { .. } => failure.help(
                "its last lines are above; the whole log is in .runner/dockerd.log",
            ),
            DockerError::Certificate { .. } => failure.help(
                "set DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem; the default is ~/.docker",
            ),
            DockerError::NoSsh => failure.help("install the OpenSSH client (package openssh-client or openssh-clients)"),
            DockerError::Denied { user, .. } => failure.help(format!(
                "add {user} to the group `docker` (usermod -aG) and log in again, or run as root"
            )),
            DockerError::Address { .. } => failure
                .help("use unix:///path/to/socket, tcp://host:port or ssh://user@host"),
            DockerError::UnusableContext { .. } => failure.help(
                "`docker context ls` lists the contexts; select one with DOCKER_CONTEXT, or set DOCKER_HOST, which takes precedence",
            ),
            DockerError::Configuration(_) => failure.help("correct the file, or set DOCKER_HOST"),
            DockerError::Unreachable { address, .. } if address.starts_with("ssh://") => failure.help(
                "make `ssh -T HOST docker info` work without a prompt: with a known host, and a key that has no passphrase or is in an agent",
            ),
            DockerError::Unreachable { .. } => {
                failure.help("start the engine (`docker info` shows its state), or set DOCKER_HOST to another one")
            }
            DockerError::TooOld { .. } => failure.help("use a newer CodeBuild image or engine"),
            DockerError::NoImage(_) => {
                failure.help("it was removed after it was built; run the build phase again")
            }
            DockerError::NoDockerfile(_) => failure.help(
                "`dockerfile` is relative to the directory of the pipeline file; the default is `Dockerfile` in the context",
            ),
            DockerError::Explained { help, .. } => failure.help(help.as_str()),
            DockerError::Build(text) if text.contains("exec format error") => failure.help(
                "a `RUN` for another platform needs emulation on the engine's machine (binfmt_misc with QEMU)",
            ),
            DockerError::Stopped => Self::stopped(),
            _ => failure,
        }
    }
}

fn docker_kind(error: &DockerError) -> FailureKind {
    match error {
        DockerError::Build(_) | DockerError::Explained { .. } => FailureKind::BuildVertex,
        DockerError::Start(_) | DockerError::Service { .. } => FailureKind::Tests,
        DockerError::NoDockerfile(_)
        | DockerError::NoStage(_)
        | DockerError::Ssh(_)
        | DockerError::Address { .. } => FailureKind::BadInput,
        DockerError::Context(_) | DockerError::Files { .. } => FailureKind::Io,
        DockerError::NoImage(_) => FailureKind::NotFound,
        DockerError::Pull { .. } => FailureKind::RegistryRefused,
        DockerError::Stopped => FailureKind::Stopped,
        _ => FailureKind::DockerUnreachable,
    }
}

fn registry_kind(error: &RegistryError) -> FailureKind {
    match error {
        RegistryError::Name(_) => FailureKind::BadInput,
        RegistryError::Unreachable { .. } | RegistryError::Silent { .. } => FailureKind::RegistryUnreachable,
        RegistryError::NoRepository { .. } | RegistryError::Gone { .. } => FailureKind::NotFound,
        RegistryError::Export(_) | RegistryError::Stream(_) | RegistryError::File { .. } => FailureKind::Io,
        RegistryError::Stopped => FailureKind::Stopped,
        _ => FailureKind::RegistryRefused,
    }
}

fn aws_kind(error: &AwsError) -> FailureKind {
    match error {
        AwsError::Denied { .. } => FailureKind::AwsDenied,
        AwsError::NotFound { .. } => FailureKind::NotFound,
        AwsError::Service { .. } if error.is_transient() => FailureKind::AwsThrottled,
        _ => FailureKind::AwsOther,
    }
}

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Self {
        Self::caused(Exit::Usage, &error)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        if let Some(failure) = exhausted(&error) {
            return failure;
        }
        let exit = match &error {
            RegistryError::Name(_) => Exit::Usage,
            RegistryError::Verification { .. } | RegistryError::ImmutableTag { .. } => Exit::StepFailed,
            _ => Exit::Environment,
        };
        let failure = Self::caused(exit, &error).kind(registry_kind(&error));
        match &error {
            RegistryError::Denied { host, reason } => failure.help(Denial::read(reason).map_or_else(
                || format!("for ECR, allow the role to push to this repository (`runner iam` prints the policy); for other registries, log in with `docker login {host}`"),
                |denial| permission_advice(&denial),
            )),
            RegistryError::Full { .. } => failure.help(
                "remove unused images, add a lifecycle policy (`aws ecr put-lifecycle-policy`), or raise the quota `Images per repository` in Service Quotas",
            ),
            RegistryError::NoRepository { repository, .. } => failure.help(format!(
                "create it (`aws ecr create-repository --repository-name {repository}`), or write `create: true` for the image"
            )),
            RegistryError::Protocol { .. } => failure.help(
                "check that the address in `repository` is a registry's, and what proxies before it do",
            ),
            RegistryError::Lost { .. } => {
                failure.help("push again; if it happens again, check the registry's storage")
            }
            RegistryError::Unreachable { .. } => {
                failure.help("check the name in `repository`, the network and the proxy settings")
            }
            RegistryError::ImmutableTag { .. } => {
                failure.help("give the image a tag that is unique to the commit, such as `${source.commit}`")
            }
            RegistryError::Stopped => Self::stopped(),
            _ => failure,
        }
    }
}

/// Advice for a denial by IAM.
fn permission_advice(denial: &Denial) -> String {
    let Denial { action, resource } = denial;
    format!(
        "allow `{action}` on `{resource}` for the role that runs this, with the statement {}; `runner iam` prints the whole policy",
        denial.statement()
    )
}

/// An AWS error with its advice, in one line.
pub(crate) fn with_advice(error: impl Borrow<AwsError>) -> String {
    let error = error.borrow();
    match error {
        AwsError::Denied { denial, .. } => format!("{}; {}", chain(error), permission_advice(denial)),
        _ => chain(error),
    }
}

impl From<AwsError> for Failure {
    fn from(error: AwsError) -> Self {
        if let Some(failure) = exhausted(&error) {
            return failure;
        }
        let exit = match &error {
            AwsError::Service { code, .. } if code != QUOTA && !error.is_transient() => Exit::StepFailed,
            _ => Exit::Environment,
        };
        let failure = Self::caused(exit, &error).kind(aws_kind(&error));
        match &error {
            AwsError::NoRegion => failure.help("set AWS_REGION, or a region in the profile"),
            AwsError::NoCredentials(_) => failure.help(
                "give the CodeBuild project a service role; elsewhere set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with --local",
            ),
            AwsError::BadCredentials { message, .. }
                if ["Signature expired", "not yet current", "Request has expired"]
                    .iter()
                    .any(|words| message.contains(words)) =>
            {
                failure.help("correct this machine's clock: AWS accepts only requests from the last few minutes")
            }
            AwsError::BadCredentials { .. } => {
                failure.help("renew them; `aws sts get-caller-identity` shows whose they are")
            }
            AwsError::Denied { denial, .. } => failure.help(permission_advice(denial)),
            AwsError::Unreachable { .. } | AwsError::UnexpectedResponse { .. } => {
                failure.help("check the network, the region and AWS_ENDPOINT_URL")
            }
            AwsError::NotFound { what, .. } => {
                failure.help(format!("create the {what}, or correct its name or the region"))
            }
            AwsError::Region { .. } => failure.help("write a region such as eu-central-1"),
            AwsError::Role { .. } => {
                failure.help("check the ARN, the network, and the role's trust policy")
            }
            AwsError::Service { action, code, .. } if code == QUOTA => failure.help(format!(
                "`{action}` exceeded a quota: remove unused resources, or request an increase in Service Quotas"
            )),
            AwsError::Proxy(_) => failure.help("write `http://HOST:PORT`, or unset it"),
            AwsError::Tls(_) | AwsError::UnusableSecret { .. } | AwsError::Service { .. } => failure,
        }
    }
}

impl From<TaskDefinitionError> for Failure {
    fn from(error: TaskDefinitionError) -> Self {
        let failure = Self::caused(Exit::Usage, &error);
        match error {
            TaskDefinitionError::Empty(_) => failure.help("remove it, or give it a value"),
            TaskDefinitionError::Type { .. } => failure.help("correct the task definition"),
            _ => failure,
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::caused(Exit::Environment, &error).help(NOT_WRITABLE).limited(limits::advice(&error))
    }
}
