//! The tables of the pipeline language. `docs/pipeline.md` explains them to users.

use crate::language::keys::{Key, KeyKind, Table};

const TEXTS: KeyKind = KeyKind::OneOrMore(&KeyKind::Text);
const TEXT_MAP: KeyKind = KeyKind::Map("NAME", &KeyKind::Text);
const VARIABLES: KeyKind = KeyKind::Map("NAME", &KeyKind::Text);
const WHEN: KeyKind = KeyKind::Choice(&["success", "failure", "always"]);
const IMAGES: KeyKind = KeyKind::OneOrMore(&KeyKind::Image);
static ONE_STEP: KeyKind = KeyKind::Table(&STEP);
const VOLUMES: KeyKind = KeyKind::OneOrMore(&KeyKind::Text);

pub(crate) static PIPELINE: Table = Table {
    name: "pipeline",
    what: "a pipeline",
    title: "Top level",
    about: "A pipeline: its images, its phases and its notifications.",
    one_of: &[],
    keys: &[
        Key::new("version", KeyKind::Version, "The version of the language.").required().example("1"),
        Key::new("name", KeyKind::Plain, "The pipeline's name in logs and notifications.")
            .required()
            .example("webapp"),
        Key::new(
            "aws",
            KeyKind::Table(&AWS),
            "The account and region of runner's own AWS calls (steps, secrets). Default: those of the build.",
        ),
        Key::new("env", KeyKind::Table(&ENV), "Environment and secrets of all steps."),
        Key::new(
            "images",
            KeyKind::Map("NAME", &KeyKind::Table(&IMAGE)),
            "Docker images by the name that steps use. The image that is tested is the one that is pushed and deployed.",
        ),
        Key::new(
            "phases",
            KeyKind::Table(&PHASES),
            "The phases of CodeBuild. They run in the order `install`, `pre_build`, `build`, `post_build`.",
        )
        .required(),
        Key::new(
            "notify",
            KeyKind::List(&KeyKind::Table(&NOTIFY)),
            "Receivers of notifications about the run. A notification that cannot be delivered is only a warning.",
        ),
        Key::new("timeout", KeyKind::Duration, "Time limit of the whole run. Then `finally` has one minute.")
            .example("45m"),
    ],
};

pub(crate) static AWS: Table = Table {
    name: "aws",
    what: "`aws`",
    title: "aws",
    about: "The account and region of AWS calls. A step's `aws` overrides the pipeline's key by key. A `run` step with its own `aws` gets the role's credentials in its environment.",
    one_of: &[],
    keys: &[
        Key::new("region", KeyKind::Text, "The region. Default: that of the environment or the profile.")
            .example("eu-central-1"),
        Key::new("role-arn", KeyKind::Text, "A role to assume for these calls, in this or another account.")
            .example("arn:aws:iam::210987654321:role/deploy"),
        Key::new(
            "external-id",
            KeyKind::Text,
            "The external id that the role's trust policy requires. Needs `role-arn`.",
        )
        .example("webapp"),
    ],
};

pub(crate) static ENV: Table = Table {
    name: "env",
    what: "`env`",
    title: "env",
    about: "Environment variables of all steps. In CodeBuild the values of start-build and the project override the file. On a laptop `--env-file` comes first, then the file, then the shell's environment.",
    one_of: &[],
    keys: &[
        Key::new("shell", KeyKind::Choice(&["bash", "sh"]), "The shell of `run` scripts.").default("bash"),
        Key::new("variables", VARIABLES, "Plain variables. A value may refer to built-ins, the environment and earlier variables.").example("{ NODE_ENV: production }"),
        Key::new("parameter-store", VARIABLES, "Secrets from the Systems Manager Parameter Store: a parameter's name or ARN.").example("{ NPM_TOKEN: /webapp/npm-token }"),
        Key::new("secrets-manager", VARIABLES, "Secrets from AWS Secrets Manager: `id[:json-key[:stage[:version-id]]]`, with a name or an ARN as the id. Stage and version exclude each other.").example("{ SLACK_URL: \"webapp/slack:url\" }"),
        Key::new("exported-variables", KeyKind::OneOrMore(&KeyKind::Variable), "Variables to write to `.runner/exports.sh`. A buildspec sources it to export them to CodePipeline. Secrets are refused.").example("[IMAGE_URI]"),
    ],
};

