//! `runner ecs status`.

use super::Session;
use crate::cli::stdio;
use crate::engine::deployment::short;
use crate::exit::{Exit, Failure};
use clap::Args;
use serde_json::Value;

/// Show what a service runs, since when, from which commit, and how its last deployments ended
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  runner ecs status --cluster prod --service webapp")]
pub(super) struct Status {
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

pub(super) fn main(arguments: &Status) -> Result<Exit, Failure> {
    let Status { cluster, service, json } = arguments;
    let session = Session::new()?;
    let ended = session.run(false, async |session| session.status(cluster, service).await)?;
    let status = session.masked_document(ended.unless_stopped()?);
    if *json {
        stdio::json(&status)?;
    } else {
        stdio::result(&text(&status))?;
    }
    Ok(Exit::Done)
}

fn text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let mut text = format!(
        "{} in {}: {}, {} of {} running",
        word(&status["service"]),
        word(&status["cluster"]),
        word(&status["status"]).to_lowercase(),
        status["running"],
        status["desired"]
    );
    if status["pending"] != 0 {
        text.push_str(&format!(", {} starting", status["pending"]));
    }
    let revision = short(&word(&status["taskDefinition"]));
    text.push_str(&format!("\nruns {revision} since {}", word(&status["since"])));
    if let Some(rollout) = status["rollout"].as_str().filter(|rollout| *rollout != "COMPLETED") {
        text.push_str(&format!(", {}", rollout.to_lowercase().replace('_', " ")));
    }
    if let Some(commit) = status["commit"].as_str() {
        text.push_str(&format!(", from commit {commit}"));
    }
    text.push('\n');
    for container in status["containers"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {} {}\n", word(&container["name"]), word(&container["image"])));
    }
    let deployments = status["deployments"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !deployments.is_empty() {
        text.push_str("last deployments\n");
    }
    for deployment in deployments {
        let revision = deployment["taskDefinition"].as_str().map_or_else(|| "?".to_owned(), short);
        let reason = deployment["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        let (created, outcome) = (word(&deployment["created"]), word(&deployment["outcome"]));
        text.push_str(&format!("  {created}  {revision}  {outcome}{reason}\n"));
    }
    text
}
