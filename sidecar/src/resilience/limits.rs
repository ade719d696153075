//! Limits: fixed caps on what one proxy asks of one backend, answered with `overflow` (SEMANTICS.md §3 "limits").
//!
//! Shared by workers without overshoot: a place is taken by compare-and-swap, so two workers never both take the last
//! one. Each place is a guard that gives itself back when dropped.
//!
//! No limit is the default. A mesh that adds caps nobody asked for turns a burst into an outage; what protects a
//! backend by default is the retry budget and outlier detection.
//!
//! Not here: who waits for a connection's place and in which order (`places.rs`), which request waits for which
//! connection (the pool in `http/`), and how many retries there may be (`budget.rs`). `max_requests_per_connection` is
//! read by the pool, since it counts per connection.

use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use super::count::{Count, Limit, Overflow};
use super::places::{ConnectionGuard, Connections, Holder};

/// One backend's caps. `None` is no limit, and the default of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Limits {
    /// Connections open or being opened.
    pub max_connections: Option<NonZeroU32>,
    /// Requests waiting for a connection.
    pub max_pending: Option<NonZeroU32>,
    /// Requests under way.
    pub max_requests: Option<NonZeroU32>,
    /// Requests after which a connection takes no more.
    pub max_requests_per_connection: Option<NonZeroU32>,
}

/// One backend's counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Limiter {
    counts: Arc<Counts>,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Counts {
    connections: Arc<Connections>,
    pending: Count,
    requests: Count,
}

impl Limiter {
    /// With every place free.
    pub fn new(limits: Limits) -> Self {
        Self { counts: Arc::default(), limits }
    }

    /// The same counts under other limits: what is open keeps counting when the configuration changes. Places taken
    /// beyond a lower limit stay; no new one is given until enough are back.
    #[must_use]
    pub fn with_limits(&self, limits: Limits) -> Self {
        Self { counts: Arc::clone(&self.counts), limits }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A place for a connection, taken before it is dialled. Nobody overtakes those who wait for one.
    ///
    /// # Errors
    /// When `max_connections` is reached.
    pub fn connection(&self) -> Result<ConnectionGuard, Overflow> {
        self.counts.connections.take(self.limits.max_connections)
    }

    /// As [`Self::connection`], for one that cannot wait: at the limit, a connection that nobody uses is closed for it.
    ///
    /// # Errors
    /// When `max_connections` is reached, and no such place was free at once.
    pub fn connection_now(&self) -> Result<ConnectionGuard, Overflow> {
        self.connection().or_else(
            |full| {
                if self.counts.connections.make_room() { self.connection() } else { Err(full) }
            },
        )
    }

    /// Whether a connection's place is free now.
    pub fn has_room(&self) -> bool {
        self.counts.connections.has_room(self.limits.max_connections)
    }

    /// Makes a holder of this backend's connections known to those that need a place. Bound: one word per holder alive.
    pub fn join(&self, holder: Weak<dyn Holder>) {
        self.counts.connections.join(holder);
    }

    /// Queues a holder for a place; it waits at most once. `starving`: it has no connection at all, see
    /// [`Holder`]. Takes locks: the caller holds none of its own.
    pub fn wait(&self, holder: Weak<dyn Holder>, starving: bool) {
        self.counts.connections.wait(holder, starving, self.limits.max_connections);
        self.counts.connections.grant();
        self.counts.connections.make_room_for(starving);
    }

    /// Takes a holder that no longer [waits](Holder::waits) out of the queue. The caller holds no lock.
    pub fn leave(&self, holder: &Weak<dyn Holder>) {
        self.counts.connections.leave(holder);
    }

    /// Whether somebody waits for a connection's place: then no connection is kept that nobody uses.
    pub fn is_wanted(&self) -> bool {
        self.counts.connections.is_wanted()
    }

    /// Whether the caller has to close a connection that has just become free, for a holder without any. Each `true` is
    /// owed to one of them, so it is only asked by who will do it.
    pub fn claim(&self) -> bool {
        self.counts.connections.claim()
    }

    /// The connection claimed was gone already.
    pub fn unclaim(&self) {
        self.counts.connections.unclaim();
    }

    /// A place to wait for a connection.
    ///
    /// # Errors
    /// When `max_pending` is reached.
    pub fn pending(&self) -> Result<PendingGuard, Overflow> {
        self.counts.pending.take(Limit::Pending, self.limits.max_pending)?;
        Ok(PendingGuard(Arc::clone(&self.counts)))
    }

    /// A place for a request, kept until its response body ends.
    ///
    /// # Errors
    /// When `max_requests` is reached.
    pub fn request(&self) -> Result<RequestGuard<'_>, Overflow> {
        self.counts.requests.take(Limit::Requests, self.limits.max_requests)?;
        Ok(RequestGuard(&self.counts))
    }

