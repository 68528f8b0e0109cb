//! The events about results of deployments, tasks and registrations: one function for each kind.

use super::outcome::{Outcome, ServiceReport};
use super::short;
use crate::ecs::revisions::Revision;
use crate::event::{Deployed, DeploymentStatus, Events, Kind, Registered, TaskRun, WrittenFile};
use std::path::Path;
use std::time::Duration;

/// A revision was registered.
pub(crate) async fn registered(events: &Events, revision: &Revision) {
    definition(events, revision, false).await;
}

/// An existing revision has the same content.
pub(crate) async fn unchanged(events: &Events, revision: &Revision) {
    definition(events, revision, true).await;
}

async fn definition(events: &Events, revision: &Revision, unchanged: bool) {
    let arn = events.shown(&revision.arn);
    let revision = events.shown(revision.short());
    events.send(Kind::DefinitionRegistered(Registered { revision, arn, unchanged })).await;
}

/// A task definition was written to a file, in local mode.
pub(crate) async fn rendered(events: &Events, family: &str, path: &Path) {
    definition_file(events, family, path, false).await;
}

/// The changes to a task definition were written to a file, in local mode.
pub(crate) async fn planned_changes(events: &Events, family: &str, path: &Path) {
    definition_file(events, family, path, true).await;
}

async fn definition_file(events: &Events, family: &str, path: &Path, changes_only: bool) {
    let file = events.shown(path.display().to_string());
    events.send(Kind::DefinitionRendered { family: events.shown(family), file, changes_only }).await;
}

/// The deployment of a service was written to a file, in local mode.
pub(crate) async fn planned_deployment(events: &Events, service: &str, family: &str) {
    let planned = Kind::DeploymentPlanned { service: events.shown(service), family: events.shown(family) };
    events.send_for(events.id().inner(service), planned).await;
}

/// A task was written to a file, in local mode.
pub(crate) async fn planned_task(events: &Events, family: &str, cluster: &str) {
    let planned = Kind::TaskPlanned { family: events.shown(family), cluster: events.shown(cluster) };
    events.send_for(events.id().inner("task"), planned).await;
}

/// The files that `CodePipeline` deploys were written for these containers.
pub(crate) async fn wrote(events: &Events, containers: &[&str], paths: &[&Path], what: WrittenFile) {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let (subject, path) = (events.shown(containers.join(", ")), events.shown(paths.join(", ")));
    events.send(Kind::FileWritten { subject, path, what }).await;
}

/// A deployment has ended.
pub(crate) async fn deployment(events: &Events, cluster: &str, report: &ServiceReport) {
    let status = match report.outcome {
        Outcome::Deployed => DeploymentStatus::Successful,
        Outcome::Unchanged => DeploymentStatus::Unchanged,
        Outcome::Unconfirmed => DeploymentStatus::Unconfirmed,
        Outcome::RolledBack => DeploymentStatus::RolledBack,
        Outcome::RollbackFailed | Outcome::Left => DeploymentStatus::NotRolledBack,
        Outcome::TimedOut => DeploymentStatus::TimedOut,
        Outcome::Superseded => DeploymentStatus::Superseded,
        Outcome::Stopped => DeploymentStatus::Stopped,
        Outcome::Lost => DeploymentStatus::Lost,
        Outcome::NotStarted => DeploymentStatus::NotStarted,
    };
    let deployed = Deployed {
        service: events.shown(&report.service),
        cluster: events.shown(cluster),
        revision: events.shown(short(&report.revision)),
        status,
        elapsed: report.elapsed,
    };
    events.send_for(events.id().inner(&report.service), Kind::DeploymentFinished(deployed)).await;
}

/// A schedule or rule starts another revision from now on.
pub(crate) async fn moved(events: &Events, schedule: &str, from: &str, to: &str) {
    let (before, after) = (events.shown(short(from)), events.shown(short(to)));
    events.send(Kind::ScheduleMoved { name: events.shown(schedule), before, after }).await;
}

/// A one-off task was started.
pub(crate) async fn task_started(events: &Events, arn: &str, cluster: &str) {
    let started = Kind::TaskStarted { arn: events.shown(arn), cluster: events.shown(cluster) };
    events.send_for(events.id().inner("task"), started).await;
}

/// A task ran once and succeeded.
pub(crate) async fn ran(events: &Events, subject: &str, cluster: &str, revision: &str, elapsed: Duration) {
    let finished = TaskRun {
        subject: events.shown(subject),
        cluster: events.shown(cluster),
        revision: events.shown(short(revision)),
        elapsed,
    };
    events.send_for(events.id().inner("task"), Kind::TaskFinished(finished)).await;
}
