//! `task-definition`: a new revision, made from a file, a family's latest revision or what a service runs.

use super::Context;
use crate::aws::ecs::Revision;
use crate::aws::{Aws, AwsError};
use crate::ecs::diff::compare;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::engine::ecs::read;
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::pipeline::diagnostic::Diagnostic;
use crate::pipeline::model::{ContainerChange, TaskDefinition, TaskDefinitionBase};
use crate::pipeline::template::Template;
use crate::plan::Mode;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// For a file that cannot be read.
const HELP: &str = "`file` starts from the directory of the pipeline file";
/// How often a registration is tried that is refused for now, or whose answer was lost.
const ATTEMPTS: u32 = 5;
/// How long the first wait between them is; every further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);

pub(super) async fn run(cx: &Context<'_>, definition: &TaskDefinition) -> Result<(), Failure> {
    let patch = patch(cx, definition)?;
    let Some(base) = base(cx, &definition.base).await? else {
        return planned(cx, &definition.base, &patch).await;
    };
    let mut request = Request::from_document(base.document)?;
    request.apply(&patch)?;
    for slip in request.likely_slips() {
        cx.events.warn(slip).await;
    }
    let family = request.family().to_owned();
    let registered = match cx.run.job.mode {
        Mode::Local => {
            let path = cx.run.ecs_file(&family);
            files::write_json(&path, &request.into_json(), Access::Owner)?;
            cx.events.result("rendered", &family, path.display().to_string()).await;
            family.clone()
        }
        Mode::Publish => register(cx, definition, base.registered, request).await?,
    };
    cx.run.state().task_definitions.insert(family, registered);
    Ok(())
}

/// Registers a revision, unless one is there that means the same.
async fn register(
    cx: &Context<'_>,
    definition: &TaskDefinition,
    base: Option<Registered>,
    request: Request,
) -> Result<String, Failure> {
    let aws = cx.aws().await?;
    let latest = match aws.ecs_task_definition(request.family()).await {
        Ok(document) => Registered::read(&document),
        Err(AwsError::NotFound { .. }) => None,
        Err(error @ AwsError::Denied { .. }) => {
            let cause = crate::exit::chain(&error);
            cx.events.warn(format!("whether this revision is there already cannot be told: {cause}")).await;
            None
        }
        Err(error) => return Err(error.into()),
    };
    let same =
        [&base, &latest].into_iter().flatten().find(|known| compare(&known.request, &request).is_none());
    if let Some(same) = same.filter(|_| !definition.force) {
        cx.events
            .result(
                "unchanged",
                same.revision.short(),
                "this revision means the same; nothing was registered",
            )
            .await;
        return Ok(same.revision.arn.clone());
    }
    if let Some(known) = base.as_ref().or(latest.as_ref())
        && let Some(difference) = compare(&known.request, &request)
    {
        cx.events.note(format!("changes to {}:", known.revision.short())).await;
        for line in difference.lines().skip(2) {
            cx.events.note(line).await;
        }
    }
    let newest = latest.map_or(0, |latest| latest.revision.number());
    let revision = send(cx, &aws, &request, newest).await?;
    cx.events.result("registered", revision.short(), &revision.arn).await;
    Ok(revision.arn)
}

/// Sends a registration until ECS has it. An answer that was lost is looked for before it is sent once more, so that there is one
/// revision; where ECS cannot be asked for that, it is not sent once more.
async fn send(cx: &Context<'_>, aws: &Aws, request: &Request, newest: u64) -> Result<Revision, Failure> {
    let body = request.clone().into_json();
    let (mut wait, mut attempt) = (FIRST_WAIT, 1);
    loop {
        let error = match aws.ecs_register(&body).await {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        if !error.may_pass() {
            return Err(error.into());
        }
        cx.events.warn(format!("tried again, because {}", crate::exit::chain(&error))).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cx.stopping.soft.cancelled() => return Err(Failure::stopped()),
        }
        (wait, attempt) = (wait * 2, attempt + 1);
        let found = match aws.ecs_task_definition(request.family()).await {
            Ok(document) => Registered::read(&document),
            Err(AwsError::NotFound { .. }) => None,
            Err(_) => {
                let help = "it may have been registered all the same; ECS could not be asked whether it was";
                return Err(Failure::from(error).help(help));
            }
        };
        match found {
            Some(found) if found.revision.number() > newest && compare(&found.request, request).is_none() => {
                return Ok(found.revision);
            }
            _ if attempt > ATTEMPTS => return Err(error.into()),
            _ => {}
        }
    }
}

/// What a revision is made from.
struct Base {
    document: Value,
    /// It, where ECS has it.
    registered: Option<Registered>,
}

/// A revision that ECS has.
struct Registered {
    revision: Revision,
    request: Request,
}

impl Registered {
    /// Reads an answer of `DescribeTaskDefinition`; nothing where the revision cannot be used any more.
    fn read(document: &Value) -> Option<Self> {
        let field = |name: &str| document.get("taskDefinition")?.get(name)?.as_str();
        let arn = field("taskDefinitionArn")?.to_owned();
        let request = Request::from_document(document.clone()).ok()?;
        (field("status") == Some("ACTIVE")).then_some(Self { revision: Revision { arn }, request })
    }
}

