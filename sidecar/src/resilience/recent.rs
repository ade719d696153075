//! A retry budget by what was asked lately (Gateway API XBackendTrafficPolicy `retryConstraint`, GEP-3388): retries of the
//! last `interval` may be so many percent of the requests that began in it, and so many in so long are always allowed.
//!
//! Time is counted in [`SLOTS`] slots that together are the interval: the one under way and those before it. So what is looked
//! at is nine tenths of the interval at least and all of it at most, and no timer forgets anything: whoever finds a slot of an
//! earlier round makes it one of this. Retries do not make room for retries: they are no requests. Every retry takes from the
//! bucket of what is always allowed (`rate.rs`) if there is something in it, so that the two do not add up.
//!
//! A request costs one word's change. Retries are few: they are counted under a lock, so that workers together never exceed the
//! budget.
//!
//! Bound: thirty words. Not here: which retries it is asked about (`retry.rs`: not those of tries that provably did nothing).

use std::array;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::rate::Rate;

/// Parts of the interval.
const SLOTS: u32 = 10;
/// Most retries that may always be allowed in one `min_interval`.
const MOST: u32 = 1_000_000;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// A budget's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecentPolicy {
    percent: u32,
    interval: Duration,
    min_count: u32,
    min_interval: Duration,
    /// The last two.
    least: Rate,
}

/// Numbers that are no budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBudget {
    /// Of retries.
    #[error("{0} is more than 100 percent")]
    Percent(u32),
    /// To look back.
    #[error("an interval of {0:?} is not one of 1s to 1h")]
    Interval(Duration),
    /// That are always allowed.
    #[error("{0} retries in {1:?} are not 1 to 1,000,000 in at most 1h")]
    Least(u32, Duration),
}

impl RecentPolicy {
    /// `percent` of the requests of the last `interval`, and `min_count` in `min_interval` in any case.
    ///
    /// # Errors
    /// Says which of the numbers is out of bounds.
    pub fn new(
        percent: u32,
        interval: Duration,
        min_count: u32,
        min_interval: Duration,
    ) -> Result<Self, InvalidBudget> {
        if percent > 100 {
            return Err(InvalidBudget::Percent(percent));
        }
        if !(SECOND..=HOUR).contains(&interval) {
            return Err(InvalidBudget::Interval(interval));
        }
        let invalid = InvalidBudget::Least(min_count, min_interval);
        if min_count > MOST || min_interval > HOUR {
            return Err(invalid);
        }
        let least = Rate::new(min_count, min_interval, min_count).map_err(|_| invalid)?;
        Ok(Self { percent, interval, min_count, min_interval, least })
    }

    /// How far it looks back.
    pub fn interval(&self) -> Duration {
        self.interval
    }
}

impl fmt::Display for RecentPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { percent, interval, min_count, min_interval, .. } = self;
        write!(f, "{percent} % of the requests of {interval:?}, at least {min_count} in {min_interval:?}")
    }
}

/// What was asked of a backend lately. Shared by workers.
#[derive(Debug)]
pub(super) struct Recent {
    interval: Duration,
    /// When the first slot began.
    began: OnceLock<Instant>,
    /// A word for each slot: its number above, its requests below.
    requests: [AtomicU64; SLOTS as usize],
    retries: Mutex<Retries>,
}

#[derive(Debug, Default)]
struct Retries {
    /// Numbers and retries.
    slots: [(u32, u32); SLOTS as usize],
    /// When the bucket of what is always allowed is full; `None`: it is.
    full_at: Option<Instant>,
}

