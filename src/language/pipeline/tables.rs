//! The tables of the language (`docs/pipeline.md` explains them to users).

use crate::language::keys::{Key, Kind, Table};

const TEXTS: Kind = Kind::OneOrMore(&Kind::Text);
const TEXT_MAP: Kind = Kind::Map("NAME", &Kind::Text);
const VARIABLES: Kind = Kind::Map("NAME", &Kind::Text);
const WHEN: Kind = Kind::Choice(&["success", "failure", "always"]);
const IMAGES: Kind = Kind::OneOrMore(&Kind::Image);
static ONE_STEP: Kind = Kind::Table(&STEP);
const VOLUMES: Kind = Kind::OneOrMore(&Kind::Text);

pub(crate) static PIPELINE: Table = Table {
    name: "pipeline",
    what: "a pipeline",
    title: "Top level",
    about: "A pipeline: what is built, in which phases, and who is told.",
    one_of: &[],
    keys: &[
        Key::new("version", Kind::Version, "The version of the language.").required().example("1"),
        Key::new("name", Kind::Plain, "The pipeline's name in logs and notifications.")
            .required()
            .example("webapp"),
        Key::new(
            "aws",
            Kind::Table(&AWS),
            "Where runner's own AWS calls go (steps, secrets), where that is not the build's own account and region.",
        ),
        Key::new("env", Kind::Table(&ENV), "Environment and secrets of all steps."),
        Key::new(
            "images",
            Kind::Map("NAME", &Kind::Table(&IMAGE)),
            "Docker images by the name that steps use. What is tested is what is pushed and deployed.",
        ),
        Key::new(
            "phases",
            Kind::Table(&PHASES),
            "The phases of CodeBuild. They run in the order `install`, `pre_build`, `build`, `post_build`.",
        )
        .required(),
        Key::new(
            "notify",
            Kind::List(&Kind::Table(&NOTIFY)),
            "Who is told about the run. A notification that cannot be delivered is a warning.",
        ),
        Key::new("timeout", Kind::Duration, "How long the whole run may take. `finally` then has a minute.")
            .example("45m"),
    ],
};

pub(crate) static AWS: Table = Table {
    name: "aws",
    what: "`aws`",
    title: "aws",
    about: "Which account and region AWS calls go to. On a step it wins over the pipeline's, which gives what the step does not say; a `run` step with an `aws` of its own gets the role's credentials in its environment.",
    one_of: &[],
    keys: &[
        Key::new(
            "region",
            Kind::Text,
            "The region. Where it is absent: that of the environment or the profile.",
        )
        .example("eu-central-1"),
        Key::new("role-arn", Kind::Text, "A role to assume for these calls, in this or another account.")
            .example("arn:aws:iam::210987654321:role/deploy"),
        Key::new(
            "external-id",
            Kind::Text,
            "The external id that the role's trust policy asks for. Needs `role-arn`.",
        )
        .example("webapp"),
    ],
};

pub(crate) static ENV: Table = Table {
    name: "env",
    what: "`env`",
    title: "env",
    about: "Environment variables of all steps. In CodeBuild what start-build and the project set wins over the file; on a laptop `--env-file` wins, then the file, then the shell's environment.",
    one_of: &[],
    keys: &[
        Key::new("shell", Kind::Choice(&["bash", "sh"]), "The shell of `run` scripts.").default("bash"),
        Key::new("variables", VARIABLES, "Plain variables. A value may use built-ins, the environment, and variables that stand before it.").example("{ NODE_ENV: production }"),
        Key::new("parameter-store", VARIABLES, "Secrets from the Systems Manager Parameter Store: a parameter's name or ARN.").example("{ NPM_TOKEN: /webapp/npm-token }"),
        Key::new("secrets-manager", VARIABLES, "Secrets from AWS Secrets Manager: `id[:json-key[:stage[:version-id]]]`, where the id is a name or an ARN. Stage and version exclude each other.").example("{ SLACK_URL: \"webapp/slack:url\" }"),
        Key::new("exported-variables", Kind::OneOrMore(&Kind::Variable), "Variables that are written to `.runner/exports.sh`, which a buildspec can source to export them to CodePipeline. Never secrets.").example("[IMAGE_URI]"),
    ],
};

