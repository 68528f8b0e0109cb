//! `runner ecs diff`.

use super::DefinitionArguments;
use super::invocation::Invocation;
use crate::cli::session::Session;
use crate::exit::{Exit, Failure};
use clap::Args;

/// Show how a task definition differs from the revision that a service runs; exits with 0 if they are the
/// same, 1 if they differ
#[derive(Debug, Args)]
#[command(after_help = "\
Only content counts: the order of variables, defaults that ECS adds, and notations such as `0.25 vCPU` for 256 \
are no difference.

Exit codes:
  0  no difference
  1  differences, which are on stdout
  2  bad usage, or an invalid task definition
  3  something is missing: credentials, a permission, the network, the service

Example:
  runner ecs diff --cluster prod --service webapp --file taskdef.json --image web=registry.example.com/webapp:v1")]
pub(crate) struct Diff {
    /// The service's cluster
    #[arg(long)]
    cluster: String,
    /// The service
    #[arg(long)]
    service: String,
    #[command(flatten)]
    definition: DefinitionArguments,
}

pub(crate) async fn main(arguments: &Diff, session: &Session) -> Result<Exit, Failure> {
    let request = arguments.definition.request(&session.printer)?;
    let Diff { cluster, service, .. } = arguments;
    let compared = Invocation::new(session)?
        .run(false, async |deployer| deployer.difference(cluster, service, &request).await)
        .await;
    // Exit code 1 is reserved for a difference.
    let compared = compared.map_err(|failure| match failure.exit {
        Exit::StepFailed => Failure { exit: Exit::Environment, ..failure },
        _ => failure,
    })?;
    match compared.unless_stopped()? {
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
