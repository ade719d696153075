//! How much memory the tables of all ring hashes and Maglevs of one proxy may take: [`Room::MOST`] together.
//!
//! A policy asks for up to 12 MiB for a ring and 20 MiB for a table, a set has one for each of its pools, and a proxy has as many
//! backends as its pod calls: each within its bound, they could still take more than the pod was given. So a table
//! claims its bytes before it is made. Where they do not fit, half the size is tried, then a quarter, and so on down to a
//! floor, which is always given: requests stay with their endpoints there too, only that shares are less even, and that proxies
//! that cut differently do not agree on who has a key. A floor is 12 KiB, or four places for each endpoint.
//!
//! What is claimed is given back when the table goes. A set that takes another's place may use that one's bytes as well, or
//! an update of a large set would cut it: so while the two are exchanged both are there. A table that was cut is made in full
//! with the next change of its set for which there is room.
//!
//! Pure: counted in an atomic that the balancers of a proxy share. Bound: [`Room::MOST`], and a floor for each pool.

use std::cell::Cell;
use std::iter::successors;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Room for tables.
#[derive(Debug)]
pub struct Room {
    most: usize,
    /// Bytes claimed.
    taken: AtomicUsize,
    /// Tables that were cut since the start.
    cut: AtomicU64,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(Self::MOST)
    }
}

impl Room {
    /// Bytes of all tables of a proxy.
    pub const MOST: usize = 48 << 20;

    /// Room for so many bytes.
    pub fn of(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0), cut: AtomicU64::new(0) }
    }

    /// Bytes that tables have.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Tables made smaller than their policies ask for, since the start.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Whether `bytes` fit, which they then have. `credit` is what of the bytes taken goes soon.
    fn take(&self, bytes: usize, credit: usize) -> bool {
        // Relaxed: a count, and nothing else is published through it.
        let fits = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.most.saturating_add(credit));
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// A table that is smaller than it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Points or cells that the policy asks for.
    pub wanted: u32,
    /// Those that there are.
    pub given: u32,
}

impl Cut {
    /// How many times smaller it is.
    fn times(self) -> u32 {
        self.wanted / self.given.max(1)
    }
}

/// A table's bytes, given back when it goes.
#[derive(Debug)]
pub(super) struct Claim {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Claims for the tables of one set while it is made.
#[derive(Debug)]
pub(super) struct Claims<'r> {
    room: &'r Arc<Room>,
    credit: usize,
    claimed: Cell<usize>,
    cut: Cell<Option<Cut>>,
}

impl<'r> Claims<'r> {
    /// For a set in the place of one that has `credit` bytes.
    pub(super) fn new(room: &'r Arc<Room>, credit: usize) -> Self {
        Self { room, credit, claimed: Cell::new(0), cut: Cell::new(None) }
    }

    /// Bytes claimed so far.
    pub(super) fn claimed(&self) -> usize {
        self.claimed.get()
    }

    /// The table that was cut most.
    pub(super) fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// The first of `sizes` that fits, or else the last; `each` is how many bytes a place has. At least one size.
    fn claim(&self, sizes: impl Iterator<Item = u32>, each: usize) -> Option<(u32, Claim)> {
        let mut wanted = None;
        let mut sizes = sizes.peekable();
        while let Some(size) = sizes.next() {
            let wanted = *wanted.get_or_insert(size);
            let bytes = each.saturating_mul(size as usize);
            let fits = self.room.take(bytes, self.credit);
            if !fits && sizes.peek().is_some() {
                continue;
            }
            if !fits {
                self.room.taken.fetch_add(bytes, Ordering::Relaxed);
            }
            if size < wanted {
                self.room.cut.fetch_add(1, Ordering::Relaxed);
                let cut = Cut { wanted, given: size };
                if self.cut.get().is_none_or(|most| cut.times() > most.times()) {
                    self.cut.set(Some(cut));
                }
            }
            self.claimed.set(self.claimed.get() + bytes);
            return Some((size, Claim { room: Arc::clone(self.room), bytes }));
        }
        None
    }

    /// Points of a ring that is to have `wanted`, for so many endpoints.
    pub(super) fn ring(&self, wanted: u32, endpoints: usize) -> Option<(u32, Claim)> {
        self.claim(halves(wanted, floor(endpoints)), 12)
    }

    /// Cells of a table that is to have `wanted`, a prime number.
    pub(super) fn maglev(&self, wanted: u32, endpoints: usize) -> Option<(u32, Claim)> {
        let prime = |size| if size == wanted { wanted } else { prime_up_to(size) };
        self.claim(halves(wanted, floor(endpoints)).map(prime), 4)
    }
}

/// The least that is given: 1024 places, or four for each endpoint.
fn floor(endpoints: usize) -> u32 {
    u32::try_from(endpoints.saturating_mul(4)).unwrap_or(u32::MAX).max(1_024)
}

