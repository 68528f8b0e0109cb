//! From the bytes that adapters write to events.

use crate::event::{Event, Events};
use crate::language::pipeline::model::StepId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many chunks may wait; with the size of a chunk this bounds memory.
const WAITING: usize = 2;

/// The way of a step's output into the log.
pub(crate) struct Output {
    forward: JoinHandle<()>,
}

impl Output {
    /// Opens it. Writing waits while the log is behind.
    pub(crate) fn open(events: &Events, step: StepId) -> (mpsc::Sender<Vec<u8>>, Self) {
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(WAITING);
        let events = events.clone();
        let forward = tokio::spawn(async move {
            while let Some(bytes) = receiver.recv().await {
                events.send(Event::Output { step, bytes: bytes.into() }).await;
            }
            events.send(Event::OutputEnd { step }).await;
        });
        (sender, Self { forward })
    }

    /// Waits until everything written is in the log. The sender must be gone.
    pub(crate) async fn close(self) {
        let _ = self.forward.await;
    }
}
