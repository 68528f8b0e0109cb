//! The pace at which a deployment is looked at, until its time is over or somebody asks for the end.

use super::Deployer;
use crate::aws::AwsError;
use crate::connections::failure::told;
use crate::ecs::service::Service;
use crate::exit::Failure;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked at, at first and later, where nobody says it.
const POLL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Why it is not looked at any more.
pub(crate) enum Over {
    /// The time is over.
    TimedOut,
    /// Somebody asked for the end of the run.
    Stopped,
}

pub(crate) struct Watch<'a> {
    deployer: &'a Deployer<'a>,
    until: Instant,
    pause: Duration,
    /// The last look failed.
    troubled: bool,
}

impl<'a> Watch<'a> {
    pub(crate) fn begin(deployer: &'a Deployer<'a>, wait: Duration) -> Self {
        Self { deployer, until: Instant::now() + wait, pause: POLL.0, troubled: false }
    }

    /// Looks. An API that does not answer holds up neither the end of the time nor a signal.
    pub(crate) async fn look<T>(
        &mut self,
        look: impl Future<Output = Result<T, AwsError>>,
    ) -> Result<Result<T, AwsError>, Over> {
        let looked = self.until_over(look).await?;
        self.troubled &= looked.is_err();
        Ok(looked)
    }

    async fn until_over<T>(&self, work: impl Future<Output = T>) -> Result<T, Over> {
        tokio::select! {
            done = work => Ok(done),
            () = self.deployer.stop.cancelled() => Err(Over::Stopped),
            () = tokio::time::sleep_until(self.until) => Err(Over::TimedOut),
        }
    }

    /// A look has failed, and the next one may not. Gives what to say: only the first of several in a row is worth it.
    pub(crate) fn missed(&mut self, error: &AwsError) -> Option<String> {
        let is_first = !std::mem::replace(&mut self.troubled, true);
        is_first.then(|| format!("asked again, because {}", told(error)))
    }

    /// Waits for the time of the next look.
    pub(crate) async fn rest(&mut self) -> Result<(), Over> {
        let pause = self.deployer.poll.unwrap_or(self.pause);
        self.pause = (self.pause * 5 / 4).min(POLL.1);
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Over::TimedOut);
        }
        self.until_over(tokio::time::sleep(pause.min(left))).await
    }
}

/// The events of a service that have been heard.
#[derive(Default)]
pub(crate) struct Heard(HashSet<String>);

impl Heard {
    /// All that there are now.
    pub(crate) fn of(service: &Service) -> Self {
        Self(service.events.iter().map(|event| event.id.clone()).collect())
    }

    /// What is new since the last time, oldest first.
    pub(crate) fn fresh(&mut self, service: &Service) -> Vec<String> {
        let fresh = service.events.iter().filter(|event| self.0.insert(event.id.clone()));
        let mut fresh: Vec<String> = fresh.map(|event| event.message.trim().to_owned()).collect();
        fresh.reverse();
        fresh
    }
}

/// The attempts of a call that changes something, whose answer may be lost.
pub(crate) struct Attempts<'a> {
    deployer: &'a Deployer<'a>,
    wait: Duration,
    left: u32,
}

impl<'a> Attempts<'a> {
    /// The first one is being made.
    pub(crate) fn begin(deployer: &'a Deployer<'a>) -> Self {
        Self { deployer, wait: POLL.0, left: 4 }
    }

    /// Waits before the next one, twice as long each time; not once somebody asks for the end of the run.
    pub(crate) async fn pause(&mut self) -> Result<(), Failure> {
        tokio::select! {
            () = tokio::time::sleep(self.deployer.poll.unwrap_or(self.wait)) => {}
            () = self.deployer.stop.cancelled() => return Err(Failure::stopped()),
        }
        self.wait *= 2;
        Ok(())
    }

    /// Whether there is another one.
    pub(crate) fn next(&mut self) -> bool {
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}