impl Recent {
    /// With nothing asked. `interval` is one of a [`RecentPolicy`].
    pub(super) fn new(interval: Duration) -> Self {
        let requests = array::from_fn(|_| AtomicU64::new(0));
        Self { interval, began: OnceLock::new(), requests, retries: Mutex::default() }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// A request begins.
    pub(super) fn on_request(&self, now: Instant) {
        let slot = self.slot(now);
        let Some(word) = self.requests.get(place(slot)) else { return };
        // Relaxed: the word is all that is shared. A worker whose `now` is of an earlier round counts in this one.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (of, count) = split(word);
            Some(if of < slot { join(slot, 1) } else { join(of, count.saturating_add(1)) })
        });
    }

    /// Whether one more retry is within the budget; if it is, it is counted.
    pub(super) fn try_retry(&self, policy: &RecentPolicy, now: Instant) -> bool {
        let slot = self.slot(now);
        let counted = |of: u32| slot.saturating_sub(of) < SLOTS;
        let requests = self.requests.iter().map(|word| split(word.load(Ordering::Relaxed)));
        let requests: u64 = requests.filter(|(of, _)| counted(*of)).map(|(_, count)| u64::from(count)).sum();
        let mut retries = self.retries.lock();
        let Retries { slots, full_at } = &mut *retries;
        let made: u64 = slots.iter().filter(|(of, _)| counted(*of)).map(|(_, count)| u64::from(*count)).sum();
        // Another policy's bucket may have been larger.
        let whole = now.checked_add(policy.least.whole());
        let (verdict, after) = policy.least.take((*full_at).map(|at| whole.map_or(at, |whole| at.min(whole))), now);
        *full_at = after;
        let allowed = verdict.wait.is_none() || made < requests * u64::from(policy.percent) / 100;
        if allowed && let Some((of, count)) = slots.get_mut(place(slot)) {
            (*of, *count) = if *of < slot { (slot, 1) } else { (*of, count.saturating_add(1)) };
        }
        allowed
    }

    fn slot(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(*self.began.get_or_init(|| now));
        // The least slot is 100 ms: the number is good for thirteen years, and beyond them all is one slot.
        let slot = since.as_nanos() * u128::from(SLOTS) / self.interval.as_nanos().max(1);
        u32::try_from(slot).unwrap_or(u32::MAX)
    }
}

