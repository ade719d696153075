//! Counters by label, bounded and expiring: what clients and deployments can invent must not grow our memory, and what is
//! gone must not be reported for ever.
//!
//! Past [`MAX_SERIES`] label sets, further ones are counted under what the caller makes of them (`other`). A label set
//! that nothing was counted under for [`EXPIRE_AFTER`] goes, unless the caller still knows what it names: a counter that
//! starts again hides its first event from `rate()`, so only those go that will not come back. That frees their place.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Most label combinations of one family.
pub const MAX_SERIES: u64 = 2_000;
/// How long a series is kept with nothing counted: three times as long as Prometheus looks back.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(15 * 60);

/// One family of counters.
#[derive(Debug)]
pub struct Series<L: Clone + Hash + Eq> {
    family: Family<L, Counter>,
    /// Changes whenever a label set goes: who remembers a counter from before must look again.
    generation: AtomicU64,
    /// Every label set there is. Locked when one is new, and by [`Self::expire`].
    known: Mutex<Vec<Known<L>>>,
}

/// A worker's last few counters, so that a request that is like those before it is counted without hashing its labels.
#[derive(Debug)]
pub(super) struct Recent<L> {
    generation: u64,
    next: usize,
    counters: [Option<(L, Counter)>; 4],
}

impl<L> Recent<L> {
    pub(super) const NEW: Self = Self { generation: 0, next: 0, counters: [const { None }; 4] };
}

#[derive(Debug)]
struct Known<L> {
    labels: L,
    value: u64,
    /// When it was first seen with this value.
    since: Option<Instant>,
}

impl<L: Clone + Hash + Eq> Default for Series<L> {
    fn default() -> Self {
        Self { family: Family::default(), generation: AtomicU64::new(0), known: Mutex::default() }
    }
}

impl<L: Clone + Hash + Eq + EncodeLabelSet + Debug + Send + Sync + 'static> Series<L> {
    /// For the registry.
    pub(super) fn family(&self) -> Family<L, Counter> {
        self.family.clone()
    }

    /// Counts one. No lock is written for a label set that is there; none is looked for where `recent` has one that `is_it`,
    /// nor are its `labels` made.
    pub(super) fn inc_recent(
        &self,
        is_it: impl Fn(&L) -> bool,
        labels: impl FnOnce() -> L,
        beyond: impl FnOnce(&mut L),
        recent: &mut Recent<L>,
    ) {
        let generation = self.generation.load(Ordering::Acquire);
        if recent.generation != generation {
            *recent = Recent { generation, ..Recent::NEW };
        }
        if let Some((_, counter)) = recent.counters.iter().flatten().find(|(known, _)| is_it(known)) {
            counter.inc();
            return;
        }
        let asked = labels();
        let counter = self.inc(asked.clone(), beyond);
        let place = recent.next % recent.counters.len();
        recent.counters[place] = Some((asked, counter));
        recent.next += 1;
    }

    /// The same, looked for.
    pub(super) fn inc(&self, mut labels: L, beyond: impl FnOnce(&mut L)) -> Counter {
        if let Some(known) = self.family.get(&labels) {
            known.inc();
            return known.clone();
        }
        let mut known = self.known.lock();
        if known.len() as u64 >= MAX_SERIES {
            beyond(&mut labels);
        }
        // Looked at again: another worker may have been first, and what is beyond the bound is mostly there.
        if self.family.get(&labels).is_none() {
            known.push(Known { labels: labels.clone(), value: 0, since: None });
        }
        let counter = self.family.get_or_create(&labels).clone();
        counter.inc();
        counter
    }

    /// Drops what has been idle too long and is not `kept`. An event counted at this very moment may be lost.
    pub(super) fn expire(&self, now: Instant, kept: impl Fn(&L) -> bool) {
        self.known.lock().retain_mut(|known| {
            let value = self.family.get(&known.labels).map_or(0, |counter| counter.get());
            let since = match known.since {
                Some(since) if known.value == value => since,
                _ => now,
            };
            (known.value, known.since) = (value, Some(since));
            let stays = now.saturating_duration_since(since) < EXPIRE_AFTER || kept(&known.labels);
            if !stays {
                self.family.remove(&known.labels);
                self.generation.fetch_add(1, Ordering::Release);
            }
            stays
        });
    }
}
