//! `runner ecs status`.

use super::invocation::Invocation;
use crate::cli::session::Session;
use crate::deployment::{PastDeployment, RunningContainer, ServiceStatus, short};
use crate::exit::{Exit, Failure};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Show the revision that a service runs, since when, from which commit, and its last deployments
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
    let read = Invocation::new(session)?
        .run(false, async |deployer| deployer.status(cluster, service).await)
        .await?;
    let status = read.unless_stopped()?;
    if *json {
        session.printer.document(document(cluster, &status))?;
    } else {
        session.printer.result(&text(cluster, &status))?;
    }
    Ok(Exit::Done)
}

fn document(cluster: &str, status: &ServiceStatus) -> Value {
    let ServiceStatus { service, deployments, containers } = status;
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let deployments = deployments.iter().map(|PastDeployment { deployment, revision }| {
        json!({
            "arn": deployment.arn, "outcome": deployment.state.to_string(), "reason": deployment.reason,
            "taskDefinition": revision, "created": time(deployment.created), "finished": time(deployment.finished),
        })
    });
    let containers = containers.iter().map(
        |RunningContainer { name, image, commit }| json!({ "name": name, "image": image, "commit": commit }),
    );
    json!({
        "version": 1, "cluster": cluster, "service": service.name, "status": service.status,
        "desired": service.desired, "running": service.running, "pending": service.pending,
        "taskDefinition": service.task_definition, "since": time(status.since()),
        "rollout": service.primary().and_then(|primary| primary.rollout.clone()), "commit": status.commit(),
        "containers": containers.collect::<Vec<_>>(), "deployments": deployments.collect::<Vec<_>>(),
    })
}

fn text(cluster: &str, status: &ServiceStatus) -> String {
    let ServiceStatus { service, deployments, containers } = status;
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
    let revision = match service.task_definition.as_str() {
        "" => "no task definition of its own".to_owned(),
        revision => short(revision),
    };
    text.push_str(&format!("\nruns {revision} since {}", time(status.since())));
    let rollout = service.primary().and_then(|primary| primary.rollout.as_deref());
    if let Some(rollout) = rollout.filter(|rollout| *rollout != "COMPLETED") {
        text.push_str(&format!(", {}", rollout.to_lowercase().replace('_', " ")));
    }
    if let Some(commit) = status.commit() {
        text.push_str(&format!(", from commit {commit}"));
    }
    text.push('\n');
    for RunningContainer { name, image, .. } in containers {
        text.push_str(&format!("  {name} {image}\n"));
    }
    if !deployments.is_empty() {
        text.push_str("last deployments\n");
    }
    for PastDeployment { deployment, revision } in deployments {
        let revision = revision.as_deref().map_or_else(|| "?".to_owned(), short);
        let reason = deployment.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (created, outcome) = (time(deployment.created), &deployment.state);
        text.push_str(&format!("  {created}  {revision}  {outcome}{reason}\n"));
    }
    text
}
