//! Carries events to the reports: masked once, numbered once, bounded everywhere.

use super::{Cause, Chunk, Ending, Event, Id, Kind};
use crate::exit::{Exit, Failure};
use crate::secret::{Masker, Masks, Shown};
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a report may delay the end of a run.
const STALLED: Duration = Duration::from_secs(2);
/// How many chunks of an output may wait. With the size of a chunk this bounds memory.
const WAITING_CHUNKS: usize = 2;

/// The events that a report wants in addition to those that every report gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// The output of commands.
    pub(crate) output: bool,
    /// The report writes output as events, so every chunk needs a number.
    pub(crate) numbered_output: bool,
    /// The current work of steps, for a terminal.
    pub(crate) live: bool,
}

/// Sends events about one subject to all reports. Sending waits while a report is behind, so memory stays bounded. Once
/// the run is being stopped, it no longer waits for a report that has stopped reading.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    shared: Arc<Shared>,
    /// The subject of the events.
    id: Id,
}

#[derive(Debug)]
struct Shared {
    receivers: Vec<Receiver>,
    masks: Masks,
    call: u32,
    started: Instant,
    /// Held while an event is sent, so that every report gets the events in order.
    order: Mutex<()>,
    /// The number of the last event.
    number: AtomicU64,
    ending: CancellationToken,
}

/// The channel to one report.
#[derive(Debug)]
struct Receiver {
    sender: mpsc::Sender<Event>,
    wants: Wants,
    stalled: AtomicBool,
}

impl Events {
    /// Opens a channel of `capacity` events to each report. `last` is the number of the last event of earlier calls of
    /// the build.
    pub(crate) fn open(
        wants: &[Wants],
        capacity: usize,
        masks: &Masks,
        call: u32,
        last: u64,
    ) -> (Self, Vec<mpsc::Receiver<Event>>) {
        let (receivers, channels) = wants
            .iter()
            .map(|wants| {
                let (sender, channel) = mpsc::channel(capacity);
                (Receiver { sender, wants: *wants, stalled: AtomicBool::new(false) }, channel)
            })
            .unzip();
        let shared = Shared {
            receivers,
            masks: masks.clone(),
            call,
            started: Instant::now(),
            order: Mutex::default(),
            number: AtomicU64::new(last),
            ending: CancellationToken::new(),
        };
        (Self { shared: Arc::new(shared), id: Id::run() }, channels)
    }

    /// The same channels, for events about another subject.
    #[must_use]
    pub(crate) fn of(&self, id: Id) -> Self {
        Self { shared: self.shared.clone(), id }
    }

    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// The number of this call in the build.
    pub(crate) fn call(&self) -> u32 {
        self.shared.call
    }

    /// The number of the last event.
    pub(crate) fn last_number(&self) -> u64 {
        self.shared.number.load(Ordering::SeqCst)
    }

    /// The token to cancel when the run is being stopped. From then on a report can delay the end only briefly.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.shared.ending.clone()
    }

    /// Whether a report has stopped reading.
    pub(crate) fn is_stalled(&self) -> bool {
        self.shared.receivers.iter().any(|receiver| receiver.stalled.load(Ordering::SeqCst))
    }

    /// Whether a terminal shows the current work.
    pub(crate) fn is_watched(&self) -> bool {
        self.shared.receivers.iter().any(|receiver| receiver.wants.live)
    }

    /// Masks a string for an event.
    pub(crate) fn shown(&self, text: impl AsRef<str>) -> Shown {
        self.shared.masks.shown(text.as_ref())
    }

    /// Masks several strings.
    pub(crate) fn shown_all(&self, texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<Shown> {
        texts.into_iter().map(|text| self.shown(text)).collect()
    }

    /// Masks a failure for an event.
    pub(crate) fn cause(&self, failure: &Failure) -> Cause {
        Cause {
            kind: failure.kind,
            exit: failure.exit,
            text: self.shown(&failure.message),
            help: failure.help.as_ref().map(|help| self.shown(help)),
            place: failure.place.as_ref().map(|place| self.shown(place)),
        }
    }

    /// How something ended. The failure of a signal is a stop.
    pub(crate) fn end(&self, failure: Option<&Failure>) -> Ending {
        match failure {
            None => Ending::Succeeded,
            Some(failure) if matches!(failure.exit, Exit::Signal(_)) => Ending::Stopped(self.cause(failure)),
            Some(failure) => Ending::Failed(self.cause(failure)),
        }
    }

    /// Sends an event about this subject.
    pub(crate) async fn send(&self, kind: Kind) {
        self.send_for(self.id.clone(), kind).await;
    }

    /// Sends an event about another subject.
    pub(crate) async fn send_for(&self, id: Id, kind: Kind) {
        let shared = &self.shared;
        let is_wanted = |wants: Wants| match kind {
            Kind::Output(_) | Kind::OutputEnded => wants.output,
            Kind::Live(_) => wants.live,
            _ => true,
        };
        let is_numbered = match kind {
            Kind::OutputEnded | Kind::Live(_) => false,
            Kind::Output(_) => shared.receivers.iter().any(|receiver| receiver.wants.numbered_output),
            _ => true,
        };
        let _order = shared.order.lock().await;
        let (at, elapsed) = (Timestamp::now(), shared.started.elapsed());
        // A sender that is dropped while it waits here leaves no gap in the numbers.
        let mut permits = Vec::with_capacity(shared.receivers.len());
        for receiver in shared.receivers.iter().filter(|receiver| is_wanted(receiver.wants)) {
            if receiver.stalled.load(Ordering::SeqCst) {
                continue;
            }
            let too_long = async {
                shared.ending.cancelled().await;
                tokio::time::sleep(STALLED).await;
            };
            tokio::select! {
                biased;
                permit = receiver.sender.reserve() => permits.extend(permit.ok()),
                () = too_long => receiver.stalled.store(true, Ordering::SeqCst),
            }
        }
        let increment = u64::from(is_numbered);
        let number = shared.number.fetch_add(increment, Ordering::SeqCst) + increment;
        let event = Event { number, call: shared.call, at, elapsed, id, kind };
        for permit in permits {
            permit.send(event.clone());
        }
    }

    /// Sends a line for the log.
    pub(crate) async fn note(&self, text: impl AsRef<str>) {
        self.send(Kind::Note(self.shown(text))).await;
    }

    /// Sends a warning.
    pub(crate) async fn warn(&self, text: impl AsRef<str>) {
        self.send(Kind::Warning(self.shown(text))).await;
    }

    /// A function that sends a warning from code that cannot wait.
    pub(crate) fn warning_later(&self) -> impl Fn(String) + Send + Sync + 'static {
        let events = self.clone();
        move |text| {
            let events = events.clone();
            tokio::spawn(async move { events.warn(text).await });
        }
    }

    /// Shows the current work on a terminal.
    pub(crate) async fn live(&self, lines: Vec<String>) {
        self.send(Kind::Live(self.shown_all(lines))).await;
    }

    /// Opens the output of this subject. Writing waits while the reports are behind.
    pub(crate) fn output(&self) -> (mpsc::Sender<Vec<u8>>, OutputStream) {
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(WAITING_CHUNKS);
        let events = self.clone();
        let forward = tokio::spawn(async move {
            let mut masker = Masker::new(&events.shared.masks);
            while let Some(bytes) = receiver.recv().await {
                events.chunk(masker.push(&bytes)).await;
            }
            events.chunk(masker.finish()).await;
            events.send(Kind::OutputEnded).await;
        });
        (sender, OutputStream { forward })
    }

    async fn chunk(&self, masked: Vec<u8>) {
        if !masked.is_empty() {
            self.send(Kind::Output(Chunk(masked.into()))).await;
        }
    }
}