pub(crate) static IMAGE: Table = Table {
    name: "image",
    what: "an image",
    title: "images.NAME",
    about: "A Docker image: how it is built and where it is pushed.",
    one_of: &[],
    keys: &[
        Key::new("repository", KeyKind::Text, "A repository in ECR, in the account and region of the credentials, or `registry/path` for any registry.").required().example("webapp"),
        Key::new("context", KeyKind::Text, "The directory that `COPY` reads from. Or a git repository (`https://….git#REF:DIR`, `git@…`) or an archive on the web: the engine fetches it and builds its Dockerfile.").default("."),
        Key::new("dockerfile", KeyKind::Text, "The Dockerfile, relative to the pipeline file's directory or, if it is not there, to the context.").default("Dockerfile"),
        Key::new("target", KeyKind::Text, "The stage to build. Default: the last one.").example("runtime"),
        Key::new("args", TEXT_MAP, "Build arguments. They stay in the image's history, so secrets are refused.").example("{ VERSION: \"${source.commit}\" }"),
        Key::new("labels", TEXT_MAP, "Labels of the image. `org.opencontainers.image.revision`, `.source` and `.created` (the commit's time) are set unless they are given here.").example("{ org.opencontainers.image.title: webapp }"),
        Key::new("secrets", KeyKind::OneOrMore(&KeyKind::Variable), "Variables from `env` that the build gets as secrets, for `RUN --mount=type=secret,id=NAME`. They are neither in the image nor in its history.").example("[NPM_TOKEN]"),
        Key::new("ssh", KeyKind::OneOrMore(&KeyKind::Text), "For `RUN --mount=type=ssh`: `default` or another `ID` for the agent of the environment, `ID=PATH` for a key file or an agent's socket.").example("[default]"),
        Key::new("contexts", TEXT_MAP, "Additional contexts by name, for `COPY --from=NAME` and `FROM NAME`: a directory, an image as `docker-image://…`, or a git or https URL.").example("{ docs: ../docs }"),
        Key::new("network", KeyKind::Choice(&["default", "none", "host"]), "The network of `RUN`.").default("default"),
        Key::new("extra-hosts", KeyKind::Map("HOST", &KeyKind::Text), "Additional lines of `/etc/hosts` for `RUN`: host and address.").example("{ db.internal: 10.0.0.5 }"),
        Key::new("platforms", KeyKind::OneOrMore(&KeyKind::Plain), "Platforms to build for, as `os/arch[/variant]`. Default: the engine's own.").example("[linux/amd64, linux/arm64]"),
        Key::new("tags", TEXTS, "Tags to push. At least one must be unique to the commit. Otherwise lifecycle rules could delete an image that is in use.").default("[\"${source.commit}\"]").example("[\"${source.commit}\", latest]"),
        Key::new("depends-on", IMAGES, "Images that are built before this one. Its Dockerfile may name them in `FROM`.").example("[base]"),
        Key::new("cache", KeyKind::Table(&CACHE), "Build cache outside of the engine."),
        Key::new("compression", KeyKind::Choice(&["gzip", "zstd"]), "Compression of pushed layers. Docker Engine reads zstd since version 23.").default("gzip"),
        Key::new("create", KeyKind::Either(&[KeyKind::Boolean, KeyKind::Table(&CREATE)]), "Create the ECR repository if it does not exist.").default("false"),
        Key::new("scan", KeyKind::Table(&SCAN), "Wait for ECR's scan and fail on its findings."),
        Key::new("skip-unchanged", KeyKind::Boolean, "Skip build, test and push if the repository already has an image of the same sources.").default("false"),
    ],
};

pub(crate) static CACHE: Table = Table {
    name: "cache",
    what: "`cache`",
    title: "images.NAME.cache",
    about: "The build cache.",
    one_of: &[],
    keys: &[
        Key::new("from", TEXTS, "Images with an inline cache, and caches in registries, that the build may use.")
            .example("[\"123456789012.dkr.ecr.eu-central-1.amazonaws.com/webapp:latest\"]"),
        Key::new(
            "to",
            KeyKind::Choice(&["none", "inline", "registry"]),
            "Where to write the cache and, without `from`, to read it: `inline` in the image, `registry` under the tag `buildcache` of its repository (`inline` if the engine lacks containerd's image store).",
        )
        .default("none"),
    ],
};

