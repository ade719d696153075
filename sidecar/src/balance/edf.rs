//! Earliest deadline first: a round robin that respects weights, and weights that change.
//!
//! Formula (Envoy's `EdfScheduler`): whoever has the earliest deadline is next; then the clock stands at that deadline
//! t, and its next one is t + 1/w, w being its weight at this moment. So it gets w/Σw of the picks, and is never more than
//! about one pick ahead or behind: with weights 5, 1, 1 the heavy one does not get five in a row.
//!
//! The first deadlines are u/w, u uniform in (0, 1]: as if it had always been running. Were they 1/w, as many proxies as
//! there are would all send their first request to the heaviest endpoint, and again after every change of the set (Envoy
//! draws a random number of picks in advance for the same reason).
//!
//! [`Edf`] is pure. [`Shared`] lets workers share one, behind a lock: each pick moves the clock. It is taken only where a
//! policy asks for weights that this respects; P2C knows nothing of it.
//! Bound: 24 bytes per endpoint; a pick takes O(log n), and once in a million rounds O(n).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use parking_lot::Mutex;
use rand::Rng;

/// A weight is at least this: a deadline must be finite.
const LEAST_WEIGHT: f64 = 1e-6;

/// The clock starts again here: a double then still tells deadlines apart that differ by 2^-32 (weights are below 2^32).
const HORIZON: f64 = (1u64 << 20) as f64;

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Who was put in first is first: of equal weights each has its turn.
    order: u64,
    index: u32,
}

impl Ord for Entry {
    /// The greatest is the earliest: a `BinaryHeap` gives out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// The schedule of endpoints `0..n`.
#[derive(Debug)]
pub(super) struct Edf {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Edf {
    pub(super) fn new<R: Rng + ?Sized>(n: usize, rng: &mut R, weight: impl Fn(usize) -> f64) -> Self {
        let entry = |index: usize| Entry {
            deadline: (1.0 - rng.random::<f64>()) / weight(index).max(LEAST_WEIGHT),
            order: index as u64,
            index: index as u32,
        };
        Self { heap: (0..n).map(entry).collect(), order: n as u64 }
    }

