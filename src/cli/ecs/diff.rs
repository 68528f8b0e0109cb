//! `runner ecs diff`.

use super::{Definition, Session};
use crate::cli::stdio;
use crate::exit::{Exit, Failure};
use clap::Args;

/// Show how a task definition differs from what a service runs; exit 0 where it does not, 1 where it does
#[derive(Debug, Args)]
#[command(
    after_help = "What means the same is no difference: the order of variables, what ECS adds by itself, `0.25 vCPU` and 256.\n\nExample:\n  runner ecs diff --cluster prod --service webapp --file taskdef.json --image web=registry.example.com/webapp:v1"
)]
pub(crate) struct Diff {
    /// The service's cluster
    #[arg(long)]
    cluster: String,
    /// The service
    #[arg(long)]
    service: String,
    #[command(flatten)]
    definition: Definition,
}

pub(crate) fn main(arguments: &Diff) -> Result<Exit, Failure> {
    let request = arguments.definition.request()?;
    let Diff { cluster, service, .. } = arguments;
    let session = Session::new()?;
    // 1 is for a difference.
    let is_unknown = |failure: Failure| Failure {
        exit: if failure.exit == Exit::StepFailed { Exit::Environment } else { failure.exit },
        ..failure
    };
    let ended = session.run(false, async |session| {
        session.difference(cluster, service, &request).await.map_err(is_unknown)
    })?;
    match ended.unless_stopped()? {
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
