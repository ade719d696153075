//! Slow start: an endpoint that has just become ready gets little, and more with time.
//!
//! Formula (Envoy's `slow_start_config`, Istio's `warmup`; SEMANTICS.md §3): for t < window,
//!
//! ```text
//!   w · max(least, (t / window)^(1 / aggression))
//! ```
//!
//! t being at least a millisecond. With aggression 1 (the default) the weight grows steadily; above 1 it grows fast at
//! first, below 1 slowly at first. `least` is 10 % by default.
//!
//! t counts from the update that made the endpoint ready, new or back. Endpoints that became ready together grow together, so
//! that nothing changes among them: also after the sidecar's own start, when all of them are new to it. Return from an ejection
//! is not such a start: it has a probe.
//!
//! Round robin and least request multiply the weight; P2C and random accept a candidate with this probability. Ring hash
//! and Maglev, whose point is that keys stay where they are, do without, as Envoy's do.
//! Bound: nothing grows.

use std::time::Duration;

/// How new endpoints are started. See the module's formula.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowStart {
    /// How long until an endpoint has all of its weight. Zero is off.
    pub window: Duration,
    /// In thousandths; default 1000. Zero counts as one.
    pub aggression_milli: u32,
    /// The least part of its weight, in percent; default 10. More than 100 count as 100.
    pub least_percent: u32,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::ZERO, aggression_milli: 1_000, least_percent: 10 }
    }
}

impl SlowStart {
    /// Whether there is any.
    pub(super) fn is_on(&self) -> bool {
        !self.window.is_zero() && self.least_percent < 100
    }

    /// What part of its weight an endpoint has that is ready since `age_ms`: in (0, 1].
    pub(super) fn factor(&self, age_ms: u64) -> f64 {
        let window_ms = self.window.as_secs_f64() * 1e3;
        let age_ms = age_ms.max(1) as f64;
        if age_ms >= window_ms {
            return 1.0;
        }
        let grown = match self.aggression_milli.max(1) {
            1_000 => age_ms / window_ms,
            milli => (age_ms / window_ms).powf(1e3 / f64::from(milli)),
        };
        // Not zero, or a set that is all new would have no candidate.
        grown.max(f64::from(self.least_percent.min(100)) / 1e2).max(1e-3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn over(window_s: u64, aggression_milli: u32, least_percent: u32) -> SlowStart {
        SlowStart { window: Duration::from_secs(window_s), aggression_milli, least_percent }
    }

    #[test]
    fn the_weight_grows_by_the_formula() {
        #[rustfmt::skip]
        let rows = [
            // window, aggression, least,  age ms, want
            (60,       1_000,      10,          0, 0.10),
            (60,       1_000,      10,      5_999, 0.10),
            (60,       1_000,      10,     30_000, 0.50),
            (60,       1_000,      10,     59_999, 1.00),
            (60,       1_000,      10,     60_000, 1.00),
            (60,       2_000,      10,     15_000, 0.50),
            (60,         500,      10,     30_000, 0.25),
            (60,       1_000,       0,      6_000, 0.10),
            (60,       1_000,     100,          0, 1.00),
            (60,           0,      10,     59_000, 0.10),
            ( 0,       1_000,      10,          0, 1.00),
        ];
        for row @ (window, aggression, least, age, want) in rows {
            let got = over(window, aggression, least).factor(age);
            assert!((got - want).abs() < 1e-3, "{row:?}: {got}");
        }
    }

    proptest! {
        #[test]
        fn it_only_grows_and_ends_whole(
            window in 0u64..1_000, aggression in 0u32..5_000, least in 0u32..=150, ages in prop::array::uniform2(0u64..2_000_000),
        ) {
            let slow = over(window, aggression, least);
            let [early, late] = if ages[0] <= ages[1] { ages } else { [ages[1], ages[0]] };
            let (early, late) = (slow.factor(early), slow.factor(late));
            prop_assert!(0.0 < early && early <= late && late <= 1.0, "{early} {late}");
            prop_assert_eq!(slow.factor(window * 1_000), 1.0);
        }
    }
}