pub(crate) static CREATE: Table = Table {
    name: "create",
    what: "`create`",
    title: "images.NAME.create",
    about: "Settings of the repository that is created.",
    one_of: &[],
    keys: &[
        Key::new("scan-on-push", KeyKind::Boolean, "Scan images when they are pushed.").default("false"),
        Key::new("immutable", KeyKind::Boolean, "Make tags immutable.").default("false"),
        Key::new(
            "lifecycle-policy",
            KeyKind::Either(&[KeyKind::Text, KeyKind::Document]),
            "ECR's lifecycle policy: a JSON file, or the policy itself.",
        )
        .example("lifecycle.json"),
    ],
};

pub(crate) static SCAN: Table = Table {
    name: "scan",
    what: "`scan`",
    title: "images.NAME.scan",
    about: "Fails the push on findings of ECR's scan.",
    one_of: &[],
    keys: &[
        Key::new(
            "fail-on",
            KeyKind::Choice(&["low", "medium", "high", "critical"]),
            "The lowest severity that fails the push.",
        )
        .default("high"),
        Key::new("wait", KeyKind::Duration, "How long to wait for the findings.").default("5m"),
        Key::new("ignore", KeyKind::OneOrMore(&KeyKind::Plain), "Findings to ignore, by id.")
            .example("[CVE-2024-1234]"),
    ],
};

pub(crate) static PHASES: Table = Table {
    name: "phases",
    what: "`phases`",
    title: "phases",
    about: "The phases, in the order in which they run. After a failed phase only phases with a matching `when` run.",
    one_of: &[],
    keys: &[
        Key::new("install", KeyKind::Table(&PHASE), "Installs the tools of the build."),
        Key::new("pre_build", KeyKind::Table(&PHASE), "Runs before the build: checks, logins."),
        Key::new("build", KeyKind::Table(&PHASE), "Builds, tests and pushes."),
        Key::new(
            "post_build",
            KeyKind::Table(&PHASE),
            "Deploys. Unlike in a buildspec it does not run after a failed build, unless `when` allows it.",
        ),
    ],
};

pub(crate) static PHASE: Table = Table {
    name: "phase",
    what: "a phase",
    title: "phases.PHASE",
    about: "A phase: steps that run one after the other.",
    one_of: &[],
    keys: &[
        Key::new("steps", KeyKind::List(&ONE_STEP), "The steps. After a failure only steps with a matching `when` run.").example("[{ run: npm test }]"),
        Key::new("finally", KeyKind::List(&ONE_STEP), "Steps that run at the end of the phase if it has started, also after a failure or a stop. All of them run.").example("[{ run: ./cleanup.sh }]"),
        Key::new("when", WHEN, "`success`: only if nothing has failed; `failure`: only after a failure; `always`: in both cases.").default("success"),
        Key::new("timeout", KeyKind::Duration, "Time limit of the phase's steps together.").example("20m"),
    ],
};

