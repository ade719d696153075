//! Whether the pod's traffic comes to us: asked until it does, for readiness (`redirect/check.rs` says how).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::redirect::check;

/// The init container has run before we start; a CNI plugin too. Who asks again hopes for a person's help.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often that it is missing is said again.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// The answer, once it is yes.
#[derive(Debug, Clone)]
pub(super) struct Redirected(Arc<AtomicBool>);

impl Redirected {
    /// Not known yet, or not to be asked.
    pub(super) fn new(required: bool) -> Self {
        Self(Arc::new(AtomicBool::new(!required)))
    }

    pub(super) fn is_verified(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks until the redirection acts, and is loud about it while it does not.
    pub(super) async fn find_out(&self) {
        let mut say_next = Instant::now();
        while !self.is_verified() {
            match check::verify().await {
                Ok(()) => {
                    tracing::debug!("redirection is in force");
                    self.0.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    if Instant::now() >= say_next {
                        tracing::error!("{error}");
                        say_next = Instant::now() + SAY_EVERY;
                    }
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        }
    }
}
