//! Retries: which failures may pass, and how long to wait for that. Their causes are kept for the log.

use super::RegistryError;
use super::connection::RepositoryClient;
use crate::backoff::Backoff;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The number of attempts of a call. With [`BACKOFF`] they take about a minute.
const MAX_ATTEMPTS: u32 = 12;
/// The number of attempts once a call has been failing for [`SLOW_AFTER`], because the attempts themselves are slow.
const MAX_SLOW_ATTEMPTS: u32 = 3;
const SLOW_AFTER: Duration = Duration::from_mins(1);
/// The number of attempts if a retry hardly helps: no response at first contact, or a blob that arrived damaged.
const MAX_DOUBTFUL_ATTEMPTS: u32 = 4;
/// The delays between attempts.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), factor: 2.0, maximum: Duration::from_secs(8), jitter: 0.25 };
/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(2);
/// How often one call renews the login. Parallel calls share a login, and a token may expire while a call waits.
const MAX_RENEWALS: u32 = 3;

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
    max_attempts: u32,
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
        let max_attempts = match retry(&error) {
            RetryChance::Hopeless => return Err(error),
            RetryChance::Doubtful => self.max_attempts.min(MAX_DOUBTFUL_ATTEMPTS),
            RetryChance::Likely if since.elapsed() > SLOW_AFTER => self.max_attempts.min(MAX_SLOW_ATTEMPTS),
            RetryChance::Likely => self.max_attempts,
        };
        if self.failed >= max_attempts {
            return Err(error);
        }
        self.client.note(format!("tried again, because {}", crate::exit::chain(&error)));
        let delay = retry_after.map_or_else(|| BACKOFF.delay(self.failed), |wait| wait.min(MAX_RETRY_AFTER));
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
    Likely,
}

fn retry(error: &RegistryError) -> RetryChance {
    match error {
        RegistryError::Unreachable { .. } | RegistryError::Silent { .. } => RetryChance::Likely,
        RegistryError::Refused { status: 408 | 425 | 429 | 500 | 502 | 503 | 504, .. } => RetryChance::Likely,
        RegistryError::Refused { code, .. } => match code.as_str() {
            "TOOMANYREQUESTS" => RetryChance::Likely,
            // The upload was lost or damaged in transit. A retry starts a new one.
            "BLOB_UPLOAD_UNKNOWN"
            | "BLOB_UPLOAD_INVALID"
            | "DIGEST_INVALID"
            | "SIZE_INVALID"
            | "RANGE_INVALID"
            | "MANIFEST_INVALID"
            | "MANIFEST_BLOB_UNKNOWN" => RetryChance::Doubtful,
            _ => RetryChance::Hopeless,
        },
        _ => RetryChance::Hopeless,
    }
}

impl RepositoryClient {
    /// The retries of the first call, whose failure is more likely to be final.
    pub(super) fn retries_at_first_contact(&self) -> Retries<'_> {
        Retries { max_attempts: MAX_DOUBTFUL_ATTEMPTS, ..self.retries() }
    }

    pub(crate) fn retries(&self) -> Retries<'_> {
        Retries { client: self, failed: 0, since: None, renewals: 0, max_attempts: MAX_ATTEMPTS }
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
