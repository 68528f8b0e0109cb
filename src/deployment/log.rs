//! Notes, warnings and state changes of one service's deployment.

use crate::ecs::verdict::RolloutState;
use crate::event::Events;

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

    /// The state of the rollout has changed.
    pub(crate) async fn state(&self, state: &RolloutState) {
        self.note(&state.text).await;
    }

    /// ECS reports an event of the service.
    pub(crate) async fn service_event(&self, message: &str) {
        self.note(format!("ECS: {message}")).await;
    }

    fn line(&self, text: &str) -> String {
        if self.is_one_of_many { format!("{}: {text}", self.service) } else { text.to_owned() }
    }
}
