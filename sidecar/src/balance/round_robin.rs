//! Round robin: endpoints take turns.
//!
//! Formula (Envoy's): with equal weights, the next in the list, from a random start; with weights that differ, or
//! that grow (`slow_start.rs`), earliest deadline first (`edf.rs`). The turn of an endpoint that may not be picked
//! passes to the next one in the list, and the list goes on from there: with the second of three out, the others alternate.
//!
//! Turns are shared by workers. A change of the set begins a new round.
//! Bound: two words; with weights, what `edf.rs` takes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::Rng;

use super::edf;

/// Whose turn it is.
#[derive(Debug)]
pub(super) enum RoundRobin {
    /// Nobody weighs more than another.
    Equal { start: OnceLock<usize>, turn: AtomicUsize },
    /// By weight.
    Weighted(edf::Shared),
}

impl RoundRobin {
    pub(super) fn new(equal: bool) -> Self {
        if equal {
            Self::Equal { start: OnceLock::new(), turn: AtomicUsize::new(0) }
        } else {
            Self::Weighted(edf::Shared::default())
        }
    }

    /// Who is next among the `usable` ones of `0..n`. `None`: see [`edf::Shared::next`]; with equal weights, when none is.
    pub(super) fn next<R: Rng + ?Sized>(
        &self,
        n: usize,
        rng: &mut R,
        weight: impl Fn(usize) -> f64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self {
            Self::Equal { start, turn } => {
                let start = *start.get_or_init(|| rng.random_range(0..n.max(1)));
                // Relaxed: turns are told apart, and nothing else is published through them.
                let next = |_| start.wrapping_add(turn.fetch_add(1, Ordering::Relaxed)) % n;
                (0..n).map(next).find(|index| usable(*index)).or_else(|| {
                    // Another worker took a turn meanwhile, so that one was passed over: a last look at each.
                    (0..n).find(|index| usable(*index))
                })
            }
            Self::Weighted(shared) => shared.next(n, rng, weight, usable),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn counts(robin: &RoundRobin, weights: &[u32], picks: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            let next = robin.next(weights.len(), &mut rng, |index| f64::from(weights[index]), &usable);
            counts[next.expect("one is usable")] += 1;
        }
        counts
    }

    #[test]
    fn turns_are_equal_to_the_pick() {
        assert_eq!(counts(&RoundRobin::new(true), &[1; 5], 100_000, |_| true), [20_000; 5]);
    }

    #[test]
    fn turns_follow_weights_to_the_pick_or_two() {
        let got = counts(&RoundRobin::new(false), &[1, 2, 7], 100_000, |_| true);
        for (got, want) in got.iter().zip([10_000usize, 20_000, 70_000]) {
            assert!(got.abs_diff(want) <= 2, "{got} for {want}");
        }
    }

    #[test]
    fn the_neighbour_of_one_that_is_out_gets_no_more_than_others() {
        let got = counts(&RoundRobin::new(true), &[1; 4], 30_000, |index| index != 1);
        assert_eq!(got, [10_000, 0, 10_000, 10_000]);
        let got = counts(&RoundRobin::new(false), &[1, 1, 3], 40_000, |index| index != 1);
        assert!(got[1] == 0 && got[0].abs_diff(10_000) <= 2, "{got:?}");
    }

    #[test]
    fn none_is_next_where_none_is_usable() {
        let mut rng = SmallRng::seed_from_u64(2);
        for equal in [true, false] {
            assert_eq!(RoundRobin::new(equal).next(3, &mut rng, |_| 1.0, |_| false), None);
            assert_eq!(RoundRobin::new(equal).next(0, &mut rng, |_| 1.0, |_| true), None);
        }
    }

    #[test]
    fn proxies_start_at_different_endpoints() {
        let first = |seed| RoundRobin::new(true).next(4, &mut SmallRng::seed_from_u64(seed), |_| 1.0, |_| true);
        let starts: std::collections::HashSet<_> = (0..100).map(first).collect();
        assert_eq!(starts.len(), 4);
    }
}
