//! Notes, warnings and state changes of one service's deployment.

use super::outcome::ServiceReport;
use super::short;
use crate::ecs::verdict::RolloutState;
use crate::event::{Events, Kind};
use crate::text::one_line;

#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceLog<'a> {
    pub(crate) events: &'a Events,
    pub(crate) service: &'a str,
    /// Other services are deployed at the same time, so each line names its service.
    pub(crate) is_one_of_many: bool,
}

impl ServiceLog<'_> {
    pub(crate) async fn note(&self, text: impl AsRef<str>) {
        self.events.note(self.line(text.as_ref())).await;
    }

    pub(crate) async fn warn(&self, text: impl AsRef<str>) {
        self.events.warn(self.line(text.as_ref())).await;
    }

    /// The deployment has started.
    pub(crate) async fn started(&self, cluster: &str, report: &ServiceReport) {
        let events = self.events;
        let started = Kind::DeploymentStarted {
            service: events.shown(self.service),
            cluster: events.shown(cluster),
            before: report.previous.as_deref().map(|revision| events.shown(short(revision))),
            after: events.shown(short(&report.revision)),
        };
        events.send_for(events.id().inner(self.service), started).await;
    }

    /// The state of the rollout has changed.
    pub(crate) async fn state(&self, state: &RolloutState) {
        let events = self.events;
        let state = Kind::DeploymentState {
            service: events.shown(self.service),
            state: events.shown(&state.text),
            is_one_of_many: self.is_one_of_many,
        };
        events.send_for(events.id().inner(self.service), state).await;
    }

    /// ECS reports an event of the service.
    pub(crate) async fn service_event(&self, message: &str) {
        self.note(format!("ECS: {}", one_line(message))).await;
    }

    fn line(&self, text: &str) -> String {
        if self.is_one_of_many { format!("{}: {text}", self.service) } else { text.to_owned() }
    }
}