pub(crate) static IMAGE: Table = Table {
    name: "image",
    what: "an image",
    title: "images.NAME",
    about: "A Docker image: how it is built and where it goes.",
    one_of: &[],
    keys: &[
        Key::new("repository", Kind::Text, "A repository in ECR, in the account and region of the credentials; or `registry/path` for any registry.").required().example("webapp"),
        Key::new("context", Kind::Text, "The directory whose files `COPY` sees; or a git repository (`https://….git#REF:DIR`, `git@…`) or an archive on the web, which the engine fetches and whose Dockerfile is built.").default("."),
        Key::new("dockerfile", Kind::Text, "The Dockerfile, from the pipeline file's directory, or else in the context.").default("Dockerfile"),
        Key::new("target", Kind::Text, "The stage to build: the last one where absent.").example("runtime"),
        Key::new("args", TEXT_MAP, "Build arguments. They stay in the image's history: never secrets.").example("{ VERSION: \"${source.commit}\" }"),
        Key::new("labels", TEXT_MAP, "Labels of the image. `org.opencontainers.image.revision`, `.source` and `.created` (the commit's time) are there unless they stand here.").example("{ org.opencontainers.image.title: webapp }"),
        Key::new("secrets", Kind::OneOrMore(&Kind::Variable), "Variables from `env` that the build gets as secrets, for `RUN --mount=type=secret,id=NAME`. They come from memory and stay out of image and history.").example("[NPM_TOKEN]"),
        Key::new("ssh", Kind::OneOrMore(&Kind::Text), "For `RUN --mount=type=ssh`: `default` or another `ID` for the agent of the environment, `ID=PATH` for a key's file or an agent's socket.").example("[default]"),
        Key::new("contexts", TEXT_MAP, "Further contexts by name, for `COPY --from=NAME` and `FROM NAME`: a directory, an image as `docker-image://…`, or a git or https URL.").example("{ docs: ../docs }"),
        Key::new("network", Kind::Choice(&["default", "none", "host"]), "The network of `RUN`.").default("default"),
        Key::new("extra-hosts", Kind::Map("HOST", &Kind::Text), "Further lines of `/etc/hosts` for `RUN`: host and address.").example("{ db.internal: 10.0.0.5 }"),
        Key::new("platforms", Kind::OneOrMore(&Kind::Plain), "Platforms to build for, as `os/arch[/variant]`: the engine's own where absent.").example("[linux/amd64, linux/arm64]"),
        Key::new("tags", TEXTS, "Tags to push. At least one must be unique to the commit, or lifecycle rules could delete what runs.").default("[\"${source.commit}\"]").example("[\"${source.commit}\", latest]"),
        Key::new("depends-on", IMAGES, "Images that are built before this one, and that its Dockerfile may name in `FROM`.").example("[base]"),
        Key::new("cache", Kind::Table(&CACHE), "Build cache from and to other places than the engine."),
        Key::new("compression", Kind::Choice(&["gzip", "zstd"]), "How layers are compressed when they are pushed; engines read zstd from 23 on.").default("gzip"),
        Key::new("create", Kind::Either(&[Kind::Boolean, Kind::Table(&CREATE)]), "Create the ECR repository where it does not exist.").default("false"),
        Key::new("scan", Kind::Table(&SCAN), "Wait for ECR's scan, and fail on its findings."),
        Key::new("skip-unchanged", Kind::Boolean, "Skip build, test and push where an image of the same sources is in the repository already.").default("false"),
    ],
};