pub(crate) static STEP: Table = Table {
    name: "step",
    what: "a step",
    title: "Steps",
    about: "A step has exactly one kind, such as `run` or `build`. All other keys are optional. Some of them need `test`.",
    one_of: &[KINDS],
    keys: &[
        Key::new("run", KeyKind::OneOrMore(&KeyKind::Plain), "Runs a command. A text is a script for the shell, with `-e` and, in bash, `pipefail`. A list is a program and its arguments. `${…}` is not resolved; scripts read environment variables.").example("npm ci"),
        Key::new("build", IMAGES, "Builds an image, or a list of them.").example("app"),
        Key::new("test", KeyKind::Image, "Runs a container of the image that was built. The step fails if its exit code is not 0.").example("app"),
        Key::new("push", IMAGES, "Pushes an image, or a list of them, with all their tags.").example("[app, worker]"),
        Key::new("image-definitions", KeyKind::Map("CONTAINER", &KeyKind::Image), "Writes `imagedefinitions.json` for CodePipeline's ECS action, and `imageDetail.json` (the first image) for its CodeDeploy action.").example("{ web: app }"),
        Key::new("task-definition", KeyKind::Table(&TASK_DEFINITION), "Registers a new revision of an ECS task definition."),
        Key::new("run-task", KeyKind::Table(&RUN_TASK), "Runs a task once and waits for its end, for example a migration."),
        Key::new("deploy", KeyKind::Table(&DEPLOY), "Updates ECS services to the registered task definition."),
        Key::new("parallel", KeyKind::List(&ONE_STEP), "Steps that run in parallel. The first failure stops the others."),
        Key::new("name", KeyKind::Text, "The step's name in the log.").example("Unit tests"),
        Key::new("when", WHEN, "When the step runs. Default: the phase's `when`."),
        Key::new("only", KeyKind::Table(&FILTER), "Run the step only in builds that match."),
        Key::new("except", KeyKind::Table(&FILTER), "Skip the step in builds that match."),
        Key::new("retry", KeyKind::Either(&[KeyKind::Integer(0, 100), KeyKind::Table(&RETRY)]), "Retries after a failed attempt.").default("0").example("2"),
        Key::new("timeout", KeyKind::Duration, "Time limit of one attempt.").example("10m"),
        Key::new("env", VARIABLES, "Variables of this step only. For `test` those of the container.").example("{ CI: \"true\" }"),
        Key::new("dir", KeyKind::Text, "The working directory of `run`.").default(".").example("web"),
        Key::new("aws", KeyKind::Table(&AWS), "The account and region of this step."),
        Key::new("command", TEXTS, "`test`: the arguments. Default: the image's own.").example("[npm, test]"),
        Key::new("entrypoint", TEXTS, "`test`: the program. Default: the image's own.").example("[/bin/sh, -c]"),
        Key::new("secrets", KeyKind::OneOrMore(&KeyKind::Variable), "`test`: variables from `env` that the container gets, masked in its output.").example("[NPM_TOKEN]"),
        Key::new("user", KeyKind::Text, "`test`: user or `uid:gid` in the container.").example("\"1000:1000\""),
        Key::new("workdir", KeyKind::Text, "`test`: working directory in the container.").example("/app"),
        Key::new("memory", KeyKind::Size, "`test`: the container's memory.").example("512m"),
        Key::new("volumes", VOLUMES, "`test`: files for the container, as `PATH:CONTAINER-PATH`. They are copied, or bind-mounted with `:bind` at the end.").example("[\"./testdata:/data\"]"),
        Key::new("services", KeyKind::Map("NAME", &KeyKind::Table(&SERVICE)), "`test`: containers that run during the test, reachable by their names."),
        Key::new("copy-out", KeyKind::Map("CONTAINER-PATH", &KeyKind::Text), "`test`: files to copy out of the container after the test, even if it failed.").example("{ /app/coverage: coverage }"),
        Key::new("reports", KeyKind::Table(&REPORTS), "`test`: reports to read from the container."),
    ],
};

/// The keys for the kind of a step.
pub(crate) const KINDS: &[&str] = &[
    "run",
    "build",
    "test",
    "push",
    "image-definitions",
    "task-definition",
    "run-task",
    "deploy",
    "parallel",
];

/// The keys of a step that belong to `test`.
pub(crate) const TEST: &[&str] = &[
    "command",
    "entrypoint",
    "secrets",
    "user",
    "workdir",
    "memory",
    "volumes",
    "services",
    "copy-out",
    "reports",
];

pub(crate) static FILTER: Table = Table {
    name: "filter",
    what: "a filter",
    title: "only, except",
    about: "Selects builds. A build matches if its branch or its tag matches (if `branches` or `tags` is given) and its event matches (if `events` is given). In patterns `*` matches any text without `/`, `**` any text, `?` one character except `/`. For pull requests `branches` is the base branch.",
    one_of: &[],
    keys: &[
        Key::new("branches", KeyKind::OneOrMore(&KeyKind::Glob), "Patterns for branches.")
            .example("[main, \"release/*\"]"),
        Key::new("tags", KeyKind::OneOrMore(&KeyKind::Glob), "Patterns for git tags.").example("[\"v*\"]"),
        Key::new(
            "events",
            KeyKind::OneOrMore(&KeyKind::Choice(&[
                "push",
                "pull-request",
                "pull-request-merged",
                "tag",
                "manual",
            ])),
            "The event that started the build.",
        )
        .example("[push, manual]"),
    ],
};

