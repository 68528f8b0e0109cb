//! `runner ecs rollback`.

use super::deploy::conclude;
use super::{Invocation, Target};
use crate::cli::session::Session;
use crate::deployment::Wishes;
use crate::deployment::commands::Manner;
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::OnFailure;
use clap::Args;
use std::time::Duration;

/// Give services the revision back that was deployed successfully before, and follow that to the end
#[derive(Debug, Args)]
#[command(
    after_help = "That is the last revision with a successful deployment that the service does not have now, not simply the number before.\n\nExample:\n  runner ecs rollback --cluster prod --service webapp --dry-run"
)]
pub(crate) struct Rollback {
    #[command(flatten)]
    target: Target,
    /// How long it may take [default: 15m, and what the service spends on shifting traffic]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn main(arguments: &Rollback, session: &Session) -> Result<Exit, Failure> {
    let Rollback { wait, dry_run, .. } = *arguments;
    let manner =
        Manner { wait, on_failure: OnFailure::Leave, force: false, dry_run, wishes: Wishes::default() };
    let place = arguments.target.place();
    let ecs = Invocation::new(session)?;
    let done = ecs.run(!dry_run, async |session| session.roll_back(&place, &manner).await).await?;
    conclude(&session.printer, &done, &place.cluster, dry_run, arguments.json)
}
