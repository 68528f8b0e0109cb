//! Retries: which failures may pass, and how long to wait for that. Waits are reported while they last, and the causes
//! are kept for the log.

use super::RegistryError;
use super::connection::RepositoryClient;
use crate::backoff::Backoff;
use crate::exit;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The least number of attempts: each of them may take long.
const MIN_ATTEMPTS: u32 = 3;
/// The number of attempts if a retry hardly helps: nothing listens at first contact, or a blob arrived damaged.
const MAX_DOUBTFUL_ATTEMPTS: u32 = 4;
/// The delays between attempts.
pub(super) const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), factor: 2.0, maximum: Duration::from_secs(8), jitter: 0.25 };
/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// Shorter waits are not reported. Jitter makes a wait of one second shorter.
const REPORTED: Duration = Duration::from_millis(700);
/// How often one call renews the login. Parallel calls share a login, and a token may expire while a call waits.
const MAX_RENEWALS: u32 = 3;

/// Reports a wait while it lasts.
pub(crate) type OnWait = Arc<dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync>;

/// A failed attempt that may be retried.
pub(crate) enum Trouble {
    /// The registry rejected the login of this generation.
    Login(u64, RegistryError),
    /// Any other failure, with the delay of `Retry-After`.
    Failed(RegistryError, Option<Duration>),
}

/// The retries of one call.
pub(crate) struct Retries<'c> {
    client: &'c RepositoryClient,
    /// The number of failed attempts.
    pub(crate) failed: u32,
    /// When the first attempt failed.
    since: Option<Instant>,
    renewals: u32,
    /// Nothing has been received from the registry yet.
    is_first_contact: bool,
}

impl Retries<'_> {
    /// Waits until the next attempt, or returns the error if a retry is useless.
    pub(crate) async fn wait(&mut self, trouble: Trouble) -> Result<(), RegistryError> {
        let (error, retry_after) = match trouble {
            Trouble::Login(generation, error) => {
                if self.renewals >= MAX_RENEWALS || !self.client.renew(generation).await? {
                    return Err(error);
                }
                // The first login is not a renewal: the registry has only now asked for one.
                self.renewals += u32::from(generation > 0);
                return Ok(());
            }
            Trouble::Failed(error, retry_after) => (error, retry_after),
        };
        self.failed += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        // No delay at all would only add to the load.
        let asked = retry_after.filter(|wait| !wait.is_zero()).map(|wait| wait.min(MAX_RETRY_AFTER));
        let delay = asked.unwrap_or_else(|| BACKOFF.delay(self.failed));
        let is_in_time = since.elapsed() + delay <= self.client.patience;
        let may_retry = match retry(&error) {
            RetryChance::Hopeless => false,
            RetryChance::NothingListens if self.is_first_contact => self.failed < MAX_DOUBTFUL_ATTEMPTS,
            RetryChance::Doubtful => self.failed < MAX_DOUBTFUL_ATTEMPTS,
            RetryChance::NothingListens | RetryChance::Likely => self.failed < MIN_ATTEMPTS || is_in_time,
        };
        if !may_retry {
            return Err(error);
        }
        self.client.note(format!("tried again, because {}", exit::chain(&error)));
        self.client.report_wait(delay, &error).await;
        tokio::time::sleep(delay).await;
        // The token may have expired in the meantime.
        self.renewals = 0;
        Ok(())
    }
}

/// Whether a retry after an error may succeed.
enum RetryChance {
    Hopeless,
    Doubtful,
    /// A connection cannot be established: the registry restarts, or the name is wrong.
    NothingListens,
    Likely,
}

fn retry(error: &RegistryError) -> RetryChance {
    match error {
        RegistryError::Unreachable { source, .. } if source.is_connect() => RetryChance::NothingListens,
        RegistryError::Unreachable { .. } | RegistryError::Silent { .. } => RetryChance::Likely,
        RegistryError::Lost { .. } => RetryChance::Doubtful,
        // 501 means that the registry will never do it.
        RegistryError::Refused { status: 408 | 425 | 429 | 500 | 502..=599, .. } => RetryChance::Likely,
        RegistryError::Refused { codes, .. } => {
            let has = |code: &str| codes.iter().any(|known| known == code);
            // The upload was lost or damaged in transit. A retry starts a new one.
            let is_doubtful = [
                "BLOB_UPLOAD_UNKNOWN",
                "BLOB_UPLOAD_INVALID",
                "DIGEST_INVALID",
                "SIZE_INVALID",
                "RANGE_INVALID",
                "MANIFEST_INVALID",
                "MANIFEST_BLOB_UNKNOWN",
            ];
            match () {
                () if has("TOOMANYREQUESTS") => RetryChance::Likely,
                () if is_doubtful.into_iter().any(has) => RetryChance::Doubtful,
                () => RetryChance::Hopeless,
            }
        }
        _ => RetryChance::Hopeless,
    }
}