    /// Who is next. `weight` says what it weighs now.
    pub(super) fn next(&mut self, weight: impl Fn(usize) -> f64) -> Option<usize> {
        let mut first = self.heap.peek_mut()?;
        let index = first.index as usize;
        let now = first.deadline;
        first.deadline += 1.0 / weight(index).max(LEAST_WEIGHT);
        first.order = self.order;
        self.order += 1;
        // Puts it where it belongs now.
        drop(first);
        if now >= HORIZON {
            let back = |entry: Entry| Entry { deadline: entry.deadline - now, ..entry };
            self.heap = std::mem::take(&mut self.heap).into_iter().map(back).collect();
        }
        Some(index)
    }
}

/// One schedule for all workers, made at the first pick: before it there is no random source.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Option<Edf>>);

/// Turns that fall to endpoints that may not be picked, before giving up: more than each has once.
const SPARE_TURNS: usize = 8;

impl Shared {
    /// Who is next among the `usable` ones of `0..n`. Turns of others pass. `None` where none was found within a few turns
    /// more than there are endpoints: the caller then draws one, by weight.
    pub(super) fn next<R: Rng + ?Sized>(
        &self,
        n: usize,
        rng: &mut R,
        weight: impl Fn(usize) -> f64,
        usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut schedule = self.0.lock();
        let schedule = schedule.get_or_insert_with(|| Edf::new(n, rng, &weight));
        (0..n + SPARE_TURNS).map_while(|_| schedule.next(&weight)).find(|index| usable(*index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn schedule(weights: &[f64], seed: u64) -> Edf {
        Edf::new(weights.len(), &mut SmallRng::seed_from_u64(seed), |index| weights[index])
    }

    fn counts(weights: &[f64], seed: u64, picks: usize) -> Vec<f64> {
        let mut edf = schedule(weights, seed);
        let mut counts = vec![0.0; weights.len()];
        (0..picks).for_each(|_| counts[edf.next(|index| weights[index]).unwrap()] += 1.0);
        counts
    }

    #[test]
    fn nobody_is_next_where_nobody_is() {
        assert_eq!(schedule(&[], 1).next(|_| 1.0), None);
    }

    #[test]
    fn equal_weights_take_turns_in_one_order() {
        let mut edf = schedule(&[1.0; 4], 3);
        let mut round = || (0..4).map(|_| edf.next(|_| 1.0).unwrap()).collect::<Vec<_>>();
        let first = round();
        assert!((0..4).all(|index| first.contains(&index)), "{first:?}");
        assert!((0..100).all(|_| round() == first));
    }

    #[test]
    fn over_100_000_picks_shares_are_within_one_thousandth_of_the_weights() {
        let rows: [&[f64]; 5] = [&[1.0], &[5.0, 1.0, 1.0], &[1.0, 2.0, 3.0, 4.0], &[1000.0, 1.0], &[0.1, 1.0, 0.25]];
        for weights in rows {
            let sum: f64 = weights.iter().sum();
            for (got, weight) in counts(weights, 7, 100_000).iter().zip(weights) {
                assert!((got / 1e5 - weight / sum).abs() < 1e-3, "{weights:?}: {got} for {weight}");
            }
        }
    }

    #[test]
    fn a_heavy_one_does_not_get_its_turns_in_a_row() {
        let weights = [5.0, 1.0, 1.0];
        let mut edf = schedule(&weights, 1);
        let picks: Vec<_> = (0..700).map(|_| edf.next(|index| weights[index]).unwrap()).collect();
        assert!(picks.windows(7).all(|window| (4..=6).contains(&window.iter().filter(|pick| **pick == 0).count())));
    }

    #[test]
    fn first_picks_of_many_proxies_are_spread_by_weight() {
        let weights = [3.0, 1.0];
        let firsts = (0..10_000).filter(|seed| schedule(&weights, *seed).next(|index| weights[index]) == Some(0));
        // P(u/3 < v) = 5/6, u and v uniform.
        assert!((8_200..8_500).contains(&firsts.count()));
    }

    #[test]
    fn the_clock_may_start_again_and_nobody_notices() {
        let weights = [3.0, 1.0];
        let mut edf = schedule(&weights, 1);
        let shifted =
            edf.heap.drain().map(|entry| Entry { deadline: entry.deadline + HORIZON - 5.0, ..entry }).collect();
        edf.heap = shifted;
        let heavy = (0..400).filter(|_| edf.next(|index| weights[index]) == Some(0)).count();
        assert!((299..=301).contains(&heavy), "{heavy}");
        assert!(edf.heap.peek().is_some_and(|entry| entry.deadline < HORIZON / 2.0));
    }

    #[test]
    fn turns_of_the_unusable_pass_and_are_not_the_next_ones() {
        let shared = Shared::default();
        let mut rng = SmallRng::seed_from_u64(5);
        let mut counts = [0; 4];
        for _ in 0..9_000 {
            counts[shared.next(4, &mut rng, |_| 1.0, |index| index != 1).unwrap()] += 1;
        }
        assert_eq!(counts, [3_000, 0, 3_000, 3_000]);
        assert_eq!(shared.next(4, &mut rng, |_| 1.0, |_| false), None);
    }

    proptest! {
        #[test]
        fn nobody_is_ever_far_from_its_share(
            weights in prop::collection::vec(1u32..100, 1..12), seed in any::<u64>(), picks in 1usize..2_000,
        ) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let sum: f64 = weights.iter().sum();
            for (got, weight) in counts(&weights, seed, picks).iter().zip(&weights) {
                let share = picks as f64 * weight / sum;
                // One for its own phase, and its part of the others'.
                prop_assert!((got - share).abs() <= 1.0 + weights.len() as f64 * weight / sum, "{got} of {share}");
            }
        }
    }
}
