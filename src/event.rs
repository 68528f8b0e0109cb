//! What happens in a run, as it happens: the only thing that the engine and the reports share.

use crate::exit::Failure;
use crate::pipeline::model::PhaseName;
use std::time::Duration;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The run begins.
    RunStarted(RunStarted),
    /// A phase begins.
    PhaseStarted {
        /// Which.
        phase: PhaseName,
    },
    /// A phase does not run.
    PhaseSkipped {
        /// Which.
        phase: PhaseName,
        /// Why not.
        reason: String,
    },
    /// A phase is through, its `finally` included.
    PhaseFinished {
        /// Which.
        phase: PhaseName,
        /// How it ended.
        status: Status,
        /// How long it took.
        elapsed: Duration,
    },
    /// A step begins.
    StepStarted {
        /// What it is called.
        title: String,
        /// It belongs to `finally`.
        finally: bool,
    },
    /// A step does not run.
    StepSkipped {
        /// What it is called.
        title: String,
        /// Why not.
        reason: String,
    },
    /// Bytes that a command, a container or a build wrote, as they came.
    Output(Vec<u8>),
    /// The stream of [`Event::Output`] is at its end: what was held back belongs out.
    OutputEnd,
    /// Something worth a line in the log.
    Note(String),
    /// Something that may be wrong, but does not stop the run.
    Warning(String),
    /// A step is through.
    StepFinished {
        /// What it is called.
        title: String,
        /// How it ended.
        status: Status,
        /// How long it took.
        elapsed: Duration,
    },
    /// A result that the summary shows.
    Result(Outcome),
    /// The run is through.
    RunFinished(RunFinished),
}

/// The beginning of a run.
#[derive(Debug, Clone)]
pub struct RunStarted {
    /// The pipeline's name.
    pub pipeline: String,
    /// The build's id.
    pub build_id: String,
    /// `local` or `publish`.
    pub mode: &'static str,
    /// What is built, for people: branch and commit.
    pub source: String,
    /// Whether this is the first call of this build, so that it is announced once.
    pub first: bool,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub struct RunFinished {
    /// Nothing, or what ended it.
    pub failure: Option<Failure>,
    /// The whole pipeline is through with this call, or has failed in it.
    pub last: bool,
    /// How long the call took.
    pub elapsed: Duration,
}

/// How a phase or step ended.
#[derive(Debug, Clone)]
pub enum Status {
    /// As wished.
    Succeeded,
    /// With a failure.
    Failed(Failure),
}

impl Status {
    /// The failure, where there is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Succeeded => None,
            Self::Failed(failure) => Some(failure),
        }
    }
}

/// Something that a step made.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was done: `built`, `tested`, `pushed` …
    pub verb: &'static str,
    /// What it was done to.
    pub subject: String,
    /// What came out.
    pub detail: String,
}

/// Where the engine sends events. Sending waits while the reports are behind, so memory stays bounded.
#[derive(Debug, Clone)]
pub struct Events {
    sender: tokio::sync::mpsc::Sender<Event>,
}

impl Events {
    /// A channel that holds at most this many events.
    pub fn channel(capacity: usize) -> (Self, tokio::sync::mpsc::Receiver<Event>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(capacity);
        (Self { sender }, receiver)
    }

    /// Sends an event. Where nobody listens any more there is nobody to tell.
    pub async fn send(&self, event: Event) {
        let _ = self.sender.send(event).await;
    }

    /// Sends a line for the log.
    pub async fn note(&self, text: impl Into<String>) {
        self.send(Event::Note(text.into())).await;
    }

    /// Sends a warning.
    pub async fn warn(&self, text: impl Into<String>) {
        self.send(Event::Warning(text.into())).await;
    }

    /// Sends a result for the summary.
    pub async fn result(&self, verb: &'static str, subject: impl Into<String>, detail: impl Into<String>) {
        self.send(Event::Result(Outcome { verb, subject: subject.into(), detail: detail.into() })).await;
    }
}
