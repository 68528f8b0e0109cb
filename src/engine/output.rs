//! From the bytes that adapters write to events.

use crate::event::{Event, Events};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many chunks may wait; with the size of a chunk this bounds memory.
const WAITING: usize = 16;

/// The way of a step's output into the log.
pub(super) struct Output {
    forward: JoinHandle<()>,
}

impl Output {
    /// Opens it. Writing waits while the log is behind.
    pub(super) fn open(events: &Events) -> (mpsc::Sender<Vec<u8>>, Self) {
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(WAITING);
        let events = events.clone();
        let forward = tokio::spawn(async move {
            while let Some(bytes) = receiver.recv().await {
                events.send(Event::Output(bytes)).await;
            }
            events.send(Event::OutputEnd).await;
        });
        (sender, Self { forward })
    }

    /// Waits until everything written is in the log. The sender must be gone.
    pub(super) async fn close(self) {
        let _ = self.forward.await;
    }
}
