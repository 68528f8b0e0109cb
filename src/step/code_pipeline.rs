//! The files that `CodePipeline`'s deploy actions read, within their limits.
//!
//! Sources: the `CodePipeline` user guide, "Image definitions file reference", "Quotas" and "Amazon ECS and
//! `CodeDeploy` blue-green deploy action reference"; the quotas of Amazon ECS.

use super::StepScope;
use crate::deployment::results;
use crate::ecs::appspec::{AppSpec, IMAGE, TASK_DEFINITION};
use crate::ecs::needs::unreachable;
use crate::ecs::service::TargetGroup;
use crate::ecs::task_definition::{ContainerPatch, Patch, Request};
use crate::event::WrittenFile;
use crate::exit::Failure;
use crate::files::{self, Readers};
use crate::language::diagnostic::Diagnostic;
use crate::language::pipeline::model::CodePipeline;
use crate::plan::Mode;
use crate::work;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The maximum size of `imagedefinitions.json`, in bytes.
const DEFINITIONS: usize = 100 * 1024;
/// The maximum size of a task definition as compact JSON, in bytes.
const TASK_DEFINITION_SIZE: usize = 64 * 1024;

/// The largest `AppSpec` that is read, in bytes.
const LARGEST_SPEC: u64 = 1024 * 1024;
/// The file in `.runner/` of the directory for these files that says which pipeline has written them, and its largest
/// size in bytes.
const WRITTEN: &str = "artifacts.json";
const MAX_WRITTEN: u64 = 64 * 1024;
/// The first line of an `AppSpec` that runner wrote.
const OWN: &str = "# Written by runner.";

/// `imageDetail.json`, for the `CodeDeploy` action. Its name is fixed.
#[derive(Serialize)]
struct ImageDetail<'a> {
    #[serde(rename = "ImageURI")]
    image_uri: &'a str,
}

/// The files that the pipelines of a build have written, each with its pipeline file.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    build: String,
    files: BTreeMap<String, PathBuf>,
}

/// Takes the names of files for this pipeline. Fails if another pipeline of the same build in CodeBuild has written one
/// of them, which would be replaced: CodePipeline gets only what is there at the end.
fn claim(cx: &StepScope<'_>, names: &[&str]) -> Result<(), Failure> {
    let (Some(build), Mode::Publish) = (&cx.project.context.build_id, cx.project.mode) else {
        return Ok(());
    };
    let directory = work::open(&cx.project.artifacts)?;
    let path = directory.path().join(WRITTEN);
    let unusable = |error: io::Error| work::unusable(&path, &error);
    let mut file = directory.file(WRITTEN, OFlags::RDWR | OFlags::CREATE, 0o666).map_err(unusable)?;
    // Pipelines in different directories may run at the same time.
    file.lock().map_err(unusable)?;
    let mut text = String::new();
    (&file).take(MAX_WRITTEN).read_to_string(&mut text).map_err(unusable)?;
    let known = serde_json::from_str(&text).unwrap_or_default();
    let mut written = Some(known).filter(|known: &Written| known.build == *build).unwrap_or_default();
    written.build.clone_from(build);
    for name in names {
        let other = written.files.insert((*name).to_owned(), cx.project.file.clone());
        // A command of the other pipeline may have moved it to where CodePipeline looks for it.
        let other =
            other.filter(|other| *other != cx.project.file && cx.project.artifacts.join(name).exists());
        if let Some(other) = other {
            let (own, other) = (cx.project.file.display(), other.display());
            let message = format!("{own} would replace {name}, which {other} has written in this build");
            return Err(Failure::usage(message).help(format!(
                "CodePipeline would get only the last one: rename or remove the first in a `run` step of {other} \
                 (`mv {name} …`, and give the action that name), or put both into one pipeline"
            )));
        }
    }
    let text = serde_json::to_vec(&written).unwrap_or_default();
    file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(&text)).map_err(unusable)
}

/// Returns the path of a file: an artifact when publishing, a work file in local mode.
fn path(cx: &StepScope<'_>, name: &str) -> PathBuf {
    match cx.project.mode {
        Mode::Local => cx.work.directory.path().join(name),
        Mode::Publish => cx.project.artifacts.join(name),
    }
}

/// Whether an `AppSpec` belongs to the source, perhaps with hooks. One without the placeholder for the
/// revision is not usable.
fn is_of_source(path: &Path) -> bool {
    let text = files::read_small(path, LARGEST_SPEC).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| !text.starts_with(OWN) && text.contains(TASK_DEFINITION))
}

/// Writes `imagedefinitions.json`, for the ECS action.
pub(crate) fn image_definitions(
    cx: &StepScope<'_>,
    definitions: &[impl Serialize],
) -> Result<PathBuf, Failure> {
    let path = path(cx, "imagedefinitions.json");
    let text = serde_json::to_vec_pretty(definitions).unwrap_or_default();
    if text.len() >= DEFINITIONS {
        let message = format!(
            "imagedefinitions.json would have {} KB, but CodePipeline accepts at most 100 KB",
            text.len().div_ceil(1024)
        );
        return Err(Failure::usage(message)
            .help("name only the containers of one task definition; ECS accepts ten of them"));
    }
    claim(cx, &["imagedefinitions.json", "imageDetail.json"])?;
    files::write_json(&path, &definitions, Readers::All)?;
    Ok(path)
}

/// Writes `imageDetail.json`, which holds one image.
pub(crate) fn image_detail(cx: &StepScope<'_>, image_uri: &str) -> Result<(), Failure> {
    files::write_json(&path(cx, "imageDetail.json"), &ImageDetail { image_uri }, Readers::All)?;
    Ok(())
}

/// Writes the files of the `CodeDeploy` action: the task definition with a placeholder for the image of one
/// container, and the `AppSpec` with a placeholder for the revision. `image` is the image of that container,
/// if the step sets it.
pub(crate) async fn blue_green(
    cx: &StepScope<'_>,
    wanted: &CodePipeline,
    mut request: Request,
    image: Option<&str>,
) -> Result<(), Failure> {
    let container = &wanted.container.value;
    let target =
        TargetGroup { group: String::new(), container: container.clone(), port: i32::from(wanted.port) };
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
        let message =
            format!("taskdef.json would have {} KB, but ECS accepts at most 64 KB", size.div_ceil(1024));
        return Err(Failure::usage(message).help("move long values to Parameter Store or Secrets Manager"));
    }
    let spec = AppSpec {
        task_definition: TASK_DEFINITION.to_owned(),
        target: Some((container.clone(), i32::from(wanted.port))),
        ..AppSpec::default()
    };
    let (taskdef, appspec) = (path(cx, "taskdef.json"), path(cx, "appspec.yaml"));
    let keeps_spec = is_of_source(&appspec);
    let names =
        [Some("taskdef.json"), (!keeps_spec).then_some("appspec.yaml"), image.map(|_| "imageDetail.json")];
    claim(cx, &names.into_iter().flatten().collect::<Vec<_>>())?;
    files::write_json(&taskdef, &definition, Readers::All)?;
    if keeps_spec {
        cx.events.note(format!("keeping {} of the source", appspec.display())).await;
    } else {
        files::write_whole(&appspec, format!("{OWN}\n{}", spec.yaml()).as_bytes(), Readers::All)?;
    }
    if let Some(image) = image {
        image_detail(cx, image)?;
    }
    results::wrote(&cx.events, &[container], &[&taskdef, &appspec], WrittenFile::TaskDefinition).await;
    cx.events.note("CodePipeline registers and deploys this revision; runner registered nothing").await;
    Ok(())
}
