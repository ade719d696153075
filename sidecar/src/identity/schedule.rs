//! When to renew a certificate, how long to wait after a failure (SEMANTICS.md §4), and what a peer's certificate leaves to a
//! connection (§1). Pure: handed the times and a random source. The tasks that sleep are `certify.rs`, `config/client.rs`
//! and the connections.

use std::time::{Duration, SystemTime};

use rand::Rng;

/// How long after its issue an SVID is renewed: uniform in 50–70 % of its lifetime, so that proxies started together
/// do not renew together.
///
/// `issued` is when we received it, not its notBefore: that is backdated by 60 s against clock skew, which would put
/// the renewal of a 20 s certificate into the past.
pub fn renew_after(issued: SystemTime, not_after: SystemTime, rng: &mut impl Rng) -> Duration {
    let lifetime = not_after.duration_since(issued).unwrap_or_default();
    lifetime.mul_f64(rng.random_range(0.5..=0.7))
}

/// Exponential back-off with jitter: each wait is uniform in [d/2, d], where d doubles from `base` to `max`.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `base` and never waits longer than `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, next: base }
    }

    /// The wait after one more failure.
    pub fn after_failure(&mut self, rng: &mut impl Rng) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Starts again from `base`.
    pub fn reset(&mut self) {
        self.next = self.base;
    }
}

/// Shortens the wait before the next try to renew, so that a certificate with `remaining` life left sees at least
/// ten more tries: with 20 s certificates a back-off made for 24 h ones would outlive them.
pub fn within_remaining(wait: Duration, remaining: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(200);
    if remaining.is_zero() { wait } else { wait.min((remaining / 10).max(LEAST)) }
}

/// How long a certificate lasts that ends at `not_after`: at most ten years, for one of centuries must not overflow the clock.
pub fn left(not_after: SystemTime, now: SystemTime) -> Duration {
    const MOST: Duration = Duration::from_secs(10 * 365 * 86_400);
    not_after.duration_since(now).unwrap_or_default().min(MOST)
}

/// How long a connection whose peer's certificate ends at `not_after` takes requests: until a tenth of what is left, at most
/// a minute, before that. The same at both ends, so that they begin to drain together.
pub fn usable_for(not_after: SystemTime, now: SystemTime) -> Duration {
    let left = left(not_after, now);
    left - (left / 10).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn renewal_falls_between_half_and_seven_tenths_of_the_lifetime() {
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (what, lifetime) in [("20 s", 20), ("24 h", 24 * 3600)] {
            for seed in 0..200 {
                let wait =
                    renew_after(issued, issued + Duration::from_secs(lifetime), &mut StdRng::seed_from_u64(seed));
                let part = wait.as_secs_f64() / lifetime as f64;
                assert!((0.5..=0.7).contains(&part), "{what}: {part}");
            }
        }
    }

    #[test]
    fn a_certificate_that_came_expired_is_renewed_at_once() {
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let wait = renew_after(issued, SystemTime::UNIX_EPOCH, &mut StdRng::seed_from_u64(1));
        assert_eq!(wait, Duration::ZERO);
    }

    proptest! {
        #[test]
        fn back_off_doubles_within_its_bounds(seed: u64, failures in 1usize..20) {
            let (base, max) = (Duration::from_millis(500), Duration::from_secs(150));
            let mut rng = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new(base, max);
            let mut whole = base;
            for _ in 0..failures {
                let wait = backoff.after_failure(&mut rng);
                prop_assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
                whole = (whole * 2).min(max);
            }
            backoff.reset();
            prop_assert!(backoff.after_failure(&mut rng) <= base);
        }
    }

    #[test]
    fn a_short_life_is_retried_quickly_and_a_spent_one_is_not_hammered() {
        let s = Duration::from_secs;
        for (what, wait, remaining, expected) in [
            ("plenty of life left", s(10), s(3600), s(10)),
            ("a tenth of what is left", s(10), s(8), Duration::from_millis(800)),
            ("never a busy loop", s(10), Duration::from_millis(5), Duration::from_millis(200)),
            ("expired: the plain back-off", s(10), s(0), s(10)),
        ] {
            assert_eq!(within_remaining(wait, remaining), expected, "{what}");
        }
    }

    #[test]
    fn a_connection_takes_requests_until_shortly_before_its_peers_certificate_ends() {
        let now = SystemTime::now();
        for (left, usable) in [(0, 0), (10, 9), (600, 540), (86_400, 86_340)] {
            let not_after = now + Duration::from_secs(left);
            assert_eq!(usable_for(not_after, now), Duration::from_secs(usable), "{left} s left");
        }
        assert_eq!(usable_for(now - Duration::from_secs(1), now), Duration::ZERO);
        let centuries = now + Duration::from_secs(500 * 365 * 86_400);
        assert_eq!(left(centuries, now), Duration::from_secs(10 * 365 * 86_400));
    }
}
