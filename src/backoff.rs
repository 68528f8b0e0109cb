//! Exponential backoff: the delays between the attempts of one operation. Pure, except for the random jitter of
//! [`Backoff::delay`].

use crate::random;
use std::time::Duration;

/// How the delays between attempts grow.
///
/// The delay before retry `n` (the first retry is 1) is `first * factor^(n - 1)`, but at most `maximum`. The jitter then
/// changes it by up to that fraction in either direction: 0.25 means 75 % to 125 %. Clients that failed together therefore do
/// not retry together.
///
/// The type does not count attempts and does not sleep. A caller that retries keeps its own counter:
///
/// ```ignore
/// const BACKOFF: Backoff = Backoff {
///     first: Duration::from_millis(250),
///     factor: 2.0,
///     maximum: Duration::from_secs(8),
///     jitter: 0.25,
/// };
/// tokio::time::sleep(BACKOFF.delay(retry)).await;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Backoff {
    /// The delay before the first retry.
    pub(crate) first: Duration,
    /// The growth from one delay to the next; 1 keeps the delay constant.
    pub(crate) factor: f64,
    /// The longest delay before jitter.
    pub(crate) maximum: Duration,
    /// The largest random change as a fraction of the delay, from 0 (none) to 1.
    pub(crate) jitter: f64,
}

impl Backoff {
    /// Returns the delay before a retry, with random jitter.
    pub(crate) fn delay(&self, retry: u32) -> Duration {
        self.delay_at(retry, random::fraction())
    }

    /// Returns the delay before a retry for a given random number from 0 (shortest) to 1 (longest).
    fn delay_at(&self, retry: u32, random: f64) -> Duration {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        // Infinity if the power is too large, which the maximum bounds.
        let seconds = self.first.as_secs_f64() * self.factor.powi(exponent);
        let seconds = seconds.min(self.maximum.as_secs_f64());
        Duration::try_from_secs_f64(seconds * (1.0 + self.jitter * (2.0 * random - 1.0)))
            .unwrap_or(self.maximum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(250),
        factor: 2.0,
        maximum: Duration::from_secs(8),
        jitter: 0.25,
    };

    #[test]
    fn delays_double_up_to_the_maximum() {
        let delays: Vec<u128> =
            [0, 1, 2, 3, 6, 7, 1000, u32::MAX].map(|retry| BACKOFF.delay_at(retry, 0.5).as_millis()).to_vec();
        assert_eq!(delays, [250, 250, 500, 1000, 8000, 8000, 8000, 8000]);
    }

    #[test]
    fn jitter_changes_a_delay_in_both_directions() {
        assert_eq!(BACKOFF.delay_at(7, 0.0), Duration::from_secs(6));
        assert_eq!(BACKOFF.delay_at(7, 1.0), Duration::from_secs(10));
        let bounds = Duration::from_millis(187)..=Duration::from_millis(313);
        assert!((0..1000).all(|_| bounds.contains(&BACKOFF.delay(1))));
        let steady = Backoff { factor: 1.0, jitter: 0.0, ..BACKOFF };
        assert_eq!(steady.delay(9), steady.first);
    }
}
