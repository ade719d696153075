//! How long an ejection lasts.
//!
//! Formulas, k being the number of ejections remembered, this one included:
//!
//! ```text
//!   doubling (ours)    min(base · 2^(k−1), max)
//!   linear (Envoy's)   min(base · k, max(max, base)) + uniform in [0, jitter]
//! ```
//!
//! k goes down by one for each interval (10 s by default) that the endpoint is back in use without another ejection. At most
//! 63 ejections are remembered. Envoy looks at its watch once per interval, and so gives an endpoint back up to an
//! interval late; here an ejection lasts as long as it says.
//! Bound: nothing grows.

use std::time::Duration;

use super::word::WHEN_MAX;
use crate::balance::policy::OutlierPolicy;

/// The `level`th ejection in a row, in milliseconds. `chance`, in [0, 1), is what the jitter is multiplied by.
pub(super) fn length_ms(policy: &OutlierPolicy, level: u8, chance: f64) -> u64 {
    let length: Duration = match &policy.envoy {
        None => {
            let doublings = u32::from(level.saturating_sub(1)).min(31);
            policy.base.saturating_mul(1 << doublings).min(policy.max)
        }
        Some(envoy) => {
            let length = policy.base.saturating_mul(level.max(1).into()).min(policy.max.max(policy.base));
            length.saturating_add(envoy.jitter.mul_f64(chance))
        }
    };
    u64::try_from(length.as_millis()).unwrap_or(WHEN_MAX).min(WHEN_MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::policy::EnvoyOutlier;

    const fn seconds(value: u64) -> Duration {
        Duration::from_secs(value)
    }

    #[test]
    fn ours_doubles_and_envoys_adds_up_to_the_longest() {
        let ours = OutlierPolicy::default();
        let envoy = |jitter| OutlierPolicy {
            base: seconds(30),
            max: seconds(300),
            envoy: Some(EnvoyOutlier { jitter, ..EnvoyOutlier::default() }),
            ..OutlierPolicy::default()
        };
        let short = OutlierPolicy { max: seconds(1), ..envoy(Duration::ZERO) };
        #[rustfmt::skip]
        let rows = [
            // policy                    level  chance  want (s)
            (&ours,                          1,   0.0,      1),
            (&ours,                          2,   0.9,      2),
            (&ours,                          6,   0.0,     32),
            (&ours,                          7,   0.0,     60),
            (&ours,                         63,   0.0,     60),
            (&envoy(seconds(0)),             1,   0.9,     30),
            (&envoy(seconds(0)),             3,   0.9,     90),
            (&envoy(seconds(0)),            11,   0.9,    300),
            (&envoy(seconds(0)),             0,   0.9,     30),
            (&envoy(seconds(20)),            1,   0.5,     40),
            (&envoy(seconds(20)),           63,   0.5,    310),
            (&short,                         1,   0.0,     30),
            (&short,                         9,   0.0,     30),
        ];
        for (policy, level, chance, want) in rows {
            assert_eq!(length_ms(policy, level, chance), want * 1_000, "{level} {chance} {policy:?}");
        }
    }

    #[test]
    fn no_length_is_too_long_for_a_word() {
        let policy = OutlierPolicy { base: Duration::MAX, max: Duration::MAX, ..OutlierPolicy::default() };
        assert!(length_ms(&policy, 63, 0.0) <= WHEN_MAX / 2);
        let envoy = EnvoyOutlier { jitter: seconds(u64::MAX / 2), ..EnvoyOutlier::default() };
        assert!(length_ms(&OutlierPolicy { envoy: Some(envoy), ..policy }, 63, 0.999) <= WHEN_MAX / 2);
    }
}
