//! Who gets a place at a listener that anybody may connect to, when there are not places for all.
//!
//! A silent socket costs a caller nothing, so that a plain count ("at most 64") is a switch by which anybody turns the
//! listener off for everybody else. Hence:
//!
//! * A source address has at most [`Limits::per_source`] places. One more, and its own oldest is given up for it: who takes
//!   too much takes it from itself.
//! * When all places are taken, the newcomer gets one all the same: the oldest of the source that has most (of several, the
//!   one with the oldest). So a probe with one short connection gets through, and a source with few is left alone
//!   while one with many is there.
//! * A source that has no more than [`Limits::kept`] gives none up for others. Where nobody has more, the newcomer is
//!   refused: 0 for probes (the newest matters), some for a herd of honest callers (who has begun shall end).
//!
//! A source is an address, not a caller: behind NAT, and for pods in their node's network, many share one. So this is for
//! callers that nobody knows yet; those with a verified identity are not to be counted by their address.
//!
//! Decides only. A place is given up by dropping the handle that came with it: a `tokio::sync::oneshot::Sender`, say,
//! whose receiver the connection's task waits for beside its work.
//!
//! Bound: an entry per place. Cost: a look-up, and a walk over the sources when all places are taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all; at least 1. Those given up are free at once, although their tasks may take a moment to end.
    pub total: usize,
    /// Of one source address; at least 1.
    pub per_source: usize,
    /// As many a source may have without ever giving one up for another source.
    pub kept: usize,
}

/// All places are taken, and by sources that have no more than [`Limits::kept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all places are taken: try again in a moment")]
pub struct Full;

/// The places of a listener; `H` is dropped when a place is given up. Clones share.
#[derive(Debug)]
pub struct Places<H>(Arc<Mutex<Table<H>>>);

impl<H> Clone for Places<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> Places<H> {
    /// None is taken.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { total: limits.total.max(1), per_source: limits.per_source.max(1), ..limits };
        Self(Arc::new(Mutex::new(Table { limits, taken: 0, next: 0, sources: HashMap::new() })))
    }

    /// A place for a connection from `source`, until the [`Place`] is dropped or `handle` is, whichever is first.
    ///
    /// # Errors
    /// [`Full`]; never where [`Limits::kept`] is 0.
    pub fn enter(&self, source: IpAddr, handle: H) -> Result<Place<H>, Full> {
        // A dual-stack listener sees IPv4 as mapped addresses.
        let source = source.to_canonical();
        let (number, given_up) = lock(&self.0).enter(source, handle)?;
        // Not under the lock: it may wake a task.
        drop(given_up);
        Ok(Place { table: Arc::clone(&self.0), source, number })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        lock(&self.0).taken
    }
}

/// A place; dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub struct Place<H> {
    table: Arc<Mutex<Table<H>>>,
    source: IpAddr,
    number: u64,
}

impl<H> Drop for Place<H> {
    fn drop(&mut self) {
        let handle = lock(&self.table).leave(self.source, self.number);
        drop(handle);
    }
}

#[derive(Debug)]
struct Table<H> {
    limits: Limits,
    taken: usize,
    next: u64,
    /// By source, its places by age. None is empty.
    sources: HashMap<IpAddr, BTreeMap<u64, H>>,
}

impl<H> Table<H> {
    /// The new place's number, and what was given up for it.
    fn enter(&mut self, source: IpAddr, handle: H) -> Result<(u64, Option<H>), Full> {
        let own = self.sources.get(&source).map_or(0, BTreeMap::len);
        let giver = if own >= self.limits.per_source {
            Some(source)
        } else if self.taken >= self.limits.total {
            Some(self.largest().ok_or(Full)?)
        } else {
            None
        };
        let oldest = giver.and_then(|giver| Some((giver, *self.sources.get(&giver)?.first_key_value()?.0)));
        let given_up = oldest.and_then(|(giver, number)| self.leave(giver, number));
        let number = self.next;
        self.next += 1;
        self.taken += 1;
        self.sources.entry(source).or_default().insert(number, handle);
        Ok((number, given_up))
    }

    /// Whose oldest goes when all are taken.
    fn largest(&self) -> Option<IpAddr> {
        let (source, places) = self
            .sources
            .iter()
            .max_by_key(|(_, places)| (places.len(), Reverse(places.first_key_value().map(|(number, _)| *number))))?;
        (places.len() > self.limits.kept).then_some(*source)
    }

    /// Nothing, if it was given up before.
    fn leave(&mut self, source: IpAddr, number: u64) -> Option<H> {
        let places = self.sources.get_mut(&source)?;
        let handle = places.remove(&number)?;
        if places.is_empty() {
            self.sources.remove(&source);
        }
        self.taken -= 1;
        Some(handle)
    }
}

