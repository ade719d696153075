//! Rate limits: so many requests in so long, of all clients together or of each (SEMANTICS.md §3 "rate limit").
//!
//! A token bucket, kept as the moment at which it will be full again (the "generic cell rate algorithm"): each request moves
//! that moment on by the time that one token takes to come back, and is refused where that would be further away than a whole
//! bucket. So one word is all there is of a client, nothing is refilled by a timer, and no remainder is lost: a rate is met to the
//! nanosecond, rounded against the client.
//!
//! Clients are told apart by a hash with a seed of this process, so that neither a long header costs memory nor can anybody
//! find two clients with one bucket. Two that meet by chance share one: of ten thousand, one time in 10¹¹.
//!
//! Bound: [`MAX_BUCKETS`] a limit. A bucket that is full says nothing and is let go for another. Where all are in use, further
//! clients share one: who makes up names gets less, never more, and a client who is known keeps its own.
//!
//! Not here: which limits a request has to pass, and what it is answered (`inbound/`).

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

/// Clients of one limit who have a bucket of their own: about 400 KiB.
pub const MAX_BUCKETS: usize = 10_000;
/// Between looks for buckets that are full, where there is no room: each is a pass over all.
const SWEEP: Duration = Duration::from_secs(1);

/// So many requests in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Duration,
    /// Until one token is back.
    interval: Duration,
    /// Until an empty bucket is full.
    whole: Duration,
    burst: u32,
}

/// A rate that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{requests} requests in {per:?}, {burst} at once, is no rate: each has to be more than nothing")]
pub struct InvalidRate {
    requests: u32,
    per: Duration,
    burst: u32,
}

impl Rate {
    /// `requests` in `per`, and `burst` of them at once after a pause.
    ///
    /// # Errors
    /// When one of them is nothing, or a bucket would take longer to fill than a clock can tell.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Result<Self, InvalidRate> {
        let invalid = InvalidRate { requests, per, burst };
        if requests == 0 || burst == 0 || per.is_zero() {
            return Err(invalid);
        }
        let nanos = per.as_nanos().div_ceil(u128::from(requests));
        let interval = u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| invalid)?;
        let whole = interval.checked_mul(burst).ok_or(invalid)?;
        Ok(Self { requests, per, interval, whole, burst })
    }

    /// Until an empty bucket is full.
    pub(super) fn whole(&self) -> Duration {
        self.whole
    }

    /// One request at `now`, by the moment at which its bucket is full (`None`: it is).
    pub(super) fn take(&self, full_at: Option<Instant>, now: Instant) -> (Verdict, Option<Instant>) {
        let lacking = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let after = lacking.saturating_add(self.interval);
        match after.checked_sub(self.whole).filter(|over| !over.is_zero()) {
            None => (self.verdict(None, after), now.checked_add(after)),
            Some(wait) => (self.verdict(Some(wait), lacking), full_at),
        }
    }

    fn verdict(&self, wait: Option<Duration>, lacking: Duration) -> Verdict {
        let left = self.whole.saturating_sub(lacking).as_nanos() / self.interval.as_nanos();
        Verdict { limit: self.burst, remaining: u32::try_from(left).unwrap_or(u32::MAX), full_in: lacking, wait }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {:?}, {} at once", self.requests, self.per, self.burst)
    }
}

/// What becomes of a request, and what its client may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Requests that a full bucket has.
    pub limit: u32,
    /// Requests that it still has.
    pub remaining: u32,
    /// Until it is full.
    pub full_in: Duration,
    /// The request is refused; one in so long would not be.
    pub wait: Option<Duration>,
}

impl Verdict {
    /// The one that tells more, of two limits: who refuses, for longest; else who has less left.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        match (self.wait, other.wait) {
            (Some(a), Some(b)) if a >= b => self,
            (None, None) if self.remaining <= other.remaining => self,
            (Some(_), None) => self,
            _ => other,
        }
    }
}

/// The buckets of one limit.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    seed: RandomState,
    held: Mutex<Held>,
    room: usize,
}

#[derive(Debug, Default)]
struct Held {
    /// When each is full, by its client.
    full_at: HashMap<u64, Instant, foldhash::fast::RandomState>,
    /// Of all clients for whom there was no room.
    others: Option<Instant>,
    swept: Option<Instant>,
}

impl Buckets {
    /// All of them full.
    pub fn new(rate: Rate) -> Self {
        Self::with_room(rate, MAX_BUCKETS)
    }

    fn with_room(rate: Rate, room: usize) -> Self {
        Self { rate, seed: RandomState::default(), held: Mutex::default(), room }
    }

    /// The rate.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// A request of `client` at `now`. What is refused takes nothing.
    pub fn take(&self, client: &(impl Hash + ?Sized), now: Instant) -> Verdict {
        let client = self.seed.hash_one(client);
        let mut held = self.held.lock();
        let held = &mut *held;
        if !held.full_at.contains_key(&client) && held.full_at.len() >= self.room && held.is_sweep_due(now) {
            held.full_at.retain(|_, full_at| *full_at > now);
        }
        let known = held.full_at.get(&client).copied();
        if known.is_none() && held.full_at.len() >= self.room {
            let (verdict, full_at) = self.rate.take(held.others, now);
            held.others = full_at;
            return verdict;
        }
        let (verdict, full_at) = self.rate.take(known, now);
        if let Some(full_at) = full_at {
            held.full_at.insert(client, full_at);
        }
        verdict
    }

