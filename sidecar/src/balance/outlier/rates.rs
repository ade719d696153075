//! Ejection by rate: who fails more often than the others do, or than anyone should. Looked at once per interval.
//!
//! Formulas (Envoy's), over the requests of the interval that has just ended; of an endpoint, sᵢ = 100 · successes / requests:
//!
//! ```text
//!   success rate        counted: endpoints with at least `requests` (100), if there are at least `endpoints` (5) of them
//!                       out:     sᵢ < μ − factor · σ       μ their mean, σ = √(Σ(sᵢ − μ)² / n), factor 1.9
//!   failure percentage  counted: endpoints with at least `requests` (50), if there are at least `endpoints` (5) of them
//!                       out:     100 − sᵢ ≥ percent (85)
//! ```
//!
//! `endpoints` bounds how many must be counted, not how many there are. With n endpoints nobody is further from the mean
//! than σ·√(n − 1): with factor 1.9 four of them could not put out a fifth, which is where the 5 comes from.
//!
//! Each has an `enforcing` percentage: with what probability a finding ejects.
//! Pure; who counts and who ejects is `balancer.rs`. Bound: one word per endpoint.

use std::sync::atomic::{AtomicU64, Ordering};

/// Success-rate ejection's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessRate {
    /// How many endpoints must be counted. Default 5.
    pub endpoints: u32,
    /// How many requests in an interval make an endpoint count. Default 100.
    pub requests: u32,
    /// By how many standard deviations, in thousandths. Default 1900.
    pub factor_milli: u32,
    /// The probability that a finding ejects, in percent. Default 100.
    pub enforcing_percent: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { endpoints: 5, requests: 100, factor_milli: 1_900, enforcing_percent: 100 }
    }
}

/// Failure-percentage ejection's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePercentage {
    /// How many endpoints must be counted. Default 5.
    pub endpoints: u32,
    /// How many requests in an interval make an endpoint count. Default 50.
    pub requests: u32,
    /// This many percent of failures are too many. Default 85.
    pub percent: u32,
    /// The probability that a finding ejects, in percent. Default 100 (Envoy's is 0: whoever switches it on means it).
    pub enforcing_percent: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { endpoints: 5, requests: 50, percent: 85, enforcing_percent: 100 }
    }
}

/// Requests of one endpoint in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::balance) struct Rate {
    pub(in crate::balance) requests: u32,
    pub(in crate::balance) successes: u32,
}

impl Rate {
    /// In percent.
    fn success(self) -> f64 {
        100.0 * f64::from(self.successes) / f64::from(self.requests.max(1))
    }
}

/// Counts an endpoint's requests: successes above, requests below, 32 bits each.
#[derive(Debug, Default)]
pub(in crate::balance) struct Counter(AtomicU64);

impl Counter {
    pub(in crate::balance) fn on_result(&self, success: bool) {
        // Relaxed: a count, and nothing else is published through it. Not even 2^32 requests fit into an interval.
        self.0.fetch_add(1 | u64::from(success) << 32, Ordering::Relaxed);
    }

    /// What was counted. The next interval begins.
    pub(in crate::balance) fn take(&self) -> Rate {
        let word = self.0.swap(0, Ordering::Relaxed);
        Rate { requests: word as u32, successes: (word >> 32) as u32 }
    }
}

/// The success rates of those of `rates` that count, if there are enough of them.
fn counted(rates: &[Rate], requests: u32, endpoints: u32) -> Option<Vec<(usize, f64)>> {
    let counts = |(index, rate): (usize, &Rate)| {
        // No request is no rate, whatever is asked for.
        (rate.requests >= requests.max(1)).then(|| (index, rate.success()))
    };
    let counted: Vec<_> = rates.iter().enumerate().filter_map(counts).collect();
    (counted.len() >= endpoints.max(1) as usize).then_some(counted)
}

impl SuccessRate {
    /// Who is out.
    pub(in crate::balance) fn outliers(&self, rates: &[Rate]) -> Vec<usize> {
        let Some(counted) = counted(rates, self.requests, self.endpoints) else { return Vec::new() };
        let n = counted.len() as f64;
        let mean = counted.iter().map(|(_, rate)| rate).sum::<f64>() / n;
        let deviation = (counted.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n).sqrt();
        let least = mean - f64::from(self.factor_milli) / 1e3 * deviation;
        counted.into_iter().filter(|(_, rate)| *rate < least).map(|(index, _)| index).collect()
    }
}

