//! `image-definitions`: the two files that `CodePipeline`'s deploy actions read.

use super::{StepScope, code_pipeline};
use crate::event::WrittenFile;
use crate::exit::Failure;
use crate::language::pipeline::model::Name;
use indexmap::IndexMap;
use serde::Serialize;

/// One container of `imagedefinitions.json`, for the ECS action.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageDefinition<'a> {
    name: &'a str,
    image_uri: &'a str,
}

pub(crate) async fn run(cx: &StepScope<'_>, pairs: &IndexMap<String, Name>) -> Result<(), Failure> {
    let mut uris = Vec::new();
    for (container, image) in pairs {
        uris.push((container.as_str(), cx.pushed_image(&image.value)?));
    }
    let definitions: Vec<_> =
        uris.iter().map(|(name, image_uri)| ImageDefinition { name, image_uri }).collect();
    let path = code_pipeline::image_definitions(cx, &definitions)?;
    // The first image that the pipeline names.
    if let Some((_, image_uri)) = uris.first() {
        code_pipeline::image_detail(cx, image_uri)?;
    }
    let containers: Vec<&str> = pairs.keys().map(String::as_str).collect();
    let events = &cx.events;
    let (subject, path) = (containers.join(", "), path.display().to_string());
    events.send(code_pipeline::written(events, &subject, &path, WrittenFile::ImageDefinitions)).await;
    Ok(())
}
