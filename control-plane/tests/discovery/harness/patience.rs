//! How long a test waits.

use std::time::Duration;

/// Longer than anything here takes on a busy machine; only a failing test waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("this takes too long")
}
