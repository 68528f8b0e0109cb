//! The surroundings of a command that asks AWS: progress goes to stderr, and signals stop it in order.

use crate::cli::{load, run, stdio};
use crate::connections::{Access, Connections, Settings};
use crate::deployment::Deployer;
use crate::engine::Cancellation;
use crate::event::{Event, Events, Kind, Wants};
use crate::exit::{Exit, Failure};
use crate::report::summary;
use crate::secret::Masks;
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a command that changes something may take to request its rollback after a signal.
const GRACE: Duration = Duration::from_secs(15);
/// How many events may wait to be printed.
const MAX_PENDING_EVENTS: usize = 100;

pub(super) struct Invocation {
    settings: Settings,
    pub(super) masks: Masks,
}

/// The result of a command.
pub(super) struct Completed<T> {
    pub(super) value: T,
    /// A signal was received before the end.
    pub(super) stopped: Option<Failure>,
}

impl<T> Completed<T> {
    /// Returns the value of a command that only reads, unless it was stopped.
    pub(super) fn unless_stopped(self) -> Result<T, Failure> {
        self.stopped.map_or(Ok(self.value), Err)
    }
}

impl Invocation {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { settings: load::settings(&load::process())?, masks: Masks::default() })
    }

    /// Runs a command and returns its value. After a signal, a command that `changes` something gets some
    /// time to end in order; any other is dropped at once.
    pub(super) fn run<T>(
        &self,
        changes: bool,
        command: impl AsyncFnOnce(&Deployer<'_>) -> Result<T, Failure>,
    ) -> Result<Completed<T>, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::environment(format!("cannot start: {error}")))?;
        let completed = runtime.block_on(async {
            let cancellation = Cancellation::default();
            run::watch_signals(&cancellation)?;
            let (events, mut receivers) =
                Events::open(&[Wants::default()], MAX_PENDING_EVENTS, &self.masks, 1, 0);
            let printer = receivers.pop().map(|receiver| tokio::spawn(print(receiver)));
            let grace = async {
                cancellation.stopping.soft.cancelled().await;
                tokio::time::sleep(if changes { GRACE } else { Duration::ZERO }).await;
            };
            let result = tokio::select! {
                result = self.connected(&events, &cancellation, command) => result,
                () = grace => Err(Failure::stopped()),
            };
            drop(events);
            if let Some(printer) = printer {
                let _ = printer.await;
            }
            let stopped = match cancellation.signal.load(Ordering::SeqCst) {
                0 => None,
                signal => Some(Failure::new(Exit::Signal(signal), "stopped in the middle")),
            };
            match (result, stopped) {
                (Ok(value), stopped) => Ok(Completed { value, stopped }),
                (Err(_), Some(stopped)) => Err(stopped),
                (Err(failure), None) => Err(self.masked(failure)),
            }
        });
        runtime.shutdown_background();
        completed
    }

    async fn connected<T>(
        &self,
        events: &Events,
        cancellation: &Cancellation,
        command: impl AsyncFnOnce(&Deployer<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let connections = Connections::alone(&self.settings, &self.masks);
        let aws = connections.aws(&Access::default()).await?;
        let deployer = Deployer {
            aws: &aws,
            connections: &connections,
            access: Access::default(),
            events,
            stop: &cancellation.stopping.soft,
            poll: self.settings.ecs_poll,
        };
        command(&deployer).await
    }

    /// Masks secrets in a failure.
    pub(super) fn masked(&self, failure: Failure) -> Failure {
        Failure {
            message: self.masks.text(&failure.message),
            help: failure.help.map(|help| self.masks.text(&help)),
            ..failure
        }
    }

    /// Masks secrets in the values of a document.
    pub(super) fn masked_document(&self, document: Value) -> Value {
        match document {
            Value::String(text) => Value::String(self.masks.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.masked_document(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, self.masked_document(value))).collect()
            }
            other => other,
        }
    }
}

/// Prints events to stderr.
async fn print(mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let text = match &event.kind {
            Kind::Note(text) => text.to_string(),
            Kind::Warning(text) => format!("warning: {text}"),
            kind => match (summary::deployment_state(kind), summary::result(kind)) {
                (Some(state), _) => state,
                (None, Some(result)) => format!("{} {}: {}", result.verb, result.subject, result.detail),
                (None, None) => continue,
            },
        };
        stdio::text(&text);
    }
}
