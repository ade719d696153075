//! How slow an endpoint is believed to be: a moving average of its latency, and what a failure is charged.
//!
//! - **Average**: weighted by time, what lies 2 s back counts half. A slow answer counts for what it is, one of many:
//!   were it to replace the average at once (peak-EWMA), the order of endpoints would be the order of their last bad
//!   moments, and of three equal ones the last would get nothing for a minute. A bad moment that lasts is what *silence*
//!   is for. The first four measurements only find everything cold. Of those that follow each counts as much as those
//!   before it, and one below the average half, since what came before may have found things cold as well.
//! - **Decay**: read without a new measurement, the average halves every 2 s, so that an endpoint which nobody measures
//!   any more is tried again. So does one that was asked nothing for a while: [`Latency::is_neglected`].
//! - **Failure**: charged as max(average, 1 s), so that an endpoint which fails fast does not attract traffic. The
//!   charge lies beside the average, halves every second and is dropped when a probe succeeds. Written into the average,
//!   one 503 would keep a 1 ms endpoint idle for twenty seconds, and spoil what had been measured.
//! - **Silence**: while results are awaited, an endpoint is believed at least as slow as it has been silent. A measurement
//!   comes only with an answer, so one that hangs (its cable cut) would keep the good average of before and gather
//!   requests until their number outweighs it: over a hundred, once, where the others had just had a slow moment.
//!
//! Two atomic words of 64 bits and three of 32. All are estimates: a lost update costs one measurement, so every access is relaxed.
//!
//! Time is milliseconds since the balancer's epoch, truncated to 32 bits: it wraps after 49 days, and an endpoint that
//! nobody measured for exactly that long is believed for one request.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// An average that is not measured again halves in this time, and so does the part that a measurement has in it.
const HALF_LIFE_MS: f32 = 2_000.0;

/// So many first measurements say nothing.
const COLD: u32 = 4;

/// With so many measurements the average is what it is. Until then each has a say of its own.
const LEARNING: u32 = 64;

/// An endpoint that nothing was asked for so long may be slow no longer, or dead.
const NEGLECTED_MS: u32 = 250;

/// What a failure is charged, in microseconds.
const FAILURE_US: f32 = 1_000_000.0;

/// The charge for a failure halves in this time: below 1 ms after 10 s.
const FAILURE_HALF_LIFE_MS: f32 = 1_000.0;

/// No time is cheaper than this, in microseconds: a cost of zero would hide the number in flight.
const LEAST_US: f32 = 1.0;

/// A value and the moment it was true: `f32` bits above, 32 bits of milliseconds below. All zero is "never".
#[derive(Debug, Default)]
struct Stamped(AtomicU64);

impl Stamped {
    fn pack(value: f32, at: u32) -> u64 {
        (u64::from(value.to_bits()) << 32) | u64::from(at)
    }

    fn unpack(word: u64) -> Option<(f32, u32)> {
        let value = f32::from_bits((word >> 32) as u32);
        (word != 0).then_some((value, word as u32))
    }

    fn get(&self) -> Option<(f32, u32)> {
        Self::unpack(self.0.load(Ordering::Relaxed))
    }

    /// The value halved once for each `half_life_ms` of its age.
    fn decayed(&self, now: u32, half_life_ms: f32) -> Option<f32> {
        self.get().map(|(value, at)| value * halvings(at, now, half_life_ms))
    }

    fn update(&self, now: u32, next: impl Fn(Option<(f32, u32)>) -> f32) {
        // `next` never returns zero bits: values are at least LEAST_US.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(Self::pack(next(Self::unpack(word)), now)));
    }
}

/// 2^(−age/half-life). Workers read the clock apart, so `now` may lie a little before `at`: that is age zero.
fn halvings(at: u32, now: u32, half_life_ms: f32) -> f32 {
    let age = now.wrapping_sub(at);
    if age > u32::MAX / 2 { 1.0 } else { (-(age as f32) / half_life_ms).exp2() }
}

/// One endpoint's latency.
#[derive(Debug, Default)]
pub(super) struct Latency {
    average: Stamped,
    failure: Stamped,
    /// How many there were, up to [`LEARNING`].
    measured: AtomicU32,
    /// Tries that have no result yet.
    awaited: AtomicU32,
    /// When the last result came, or when the first of the awaited tries began: the later of the two.
    heard: AtomicU32,
}

