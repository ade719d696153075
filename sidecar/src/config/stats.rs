//! What `config/` counts, for `/metrics` to read.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Counters since the start, and gauges. Relaxed throughout: each stands for itself.
#[derive(Debug, Default)]
pub struct ConfigStats {
    /// Resources received, by kind in the order of `Kind::ALL`, good and bad.
    pub resources_received: [AtomicU64; 6],
    /// Resources the control plane said are gone or do not exist.
    pub resources_removed: AtomicU64,
    /// Resources that did not compile.
    pub resources_refused: AtomicU64,
    /// Bytes of resources received.
    pub bytes_received: AtomicU64,
    /// Responses acknowledged.
    pub acks: AtomicU64,
    /// Responses refused in part.
    pub nacks: AtomicU64,
    /// Streams opened, the first included.
    pub connects: AtomicU64,
    /// Streams that could not be opened or broke.
    pub failures: AtomicU64,
    /// Whether a stream is open.
    pub connected: AtomicBool,
    /// When the last response was applied: ms since this room's epoch, plus one; 0 is never.
    pub(super) applied: AtomicU64,
    /// Names subscribed to now.
    pub subscriptions: AtomicUsize,
    /// Destinations that had to wait for an answer.
    pub lookups: AtomicU64,
    /// … and got none in time.
    pub lookups_unanswered: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
