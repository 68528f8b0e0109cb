//! Reports: what people and machines see of a run. They know events, whose texts are masked; they hold no masks, and know neither
//! the engine nor the pipeline.

pub(crate) mod console;
pub(crate) mod json_lines;
pub(crate) mod notify;
pub(crate) mod summary;

pub(crate) use crate::duration::human as human_duration;
use crate::event::{Event, Events, Wants};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How many events may wait for a report.
const WAITING: usize = 64;

/// A report.
pub(crate) trait Sink: Send {
    fn event(&mut self, event: &Event);

    /// What it wants besides the events that every report gets.
    fn wants(&self) -> Wants {
        Wants::default()
    }
}

/// Running reports, each on its own thread, so that one that hangs does not delay the others.
pub(crate) struct Reports {
    threads: Vec<JoinHandle<()>>,
}

impl Reports {
    /// Starts to hand events to the sinks, until all senders are dropped. `open` opens the channels, with what each sink wants
    /// and how many events may wait for it.
    pub(crate) fn start(
        sinks: Vec<Box<dyn Sink>>,
        open: impl FnOnce(&[Wants], usize) -> (Events, Vec<mpsc::Receiver<Event>>),
    ) -> (Events, Self) {
        let wants: Vec<Wants> = sinks.iter().map(|sink| sink.wants()).collect();
        let (events, receivers) = open(&wants, WAITING);
        let follow = |(mut sink, mut events): (Box<dyn Sink>, mpsc::Receiver<Event>)| {
            std::thread::spawn(move || {
                while let Some(event) = events.blocking_recv() {
                    sink.event(&event);
                }
            })
        };
        (events, Self { threads: sinks.into_iter().zip(receivers).map(follow).collect() })
    }

    /// Waits until every report has finished, at most for `patience` if it is given. All senders must be dropped.
    pub(crate) async fn finish(self, patience: Option<Duration>) {
        let joined = tokio::task::spawn_blocking(|| {
            for thread in self.threads {
                let _ = thread.join();
            }
        });
        match patience {
            Some(patience) => drop(tokio::time::timeout(patience, joined).await),
            None => drop(joined.await),
        }
    }
}
