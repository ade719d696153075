//! Limits: fixed caps on what one proxy asks of one backend, answered with `overflow` (SEMANTICS.md §3 "limits").
//!
//! Shared by workers without overshoot: a place is taken by compare-and-swap, so two workers never both take the last
//! one. Each place is a guard that gives itself back when dropped.
//!
//! No limit is the default. A mesh that adds caps nobody asked for turns a burst into an outage; what protects a
//! backend by default is the retry budget and outlier detection.
//!
//! Not here: who waits for a place and in which order (the pool in `http/`), and how many retries there may be
//! (`budget.rs`). `max_requests_per_connection` is read by the pool, since it counts per connection.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Limits::max_connections`]
    Connections,
    /// [`Limits::max_pending`]
    Pending,
    /// [`Limits::max_requests`]
    Requests,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connections => "maxConnections",
            Self::Pending => "maxPending",
            Self::Requests => "maxRequests",
        })
    }
}

/// A limit is reached: the answer is 503 with reason `overflow`, and it never counts against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} ({max}) is reached: raise it, or find out what holds the places")]
pub struct Overflow {
    /// Which one.
    pub limit: Limit,
    /// Its value.
    pub max: NonZeroU32,
}

/// One backend's counts. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Limiter {
    counts: Arc<Counts>,
    limits: Limits,
}

#[derive(Debug, Default)]
struct Counts {
    connections: Places,
    pending: Places,
    requests: Places,
}

#[derive(Debug, Default)]
struct Places {
    taken: AtomicU32,
    refused: AtomicU64,
}

impl Places {
    fn take(&self, limit: Limit, max: Option<NonZeroU32>) -> Result<(), Overflow> {
        // Relaxed: only the count is shared, and the compare-and-swap keeps it below the limit.
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| match max {
            Some(max) if taken >= max.get() => None,
            _ => taken.checked_add(1),
        });
        match (taken, max) {
            (Ok(_), _) => Ok(()),
            (Err(_), max) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(Overflow { limit, max: max.unwrap_or(NonZeroU32::MAX) })
            }
        }
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
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

    /// A place for a connection, taken before it is dialled.
    ///
    /// # Errors
    /// When `max_connections` is reached.
    pub fn connection(&self) -> Result<ConnectionGuard, Overflow> {
        self.counts.connections.take(Limit::Connections, self.limits.max_connections)?;
        Ok(ConnectionGuard(Arc::clone(&self.counts)))
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
    pub fn request(&self) -> Result<RequestGuard, Overflow> {
        self.counts.requests.take(Limit::Requests, self.limits.max_requests)?;
        Ok(RequestGuard(Arc::clone(&self.counts)))
    }

    /// Places taken now.
    pub fn taken(&self, limit: Limit) -> u32 {
        self.places(limit).taken.load(Ordering::Relaxed)
    }

    /// Times a place was refused, since the start.
    pub fn refused_total(&self, limit: Limit) -> u64 {
        self.places(limit).refused.load(Ordering::Relaxed)
    }

    fn places(&self, limit: Limit) -> &Places {
        match limit {
            Limit::Connections => &self.counts.connections,
            Limit::Pending => &self.counts.pending,
            Limit::Requests => &self.counts.requests,
        }
    }
}

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct ConnectionGuard(Arc<Counts>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.give_back();
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
pub struct RequestGuard(Arc<Counts>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.requests.give_back();
    }
}

#[cfg(test)]
mod tests {
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
