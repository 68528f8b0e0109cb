//! `runner doctor`.

use super::iam::pipeline_policies;
use super::load::{self, Loaded};
use super::{facts, stdio};
use crate::address::{EcrHost, Repository};
use crate::aws::secrets_manager::SecretId;
use crate::aws::{Aws, AwsError};
use crate::docker::{DockerError, Engine};
use crate::engine::Settings;
use crate::exit::{Exit, Failure};
use crate::pipeline::model::{
    Action, AwsAccess, Deploy, NotifyTarget, Pipeline, RunTask, Shell, TaskDefinitionBase, TaskPlace,
};
use crate::pipeline::reference::SecretReference;
use crate::pipeline::template::Template;
use crate::plan::Mode;
use crate::plan::calls::Fill;
use crate::plan::policy::Policy;
use crate::plan::scope::Values;
use crate::text::human_size;
use clap::Args;
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Disk space below which builds tend to fail, in bytes.
const LITTLE_SPACE: u64 = 5_000_000_000;

/// Check what a run needs: Docker, credentials, permissions, repositories, services
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  runner doctor\n  runner doctor --json | jq '.checks[] | select(.state == \"missing\")'\n\nIt changes nothing. What may not be read is `could not check`.\nExit codes: 0 nothing is missing, 3 something is."
)]
pub(super) struct Arguments {
    /// The pipeline file; without one in this directory only the machine is checked
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take variables and secrets from a file of KEY=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    Missing,
    CouldNotCheck,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
struct Check {
    subject: String,
    state: State,
    detail: String,
    /// The command or console step that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(
        &mut self,
        subject: impl Into<String>,
        state: State,
        detail: impl Into<String>,
        mend: Option<String>,
    ) {
        self.0.push(Check { subject: subject.into(), state, detail: detail.into(), mend });
    }

    fn good(&mut self, subject: impl Into<String>, detail: impl Into<String>) {
        self.add(subject, State::Good, detail, None);
    }

    fn missing(&mut self, subject: impl Into<String>, detail: impl Into<String>, mend: impl Into<String>) {
        self.add(subject, State::Missing, detail, Some(mend.into()));
    }

    fn unknown(&mut self, subject: impl Into<String>, detail: impl Into<String>, mend: Option<String>) {
        self.add(subject, State::CouldNotCheck, detail, mend);
    }

    /// What a call of AWS about something came to.
    fn answer(&mut self, subject: impl Into<String>, failed: AwsError, mend: impl FnOnce() -> String) {
        let is_absent = matches!(failed, AwsError::NotFound { .. });
        // Anything else that a service answers (throttling, an outage) says nothing of what is asked for.
        let is_unusable = match &failed {
            AwsError::Service { code, .. } => code == crate::aws::secrets_manager::UNUSABLE,
            other => matches!(other, AwsError::BadCredentials { .. }),
        };
        let failure = Failure::from(failed);
        if is_absent {
            self.missing(subject, failure.message, mend());
        } else if is_unusable {
            self.add(subject, State::Missing, failure.message, failure.help.or_else(|| Some(mend())));
        } else {
            self.unknown(subject, failure.message, failure.help);
        }
    }
}

pub(super) fn main(arguments: &Arguments, no_color: bool) -> Result<Exit, Failure> {
    let default = Path::new("pipeline.yml");
    let file = arguments.file.as_deref().or(default.exists().then_some(default));
    let loaded = match file {
        Some(file) => Some(load::load(&load::Request {
            file,
            mode: Some(Mode::Publish),
            env_file: arguments.env_file.as_deref(),
            elsewhere: true,
            no_color,
        })?),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment(format!("cannot start: {error}")))?;
    let checks = runtime.block_on(examine(loaded.as_ref()));
    runtime.shutdown_background();
    let ready = !checks.0.iter().any(|check| check.state == State::Missing);
    // Secrets that are given here may stand in names.
    let masks =
        loaded.as_ref().map(|loaded| load::masks(&loaded.pipeline, &loaded.values)).unwrap_or_default();
    if arguments.json {
        let report = serde_json::json!({ "version": 1, "ready": ready, "checks": checks.0 });
        stdio::result(&format!("{}\n", masks.text(&format!("{report:#}"))))?;
    } else {
        stdio::result(&masks.text(&table(&checks.0, stdio::color(&std::io::stdout(), no_color))))?;
    }
    Ok(if ready { Exit::Done } else { Exit::Environment })
}

