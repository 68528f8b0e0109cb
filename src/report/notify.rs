//! Notifications: Slack and webhooks. They never delay or fail a run.

use super::{Sink, human_duration};
use crate::event::{Event, RunFinished};
use crate::exit::Exit;
use crate::files::{self, Access};
use crate::language::pipeline::model::NotifyOn;
use crate::secret::{Masks, Secret};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long one delivery may take.
const DELIVERY: Duration = Duration::from_secs(10);
/// Slack's limit for the text of a section, in characters.
const SLACK_TEXT: usize = 3000;

/// Somebody who is told, with everything resolved.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The kind of receiver.
    pub(crate) kind: TargetKind,
    /// The address. It counts as a secret: whoever knows a webhook's address may post to it.
    pub(crate) url: Secret,
    /// What the receiver wants to hear of.
    pub(crate) on: Vec<NotifyOn>,
}

/// The kinds of receivers.
#[derive(Debug, Clone)]
pub(crate) enum TargetKind {
    /// A Slack incoming webhook.
    Slack,
    /// A plain webhook, with the headers to send.
    Webhook(Vec<(String, Secret)>),
}

#[derive(Debug, Clone)]
pub(crate) enum Delivery {
    Send(reqwest::Client),
    /// Into files of this directory, for a look at what would be sent.
    Write(PathBuf),
}

/// Deliveries under way, and what went wrong with those that are through.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deliveries {
    running: Arc<Mutex<Vec<JoinHandle<Option<String>>>>>,
}

impl Deliveries {
    /// Waits for all deliveries, at most as long as one may take, and gives the warnings.
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

/// Tells receivers about a run.
pub(crate) struct Notifier {
    targets: Vec<Target>,
    delivery: Delivery,
    masks: Masks,
    runtime: tokio::runtime::Handle,
    deliveries: Deliveries,
    run: Run,
    sequence: usize,
}

/// What every notification says about its run.
#[derive(Default)]
struct Run {
    pipeline: String,
    build_id: String,
    mode: &'static str,
    source: String,
}

/// One thing to tell.
struct Message {
    on: NotifyOn,
    text: String,
    details: Value,
}

impl Notifier {
    /// A notifier; `deliveries` is where its caller waits for it.
    pub(crate) fn new(
        targets: Vec<Target>,
        delivery: Delivery,
        masks: &Masks,
        deliveries: &Deliveries,
    ) -> Self {
        Self {
            targets,
            delivery,
            masks: masks.clone(),
            runtime: tokio::runtime::Handle::current(),
            deliveries: deliveries.clone(),
            run: Run::default(),
            sequence: 0,
        }
    }

    fn tell(&mut self, message: &Message) {
        for target in self.targets.iter().filter(|target| target.on.contains(&message.on)) {
            self.sequence += 1;
            let text = self.masks.text(&message.text);
            let payload = match target.kind {
                TargetKind::Slack => slack(&text),
                TargetKind::Webhook(_) => self.webhook(message, &text),
            };
            let (target, delivery) = (target.clone(), self.delivery.clone());
            let name = match target.kind {
                TargetKind::Slack => "slack",
                TargetKind::Webhook(_) => "webhook",
            };
            let file = format!("{:03}-{}-{name}.json", self.sequence, message.on.as_str());
            let task = async move {
                let sent = deliver(&target, &delivery, &payload, &file);
                match tokio::time::timeout(DELIVERY, sent).await {
                    Ok(Ok(())) => None,
                    Ok(Err(reason)) => Some(format!("the {name} notification was not delivered: {reason}")),
                    Err(_) => Some(format!("the {name} notification was not delivered in time")),
                }
            };
            self.deliveries
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.runtime.spawn(task));
        }
    }

    fn webhook(&self, message: &Message, text: &str) -> Value {
        let masked = |text: &str| self.masks.text(text);
        let mut payload = json!({
            "version": 1,
            "event": message.on.as_str(),
            "pipeline": masked(&self.run.pipeline),
            "build": masked(&self.run.build_id),
            "mode": self.run.mode,
            "source": masked(&self.run.source),
            "text": text,
        });
        if let (Some(payload), Value::Object(details)) = (payload.as_object_mut(), &message.details) {
            for (key, value) in details {
                let value = match value {
                    Value::String(text) => Value::String(self.masks.text(text)),
                    other => other.clone(),
                };
                payload.insert(key.clone(), value);
            }
        }
        payload
    }

    fn finished(&self, run: &RunFinished) -> Option<Message> {
        let took = human_duration(run.elapsed);
        let about = format!("{} ({})", self.run.pipeline, self.run.source);
        match &run.failure {
            Some(failure) => {
                let (on, word) = match failure.exit {
                    Exit::Signal(_) => (NotifyOn::Stopped, "was stopped"),
                    _ => (NotifyOn::Failed, "failed"),
                };
                Some(Message {
                    on,
                    text: format!("{about} {word} after {took}: {}", failure.message),
                    details: json!({ "reason": failure.message, "exit": failure.exit.code() }),
                })
            }
            None => Some(Message {
                on: NotifyOn::Succeeded,
                text: format!("{about} succeeded in {took}"),
                details: json!({}),
            }),
        }
        .filter(|_| run.last)
    }
}

impl Sink for Notifier {
    fn event(&mut self, event: &Event) {
        let message = match event {
            Event::RunStarted(run) => {
                self.run = Run {
                    pipeline: run.pipeline.clone(),
                    build_id: run.build_id.clone(),
                    mode: run.mode,
                    source: run.source.clone(),
                };
                run.first.then(|| Message {
                    on: NotifyOn::Started,
                    text: format!("{} ({}) started", run.pipeline, run.source),
                    details: json!({}),
                })
            }
            Event::PhaseFinished { phase, status, .. } => status.failure().map(|failure| Message {
                on: NotifyOn::PhaseFailed,
                text: format!(
                    "{} ({}): phase {phase} failed: {}",
                    self.run.pipeline, self.run.source, failure.message
                ),
                details: json!({ "phase": phase.as_str(), "reason": failure.message }),
            }),
            Event::RunFinished(run) => self.finished(run),
            _ => None,
        };
        if let Some(message) = message {
            self.tell(&message);
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

/// The three characters that Slack reads as markup.
fn escape_mrkdwn(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

async fn deliver(target: &Target, delivery: &Delivery, payload: &Value, file: &str) -> Result<(), String> {
    let client = match delivery {
        Delivery::Write(directory) => {
            return files::write_json(&directory.join(file), payload, Access::Owner)
                .map_err(|error| crate::exit::chain(&error));
        }
        Delivery::Send(client) => client,
    };
    let mut request = client.post(target.url.expose()).json(payload);
    if let TargetKind::Webhook(headers) = &target.kind {
        for (name, value) in headers {
            request = request.header(name, value.expose());
        }
    }
    let answer = request.send().await.map_err(|error| crate::exit::chain(&error.without_url()))?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(format!("the receiver answered {}", answer.status()))
    }
}
