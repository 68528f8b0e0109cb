//! Reports: what people and machines see of a run.
//!
//! They know only events, whose text is masked. They know nothing of masks, the engine or the pipeline.

pub(crate) mod console;
pub(crate) mod json_lines;
pub(crate) mod notify;
pub(crate) mod summary;

pub(crate) use crate::duration::human as human_duration;
use crate::event::{Event, Events, Wants};
use crate::exit::Failure;
use crate::limits;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How many events may wait for a report.
const WAITING: usize = 64;

/// A report.
pub(crate) trait Sink: Send {
    fn event(&mut self, event: &Event);

    /// The kinds of events that it wants in addition to those that every report gets.
    fn wants(&self) -> Wants {
        Wants::default()
    }
}

/// Running reports. Each has a thread, so that one that hangs does not delay the others.
pub(crate) struct Reports {
    threads: Vec<JoinHandle<()>>,
}

impl Reports {
    /// Starts the reports, which run until all senders are dropped. `open` opens the channels, given the wants of each
    /// sink and the capacity.
    pub(crate) fn start(
        sinks: Vec<Box<dyn Sink>>,
        open: impl FnOnce(&[Wants], usize) -> (Events, Vec<mpsc::Receiver<Event>>),
    ) -> Result<(Events, Self), Failure> {
        let wants: Vec<Wants> = sinks.iter().map(|sink| sink.wants()).collect();
        let (events, receivers) = open(&wants, WAITING);
        let follow = |(mut sink, mut events): (Box<dyn Sink>, mpsc::Receiver<Event>)| {
            limits::thread().spawn(move || {
                while let Some(event) = events.blocking_recv() {
                    sink.event(&event);
                }
            })
        };
        let threads: io::Result<_> = sinks.into_iter().zip(receivers).map(follow).collect();
        let threads = threads.map_err(|error| {
            Failure::environment(format!("cannot start the reports: {error}"))
                .limited(limits::start_advice(&error))
        })?;
        Ok((events, Self { threads }))
    }

    /// Waits until every report has finished, or for the timeout. All senders must be dropped.
    pub(crate) async fn finish(self, timeout: Option<Duration>) {
        let joined = tokio::task::spawn_blocking(|| {
            for thread in self.threads {
                let _ = thread.join();
            }
        });
        match timeout {
            Some(timeout) => drop(tokio::time::timeout(timeout, joined).await),
            None => drop(joined.await),
        }
    }
}
