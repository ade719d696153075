//! Priorities: endpoints of a level are used while those of the levels before it are enough.
//!
//! Formula (Envoy's), levels in order, overprovisioning factor 1.4; all percentages are whole numbers, rounded down:
//!
//! ```text
//!   healthₚ = min(100, 140 · usableₚ / allₚ)            health = min(100, Σ healthₚ)
//!   loadₚ   = min(100 − Σ load of those before, 100 · healthₚ / health)
//! ```
//!
//! What rounding leaves goes to the first level that has any health. So a level gives nothing away until more than 2/7 of
//! its endpoints are out, and then only what they would have carried beyond that. With no health anywhere the
//! first level that has endpoints gets all.
//!
//! Envoy has each level panic by itself and then compares levels by their size; here panic concerns all endpoints that are
//! ready (`balancer.rs`), and priorities count only outside it.
//! Bound: a byte per level.

use rand::Rng;
use smallvec::SmallVec;

/// How much more than its share an endpoint is trusted to carry, in percent: Envoy's overprovisioning factor.
const OVERPROVISIONING: u64 = 140;

/// What each level gets, in percent.
pub(super) type Loads = SmallVec<[u8; 8]>;

/// What a level has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    usable: usize,
    all: usize,
}

impl From<(usize, usize)> for Health {
    /// Endpoints that may be picked, of all: those that are ejected or not ready included.
    fn from((usable, all): (usize, usize)) -> Self {
        Self { usable, all }
    }
}

impl Health {
    /// With what it is overprovisioned by; 100 is whole.
    fn percent(self) -> u64 {
        if self.all == 0 { 0 } else { (OVERPROVISIONING * self.usable as u64 / self.all as u64).min(100) }
    }
}

/// What part each level gets, in percent: they sum to 100. Empty without levels.
pub(super) fn loads(levels: impl Iterator<Item = Health>) -> Loads {
    let levels: SmallVec<[Health; 8]> = levels.collect();
    let health = levels.iter().map(|level| level.percent()).sum::<u64>().min(100);
    let mut left = 100;
    let mut loads: Loads = levels
        .iter()
        .map(|level| {
            let load = (100 * level.percent()).checked_div(health).unwrap_or(0).min(left);
            left -= load;
            load as u8
        })
        .collect();
    let healthy = levels.iter().position(|level| level.percent() > 0);
    let first = healthy.or_else(|| levels.iter().position(|level| level.all > 0)).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        *load += left as u8;
    }
    loads
}

/// A level, by its load. Zero without levels.
pub(super) fn draw<R: Rng + ?Sized>(loads: &[u8], rng: &mut R) -> usize {
    if loads.first().is_some_and(|load| *load == 100) {
        return 0;
    }
    let point: u8 = rng.random_range(0..100);
    let mut sum = 0;
    let up_to = |load: &u8| {
        sum += load;
        point < sum
    };
    loads.iter().position(up_to).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn load_spills_to_the_next_level_as_the_first_fails() {
        type Row<'a> = (&'a [(usize, usize)], &'a [u8]);
        #[rustfmt::skip]
        let rows: [Row<'_>; 15] = [
            // usable of all, by level                 load
            (&[(100, 100), (100, 100)],                &[100, 0]),
            (&[(72, 100), (72, 100)],                  &[100, 0]),
            (&[(71, 100), (71, 100)],                  &[99, 1]),
            (&[(50, 100), (60, 100)],                  &[70, 30]),
            (&[(25, 100), (100, 100)],                 &[35, 65]),
            (&[(0, 100), (100, 100)],                  &[0, 100]),
            (&[(25, 100), (25, 100)],                  &[50, 50]),
            (&[(5, 100), (65, 100)],                   &[8, 92]),
            (&[(10, 100), (10, 100), (10, 100)],       &[34, 33, 33]),
            (&[(20, 100), (20, 100), (100, 100)],      &[28, 28, 44]),
            (&[(0, 100), (0, 100)],                    &[100, 0]),
            (&[(0, 0), (0, 5)],                        &[0, 100]),
            (&[(0, 0), (3, 5)],                        &[0, 100]),
            (&[(1, 1)],                                &[100]),
            (&[],                                      &[]),
        ];
        for (levels, want) in rows {
            assert_eq!(&*loads(levels.iter().map(|level| (*level).into())), want, "{levels:?}");
        }
    }

    #[test]
    fn over_100_000_draws_levels_get_their_load_within_half_a_percent() {
        let mut rng = SmallRng::seed_from_u64(3);
        for want in [vec![100], vec![70, 30], vec![0, 100], vec![34, 33, 33]] {
            let mut counts = vec![0u32; want.len()];
            (0..100_000).for_each(|_| counts[draw(&want, &mut rng)] += 1);
            for (count, want) in counts.iter().zip(&want) {
                assert!((f64::from(*count) / 1e3 - f64::from(*want)).abs() < 0.5, "{counts:?}");
            }
        }
        assert_eq!(draw(&[], &mut rng), 0);
    }

    proptest! {
        #[test]
        fn all_of_the_load_goes_somewhere_and_none_where_nothing_is_usable(
            levels in prop::collection::vec((0usize..50, 0usize..50), 1..8),
        ) {
            let levels: Vec<Health> = levels.into_iter().map(|(a, b)| (a.min(b), b).into()).collect();
            let loads = loads(levels.iter().copied());
            prop_assert_eq!(loads.iter().map(|load| u32::from(*load)).sum::<u32>(), 100);
            if levels.iter().any(|level| level.percent() > 0) {
                prop_assert!(levels.iter().zip(&loads).all(|(level, load)| level.usable > 0 || *load == 0));
            }
        }
    }
}
