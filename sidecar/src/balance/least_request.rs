//! Least request: who has the fewest requests in flight.
//!
//! Formula (Envoy's): with equal weights, the one with the fewest of N drawn at random with replacement (N = 2 by
//! default), the first drawn where that is a tie. With weights that differ, or that grow (`slow_start.rs`), earliest
//! deadline first (`edf.rs`) with the weight
//!
//! ```text
//!   w / (in flight + 1)^bias
//! ```
//!
//! at the moment of its turn: 1 as bias halves the share of an endpoint that has one request in flight where others
//! have none, 0 is weighted round robin. The bias says nothing where weights are equal.
//!
//! Unlike P2C (`set.rs`) it knows no latency: an endpoint that fails fast has few requests in flight and gets more.
//! Bound: nothing; with weights, what `edf.rs` takes.

/// An endpoint's weight, by its configured one and what it has to do.
pub(super) fn biased(weight: f64, in_flight: u32, bias: f64) -> f64 {
    let load = f64::from(in_flight) + 1.0;
    // The two that are common need no power.
    if bias == 1.0 {
        weight / load
    } else if bias == 0.0 {
        weight
    } else {
        weight / load.powf(bias)
    }
}

/// Of `choices` (at least one) that `draw` gives, the one with the fewest requests in flight.
pub(super) fn least_of(
    choices: u32,
    mut draw: impl FnMut() -> Option<usize>,
    in_flight: impl Fn(usize) -> u32,
) -> Option<usize> {
    let first = draw()?;
    let mut best = (in_flight(first), first);
    for _ in 1..choices {
        let Some(next) = draw() else { break };
        let load = in_flight(next);
        if load < best.0 {
            best = (load, next);
        }
    }
    Some(best.1)
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn the_weight_falls_as_the_bias_says() {
        #[rustfmt::skip]
        let rows = [
            // weight, in flight, bias, want
            (6.0,       0,       1.0,   6.0),
            (6.0,       2,       1.0,   2.0),
            (6.0,       2,       0.0,   6.0),
            (6.0,       3,       0.5,   3.0),
            (6.0,       1,       2.0,   1.5),
        ];
        for (weight, in_flight, bias, want) in rows {
            let got = biased(weight, in_flight, bias);
            assert!((got - want).abs() < 1e-9, "{weight} {in_flight} {bias}: {got}");
        }
    }

    #[test]
    fn the_first_of_the_least_loaded_drawn_wins() {
        let loads = [3, 1, 1, 0];
        let of = |drawn: &[usize]| {
            let mut drawn_one = drawn.iter().copied();
            least_of(drawn.len() as u32, || drawn_one.next(), |index| loads[index])
        };
        let rows: [(&[usize], Option<usize>); 5] =
            [(&[0], Some(0)), (&[0, 1], Some(1)), (&[2, 1], Some(2)), (&[0, 1, 2, 3], Some(3)), (&[], None)];
        for (drawn, want) in rows {
            assert_eq!(of(drawn), want, "{drawn:?}");
        }
    }

    #[test]
    fn idle_endpoints_get_equal_shares_and_a_loaded_one_what_chance_leaves_it() {
        let mut rng = SmallRng::seed_from_u64(4);
        let rows = [(2, [0, 0, 0, 0], 0.25), (2, [9, 0, 0, 0], 1.0 / 16.0), (3, [9, 0, 0, 0], 1.0 / 64.0)];
        for (choices, loads, want) in rows {
            let mut pick = || least_of(choices, || Some(rng.random_range(0..4)), |index| loads[index]);
            let first = (0..100_000).filter(|_| pick() == Some(0)).count() as f64 / 1e5;
            assert!((first - want).abs() < 0.005, "{choices} {loads:?}: {first}");
        }
    }
}