pub(crate) static CACHE: Table = Table {
    name: "cache",
    what: "`cache`",
    title: "images.NAME.cache",
    about: "The build cache.",
    one_of: &[],
    keys: &[
        Key::new("from", TEXTS, "Images whose inline cache the build may use, and caches in registries.")
            .example("[\"123456789012.dkr.ecr.eu-central-1.amazonaws.com/webapp:latest\"]"),
        Key::new(
            "to",
            Kind::Choice(&["none", "inline", "registry"]),
            "Where the cache goes: `inline` puts it into the image, `registry` beside it as the tag `buildcache`, where the engine can (it takes containerd's image store; elsewhere it goes into the image). With one of the two, and no `from`, it is read from where the build before left it.",
        )
        .default("none"),
    ],
};

pub(crate) static CREATE: Table = Table {
    name: "create",
    what: "`create`",
    title: "images.NAME.create",
    about: "Settings of a repository that is created.",
    one_of: &[],
    keys: &[
        Key::new("scan-on-push", Kind::Boolean, "Scan images when they are pushed.").default("false"),
        Key::new("immutable", Kind::Boolean, "Tags cannot be moved.").default("false"),
        Key::new(
            "lifecycle-policy",
            Kind::Either(&[Kind::Text, Kind::Document]),
            "ECR's lifecycle policy: a JSON file, or the policy itself.",
        )
        .example("lifecycle.json"),
    ],
};

pub(crate) static SCAN: Table = Table {
    name: "scan",
    what: "`scan`",
    title: "images.NAME.scan",
    about: "A gate on the findings of ECR's scan.",
    one_of: &[],
    keys: &[
        Key::new(
            "fail-on",
            Kind::Choice(&["low", "medium", "high", "critical"]),
            "The least severity that fails the push.",
        )
        .default("high"),
        Key::new("wait", Kind::Duration, "How long to wait for the findings.").default("5m"),
        Key::new("ignore", Kind::OneOrMore(&Kind::Plain), "Findings that do not count, by their id.")
            .example("[CVE-2024-1234]"),
    ],
};

pub(crate) static PHASES: Table = Table {
    name: "phases",
    what: "`phases`",
    title: "phases",
    about: "The phases, in the order in which they run. A failed phase ends the run.",
    one_of: &[],
    keys: &[
        Key::new("install", Kind::Table(&PHASE), "Tools that the build needs."),
        Key::new("pre_build", Kind::Table(&PHASE), "What comes before the build: checks, logins."),
        Key::new("build", Kind::Table(&PHASE), "Building, testing and pushing."),
        Key::new(
            "post_build",
            Kind::Table(&PHASE),
            "Deploying. Unlike in a buildspec it does not run after a failed build, unless `when` says so.",
        ),
    ],
};

pub(crate) static PHASE: Table = Table {
    name: "phase",
    what: "a phase",
    title: "phases.PHASE",
    about: "A phase: its steps, one after the other.",
    one_of: &[],
    keys: &[
        Key::new("steps", Kind::List(&ONE_STEP), "The steps. The first that fails ends them.").example("[{ run: npm test }]"),
        Key::new("finally", Kind::List(&ONE_STEP), "Steps that run once the phase has started, whatever happened; all of them run.").example("[{ run: ./cleanup.sh }]"),
        Key::new("when", WHEN, "`success`: only while nothing has failed; `failure`: only after a failure; `always`: in both cases.").default("success"),
        Key::new("timeout", Kind::Duration, "How long the phase's steps may take together.").example("20m"),
    ],
};

