//! Reports: what people and machines see of a run. They know events, whose texts are masked; they hold no masks, and know neither
//! the engine nor the pipeline.

pub(crate) mod console;
pub(crate) mod json_lines;
pub(crate) mod notify;
pub(crate) mod summary;

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

/// A time span as people read it: `0.2 s`, `14 s`, `3 min 20 s`.
pub(crate) fn human_duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", elapsed.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(human_duration(Duration::from_millis(230)), "0.2 s");
        assert_eq!(human_duration(Duration::from_secs(59)), "59 s");
        assert_eq!(human_duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(human_duration(Duration::from_secs(4000)), "1 h 6 min");
    }
}
