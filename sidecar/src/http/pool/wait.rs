//! What a request's sender may know of its wait, also from another task: for whom it waits, and until when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A request's wait for a connection and its answer, for whoever sent it.
#[derive(Debug)]
pub struct Wait {
    since: Instant,
    held: AtomicBool,
    over: Moment,
    answered: Moment,
}

/// A moment after another that is known: its nanoseconds, [`Moment::NEVER`] until it comes.
#[derive(Debug)]
struct Moment(AtomicU64);

impl Moment {
    const NEVER: u64 = u64::MAX;

    const fn never() -> Self {
        Self(AtomicU64::new(Self::NEVER))
    }

    // Relaxed: who asks has been told by other means that it may have come.
    fn set(&self, since: Instant, at: Instant) {
        let after = at.saturating_duration_since(since).as_nanos();
        self.0.store(u64::try_from(after).unwrap_or(Self::NEVER), Ordering::Relaxed);
    }

    fn get(&self, since: Instant) -> Option<Instant> {
        let after = self.0.load(Ordering::Relaxed);
        (after != Self::NEVER).then(|| since + Duration::from_nanos(after))
    }
}

impl Wait {
    /// Of a request that is about to be sent: `now`, for who reads the clock once for all that happens at once.
    pub fn since(now: Instant) -> Self {
        Self { since: now, held: AtomicBool::new(false), over: Moment::never(), answered: Moment::never() }
    }

    /// Whether, at the moment, a limit holds the request back and the endpoint does not know of it: no connection has been
    /// found for it, and none is being opened.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// When the connection was there, if the request had to wait for it: what came before says nothing of how fast the
    /// endpoint answers.
    pub fn over(&self) -> Option<Instant> {
        self.over.get(self.since)
    }

    /// When the response's head was there, if it was.
    pub fn answered(&self) -> Option<Instant> {
        self.answered.get(self.since)
    }

    /// When it began.
    pub(super) fn began(&self) -> Instant {
        self.since
    }

    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(super) fn set_over(&self, at: Instant) {
        self.over.set(self.since, at);
    }

    pub(super) fn set_answered(&self, at: Instant) {
        self.answered.set(self.since, at);
    }
}