async fn examine(loaded: Option<&Loaded>) -> Checks {
    let mut checks = Checks::default();
    let process = load::process();
    let settings = loaded.map_or_else(|| load::settings(&process), Loaded::settings);
    docker(&mut checks, &settings, process.contains_key("CODEBUILD_BUILD_ID")).await;
    let Some(loaded) = loaded else {
        checks.unknown("pipeline", "there is no pipeline.yml here", Some("name one with --file".to_owned()));
        return checks;
    };
    shell(&mut checks, &loaded.pipeline, &process);
    Patient { loaded, settings: &settings, connections: HashMap::new() }.aws(&mut checks).await;
    checks
}

async fn docker(checks: &mut Checks, settings: &Settings, in_codebuild: bool) {
    let engine = match Engine::connect(settings.docker_host.as_deref()).await {
        Ok(engine) => engine,
        Err(failed) => {
            let absent = matches!(failed, DockerError::NoSocket(_) | DockerError::Unreachable { .. });
            let failure = Failure::from(failed);
            let mend = if absent && in_codebuild {
                "turn on privileged mode: in the console under Environment, or `aws codebuild update-project --name PROJECT --environment …,privilegedMode=true`".to_owned()
            } else {
                failure.help.unwrap_or_default()
            };
            checks.missing("Docker Engine", failure.message, mend);
            return;
        }
    };
    let about = match engine.about().await {
        Ok(about) => about,
        Err(failed) => {
            checks.unknown("Docker Engine", Failure::from(failed).message, None);
            return;
        }
    };
    checks.good("Docker Engine", format!("{} (API {}, {})", about.version, about.api, about.storage));
    match engine.has_buildkit().await {
        Ok(()) => checks.good("BuildKit", format!("embedded in the engine {}", about.version)),
        Err(failed) => {
            checks.missing(
                "BuildKit",
                Failure::from(failed).message,
                "use an engine 20.10 or newer with BuildKit enabled",
            );
        }
    }
    match rustix::fs::statvfs(&about.root) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{} free in {}", human_size(free), about.root.display());
            if free < LITTLE_SPACE {
                checks.missing(
                    "disk",
                    detail,
                    "`docker system prune`, or a larger compute type in CodeBuild",
                );
            } else {
                checks.good("disk", detail);
            }
        }
        Err(_) => checks.unknown("disk", format!("{} is not on this machine", about.root.display()), None),
    }
}

fn shell(checks: &mut Checks, pipeline: &Pipeline, process: &HashMap<String, String>) {
    let has_scripts = pipeline
        .steps()
        .any(|step| matches!(step.action, Action::Run(crate::pipeline::model::Command::Script(_))));
    if !has_scripts {
        return;
    }
    let program = pipeline.env.shell.program();
    let path = process.get("PATH").map(String::as_str).unwrap_or_default();
    let found =
        path.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
    if let Some(path) = found {
        checks.good(format!("shell {program}"), path.display().to_string());
        return;
    }
    let mend = match pipeline.env.shell {
        Shell::Bash => "install bash, or write `env: { shell: sh }`",
        Shell::Sh => "install a POSIX shell in the build image",
    };
    checks.missing(format!("shell {program}"), "it is not in PATH", mend);
}

/// A pipeline that is examined.
struct Patient<'a> {
    loaded: &'a Loaded,
    settings: &'a Settings,
    /// Connections by region and role; nothing where one could not be made.
    connections: HashMap<(Option<String>, Option<String>), Option<Aws>>,
}

