//! Interprets the messages of ECS and its agents about tasks that did not start or stopped.

use super::capacity::no_capacity;
use super::common::{memory, no_command, wrong_architecture};
use super::definition::Definition;
use super::excerpt::{between, excerpt};
use super::exit::port_in_use;
use super::{Cause, CauseKind};

/// Signs of a network failure, in lower case.
pub(crate) const UNREACHABLE: [&str; 22] = [
    "i/o timeout",
    "connection issue between",
    "no such host",
    "server misbehaving",
    "client.timeout exceeded",
    "request canceled",
    "requestcanceled",
    "context deadline exceeded",
    "context canceled",
    "tls handshake timeout",
    "connection refused",
    "connection reset",
    "network is unreachable",
    "no route to host",
    "send request failed",
    "signal: killed",
    "statuscode: 0,",
    "dial tcp",
    "unexpected eof",
    "x509:",
    "check your network configuration",
    "check your task network configuration",
];

/// Signs of a missing permission, in lower case.
pub(crate) const DENIED: [&str; 12] = [
    "accessdenied",
    "not authorized to perform",
    "403 forbidden",
    "401 unauthorized",
    "no basic auth credentials",
    "access to kms is not allowed",
    "decryptionfailure",
    "credentialsendpointerror",
    "nocredentialproviders",
    "unrecognizedclient",
    "authorization failed",
    "access denied by server",
];

/// Signs of a missing image, in lower case. Docker uses the second one for private images, too.
const NO_IMAGE: [&str; 8] = [
    "not found",
    "repository does not exist or may require",
    "manifest unknown",
    "name unknown",
    "name_unknown",
    "does not exist",
    "check whether the image exists",
    "invalid reference format",
];

/// How registries hide whether an image does not exist or is private.
const HIDDEN: [&str; 5] = [
    "repository does not exist or may require",
    "pull access denied",
    "insufficient_scope",
    "access to the requested resource is not authorized",
    "requested access to the resource is denied",
];

/// The start of a help text about subnets without internet access. A list of services follows.
pub(crate) const SUBNET_NEEDS: &str = "a private subnet needs a NAT gateway or VPC endpoints for";

/// A message with its context.
pub(crate) struct StopMessage<'a> {
    pub(crate) text: &'a str,
    lower: String,
    container: Option<&'a str>,
    pub(crate) definition: &'a Definition<'a>,
}

/// Interprets a message. Returns `None` if it is unknown.
pub(crate) fn read(text: &str, container: Option<&str>, definition: &Definition<'_>) -> Option<Cause> {
    let container = container.or_else(|| {
        let is_of_container = text.contains("CannotPull") || text.contains("CannotStart");
        definition.named_by_image(text).filter(|_| is_of_container)
    });
    let message = StopMessage { text, lower: text.to_lowercase(), container, definition };
    message.cause()
}