pub(crate) static RETRY: Table = Table {
    name: "retry",
    what: "`retry`",
    title: "retry",
    about: "Retries of a step.",
    one_of: &[],
    keys: &[
        Key::new("attempts", KeyKind::Integer(0, 100), "The number of retries.").required().example("2"),
        Key::new("delay", KeyKind::Duration, "The delay before the first retry.").default("1s"),
        Key::new("backoff", KeyKind::Integer(1, 10), "The factor from each delay to the next.").default("2"),
    ],
};

/// `services.NAME` of a test.
pub(crate) static SERVICE: Table = Table {
    name: "service",
    what: "a service",
    title: "services.NAME",
    about: "A container that runs during the test.",
    one_of: &[],
    keys: &[
        Key::new(
            "image",
            KeyKind::Text,
            "The image: one of a registry, or the name of an image of the pipeline.",
        )
        .required()
        .example("\"postgres:16\""),
        Key::new("command", TEXTS, "The arguments. Default: the image's own."),
        Key::new("env", VARIABLES, "The container's variables.").example("{ POSTGRES_PASSWORD: x }"),
        Key::new("volumes", VOLUMES, "Files for the container, as for the test."),
        Key::new(
            "ready",
            KeyKind::Table(&READY),
            "How to check that the service is ready. Default: it has started.",
        )
        .example("{ port: 5432 }"),
    ],
};

pub(crate) static READY: Table = Table {
    name: "ready",
    what: "`ready`",
    title: "services.NAME.ready",
    about: "How to check that a service is ready. Exactly one check.",
    one_of: &[&["healthcheck", "port", "http", "log", "command"]],
    keys: &[
        Key::new("healthcheck", KeyKind::Boolean, "`true`: the image's own health check passes.")
            .example("true"),
        Key::new("port", KeyKind::Integer(1, 65535), "A TCP port that accepts connections.").example("5432"),
        Key::new("http", KeyKind::Text, "A port and a path that respond with a status below 400.")
            .example("\":8080/health\""),
        Key::new("log", KeyKind::Text, "A text that its output contains.")
            .example("ready to accept connections"),
        Key::new("command", TEXTS, "A command in the container that exits with 0.").example("[pg_isready]"),
        Key::new("timeout", KeyKind::Duration, "Time limit of the check.").default("1m"),
    ],
};

/// `reports` of a test.
pub(crate) static REPORTS: Table = Table {
    name: "reports",
    what: "`reports`",
    title: "reports",
    about: "Reports that a test writes.",
    one_of: &[],
    keys: &[Key::new("junit", TEXTS, "JUnit XML files in the container; `*` is allowed.")
        .example("\"/app/reports/*.xml\"")],
};

pub(crate) static TASK_DEFINITION: Table = Table {
    name: "task-definition",
    what: "`task-definition`",
    title: "task-definition",
    about: "A new revision of a task definition. It starts from one base and changes only what is given here.",
    one_of: &[&["family", "file", "service"]],
    keys: &[
        Key::new("family", KeyKind::Text, "Base: the latest revision of this family.").example("webapp"),
        Key::new("file", KeyKind::Text, "Base: a JSON or YAML file, in any form that the AWS tools write.")
            .example("taskdef.json"),
        Key::new("service", KeyKind::Table(&BASE_SERVICE), "Base: the current revision of a service."),
        Key::new("containers", KeyKind::Map("CONTAINER", &KeyKind::Table(&CONTAINER)), "Changes by container.")
            .example("{ web: { image: app } }"),
        Key::new("task-role", KeyKind::Text, "The task role, as ARN or name."),
        Key::new(
            "execution-role",
            KeyKind::Text,
            "The execution role, which pulls images and reads secrets, as ARN or name.",
        ),
        Key::new("cpu", KeyKind::Text, "The task's CPU.").example("256"),
        Key::new("memory", KeyKind::Text, "The task's memory.").example("512"),
        Key::new("tags", TEXT_MAP, "Tags of the revision.").example("{ team: web }"),
        Key::new("force", KeyKind::Boolean, "Register a revision even if nothing differs.").default("false"),
        Key::new(
            "code-pipeline",
            KeyKind::Table(&CODE_PIPELINE),
            "Write `taskdef.json` and `appspec.yaml` for CodePipeline's CodeDeploy action. That action registers the revision; this step does not.",
        )
        .example("{ container: web, port: 8080 }"),
    ],
};

