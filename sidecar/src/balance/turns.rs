//! Turns of neglected endpoints: every pick is a 200th of one, and one is kept (`balancer.rs` says what for).
//! Bound: two words.

use std::sync::atomic::{AtomicU32, Ordering};

/// The count of picks, and what was spent of it.
///
/// Apart from what is only read: every worker writes here at every pick.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Turns {
    picks: AtomicU32,
    /// `picks` at the last turn.
    last: AtomicU32,
}

impl Turns {
    /// Picks for one turn.
    const PRICE: u32 = 200;

    pub(super) fn on_pick(&self) {
        // Not added at once: two workers that count together count one, and a turn comes a little later.
        self.picks.store(self.picks.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether it is a neglected endpoint's turn: true for one caller.
    pub(super) fn take(&self) -> bool {
        let (picks, last) = (self.picks.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        picks.wrapping_sub(last) >= Self::PRICE
            && self.last.compare_exchange(last, picks, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
