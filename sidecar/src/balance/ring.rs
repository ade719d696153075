//! Ring hash: each endpoint has points on a ring of 2^64, a key belongs to the endpoint of the first point from it on.
//!
//! Formula (Envoy's `ring_hash`): with weights that sum to 1, the least of them w₀,
//!
//! ```text
//!   points = ⌈min(⌈w₀ · minimum⌉ / w₀, maximum)⌉
//! ```
//!
//! shared by weight: so the ring has at least `minimum` points (1024 by default), and the lightest endpoint its share in
//! whole points. An endpoint's points are hashes of its address and 0, 1, 2, …: those that it has in one ring it has
//! in every ring, in whatever order endpoints are listed.
//!
//! **An endpoint that goes** leaves its keys to those behind each of its points. Others move only as far as the number of
//! points per endpoint changes (from ⌈1024/10⌉ to ⌈1024/9⌉, say): a few percent of all keys.
//!
//! **An endpoint that may not be picked** now (ejected, already tried) is passed over: its keys go where they would go
//! without it, all others stay. Bounded load is not built: SEMANTICS.md does not list it.
//!
//! Spread: an endpoint with k points has its share within some 4/√k of it. More points, more even; Maglev is evener.
//! Bound: 12 bytes per point, at most [`MOST_POINTS`]. Making one sorts the points; finding is a binary search.

use super::hash::mix;

/// As many points as a ring may have: 12 MiB. Envoy's bound and default is eight times this, for each cluster.
const MOST_POINTS: u32 = 1 << 20;

/// So many points are passed over before giving up.
const STEPS: usize = 256;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    /// Ascending.
    points: Box<[u64]>,
    /// Whose each is.
    owners: Box<[u32]>,
}

impl Ring {
    /// Of endpoints by the hash of their address and their weight. `minimum` and `maximum` count as at most
    /// [`MOST_POINTS`] each, and as at least one.
    pub(super) fn new(endpoints: &[(u64, u32)], minimum: u32, maximum: u32) -> Self {
        let (scale, sum) = scale(endpoints, minimum, maximum);
        let mut ring: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
        let mut share = 0.0;
        for ((address, weight), owner) in endpoints.iter().zip(0..) {
            share += scale * f64::from(*weight) / sum;
            let mut nth = 0;
            // Rounding errors must not cost or give a point.
            while (ring.len() as f64) < share - 1e-6 {
                ring.push((mix(address ^ mix(nth)), owner));
                nth += 1;
            }
        }
        // By the endpoint's address where two points meet, which every proxy knows alike: the list's order may differ.
        ring.sort_unstable_by_key(|(point, owner)| (*point, endpoints[*owner as usize].0));
        let (points, owners): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self { points: points.into(), owners: owners.into() }
    }

    /// How many points [`new`](Self::new) would make; at least one.
    pub(super) fn points(endpoints: &[(u64, u32)], minimum: u32, maximum: u32) -> u32 {
        // At most `MOST_POINTS`.
        scale(endpoints, minimum, maximum).0.ceil().max(1.0) as u32
    }

    /// The usable endpoint to which `key` belongs. `None` where none was found within a few hundred points.
    pub(super) fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|point| *point < key);
        let (before, after) = self.owners.split_at(start);
        let mut last = None;
        for owner in after.iter().chain(before).take(STEPS) {
            // Points of one endpoint often lie side by side where there are few: asked once.
            if last != Some(owner) && usable(*owner as usize) {
                return Some(*owner as usize);
            }
            last = Some(owner);
        }
        None
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.points.len()
    }
}

