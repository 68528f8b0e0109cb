//! Times that steps, phases and runs may take, and the delays between attempts.

use crate::duration;
use crate::exit::{Exit, Failure};
use crate::language::pipeline::model::Retry;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longer delays between attempts help nobody.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// A time that something may take. Its token is cancelled when the time is over, or when everything around it is stopped.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) token: CancellationToken,
    /// Why its time is over, once it is.
    passed: Arc<OnceLock<String>>,
    timers: Vec<JoinHandle<()>>,
}

impl Limit {
    /// Begins now. Without a time it never passes.
    pub(crate) fn begin(what: &'static str, time: Option<Duration>, outer: &CancellationToken) -> Self {
        let mut limit = Self { token: outer.child_token(), passed: Arc::default(), timers: Vec::new() };
        if let Some(time) = time {
            limit.pass_after(async move {
                tokio::time::sleep(time).await;
                Some(format!("{what} took longer than {}", duration::display(time)))
            });
        }
        limit
    }

    /// Lets the time be over when a future says why, too.
    pub(crate) fn pass_after(&mut self, reason: impl Future<Output = Option<String>> + Send + 'static) {
        let (token, passed) = (self.token.clone(), self.passed.clone());
        self.timers.push(tokio::spawn(async move {
            if let Some(reason) = reason.await {
                let _ = passed.set(reason);
                token.cancel();
            }
        }));
    }

    /// The failure that it has become, where its time is over.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.passed.get().map(|reason| Failure::new(Exit::Timeout, reason.as_str()))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        for timer in &self.timers {
            timer.abort();
        }
    }
}

/// The time before an attempt, the second one being number 1: it grows with every attempt, and differs a little from run to
/// run, so that builds that failed together do not try again together.
pub(crate) fn delay(retry: &Retry, number: u32) -> Duration {
    let grown = retry.backoff.saturating_pow(number.saturating_sub(1));
    let delay = retry.delay.saturating_mul(grown).min(LONGEST_DELAY);
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    // From 80 to 120 per cent.
    delay.mul_f64(0.8 + f64::from(nanos % 1000) / 2500.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_scatter_a_little() {
        let retry = Retry { attempts: 9, delay: Duration::from_secs(1), backoff: 3 };
        let seconds = |number| delay(&retry, number).as_secs_f64();
        assert!((0.8..=1.2).contains(&seconds(1)) && (2.4..=3.6).contains(&seconds(2)));
        assert!(seconds(9) <= 360.0);
    }
}