    /// How many clients have one of their own.
    pub fn clients(&self) -> usize {
        self.held.lock().full_at.len()
    }
}

impl Held {
    fn is_sweep_due(&mut self, now: Instant) -> bool {
        let due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP);
        if due {
            self.swept = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(requests, per, burst).unwrap()
    }

    #[test]
    fn a_bucket_gives_what_it_has_and_then_one_by_one() {
        let buckets = Buckets::new(rate(10, ms(1_000), 3));
        let now = Instant::now();
        let rows = [
            ("the first", 0, 2, None),
            ("the second", 0, 1, None),
            ("the third", 0, 0, None),
            ("one too many", 0, 0, Some(100)),
            ("half a token is none", 50, 0, Some(50)),
            ("one is back", 100, 0, None),
            ("and no second one", 100, 0, Some(100)),
            ("all are back, and no more than all", 60_000, 2, None),
            ("as if nothing had been", 60_000, 1, None),
        ];
        for (row, at, remaining, wait) in rows {
            let verdict = buckets.take("a", now + ms(at));
            assert_eq!((verdict.limit, verdict.remaining, verdict.wait), (3, remaining, wait.map(ms)), "{row}");
        }
        assert_eq!(buckets.take("b", now).remaining, 2, "another client has another bucket");
        assert_eq!(buckets.clients(), 2);
    }

    #[test]
    fn rates_of_nothing_are_refused() {
        let second = ms(1_000);
        for (requests, per, burst, good) in [
            (1, second, 1, true),
            (0, second, 1, false),
            (1, Duration::ZERO, 1, false),
            (1, second, 0, false),
            (u32::MAX, Duration::from_nanos(1), u32::MAX, true),
            (1, Duration::MAX, 1, false),
        ] {
            assert_eq!(Rate::new(requests, per, burst).is_ok(), good, "{requests} in {per:?}, {burst}");
        }
    }

    #[test]
    fn who_comes_when_there_is_no_room_shares_a_bucket_until_others_are_full() {
        let buckets = Buckets::with_room(rate(1, ms(10_000), 2), 2);
        let now = Instant::now();
        for client in ["a", "b"] {
            assert_eq!(buckets.take(client, now).remaining, 1, "{client}");
        }
        // One bucket for whoever else there is.
        let left: Vec<_> = ["c", "d", "e"].map(|client| buckets.take(client, now).wait.is_some()).into();
        assert_eq!(left, [false, false, true]);
        assert_eq!(buckets.take("a", now).wait, None, "who was there first keeps what it has");
        // Those of `a` (20 s) and `b` (10 s): the second is full again.
        assert_eq!(buckets.take("f", now + ms(10_000)).remaining, 1);
        assert_eq!(buckets.clients(), 2);
        assert_eq!(
            buckets.take("b", now + ms(10_500)).remaining,
            0,
            "there is no room, and of what is shared one is back"
        );
    }

    #[test]
    fn of_two_limits_the_tighter_is_told() {
        let verdict =
            |remaining, wait: Option<u64>| Verdict { limit: 9, remaining, full_in: ms(1), wait: wait.map(ms) };
        for (row, a, b, wanted) in [
            ("less left", verdict(3, None), verdict(2, None), verdict(2, None)),
            ("refused", verdict(0, Some(5)), verdict(0, None), verdict(0, Some(5))),
            ("refused for longer", verdict(0, Some(5)), verdict(0, Some(7)), verdict(0, Some(7))),
        ] {
            assert_eq!((a.tighter(b), b.tighter(a)), (wanted, wanted), "{row}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// In any stretch of time no more pass than the burst and what came back meanwhile; and who asks no more often than the
        /// rate is never refused.
        #[test]
        fn no_more_pass_than_the_rate_and_who_keeps_to_it_always_does(
            requests in 1u32..50,
            per in 1u64..5_000,
            burst in 1u32..20,
            gaps in prop::collection::vec(0u64..400, 1..200),
        ) {
            let rate = rate(requests, ms(per), burst);
            let buckets = Buckets::new(rate);
            let start = Instant::now();
            let mut at = start;
            let mut passed: Vec<Instant> = Vec::new();
            for gap in gaps {
                at += ms(gap);
                let verdict = buckets.take("a", at);
                match verdict.wait {
                    None => passed.push(at),
                    // And then it would.
                    Some(wait) => prop_assert!(rate.take(Some(at + verdict.full_in), at + wait).0.wait.is_none()),
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (more, last) in passed.iter().enumerate().skip(index) {
                    let came_back = last.duration_since(*first).as_nanos() * u128::from(requests) / (u128::from(per) * 1_000_000);
                    prop_assert!((more - index + 1) as u128 <= u128::from(burst) + came_back);
                }
            }
            let steady = Buckets::new(rate);
            for n in 0..200 {
                prop_assert!(steady.take("a", start + rate.interval * n).wait.is_none());
            }
        }
    }
}
