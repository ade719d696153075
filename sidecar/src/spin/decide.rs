//! Whether a response is worth spinning for, and for how long. Pure: `now` is handed in.
//!
//! Two judges. [`Habit`], of whoever answers (one for each pool): are its responses so quick that a wake-up is a large part of
//! the wait, and did spinning for them come to something? [`Allowance`], of the worker: is there time left for it?
//!
//! | what is seen | what follows |
//! |---|---|
//! | responses that usually take longer than [`SOON`], or nothing known yet | sleep |
//! | quick responses | spin for twice the usual wait, [`SHORTEST`] to [`LONGEST`] |
//! | they stop coming while we spin: who answers may need the very core we spin on | sleep, for [`PAUSE`], doubling to [`LONGEST_PAUSE`]; then try again |
//! | more than [`SHARE`] of a core spun away | sleep until there is some saved up again |
//!
//! A busy worker does not spin: where many requests are under way each waits longer than [`SOON`].
//! Bound: two words for each pool, three for each worker; no more than [`SHARE`] of a core in the long run, [`SAVED`] at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A usual wait above this is slept through: the wake-up that spinning saves, some 40 µs, is a small part of it.
pub(super) const SOON: Duration = Duration::from_micros(150);
/// Least and most that is spun for one response.
pub(super) const SHORTEST: Duration = Duration::from_micros(20);
/// See [`SHORTEST`].
pub(super) const LONGEST: Duration = Duration::from_micros(200);
/// How long nothing is spun for whom it came to nothing, at first.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
/// See [`PAUSE`].
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Percent of a core that a worker may spin away.
pub(super) const SHARE: u64 = 10;
/// What can be saved up for a burst.
pub(super) const SAVED: Duration = Duration::from_millis(5);

/// A longer wait says no more than this one, so that one slow response among quick ones changes nothing.
const FAR: Duration = Duration::from_micros(300);
/// Of one: a share of hits is counted in this many parts.
const WHOLE: u32 = 1024;
/// Below this share of hits spinning comes to nothing.
const FEW: u32 = WHOLE * 5 / 8;
/// What a pause leaves of a bad record: two further misses in a row, and the next pause begins.
const AFTER_PAUSE: u32 = WHOLE * 3 / 4;
/// Above this share of hits earlier pauses are forgotten.
const MANY: u32 = WHOLE * 15 / 16;

/// How quickly somebody answers, and what spinning for it came to. Shared by workers: where responses are slow, which they all
/// are to a busy worker, no lock is taken.
#[derive(Debug)]
pub(super) struct Habit {
    /// Moving average of waits, in ns. Two workers may take one wait into account where there were two.
    usual: AtomicU32,
    spins: Mutex<Spins>,
}

/// What spinning came to.
#[derive(Debug)]
struct Spins {
    /// Moving average of spins that ended with a response, in parts of [`WHOLE`].
    hits: u32,
    /// How long the next pause is.
    pause: Duration,
    paused_until: Option<Instant>,
}

impl Default for Habit {
    /// Nobody is believed quick before some seven responses have been.
    fn default() -> Self {
        let spins = Spins { hits: WHOLE, pause: PAUSE, paused_until: None };
        Self { usual: AtomicU32::new(FAR.subsec_nanos()), spins: Mutex::new(spins) }
    }
}

impl Habit {
    /// For how long to spin for a response that is waited for from `now` on.
    pub(super) fn worth(&self, now: Instant) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed).into());
        if usual > SOON {
            return None;
        }
        let mut spins = self.spins.lock();
        if let Some(until) = spins.paused_until {
            if now < until {
                return None;
            }
            spins.paused_until = None;
        }
        Some((usual * 2).clamp(SHORTEST, LONGEST))
    }

    /// A response came after `waited`. `in_time`: whether it came while it was spun for, if it was.
    pub(super) fn came(&self, waited: Duration, in_time: Option<bool>, now: Instant) {
        let usual = self.usual.load(Ordering::Relaxed);
        self.usual.store(usual - usual / 8 + waited.min(FAR).subsec_nanos() / 8, Ordering::Relaxed);
        if let Some(in_time) = in_time {
            self.spins.lock().ended(in_time, now);
        }
    }
}

