//! Notifications: Slack and webhooks. They never delay or fail a run.

use super::{Sink, human_duration};
use crate::event::{BuildOpened, Cause, Ending, Event, Kind};
use crate::exit::Failure;
use crate::files::{Directory, Readers};
use crate::http::{self, Redirects, Through};
use crate::secret::Secret;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long one delivery may take.
const DELIVERY: Duration = Duration::from_secs(10);
/// Slack's limit for the text of a section, in characters.
const SLACK_TEXT: usize = 3000;

/// A notification receiver with its URL and headers resolved.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    pub(crate) kind: ReceiverKind,
    /// A secret: everyone who knows the URL of a webhook can post to it.
    pub(crate) url: Secret,
    /// The occasions that it is notified of.
    pub(crate) on: Vec<Occasion>,
}

impl Receiver {
    /// The proxy that it is reached through.
    fn through(&self) -> Through {
        reqwest::Url::parse(self.url.expose()).map(|url| http::through(&url)).unwrap_or_default()
    }
}

/// The kinds of receivers.
#[derive(Debug, Clone)]
pub(crate) enum ReceiverKind {
    /// A Slack incoming webhook.
    Slack,
    /// A plain webhook, with the headers to send.
    Webhook(Vec<(String, Secret)>),
}

impl ReceiverKind {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// The occasions for notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    Started,
    PhaseFailed,
    Succeeded,
    Failed,
    /// A signal stopped the run.
    Stopped,
}

impl Occasion {
    /// The name as pipeline files and payloads spell it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::PhaseFailed => "phase-failed",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// The receivers of a run, and how notifications are delivered.
#[derive(Debug, Clone)]
pub(crate) struct Receivers {
    receivers: Vec<Receiver>,
    delivery: Delivery,
}

impl Receivers {
    /// Sends the notifications. `authorities` are the certificate authorities to trust.
    pub(crate) fn sent(receivers: Vec<Receiver>, authorities: &[Vec<u8>]) -> Result<Self, Failure> {
        let client = http::client(authorities, Redirects::Refuse)
            .map_err(|error| Failure::environment(crate::exit::chain(&error)))?;
        Ok(Self { receivers, delivery: Delivery::Send(client) })
    }

    /// Writes the payloads to files instead of sending them, in the directory `name` of `work`.
    pub(crate) fn written_to(receivers: Vec<Receiver>, work: Directory, name: &'static str) -> Self {
        Self { receivers, delivery: Delivery::Write(work, name) }
    }
}

/// Where notifications go.
#[derive(Debug, Clone)]
enum Delivery {
    Send(reqwest::Client),
    /// The working directory, and the name of the directory in it.
    Write(Directory, &'static str),
}

/// Running deliveries, and the warnings of finished ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deliveries {
    running: Arc<Mutex<Vec<JoinHandle<Option<String>>>>>,
}

impl Deliveries {
    /// Waits for all deliveries, at most as long as one may take. Returns the warnings.
    pub(crate) async fn finish(&self) -> Vec<String> {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let mut warnings = Vec::new();
        for delivery in running {
            if let Ok(Some(warning)) = delivery.await {
                warnings.push(warning);
            }
        }
        warnings
    }
}

/// Notifies receivers about a run.
pub(crate) struct Notifier {
    receivers: Receivers,
    runtime: tokio::runtime::Handle,
    deliveries: Deliveries,
    build: Option<BuildOpened>,
    sequence: usize,
}

/// One notification.
struct Message {
    on: Occasion,
    text: String,
    details: Value,
}

impl Notifier {
    /// Creates a notifier. The caller waits for `deliveries`.
    pub(crate) fn new(receivers: Receivers, deliveries: &Deliveries) -> Self {
        Self {
            receivers,
            runtime: tokio::runtime::Handle::current(),
            deliveries: deliveries.clone(),
            build: None,
            sequence: 0,
        }
    }

