//! Reports: what people and machines get to see of a run. They know the events, never the engine.

pub mod console;
pub mod notify;

use crate::event::Event;
use std::time::Duration;
use tokio::sync::mpsc;

/// Something that takes note of events.
pub trait Sink: Send {
    /// Takes one event.
    fn event(&mut self, event: &Event);
}

/// Hands every event to every sink, on a thread of its own, until the sender is gone.
pub fn start(
    mut events: mpsc::Receiver<Event>,
    mut sinks: Vec<Box<dyn Sink>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while let Some(event) = events.blocking_recv() {
            for sink in &mut sinks {
                sink.event(&event);
            }
        }
    })
}

/// A time span as people read it: `0.2 s`, `14 s`, `3 min 20 s`.
pub fn human_duration(elapsed: Duration) -> String {
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
