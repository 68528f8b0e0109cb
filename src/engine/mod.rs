//! The execution of a run: phases, items, attempts, deadlines, `finally`, stopping, state, leftovers of killed runs.
//!
//! A front end (`crate::run` for pipeline files) describes the items, each with a function. The engine knows no step
//! kind and no pipeline, so that CodeBuild's own buildspec can be a second front end.

mod deadline;
pub(crate) mod gc;
mod run;
mod state;

pub(crate) use deadline::Deadline;
pub(crate) use run::{EndsSoon, Run, Setup};
pub(crate) use state::{FILE as STATE, Identity, State};

use crate::backoff::Backoff;
use crate::event::{Events, Id, SkipCode};
use crate::exit::{Exit, Failure};
use crate::process::Stopping;
use futures_util::future::LocalBoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// How a run is stopped from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation {
    /// Stops running commands.
    pub(crate) stopping: Stopping,
    /// The signal that requested the stop; 0 without one.
    pub(crate) signal: Arc<AtomicU8>,
}

impl Cancellation {
    /// The signal that requested the stop.
    pub(crate) fn signal(&self) -> Option<u8> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Does something before the first item, until the deadline of the run expires or a signal comes. `activity` is for
    /// the message, such as `reading secrets`.
    pub(crate) async fn prepare<T>(
        &self,
        deadline: &Deadline,
        activity: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            result = work => result,
            () = deadline.token.cancelled() => Err(match (self.signal(), deadline.failure()) {
                (None, Some(expired)) => {
                    let message = format!("{} while it was still {activity}; no step has run", expired.message);
                    Failure { message, ..expired }
                }
                (signal, _) => {
                    Failure::new(Exit::Signal(signal.unwrap_or_default()), "stopped before anything ran")
                }
            }),
        }
    }
}

/// A phase of this call.
pub(crate) struct Phase<'r> {
    pub(crate) name: String,
    pub(crate) when: When,
    /// How long its items may take together.
    pub(crate) timeout: Option<Duration>,
    /// The first item that fails ends the phase.
    pub(crate) items: Vec<Item<'r>>,
    /// Items that run if the phase has started, whatever happened.
    pub(crate) finally: Vec<Item<'r>>,
}

/// Something that a phase runs.
pub(crate) struct Item<'r> {
    pub(crate) id: Id,
    /// The key of the step, for events.
    pub(crate) kind: &'static str,
    /// The line of the file that holds it, from 1.
    pub(crate) line: Option<usize>,
    /// Returns its title. It is called when the item starts, because the title may contain values that earlier items
    /// set.
    pub(crate) title: Box<dyn Fn() -> String + 'r>,
    /// The reason why this build skips it.
    pub(crate) skip: Option<(SkipCode, String)>,
    /// Overrides that of the phase.
    pub(crate) when: Option<When>,
    pub(crate) retry: Option<Retry>,
    /// How long one attempt may take.
    pub(crate) timeout: Option<Duration>,
    pub(crate) work: Work<'r>,
}

/// The work of an item.
pub(crate) enum Work<'r> {
    Task(Task<'r>),
    /// Items that run in parallel. The first that fails ends the others.
    Group(Vec<Item<'r>>),
}

/// A function that makes one attempt.
pub(crate) type Attempts<'r> = Box<dyn Fn(Attempt) -> LocalBoxFuture<'r, Result<(), Failure>> + 'r>;

/// Work that ends by itself when it is stopped.
pub(crate) struct Task<'r> {
    /// How long it may take to end once it is stopped. Then it is dropped.
    pub(crate) stop_timeout: Duration,
    pub(crate) run: Attempts<'r>,
}

/// What the engine passes to an attempt.
pub(crate) struct Attempt {
    /// Events about this attempt.
    pub(crate) events: Events,
    /// The output of this attempt.
    pub(crate) output: mpsc::Sender<Vec<u8>>,
    /// Stops this attempt.
    pub(crate) stopping: Stopping,
}

/// The condition, on earlier failures, under which a phase or item runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    /// Only if nothing has failed.
    #[default]
    Success,
    /// Only after a failure.
    Failure,
    Always,
}

impl When {
    fn allows(self, failed: bool) -> bool {
        match self {
            Self::Success => !failed,
            Self::Failure => failed,
            Self::Always => true,
        }
    }

    /// The name in events; `None` for the default.
    fn named(self) -> Option<&'static str> {
        match self {
            Self::Success => None,
            Self::Failure => Some("failure"),
            Self::Always => Some("always"),
        }
    }
}

/// The attempts after the first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    pub(crate) attempts: u32,
    /// The delays between attempts.
    pub(crate) backoff: Backoff,
}
