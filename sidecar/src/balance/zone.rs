//! Zone-aware shares: requests stay in their zone as long as no endpoint gets more than others.
//!
//! Formula (Envoy's zone-aware routing): of all callers a part Lᵢ is in zone i, of all endpoints' weight a part Uᵢ. A
//! caller in zone z
//!
//! ```text
//!   Uz ≥ Lz:  stays in its zone
//!   Uz < Lz:  stays with probability Uz / Lz; else goes to zone i with probability Rᵢ / ΣR, Rᵢ = max(0, Uᵢ − Lᵢ)
//! ```
//!
//! Summed over all callers, who send alike, each zone then gets Lᵢ of its own and the rest of Uᵢ from those that have too
//! little: each endpoint the same, and as little as possible crosses zones.
//!
//! It is off ([`Shares::new`] gives nothing) where the caller's zone has no endpoint or is not known, where only one zone
//! has any, and where there are fewer endpoints than `least` (Envoy's `min_cluster_size`, 6): with few, one that fails or
//! a caller that does more than others overloads what is left. A caller that is not listed has Lz = 0 and stays.
//!
//! Envoy counts in parts of 10,000 and sends the spill anywhere where rounding leaves no R; with fractions, ΣR ≥ Lz − Uz > 0.
//! Bound: a number per zone.

use rand::Rng;

/// Where the requests of one zone's callers go.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shares {
    own: usize,
    /// The probability of staying.
    stay: f64,
    /// Running sums of R.
    spill: Vec<f64>,
}

impl Shares {
    /// Of callers in zone `own`. `callers` and `weights` say how many there are in each zone, and what its endpoints weigh;
    /// `endpoints` how many there are in all.
    pub(super) fn new(own: usize, callers: &[u64], weights: &[u64], endpoints: usize, least: usize) -> Option<Self> {
        let zones_in_use = weights.iter().filter(|weight| **weight > 0).count();
        if endpoints < least || zones_in_use < 2 || weights.get(own).is_none_or(|weight| *weight == 0) {
            return None;
        }
        let parts = |of: &[u64]| -> Vec<f64> {
            let sum: u64 = of.iter().sum();
            of.iter().map(|part| *part as f64 / sum.max(1) as f64).collect()
        };
        let (callers, weights) = (parts(callers), parts(weights));
        let of_callers = |zone: usize| callers.get(zone).copied().unwrap_or(0.0);
        let stay = if weights[own] >= of_callers(own) { 1.0 } else { weights[own] / of_callers(own) };
        let mut sum = 0.0;
        let residual = |(zone, weight): (usize, &f64)| {
            sum += (weight - of_callers(zone)).max(0.0);
            sum
        };
        let spill: Vec<f64> = weights.iter().enumerate().map(residual).collect();
        Some(Self { own, stay, spill })
    }

    /// The probability of staying.
    pub(super) fn stay(&self) -> f64 {
        self.stay
    }

    /// The zone for one request.
    pub(super) fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        if self.stay >= 1.0 || rng.random::<f64>() < self.stay {
            return self.own;
        }
        let Some(sum) = self.spill.last().filter(|sum| **sum > 0.0) else { return self.own };
        let point = rng.random::<f64>() * sum;
        self.spill.partition_point(|sum| *sum <= point).min(self.spill.len() - 1)
    }

    #[cfg(test)]
    fn of(&self, zone: usize) -> f64 {
        let spill = self.spill[zone] - if zone == 0 { 0.0 } else { self.spill[zone - 1] };
        let spill = if self.stay < 1.0 { (1.0 - self.stay) * spill / self.spill.last().unwrap() } else { 0.0 };
        spill + if zone == self.own { self.stay } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn requests_cross_zones_only_where_their_own_has_too_little() {
        type Row<'a> = (&'a str, &'a [u64], &'a [u64], &'a [f64]);
        #[rustfmt::skip]
        let rows: [Row<'_>; 7] = [
            // the caller is in zone 0  callers       endpoints     shares
            ("alike",                   &[3, 3],      &[5, 5],      &[1.0, 0.0]),
            ("more endpoints here",     &[1, 3],      &[5, 5],      &[1.0, 0.0]),
            ("fewer endpoints here",    &[5, 5],      &[2, 8],      &[0.4, 0.6]),
            ("spill by what is left",   &[8, 1, 1],   &[4, 3, 3],   &[0.5, 0.25, 0.25]),
            ("no spill to the full",    &[6, 3, 1],   &[4, 2, 4],   &[2.0 / 3.0, 0.0, 1.0 / 3.0]),
            ("callers without a peer",  &[2, 0, 2],   &[4, 6, 0],   &[0.8, 0.2, 0.0]),
            ("no callers are known",    &[],          &[1, 9],      &[1.0, 0.0]),
        ];
        for (what, callers, weights, want) in rows {
            let shares = Shares::new(0, callers, weights, 10, 6).expect(what);
            for (zone, want) in want.iter().enumerate() {
                assert!((shares.of(zone) - want).abs() < 1e-9, "{what}: {shares:?}");
            }
        }
    }

    #[test]
    fn it_is_off_where_it_would_do_harm() {
        type Row<'a> = (&'a str, usize, &'a [u64], usize);
        #[rustfmt::skip]
        let rows: [Row<'_>; 4] = [
            ("few endpoints",       0, &[2, 3],  5),
            ("none in this zone",   0, &[0, 8],  8),
            ("all in this zone",    0, &[8, 0],  8),
            ("an unknown zone",     7, &[4, 4],  8),
        ];
        for (what, own, weights, endpoints) in rows {
            assert_eq!(Shares::new(own, &[1, 1], weights, endpoints, 6), None, "{what}");
        }
    }

    #[test]
    fn over_100_000_draws_zones_get_their_shares_within_half_a_percent() {
        let shares = Shares::new(0, &[6, 3, 1], &[4, 2, 4], 10, 6).unwrap();
        let mut rng = SmallRng::seed_from_u64(8);
        let mut counts = [0u32; 3];
        (0..100_000).for_each(|_| counts[shares.draw(&mut rng)] += 1);
        for (zone, count) in counts.iter().enumerate() {
            assert!((f64::from(*count) / 1e5 - shares.of(zone)).abs() < 0.005, "{counts:?}");
        }
        assert_eq!(counts[1], 0);
    }

    proptest! {
        #[test]
        fn where_every_zone_has_endpoints_each_endpoint_gets_the_same(
            zones in prop::collection::vec((0u64..20, 1u64..20), 2..6),
        ) {
            let (callers, weights): (Vec<_>, Vec<_>) = zones.into_iter().unzip();
            prop_assume!(callers.iter().sum::<u64>() > 0);
            let (n, all) = (callers.len(), callers.iter().sum::<u64>() as f64);
            let mut got = vec![0.0; n];
            for own in 0..n {
                let shares = Shares::new(own, &callers, &weights, 99, 6).unwrap();
                (0..n).for_each(|zone| got[zone] += callers[own] as f64 / all * shares.of(zone));
            }
            let sum = weights.iter().sum::<u64>() as f64;
            for (got, weight) in got.iter().zip(&weights) {
                prop_assert!((got - *weight as f64 / sum).abs() < 1e-9, "{got} for {weight} of {sum}");
            }
        }
    }
}
