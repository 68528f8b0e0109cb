//! Deadlines, and the delay between attempts.

use super::Retry;
use crate::duration;
use crate::exit::{Exit, Failure};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The longest delay before an attempt.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// A time limit. Its token is cancelled when it expires, or when what contains it is stopped.
#[derive(Debug)]
pub(crate) struct Deadline {
    pub(crate) token: CancellationToken,
    /// Why it has expired.
    expired: Arc<OnceLock<String>>,
    timers: Vec<JoinHandle<()>>,
}

impl Deadline {
    /// Starts now. Without a time it never expires by itself.
    pub(crate) fn start(subject: &'static str, time: Option<Duration>, outer: &CancellationToken) -> Self {
        let mut deadline = Self { token: outer.child_token(), expired: Arc::default(), timers: Vec::new() };
        if let Some(time) = time {
            deadline.expire_after(async move {
                tokio::time::sleep(time).await;
                Some(format!("{subject} took longer than {}", duration::display(time)))
            });
        }
        deadline
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

/// The delay before an attempt; `number` is 1 for the second attempt. It grows with every attempt and varies from run to run, so
/// that builds that failed together do not retry together.
pub(crate) fn delay(retry: &Retry, number: u32) -> Duration {
    let grown = retry.backoff.saturating_pow(number.saturating_sub(1));
    let delay = retry.delay.saturating_mul(grown).min(LONGEST_DELAY);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    // From 80 to 120 percent.
    delay.mul_f64(0.8 + f64::from(nanos % 1000) / 2500.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_vary_a_little() {
        let retry = Retry { attempts: 9, delay: Duration::from_secs(1), backoff: 3 };
        let seconds = |number| delay(&retry, number).as_secs_f64();
        assert!((0.8..=1.2).contains(&seconds(1)) && (2.4..=3.6).contains(&seconds(2)));
        assert!(seconds(9) <= 360.0);
    }
}
