//! A pool's part in its backend's limit: it queues for the places it needs, and gives up connections for who queues.
//! Who gets what, and why, is in `resilience/places.rs`; the books are in `state.rs`.

use std::sync::Weak;

use super::{Shared, wake};
use crate::resilience::{ConnectionGuard, Holder};

impl Shared {
    /// Waits for a place among the backend's.
    pub(super) fn queue(&self) {
        let starving = self.state.lock().queue();
        if let Some(starving) = starving {
            self.limits.wait(self.holder(), starving);
        }
    }

    pub(super) fn holder(&self) -> Weak<dyn Holder> {
        self.me.clone()
    }

    /// A connection has no request: it closes in time, or now where another pool waits for its place. `reaps`: somebody
    /// sees to the time already, as a look at the books has just told.
    pub(super) fn idle(&self, reaps: bool) {
        // Looked at after the connection can be found here: who begins to wait later finds it.
        if self.limits.is_wanted() {
            self.give_up_idle();
        }
        if !reaps {
            self.reap();
        }
    }
}

impl Holder for Shared {
    fn granted(&self, place: ConnectionGuard) -> Option<ConnectionGuard> {
        let (left, waker) = self.state.lock().granted(place);
        wake(waker);
        left
    }

    fn waits(&self) -> bool {
        self.state.lock().is_queued()
    }

    fn give_up_idle(&self) -> bool {
        let given_up = self.state.lock().give_up_idle();
        given_up.is_some()
    }

    fn shared(&self) -> usize {
        self.state.lock().shared()
    }

    fn retire_shared(&self) -> bool {
        let retired = self.state.lock().retire_shared();
        retired.is_some()
    }
}

#[cfg(test)]
mod tests;
