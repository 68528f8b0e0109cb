//! Decodes steps: exactly one kind, and the keys of every step.

use super::fields::{Decoder, Fields};
use super::{aws, filter, phases};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::exposure::Exposure;
use crate::language::pipeline::model::{
    Action, CodeDeploy, CodePipeline, Command, ContainerChange, Deploy, LaunchType, OnFailure, Probe, Ready,
    Retry, RunTask, Service, Step, TaskDefinition, TaskDefinitionBase, TaskPlace, Test, Zone,
};
use crate::language::pipeline::tables::{self, KINDS, TEST};
use crate::language::tree::{Entry, Node, Value};
use crate::text::either;
use std::time::Duration;

/// The default of `ready.timeout`.
const READY: Duration = Duration::from_mins(1);
/// The default of `retry.delay`.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The default of `retry.backoff`.
const RETRY_BACKOFF: u32 = 2;

pub(crate) fn step(d: &mut Decoder<'_>, node: &Node) -> Option<Step> {
    let step = read(d, node);
    d.lost_steps |= step.is_none();
    step
}

fn read(d: &mut Decoder<'_>, node: &Node) -> Option<Step> {
    if let Value::Scalar { .. } = node.value {
        d.problem(
            Diagnostic::new("a step is a mapping, but this is text", node.span)
                .help("write `- run: …` for a command"),
        );
        return None;
    }
    let id = d.next_step();
    d.within(Zone::Step(id), |d| {
        let fields = d.fields(node, &tables::STEP)?;
        let kinds: Vec<&Entry> = KINDS.iter().filter_map(|kind| fields.entry(kind)).collect();
        let span = kinds.first().map_or(node.at, |kind| kind.key_span);
        let action = match kinds.as_slice() {
            [kind] => {
                own_keys(d, kind, &fields);
                action(d, kind, &fields)
            }
            [] => {
                // A misspelt kind has been reported.
                if !fields.has_unknown() {
                    let help = format!("a step needs {}", either(KINDS.iter().copied()));
                    d.problem(Diagnostic::new("this step does nothing", node.at).help(help));
                }
                None
            }
            several => {
                let mut several = several.to_vec();
                several.sort_by_key(|kind| kind.key_span.start);
                let (first, second) = (several[0], several[1]);
                let message =
                    format!("a step has one kind, but this one has `{}` and `{}`", first.key, second.key);
                d.problem(
                    Diagnostic::new(message, second.key_span)
                        .related(first.key_span, "the first kind")
                        .help("move it to a step of its own"),
                );
                None
            }
        };
        Some(Step {
            id,
            span,
            name: d.optional(&fields, "name", Decoder::named_text),
            when: d.optional(&fields, "when", phases::when),
            only: d.optional(&fields, "only", filter),
            except: d.optional(&fields, "except", filter),
            retry: d.optional(&fields, "retry", retry),
            timeout: d.optional(&fields, "timeout", Decoder::duration),
            aws: d.optional(&fields, "aws", aws),
            env: d.within(Zone::StepEnv(id), |d| d.variables(&fields, "env")),
            dir: d.optional(&fields, "dir", Decoder::named_text),
            action: action?,
        })
    })
}

/// Reports keys of `test` in steps of other kinds.
fn own_keys(d: &mut Decoder<'_>, kind: &Entry, fields: &Fields<'_>) {
    if kind.key == "test" {
        return;
    }
    for entry in TEST.iter().filter_map(|key| fields.entry(key)) {
        let help = match (kind.key.as_str(), entry.key.as_str()) {
            ("build", "secrets") => "list the secrets of a build in `secrets` of the image",
            ("run", "command") => "write the command as the value of `run`",
            ("run", "secrets") => "remove it: `run` steps have the secrets of `env` in their environment",
            _ => "remove it, or make this a `test`",
        };
        d.problem(
            Diagnostic::new(
                format!("`{}` belongs to `test`, but this step is `{}`", entry.key, kind.key),
                entry.key_span,
            )
            .help(help),
        );
    }
}

fn retry(d: &mut Decoder<'_>, node: &Node) -> Option<Retry> {
    if !matches!(node.value, Value::Map(_)) {
        let attempts = d.integer(node, 0, 100)?;
        return Some(Retry { attempts, delay: RETRY_DELAY, backoff: RETRY_BACKOFF });
    }
    let fields = d.fields(node, &tables::RETRY)?;
    let delay = d.optional(&fields, "delay", Decoder::duration).unwrap_or(RETRY_DELAY);
    let backoff = d.optional(&fields, "backoff", |d, node| d.integer(node, 1, 10)).unwrap_or(RETRY_BACKOFF);
    let attempts = d.required(&fields, "attempts").and_then(|node| d.integer(node, 0, 100))?;
    Some(Retry { attempts, delay, backoff })
}