/// How many points are shared, and the sum of the weights.
fn scale(endpoints: &[(u64, u32)], minimum: u32, maximum: u32) -> (f64, f64) {
    let maximum = f64::from(maximum.clamp(1, MOST_POINTS));
    let minimum = f64::from(minimum.clamp(1, MOST_POINTS));
    let sum: f64 = endpoints.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let least = endpoints.iter().map(|(_, weight)| f64::from(*weight) / sum).fold(1.0, f64::min);
    // Rounding errors must not double a ring of one point each.
    (((least * minimum - 1e-9).ceil() / least).min(maximum), sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<(u64, u32)> {
        weights.iter().zip(1u64..).map(|(weight, id)| (mix(id), *weight)).collect()
    }

    fn owners(ring: &Ring, of: &[(u64, u32)], usable: impl Fn(usize) -> bool) -> Vec<u64> {
        (0..100_000).map(|key| of[ring.find(mix(!key), &usable).expect("one is usable")].0).collect()
    }

    /// Of 100,000 keys, how many belong to each.
    fn shares(weights: &[u32], minimum: u32) -> Vec<f64> {
        let of = endpoints(weights);
        let owners = owners(&Ring::new(&of, minimum, MOST_POINTS), &of, |_| true);
        of.iter().map(|(address, _)| owners.iter().filter(|owner| *owner == address).count() as f64 / 1e5).collect()
    }

    #[test]
    fn a_ring_has_the_points_that_the_formula_says() {
        #[rustfmt::skip]
        let rows: [(&[u32], u32, u32, usize); 8] = [
            // weights,  minimum,   maximum, points
            (&[1; 4],       1024, 8_000_000,   1024),
            (&[1; 10],      1024, 8_000_000,   1030),
            (&[1, 3],       1024, 8_000_000,   1024),
            (&[1, 9_999],   1024, 8_000_000, 10_000),
            (&[1, 9_999],   1024,     2_000,  2_000),
            (&[1; 3],          1,       100,      3),
            (&[7],            64,       100,     64),
            (&[],           1024,     2_000,      0),
        ];
        for row @ (weights, minimum, maximum, points) in rows {
            let ring = Ring::new(&endpoints(weights), minimum, maximum);
            assert_eq!(ring.len(), points, "{row:?}");
            if !weights.is_empty() {
                assert_eq!(Ring::points(&endpoints(weights), minimum, maximum) as usize, points, "{row:?}");
            }
        }
    }

    #[test]
    fn an_empty_ring_has_nobody() {
        assert_eq!(Ring::new(&[], 1024, 2048).find(7, |_| true), None);
    }

    #[test]
    fn over_100_000_keys_shares_are_within_four_over_the_root_of_the_points() {
        let rows: [(&[u32], u32); 4] = [(&[1; 4], 1024), (&[1; 10], 1024), (&[1; 10], 65_536), (&[1, 2, 5], 1024)];
        for (weights, minimum) in rows {
            let sum: u32 = weights.iter().sum();
            for (share, weight) in shares(weights, minimum).iter().zip(weights) {
                let want = f64::from(*weight) / f64::from(sum);
                let bound = 4.0 / (want * f64::from(minimum)).sqrt();
                assert!((share / want - 1.0).abs() < bound, "{weights:?} {minimum}: {share} for {want}, ±{bound}");
            }
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let of = endpoints(&[1, 2, 3, 4]);
        let reversed: Vec<_> = of.iter().rev().copied().collect();
        let (one, other) = (Ring::new(&of, 1024, 2_048), Ring::new(&reversed, 1024, 2_048));
        assert_eq!(owners(&one, &of, |_| true), owners(&other, &reversed, |_| true));
    }

    #[test]
    fn an_endpoint_that_goes_moves_its_keys_and_few_others() {
        // Others move only because nine have ⌈1024/9⌉ = 114 points each where ten had 103: by less than 114/103 − 1.
        for (n, most) in [(10, 0.11), (8, 0.15), (5, 0.25)] {
            let of = endpoints(&vec![1; n]);
            let before = owners(&Ring::new(&of, 1024, MOST_POINTS), &of, |_| true);
            let after = owners(&Ring::new(&of[1..], 1024, MOST_POINTS), &of[1..], |_| true);
            let others = before.iter().zip(&after).filter(|(before, _)| **before != of[0].0);
            let moved = others.filter(|(before, after)| before != after).count() as f64 / 1e5;
            assert!(moved < most, "{n}: {moved}");
        }
    }

    #[test]
    fn with_as_many_points_each_only_the_keys_of_the_one_that_goes_move() {
        let of = endpoints(&[1; 8]);
        let before = owners(&Ring::new(&of, 8 * 128, MOST_POINTS), &of, |_| true);
        let after = owners(&Ring::new(&of[1..], 7 * 128, MOST_POINTS), &of[1..], |_| true);
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == of[0].0));
    }

    proptest! {
        #[test]
        fn one_that_may_not_be_picked_moves_only_its_own_keys(
            weights in prop::collection::vec(1u32..20, 2..12), out in any::<prop::sample::Index>(),
            keys in prop::collection::vec(any::<u64>(), 1..200),
        ) {
            let out = out.index(weights.len());
            let ring = Ring::new(&endpoints(&weights), 1024, MOST_POINTS);
            for key in keys {
                let home = ring.find(key, |_| true).unwrap();
                match ring.find(key, |index| index != out) {
                    Some(found) => prop_assert!(found != out && (found == home || home == out)),
                    // Only one that has most of the ring has hundreds of points in a row.
                    None => prop_assert!(home == out),
                }
            }
        }

        #[test]
        fn nothing_overflows(
            weights in prop::collection::vec(1u32..=u32::MAX, 0..6), minimum in any::<u32>(), maximum in 0u32..5_000,
        ) {
            let ring = Ring::new(&endpoints(&weights), minimum, maximum);
            prop_assert!(ring.len() <= maximum.max(1) as usize);
            prop_assert!(ring.len() <= Ring::points(&endpoints(&weights), minimum, maximum) as usize);
        }
    }
}