impl Patient<'_> {
    fn pipeline(&self) -> &Pipeline {
        &self.loaded.pipeline
    }

    fn values(&self) -> &Values {
        &self.loaded.values
    }

    fn text(&self, template: &Template) -> Option<String> {
        template.resolve(self.values()).ok()
    }

    async fn aws(&mut self, checks: &mut Checks) {
        let policies = pipeline_policies(self.loaded, (self.loaded.context.region.as_deref(), None));
        if policies.iter().all(|policy| policy.statements.is_empty()) {
            checks.good("AWS", "this pipeline asks nothing of it");
            return;
        }
        let default = self.pipeline().aws.clone();
        let region = default.region.as_ref().and_then(|region| self.text(region));
        let aws = match Aws::connect(&self.settings.authorities(), region.as_deref()).await {
            Ok(aws) => aws,
            Err(failed) => {
                let subject = if matches!(failed, AwsError::NoRegion) { "region" } else { "credentials" };
                let failure = Failure::from(failed);
                checks.missing(subject, failure.message, failure.help.unwrap_or_default());
                checks.unknown(
                    "everything in AWS",
                    "there is no access",
                    Some("`runner run --local` needs none".to_owned()),
                );
                return;
            }
        };
        checks.good("region", aws.region());
        let identity = match aws.identity().await {
            Ok(identity) => identity,
            Err(failed) => {
                // Whatever the reason: a run would come no further.
                let failure = Failure::from(failed);
                checks.missing("credentials", failure.message, failure.help.unwrap_or_default());
                checks.unknown("everything else in AWS", "there is no access", None);
                return;
            }
        };
        checks.good("credentials", &identity.arn);
        for policy in &policies {
            permissions(checks, &aws, &identity.arn, &identity.account, policy).await;
        }
        self.connections.insert((region, None), Some(aws));
        self.resources(checks).await;
    }

    /// A connection for a step; nothing where there is none, which is said once.
    async fn connection(&mut self, access: &AwsAccess, checks: &mut Checks) -> Option<Aws> {
        // Where a value is not known yet, nothing can be asked.
        let known = |template: &Option<Template>| match template {
            Some(template) => self.text(template).map(Some),
            None => Some(None),
        };
        let (region, role) = (known(&access.region)?, known(&access.role_arn)?);
        let external_id = known(&access.external_id)?;
        let key = (region.clone(), role.clone());
        if let Some(known) = self.connections.get(&key) {
            return known.clone();
        }
        let connected = match Aws::connect(&self.settings.authorities(), region.as_deref()).await {
            Ok(aws) => match &role {
                Some(role) => aws.assume(role, external_id.as_deref(), "runner-doctor").await,
                None => Ok(aws),
            },
            Err(failed) => Err(failed),
        };
        let aws = match connected {
            Ok(aws) => {
                if let Some(role) = role {
                    checks.good(format!("role {role}"), "can be assumed");
                }
                Some(aws)
            }
            Err(failed) => {
                let failure = Failure::from(failed);
                checks.missing(
                    role.map_or_else(|| "access to AWS".to_owned(), |role| format!("role {role}")),
                    failure.message,
                    failure.help.unwrap_or_default(),
                );
                None
            }
        };
        self.connections.insert(key, aws.clone());
        aws
    }

    async fn resources(&mut self, checks: &mut Checks) {
        let pipeline = self.pipeline().clone();
        self.secrets(&pipeline, checks).await;
        let mut done: Vec<String> = Vec::new();
        for step in pipeline.steps() {
            let access = step.aws.as_ref().unwrap_or(&pipeline.aws).clone();
            match &step.action {
                Action::Push(images) => {
                    for name in images {
                        if let Some(image) = pipeline.images.get(&name.value)
                            && !done.contains(&name.value)
                        {
                            done.push(name.value.clone());
                            let name = self.text(&image.repository);
                            self.repository(name, image.create.is_some(), &access, checks).await;
                        }
                    }
                }
                Action::TaskDefinition(definition) => match &definition.base {
                    TaskDefinitionBase::Family(family) => self.family(family, &access, checks).await,
                    TaskDefinitionBase::Service { cluster, name } => {
                        self.service(cluster, name, &access, checks, &mut done).await;
                    }
                    TaskDefinitionBase::File(_) => {}
                },
                Action::Deploy(Deploy { cluster, services, .. }) => {
                    for service in services {
                        self.service(cluster, service, &access, checks, &mut done).await;
                    }
                }
                Action::RunTask(RunTask { cluster, place: TaskPlace::Service(service), .. }) => {
                    self.service(cluster, service, &access, checks, &mut done).await;
                }
                _ => {}
            }
        }
        self.roles(&pipeline, checks).await;
        for notify in &pipeline.notify {
            if let NotifyTarget::Sns(topic) = &notify.target {
                let topic = self.text(topic).unwrap_or_else(|| topic.shape());
                checks.unknown(
                    format!("topic {topic}"),
                    "this version of runner does not speak to SNS yet",
                    None,
                );
            }
        }
    }

    async fn secrets(&mut self, pipeline: &Pipeline, checks: &mut Checks) {
        for (variable, template) in pipeline.env.parameter_store.iter().chain(&pipeline.env.secrets_manager) {
            let is_parameter = pipeline.env.parameter_store.contains_key(variable);
            let subject = format!("secret {variable}");
            if self.values().is_given(variable) {
                checks.good(subject, "given in the environment");
                continue;
            }
            let Some(text) = self.text(template) else {
                checks.unknown(subject, "its name is known only when the build runs", None);
                continue;
            };
            let Some(aws) = self.connection(&pipeline.aws, checks).await else {
                continue;
            };
            let found = if is_parameter {
                aws.parameter(&text).await.map(drop)
            } else {
                match SecretReference::parse(&text) {
                    Ok(SecretReference { id, json_key, stage, version }) => {
                        aws.secret(&SecretId { id, json_key, stage, version }).await.map(drop)
                    }
                    Err(reason) => {
                        checks.missing(subject, reason, crate::pipeline::reference::SECRET_HELP);
                        continue;
                    }
                }
            };
            match found {
                Ok(()) => checks.good(subject, text),
                Err(failed) => checks.answer(subject, failed, || {
                    if is_parameter {
                        format!("`aws ssm put-parameter --type SecureString --name '{text}' --value …`")
                    } else {
                        let id = text.split(':').next().unwrap_or_default();
                        format!("`aws secretsmanager create-secret --name '{id}' --secret-string …`")
                    }
                }),
            }
        }
    }

    async fn repository(
        &mut self,
        name: Option<String>,
        create: bool,
        access: &AwsAccess,
        checks: &mut Checks,
    ) {
        let Some(name) = name else {
            checks.unknown("repository", "its name is known only when the build runs", None);
            return;
        };
        let subject = format!("repository {name}");
        let (path, region) = match Repository::parse(&name) {
            Ok(None) => (name, None),
            Ok(Some(repository)) => {
                let Some(ecr) = EcrHost::parse(&repository.host) else {
                    checks.unknown(subject, "not in ECR: its login is tried when it is pushed", None);
                    return;
                };
                (repository.path, Some(ecr.region))
            }
            Err(error) => {
                checks.missing(subject, error.to_string(), "correct `repository` in the pipeline file");
                return;
            }
        };
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let aws = region.map_or_else(|| aws.clone(), |region| aws.in_region(&region));
        match aws.ecr_repository(&path).await {
            Ok(Some(address)) => checks.good(subject, address),
            Ok(None) if create => checks.good(subject, "will be created"),
            Ok(None) => checks.missing(
                subject,
                format!("ECR in {} has none of this name", aws.region()),
                format!(
                    "`aws ecr create-repository --repository-name {path}`, or `create: true` for the image"
                ),
            ),
            Err(failed) => checks.answer(subject, failed, String::new),
        }
    }

    async fn family(&mut self, family: &Template, access: &AwsAccess, checks: &mut Checks) {
        let Some(family) = self.text(family) else {
            checks.unknown("task definition", "its name is known only when the build runs", None);
            return;
        };
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        let subject = format!("task definition {family}");
        match aws.ecs_task_definition(&family).await {
            Ok(_) => checks.good(subject, "has a revision to start from"),
            Err(failed) => checks.answer(subject, failed, || {
                "register a first revision: `aws ecs register-task-definition --cli-input-json file://…`"
                    .to_owned()
            }),
        }
    }

    async fn service(
        &mut self,
        cluster: &Template,
        service: &Template,
        access: &AwsAccess,
        checks: &mut Checks,
        done: &mut Vec<String>,
    ) {
        let (Some(cluster), Some(service)) = (self.text(cluster), self.text(service)) else {
            checks.unknown("service", "its name is known only when the build runs", None);
            return;
        };
        let subject = format!("service {cluster}/{service}");
        if done.contains(&subject) {
            return;
        }
        done.push(subject.clone());
        let Some(aws) = self.connection(access, checks).await else {
            return;
        };
        match aws.ecs_service_task_definition(&cluster, &service).await {
            Ok(revision) => checks.good(subject, revision),
            Err(failed) => {
                let no_cluster = matches!(&failed, AwsError::NotFound { what: "cluster", .. });
                checks.answer(subject, failed, || {
                    if no_cluster {
                        format!("`aws ecs create-cluster --cluster-name {cluster}`, or correct `cluster`")
                    } else {
                        format!("`aws ecs create-service --cluster {cluster} --service-name {service} …`, or correct `service`")
                    }
                });
            }
        }
    }

    /// The roles that the pipeline and its task definition files name.
    async fn roles(&mut self, pipeline: &Pipeline, checks: &mut Checks) {
        let definitions = facts::definitions(pipeline, self.values(), &self.loaded.directory);
        let mut roles: Vec<(String, AwsAccess)> = Vec::new();
        for step in pipeline.steps() {
            let Action::TaskDefinition(definition) = &step.action else { continue };
            let named = [&definition.task_role, &definition.execution_role].into_iter().flatten();
            let mut found: Vec<String> = named.filter_map(|role| self.text(role)).collect();
            found.extend(definitions.get(&step.id).into_iter().flat_map(|known| known.roles.clone()));
            for role in found {
                if !roles.iter().any(|(known, _)| *known == role) {
                    roles.push((role, step.aws.as_ref().unwrap_or(&pipeline.aws).clone()));
                }
            }
        }
        for (role, access) in roles {
            let Some(aws) = self.connection(&access, checks).await else { continue };
            let name = role.rsplit('/').next().unwrap_or_default();
            let subject = format!("role {role}");
            match aws.iam_role(name).await {
                Ok(Some(arn)) => checks.good(subject, arn),
                Ok(None) => checks.missing(
                    subject,
                    "there is no such role",
                    format!("`aws iam create-role --role-name {name} --assume-role-policy-document …` with ecs-tasks.amazonaws.com, or correct the task definition"),
                ),
                Err(failed) => checks.answer(subject, failed, String::new),
            }
        }
    }
}