pub(crate) static STEP: Table = Table {
    name: "step",
    what: "a step",
    title: "Steps",
    about: "A step has exactly one kind (the first keys below), and may have the others. The keys that belong to `test` stand beside it.",
    one_of: &[KINDS],
    keys: &[
        Key::new("run", Kind::OneOrMore(&Kind::Plain), "A command on this machine. A text is one script for the shell, with `-e` and, in bash, `pipefail`. A list is a program and its arguments, without a shell. `${…}` is never resolved in either: scripts read environment variables.").example("npm ci"),
        Key::new("build", IMAGES, "Builds an image, or a list of them.").example("app"),
        Key::new("test", Kind::Image, "Runs a container of exactly the image that was built; its exit code decides.").example("app"),
        Key::new("push", IMAGES, "Pushes an image, or a list of them, with all their tags.").example("[app, worker]"),
        Key::new("image-definitions", Kind::Map("CONTAINER", &Kind::Image), "Writes `imagedefinitions.json` for CodePipeline's ECS action, and `imageDetail.json` (the first image) for its CodeDeploy action.").example("{ web: app }"),
        Key::new("task-definition", Kind::Table(&TASK_DEFINITION), "Registers a new revision of an ECS task definition."),
        Key::new("run-task", Kind::Table(&RUN_TASK), "Runs a task once and waits for its end, as for migrations."),
        Key::new("deploy", Kind::Table(&DEPLOY), "Points ECS services to the registered task definition."),
        Key::new("parallel", Kind::List(&ONE_STEP), "Steps that run side by side. The first that fails ends the others."),
        Key::new("name", Kind::Text, "What the log calls the step.").example("Unit tests"),
        Key::new("when", WHEN, "After which outcome the step runs; the phase's `when` where absent."),
        Key::new("only", Kind::Table(&FILTER), "The step runs only in builds that match."),
        Key::new("except", Kind::Table(&FILTER), "The step does not run in builds that match."),
        Key::new("retry", Kind::Either(&[Kind::Integer(0, 100), Kind::Table(&RETRY)]), "Further attempts after a failed one.").default("0").example("2"),
        Key::new("timeout", Kind::Duration, "How long one attempt may take.").example("10m"),
        Key::new("env", VARIABLES, "Variables of this step alone. With `test` they are the container's.").example("{ CI: \"true\" }"),
        Key::new("dir", Kind::Text, "The working directory of `run`.").default(".").example("web"),
        Key::new("aws", Kind::Table(&AWS), "Account and region of this step."),
        Key::new("command", TEXTS, "`test`: the arguments; the image's own where absent.").example("[npm, test]"),
        Key::new("entrypoint", TEXTS, "`test`: the program; the image's own where absent.").example("[/bin/sh, -c]"),
        Key::new("secrets", Kind::OneOrMore(&Kind::Variable), "`test`: variables from `env` that the container gets, masked in its output.").example("[NPM_TOKEN]"),
        Key::new("user", Kind::Text, "`test`: user or `uid:gid` in the container.").example("\"1000:1000\""),
        Key::new("workdir", Kind::Text, "`test`: working directory in the container.").example("/app"),
        Key::new("memory", Kind::Size, "`test`: the container's memory.").example("512m"),
        Key::new("volumes", VOLUMES, "`test`: files for the container, `PATH:CONTAINER-PATH`. They are copied, or bound with `:bind` at the end.").example("[\"./testdata:/data\"]"),
        Key::new("services", Kind::Map("NAME", &Kind::Table(&SERVICE)), "`test`: containers that run beside the test, reachable by their names."),
        Key::new("copy-out", Kind::Map("CONTAINER-PATH", &Kind::Text), "`test`: files to copy out of the container, whether the test passed or failed.").example("{ /app/coverage: coverage }"),
        Key::new("reports", Kind::Table(&REPORTS), "`test`: reports to read from the container."),
    ],
};

/// The keys that say what a step does.
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
    about: "Which builds are meant. A build matches when its branch or its tag matches (where `branches` or `tags` is given) and its event does (where `events` is given). In patterns `*` stands for any text without `/`, `**` for any text, `?` for one character but `/`. For pull requests `branches` means the base branch.",
    one_of: &[],
    keys: &[
        Key::new("branches", Kind::OneOrMore(&Kind::Glob), "Patterns of branches.")
            .example("[main, \"release/*\"]"),
        Key::new("tags", Kind::OneOrMore(&Kind::Glob), "Patterns of git tags.").example("[\"v*\"]"),
        Key::new(
            "events",
            Kind::OneOrMore(&Kind::Choice(&["push", "pull-request", "tag", "manual"])),
            "Why the build runs.",
        )
        .example("[push, manual]"),
    ],
};

