//! A count that stays below a limit: what `limits.rs` and `places.rs` share.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// [`Limits::max_connections`](super::Limits::max_connections)
    Connections,
    /// [`Limits::max_pending`](super::Limits::max_pending)
    Pending,
    /// [`Limits::max_requests`](super::Limits::max_requests)
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

/// Places taken, and how often one was refused.
#[derive(Debug, Default)]
pub(super) struct Count {
    taken: AtomicU32,
    refused: AtomicU64,
}

impl Count {
    pub(super) fn take(&self, limit: Limit, max: Option<NonZeroU32>) -> Result<(), Overflow> {
        // Relaxed: only the count is shared, and the compare-and-swap keeps it below the limit.
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| match max {
            Some(max) if taken >= max.get() => None,
            _ => taken.checked_add(1),
        });
        match (taken, max) {
            (Ok(_), _) => Ok(()),
            (Err(_), max) => Err(self.refuse(limit, max)),
        }
    }

    pub(super) fn refuse(&self, limit: Limit, max: Option<NonZeroU32>) -> Overflow {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Overflow { limit, max: max.unwrap_or(NonZeroU32::MAX) }
    }

    pub(super) fn is_full(&self, max: Option<NonZeroU32>) -> bool {
        max.is_some_and(|max| self.taken.load(Ordering::Relaxed) >= max.get())
    }

    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
