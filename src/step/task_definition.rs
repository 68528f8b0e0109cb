//! `task-definition`: a new revision, made from a file, a family's latest revision or what a service runs.

use super::{StepScope, code_pipeline};
use crate::deployment::Registered;
use crate::deployment::read_definition;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::event::Kind;
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{ContainerChange, TaskDefinition, TaskDefinitionBase};
use crate::language::pipeline::template::Template;
use crate::plan::Mode;
use serde_json::{Map, Value, json};
use std::path::Path;

/// For a file that cannot be read.
const HELP: &str = "`file` starts from the directory of the pipeline file";
pub(crate) async fn run(cx: &StepScope<'_>, definition: &TaskDefinition) -> Result<(), Failure> {
    let patch = patch(cx, definition)?;
    let Some(base) = base(cx, &definition.base).await? else {
        return planned(cx, definition, &patch).await;
    };
    let mut request = Request::from_document(base.document)?;
    request.apply(&patch)?;
    for slip in request.likely_typos() {
        cx.events.warn(slip).await;
    }
    if let Some(wanted) = &definition.code_pipeline {
        let own = patch.containers.iter().find(|container| container.name == wanted.container.value);
        let image = own.and_then(|container| container.image.as_deref());
        return code_pipeline::blue_green(cx, wanted, request, image).await;
    }
    let family = request.family().to_owned();
    let registered = match cx.project.mode {
        Mode::Local => {
            let path = cx.work.ecs_file(&family);
            files::write_json(&path, &request.into_json(), Access::Owner)?;
            cx.events.send(rendered(cx, &family, &path, false)).await;
            family.clone()
        }
        Mode::Publish => {
            let aws = cx.aws().await?;
            cx.deployer(&aws)?.register(base.registered, &request, definition.force).await?.revision
        }
    };
    cx.shared.results().task_definitions.insert(family, registered);
    Ok(())
}

/// What a revision is made from.
struct Base {
    document: Value,
    /// It, where ECS has it.
    registered: Option<Registered>,
}

/// Local mode does not ask AWS, so only the changes to a revision that lives there can be shown.
async fn planned(cx: &StepScope<'_>, definition: &TaskDefinition, patch: &Patch) -> Result<(), Failure> {
    let name = match &definition.base {
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
    let path = cx.work.ecs_file(&format!("{name}-changes"));
    files::write_json(&path, &said(changes), Access::Owner)?;
    cx.events
        .note("local mode does not read the current task definition from ECS; only the changes are written")
        .await;
    cx.events.send(rendered(cx, &name, &path, true)).await;
    if !definition.registers() {
        cx.events.note("taskdef.json and appspec.yaml are written when publishing").await;
        return Ok(());
    }
    // The name stands for the family where only ECS knows that.
    cx.shared.results().task_definitions.insert(name.clone(), name);
    Ok(())
}

fn rendered(cx: &StepScope<'_>, family: &str, path: &Path, changes_only: bool) -> Kind {
    let file = cx.events.shown(path.display().to_string());
    Kind::DefinitionRendered { family: cx.events.shown(family), file, changes_only }
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

fn patch(cx: &StepScope<'_>, definition: &TaskDefinition) -> Result<Patch, Failure> {
    let text = |template: &Option<Template>| template.as_ref().map(|text| cx.resolve(text)).transpose();
    let number = |template: &Option<Template>| {
        let Some(template) = template else { return Ok(None) };
        let text = cx.resolve(template)?;
        text.trim().parse().map(Some).map_err(|_| {
            let problem = Diagnostic::new(format!("`{text}` is not a whole number"), template.span);
            cx.project.located(&problem.help("ECS takes CPU units (1024 are a vCPU) and MiB here"))
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
async fn base(cx: &StepScope<'_>, base: &TaskDefinitionBase) -> Result<Option<Base>, Failure> {
    if let TaskDefinitionBase::File(file) = base {
        return Ok(Some(Base {
            document: read_definition(&cx.path(file)?).map_err(|failure| failure.help(HELP))?,
            registered: None,
        }));
    }
    if cx.project.mode == Mode::Local {
        return Ok(None);
    }
    let aws = cx.aws().await?;
    let name = match base {
        TaskDefinitionBase::Family(family) => cx.resolve(family)?,
        TaskDefinitionBase::Service { cluster, name } => {
            let (cluster, service) = (cx.resolve(cluster)?, cx.resolve(name)?);
            aws.ecs_service(&cluster, &service).await?.task_definition
        }
        TaskDefinitionBase::File(_) => return Ok(None),
    };
    let document = aws.ecs_task_definition(&name).await?;
    let registered = Registered::read(&document);
    Ok(Some(Base { document, registered }))
}