fn place(slot: u32) -> usize {
    (slot % SLOTS) as usize
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn join(slot: u32, count: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(count)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn policy(percent: u32, interval: Duration, min_count: u32, min_interval: Duration) -> RecentPolicy {
        RecentPolicy::new(percent, interval, min_count, min_interval).unwrap()
    }

    fn asked(recent: &Recent, times: u32, now: Instant) {
        (0..times).for_each(|_| recent.on_request(now));
    }

    fn granted(recent: &Recent, policy: &RecentPolicy, now: Instant) -> usize {
        std::iter::from_fn(|| recent.try_retry(policy, now).then_some(())).take(10_000).count()
    }

    #[test]
    fn a_share_of_the_requests_of_the_interval_and_never_less_than_the_least() {
        let rows = [
            ("the specification's example", 20, 1_000, 1, 200),
            ("nothing was asked", 20, 0, 10, 10),
            ("little was asked", 20, 49, 10, 10),
            ("the share is more", 20, 100, 10, 20),
            ("none but the least", 0, 1_000, 3, 3),
            ("as many as there are", 100, 50, 1, 50),
        ];
        for (row, percent, requests, least, want) in rows {
            let (now, policy) = (Instant::now(), policy(percent, ms(10_000), least, ms(3_600_000)));
            let recent = Recent::new(policy.interval());
            asked(&recent, requests, now);
            assert_eq!(granted(&recent, &policy, now), want, "{row}");
        }
    }

    /// ```text
    /// 0 s          4 s                 10 s          14 s
    /// 100 asked    all 20 are spent    100 leave     the 20 retries leave
    /// ```
    #[test]
    fn what_is_older_than_the_interval_counts_no_more() {
        let (start, policy) = (Instant::now(), policy(20, ms(10_000), 1, ms(3_600_000)));
        let recent = Recent::new(policy.interval());
        asked(&recent, 100, start);
        assert_eq!(granted(&recent, &policy, start + ms(4_000)), 20);
        asked(&recent, 150, start + ms(5_000));
        assert_eq!(granted(&recent, &policy, start + ms(9_900)), 30, "of 250");
        assert_eq!(granted(&recent, &policy, start + ms(10_000)), 0, "50 of the 150 that are left, which may have 30");
        assert_eq!(granted(&recent, &policy, start + ms(14_000)), 0, "30 of 150");
        asked(&recent, 5, start + ms(14_100));
        assert_eq!(granted(&recent, &policy, start + ms(14_100)), 1);
        assert_eq!(granted(&recent, &policy, start + ms(60_000)), 0, "long after");
    }

    #[test]
    fn the_least_comes_back_in_its_own_time() {
        let (now, policy) = (Instant::now(), policy(0, ms(60_000), 2, ms(1_000)));
        let recent = Recent::new(policy.interval());
        let rows = [(0, 2), (499, 0), (500, 1), (600, 0), (1_000, 1), (9_000, 2)];
        for (at, want) in rows {
            assert_eq!(granted(&recent, &policy, now + ms(at)), want, "{at}");
        }
    }

    #[test]
    fn a_smaller_least_does_not_wait_for_a_larger_one() {
        let now = Instant::now();
        let recent = Recent::new(ms(10_000));
        assert_eq!(granted(&recent, &policy(0, ms(10_000), 1, ms(3_600_000)), now), 1);
        let shorter = policy(0, ms(10_000), 1, ms(1_000));
        assert_eq!(granted(&recent, &shorter, now), 0);
        assert_eq!(granted(&recent, &shorter, now + ms(1_000)), 1);
    }

    #[test]
    fn numbers_out_of_bounds_are_named() {
        let rows = [
            (101, ms(1_000), 1, ms(1), "101 is more than 100 percent"),
            (20, ms(999), 1, ms(1), "an interval of 999ms is not one of 1s to 1h"),
            (20, HOUR + ms(1), 1, ms(1), "is not one of 1s to 1h"),
            (20, SECOND, 0, SECOND, "0 retries in 1s"),
            (20, SECOND, MOST + 1, SECOND, "1000001 retries in 1s"),
            (20, SECOND, 1, ms(0), "1 retries in 0ns"),
            (20, SECOND, 1, HOUR + ms(1), "1 retries in 3600.001s"),
        ];
        for (percent, interval, count, per, says) in rows {
            let error = RecentPolicy::new(percent, interval, count, per).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let widest = policy(100, HOUR, MOST, ms(1));
        assert_eq!(widest.to_string(), "100 % of the requests of 3600s, at least 1000000 in 1ms");
    }

    #[test]
    fn workers_together_do_not_exceed_it() {
        let (now, policy) = (Instant::now(), policy(10, ms(10_000), 1, HOUR));
        let recent = Recent::new(policy.interval());
        let granted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        recent.on_request(now);
                        granted.fetch_add(u64::from(recent.try_retry(&policy, now)), Ordering::Relaxed);
                    }
                });
            }
        });
        let granted = granted.into_inner();
        assert!(granted <= 400, "{granted}");
        assert_eq!(
            recent.requests.iter().map(|word| u64::from(split(word.load(Ordering::Relaxed)).1)).sum::<u64>(),
            4_000
        );
    }

    /// The same without slots: every moment is remembered.
    #[derive(Default)]
    struct Exact {
        requests: VecDeque<u64>,
        retries: VecDeque<u64>,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// No window of nine tenths of the interval has more retries than the share of a whole interval's requests allows.
        #[test]
        fn it_is_never_exceeded_and_never_refuses_what_is_well_within(
            steps in prop::collection::vec((0u64..400, any::<bool>()), 1..200),
            percent in 1u32..=100,
        ) {
            let (start, policy) = (Instant::now(), policy(percent, ms(1_000), 1, HOUR));
            let recent = Recent::new(policy.interval());
            let mut exact = Exact::default();
            let mut at = 0;
            let _always = recent.try_retry(&policy, start);
            for (wait, retry) in steps {
                at += wait;
                let within = |all: &VecDeque<u64>, last: u64| all.iter().filter(|then| at - **then < last).count() as u64;
                if !retry {
                    recent.on_request(start + ms(at));
                    exact.requests.push_back(at);
                    continue;
                }
                let allowed = |last| within(&exact.requests, last) * u64::from(percent) / 100;
                let granted = recent.try_retry(&policy, start + ms(at));
                if granted {
                    // The one before the first step counts as well, for a time.
                    prop_assert!(within(&exact.retries, 900) < allowed(1_000));
                    exact.retries.push_back(at);
                } else {
                    prop_assert!(within(&exact.retries, 1_000) + 1 >= allowed(900), "refused at {at}");
                }
            }
        }
    }
}