fn action(d: &mut Decoder<'_>, kind: &Entry, fields: &Fields<'_>) -> Option<Action> {
    let node = &kind.node;
    match kind.key.as_str() {
        "run" => command(d, node).map(Action::Run),
        "build" => d.one_or_more_names(node).map(Action::Build),
        "push" => d.one_or_more_names(node).map(Action::Push),
        "test" => test(d, node, fields).map(Action::Test),
        "image-definitions" => {
            let pairs = d.named(Some(node), "images", |d, entry| {
                if !is_container_name(&entry.key) {
                    d.problem(
                        Diagnostic::new(
                            format!("`{}` is not a valid container name", entry.key),
                            entry.key_span,
                        )
                        .help("ECS allows up to 255 letters, digits, `_` and `-`"),
                    );
                }
                d.name(&entry.node)
            });
            if matches!(&node.value, Value::Null)
                || matches!(&node.value, Value::Map(entries) if entries.is_empty())
            {
                d.problem(
                    Diagnostic::new("`image-definitions` has no containers", kind.key_span)
                        .help("write `image-definitions: { CONTAINER: IMAGE }`"),
                );
            }
            Some(Action::ImageDefinitions(pairs))
        }
        "task-definition" => task_definition(d, node).map(Action::TaskDefinition),
        "run-task" => run_task(d, node).map(Action::RunTask),
        "deploy" => deploy(d, node).map(Action::Deploy),
        "parallel" => {
            let steps = d.list(node, "steps", step);
            if matches!(&node.value, Value::List(items) if items.is_empty()) {
                d.problem(Diagnostic::new("`parallel` has no steps", kind.key_span));
            }
            Some(Action::Parallel(steps))
        }
        _ => None,
    }
}

/// Source: API reference of Amazon ECS, `ContainerDefinition.name`.
fn is_container_name(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    (1..=255).contains(&name.len()) && name.chars().all(is_fine)
}

fn command(d: &mut Decoder<'_>, node: &Node) -> Option<Command> {
    if let Value::List(items) = &node.value {
        if items.is_empty() {
            d.problem(Diagnostic::new("`run` has no program to start", node.at));
            return None;
        }
        return Some(Command::Argv(d.list(node, "arguments", Decoder::text)));
    }
    if let Value::Map(_) = node.value {
        d.problem(Diagnostic::new("`run` is a script or a list, but this is a mapping", node.at).help(
            "`: ` in a text without quotes begins a mapping; write the script as a block after `run: |`",
        ));
        return None;
    }
    d.literal(node).map(Command::Script)
}

fn test(d: &mut Decoder<'_>, node: &Node, fields: &Fields<'_>) -> Option<Test> {
    let argv = |d: &mut Decoder<'_>, key: &str| d.optional(fields, key, Decoder::one_or_more_templates);
    let (command, entrypoint) =
        d.exposed(Exposure::ContainerCommand, |d| (argv(d, "command"), argv(d, "entrypoint")));
    let (volumes, junit) = (
        d.optional(fields, "volumes", Decoder::one_or_more_templates),
        d.optional(fields, "reports", |d, node| {
            let fields = d.fields(node, &tables::REPORTS)?;
            d.optional(&fields, "junit", Decoder::one_or_more_templates)
        }),
    );
    Some(Test {
        command,
        entrypoint,
        secrets: d.optional(fields, "secrets", Decoder::one_or_more_names).unwrap_or_default(),
        user: d.optional(fields, "user", Decoder::template),
        workdir: d.optional(fields, "workdir", Decoder::template),
        memory: d.optional(fields, "memory", Decoder::size),
        volumes: volumes.unwrap_or_default(),
        services: d.defined(fields.get("services"), "services", |d, entry| service(d, &entry.node)),
        copy_out: d.text_map(fields, "copy-out"),
        junit: junit.unwrap_or_default(),
        image: d.name(node)?,
    })
}

fn service(d: &mut Decoder<'_>, node: &Node) -> Option<Service> {
    let fields = d.fields(node, &tables::SERVICE)?;
    let image = d.required(&fields, "image").and_then(|node| d.named_text(node));
    let command = d.exposed(Exposure::ContainerCommand, |d| {
        d.optional(&fields, "command", Decoder::one_or_more_templates)
    });
    let env = d.variables(&fields, "env");
    let volumes = d.optional(&fields, "volumes", Decoder::one_or_more_templates).unwrap_or_default();
    let ready = d.optional(&fields, "ready", ready);
    Some(Service { image: image?, command, env, volumes, ready })
}

