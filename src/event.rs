//! What happens in a run, as it happens: the only thing that the engine and the reports share.

use crate::exit::Failure;
use crate::language::pipeline::model::{PhaseName, StepId};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    RunStarted(RunStarted),
    PhaseStarted {
        phase: PhaseName,
    },
    /// A phase does not run.
    PhaseSkipped {
        phase: PhaseName,
        reason: String,
    },
    /// A phase is through, its `finally` included.
    PhaseFinished {
        phase: PhaseName,
        status: Status,
        /// How long it took.
        elapsed: Duration,
    },
    StepStarted {
        step: StepId,
        /// What it is called.
        title: String,
        /// It belongs to `finally`.
        finally: bool,
        /// It runs beside other steps, whose output comes in between.
        beside: bool,
    },
    /// A step does not run.
    StepSkipped {
        /// What it is called.
        title: String,
        reason: String,
    },
    /// Bytes that a command, a container or a build wrote, as they came.
    Output {
        /// The step that it belongs to.
        step: StepId,
        bytes: Bytes,
    },
    /// The stream of [`Event::Output`] is at its end: what was held back belongs out.
    OutputEnd {
        /// The step whose stream it is.
        step: StepId,
    },
    /// What a step has under way right now, in place of what it had before. Only a terminal shows it.
    Live {
        step: StepId,
        lines: Vec<String>,
    },
    /// Something worth a line in the log.
    Note {
        /// The step that says it.
        step: Option<StepId>,
        text: String,
    },
    /// Something that may be wrong, but does not stop the run.
    Warning {
        /// The step that it came up in.
        step: Option<StepId>,
        /// What may be wrong.
        text: String,
    },
    /// A step is through.
    StepFinished {
        step: StepId,
        /// What it is called.
        title: String,
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
pub(crate) struct RunStarted {
    pub(crate) pipeline: String,
    pub(crate) build_id: String,
    pub(crate) mode: &'static str,
    /// What is built, for people: branch and commit.
    pub(crate) source: String,
    /// Whether this is the first call of this build, so that it is announced once.
    pub(crate) first: bool,
}

/// The end of a run.
#[derive(Debug, Clone)]
pub(crate) struct RunFinished {
    /// Nothing, or what ended it.
    pub(crate) failure: Option<Failure>,
    /// The whole pipeline is through with this call, or has failed in it.
    pub(crate) last: bool,
    /// How long the call took.
    pub(crate) elapsed: Duration,
}

/// How a phase or step ended.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    Succeeded,
    Failed(Failure),
    /// In the middle, because its parallel group was ended.
    Cancelled,
}

impl Status {
    /// The failure, where there is one.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Succeeded | Self::Cancelled => None,
            Self::Failed(failure) => Some(failure),
        }
    }
}

/// Something that a step made.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What was done: `built`, `tested`, `pushed` …
    pub(crate) verb: &'static str,
    /// What it was done to.
    pub(crate) subject: String,
    pub(crate) detail: String,
}

/// How long a report may keep the run waiting once that is to end.
const STALLED: Duration = Duration::from_secs(2);

/// Where the engine sends events. Sending waits while a report is behind, so memory stays bounded; once the run is to end, it
/// does not wait for a report that has come to a standstill.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    ways: Arc<[Way]>,
    /// The step whose notes and warnings come this way.
    step: Option<StepId>,
    ending: CancellationToken,
}

/// What a report has a use for, besides what every report gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) output: bool,
    /// What is under way.
    pub(crate) live: bool,
}

/// The way to one report.
#[derive(Debug)]
struct Way {
    sender: mpsc::Sender<Event>,
    wants: Wants,
    /// It has come to a standstill.
    stalled: AtomicBool,
}

impl Events {
    /// A way to each report. Each holds at most this many events.
    pub(crate) fn ways(wants: &[Wants], capacity: usize) -> (Self, Vec<mpsc::Receiver<Event>>) {
        let (ways, receivers): (Vec<Way>, Vec<_>) = wants
            .iter()
            .map(|wants| {
                let (sender, receiver) = mpsc::channel(capacity);
                (Way { sender, wants: *wants, stalled: AtomicBool::new(false) }, receiver)
            })
            .unzip();
        (Self { ways: ways.into(), step: None, ending: CancellationToken::new() }, receivers)
    }

    /// The same way, for what a step has to say.
    #[must_use]
    pub(crate) fn of(&self, step: StepId) -> Self {
        Self { step: Some(step), ..self.clone() }
    }

    /// To be cancelled when the run is to end: from then on reports are waited for only so long.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.ending.clone()
    }

    /// Whether some report did not take part to the end.
    pub(crate) fn is_stalled(&self) -> bool {
        self.ways.iter().any(|way| way.stalled.load(Ordering::SeqCst))
    }

    /// Whether somebody watches what is under way.
    pub(crate) fn is_watched(&self) -> bool {
        self.ways.iter().any(|way| way.wants.live)
    }

    /// Says what the step has under way, for somebody who watches.
    pub(crate) async fn live(&self, lines: Vec<String>) {
        if let Some(step) = self.step {
            self.send(Event::Live { step, lines }).await;
        }
    }

    /// Sends an event. Where nobody listens any more there is nobody to tell.
    pub(crate) async fn send(&self, event: Event) {
        let is_wanted = |wants: Wants| match event {
            Event::Output { .. } | Event::OutputEnd { .. } => wants.output,
            Event::Live { .. } => wants.live,
            _ => true,
        };
        for way in self.ways.iter().filter(|way| is_wanted(way.wants)) {
            if way.stalled.load(Ordering::SeqCst) {
                continue;
            }
            let too_long = async {
                self.ending.cancelled().await;
                tokio::time::sleep(STALLED).await;
            };
            tokio::select! {
                biased;
                _ = way.sender.send(event.clone()) => {}
                () = too_long => way.stalled.store(true, Ordering::SeqCst),
            }
        }
    }

    /// Sends a line for the log.
    pub(crate) async fn note(&self, text: impl Into<String>) {
        self.send(Event::Note { step: self.step, text: text.into() }).await;
    }

    pub(crate) async fn warn(&self, text: impl Into<String>) {
        self.send(Event::Warning { step: self.step, text: text.into() }).await;
    }

    /// Sends a result for the summary.
    pub(crate) async fn result(
        &self,
        verb: &'static str,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.send(Event::Result(Outcome { verb, subject: subject.into(), detail: detail.into() })).await;
    }
}
