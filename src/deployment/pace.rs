//! The pace of polls and retries, until the deadline or until the run is stopped.

use super::Deployer;
use crate::aws::AwsError;
use crate::backoff::Backoff;
use crate::event::Events;
use crate::exit::{Failure, chain};
use std::time::Duration;
use tokio::time::Instant;

/// The intervals between polls.
const INTERVALS: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 1.25, maximum: Duration::from_secs(5), jitter: 0.0 };
/// How long a poll of a paused deployment may take.
const HELD: Duration = Duration::from_mins(10);
/// The delays before retries of a call that changes something, and how many there are: about as long as `aws` retries
/// a call that only reads.
const RETRY_DELAYS: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 2.0, maximum: Duration::from_secs(16), jitter: 0.0 };
const RETRIES: u32 = 9;

/// Why polling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    TimedOut,
    Stopped,
}

/// Polls at growing intervals until a deadline.
pub(crate) struct Poller<'a> {
    deployer: &'a Deployer<'a>,
    deadline: Instant,
    /// How many polls there were.
    polls: u32,
    /// The time that was left when a pause began that does not count.
    left: Option<Duration>,
}

impl<'a> Poller<'a> {
    pub(crate) fn new(deployer: &'a Deployer<'a>, wait: Duration) -> Self {
        Self { deployer, deadline: Instant::now() + wait, polls: 0, left: None }
    }

    /// Polls once. A call that hangs delays neither the deadline nor a stop.
    pub(crate) async fn poll<T>(
        &mut self,
        poll: impl Future<Output = Result<T, AwsError>>,
    ) -> Result<Result<T, AwsError>, WaitEnd> {
        self.until_end(poll).await
    }

    /// While the deployment is paused, the time does not run.
    pub(crate) fn hold(&mut self, is_paused: bool) {
        let now = Instant::now();
        match (is_paused, self.left) {
            (true, left) => {
                let left = left.unwrap_or_else(|| self.deadline.saturating_duration_since(now));
                self.left = Some(left);
                self.deadline = now + left + HELD;
            }
            (false, Some(left)) => {
                self.left = None;
                self.deadline = now + left;
            }
            (false, None) => {}
        }
    }

    async fn until_end<T>(&self, work: impl Future<Output = T>) -> Result<T, WaitEnd> {
        tokio::select! {
            result = work => Ok(result),
            () = self.deployer.stop.cancelled() => Err(WaitEnd::Stopped),
            () = tokio::time::sleep_until(self.deadline) => Err(WaitEnd::TimedOut),
        }
    }

    /// Sleeps until the next poll.
    pub(crate) async fn pause(&mut self) -> Result<(), WaitEnd> {
        self.polls += 1;
        let interval = self.deployer.poll.unwrap_or_else(|| INTERVALS.delay(self.polls));
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WaitEnd::TimedOut);
        }
        self.until_end(tokio::time::sleep(interval.min(left))).await
    }
}

/// The retries of a call that changes something and whose response may be lost.
pub(crate) struct LostResponseRetry<'a> {
    deployer: &'a Deployer<'a>,
    delays: u32,
    left: u32,
}

impl<'a> LostResponseRetry<'a> {
    pub(crate) fn new(deployer: &'a Deployer<'a>) -> Self {
        Self { deployer, delays: 0, left: RETRIES }
    }

    /// Reports the first of several failures.
    pub(crate) async fn report(&self, events: &Events, error: &AwsError) {
        if self.delays == 0 {
            events.warn(format!("retrying: {}", chain(error))).await;
        }
    }

    /// Sleeps before the next attempt, twice as long each time. Fails if the run is stopped.
    pub(crate) async fn back_off(&mut self) -> Result<(), Failure> {
        self.delays += 1;
        let delay = self.deployer.poll.unwrap_or_else(|| RETRY_DELAYS.delay(self.delays));
        tokio::select! {
            () = tokio::time::sleep(delay) => Ok(()),
            () = self.deployer.stop.cancelled() => Err(Failure::stopped()),
        }
    }

    /// Uses up one retry. Returns whether there was one left.
    pub(crate) fn next(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}