impl FailurePercentage {
    /// Who is out.
    pub(in crate::balance) fn outliers(&self, rates: &[Rate]) -> Vec<usize> {
        let Some(counted) = counted(rates, self.requests, self.endpoints) else { return Vec::new() };
        let too_many = |rate: f64| 100.0 - rate >= f64::from(self.percent);
        counted.into_iter().filter(|(_, rate)| too_many(*rate)).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By requests and successes.
    fn rates(of: &[(u32, u32)]) -> Vec<Rate> {
        of.iter().map(|(requests, successes)| Rate { requests: *requests, successes: *successes }).collect()
    }

    #[test]
    fn who_succeeds_less_often_than_the_others_is_out() {
        let good = (100, 100);
        type Row<'a> = (&'a str, &'a [(u32, u32)], &'a [usize]);
        #[rustfmt::skip]
        let rows: [Row<'_>; 8] = [
            ("all are well",                     &[good; 5],                                               &[]),
            ("one of five, as far as can be",    &[good, good, good, good, (100, 50)],                     &[4]),
            ("however little it differs",        &[good, good, good, good, (100, 99)],                     &[4]),
            ("four are too few",                 &[good, good, good, (100, 0)],                            &[]),
            ("four of five that count too",      &[good, good, good, good, (99, 0)],                       &[]),
            ("all fail alike",                   &[(100, 3); 6],                                           &[]),
            ("two of five hide each other",      &[good, good, good, (100, 0), (100, 0)],                  &[]),
            ("two of ten do not",                &[good, good, good, good, good, good, good, good, (100, 0), (200, 0)], &[8, 9]),
        ];
        for (what, of, want) in rows {
            assert_eq!(SuccessRate::default().outliers(&rates(of)), want, "{what}");
        }
    }

    #[test]
    fn the_factor_says_how_far_off_is_too_far() {
        // Mean 90, deviation 20.
        let of = rates(&[(100, 100), (100, 100), (100, 100), (100, 100), (100, 50)]);
        for (factor_milli, want) in [(0, 1), (1_900, 1), (1_999, 1), (2_001, 0), (u32::MAX, 0)] {
            let policy = SuccessRate { factor_milli, ..SuccessRate::default() };
            assert_eq!(policy.outliers(&of).len(), want, "{factor_milli}");
        }
    }

    #[test]
    fn who_fails_too_often_is_out_whatever_the_others_do() {
        let good = (50, 50);
        type Row<'a> = (&'a str, &'a [(u32, u32)], &'a [usize]);
        #[rustfmt::skip]
        let rows: [Row<'_>; 6] = [
            ("84 %",                &[good, good, good, good, (100, 16)],                    &[]),
            ("85 %",                &[good, good, good, good, (100, 15)],                    &[4]),
            ("all of them",         &[(50, 0); 5],                                           &[0, 1, 2, 3, 4]),
            ("four are too few",    &[(50, 0); 4],                                           &[]),
            ("few requests",        &[good, good, good, good, good, (49, 0)],                &[]),
            ("no requests",         &[good, good, good, good, good, (0, 0)],                 &[]),
        ];
        for (what, of, want) in rows {
            assert_eq!(FailurePercentage::default().outliers(&rates(of)), want, "{what}");
        }
    }

    #[test]
    fn without_a_least_number_of_requests_no_request_is_still_no_rate() {
        let policy = FailurePercentage { endpoints: 0, requests: 0, percent: 0, ..FailurePercentage::default() };
        assert_eq!(policy.outliers(&rates(&[(0, 0), (1, 1)])), [1]);
        assert!(policy.outliers(&[]).is_empty());
    }

    #[test]
    fn a_counter_starts_again_when_it_is_taken() {
        let counter = Counter::default();
        [true, false, true].into_iter().for_each(|success| counter.on_result(success));
        assert_eq!(counter.take(), Rate { requests: 3, successes: 2 });
        assert_eq!(counter.take(), Rate::default());
    }

    proptest! {
        #[test]
        fn who_is_out_by_success_rate_is_worse_than_everyone_who_is_not(
            of in prop::collection::vec((0u32..300, 0u32..300), 0..20), factor_milli in 0u32..4_000,
        ) {
            let of: Vec<_> = of.into_iter().map(|(a, b)| Rate { requests: a.max(b), successes: a.min(b) }).collect();
            let out = SuccessRate { factor_milli, ..SuccessRate::default() }.outliers(&of);
            let counts = |index: &usize| of[*index].requests >= 100;
            prop_assert!(out.iter().all(counts));
            let stays = (0..of.len()).filter(counts).filter(|index| !out.contains(index)).map(|index| of[index].success());
            let best_out = out.iter().map(|index| of[*index].success()).fold(0.0, f64::max);
            prop_assert!(stays.into_iter().all(|rate| rate >= best_out));
        }
    }
}