fn ready(d: &mut Decoder<'_>, node: &Node) -> Option<Ready> {
    let fields = d.fields(node, &tables::READY)?;
    let timeout = d.optional(&fields, "timeout", Decoder::duration).unwrap_or(READY);
    let entry = d.exactly_one(&fields, tables::READY.one_of[0])?;
    let node = &entry.node;
    let probe = match entry.key.as_str() {
        "healthcheck" => {
            if !d.boolean(node)? {
                d.problem(
                    Diagnostic::new("`healthcheck: false` checks nothing", node.span)
                        .help("remove `ready` to wait only for the start"),
                );
                return None;
            }
            Probe::Healthcheck
        }
        "port" => Probe::Port(u16::try_from(d.integer(node, 1, 65535)?).ok()?),
        "http" => Probe::Http(d.named_text(node)?),
        "log" => Probe::Log(d.named_text(node)?),
        _ => Probe::Command(d.one_or_more_templates(node)?),
    };
    Some(Ready { probe, timeout })
}

fn task_definition(d: &mut Decoder<'_>, node: &Node) -> Option<TaskDefinition> {
    let fields = d.fields(node, &tables::TASK_DEFINITION)?;
    let base = match d.exactly_one(&fields, tables::TASK_DEFINITION.one_of[0]) {
        Some(base) => match base.key.as_str() {
            "family" => d.named_text(&base.node).map(TaskDefinitionBase::Family),
            "file" => d.named_text(&base.node).map(TaskDefinitionBase::File),
            _ => base_service(d, &base.node),
        },
        None => None,
    };
    let containers = d.named(fields.get("containers"), "containers", container);
    let (task_role, execution_role) = (
        d.optional(&fields, "task-role", Decoder::named_text),
        d.optional(&fields, "execution-role", Decoder::named_text),
    );
    let (cpu, memory) =
        (d.optional(&fields, "cpu", Decoder::named_text), d.optional(&fields, "memory", Decoder::named_text));
    let tags = d.exposed(Exposure::TaskDefinition, |d| d.text_map(&fields, "tags"));
    let force = d.flag(&fields, "force");
    let code_pipeline = d.optional(&fields, "code-pipeline", |d, node| {
        let fields = d.fields(node, &tables::CODE_PIPELINE)?;
        let container = d.required(&fields, "container").and_then(|node| d.name(node));
        let port = d.required(&fields, "port").and_then(|node| d.integer(node, 1, 65535));
        Some(CodePipeline { container: container?, port: u16::try_from(port?).ok()? })
    });
    Some(TaskDefinition {
        base: base?,
        containers,
        task_role,
        execution_role,
        cpu,
        memory,
        tags,
        force,
        code_pipeline,
    })
}

fn base_service(d: &mut Decoder<'_>, node: &Node) -> Option<TaskDefinitionBase> {
    let fields = d.fields(node, &tables::BASE_SERVICE)?;
    let cluster = d.required(&fields, "cluster").and_then(|node| d.named_text(node));
    let name = d.required(&fields, "name").and_then(|node| d.named_text(node));
    Some(TaskDefinitionBase::Service { cluster: cluster?, name: name? })
}

fn container(d: &mut Decoder<'_>, entry: &Entry) -> Option<ContainerChange> {
    let fields = d.fields(&entry.node, &tables::CONTAINER)?;
    let exposed =
        |d: &mut Decoder<'_>, key| d.exposed(Exposure::TaskDefinition, |d| d.text_map(&fields, key));
    Some(ContainerChange {
        image: d.optional(&fields, "image", Decoder::name),
        environment: exposed(d, "environment"),
        replace_environment: d.flag(&fields, "replace-environment"),
        secrets: d.text_map(&fields, "secrets"),
        command: d.exposed(Exposure::TaskDefinition, |d| {
            d.optional(&fields, "command", Decoder::one_or_more_templates)
        }),
        cpu: d.optional(&fields, "cpu", Decoder::named_text),
        memory: d.optional(&fields, "memory", Decoder::named_text),
        log_options: exposed(d, "log-options"),
        labels: exposed(d, "labels"),
        span: entry.key_span,
    })
}

