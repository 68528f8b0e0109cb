//! `runner ecs diff`.

use super::{Definition, Invocation};
use crate::cli::session::Session;
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

pub(crate) async fn main(arguments: &Diff, session: &Session) -> Result<Exit, Failure> {
    let request = arguments.definition.request(&session.printer)?;
    let Diff { cluster, service, .. } = arguments;
    let ecs = Invocation::new(session)?;
    // 1 is for a difference.
    let is_unknown = |failure: Failure| Failure {
        exit: if failure.exit == Exit::StepFailed { Exit::Environment } else { failure.exit },
        ..failure
    };
    let ended = ecs
        .run(false, async |session| session.difference(cluster, service, &request).await.map_err(is_unknown))
        .await?;
    match ended.unless_stopped()? {
        None => {
            session.printer.message("no difference");
            Ok(Exit::Done)
        }
        Some(text) => {
            session.printer.result(&text)?;
            Ok(Exit::StepFailed)
        }
    }
}