    fn notify(&mut self, message: &Message) {
        for receiver in &self.receivers.receivers {
            if !receiver.on.contains(&message.on) {
                continue;
            }
            self.sequence += 1;
            let payload = match receiver.kind {
                ReceiverKind::Slack => slack(&message.text),
                ReceiverKind::Webhook(_) => self.webhook(message),
            };
            let (receiver, delivery) = (receiver.clone(), self.receivers.delivery.clone());
            let name = receiver.kind.as_str();
            let file = format!("{:03}-{}-{name}.json", self.sequence, message.on.as_str());
            let task = async move {
                let sent = deliver(&receiver, &delivery, &payload, &file);
                let problem = match tokio::time::timeout(DELIVERY, sent).await {
                    Ok(Ok(())) => return None,
                    Ok(Err(reason)) => format!(": {reason}"),
                    Err(_) => " in time".to_owned(),
                };
                let through = match &delivery {
                    Delivery::Send(_) => receiver.through(),
                    Delivery::Write(..) => Through::default(),
                };
                Some(format!("the {name} notification was not delivered{through}{problem}"))
            };
            self.deliveries
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.runtime.spawn(task));
        }
    }

    fn webhook(&self, message: &Message) -> Value {
        let build = self.build.as_ref();
        let mut payload = json!({
            "version": 1,
            "event": message.on.as_str(),
            "pipeline": build.map(|build| &build.pipeline),
            "build": build.map(|build| &build.build_id),
            "mode": build.map(|build| build.mode),
            "source": build.map(|build| build.source.summary()),
            "text": message.text,
        });
        if let (Some(payload), Value::Object(details)) = (payload.as_object_mut(), &message.details) {
            payload.extend(details.clone());
        }
        payload
    }

    /// The pipeline and its source, for the beginning of a message.
    fn subject(&self) -> String {
        let build = self.build.as_ref();
        build.map(|build| format!("{} ({})", build.pipeline, build.source.summary())).unwrap_or_default()
    }

    fn finished(&self, ending: &Ending, exit: u8, took: &str) -> Message {
        let subject = self.subject();
        let failed = |on: Occasion, verb: &str, cause: &Cause| Message {
            on,
            text: format!("{subject} {verb} after {took}: {}", cause.text),
            details: json!({ "reason": cause.text, "exit": exit }),
        };
        match ending {
            Ending::Failed(cause) => failed(Occasion::Failed, "failed", cause),
            Ending::Stopped(cause) => failed(Occasion::Stopped, "was stopped", cause),
            Ending::Succeeded | Ending::Cancelled => Message {
                on: Occasion::Succeeded,
                text: format!("{subject} succeeded in {took}"),
                details: json!({}),
            },
        }
    }
}

impl Sink for Notifier {
    fn event(&mut self, event: &Event) {
        let message = match &event.kind {
            Kind::BuildOpened(build) => {
                self.build = Some((**build).clone());
                build.first.then(|| Message {
                    on: Occasion::Started,
                    text: format!("{} started", self.subject()),
                    details: json!({}),
                })
            }
            Kind::PhaseFinished { ending, .. } => ending.cause().map(|cause| Message {
                on: Occasion::PhaseFailed,
                text: format!("{}: phase {} failed: {}", self.subject(), event.id, cause.text),
                details: json!({ "phase": event.id.as_str(), "reason": cause.text }),
            }),
            Kind::BuildFinished { ending, exit, elapsed } => {
                Some(self.finished(ending, exit.code(), &human_duration(*elapsed)))
            }
            _ => None,
        };
        if let Some(message) = message {
            self.notify(&message);
        }
    }
}

fn slack(text: &str) -> Value {
    let text = escape_mrkdwn(text);
    let section: String = text.chars().take(SLACK_TEXT).collect();
    json!({
        "text": text,
        "blocks": [{ "type": "section", "text": { "type": "mrkdwn", "text": section } }],
    })
}

/// Escapes the three characters that Slack reads as markup.
fn escape_mrkdwn(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

async fn deliver(
    receiver: &Receiver,
    delivery: &Delivery,
    payload: &Value,
    file: &str,
) -> Result<(), String> {
    let client = match delivery {
        Delivery::Write(work, name) => {
            let directory = work.within(name).map_err(|error| crate::exit::chain(&error))?;
            let written = directory.write_json(file, payload, Readers::Owner);
            return written.map_err(|error| crate::exit::chain(&error));
        }
        Delivery::Send(client) => client,
    };
    let mut request = client.post(receiver.url.expose()).json(payload);
    if let ReceiverKind::Webhook(headers) = &receiver.kind {
        for (name, value) in headers {
            request = request.header(name, value.expose());
        }
    }
    let response = request.send().await.map_err(|error| crate::exit::chain(&error.without_url()))?;
    if response.status().is_success() {
        Ok(())
    } else {
        Err(format!("the receiver responded with {}", response.status()))
    }
}
