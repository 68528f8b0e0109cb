//! `runner ecs deploy`.

use super::{Changes, Ended, Invocation, Target};
use crate::cli::printer::Printer;
use crate::cli::session::Session;
use crate::deployment::commands::{Base, Done, Manner, Planned};
use crate::deployment::{Outcome, Wishes, read_definition, short};
use crate::duration;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::OnFailure;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Register a task definition, give it to services, and follow that to the end
#[derive(Debug, Args)]
#[command(
    after_help = "What is deployed is FILE, a revision that is registered, or else what the service runs, each with the changes that\n--image and --env name. A revision that means the same is not registered again, and a service that runs it is left alone.\n\nExit codes: 0 the services run it, 5 it failed and was rolled back, 6 it failed and was not, 7 it took too long and goes on,\n8 another deployment took its place.\n\nExamples:\n  runner ecs deploy --cluster prod --service webapp --image web=registry.example.com/webapp:v1\n  runner ecs deploy --cluster prod --service webapp --file taskdef.json --wait 10m --on-failure leave"
)]
pub(crate) struct Deploy {
    #[command(flatten)]
    target: Target,
    /// A task definition in JSON or YAML, in any shape that the AWS tools write
    #[arg(long, value_name = "TD.json", conflicts_with = "task_definition")]
    file: Option<PathBuf>,
    /// A revision that is registered: an ARN, FAMILY:N, or FAMILY for its latest
    #[arg(long, value_name = "ARN")]
    task_definition: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// How long the deployment may take; the way back gets the same time again [default: 15m, and what the service spends on shifting traffic]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// What happens to a deployment that fails or takes too long
    #[arg(long, value_enum, default_value_t = WhenItFails::Rollback)]
    on_failure: WhenItFails,
    /// Register and deploy also where nothing differs
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    then: Then,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    json: bool,
}

/// What is done once the services run the revision.
#[derive(Debug, Args)]
struct Then {
    /// Deregister older revisions than the last N that nothing uses, once the deployment is through
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    keep_revisions: Option<u32>,
    #[arg(
        long,
        help = "Point the family's scheduled tasks (EventBridge rules and Scheduler schedules) to the revision, once the deployment is through"
    )]
    schedules: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WhenItFails {
    Rollback,
    Leave,
}

pub(crate) async fn main(arguments: &Deploy, session: &Session) -> Result<Exit, Failure> {
    let base = match (&arguments.file, &arguments.task_definition) {
        (Some(file), _) => Base::Document(read_definition(file)?),
        (None, Some(revision)) => Base::Registered(revision.clone()),
        (None, None) => Base::Running,
    };
    let patch = arguments.changes.patch();
    let manner = Manner {
        wait: arguments.wait,
        on_failure: match arguments.on_failure {
            WhenItFails::Rollback => OnFailure::Rollback,
            WhenItFails::Leave => OnFailure::Leave,
        },
        force: arguments.force,
        dry_run: arguments.dry_run,
        wishes: Wishes { keep_revisions: arguments.then.keep_revisions, schedules: arguments.then.schedules },
    };
    let place = arguments.target.place();
    let ecs = Invocation::new(session)?;
    let done = ecs
        .run(!arguments.dry_run, async |session| session.deploy(&place, base, &patch, &manner).await)
        .await?;
    conclude(&session.printer, &done, &place.cluster, arguments.dry_run, arguments.json)
}

/// Prints what was done, or would be, and gives the exit code: that of the deployment, whether or not this can be printed.
pub(crate) fn conclude(
    printer: &Printer,
    Ended { value: done, stopped }: &Ended<Done>,
    cluster: &str,
    dry_run: bool,
    as_json: bool,
) -> Result<Exit, Failure> {
    let printed = if as_json {
        printer.json(&document(done, cluster, dry_run))
    } else if dry_run {
        printer.result(&plan(done))
    } else {
        let lines = done.reports.iter().filter(|report| report.exit() == Exit::Done);
        let lines = lines.map(|report| report.sentence() + "\n").collect::<String>();
        printer.result(&lines)
    };
    match stopped.clone().or_else(|| done.failure()) {
        Some(failure) => Err(failure),
        None => printed.map(|()| Exit::Done),
    }
}

fn plan(done: &Done) -> String {
    let mut text = done.difference.clone().unwrap_or_default();
    if done.registers {
        text.push_str(&format!("would register a revision of {}\n", done.revision));
    }
    let named = |revision: &str| {
        let name = short(revision);
        if done.registers { format!("the new revision of {name}") } else { name }
    };
    for Planned { service, has, gets } in &done.planned {
        let (has, gets) = (short(has), named(gets));
        text.push_str(&format!("would give {service} {gets} in place of {has}\n"));
    }
    for name in &done.after.moved {
        text.push_str(&format!("would point {name} to {}\n", named(&done.revision)));
    }
    for revision in &done.after.deregistered {
        text.push_str(&format!("would deregister {}\n", short(revision)));
    }
    if text.is_empty() {
        text.push_str("nothing would change\n");
    }
    text
}

fn document(done: &Done, cluster: &str, dry_run: bool) -> Value {
    let services: Vec<Value> = if dry_run {
        let of = |planned: &Planned| json!({ "service": planned.service, "taskDefinition": planned.has, "gets": planned.gets });
        done.planned.iter().map(of).collect()
    } else {
        done.reports
            .iter()
            .map(|report| {
                json!({
                    "service": report.service, "outcome": report.outcome,
                    "exit": (report.outcome != Outcome::Stopped).then(|| report.exit().code()),
                    "message": report.sentence(), "reason": report.reason, "previous": report.previous,
                    "deployment": report.deployment, "seconds": report.elapsed.as_secs_f64(),
                    "causes": report.groups.iter().map(|group| json!({
                        "cause": group.cause.sentence, "help": group.cause.help, "container": group.cause.container,
                        "tasks": group.tasks, "stopCode": group.stop_code, "reason": group.reason, "exitCode": group.exit_code,
                    })).collect::<Vec<_>>(),
                })
            })
            .collect()
    };
    json!({
        "version": 1, "dryRun": dry_run, "cluster": cluster, "taskDefinition": done.revision,
        "registered": done.registers, "difference": done.difference, "services": services,
        "moved": done.after.moved, "deregistered": done.after.deregistered,
        "failure": done.after.failure.as_ref().map(|failure| &failure.message),
    })
}
