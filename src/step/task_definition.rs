//! `task-definition`: registers a revision, made from a file, a family's latest revision or the revision of a
//! service.

use super::{StepScope, code_pipeline, deploy};
use crate::address::ImageReference;
use crate::deployment::{Registered, definition_of, deployable, read_definition, results};
use crate::ecs::needs::Needs;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::exit::Failure;
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::{ContainerChange, Step, TaskDefinition, TaskDefinitionBase};
use crate::language::pipeline::template::Template;
use crate::plan::Mode;
use serde_json::{Map, Value, json};

/// The help for a file that cannot be read.
const HELP: &str = "`file` is relative to the directory of the pipeline file";

pub(crate) async fn run(cx: &StepScope<'_>, step: &Step, definition: &TaskDefinition) -> Result<(), Failure> {
    let patch = patch(cx, definition)?;
    let Some(base) = base(cx, &definition.base).await? else {
        return planned(cx, definition, &patch).await;
    };
    let mut request = base.request;
    if let TaskDefinitionBase::File(file) = &definition.base {
        check_images(&cx.request(file)?, definition, &request)?;
    }
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
            let path = cx.work.write_ecs(&family, &request.into_json())?;
            results::rendered(&cx.events, &family, &path).await;
            family.clone()
        }
        Mode::Publish => {
            let aws = cx.aws().await?;
            let check = deploy::check_services(cx, step, &family);
            let deployer = cx.deployer(&aws)?;
            deployer.register_after(check, base.registered, &request, definition.force).await?.revision
        }
    };
    cx.shared.results().task_definitions.insert(family, registered);
    Ok(())
}

/// Refuses images in a file that cannot be pulled, of containers that keep them.
fn check_images(file: &str, definition: &TaskDefinition, request: &Request) -> Result<(), Failure> {
    for (container, image) in Needs::of(request.fields()).images {
        // The verification warns about a placeholder.
        if definition.keeps_image(&container)
            && !ImageReference::is_placeholder(&image)
            && let Err(error) = ImageReference::checked(&image)
        {
            let message = format!("{file}: the image `{image}` of the container `{container}`: {error}");
            return Err(Failure::usage(message).help(format!(
                "correct it in the file, or write `image` for the container `{container}` in the step"
            )));
        }
    }
    Ok(())
}

/// The task definition that a revision is made from.
struct Base {
    request: Request,
    /// The same as a registered revision, if it is one.
    registered: Option<Registered>,
}

/// Writes the changes to a file. Local mode does not ask AWS, so the revision that they apply to is unknown.
async fn planned(cx: &StepScope<'_>, definition: &TaskDefinition, patch: &Patch) -> Result<(), Failure> {
    let name = match &definition.base {
        TaskDefinitionBase::Family(name)
        | TaskDefinitionBase::Service { name, .. }
        | TaskDefinitionBase::File(name) => cx.request(name)?,
    };
    let changes = json!({
        "containers": patch.containers.iter().map(planned_container).collect::<Vec<_>>(),
        "taskRoleArn": patch.task_role,
        "executionRoleArn": patch.execution_role,
        "cpu": patch.cpu,
        "memory": patch.memory,
        "tags": object(&patch.tags),
    });
    let path = cx.work.write_ecs(&format!("{name}-changes"), &without_nulls(changes))?;
    cx.events
        .note("local mode does not read the current task definition from ECS; only the changes are written")
        .await;
    results::planned_changes(&cx.events, &name, &path).await;
    if !definition.registers() {
        cx.events.note("taskdef.json and appspec.yaml are written when publishing").await;
        return Ok(());
    }
    // Only ECS knows the family, so the name is used in its place.
    cx.shared.results().task_definitions.insert(name.clone(), name);
    Ok(())
}

fn planned_container(patch: &ContainerPatch) -> Value {
    without_nulls(json!({
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

/// Returns pairs as an object, or `None` if there are none.
fn object(pairs: &[(String, String)]) -> Option<Map<String, Value>> {
    let fields = pairs.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    (!pairs.is_empty()).then(|| fields.collect())
}

/// Removes the null fields of an object.
fn without_nulls(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

fn patch(cx: &StepScope<'_>, definition: &TaskDefinition) -> Result<Patch, Failure> {
    let text = |template: &Option<Template>| template.as_ref().map(|text| cx.request(text)).transpose();
    let number = |template: &Option<Template>| {
        let Some(template) = template else { return Ok(None) };
        let text = cx.request(template)?;
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
            environment: cx.request_pairs(&change.environment)?,
            replace_environment: change.replace_environment,
            secrets: cx.request_pairs(&change.secrets)?,
            command: change.command.as_ref().map(|command| cx.request_all(command)).transpose()?,
            cpu: number(&change.cpu)?,
            memory: number(&change.memory)?,
            log_options: cx.request_pairs(&change.log_options)?,
            labels: cx.request_pairs(&change.labels)?,
        })
    };
    Ok(Patch {
        containers: definition.containers.iter().map(container).collect::<Result<_, Failure>>()?,
        task_role: text(&definition.task_role)?,
        execution_role: text(&definition.execution_role)?,
        cpu: text(&definition.cpu)?,
        memory: text(&definition.memory)?,
        tags: cx.request_pairs(&definition.tags)?,
    })
}

/// Returns the document to start from, or `None` if only ECS has it and ECS is not asked.
async fn base(cx: &StepScope<'_>, base: &TaskDefinitionBase) -> Result<Option<Base>, Failure> {
    if let TaskDefinitionBase::File(file) = base {
        return Ok(Some(Base {
            request: read_definition(&cx.path(file)?).map_err(|failure| match failure.help {
                None => failure.help(HELP),
                Some(_) => failure,
            })?,
            registered: None,
        }));
    }
    if cx.project.mode == Mode::Local {
        return Ok(None);
    }
    let aws = cx.aws().await?;
    let name = match base {
        TaskDefinitionBase::Family(family) => cx.request(family)?,
        TaskDefinitionBase::Service { cluster, name } => {
            let (cluster, service) = (cx.request(cluster)?, cx.request(name)?);
            let service = aws.ecs_service(&cluster, &service).await?;
            deployable(&service)?;
            definition_of(&service)?.to_owned()
        }
        TaskDefinitionBase::File(_) => return Ok(None),
    };
    let document = aws.ecs_task_definition(&name).await?;
    let registered = Registered::read(&document);
    Ok(Some(Base { request: Request::from_document(document)?, registered }))
}
