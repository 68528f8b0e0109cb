//! Calls that only save work: without them a push sends more, but it is no less complete. They never fail a push, and
//! never delay it long.

use super::RegistryError;
use super::connection::RepositoryClient;
use crate::exit;
use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long calls of one kind may fail without a success in between.
const MAX_LOST: Duration = Duration::from_secs(10);

/// What a call may save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Saving {
    /// The layers of earlier images need not be compressed.
    EarlierImages,
    /// A blob that is there need not be sent.
    BlobLookup,
    /// A blob that has arrived need not be sent again. A registry that cannot confirm it still checks the manifest.
    Confirmation,
    /// A blob of another repository need not be sent.
    Mount,
    /// The digest of a manifest, without its content.
    ManifestLookup,
}

impl Saving {
    fn as_str(self) -> &'static str {
        match self {
            Self::EarlierImages => "the layers of earlier images",
            Self::BlobLookup => "looking up which blobs are there already",
            Self::Confirmation => "confirming which blobs have arrived",
            Self::Mount => "mounting blobs of other repositories",
            Self::ManifestLookup => "a HEAD request for the manifest",
        }
    }
}

/// The time that failed calls have taken.
#[derive(Debug, Default)]
pub(super) struct LostTime(HashMap<Saving, Duration>);

impl RepositoryClient {
    /// Returns the result of a call, or `None` if it fails or takes too long.
    pub(crate) async fn saving<T>(
        &self,
        saving: Saving,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Option<T> {
        let lost = || self.lost_time.lock().unwrap_or_else(PoisonError::into_inner);
        let most = MAX_LOST.min(self.patience);
        let left = most.saturating_sub(lost().0.get(&saving).copied().unwrap_or_default());
        if left.is_zero() {
            return None;
        }
        let started = Instant::now();
        let reason = match tokio::time::timeout(left, call).await {
            Ok(Ok(found)) => {
                lost().0.remove(&saving);
                return Some(found);
            }
            // A response to HEAD has no body with the reason. The response to the next call has one.
            Ok(Err(RegistryError::Denied { .. })) => return None,
            Ok(Err(error)) => exit::chain(&error),
            Err(_) => {
                let seconds = left.as_secs_f64().ceil();
                format!("the registry {} did not serve it within {seconds} s", self.repository.host)
            }
        };
        *lost().0.entry(saving).or_default() += started.elapsed();
        self.note(format!("continued without {}: {reason}", saving.as_str()));
        None
    }
}
