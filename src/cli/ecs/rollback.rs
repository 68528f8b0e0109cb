//! `runner ecs rollback`.

use super::TargetServices;
use super::invocation::Invocation;
use super::output::{Done, conclude};
use crate::cli::session::Session;
use crate::deployment::{AfterDeploy, DeployOptions, Deployer};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::OnFailure;
use clap::Args;
use std::time::Duration;

/// Roll services back to the revision that was deployed successfully before, and follow that to its end
#[derive(Debug, Args)]
#[command(after_help = "\
That is the revision of the last successful deployment other than the current one, not simply the next lower \
number.

Example:
  runner ecs rollback --cluster prod --service webapp --dry-run")]
pub(crate) struct Rollback {
    #[command(flatten)]
    target: TargetServices,
    /// How long it may take [default: 15m, plus the time for shifting traffic]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    wait: Option<Duration>,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn main(arguments: &Rollback, session: &Session) -> Result<Exit, Failure> {
    let Rollback { wait, dry_run, .. } = *arguments;
    let options = DeployOptions {
        wait,
        wait_includes_pauses: false,
        on_failure: OnFailure::Leave,
        force: false,
        after: AfterDeploy::default(),
    };
    let target = arguments.target.service_set();
    let invocation = Invocation::new(session)?;
    let command = async |deployer: &Deployer<'_>| {
        if dry_run {
            return deployer.plan_rollback(&target).await.map(Done::Planned);
        }
        deployer.apply_rollback(&target, &options).await.map(Done::Applied)
    };
    let done = invocation.run(!dry_run, command).await?;
    conclude(&session.printer, &done, &target.cluster, arguments.json)
}