fn run_task(d: &mut Decoder<'_>, node: &Node) -> Option<RunTask> {
    let fields = d.fields(node, &tables::RUN_TASK)?;
    let cluster = d.required(&fields, "cluster").and_then(|node| d.named_text(node));
    let place = task_place(d, &fields);
    let task_definition = d.optional(&fields, "task-definition", Decoder::named_text);
    let container = d.optional(&fields, "container", Decoder::name);
    let (command, environment) = d.exposed(Exposure::Task, |d| {
        let command = d.optional(&fields, "command", Decoder::one_or_more_templates);
        (command, d.text_map(&fields, "environment"))
    });
    for key in ["command", "environment"] {
        if let (Some(entry), None) = (fields.entry(key), fields.entry("container")) {
            d.problem(
                Diagnostic::new(format!("`{key}` needs `container`"), entry.key_span).help("add `container`"),
            );
        }
    }
    let wait = d.optional(&fields, "wait", Decoder::duration);
    Some(RunTask { cluster: cluster?, place: place?, task_definition, container, command, environment, wait })
}

fn task_place(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<TaskPlace> {
    let entry = d.exactly_one(fields, tables::RUN_TASK.one_of[0])?;
    let launch_types =
        [("FARGATE", LaunchType::Fargate), ("EC2", LaunchType::Ec2), ("EXTERNAL", LaunchType::External)];
    let launch_type = d.optional(fields, "launch-type", |d, node| d.choice(node, &launch_types));
    if entry.key == "service" {
        if let Some(other) = fields.entry("launch-type") {
            d.problem(
                Diagnostic::new("`service` and `launch-type` exclude each other", other.key_span)
                    .help("the launch type is copied from the service"),
            );
        }
        return d.named_text(&entry.node).map(TaskPlace::Service);
    }
    if fields.entry("launch-type").is_none() {
        d.problem(
            Diagnostic::new("`network` needs `launch-type`", entry.key_span)
                .help("write `launch-type: FARGATE`"),
        );
    }
    let network = d.fields(&entry.node, &tables::NETWORK)?;
    let subnets = d.required(&network, "subnets").and_then(|node| d.one_or_more_templates(node));
    Some(TaskPlace::Network {
        security_groups: d
            .optional(&network, "security-groups", Decoder::one_or_more_templates)
            .unwrap_or_default(),
        assign_public_ip: d.flag(&network, "assign-public-ip"),
        subnets: subnets?,
        launch_type: launch_type?,
    })
}

fn deploy(d: &mut Decoder<'_>, node: &Node) -> Option<Deploy> {
    let fields = d.fields(node, &tables::DEPLOY)?;
    let cluster = d.required(&fields, "cluster").and_then(|node| d.named_text(node));
    let services = match d.exactly_one(&fields, tables::DEPLOY.one_of[0]) {
        Some(one) if one.key == "service" => d.named_text(&one.node).map(|service| vec![service]),
        Some(several) => d.one_or_more(&several.node, "a service", Decoder::named_text),
        None => None,
    };
    let on_failures = [("rollback", OnFailure::Rollback), ("leave", OnFailure::Leave)];
    let task_definition = d.optional(&fields, "task-definition", Decoder::named_text);
    let wait = d.optional(&fields, "wait", Decoder::duration);
    let on_failure =
        d.optional(&fields, "on-failure", |d, node| d.choice(node, &on_failures)).unwrap_or_default();
    let wait_includes_pauses = d.flag(&fields, "wait-includes-pauses");
    let keep_revisions = d.optional(&fields, "keep-revisions", |d, node| d.integer(node, 1, 1000));
    let schedules = d.flag(&fields, "schedules");
    let code_deploy = d.optional(&fields, "code-deploy", |d, node| {
        let fields = d.fields(node, &tables::CODE_DEPLOY)?;
        let application = d.required(&fields, "application").and_then(|node| d.named_text(node));
        let group = d.required(&fields, "group").and_then(|node| d.named_text(node));
        Some(CodeDeploy { application: application?, group: group? })
    });
    if let (Some(entry), Some(2..)) = (fields.entry("code-deploy"), services.as_ref().map(Vec::len)) {
        d.problem(
            Diagnostic::new("`code-deploy` deploys one service, but this step names several", entry.key_span)
                .help("a deployment group belongs to one service: write one step for each"),
        );
    }
    let force = d.flag(&fields, "force");
    Some(Deploy {
        cluster: cluster?,
        services: services?,
        task_definition,
        wait,
        wait_includes_pauses,
        on_failure,
        keep_revisions,
        schedules,
        code_deploy,
        force,
    })
}
