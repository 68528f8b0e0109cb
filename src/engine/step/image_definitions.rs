//! `image-definitions`: the two files that CodePipeline's deploy actions read.
//!
//! Source: the CodePipeline user guide, "Image definitions file reference".

use super::Context;
use crate::exit::Failure;
use crate::files::{self, Access};
use crate::pipeline::model::Name;
use crate::plan::Mode;
use indexmap::IndexMap;
use serde::Serialize;

/// One container of `imagedefinitions.json`, for the ECS action.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageDefinition<'a> {
    name: &'a str,
    image_uri: &'a str,
}

/// `imageDetail.json`, for CodeDeploy's blue/green action.
#[derive(Serialize)]
struct ImageDetail<'a> {
    #[serde(rename = "ImageURI")]
    image_uri: &'a str,
}

pub(super) async fn run(cx: &Context<'_>, pairs: &IndexMap<String, Name>) -> Result<(), Failure> {
    let mut uris = Vec::new();
    for (container, image) in pairs {
        uris.push((container.as_str(), cx.pushed_image(&image.value)?));
    }
    let definitions: Vec<_> =
        uris.iter().map(|(name, image_uri)| ImageDefinition { name, image_uri }).collect();
    let directory = match cx.run.job.mode {
        Mode::Local => cx.run.work.path.clone(),
        Mode::Publish => cx.run.job.artifacts.clone(),
    };
    let path = directory.join("imagedefinitions.json");
    files::write_json(&path, &definitions, Access::Everybody)?;
    // This file holds one image: the first that the pipeline names.
    if let Some((_, image_uri)) = uris.first() {
        let detail = ImageDetail { image_uri };
        files::write_json(&directory.join("imageDetail.json"), &detail, Access::Everybody)?;
    }
    let containers: Vec<&str> = pairs.keys().map(String::as_str).collect();
    let events = &cx.events;
    events.result("wrote", containers.join(", "), path.display().to_string()).await;
    Ok(())
}
