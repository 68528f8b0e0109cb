//! The results of deployments, tasks and registrations: one function for each kind.

use super::outcome::{Outcome, ServiceReport};
use super::short;
use crate::ecs::revisions::Revision;
use crate::event::Events;
use std::path::Path;
use std::time::Duration;

/// A revision was registered.
pub(crate) async fn registered(events: &Events, revision: &Revision) {
    events.result("registered", revision.short(), &revision.arn).await;
}

/// An existing revision has the same content.
pub(crate) async fn unchanged(events: &Events, revision: &Revision) {
    events.result("unchanged", revision.short(), "same content; no new revision registered").await;
}

/// A task definition was written to a file, in local mode.
pub(crate) async fn rendered(events: &Events, family: &str, path: &Path) {
    events.result("rendered", family, path.display().to_string()).await;
}

/// The changes to a task definition were written to a file, in local mode.
pub(crate) async fn planned_changes(events: &Events, family: &str, path: &Path) {
    events.result("planned", family, path.display().to_string()).await;
}

/// The deployment of a service was written to a file, in local mode.
pub(crate) async fn planned_deployment(events: &Events, service: &str, family: &str) {
    events.result("planned", service, format!("would run a new revision of {family}")).await;
}

/// A task was written to a file, in local mode.
pub(crate) async fn planned_task(events: &Events, family: &str, cluster: &str) {
    events.result("planned", family, format!("would run once in {cluster}")).await;
}

/// The files that `CodePipeline` deploys were written for these containers.
pub(crate) async fn wrote(events: &Events, containers: &[&str], paths: &[&Path]) {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    events.result("wrote", containers.join(", "), paths.join(", ")).await;
}

/// A deployment has ended. A failed one has no result: its failure says the same.
pub(crate) async fn deployment(events: &Events, cluster: &str, report: &ServiceReport) {
    let (service, revision) = (&report.service, short(&report.revision));
    match report.outcome {
        Outcome::Deployed => {
            let seconds = report.elapsed.as_secs_f64();
            events.result("deployed", service, format!("{cluster} · {revision} in {seconds:.0} s")).await;
        }
        Outcome::Unchanged => {
            events.result("unchanged", service, format!("{cluster} · already runs {revision}")).await;
        }
        Outcome::Unconfirmed => {
            let detail = format!("{cluster} · {revision}; the deployment's progress is unknown");
            events.result("updated", service, detail).await;
        }
        _ => {}
    }
}

/// A schedule or rule starts another revision from now on.
pub(crate) async fn moved(events: &Events, schedule: &str, from: &str, to: &str) {
    events.result("moved", schedule, format!("starts {} instead of {}", short(to), short(from))).await;
}

/// A task ran once and succeeded.
pub(crate) async fn ran(events: &Events, subject: &str, cluster: &str, revision: &str, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    events.result("ran", subject, format!("{cluster} · {} in {seconds:.0} s", short(revision))).await;
}