/// `wanted`, half of it and so on, down to the floor.
fn halves(wanted: u32, floor: u32) -> impl Iterator<Item = u32> {
    successors(Some(wanted), move |size| (*size > floor).then(|| (*size / 2).max(floor)))
}

/// The largest prime number that is no larger than `size`, which is at least 2.
fn prime_up_to(size: u32) -> u32 {
    let is_prime =
        |of: &u32| (2..).take_while(|factor| factor * factor <= *of).all(|factor| !of.is_multiple_of(factor));
    (2..=size).rev().find(is_prime).unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_halved_down_to_the_floor() {
        #[rustfmt::skip]
        let rows: [(u32, usize, &[u32]); 6] = [
            (65_537,     3, &[65_537, 32_768, 16_384, 8_192, 4_096, 2_048, 1_024]),
            (3_000,      3, &[3_000, 1_500, 1_024]),
            (1_024,      3, &[1_024]),
            (251,        3, &[251]),
            (5_000,  1_000, &[5_000, 4_000]),
            (4_000, 10_000, &[4_000]),
        ];
        for (wanted, endpoints, want) in rows {
            assert_eq!(halves(wanted, floor(endpoints)).collect::<Vec<_>>(), want, "{wanted} {endpoints}");
        }
        for (size, want) in [(2, 2), (4, 3), (1_024, 1_021), (32_768, 32_749), (65_537, 65_537)] {
            assert_eq!(prime_up_to(size), want);
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_and_what_goes_makes_room() {
        let room = Arc::new(Room::of(100_000));
        let claims = Claims::new(&room, 0);
        let (size, first) = claims.ring(8_000, 3).unwrap();
        assert_eq!((size, room.taken(), claims.cut()), (8_000, 96_000, None));
        // Nothing is left: the floor is given all the same.
        let (size, second) = claims.ring(8_000, 3).unwrap();
        assert_eq!((size, room.taken(), room.cut()), (1_024, 96_000 + 12 * 1_024, 1));
        assert_eq!(claims.cut(), Some(Cut { wanted: 8_000, given: 1_024 }));
        assert_eq!(claims.claimed(), room.taken());
        drop(first);
        let claims = Claims::new(&room, 0);
        let (size, third) = claims.ring(8_000, 3).unwrap();
        assert_eq!(size, 4_000, "half of it fits beside the second");
        drop((second, third));
        assert_eq!(room.taken(), 0);
        let (size, _) = Claims::new(&room, 0).maglev(65_537, 3).unwrap();
        assert_eq!(size, 16_381, "a prime number below a quarter");
    }

    #[test]
    fn a_set_may_have_the_bytes_of_the_one_it_replaces() {
        let room = Arc::new(Room::of(100_000));
        let old = Claims::new(&room, 0);
        let (_, before) = old.ring(8_000, 3).unwrap();
        let (size, after) = Claims::new(&room, old.claimed()).ring(8_000, 3).unwrap();
        assert_eq!((size, room.cut()), (8_000, 0));
        drop(before);
        assert_eq!(room.taken(), 96_000);
        drop(after);
    }

    proptest! {
        /// Whatever comes and goes: no more is taken than there is room for, floors aside, and all of it comes back.
        #[test]
        fn tables_stay_within_the_room(
            tables in prop::collection::vec((2u32..3_000_000, 0usize..2_000, any::<bool>(), 0usize..8), 1..40),
        ) {
            let room = Arc::new(Room::of(4 << 20));
            let mut held: Vec<(usize, usize, Claim)> = Vec::new();
            for (wanted, endpoints, ring, replaces) in tables {
                // In the place of one that is there, if it is.
                let old = (replaces < held.len()).then(|| held.remove(replaces));
                let credit = old.as_ref().map_or(0, |(bytes, ..)| *bytes);
                let claims = Claims::new(&room, credit);
                let wanted = if ring { wanted.min(1 << 20) } else { prime_up_to(wanted) };
                let (size, claim) =
                    if ring { claims.ring(wanted, endpoints) } else { claims.maglev(wanted, endpoints) }.unwrap();
                drop(old);
                prop_assert!(size <= wanted && (ring || prime_up_to(size) == size));
                prop_assert_eq!(claims.cut().is_some(), size < wanted);
                let least = floor(endpoints) as usize * 12;
                held.push((claims.claimed(), least, claim));
                prop_assert_eq!(room.taken(), held.iter().map(|(bytes, ..)| bytes).sum::<usize>());
                let floors: usize = held.iter().map(|(bytes, least, _)| *bytes.min(least)).sum();
                prop_assert!(room.taken() <= (4 << 20) + floors);
            }
            held.clear();
            prop_assert_eq!(room.taken(), 0);
        }
    }
}