    /// Gives back the place of a request whose guard was [left](RequestGuard::leave).
    pub fn request_over(&self) {
        self.counts.requests.give_back();
    }

    /// Places taken now.
    pub fn taken(&self, limit: Limit) -> u32 {
        self.count(limit).taken()
    }

    /// Times a place was refused, since the start.
    pub fn refused_total(&self, limit: Limit) -> u64 {
        self.count(limit).refused_total()
    }

    fn count(&self, limit: Limit) -> &Count {
        match limit {
            Limit::Connections => self.counts.connections.count(),
            Limit::Pending => &self.counts.pending,
            Limit::Requests => &self.counts.requests,
        }
    }
}

/// A waiting request's place, free again when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct PendingGuard(Arc<Counts>);

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.0.pending.give_back();
    }
}

/// A request's place, free again when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct RequestGuard<'a>(&'a Counts);

impl RequestGuard<'_> {
    /// The place stays taken: whoever keeps the limiter owes it one [`Limiter::request_over`].
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.0.requests.give_back();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn two() -> Limits {
        let two = NonZeroU32::new(2);
        Limits { max_connections: two, max_pending: two, max_requests: two, max_requests_per_connection: None }
    }

    #[test]
    fn there_is_no_limit_unless_told() {
        let limiter = Limiter::default();
        let held: Vec<_> = (0..10_000).map(|_| (limiter.connection(), limiter.pending(), limiter.request())).collect();
        assert!(held.iter().all(|(c, p, r)| c.is_ok() && p.is_ok() && r.is_ok()));
    }

    #[test]
    fn each_limit_refuses_the_one_too_many_and_frees_its_place_on_drop() {
        let limiter = Limiter::new(two());
        let (c1, _c2) = (limiter.connection(), limiter.connection());
        let (p1, _p2) = (limiter.pending(), limiter.pending());
        let (r1, _r2) = (limiter.request(), limiter.request());
        let refused = [
            limiter.connection().map(drop).map_err(|o| o.limit),
            limiter.pending().map(drop).map_err(|o| o.limit),
            limiter.request().map(drop).map_err(|o| o.limit),
        ];
        assert_eq!(refused, [Err(Limit::Connections), Err(Limit::Pending), Err(Limit::Requests)]);
        drop((c1, p1, r1));
        assert!(limiter.connection().is_ok() && limiter.pending().is_ok() && limiter.request().is_ok());
        for limit in [Limit::Connections, Limit::Pending, Limit::Requests] {
            assert_eq!((limiter.taken(limit), limiter.refused_total(limit)), (1, 1), "{limit}");
        }
    }

    #[test]
    fn a_lower_limit_waits_for_the_surplus() {
        let wide = Limiter::default();
        let mut held: Vec<_> = (0..4).filter_map(|_| wide.request().ok()).collect();
        let narrow = wide.with_limits(two());
        held.truncate(2);
        assert!(narrow.request().is_err());
        held.truncate(1);
        assert!(narrow.request().is_ok());
    }

    #[test]
    fn workers_together_do_not_overshoot() {
        let limiter = Limiter::new(two());
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Ok(_place) = limiter.request() {
                            most.fetch_max(limiter.taken(Limit::Requests), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() <= 2);
        assert_eq!(limiter.taken(Limit::Requests), 0);
    }
}
