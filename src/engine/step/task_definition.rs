//! `task-definition`: a new revision, made from a file, a family's latest revision or what a service runs.

use super::Context;
use crate::ecs::task_definition::{self, ContainerPatch, Request};
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::pipeline::model::{TaskDefinition, TaskDefinitionBase};
use crate::plan::Mode;
use serde_json::{Value, json};
use std::path::Path;

pub(super) async fn run(cx: &Context<'_>, definition: &TaskDefinition) -> Result<(), Failure> {
    let patches = patches(cx, definition)?;
    let Some(document) = base(cx, &definition.base).await? else {
        return planned(cx, &definition.base, &patches).await;
    };
    let mut request = Request::from_document(document)?;
    for patch in &patches {
        request.apply(patch)?;
    }
    let family = request.family().to_owned();
    let registered = match cx.run.job.mode {
        Mode::Local => {
            let path = cx.run.ecs_file(&family);
            files::write_json(&path, &request.into_json(), Access::Owner)?;
            cx.events.result("rendered", &family, path.display().to_string()).await;
            family.clone()
        }
        Mode::Publish => {
            let aws = cx.aws().await?;
            let revision = aws.ecs_register(&request.into_json()).await?;
            cx.events.result("registered", revision.short(), &revision.arn).await;
            revision.arn
        }
    };
    cx.run.state().task_definitions.insert(family, registered);
    Ok(())
}

/// Local mode does not ask AWS, so only the changes to a revision that lives there can be shown.
async fn planned(
    cx: &Context<'_>,
    base: &TaskDefinitionBase,
    patches: &[ContainerPatch],
) -> Result<(), Failure> {
    let name = match base {
        TaskDefinitionBase::Family(name)
        | TaskDefinitionBase::Service { name, .. }
        | TaskDefinitionBase::File(name) => cx.resolve(name)?,
    };
    let changes: Vec<Value> = patches
        .iter()
        .map(|patch| {
            let environment: serde_json::Map<String, Value> = patch
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
                .collect();
            json!({ "name": patch.name, "image": patch.image, "environment": environment })
        })
        .collect();
    let path = cx.run.ecs_file(&format!("{name}-changes"));
    files::write_json(&path, &json!({ "containers": changes }), Access::Owner)?;
    cx.events
        .note("local mode does not read the current task definition from ECS; only the changes are written")
        .await;
    cx.events.result("planned", &name, path.display().to_string()).await;
    // The name stands for the family where only ECS knows that.
    cx.run.state().task_definitions.insert(name.clone(), name);
    Ok(())
}

fn patches(cx: &Context<'_>, definition: &TaskDefinition) -> Result<Vec<ContainerPatch>, Failure> {
    definition
        .containers
        .iter()
        .map(|(name, change)| {
            let image = change.image.as_ref().map(|image| cx.pushed_image(&image.value));
            Ok(ContainerPatch {
                name: name.clone(),
                image: image.transpose()?,
                environment: cx.resolve_pairs(&change.environment)?,
            })
        })
        .collect()
}

/// The document to start from; nothing where it lives in ECS and ECS is not asked.
async fn base(cx: &Context<'_>, base: &TaskDefinitionBase) -> Result<Option<Value>, Failure> {
    if let TaskDefinitionBase::File(file) = base {
        return from_file(&cx.path(file)?).map(Some);
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
    Ok(Some(aws.ecs_task_definition(&name).await?))
}

/// Reads a file of the source.
fn from_file(path: &Path) -> Result<Value, Failure> {
    let unreadable = |reason: String| {
        Failure::usage(format!("the task definition {} cannot be read: {reason}", path.display()))
            .help("`file` starts from the directory of the pipeline file")
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    task_definition::parse(&text).map_err(unreadable)
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