/// Asks IAM about each permission of a policy.
async fn permissions(checks: &mut Checks, aws: &Aws, identity: &str, account: &str, policy: &Policy) {
    if policy.role.as_ref().is_some_and(|role| role.contains("${")) {
        checks.unknown("permissions", "a role of the pipeline is known only when the build runs", None);
        return;
    }
    let principal = match (&policy.role, principal(aws, identity).await) {
        (Some(role), _) => role.clone(),
        (None, Ok(principal)) => principal,
        (None, Err(failed)) => {
            checks.answer("permissions", failed, String::new);
            return;
        }
    };
    let fill = Fill { partition: None, region: aws.region(), account };
    for statement in &policy.statements {
        let resources: Vec<String> = statement.resources.iter().map(|resource| resource.arn(fill)).collect();
        for action in &statement.actions {
            let subject = format!("permission {action}");
            match aws.iam_allows(&principal, action, &resources, statement.passed_to).await {
                Ok(Some(true)) => checks.good(subject, resources.join(", ")),
                Ok(Some(false)) => checks.missing(
                    subject,
                    format!("{principal} is not allowed this on {}", resources.join(", ")),
                    format!("add the statement {}", statement.to_json(fill)),
                ),
                Ok(None) => checks.unknown(subject, "IAM says nothing", None),
                // An odd name is a problem of this permission alone.
                Err(AwsError::Service { message, .. }) if !message.is_empty() => {
                    checks.unknown(subject, message, None);
                }
                Err(failed) => {
                    // The others would come to the same.
                    let failure = Failure::from(failed);
                    let of = policy.role.as_ref().map(|role| format!(" of {role}")).unwrap_or_default();
                    checks.unknown(format!("permissions{of}"), failure.message, failure.help);
                    return;
                }
            }
        }
    }
}

