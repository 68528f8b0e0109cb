//! `runner ecs deploy`.

use super::invocation::Invocation;
use super::output::{Done, conclude};
use super::{Changes, TargetServices};
use crate::cli::session::Session;
use crate::deployment::{AfterDeploy, DefinitionSource, DeployOptions, Deployer, read_definition};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::OnFailure;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Register a task definition, deploy it to services, and follow the deployment to its end
#[derive(Debug, Args)]
#[command(after_help = "\
Deploys FILE, a registered revision, or by default the revision that the first service runs, with the changes \
of --image and --env. A revision with the same content is not registered again, and a service that already runs \
it is not changed.

Exit codes: 0 the services run the revision, 5 failed and rolled back, 6 failed and not rolled back, \
7 timed out and still deploying, 8 superseded by another deployment.

Examples:
  runner ecs deploy --cluster prod --service webapp --image web=registry.example.com/webapp:v1
  runner ecs deploy --cluster prod --service webapp --file taskdef.json --wait 10m --on-failure leave")]
pub(crate) struct Deploy {
    #[command(flatten)]
    target: TargetServices,
    /// A task definition in JSON or YAML, in any shape that the AWS tools write
    #[arg(long, value_name = "TD.json", conflicts_with = "task_definition")]
    file: Option<PathBuf>,
    /// A registered revision: an ARN, FAMILY:N, or FAMILY for its latest
    #[arg(long, value_name = "ARN")]
    task_definition: Option<String>,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    limit: LimitArguments,
    /// What to do with a deployment that fails or takes too long
    #[arg(long, value_enum, default_value_t = FailureAction::Rollback)]
    on_failure: FailureAction,
    /// Register and deploy even if nothing differs
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    after: AfterArguments,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

/// The time limit of the deployment.
#[derive(Debug, Args)]
struct LimitArguments {
    /// How long the deployment may take, and a rollback after it [default: 15m, plus the time for shifting
    /// traffic]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_argument)]
    wait: Option<Duration>,
    /// Count the time in which a lifecycle hook pauses the deployment against --wait
    #[arg(long)]
    wait_includes_pauses: bool,
}

/// The options for what follows a successful deployment.
#[derive(Debug, Args)]
struct AfterArguments {
    /// After the deployment, deregister unused revisions other than the newest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep_revisions: Option<u32>,
    #[arg(
        long,
        help = "After the deployment, move the family's scheduled tasks (EventBridge rules and Scheduler \
                schedules) to the revision"
    )]
    schedules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FailureAction {
    Rollback,
    Leave,
}

pub(crate) async fn main(arguments: &Deploy, session: &Session) -> Result<Exit, Failure> {
    let source = match (&arguments.file, &arguments.task_definition) {
        (Some(file), _) => DefinitionSource::File(read_definition(file)?),
        (None, Some(revision)) => DefinitionSource::Registered(revision.clone()),
        (None, None) => DefinitionSource::Running,
    };
    let patch = arguments.changes.patch()?;
    let options = DeployOptions {
        wait: arguments.limit.wait,
        wait_includes_pauses: arguments.limit.wait_includes_pauses,
        on_failure: match arguments.on_failure {
            FailureAction::Rollback => OnFailure::Rollback,
            FailureAction::Leave => OnFailure::Leave,
        },
        force: arguments.force,
        after: AfterDeploy {
            keep_revisions: arguments.after.keep_revisions,
            schedules: arguments.after.schedules,
        },
    };
    let target = arguments.target.service_set();
    let invocation = Invocation::new(session)?;
    let command = async |deployer: &Deployer<'_>| {
        if arguments.dry_run {
            return deployer.plan(&target, source, &patch, &options).await.map(Done::Planned);
        }
        deployer.register_and_deploy(&target, source, &patch, &options).await.map(Done::Applied)
    };
    let done = invocation.run(!arguments.dry_run, command).await?;
    conclude(&session.printer, &done, &target.cluster, arguments.json)
}
