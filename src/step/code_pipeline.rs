//! The files that `CodePipeline`'s deploy actions read, within their limits.
//!
//! Sources: the `CodePipeline` user guide, "Image definitions file reference", "Quotas" and "Amazon ECS and `CodeDeploy` blue-green
//! deploy action reference"; the quotas of Amazon ECS.

use super::StepScope;
use crate::ecs::appspec::{AppSpec, IMAGE, TASK_DEFINITION};
use crate::ecs::needs::unreachable;
use crate::ecs::service::Target;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::event::{Events, Kind, WrittenFile};
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::CodePipeline;
use crate::plan::Mode;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// How large `imagedefinitions.json` may be, in bytes.
const DEFINITIONS: usize = 100 * 1024;
/// How large a task definition may be, in bytes, without blanks between its parts.
const TASK_DEFINITION_SIZE: usize = 64 * 1024;

/// The largest `AppSpec` that is looked into, in bytes.
const LARGEST_SPEC: u64 = 1024 * 1024;
/// How an `AppSpec` begins that is not somebody else's.
const OWN: &str = "# Written by runner.";

/// `imageDetail.json`, for the action of `CodeDeploy`. Its name is fixed.
#[derive(Serialize)]
struct ImageDetail<'a> {
    #[serde(rename = "ImageURI")]
    image_uri: &'a str,
}

/// Where the files go.
fn path(cx: &StepScope<'_>, name: &str) -> PathBuf {
    match cx.project.mode {
        Mode::Local => cx.work.path.join(name),
        Mode::Publish => cx.project.artifacts.join(name),
    }
}

/// Whether somebody has written this `AppSpec`, with hooks perhaps. One that does not ask for the revision is of no use here.
fn is_of_source(path: &Path) -> bool {
    let text = files::read_small(path, LARGEST_SPEC).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| !text.starts_with(OWN) && text.contains(TASK_DEFINITION))
}

/// Writes `imagedefinitions.json`, for the action of ECS.
pub(crate) fn image_definitions(
    cx: &StepScope<'_>,
    definitions: &[impl Serialize],
) -> Result<PathBuf, Failure> {
    let path = path(cx, "imagedefinitions.json");
    let text = serde_json::to_vec_pretty(definitions).unwrap_or_default();
    if text.len() >= DEFINITIONS {
        let message = format!(
            "imagedefinitions.json would have {} KB, and CodePipeline takes 100 KB",
            text.len().div_ceil(1024)
        );
        return Err(Failure::usage(message).help(
            "it is for the containers of one task definition, of which ECS takes ten: name only those",
        ));
    }
    files::write_json(&path, &definitions, Access::Everybody)?;
    Ok(path)
}

/// The event about files that were written for another tool.
pub(crate) fn written(events: &Events, subject: &str, path: &str, what: WrittenFile) -> Kind {
    Kind::FileWritten { subject: events.shown(subject), path: events.shown(path), what }
}

/// Writes `imageDetail.json`. This file holds one image.
pub(crate) fn image_detail(cx: &StepScope<'_>, image_uri: &str) -> Result<(), Failure> {
    files::write_json(&path(cx, "imageDetail.json"), &ImageDetail { image_uri }, Access::Everybody)?;
    Ok(())
}

/// Writes what the action of `CodeDeploy` deploys: the task definition with a placeholder for the image of one container, and the
/// `AppSpec` with one for the revision. `image` is what that container gets, where the step says it.
pub(crate) async fn blue_green(
    cx: &StepScope<'_>,
    wanted: &CodePipeline,
    mut request: Request,
    image: Option<&str>,
) -> Result<(), Failure> {
    let container = &wanted.container.value;
    let target = Target { group: String::new(), container: container.clone(), port: i32::from(wanted.port) };
    if let Some(reason) = unreachable(request.fields(), &target) {
        let problem = Diagnostic::new(reason, wanted.container.span);
        return Err(cx.project.located(&problem.help("correct it here, or the container's `portMappings`")));
    }
    let placeholder = ContainerPatch {
        name: container.clone(),
        image: Some(IMAGE.to_owned()),
        ..ContainerPatch::default()
    };
    request.apply(&Patch { containers: vec![placeholder], ..Patch::default() })?;
    let definition = request.into_json();
    let size = definition.to_string().len();
    if size > TASK_DEFINITION_SIZE {
        let message = format!("taskdef.json would have {} KB, and ECS takes 64 KB", size.div_ceil(1024));
        return Err(Failure::usage(message).help("move long values to Parameter Store or Secrets Manager"));
    }
    let spec = AppSpec {
        task_definition: TASK_DEFINITION.to_owned(),
        target: Some((container.clone(), i32::from(wanted.port))),
        ..AppSpec::default()
    };
    let (taskdef, appspec) = (path(cx, "taskdef.json"), path(cx, "appspec.yaml"));
    files::write_json(&taskdef, &definition, Access::Everybody)?;
    if is_of_source(&appspec) {
        cx.events.note(format!("{} of the source is kept", appspec.display())).await;
    } else {
        files::write_whole(&appspec, format!("{OWN}\n{}", spec.yaml()).as_bytes(), Access::Everybody)?;
    }
    if let Some(image) = image {
        image_detail(cx, image)?;
    }
    let detail = format!("{}, {}", taskdef.display(), appspec.display());
    cx.events.send(written(&cx.events, container, &detail, WrittenFile::TaskDefinition)).await;
    cx.events.note("CodePipeline registers this revision and deploys it; nothing was registered here").await;
    Ok(())
}