pub(crate) static CODE_PIPELINE: Table = Table {
    name: "code-pipeline",
    what: "`code-pipeline`",
    title: "task-definition.code-pipeline",
    about: "The files of CodePipeline's action \"Amazon ECS (Blue/Green)\": `taskdef.json`, with `<IMAGE1_NAME>` as the image of one container, and `appspec.yaml`. `imageDetail.json` names that image.",
    one_of: &[],
    keys: &[
        Key::new("container", KeyKind::Plain, "The container behind the load balancer. It gets the image.")
            .required()
            .example("web"),
        Key::new("port", KeyKind::Integer(1, 65535), "Its port.").required().example("8080"),
    ],
};

pub(crate) static BASE_SERVICE: Table = Table {
    name: "base-service",
    what: "`service`",
    title: "task-definition.service",
    about: "The service whose task definition is the base.",
    one_of: &[],
    keys: &[
        Key::new("cluster", KeyKind::Text, "The service's cluster.").required().example("prod"),
        Key::new("name", KeyKind::Text, "The service's name.").required().example("webapp"),
    ],
};

pub(crate) static CONTAINER: Table = Table {
    name: "container",
    what: "a container",
    title: "task-definition.containers.CONTAINER",
    about: "Changes to one container.",
    one_of: &[],
    keys: &[
        Key::new("image", KeyKind::Image, "The container's new image, by digest.").example("app"),
        Key::new("environment", TEXT_MAP, "Variables to set or replace. The others stay.")
            .example("{ VERSION: \"${source.commit}\" }"),
        Key::new(
            "replace-environment",
            KeyKind::Boolean,
            "Remove the variables that are not in `environment`.",
        )
        .default("false"),
        Key::new("secrets", TEXT_MAP, "Secrets that ECS injects: variable and ARN (or parameter name).")
            .example("{ DB_PASSWORD: /webapp/db-password }"),
        Key::new("command", TEXTS, "The container's arguments."),
        Key::new("cpu", KeyKind::Text, "CPU units of the container.").example("128"),
        Key::new("memory", KeyKind::Text, "The container's hard limit in MiB.").example("256"),
        Key::new("log-options", TEXT_MAP, "Options of the log driver.")
            .example("{ awslogs-stream-prefix: web }"),
        Key::new("labels", TEXT_MAP, "Docker labels."),
    ],
};

pub(crate) static RUN_TASK: Table = Table {
    name: "run-task",
    what: "`run-task`",
    title: "run-task",
    about: "Runs a task once. Its network and launch type are copied from `service`, or given by `network` and `launch-type`.",
    one_of: &[&["service", "network"]],
    keys: &[
        Key::new("cluster", KeyKind::Text, "The cluster.").required().example("prod"),
        Key::new("service", KeyKind::Text, "A service whose network, launch type and platform are copied.")
            .example("webapp"),
        Key::new("network", KeyKind::Table(&NETWORK), "The task's network. Needs `launch-type`."),
        Key::new(
            "launch-type",
            KeyKind::Choice(&["FARGATE", "EC2", "EXTERNAL"]),
            "The launch type. Needed with `network`.",
        ),
        Key::new("task-definition", KeyKind::Text, "The family. Needed if the build registers several."),
        Key::new(
            "container",
            KeyKind::Plain,
            "The container whose command is replaced and whose exit code is the result.",
        )
        .example("web"),
        Key::new("command", TEXTS, "The container's arguments for this run.").example("[./migrate]"),
        Key::new("environment", TEXT_MAP, "Variables of the container for this run."),
        Key::new("wait", KeyKind::Duration, "Time limit of the task.").default("15m"),
    ],
};

pub(crate) static NETWORK: Table = Table {
    name: "network",
    what: "`network`",
    title: "run-task.network",
    about: "The network of a task.",
    one_of: &[],
    keys: &[
        Key::new("subnets", TEXTS, "Subnet ids.").required().example("[subnet-0a1b2c3d]"),
        Key::new("security-groups", TEXTS, "Security group ids.").example("[sg-0a1b2c3d]"),
        Key::new("assign-public-ip", KeyKind::Boolean, "Give the task a public address.").default("false"),
    ],
};