impl Latency {
    /// A try begins.
    pub(super) fn on_begin(&self, now_ms: u64) {
        if self.awaited.fetch_add(1, Ordering::Relaxed) == 0 {
            self.heard.store(now_ms as u32, Ordering::Relaxed);
        }
    }

    /// A try has its result, whatever it is.
    pub(super) fn on_result(&self, now_ms: u64) {
        self.heard.store(now_ms as u32, Ordering::Relaxed);
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    /// A try was given up without one.
    pub(super) fn on_abandoned(&self) {
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long results have been awaited in vain, in microseconds.
    fn silence_us(&self, now_ms: u64) -> Option<f32> {
        if self.awaited.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let silent = (now_ms as u32).wrapping_sub(self.heard.load(Ordering::Relaxed));
        // As in `halvings`: a little before is no time at all. A millisecond is the clock's own grain.
        (silent > 1 && silent <= u32::MAX / 2).then_some(silent as f32 * 1e3)
    }

    /// A try succeeded after `latency`.
    pub(super) fn on_success(&self, now_ms: u64, latency: Duration) {
        let now = now_ms as u32;
        let measured = (latency.as_secs_f32() * 1e6).max(LEAST_US);
        let before = self.measured.load(Ordering::Relaxed);
        if before < LEARNING {
            self.measured.store(before + 1, Ordering::Relaxed);
        }
        if before < COLD {
            return;
        }
        let least = |faster: bool| match before {
            LEARNING.. => 0.0,
            _ if faster => 0.5,
            _ => 1.0 / (before + 1 - COLD) as f32,
        };
        self.average.update(now, |old| {
            let Some((average, at)) = old else { return measured };
            let weight = (1.0 - halvings(at, now, HALF_LIFE_MS)).max(least(measured < average));
            average + (measured - average) * weight
        });
    }

    /// A try failed.
    pub(super) fn on_failure(&self, now_ms: u64) {
        let average = self.average.decayed(now_ms as u32, HALF_LIFE_MS).unwrap_or(0.0);
        self.failure.update(now_ms as u32, |_| average.max(FAILURE_US));
    }

    /// The endpoint proved itself: failures are forgotten.
    pub(super) fn forgive(&self) {
        self.failure.0.store(0, Ordering::Relaxed);
    }

    /// Whether its average is known, and it owes nothing and was asked nothing for a quarter of a second.
    pub(super) fn is_neglected(&self, now_ms: u64) -> bool {
        let idle = (now_ms as u32).wrapping_sub(self.heard.load(Ordering::Relaxed));
        (NEGLECTED_MS..u32::MAX / 2).contains(&idle)
            && self.awaited.load(Ordering::Relaxed) == 0
            && self.average.get().is_some()
    }

    /// The measured part, in microseconds; `None` before there were five.
    pub(super) fn average_us(&self, now_ms: u64) -> Option<f32> {
        self.average.decayed(now_ms as u32, HALF_LIFE_MS)
    }

    /// What the next request is expected to cost, in microseconds; `None` when nothing is known.
    pub(super) fn expected_us(&self, now_ms: u64) -> Option<f32> {
        let average = self.average_us(now_ms);
        // Far in the past the charge has no say, and an endpoint that only ever failed is as good as unknown.
        let failure = self.failure.decayed(now_ms as u32, FAILURE_HALF_LIFE_MS).filter(|us| *us > LEAST_US);
        let known = average.into_iter().chain(failure).chain(self.silence_us(now_ms));
        known.reduce(f32::max).map(|us| us.max(LEAST_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// One that is warm, and measured nothing since.
    fn warm() -> Latency {
        let latency = Latency::default();
        latency.measured.store(COLD, Ordering::Relaxed);
        latency
    }

    fn near(got: Option<f32>, want_us: f32) -> bool {
        got.is_some_and(|got| (got - want_us).abs() <= want_us * 0.01)
    }

    #[test]
    fn nothing_is_known_before_it_is_warm() {
        let latency = Latency::default();
        for now in 0..u64::from(COLD) {
            assert_eq!(latency.expected_us(now), None);
            latency.on_success(now, ms(90));
        }
        assert_eq!(latency.expected_us(5), None);
        latency.on_success(5, ms(1));
        assert!(near(latency.expected_us(5), 1_000.0), "and what was before does not count");
    }

    #[test]
    fn an_endpoint_that_hangs_is_as_slow_as_its_silence() {
        let latency = warm();
        latency.on_begin(0);
        latency.on_success(1, ms(1));
        latency.on_result(1);
        latency.on_begin(100);
        latency.on_begin(140);
        assert!(near(latency.expected_us(150), 50_000.0), "since the first that is awaited");
        latency.on_result(160);
        assert!(near(latency.expected_us(200), 40_000.0), "since the last result");
        latency.on_abandoned();
        assert!(latency.expected_us(200).is_some_and(|us| us < 1_000.0), "nothing is awaited any more");
    }

    #[test]
    fn what_lies_two_seconds_back_counts_half() {
        let latency = warm();
        (0..LEARNING).for_each(|_| latency.on_success(0, ms(10)));
        latency.on_success(0, ms(80));
        assert!(near(latency.expected_us(0), 10_000.0), "no time has passed");
        latency.on_success(20, ms(80));
        assert!(near(latency.expected_us(20), 10_483.0), "one of many");
        latency.on_success(2_020, ms(80));
        assert!(near(latency.expected_us(2_020), 45_242.0), "half-way after a half-life");
        latency.on_success(4_020, ms(10));
        assert!(near(latency.expected_us(4_020), 27_621.0), "down as up");
    }

    #[test]
    fn of_the_first_measurements_a_slow_one_counts_alike_and_a_fast_one_half() {
        let latency = warm();
        latency.on_success(0, ms(10));
        latency.on_success(0, ms(40));
        assert!(near(latency.expected_us(0), 25_000.0), "(10 + 40) / 2");
        latency.on_success(0, ms(55));
        assert!(near(latency.expected_us(0), 35_000.0), "(10 + 40 + 55) / 3");
        latency.on_success(0, ms(1));
        assert!(near(latency.expected_us(0), 18_000.0), "half-way");
    }

    #[test]
    fn an_average_that_nobody_renews_halves_every_two_seconds() {
        let latency = warm();
        latency.on_success(0, ms(8));
        assert!(near(latency.expected_us(2_000), 4_000.0));
        assert!(near(latency.expected_us(6_000), 1_000.0));
    }

    #[test]
    fn an_endpoint_is_neglected_that_owes_nothing_and_is_asked_nothing() {
        let latency = warm();
        assert!(!latency.is_neglected(1_000), "it is new, and will be asked as such");
        latency.on_begin(0);
        latency.on_success(1, ms(1));
        assert!(!latency.is_neglected(300), "it owes an answer");
        latency.on_result(300);
        let idle = u64::from(NEGLECTED_MS);
        assert_eq!([300, 299 + idle, 300 + idle].map(|now| latency.is_neglected(now)), [false, false, true]);
        assert!(!latency.is_neglected(299), "a clock that is a little behind");
    }

    #[test]
    fn a_failure_costs_a_second_and_is_forgotten_within_ten() {
        let latency = warm();
        latency.on_success(0, ms(4));
        latency.on_failure(0);
        assert!(near(latency.expected_us(0), 1_000_000.0));
        assert!(near(latency.expected_us(1_000), 500_000.0));
        assert!(latency.expected_us(10_000).is_some_and(|us| us < 4_000.0));
    }

    #[test]
    fn a_failure_never_makes_a_slow_endpoint_look_faster() {
        let latency = warm();
        latency.on_success(0, ms(7_000));
        latency.on_failure(0);
        assert!(near(latency.expected_us(0), 7_000_000.0));
    }

    #[test]
    fn a_probe_that_succeeds_clears_the_charge() {
        let latency = warm();
        latency.on_failure(0);
        latency.on_success(1_000, ms(3));
        latency.forgive();
        assert!(near(latency.expected_us(1_000), 3_000.0));
    }

    #[test]
    fn clocks_that_disagree_by_a_little_do_no_harm() {
        let latency = warm();
        latency.on_success(50, ms(5));
        assert!(near(latency.expected_us(48), 5_000.0));
        latency.on_success(48, ms(1));
        assert!(near(latency.expected_us(50), 3_000.0));
    }

    #[test]
    fn the_clock_may_wrap() {
        let latency = warm();
        let wrap = u64::from(u32::MAX);
        latency.on_success(wrap - 999, ms(8));
        assert!(near(latency.expected_us(wrap + 1_001), 4_000.0));
    }
}