pub(crate) static RETRY: Table = Table {
    name: "retry",
    what: "`retry`",
    title: "retry",
    about: "Further attempts.",
    one_of: &[],
    keys: &[
        Key::new("attempts", Kind::Integer(0, 100), "How many attempts follow the first.")
            .required()
            .example("2"),
        Key::new("delay", Kind::Duration, "The time before the second attempt.").default("1s"),
        Key::new("backoff", Kind::Integer(1, 10), "What each further delay is multiplied with.").default("2"),
    ],
};

/// `services.NAME` of a test.
pub(crate) static SERVICE: Table = Table {
    name: "service",
    what: "a service",
    title: "services.NAME",
    about: "A container beside the test.",
    one_of: &[],
    keys: &[
        Key::new("image", Kind::Text, "The image: one of a registry, or the name of one of the pipeline's.")
            .required()
            .example("\"postgres:16\""),
        Key::new("command", TEXTS, "The arguments; the image's own where absent."),
        Key::new("env", VARIABLES, "The container's variables.").example("{ POSTGRES_PASSWORD: x }"),
        Key::new("volumes", VOLUMES, "Files for the container, as for the test."),
        Key::new(
            "ready",
            Kind::Table(&READY),
            "How to tell that it is up. Where absent: once it has started.",
        )
        .example("{ port: 5432 }"),
    ],
};