impl Spins {
    fn ended(&mut self, in_time: bool, now: Instant) {
        match in_time {
            true => {
                self.hits += (WHOLE - self.hits) / 8;
                if self.hits > MANY {
                    self.pause = PAUSE;
                }
            }
            false => {
                self.hits -= self.hits / 8;
                // Several may have been under way when the pause began.
                if self.hits < FEW && self.paused_until.is_none() {
                    self.hits = AFTER_PAUSE;
                    self.paused_until = Some(now + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Time that a worker may still spin away: it grows by [`SHARE`] percent of what passes. Counted in hundredths of a
/// nanosecond, so that nothing is lost to rounding.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    at: Instant,
}

impl Allowance {
    /// Nothing saved yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: 0, at: now }
    }

    /// Whether all of `time` may be spent.
    pub(super) fn covers(&mut self, time: Duration, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        self.left = self.left.saturating_add(hundredths(passed) / 100 * SHARE).min(hundredths(SAVED));
        self.left >= hundredths(time)
    }

    /// `time` is spent.
    pub(super) fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(hundredths(time));
    }
}

fn hundredths(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    /// Somebody whose last `times` responses took `waited`.
    fn who_took(waited: Duration, times: usize) -> Habit {
        let habit = Habit::default();
        let now = Instant::now();
        for _ in 0..times {
            habit.came(waited, None, now);
        }
        habit
    }

    #[test]
    fn only_quick_responses_are_spun_for_and_twice_as_long_as_they_take() {
        for (what, waited, times, spun) in [
            ("nobody is known quick at first", us(30), 0, None),
            ("nor after a few", us(30), 5, None),
            ("quick", us(30), 100, Some(us(60))),
            ("quicker than a turn", us(1), 100, Some(SHORTEST)),
            ("just quick enough", us(140), 100, Some(LONGEST)),
            ("slow", us(160), 100, None),
            ("very slow", Duration::from_secs(30), 100, None),
        ] {
            let worth = who_took(waited, times).worth(Instant::now());
            let close = match (worth, spun) {
                (Some(worth), Some(spun)) => worth.abs_diff(spun) <= us(1),
                (worth, spun) => worth == spun,
            };
            assert!(close, "{what}: {worth:?}, not {spun:?}");
        }
    }

    #[test]
    fn one_slow_response_is_soon_forgotten() {
        let habit = who_took(us(30), 100);
        let now = Instant::now();
        habit.came(Duration::from_secs(60), None, now);
        let back = (1..).find(|_| {
            habit.came(us(30), None, now);
            habit.worth(now).is_some()
        });
        assert!(back <= Some(3), "after {back:?}");
    }

    #[test]
    fn who_stops_answering_while_we_spin_is_left_alone_for_longer_and_longer() {
        let habit = who_took(us(50), 100);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        while pauses.len() < 14 {
            let mut missed = 0;
            while habit.worth(now).is_some() {
                habit.came(us(50), Some(false), now);
                missed += 1;
            }
            assert!(missed <= 4, "{missed} misses before the pause after {pauses:?}");
            let paused = now;
            while habit.worth(now).is_none() {
                now += Duration::from_millis(1);
            }
            pauses.push(now - paused);
        }
        assert_eq!(pauses[..3], [PAUSE, PAUSE * 2, PAUSE * 4]);
        assert_eq!(pauses[12..], [LONGEST_PAUSE; 2]);
        // It answers again: the next bad moment costs the shortest pause.
        for _ in 0..20 {
            habit.came(us(50), Some(true), now);
        }
        while habit.worth(now).is_some() {
            habit.came(us(50), Some(false), now);
        }
        assert!(habit.worth(now + PAUSE).is_some());
    }

    #[test]
    fn a_miss_among_hits_pauses_nothing() {
        let habit = who_took(us(50), 100);
        let now = Instant::now();
        for turn in 0..1_000 {
            habit.came(us(50), Some(turn % 5 > 0), now);
            assert!(habit.worth(now).is_some(), "turn {turn}");
        }
    }

    #[test]
    fn no_more_than_its_share_is_spun_away_however_it_is_asked() {
        let began = Instant::now();
        for (every, want) in [(us(1), us(100)), (us(70), us(20)), (us(333), us(200)), (us(500), us(60))] {
            let mut allowance = Allowance::new(began);
            let (mut now, mut spent) = (began, Duration::ZERO);
            while now < began + Duration::from_secs(2) {
                now += every;
                if allowance.covers(want, now) {
                    allowance.spend(want);
                    spent += want;
                }
            }
            let most = Duration::from_millis(20 * SHARE);
            let asked = want * u32::try_from(2_000_000 / every.as_micros()).unwrap();
            assert!(spent <= most, "{want:?} every {every:?}: {spent:?} of {most:?}");
            assert!(spent >= (most - LONGEST).min(asked), "{want:?} every {every:?}: only {spent:?} of {most:?}");
        }
    }

    #[test]
    fn what_is_saved_up_in_a_quiet_hour_is_little() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let now = began + Duration::from_secs(3_600);
        let mut sum = Duration::ZERO;
        while allowance.covers(us(100), now) {
            allowance.spend(us(100));
            sum += us(100);
        }
        assert_eq!(sum, SAVED);
    }
}