/// Nothing panics under the lock, so a poisoned one is whole.
fn lock<H>(table: &Mutex<Table<H>>) -> MutexGuard<'_, Table<H>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Weak;

    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn who_gives_up_a_place_for_whom() {
        let limits = Limits { total: 4, per_source: 3, kept: 0 };
        let kept = Limits { kept: 1, ..limits };
        // Who comes, one after the other; whose place (counted from 0) the last one gets: None where one was free.
        #[rustfmt::skip]
        let rows: [(&str, Limits, &[u8], Result<Option<usize>, Full>); 10] = [
            ("places are free",                               limits, &[1, 1, 1],       Ok(None)),
            ("too much of one: its own oldest",               limits, &[1, 1, 1, 1],    Ok(Some(0))),
            ("too much of one, when full: its own oldest",    limits, &[2, 1, 1, 1, 1], Ok(Some(1))),
            ("full: the oldest of whoever has most",          limits, &[1, 2, 2, 3, 4], Ok(Some(1))),
            ("full, and it has most itself",                  limits, &[1, 2, 2, 3, 2], Ok(Some(1))),
            ("full, and two have most: the older one's",      limits, &[2, 1, 1, 2, 3], Ok(Some(0))),
            ("full, and all have one: the oldest",            limits, &[4, 3, 2, 1, 5], Ok(Some(0))),
            ("full, and all have one, which they keep",       kept,   &[4, 3, 2, 1, 5], Err(Full)),
            ("full, and one has more than it keeps",          kept,   &[4, 3, 1, 1, 5], Ok(Some(2))),
            ("none is no limit that anybody means",
                Limits { total: 0, per_source: 0, kept: 0 },          &[1, 2],          Ok(Some(0))),
        ];
        for (row, limits, callers, expected) in rows {
            let places = Places::new(limits);
            let (last, before) = callers.split_last().unwrap();
            let mut held: Vec<(Place<Arc<()>>, Weak<()>)> = Vec::new();
            for caller in before {
                let handle = Arc::new(());
                let weak = Arc::downgrade(&handle);
                held.push((places.enter(source(*caller), handle).unwrap(), weak));
            }
            let entered = places.enter(source(*last), Arc::new(()));
            let gone = held.iter().position(|(_, handle)| handle.strong_count() == 0);
            assert_eq!(entered.as_ref().map(|_| gone).map_err(|full| *full), expected, "{row}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_same_source() {
        let places = Places::new(Limits { total: 9, per_source: 1, kept: 0 });
        let first = Arc::new(());
        let _v4 = places.enter(source(1), Arc::clone(&first)).unwrap();
        let _mapped = places.enter("::ffff:10.0.0.1".parse().unwrap(), Arc::new(())).unwrap();
        assert_eq!((Arc::strong_count(&first), places.taken()), (1, 1));
    }

    proptest! {
        /// Whatever comes and goes: the bounds hold, what is counted is there, and a source within what it keeps loses
        /// nothing to others.
        #[test]
        fn bounds_hold_and_nothing_is_lost(
            steps in prop::collection::vec((0..6_u8, any::<bool>(), any::<prop::sample::Index>()), 1..200),
            total in 1..8_usize, per_source in 1..5_usize, kept in 0..3_usize,
        ) {
            let places = Places::new(Limits { total, per_source, kept });
            let mut held: Vec<(u8, Place<Arc<()>>, Weak<()>)> = Vec::new();
            let alive = |held: &[(u8, Place<Arc<()>>, Weak<()>)], caller| {
                held.iter().filter(|(of, _, handle)| *of == caller && handle.strong_count() > 0).count()
            };
            for (caller, leaves, which) in steps {
                if leaves && !held.is_empty() {
                    // Given back in any order, also after it was given up.
                    drop(held.swap_remove(which.index(held.len())));
                } else {
                    let before: Vec<usize> = (0..6).map(|caller| alive(&held, caller)).collect();
                    let handle = Arc::new(());
                    let weak = Arc::downgrade(&handle);
                    match places.enter(source(caller), handle) {
                        Ok(place) => held.push((caller, place, weak)),
                        Err(Full) => prop_assert!(kept > 0 && places.taken() == total),
                    }
                    for other in (0..6).filter(|other| *other != caller) {
                        let (before, after) = (before[usize::from(other)], alive(&held, other));
                        prop_assert!(after == before || before > kept);
                    }
                }
                let counts: Vec<usize> = (0..6).map(|caller| alive(&held, caller)).collect();
                prop_assert_eq!(places.taken(), counts.iter().sum::<usize>());
                prop_assert!(places.taken() <= total && counts.iter().all(|count| *count <= per_source));
            }
            let sources: BTreeSet<u8> = held.iter().map(|(caller, ..)| *caller).collect();
            prop_assert!(lock(&places.0).sources.len() <= sources.len());
            drop(held);
            prop_assert_eq!((places.taken(), lock(&places.0).sources.len()), (0, 0));
        }
    }
}
