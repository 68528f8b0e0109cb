//! Reports: what people and machines get to see of a run. They know the events, never the engine.

pub(crate) mod console;
pub(crate) mod notify;

pub(crate) use crate::duration::human as human_duration;
use crate::event::{Event, Events, Wants};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How many events may wait for a report.
const WAITING: usize = 64;

/// Something that takes note of events.
pub(crate) trait Sink: Send {
    fn event(&mut self, event: &Event);

    /// What it has a use for.
    fn wants(&self) -> Wants {
        Wants::default()
    }
}

/// The reports at work, each on a thread of its own, so that one at a standstill does not take the others' end with it.
pub(crate) struct Reports {
    threads: Vec<JoinHandle<()>>,
}

impl Reports {
    /// Begins to hand events to the sinks, until the sender is gone.
    pub(crate) fn start(sinks: Vec<Box<dyn Sink>>) -> (Events, Self) {
        let wants: Vec<Wants> = sinks.iter().map(|sink| sink.wants()).collect();
        let (events, receivers) = Events::ways(&wants, WAITING);
        let follow = |(mut sink, mut events): (Box<dyn Sink>, mpsc::Receiver<Event>)| {
            std::thread::spawn(move || {
                while let Some(event) = events.blocking_recv() {
                    sink.event(&event);
                }
            })
        };
        (events, Self { threads: sinks.into_iter().zip(receivers).map(follow).collect() })
    }

    /// Waits until every report is through, or for `patience` where there is one. Senders must be gone.
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