/// Local mode does not ask AWS, so only the changes to a revision that lives there can be shown.
async fn planned(cx: &Context<'_>, base: &TaskDefinitionBase, patch: &Patch) -> Result<(), Failure> {
    let name = match base {
        TaskDefinitionBase::Family(name)
        | TaskDefinitionBase::Service { name, .. }
        | TaskDefinitionBase::File(name) => cx.resolve(name)?,
    };
    let changes = json!({
        "containers": patch.containers.iter().map(planned_container).collect::<Vec<_>>(),
        "taskRoleArn": patch.task_role,
        "executionRoleArn": patch.execution_role,
        "cpu": patch.cpu,
        "memory": patch.memory,
        "tags": object(&patch.tags),
    });
    let path = cx.run.ecs_file(&format!("{name}-changes"));
    files::write_json(&path, &said(changes), Access::Owner)?;
    cx.events
        .note("local mode does not read the current task definition from ECS; only the changes are written")
        .await;
    cx.events.result("planned", &name, path.display().to_string()).await;
    // The name stands for the family where only ECS knows that.
    cx.run.state().task_definitions.insert(name.clone(), name);
    Ok(())
}

fn planned_container(patch: &ContainerPatch) -> Value {
    said(json!({
        "name": patch.name,
        "image": patch.image,
        "environment": object(&patch.environment),
        "replaceEnvironment": patch.replace_environment.then_some(true),
        "secrets": object(&patch.secrets),
        "command": patch.command,
        "cpu": patch.cpu,
        "memory": patch.memory,
        "logOptions": object(&patch.log_options),
        "dockerLabels": object(&patch.labels),
    }))
}

/// Pairs as an object; nothing where there are none.
fn object(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let fields = pairs.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    (!pairs.is_empty()).then(|| fields.collect())
}

/// An object without what is not said.
fn said(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

fn patch(cx: &Context<'_>, definition: &TaskDefinition) -> Result<Patch, Failure> {
    let text = |template: &Option<Template>| template.as_ref().map(|text| cx.resolve(text)).transpose();
    let number = |template: &Option<Template>| {
        let Some(template) = template else { return Ok(None) };
        let text = cx.resolve(template)?;
        text.trim().parse().map(Some).map_err(|_| {
            let problem = Diagnostic::new(format!("`{text}` is not a whole number"), template.span);
            cx.run.job.located(&problem.help("ECS takes CPU units (1024 are a vCPU) and MiB here"))
        })
    };
    let container = |(name, change): (&String, &ContainerChange)| {
        let image = change.image.as_ref().map(|image| cx.pushed_image(&image.value));
        Ok(ContainerPatch {
            name: name.clone(),
            image: image.transpose()?,
            environment: cx.resolve_pairs(&change.environment)?,
            replace_environment: change.replace_environment,
            secrets: cx.resolve_pairs(&change.secrets)?,
            command: change.command.as_ref().map(|command| cx.resolve_all(command)).transpose()?,
            cpu: number(&change.cpu)?,
            memory: number(&change.memory)?,
            log_options: cx.resolve_pairs(&change.log_options)?,
            labels: cx.resolve_pairs(&change.labels)?,
        })
    };
    Ok(Patch {
        containers: definition.containers.iter().map(container).collect::<Result<_, Failure>>()?,
        task_role: text(&definition.task_role)?,
        execution_role: text(&definition.execution_role)?,
        cpu: text(&definition.cpu)?,
        memory: text(&definition.memory)?,
        tags: cx.resolve_pairs(&definition.tags)?,
    })
}

/// The document to start from; nothing where it lives in ECS and ECS is not asked.
async fn base(cx: &Context<'_>, base: &TaskDefinitionBase) -> Result<Option<Base>, Failure> {
    if let TaskDefinitionBase::File(file) = base {
        return Ok(Some(Base {
            document: read(&cx.path(file)?).map_err(|failure| failure.help(HELP))?,
            registered: None,
        }));
    }
    if cx.run.job.mode == Mode::Local {
        return Ok(None);
    }
    let aws = cx.aws().await?;
    let name = match base {
        TaskDefinitionBase::Family(family) => cx.resolve(family)?,
        TaskDefinitionBase::Service { cluster, name } => {
            let (cluster, service) = (cx.resolve(cluster)?, cx.resolve(name)?);
            aws.ecs_service_task_definition(&cluster, &service).await?
        }
        TaskDefinitionBase::File(_) => return Ok(None),
    };
    let document = aws.ecs_task_definition(&name).await?;
    let registered = Registered::read(&document);
    Ok(Some(Base { document, registered }))
}

impl crate::engine::Run {
    /// Where local mode leaves what it would ask of ECS. Names come from outside: they are never paths.
    pub(super) fn ecs_file(&self, name: &str) -> std::path::PathBuf {
        let safe: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' })
            .collect();
        self.work.path.join("ecs").join(format!("{safe}.json"))
    }
}
