//! What `runner ecs` asks of Amazon ECS.

use super::services::{Access, Services, Settings};
use crate::ecs::diff::compare;
use crate::ecs::task_definition::{self, Request};
use crate::exit::Failure;
use crate::secret::Masks;
use serde_json::Value;
use std::path::Path;

/// Reads a file with a task definition.
pub fn read(path: &Path) -> Result<Value, Failure> {
    let unreadable = |reason: String| {
        Failure::usage(format!("the task definition {} cannot be read: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    task_definition::parse(&text).map_err(unreadable)
}

/// How a request differs from what a service runs, as a unified diff; nothing where both mean the same.
pub async fn difference(
    settings: &Settings,
    masks: &Masks,
    cluster: &str,
    service: &str,
    request: &Request,
) -> Result<Option<String>, Failure> {
    let services = Services::alone(settings, masks);
    let aws = services.aws(&Access::default()).await?;
    let running = aws.ecs_service_task_definition(cluster, service).await?;
    let running = Request::from_document(aws.ecs_task_definition(&running).await?)?;
    Ok(compare(&running, request))
}