pub(crate) static DEPLOY: Table = Table {
    name: "deploy",
    what: "`deploy`",
    title: "deploy",
    about: "Updates services to the revision that this build registered.",
    one_of: &[&["service", "services"]],
    keys: &[
        Key::new("cluster", KeyKind::Text, "The services' cluster.").required().example("prod"),
        Key::new("service", KeyKind::Text, "The service.").example("webapp"),
        Key::new("services", TEXTS, "Several services.").example("[web, worker]"),
        Key::new("task-definition", KeyKind::Text, "The family. Needed if the build registers several.")
            .example("webapp"),
        Key::new("wait", KeyKind::Duration, "Time limit of the deployment, and again of a rollback. If it is not given, the time in which the service shifts traffic is added to the default.").default("15m"),
        Key::new(
            "wait-includes-pauses",
            KeyKind::Boolean,
            "Whether the time in which a lifecycle hook pauses the deployment counts against `wait`.",
        )
        .default("false"),
        Key::new(
            "on-failure",
            KeyKind::Choice(&["rollback", "leave"]),
            "What to do if a deployment fails or takes too long: roll the services back to the last successful revision, or leave them as they are.",
        )
        .default("rollback"),
        Key::new(
            "keep-revisions",
            KeyKind::Integer(1, 1000),
            "How many revisions to keep. Older ones are deregistered after the deployment, except those that a service, a task, a rollback or a schedule may still use.",
        )
        .example("10"),
        Key::new(
            "schedules",
            KeyKind::Boolean,
            "After the deployment, update the family's scheduled tasks (EventBridge rules and Scheduler schedules) to the new revision.",
        )
        .default("false"),
        Key::new("code-deploy", KeyKind::Table(&CODE_DEPLOY), "Deploy one service through CodeDeploy, which must be its deployment controller.")
            .example("{ application: webapp, group: webapp-prod }"),
        Key::new("force", KeyKind::Boolean, "Deploy even if nothing differs.").default("false"),
    ],
};

pub(crate) static CODE_DEPLOY: Table = Table {
    name: "code-deploy",
    what: "`code-deploy`",
    title: "deploy.code-deploy",
    about: "The application and the deployment group in CodeDeploy.",
    one_of: &[],
    keys: &[
        Key::new("application", KeyKind::Text, "The application.").required().example("webapp"),
        Key::new("group", KeyKind::Text, "The deployment group.").required().example("webapp-prod"),
    ],
};

pub(crate) static NOTIFY: Table = Table {
    name: "notify",
    what: "a notification",
    title: "notify",
    about: "A receiver of notifications.",
    one_of: &[&["slack", "webhook", "sns"]],
    keys: &[
        Key::new("slack", KeyKind::Text, "The address of a Slack incoming webhook.")
            .example("\"${SLACK_URL}\""),
        Key::new("webhook", KeyKind::Table(&WEBHOOK), "Any HTTP endpoint that takes JSON."),
        Key::new("sns", KeyKind::Text, "The ARN of an SNS topic.")
            .example("arn:aws:sns:eu-central-1:123456789012:builds")
            .later(),
        Key::new(
            "on",
            KeyKind::OneOrMore(&KeyKind::Choice(&[
                "started",
                "phase-failed",
                "succeeded",
                "failed",
                "stopped",
            ])),
            "The events to notify about. Default: all.",
        )
        .example("[failed, stopped]"),
        Key::new("only", KeyKind::Table(&FILTER), "Notify only about builds that match."),
    ],
};

pub(crate) static WEBHOOK: Table = Table {
    name: "webhook",
    what: "`webhook`",
    title: "notify.webhook",
    about: "An HTTP endpoint. It receives JSON with `version`, `event`, `pipeline`, `build`, `mode`, `source` and `text`, and on failures `reason`, with `phase` or `exit`.",
    one_of: &[],
    keys: &[
        Key::new("url", KeyKind::Text, "The address to POST to.")
            .required()
            .example("https://example.com/hook"),
        Key::new("headers", TEXT_MAP, "Additional headers. Their values are masked.")
            .example("{ Authorization: \"Bearer ${TOKEN}\" }"),
        Key::new("secret", KeyKind::Text, "A key that signs the body.").example("\"${WEBHOOK_KEY}\"").later(),
    ],
};
