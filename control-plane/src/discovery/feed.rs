//! How a change reaches every stream: the latest state in one place, and after it a note of what was touched, broadcast.
//! A stream that falls behind by more than [`NOTES`] notes compares everything it has with the latest state instead,
//! so nobody ever waits for a slow stream and no old state is kept for one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};

use crate::translate::{Touched, Translated};

/// Notes kept for streams that are behind. A note is the names of one change.
const NOTES: usize = 64;

/// The state all streams serve.
#[derive(Debug)]
pub struct Feed {
    latest: ArcSwap<Translated>,
    notes: broadcast::Sender<Arc<Touched>>,
    synced: watch::Sender<bool>,
}

impl Feed {
    /// Starts with the state before the first sync, of which nothing is said to anybody.
    pub fn new(initial: Arc<Translated>) -> Self {
        Self { latest: ArcSwap::new(initial), notes: broadcast::Sender::new(NOTES), synced: watch::Sender::new(false) }
    }

    /// Makes `state` what streams serve, and tells them what it touched.
    pub fn publish(&self, state: Arc<Translated>, touched: Touched) {
        // First the state, then the note: whoever reads a note finds a state at least as new.
        self.latest.store(state);
        if !touched.is_empty() {
            // An error says that nobody listens.
            let _ = self.notes.send(Arc::new(touched));
        }
    }

    /// From now on the state is complete: streams may be answered, and `/ready` says so.
    pub fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Whether the first complete state is there.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// The latest state.
    pub fn latest(&self) -> Arc<Translated> {
        self.latest.load_full()
    }

    /// Waits for the first complete state. Cancel safe.
    pub async fn synced(&self) {
        // An error would say that `self` is gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Notes from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Touched>> {
        self.notes.subscribe()
    }
}