/// Returns the delay of a `Retry-After` header: a number of seconds, or a time.
pub(super) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = DateTimeParser::new().parse_timestamp(header).ok()?;
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

/// The cause of a wait, in a few words about the registry.
fn cause(error: &RegistryError) -> String {
    match error {
        RegistryError::Refused { status, reason, .. } => format!("it answered {status} {reason}"),
        RegistryError::Silent { seconds, through, .. } => {
            format!("it did not answer for {seconds} s{through}")
        }
        other => exit::chain(other),
    }
}

impl RepositoryClient {
    /// The retries of the first call.
    pub(super) fn retries_at_first_contact(&self) -> Retries<'_> {
        Retries { is_first_contact: true, ..self.retries() }
    }

    pub(crate) fn retries(&self) -> Retries<'_> {
        Retries { client: self, failed: 0, since: None, renewals: 0, is_first_contact: false }
    }

    /// Reports a wait, unless a parallel call is reported to wait for as long.
    async fn report_wait(&self, delay: Duration, error: &RegistryError) {
        if delay < REPORTED {
            return;
        }
        let until = Instant::now() + delay;
        {
            let mut reported = self.waits_until.lock().unwrap_or_else(PoisonError::into_inner);
            if reported.is_some_and(|reported| reported + REPORTED > until) {
                return;
            }
            *reported = Some(until);
        }
        let seconds = delay.as_secs_f64().round();
        let host = &self.repository.host;
        (self.on_wait)(format!("waiting {seconds} s for {host}, because {}", cause(error))).await;
    }

    /// Records a problem that does not fail the push.
    pub(crate) fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Takes the recorded problems, each once with its count.
    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        let mut counted: Vec<(String, usize)> = Vec::new();
        for note in notes {
            match counted.iter_mut().find(|(known, _)| *known == note) {
                Some((_, times)) => *times += 1,
                None => counted.push((note, 1)),
            }
        }
        let line = |(note, times): (String, usize)| match times {
            1 => note,
            times => format!("{times} times {note}"),
        };
        counted.into_iter().map(line).collect()
    }
}

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        Self::Failed(error, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings, B8.
    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_time() {
        let now: Timestamp = "2026-09-21T14:13:00Z".parse().unwrap();
        let seconds = |header: &str| retry_after(header, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("1"), Some(1));
        assert_eq!(seconds(" 30 "), Some(30));
        assert_eq!(seconds("Mon, 21 Sep 2026 14:13:20 GMT"), Some(20));
        assert_eq!(seconds("Mon, 21 Sep 2026 14:12:00 GMT"), Some(0));
        assert_eq!(seconds("18446744073709551615"), Some(u64::MAX));
        for wrong in ["", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_may_pass_is_retried() {
        let refused = |status: u16, codes: &[&str]| {
            let codes = codes.iter().map(ToString::to_string).collect();
            retry(&RegistryError::Refused {
                host: String::new(),
                doing: String::new(),
                status,
                codes,
                reason: String::new(),
            })
        };
        for status in [408, 425, 429, 500, 502, 503, 504, 507, 520, 599] {
            assert!(matches!(refused(status, &[]), RetryChance::Likely), "{status}");
        }
        for status in [400, 404, 405, 409, 412, 501] {
            assert!(matches!(refused(status, &[]), RetryChance::Hopeless), "{status}");
        }
        assert!(matches!(refused(400, &["UNKNOWN", "DIGEST_INVALID"]), RetryChance::Doubtful));
        assert!(matches!(refused(403, &["DENIED", "TOOMANYREQUESTS"]), RetryChance::Likely));
    }
}
