//! `runner ecs status`.

use super::Invocation;
use crate::cli::session::Session;
use crate::deployment::commands::{self, Past, Running};
use crate::deployment::short;
use crate::exit::{Exit, Failure};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Show what a service runs, since when, from which commit, and how its last deployments ended
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  runner ecs status --cluster prod --service webapp")]
pub(crate) struct Status {
    /// The service's cluster
    #[arg(long)]
    cluster: String,
    /// The service
    #[arg(long)]
    service: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) async fn main(arguments: &Status, session: &Session) -> Result<Exit, Failure> {
    let Status { cluster, service, json } = arguments;
    let ecs = Invocation::new(session)?;
    let ended = ecs.run(false, async |session| session.status(cluster, service).await).await?;
    let status = ended.unless_stopped()?;
    if *json {
        session.printer.json(&document(cluster, &status))?;
    } else {
        session.printer.result(&text(cluster, &status))?;
    }
    Ok(Exit::Done)
}

fn document(cluster: &str, status: &commands::Status) -> Value {
    let commands::Status { service, last, containers } = status;
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let deployments = last.iter().map(|Past { deployment, revision }| {
        json!({
            "arn": deployment.arn, "outcome": deployment.state.to_string(), "reason": deployment.reason,
            "taskDefinition": revision, "created": time(deployment.created), "finished": time(deployment.finished),
        })
    });
    let containers = containers
        .iter()
        .map(|Running { name, image, commit }| json!({ "name": name, "image": image, "commit": commit }));
    json!({
        "version": 1, "cluster": cluster, "service": service.name, "status": service.status,
        "desired": service.desired, "running": service.running, "pending": service.pending,
        "taskDefinition": service.task_definition, "since": time(status.since()),
        "rollout": service.primary().and_then(|primary| primary.rollout.clone()), "commit": status.commit(),
        "containers": containers.collect::<Vec<_>>(), "deployments": deployments.collect::<Vec<_>>(),
    })
}

fn text(cluster: &str, status: &commands::Status) -> String {
    let commands::Status { service, last, containers } = status;
    let time = |at: Option<Timestamp>| at.map_or_else(|| "unknown".to_owned(), |at| at.to_string());
    let mut text = format!(
        "{} in {cluster}: {}, {} of {} running",
        service.name,
        service.status.to_lowercase(),
        service.running,
        service.desired
    );
    if service.pending != 0 {
        text.push_str(&format!(", {} starting", service.pending));
    }
    text.push_str(&format!("\nruns {} since {}", short(&service.task_definition), time(status.since())));
    let rollout = service.primary().and_then(|primary| primary.rollout.as_deref());
    if let Some(rollout) = rollout.filter(|rollout| *rollout != "COMPLETED") {
        text.push_str(&format!(", {}", rollout.to_lowercase().replace('_', " ")));
    }
    if let Some(commit) = status.commit() {
        text.push_str(&format!(", from commit {commit}"));
    }
    text.push('\n');
    for Running { name, image, .. } in containers {
        text.push_str(&format!("  {name} {image}\n"));
    }
    if !last.is_empty() {
        text.push_str("last deployments\n");
    }
    for Past { deployment, revision } in last {
        let revision = revision.as_deref().map_or_else(|| "?".to_owned(), short);
        let reason = deployment.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (created, outcome) = (time(deployment.created), &deployment.state);
        text.push_str(&format!("  {created}  {revision}  {outcome}{reason}\n"));
    }
    text
}