/// The user or role behind an identity: sessions of roles have names of their own, and roles have paths.
async fn principal(aws: &Aws, identity: &str) -> Result<String, AwsError> {
    let Some((_, session)) = identity.split_once(":assumed-role/") else {
        return Ok(identity.to_owned());
    };
    let name = session.split('/').next().unwrap_or_default();
    let role = aws.iam_role(name).await?;
    Ok(role.unwrap_or_else(|| identity.to_owned()))
}

/// The table for people.
fn table(checks: &[Check], color: bool) -> String {
    let paint = |state: State| match (state, color) {
        (State::Good, true) => "\x1b[32mgood           \x1b[0m",
        (State::Missing, true) => "\x1b[1;31mmissing        \x1b[0m",
        (State::CouldNotCheck, true) => "\x1b[33mcould not check\x1b[0m",
        (State::Good, false) => "good           ",
        (State::Missing, false) => "missing        ",
        (State::CouldNotCheck, false) => "could not check",
    };
    let width = checks.iter().map(|check| check.subject.chars().count()).max().unwrap_or_default().min(48);
    let mut text = String::new();
    for check in checks {
        let gap = width.saturating_sub(check.subject.chars().count());
        text.push_str(&format!(
            "{}  {}{}  {}\n",
            paint(check.state),
            check.subject,
            " ".repeat(gap),
            check.detail
        ));
        if let Some(mend) = check.mend.as_ref().filter(|mend| !mend.is_empty()) {
            text.push_str(&format!("{}  → {mend}\n", " ".repeat(15)));
        }
    }
    let count = |state: State| checks.iter().filter(|check| check.state == state).count();
    text.push_str(&format!(
        "\n{} good, {} missing, {} could not be checked\n",
        count(State::Good),
        count(State::Missing),
        count(State::CouldNotCheck)
    ));
    text
}