impl StopMessage<'_> {
    pub(crate) fn has(&self, markers: &[&str]) -> bool {
        markers.iter().any(|marker| self.lower.contains(marker))
    }

    /// More specific patterns come first.
    fn cause(&self) -> Option<Cause> {
        if self.has(&["outofmemoryerror", "due to memory usage", "oom-killed", "memory limit too low"]) {
            return Some(memory(self.container, self.definition, None));
        }
        if self.has(&["logging driver", "logger args", "cloudwatch log"]) {
            return Some(self.logs());
        }
        let of_secrets = [
            "from asm",
            "from ssm",
            "fetching secret data",
            "secrets manager",
            "secrets from aws systems manager",
        ];
        if self.has(&of_secrets) {
            return Some(self.secret());
        }
        if self.has(&["cannotpull", "ecr registry auth", "registry auth from"]) {
            return Some(self.image());
        }
        if self.has(&["unable to pull secrets or registry auth"]) {
            return Some(self.secrets_or_image());
        }
        if self.has(&["cannotstartcontainer", "cannotcreatecontainer", "oci runtime", "runc create failed"]) {
            return Some(self.start());
        }
        self.surroundings()
    }

    /// Messages that are not about a container.
    fn surroundings(&self) -> Option<Cause> {
        if self.has(&["efs utils", "efs volumes", "no space left on device", "failed to mount"]) {
            return Some(self.volume());
        }
        if self.has(&["assume the role", "assume role", "assume the service linked role"]) {
            return Some(self.role());
        }
        let room = ["cpu", "memory", "port", "eni", "gpu"].map(|resource| format!("resource:{resource}"));
        if self.has(&["capacity is unavailable"]) || room.iter().any(|marker| self.has(&[marker])) {
            return Some(no_capacity(&self.lower));
        }
        if self.has(&["network interface", "eni:", "insufficientfreeaddresses", "free addresses in subnet"]) {
            return Some(self.network_interface());
        }
        let runtime = [
            "timed out after waiting",
            "ephemeralstorage provisioning",
            "cannotinspectcontainer",
            "cannotstopcontainer",
            "internalerror",
            "internal error",
        ];
        if self.has(&runtime) {
            let sentence = format!("the host failed to start the task: {}", excerpt(self.text));
            return Some(
                self.about(CauseKind::Infrastructure, sentence)
                    .help("ECS retries; on EC2 check the instance's CPU and disk load and its agent's log"),
            );
        }
        self.has(&["resourceinitializationerror"]).then(|| self.resources())
    }

    /// Other resources of the task, such as environment files.
    fn resources(&self) -> Cause {
        let mut cause = self.other("cannot set up the task's resources");
        if self.has(&DENIED) {
            cause.kind = CauseKind::RoleDenied;
            return cause.help("allow the execution role the action in the message");
        }
        if self.has(&UNREACHABLE) {
            cause.kind = CauseKind::Network;
            return cause.help(format!(
                "{SUBNET_NEEDS} the service in the message; a public one needs `assign-public-ip`"
            ));
        }
        cause
    }

    pub(crate) fn about(&self, kind: CauseKind, sentence: impl Into<String>) -> Cause {
        Cause::new(kind, self.container, sentence)
    }

    /// A failure with a known subject but an unknown cause.
    pub(crate) fn other(&self, subject: &str) -> Cause {
        self.about(CauseKind::Unknown, format!("{subject}: {}", excerpt(self.text)))
    }

    /// The role and action that were denied, as the end of a sentence.
    pub(crate) fn denied(&self) -> String {
        let role = between(self.text, "assumed-role/", &['/', ' ']).map(|role| format!("role `{role}`"));
        let action = between(self.text, "to perform: ", &[' ']).map(|action| format!("`{action}`"));
        match (role, action) {
            (Some(role), Some(action)) => format!(": {role} lacks {action}"),
            (None, Some(action)) => format!(": {action} is not allowed"),
            _ => String::new(),
        }
    }

    fn image(&self) -> Cause {
        let image = self.image_name();
        if self.has(&["descriptor matching platform", "no matching manifest for", "no match for platform"]) {
            return wrong_architecture(self.container, self.definition, false);
        }
        if self.has(&["toomanyrequests", "too many requests", "pull rate limit"]) {
            let sentence = format!("the registry of {image} received too many requests");
            return self.about(CauseKind::ImageUnreachable, sentence).help(
                "copy the image to ECR or use an ECR pull-through cache; Docker Hub allows more requests \
                 with a login (`repositoryCredentials`)",
            );
        }
        if self.has(&["no space left on device"]) {
            return self.volume();
        }
        // Registries other than ECR answer like this if a repository does not exist.
        let is_unknown = !self.is_of_ecr() && self.has(&HIDDEN);
        if self.has(&DENIED) && !is_unknown {
            return self.image_denied(&image);
        }
        if is_unknown || self.has(&NO_IMAGE) {
            let sentence =
                format!("{image} does not exist, or is private and the task has no login for its registry");
            let sentence = if is_unknown || self.has(&["may require", "no pull access"]) {
                sentence
            } else {
                format!("{image} does not exist")
            };
            return self.about(CauseKind::ImageMissing, sentence).help(if is_unknown {
                "correct `image`, or give the container a login for a private image (`repositoryCredentials`)"
            } else {
                "push the image first, or correct `image`"
            });
        }
        if self.has(&[
            "pull access denied",
            "permissions to pull",
            "unauthorized",
            "access denied",
            "forbidden",
        ]) {
            return self.image_denied(&image);
        }
        let fails = ["internal server error", "service unavailable", "bad gateway", ": eof"];
        if self.has(&UNREACHABLE) || self.has(&fails) {
            return self
                .about(CauseKind::ImageUnreachable, format!("the registry of {image} cannot be reached"))
                .help(format!(
                    "{SUBNET_NEEDS} ecr.api, ecr.dkr and s3; a public one needs `assign-public-ip`"
                ));
        }
        self.other(&format!("{image} cannot be pulled"))
    }

    fn image_denied(&self, image: &str) -> Cause {
        let sentence = format!("no permission to pull {image}{}", self.denied());
        if !self.is_of_ecr() {
            return self.about(CauseKind::ImageDenied, sentence).help(
                "give the container a login for its registry (`repositoryCredentials`), or correct `image`",
            );
        }
        self.about(CauseKind::ImageDenied, sentence).help(
            "allow the execution role ecr:BatchGetImage, ecr:GetDownloadUrlForLayer and \
             ecr:GetAuthorizationToken; a repository of another account must allow it as well, and \
             other registries need `repositoryCredentials`",
        )
    }

    /// Whether the image is in ECR, by the message or by the task definition.
    fn is_of_ecr(&self) -> bool {
        let image = self.container.and_then(|name| self.definition.image(name)).unwrap_or_default();
        let is_ecr = |text: &str| {
            [".dkr.ecr", "public.ecr.aws", "ecr:", "ecr registry auth", "api.ecr"]
                .iter()
                .any(|part| text.contains(part))
        };
        is_ecr(&self.lower) || is_ecr(image)
    }

    fn image_name(&self) -> String {
        match self.container.and_then(|name| Some((name, self.definition.image(name)?))) {
            Some((name, image)) => format!("image `{image}` of container `{name}`"),
            None => match quoted_image(self.text) {
                Some(image) => format!("image `{image}`"),
                None => "the image".to_owned(),
            },
        }
    }

    /// A message about either secrets or the registry.
    fn secrets_or_image(&self) -> Cause {
        if self.has(&DENIED) {
            let sentence = format!("no permission to read the secrets or pull the image{}", self.denied());
            return self.about(CauseKind::RoleDenied, sentence).help(
                "allow the execution role secretsmanager:GetSecretValue, ssm:GetParameters, kms:Decrypt \
                 and ECR's actions for pulling",
            );
        }
        if self.has(&UNREACHABLE) {
            let sentence = "the task cannot reach the services that hold its secrets and images";
            return self.about(CauseKind::Network, sentence).help(format!(
                "{SUBNET_NEEDS} secretsmanager, ssm, ecr.api, ecr.dkr, logs and s3; a public one needs \
                 `assign-public-ip`"
            ));
        }
        self.other("cannot fetch the secrets or the image")
    }

    fn logs(&self) -> Cause {
        let group = self.definition.log_group(self.container);
        let group = group.map_or_else(|| "the log group".to_owned(), |group| format!("log group `{group}`"));
        if self.has(&["resourcenotfound", "log group does not exist"]) {
            return self.about(CauseKind::LogGroupMissing, format!("{group} does not exist")).help(
                "create it first, or set `awslogs-create-group` to `true` and allow the execution role \
                 logs:CreateLogGroup",
            );
        }
        if self.has(&DENIED) {
            let sentence = format!("no permission to write to {group}{}", self.denied());
            return self.about(CauseKind::RoleDenied, sentence).help(
                "allow the execution role logs:CreateLogStream and logs:PutLogEvents, with \
                 `awslogs-create-group` also logs:CreateLogGroup",
            );
        }
        if self.has(&UNREACHABLE) {
            let sentence = format!("the task cannot reach CloudWatch Logs for {group}");
            return self
                .about(CauseKind::Network, sentence)
                .help(format!("{SUBNET_NEEDS} logs; a public one needs `assign-public-ip`"));
        }
        self.other("cannot set up the container's logging")
    }

    fn start(&self) -> Cause {
        if self.has(&["exec format error"]) {
            return wrong_architecture(self.container, self.definition, true);
        }
        if self.has(&["no space left on device"]) {
            return self.volume();
        }
        if self.has(&["port is already allocated", "address already in use"]) {
            return port_in_use(self.container.unwrap_or("?"), self.text);
        }
        let missing =
            ["no such file or directory", "not found in $path", "permission denied", "is a directory"];
        if self.has(&["exec: ", "exec user process"]) && self.has(&missing) {
            return no_command(self.container, self.text, self.definition);
        }
        let subject =
            self.container.map_or_else(|| "a container".to_owned(), |name| format!("container `{name}`"));
        self.other(&format!("{subject} cannot be started"))
    }

    fn volume(&self) -> Cause {
        if self.has(&["no space left on device"]) {
            return self.about(CauseKind::Disk, format!("the disk is full: {}", excerpt(self.text))).help(
                "on Fargate give the task more `ephemeralStorage`; on EC2 remove old images from the \
                 instance, or use a larger disk",
            );
        }
        let sentence = format!("a volume cannot be mounted: {}", excerpt(self.text));
        if self.has(&DENIED) {
            return self.about(CauseKind::RoleDenied, sentence).help(
                "allow the task role elasticfilesystem:ClientMount and elasticfilesystem:ClientWrite on \
                 the file system",
            );
        }
        let network = self.has(&["timeout", "timed out", "failed to resolve", "connection refused"]);
        self.about(if network { CauseKind::Network } else { CauseKind::Disk }, sentence).help(if network {
            "the file system needs a mount target in the task's zone whose security group allows the \
             task on port 2049"
        } else {
            "the volume's root directory must exist in the file system"
        })
    }

    fn role(&self) -> Cause {
        let role = between(self.text, "role '", &['\''])
            .map_or_else(|| "a role".to_owned(), |role| format!("role `{role}`"));
        self.about(CauseKind::RoleDenied, format!("ECS cannot assume {role}")).help(
            "the role must exist, and its trust policy must allow `ecs-tasks.amazonaws.com` to assume it \
             (roles for load balancers: `ecs.amazonaws.com`)",
        )
    }

    fn network_interface(&self) -> Cause {
        let subnet = between(self.text, "subnet '", &['\'']).filter(|subnet| !subnet.is_empty());
        let subnet =
            subnet.map_or_else(|| "the task's subnet".to_owned(), |subnet| format!("subnet `{subnet}`"));
        if self.has(&["insufficientfreeaddresses", "free addresses"]) {
            return self
                .about(CauseKind::Network, format!("{subnet} has no free IP address for the task"))
                .help(
                    "add subnets with free addresses to the service's network configuration, or free some",
                );
        }
        let sentence = format!("the task got no network interface: {}", excerpt(self.text));
        self.about(CauseKind::Network, sentence).help(
            "ECS retries; if it keeps failing, check the subnet's free addresses, the limit of network \
             interfaces and tag policies",
        )
    }
}

/// The image in a message that names no container's image.
fn quoted_image(message: &str) -> Option<&str> {
    let ends = [' ', '"', '\'', ','];
    ["cannot pull ", "resolve ref ", "resolve reference ", "manifest for ", "access denied for "]
        .iter()
        .find_map(|start| {
            let (_, rest) = message.split_once(start)?;
            let rest = rest.trim_start_matches(['"', '\'', '\\']);
            Some(rest[..rest.find(ends).unwrap_or(rest.len())].trim_end_matches([':', '\\']))
        })
        .filter(|image| image.contains(['/', ':']))
}
