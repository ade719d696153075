//! The places of one backend's connections: who waits for one, and who has to give one up (SEMANTICS.md §3 "limits").
//!
//! `maxConnections` counts a backend's connections, and they are kept by many: a pool per endpoint, tunnels and opaque
//! streams. A place that one of them gives back may be all that another waits for:
//!
//! * A holder that needs a connection and finds no place free waits in a queue, once, however many of its requests wait.
//!   Places go to the queue in order, one at a time; newcomers do not overtake it.
//! * A connection itself is never passed on: it leads to its endpoint, and requests wait for theirs. What is passed on
//!   is the place, so whoever is woken can use what it was woken for.
//! * While somebody waits, nobody keeps a connection without a request.
//! * A holder that has no connection at all **starves**: it goes before the others, and one connection in use is closed
//!   for it after what is on it. With fewer places than endpoints in use, these so take turns, at the price of a
//!   connection each; with enough of them nothing is ever closed in use.
//!
//! Lock order: the queue's, then a holder's; never the other way round. A place freed while nobody waits costs one load
//! beyond its count, and a backend without a limit never gets further.
//!
//! Bound: an entry per holder.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::count::{Count, Limit, Overflow};

/// Keeps connections of a backend, and may wait for a place for another one. Called under no lock but, for
/// [`Self::waits`], the queue's.
pub trait Holder: Send + Sync {
    /// The place it waited for; it is out of the queue now. Gives it back if there is no use for it any more.
    fn granted(&self, place: ConnectionGuard) -> Option<ConnectionGuard>;
    /// Whether it is to stay in the queue.
    fn waits(&self) -> bool;
    /// Closes a connection that has no request on it and nobody here waits for. Whether there was one.
    fn give_up_idle(&self) -> bool;
    /// Connections in use by several requests at once, which may never be without one.
    fn shared(&self) -> usize;
    /// Lets one of these take no more requests, so that it closes after those it has. Whether there was one.
    fn retire_shared(&self) -> bool;
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Connections {
    count: Count,
    /// Entries in the queue. Written under its lock.
    waiting: AtomicUsize,
    /// Starving ones nobody has given anything up for yet. Written under the queue's lock.
    claims: AtomicUsize,
    queue: Mutex<Queue>,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

#[derive(Debug, Default)]
struct Queue {
    starving: VecDeque<Entry>,
    /// Connections that are on their way out for starving ones.
    owed: usize,
    others: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    holder: Weak<dyn Holder>,
    max: Option<NonZeroU32>,
}

impl Connections {
    pub(super) fn count(&self) -> &Count {
        &self.count
    }

    pub(super) fn take(self: &Arc<Self>, max: Option<NonZeroU32>) -> Result<ConnectionGuard, Overflow> {
        if max.is_some() && self.is_wanted() {
            return Err(self.count.refuse(Limit::Connections, max));
        }
        self.count.take(Limit::Connections, max)?;
        Ok(ConnectionGuard(Some(Arc::clone(self))))
    }

    pub(super) fn has_room(&self, max: Option<NonZeroU32>) -> bool {
        max.is_none() || !(self.is_wanted() || self.count.is_full(max))
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(super) fn join(&self, holder: Weak<dyn Holder>) {
        let mut holders = self.holders.lock();
        if holders.len() == holders.capacity() {
            holders.retain(|holder| holder.strong_count() > 0);
        }
        holders.push(holder);
    }

    pub(super) fn wait(&self, holder: Weak<dyn Holder>, starving: bool, max: Option<NonZeroU32>) {
        let mut queue = self.queue.lock();
        let is_it = |entry: &Entry| Weak::ptr_eq(&entry.holder, &holder);
        if !queue.starving.iter().any(is_it) {
            let known = queue.others.iter().position(is_it);
            match (starving, known) {
                (true, known) => {
                    known.map(|place| queue.others.remove(place));
                    queue.starving.push_back(Entry { holder, max });
                }
                (false, Some(_)) => {}
                (false, None) => queue.others.push_back(Entry { holder, max }),
            }
        }
        self.written(&queue);
    }

    pub(super) fn leave(&self, holder: &Weak<dyn Holder>) {
        let mut queue = self.queue.lock();
        // It may have begun to wait again meanwhile. It is the caller, so this is never the last reference to it.
        let stays = |entry: &Entry| {
            !Weak::ptr_eq(&entry.holder, holder) || entry.holder.upgrade().is_some_and(|holder| holder.waits())
        };
        queue.starving.retain(stays);
        queue.others.retain(stays);
        // What was claimed for it goes to who comes next, and is not owed to anybody.
        queue.owed = queue.owed.min(queue.starving.len());
        self.written(&queue);
    }

    fn written(&self, queue: &Queue) {
        self.waiting.store(queue.starving.len() + queue.others.len(), Ordering::Relaxed);
        self.claims.store(queue.starving.len().saturating_sub(queue.owed), Ordering::Relaxed);
    }

    /// Hands out the places that are free to those who wait.
    pub(super) fn grant(self: &Arc<Self>) {
        // Either who has just given a place back sees who has just begun to wait, or the other way round.
        fence(Ordering::SeqCst);
        while self.is_wanted() {
            let Some(holder) = self.take_for_first() else { return };
            let place = ConnectionGuard(Some(Arc::clone(self)));
            let left = match holder.upgrade() {
                Some(holder) => holder.granted(place),
                None => Some(place),
            };
            // Not by dropping it, which would come here again.
            if let Some(place) = left {
                place.give_back_only();
            }
        }
    }

    /// Takes a free place for the first in the queue.
    fn take_for_first(&self) -> Option<Weak<dyn Holder>> {
        let mut queue = self.queue.lock();
        let first = queue.starving.front().or(queue.others.front())?;
        if self.count.is_full(first.max) || self.count.take(Limit::Connections, first.max).is_err() {
            return None;
        }
        let first = match queue.starving.pop_front() {
            Some(first) => {
                queue.owed = queue.owed.saturating_sub(1);
                Some(first)
            }
            None => queue.others.pop_front(),
        };
        self.written(&queue);
        first.map(|first| first.holder)
    }

    /// Has a connection that nobody uses closed. Whether there was one.
    pub(super) fn make_room(&self) -> bool {
        self.holders().iter().any(|holder| holder.give_up_idle())
    }

    /// For who has just begun to wait, unless it has got its place already.
    pub(super) fn make_room_for(&self, starving: bool) {
        if !self.is_wanted() || self.make_room() || !starving {
            return;
        }
        // Those used by one request at a time are claimed when that ends; these may never be without one.
        let richest = self.holders().into_iter().max_by_key(|holder| holder.shared());
        if let Some(richest) = richest.filter(|richest| richest.shared() > 0)
            && self.claim()
            && !richest.retire_shared()
        {
            self.unclaim();
        }
    }

    pub(super) fn claim(&self) -> bool {
        if self.claims.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut queue = self.queue.lock();
        let claimed = queue.owed < queue.starving.len();
        if claimed {
            queue.owed += 1;
            self.written(&queue);
        }
        claimed
    }

    pub(super) fn unclaim(&self) {
        let mut queue = self.queue.lock();
        queue.owed = queue.owed.saturating_sub(1);
        self.written(&queue);
    }

    /// Out of the lock: the last reference to a holder may be dropped here, and its connections with it.
    fn holders(&self) -> Vec<Arc<dyn Holder>> {
        self.holders.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// A connection's place, free again when this is dropped: it then goes to who waits for it, so it is not dropped under a
/// lock that a [`Holder`] takes.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct ConnectionGuard(Option<Arc<Connections>>);

impl ConnectionGuard {
    /// Frees the place and leaves it to the caller to tell who waits.
    fn give_back_only(mut self) {
        if let Some(connections) = self.0.take() {
            connections.count.give_back();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(connections) = self.0.take() {
            connections.count.give_back();
            connections.grant();
        }
    }
}
