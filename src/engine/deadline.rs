//! Deadlines of runs, phases and steps.

use crate::duration;
use crate::exit::{Exit, Failure};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A time limit. Its token is cancelled when it expires, or when the run or phase that contains it is stopped.
#[derive(Debug)]
pub(crate) struct Deadline {
    started: Instant,
    pub(crate) token: CancellationToken,
    /// Why it has expired.
    expired: Arc<OnceLock<String>>,
    timers: Vec<JoinHandle<()>>,
}

impl Deadline {
    /// Starts now. Without a time it never expires by itself.
    pub(crate) fn start(subject: &'static str, time: Option<Duration>, outer: &CancellationToken) -> Self {
        let token = outer.child_token();
        let mut deadline =
            Self { started: Instant::now(), token, expired: Arc::default(), timers: Vec::new() };
        if let Some(time) = time {
            deadline.limit(subject, time);
        }
        deadline
    }

    /// Also expires this long after its start.
    pub(crate) fn limit(&mut self, subject: &'static str, time: Duration) {
        let end = self.started + time;
        self.expire_after(async move {
            tokio::time::sleep_until(end).await;
            Some(format!("{subject} took longer than {}", duration::display(time)))
        });
    }

    /// Also expires when `reason` resolves to one.
    pub(crate) fn expire_after(&mut self, reason: impl Future<Output = Option<String>> + Send + 'static) {
        let (token, expired) = (self.token.clone(), self.expired.clone());
        self.timers.push(tokio::spawn(async move {
            if let Some(reason) = reason.await {
                let _ = expired.set(reason);
                token.cancel();
            }
        }));
    }

    /// The failure that it causes once it has expired.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.expired.get().map(|reason| Failure::new(Exit::Timeout, reason.as_str()))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        for timer in &self.timers {
            timer.abort();
        }
    }
}