/// The output of an attempt on its way to the reports.
pub(crate) struct OutputStream {
    forward: JoinHandle<()>,
}

impl OutputStream {
    /// Waits until all of it is sent to the reports. The sender must be dropped.
    pub(crate) async fn close(self) {
        let _ = self.forward.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const ALL: Wants = Wants { output: true, numbered_output: false, live: true };

    async fn log(mut channel: mpsc::Receiver<Event>) -> String {
        let mut log = Vec::new();
        while let Some(event) = channel.recv().await {
            match event.kind {
                Kind::Output(chunk) => log.extend_from_slice(chunk.bytes()),
                Kind::Note(text) => log.extend_from_slice(format!("[{text}]").as_bytes()),
                _ => {}
            }
        }
        String::from_utf8_lossy(&log).into_owned()
    }

    fn open() -> (Events, mpsc::Receiver<Event>) {
        let masks = Masks::default();
        masks.add(&Secret::new("hunter2"));
        let (events, mut channels) = Events::open(&[ALL], 64, &masks, 1, 0);
        (events, channels.remove(0))
    }

    #[tokio::test]
    async fn secrets_are_masked_in_output_and_in_texts() {
        let (events, channel) = open();
        let (output, stream) = events.of(Id::phase("build").step(1, false).attempt(1)).output();
        output.send(b"pass hunt".to_vec()).await.unwrap();
        output.send(b"er2\n".to_vec()).await.unwrap();
        drop(output);
        stream.close().await;
        events.note("hunter2 is weak").await;
        drop(events);
        assert_eq!(log(channel).await, "pass ***\n[*** is weak]");
    }

    #[tokio::test]
    async fn a_note_in_between_does_not_tear_a_secret_apart() {
        let (events, channel) = open();
        let (output, stream) = events.output();
        output.send(b"a hunt".to_vec()).await.unwrap();
        while output.capacity() < WAITING_CHUNKS {
            tokio::task::yield_now().await;
        }
        events.note("note").await;
        output.send(b"er2 b hun".to_vec()).await.unwrap();
        drop(output);
        stream.close().await;
        drop(events);
        let log = log(channel).await;
        assert!(log == "a [note]*** b hun" || log == "[note]a *** b hun", "{log}");
    }

    #[tokio::test]
    async fn a_sender_that_is_dropped_leaves_no_gap_in_the_numbers() {
        let (events, mut channels) = Events::open(&[ALL], 1, &Masks::default(), 1, 0);
        events.note("fills the channel").await;
        let dropped = tokio::time::timeout(Duration::from_millis(10), events.note("never sent")).await;
        assert!(dropped.is_err());
        let mut channel = channels.remove(0);
        assert_eq!(channel.recv().await.unwrap().number, 1);
        events.note("sent").await;
        assert_eq!(channel.recv().await.unwrap().number, 2);
    }

    #[tokio::test]
    async fn events_are_numbered_in_order() {
        let (events, mut channel) = open();
        events.note("one").await;
        events.live(vec!["x".to_owned()]).await;
        events.note("two").await;
        let mut numbers = Vec::new();
        drop(events);
        while let Some(event) = channel.recv().await {
            numbers.push(event.number);
        }
        assert_eq!(numbers, [1, 1, 2]);
    }
}
