//! A command that asks AWS: progress goes to stderr, and signals stop it in order.

use crate::cli::load;
use crate::cli::printer::Printer;
use crate::cli::session::{Session, cancel_on_signals};
use crate::connections::{Access, Connections, Settings};
use crate::deployment::Deployer;
use crate::event::{Event, Events, Kind, Wants};
use crate::exit::{Exit, Failure};
use crate::process::Stopping;
use crate::report::summary;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a command that changes something may take to request its rollback after a signal.
const GRACE: Duration = Duration::from_secs(15);
/// How many events may wait to be printed.
const MAX_PENDING_EVENTS: usize = 100;

pub(super) struct Invocation<'a> {
    settings: Settings,
    session: &'a Session,
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

impl<'a> Invocation<'a> {
    pub(super) fn new(session: &'a Session) -> Result<Self, Failure> {
        Ok(Self { settings: load::settings(&load::process())?, session })
    }

    /// Runs a command and returns its value. After a signal, a command that `changes` something gets some
    /// time to end in order; any other is dropped at once.
    pub(super) async fn run<T>(
        &self,
        changes: bool,
        command: impl AsyncFnOnce(&Deployer<'_>) -> Result<T, Failure>,
    ) -> Result<Completed<T>, Failure> {
        let Session { masks, printer } = self.session;
        let cancellation = cancel_on_signals(Stopping::default())?;
        let (events, mut receivers) = Events::open(&[Wants::default()], MAX_PENDING_EVENTS, masks, 1, 0);
        let printing = receivers.pop().map(|receiver| tokio::spawn(print(receiver, printer.clone())));
        let stop = &cancellation.stopping.soft;
        let grace = async {
            stop.cancelled().await;
            tokio::time::sleep(if changes { GRACE } else { Duration::ZERO }).await;
        };
        let (connections, access) = (Connections::alone(&self.settings, masks), Access::default());
        let connected = tokio::select! {
            connected = connections.aws(&access) => connected,
            () = stop.cancelled() => Err(Failure::stopped()),
        };
        let run = async {
            let deployer = Deployer {
                aws: &connected?.noticing(events.warning_later()),
                connections: &connections,
                access: access.clone(),
                events: &events,
                stop,
                poll: self.settings.ecs_poll,
            };
            command(&deployer).await
        };
        let result = tokio::select! {
            result = run => result,
            () = grace => Err(Failure::stopped()),
        };
        drop(events);
        if let Some(printing) = printing {
            let _ = printing.await;
        }
        let signal = cancellation.signal();
        let stopped = signal.map(|signal| Failure::new(Exit::Signal(signal), "stopped in the middle"));
        match (result, stopped) {
            (Ok(value), stopped) => Ok(Completed { value, stopped }),
            (Err(_), Some(stopped)) => Err(stopped),
            (Err(failure), None) => Err(failure),
        }
    }
}

/// Prints events to stderr.
async fn print(mut events: mpsc::Receiver<Event>, printer: Printer) {
    while let Some(event) = events.recv().await {
        match &event.kind {
            Kind::Note(text) => printer.message(text),
            Kind::Warning(text) => printer.warning(text),
            kind => {
                let result = summary::result(kind)
                    .map(|line| format!("{} {}: {}", line.verb, line.subject, line.detail));
                if let Some(text) = summary::deployment_state(kind).or(result) {
                    printer.message(&text);
                }
            }
        }
    }
}