pub(crate) static READY: Table = Table {
    name: "ready",
    what: "`ready`",
    title: "services.NAME.ready",
    about: "How to tell that a service is up: exactly one way.",
    one_of: &[&["healthcheck", "port", "http", "log", "command"]],
    keys: &[
        Key::new("healthcheck", Kind::Boolean, "`true`: the image's own health check.").example("true"),
        Key::new("port", Kind::Integer(1, 65535), "A TCP port that accepts connections.").example("5432"),
        Key::new("http", Kind::Text, "Port and path that answer with a status below 400.")
            .example("\":8080/health\""),
        Key::new("log", Kind::Text, "A text in its output.").example("ready to accept connections"),
        Key::new("command", TEXTS, "A command in the container that ends with 0.").example("[pg_isready]"),
        Key::new("timeout", Kind::Duration, "How long it may take.").default("1m"),
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
    about: "A new revision of a task definition. It starts from one base; what the file does not mention stays as it is there.",
    one_of: &[&["family", "file", "service"]],
    keys: &[
        Key::new("family", Kind::Text, "Base: the latest revision of this family.").example("webapp"),
        Key::new("file", Kind::Text, "Base: a JSON or YAML file, in any shape that the AWS tools write.")
            .example("taskdef.json"),
        Key::new("service", Kind::Table(&BASE_SERVICE), "Base: what a service runs now."),
        Key::new("containers", Kind::Map("CONTAINER", &Kind::Table(&CONTAINER)), "Changes by container.")
            .example("{ web: { image: app } }"),
        Key::new("task-role", Kind::Text, "The role of the task, as ARN or name."),
        Key::new(
            "execution-role",
            Kind::Text,
            "The role that pulls images and reads secrets, as ARN or name.",
        ),
        Key::new("cpu", Kind::Text, "The task's CPU.").example("256"),
        Key::new("memory", Kind::Text, "The task's memory.").example("512"),
        Key::new("tags", TEXT_MAP, "Tags of the revision.").example("{ team: web }"),
        Key::new("force", Kind::Boolean, "Register also where nothing differs.").default("false"),
        Key::new(
            "code-pipeline",
            Kind::Table(&CODE_PIPELINE),
            "Write `taskdef.json` and `appspec.yaml` for CodePipeline's CodeDeploy action, which then registers the revision: this step does not.",
        )
        .example("{ container: web, port: 8080 }"),
    ],
};

pub(crate) static CODE_PIPELINE: Table = Table {
    name: "code-pipeline",
    what: "`code-pipeline`",
    title: "task-definition.code-pipeline",
    about: "What CodePipeline's action \"Amazon ECS (Blue/Green)\" deploys: `taskdef.json`, with `<IMAGE1_NAME>` in the place of one container's image, and `appspec.yaml`, beside `imageDetail.json` with that image.",
    one_of: &[],
    keys: &[
        Key::new(
            "container",
            Kind::Plain,
            "The container that the load balancer reaches and that gets the image.",
        )
        .required()
        .example("web"),
        Key::new("port", Kind::Integer(1, 65535), "Its port.").required().example("8080"),
    ],
};

pub(crate) static BASE_SERVICE: Table = Table {
    name: "base-service",
    what: "`service`",
    title: "task-definition.service",
    about: "The service whose task definition is the base.",
    one_of: &[],
    keys: &[
        Key::new("cluster", Kind::Text, "The service's cluster.").required().example("prod"),
        Key::new("name", Kind::Text, "The service's name.").required().example("webapp"),
    ],
};

pub(crate) static CONTAINER: Table = Table {
    name: "container",
    what: "a container",
    title: "task-definition.containers.CONTAINER",
    about: "Changes to one container.",
    one_of: &[],
    keys: &[
        Key::new("image", Kind::Image, "The image that the container runs from now on, by digest.")
            .example("app"),
        Key::new("environment", TEXT_MAP, "Variables that are set or replaced; the others stay.")
            .example("{ VERSION: \"${source.commit}\" }"),
        Key::new(
            "replace-environment",
            Kind::Boolean,
            "Remove the variables that `environment` does not name.",
        )
        .default("false"),
        Key::new("secrets", TEXT_MAP, "Secrets that ECS injects: variable and ARN (or parameter name).")
            .example("{ DB_PASSWORD: /webapp/db-password }"),
        Key::new("command", TEXTS, "The container's arguments."),
        Key::new("cpu", Kind::Text, "CPU units of the container.").example("128"),
        Key::new("memory", Kind::Text, "The container's hard limit in MiB.").example("256"),
        Key::new("log-options", TEXT_MAP, "Options of the log driver.")
            .example("{ awslogs-stream-prefix: web }"),
        Key::new("labels", TEXT_MAP, "Docker labels."),
    ],
};

pub(crate) static RUN_TASK: Table = Table {
    name: "run-task",
    what: "`run-task`",
    title: "run-task",
    about: "Runs a task once. Where it runs is copied from a service, or given by `network` and `launch-type`.",
    one_of: &[&["service", "network"]],
    keys: &[
        Key::new("cluster", Kind::Text, "The cluster.").required().example("prod"),
        Key::new("service", Kind::Text, "A service whose network, launch type and platform are copied.")
            .example("webapp"),
        Key::new("network", Kind::Table(&NETWORK), "The task's network. Needs `launch-type`."),
        Key::new(
            "launch-type",
            Kind::Choice(&["FARGATE", "EC2", "EXTERNAL"]),
            "Where the task runs, beside `network`.",
        ),
        Key::new("task-definition", Kind::Text, "The family, where the build registers several."),
        Key::new(
            "container",
            Kind::Plain,
            "The container whose command is replaced and whose exit code decides.",
        )
        .example("web"),
        Key::new("command", TEXTS, "The container's arguments for this run.").example("[./migrate]"),
        Key::new("environment", TEXT_MAP, "Variables for this run."),
        Key::new("wait", Kind::Duration, "How long the task may take.").default("15m"),
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
        Key::new("assign-public-ip", Kind::Boolean, "Give the task a public address.").default("false"),
    ],
};

pub(crate) static DEPLOY: Table = Table {
    name: "deploy",
    what: "`deploy`",
    title: "deploy",
    about: "Points services to the revision that this build registered.",
    one_of: &[&["service", "services"]],
    keys: &[
        Key::new("cluster", Kind::Text, "The services' cluster.").required().example("prod"),
        Key::new("service", Kind::Text, "The service.").example("webapp"),
        Key::new("services", TEXTS, "Several services.").example("[web, worker]"),
        Key::new("task-definition", Kind::Text, "The family, where the build registers several.")
            .example("webapp"),
        Key::new("wait", Kind::Duration, "How long the deployment may take; the way back gets the same time again. Where it is not given, the time for which the service's configuration shifts traffic is added.").default("15m"),
        Key::new(
            "on-failure",
            Kind::Choice(&["rollback", "leave"]),
            "What happens to a deployment that fails or takes too long: the services go back to the last revision that was deployed successfully, or stay as they are.",
        )
        .default("rollback"),
        Key::new(
            "keep-revisions",
            Kind::Integer(1, 1000),
            "Deregister older revisions than the last so many once the deployment is through; never one that a service, a task, a rollback or a schedule may still use.",
        )
        .example("10"),
        Key::new(
            "schedules",
            Kind::Boolean,
            "Point the family's scheduled tasks (EventBridge rules and Scheduler schedules) to the new revision once the deployment is through.",
        )
        .default("false"),
        Key::new("code-deploy", Kind::Table(&CODE_DEPLOY), "Deploy one service through CodeDeploy, which has to be its deployment controller.")
            .example("{ application: webapp, group: webapp-prod }"),
        Key::new("force", Kind::Boolean, "Deploy also where nothing differs.").default("false"),
    ],
};

pub(crate) static CODE_DEPLOY: Table = Table {
    name: "code-deploy",
    what: "`code-deploy`",
    title: "deploy.code-deploy",
    about: "CodeDeploy's application and deployment group.",
    one_of: &[],
    keys: &[
        Key::new("application", Kind::Text, "The application.").required().example("webapp"),
        Key::new("group", Kind::Text, "The deployment group.").required().example("webapp-prod"),
    ],
};

pub(crate) static NOTIFY: Table = Table {
    name: "notify",
    what: "a notification",
    title: "notify",
    about: "Somebody who is told.",
    one_of: &[&["slack", "webhook", "sns"]],
    keys: &[
        Key::new("slack", Kind::Text, "The address of a Slack incoming webhook.").example("\"${SLACK_URL}\""),
        Key::new("webhook", Kind::Table(&WEBHOOK), "Any HTTP endpoint that takes JSON."),
        Key::new("sns", Kind::Text, "The ARN of an SNS topic.")
            .example("arn:aws:sns:eu-central-1:123456789012:builds")
            .later(),
        Key::new(
            "on",
            Kind::OneOrMore(&Kind::Choice(&["started", "phase-failed", "succeeded", "failed", "stopped"])),
            "About what: everything where absent.",
        )
        .example("[failed, stopped]"),
        Key::new("only", Kind::Table(&FILTER), "Only about builds that match."),
    ],
};

pub(crate) static WEBHOOK: Table = Table {
    name: "webhook",
    what: "`webhook`",
    title: "notify.webhook",
    about: "An HTTP endpoint. It gets JSON with `version`, `event`, `pipeline`, `build`, `mode`, `source` and `text`, and on failures `reason`, with `phase` or `exit`.",
    one_of: &[],
    keys: &[
        Key::new("url", Kind::Text, "Where to POST to.").required().example("https://example.com/hook"),
        Key::new("headers", TEXT_MAP, "Headers to send along; their values are masked.")
            .example("{ Authorization: \"Bearer ${TOKEN}\" }"),
        Key::new("secret", Kind::Text, "A key that signs the body.").example("\"${WEBHOOK_KEY}\"").later(),
    ],
};
