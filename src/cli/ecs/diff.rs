//! `runner ecs diff`.

use super::Definition;
use crate::cli::{load, stdio};
use crate::engine::ecs::difference;
use crate::exit::{Exit, Failure};
use crate::secret::Masks;
use clap::Args;

/// Show how a task definition differs from what a service runs; exit 0 where it does not, 1 where it does
#[derive(Debug, Args)]
#[command(
    after_help = "What means the same is no difference: the order of variables, what ECS adds by itself, `0.25 vCPU` and 256.\n\nExample:\n  runner ecs diff --cluster prod --service webapp --file taskdef.json --image web=registry.example.com/webapp:v1"
)]
pub(super) struct Diff {
    /// The service's cluster
    #[arg(long)]
    cluster: String,
    /// The service
    #[arg(long)]
    service: String,
    #[command(flatten)]
    definition: Definition,
}

pub(super) fn main(arguments: &Diff) -> Result<Exit, Failure> {
    let request = arguments.definition.request()?;
    let settings = load::settings(&load::process())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::environment(format!("cannot start: {error}")))?;
    let masks = Masks::default();
    let Diff { cluster, service, .. } = arguments;
    match runtime.block_on(difference(&settings, &masks, cluster, service, &request))? {
        None => {
            stdio::text("no difference");
            Ok(Exit::Done)
        }
        Some(text) => {
            stdio::result(&text)?;
            Ok(Exit::StepFailed)
        }
    }
}
