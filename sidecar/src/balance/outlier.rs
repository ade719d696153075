//! Outlier detection: ejects an endpoint that keeps failing, and lets one probe request decide on its return.
//!
//! Default: 5 failures in a row, 1 s doubling to 60 s (SEMANTICS.md §3). The ejection count that doubles goes down by one
//! for every 10 s the endpoint has been back without being ejected.
//!
//! ```text
//!            failures = threshold, and the cap allows          until ≤ now: the first pick takes it
//!   InUse ───────────────────────────────────────► Ejected ──────────────────────────────────► Probing
//!     ▲                                             ▲   ▲                                         │ │ │
//!     │                                             │   └────── probe said nothing: due at once ──┘ │ │
//!     │                                             └────────── probe failed: twice as long ────────┘ │
//!     └──────────────────────────────────────────────────────── probe succeeded ──────────────────────┘
//! ```
//!
//! # The word
//!
//! | bits | field | in `InUse` | in `Ejected` | in `Probing` |
//! |---|---|---|---|---|
//! | 0-1 | phase | 0 | 1 | 2 |
//! | 2-7 | level | ejections remembered | this one included | this one included |
//! | 8-23 | failures | in a row, saturating | 0 | 0 |
//! | 24-63 | when, ms since the balancer's epoch | last return | due for a probe | probe started |
//!
//! Forty bits of milliseconds last 34 years.
//!
//! # Who may do what
//!
//! `failures` is moved by anyone with one compare-and-swap. `phase` is moved only under [`Ejections`]'s lock, because two
//! things beside the word must stay true together with it: the number of ejected endpoints, which the cap limits, and
//! the moment the next probe is due. Reading takes no lock. So a healthy set costs one load per result; the lock is for
//! ejections, probes and updates, which the ejection times themselves keep rare.
//!
//! A result that arrives for a phase it does not belong to (a request picked before the ejection, or under panic) is
//! ignored: only the probe speaks for an ejected endpoint.
//!
//! Not here: what counts as a failure (`outbound/`), the penalty in latency (`latency.rs`).
//! Bound: three words per endpoint.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::policy::OutlierPolicy;

/// An endpoint that is back loses one remembered ejection for each of these without another: Envoy's default interval.
const CLEAN_INTERVAL_MS: u64 = 10_000;

/// An endpoint that has begun to fail is offered a request this often until it is ejected or succeeds. Without it the
/// first failure's charge (1 s) would keep requests away and the verdict would never come.
const RECHECK_MS: u64 = 50;

const NEVER: u64 = u64::MAX;

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    InUse,
    Ejected,
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    phase: Phase,
    level: u8,
    failures: u16,
    when: u64,
}

const LEVEL_MAX: u8 = 0x3f;
const WHEN_MAX: u64 = (1 << 40) - 1;

impl Word {
    fn unpack(bits: u64) -> Self {
        Self {
            phase: match bits & 0b11 {
                1 => Phase::Ejected,
                2 => Phase::Probing,
                _ => Phase::InUse,
            },
            level: (bits >> 2) as u8 & LEVEL_MAX,
            failures: (bits >> 8) as u16,
            when: bits >> 24,
        }
    }

    fn pack(self) -> u64 {
        let phase = match self.phase {
            Phase::InUse => 0,
            Phase::Ejected => 1,
            Phase::Probing => 2,
        };
        phase
            | u64::from(self.level.min(LEVEL_MAX)) << 2
            | u64::from(self.failures) << 8
            | self.when.min(WHEN_MAX) << 24
    }

    /// Ejections still remembered at `now`.
    fn level_at(self, now: u64) -> u8 {
        let clean = now.saturating_sub(self.when) / CLEAN_INTERVAL_MS;
        self.level.saturating_sub(u8::try_from(clean).unwrap_or(u8::MAX))
    }
}

/// One endpoint's word, and two hints beside it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    word: AtomicU64,
    /// When a failing endpoint is next offered a request. A hint: relaxed, and losing a race costs one recheck.
    recheck_at: AtomicU64,
    /// Whether it is one of the current set's ready endpoints: only those are counted. Written under the lock.
    member: AtomicBool,
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// It counts, below the threshold.
    Counted,
    /// It counts for nothing: the endpoint is ejected already, is draining, has left the set, or detection is off.
    Ignored,
    /// The threshold is reached: the caller owes a call of [`Locked::eject`].
    Due,
}

impl Standing {
    fn get(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Moves the word by `change`, which is called again if another worker was first; `None` leaves it.
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| change(Word::unpack(bits)).map(Word::pack))
            .ok()
            .map(Word::unpack)
    }

    pub(super) fn in_use(&self) -> bool {
        self.get().phase == Phase::InUse
    }

    pub(super) fn failures(&self) -> u32 {
        u32::from(self.get().failures)
    }

    /// Whether it has failed often enough to be ejected, and only the cap keeps it in use.
    pub(super) fn is_kept(&self, threshold: Option<NonZeroU32>) -> bool {
        let word = self.get();
        word.phase == Phase::InUse && threshold.is_some_and(|threshold| reached(word.failures, threshold))
    }

    /// Milliseconds until a probe is due, if the endpoint is ejected; zero while one is under way.
    pub(super) fn ejected_for(&self, now: u64) -> Option<u64> {
        let word = self.get();
        match word.phase {
            Phase::InUse => None,
            Phase::Ejected => Some(word.when.saturating_sub(now)),
            Phase::Probing => Some(0),
        }
    }

    /// Whether a probe is due.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let word = self.get();
        word.phase == Phase::Ejected && word.when <= now
    }

    /// A request that was not the probe succeeded.
    pub(super) fn on_success(&self) {
        if self.get().failures > 0 {
            self.change(|word| {
                (word.phase == Phase::InUse && word.failures > 0).then_some(Word { failures: 0, ..word })
            });
        }
    }

    /// A request that was not the probe failed, which counts as `times` failures in a row.
    pub(super) fn on_failure(&self, now: u64, threshold: Option<NonZeroU32>, times: u16) -> OnFailure {
        let Some(threshold) = threshold else { return OnFailure::Ignored };
        if !self.member.load(Ordering::Acquire) {
            return OnFailure::Ignored;
        }
        self.recheck_at.store(now + RECHECK_MS, Ordering::Relaxed);
        let before = self.change(|word| {
            (word.phase == Phase::InUse).then(|| Word { failures: word.failures.saturating_add(times), ..word })
        });
        match before {
            None => OnFailure::Ignored,
            Some(word) if reached(word.failures.saturating_add(times), threshold) => OnFailure::Due,
            Some(_) => OnFailure::Counted,
        }
    }

    /// Whether the endpoint has begun to fail and is due for another request; true for one caller per interval.
    pub(super) fn take_recheck(&self, now: u64) -> bool {
        let word = self.get();
        if word.phase != Phase::InUse || word.failures == 0 {
            return false;
        }
        let at = self.recheck_at.load(Ordering::Relaxed);
        at <= now
            && self.recheck_at.compare_exchange(at, now + RECHECK_MS, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn reached(failures: u16, threshold: NonZeroU32) -> bool {
    u32::from(failures) >= threshold.get().min(u32::from(u16::MAX))
}

/// What [`Locked::eject`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ejection {
    /// It is out until then (ms).
    Now { until: u64 },
    /// Another worker was first, or a success came between, or it has left the set.
    Already,
    /// As many are ejected as the cap allows.
    TooMany,
}

/// The set's side of outlier detection: how many are out, and when the next probe is due.
#[derive(Debug)]
pub(super) struct Ejections {
    lock: Mutex<()>,
    /// Members not `InUse`. Written under the lock, read by every pick.
    ejected: AtomicUsize,
    /// The earliest `when` of a member that is `Ejected`, or [`NEVER`]. Written under the lock, read by every pick.
    next_probe_at: AtomicU64,
    /// Ejections since the start.
    total: AtomicU64,
}

impl Default for Ejections {
    fn default() -> Self {
        Self {
            lock: Mutex::new(()),
            ejected: AtomicUsize::new(0),
            next_probe_at: AtomicU64::new(NEVER),
            total: AtomicU64::new(0),
        }
    }
}

impl Ejections {
    pub(super) fn ejected(&self) -> usize {
        self.ejected.load(Ordering::Acquire)
    }

    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Whether some member is due for a probe.
    pub(super) fn probe_due(&self, now: u64) -> bool {
        self.next_probe_at.load(Ordering::Acquire) <= now
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked { ejections: self, _guard: self.lock.lock() }
    }
}

/// The right to move a phase.
pub(super) struct Locked<'a> {
    ejections: &'a Ejections,
    _guard: MutexGuard<'a, ()>,
}

impl Locked<'_> {
    /// The set has changed: `left` holds every endpoint of the old one, `ready` the ready ones of the new. With
    /// detection switched off, all are back in use.
    pub(super) fn replace<'s>(
        &self,
        left: impl Iterator<Item = &'s Standing>,
        ready: impl Iterator<Item = &'s Standing> + Clone,
        policy: &OutlierPolicy,
    ) {
        left.for_each(|standing| standing.member.store(false, Ordering::Release));
        for standing in ready.clone() {
            standing.member.store(true, Ordering::Release);
            if policy.consecutive_failures.is_none() {
                standing.word.store(0, Ordering::Release);
            }
        }
        let ejected = ready.clone().filter(|standing| !standing.in_use()).count();
        self.ejections.ejected.store(ejected, Ordering::Release);
        self.schedule(ready);
    }

    /// Ejects `standing`, one of `ready`, if it still has failed `policy`'s number of times and the cap allows.
    pub(super) fn eject<'s>(
        &self,
        standing: &Standing,
        ready: impl ExactSizeIterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
    ) -> Ejection {
        let Some(threshold) = policy.consecutive_failures else { return Ejection::Already };
        if !standing.member.load(Ordering::Acquire) {
            return Ejection::Already;
        }
        if self.ejections.ejected() >= policy.cap(ready.len()) {
            return Ejection::TooMany;
        }
        let out = |word: Word| {
            let level = word.level_at(now).saturating_add(1).min(LEVEL_MAX);
            Word { phase: Phase::Ejected, level, failures: 0, when: now + length_ms(policy, level) }
        };
        let due = |word: &Word| word.phase == Phase::InUse && reached(word.failures, threshold);
        match standing.change(|word| due(&word).then(|| out(word))) {
            None => Ejection::Already,
            Some(before) => {
                self.ejections.ejected.fetch_add(1, Ordering::AcqRel);
                self.ejections.total.fetch_add(1, Ordering::Relaxed);
                self.schedule(ready);
                Ejection::Now { until: out(before).when }
            }
        }
    }

    /// Makes the caller's request `standing`'s probe, if one is due and nobody else took it.
    pub(super) fn begin_probe<'s>(
        &self,
        standing: &Standing,
        ready: impl Iterator<Item = &'s Standing>,
        now: u64,
    ) -> bool {
        let began = standing.member.load(Ordering::Acquire)
            && standing
                .change(|word| {
                    (word.phase == Phase::Ejected && word.when <= now).then_some(Word {
                        phase: Phase::Probing,
                        when: now,
                        ..word
                    })
                })
                .is_some();
        // Also when it did not begin: the hint was stale, and another look at it sets it right.
        self.schedule(ready);
        began
    }

    /// The probe succeeded: back in use. False if there was nothing to return from any more.
    pub(super) fn probe_succeeded(&self, standing: &Standing, now: u64) -> bool {
        let back = |word: Word| Word { phase: Phase::InUse, failures: 0, when: now, ..word };
        let returned = standing.change(|word| (word.phase == Phase::Probing).then(|| back(word))).is_some();
        if returned && standing.member.load(Ordering::Acquire) {
            self.ejections.ejected.fetch_sub(1, Ordering::AcqRel);
        }
        returned
    }

    /// The probe failed: out for longer. `None` if there was nothing to stay out of any more.
    pub(super) fn probe_failed<'s>(
        &self,
        standing: &Standing,
        ready: impl Iterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
    ) -> Option<u64> {
        let out = |word: Word| {
            let level = word.level.saturating_add(1).min(LEVEL_MAX);
            Word { phase: Phase::Ejected, level, failures: 0, when: now + length_ms(policy, level) }
        };
        let before = standing.change(|word| (word.phase == Phase::Probing).then(|| out(word)))?;
        if standing.member.load(Ordering::Acquire) {
            self.ejections.total.fetch_add(1, Ordering::Relaxed);
            self.schedule(ready);
        }
        Some(out(before).when)
    }

    /// The probe ended and said nothing: another may start at once.
    pub(super) fn probe_ended<'s>(&self, standing: &Standing, ready: impl Iterator<Item = &'s Standing>) {
        // `when` is the probe's start, which has passed: no clock needed, so a drop can do it.
        standing.change(|word| (word.phase == Phase::Probing).then_some(Word { phase: Phase::Ejected, ..word }));
        self.schedule(ready);
    }

    fn schedule<'s>(&self, ready: impl Iterator<Item = &'s Standing>) {
        let next = ready.map(Standing::get).filter(|word| word.phase == Phase::Ejected).map(|word| word.when).min();
        self.ejections.next_probe_at.store(next.unwrap_or(NEVER), Ordering::Release);
    }
}

/// How long the `level`th ejection in a row lasts: base·2^(level−1), at most the policy's longest.
fn length_ms(policy: &OutlierPolicy, level: u8) -> u64 {
    let doublings = u32::from(level.saturating_sub(1)).min(31);
    let length: Duration = policy.base.saturating_mul(1 << doublings).min(policy.max);
    u64::try_from(length.as_millis()).unwrap_or(WHEN_MAX).min(WHEN_MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> OutlierPolicy {
        OutlierPolicy::default()
    }

    /// A set of standings under one lock, as the balancer would keep it.
    struct Fixture {
        ejections: Ejections,
        standings: Vec<Standing>,
    }

    impl Fixture {
        fn of(ready: usize) -> Self {
            let fixture = Self {
                ejections: Ejections::default(),
                standings: std::iter::repeat_with(Standing::default).take(ready).collect(),
            };
            fixture.ejections.lock().replace(std::iter::empty(), fixture.standings.iter(), &policy());
            fixture
        }

        /// Fails five times at `now`.
        fn fail(&self, index: usize, now: u64) -> Ejection {
            let standing = &self.standings[index];
            for _ in 0..4 {
                assert_eq!(standing.on_failure(now, policy().consecutive_failures, 1), OnFailure::Counted);
            }
            assert_eq!(standing.on_failure(now, policy().consecutive_failures, 1), OnFailure::Due);
            self.ejections.lock().eject(standing, self.standings.iter(), &policy(), now)
        }

        fn probe(&self, index: usize, now: u64) -> bool {
            self.ejections.lock().begin_probe(&self.standings[index], self.standings.iter(), now)
        }

        fn probe_fails(&self, index: usize, now: u64) -> Option<u64> {
            self.ejections.lock().probe_failed(&self.standings[index], self.standings.iter(), &policy(), now)
        }

        fn probe_succeeds(&self, index: usize, now: u64) -> bool {
            self.ejections.lock().probe_succeeded(&self.standings[index], now)
        }
    }

    #[test]
    fn the_cap_row_by_row() {
        let rows = [(0, 50, 0), (1, 50, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (5, 50, 2), (10, 50, 5), (10, 10, 1)];
        let more = [(10, 0, 1), (3, 100, 2), (1, 100, 0), (2, 1_000, 1), (7, 99, 6)];
        for (ready, max_percent, want) in rows.into_iter().chain(more) {
            let policy = OutlierPolicy { max_percent, ..policy() };
            assert_eq!(policy.cap(ready), want, "{max_percent} % of {ready}");
        }
        let off = OutlierPolicy { consecutive_failures: None, ..policy() };
        assert_eq!(off.cap(10), 0);
    }

    #[test]
    fn ejections_double_up_to_the_longest() {
        let fixture = Fixture::of(2);
        let mut now = 100;
        assert_eq!(fixture.fail(0, now), Ejection::Now { until: 1_100 });
        for want in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            now = fixture.standings[0].get().when;
            assert!(!fixture.probe(0, now - 1), "not before it is due");
            assert!(fixture.probe(0, now));
            assert_eq!(fixture.probe_fails(0, now), Some(now + want));
        }
        assert_eq!(fixture.ejections.total(), 8);
    }

    #[test]
    fn clean_time_makes_the_next_ejection_shorter() {
        // Three ejections in a row: 1 s, 2 s, 4 s. Back at 10 s.
        for (clean_s, want) in [(0, 8_000), (9, 8_000), (10, 4_000), (20, 2_000), (30, 1_000), (1_000, 1_000)] {
            let fixture = Fixture::of(2);
            fixture.fail(0, 0);
            for now in [1_000, 3_000] {
                assert!(fixture.probe(0, now));
                fixture.probe_fails(0, now);
            }
            assert!(fixture.probe(0, 10_000) && fixture.probe_succeeds(0, 10_000));
            let now = 10_000 + clean_s * 1_000;
            assert_eq!(fixture.fail(0, now), Ejection::Now { until: now + want }, "{clean_s} s clean");
        }
    }

    #[test]
    fn one_probe_at_a_time_and_its_end_makes_room_for_the_next() {
        let fixture = Fixture::of(2);
        fixture.fail(0, 0);
        assert!(fixture.ejections.probe_due(1_000) && !fixture.ejections.probe_due(999));
        assert!(fixture.probe(0, 1_000));
        assert!(!fixture.probe(0, 1_000));
        assert!(!fixture.ejections.probe_due(1_000_000), "nothing is due while it is being probed");
        fixture.ejections.lock().probe_ended(&fixture.standings[0], fixture.standings.iter());
        assert!(fixture.ejections.probe_due(1_000));
        assert!(fixture.probe(0, 1_000));
        assert_eq!(fixture.ejections.ejected(), 1);
        assert!(fixture.probe_succeeds(0, 1_010));
        assert_eq!(fixture.ejections.ejected(), 0);
        assert!(!fixture.probe_succeeds(0, 1_010), "a probe decides once");
    }

    #[test]
    fn a_success_between_starts_the_count_anew() {
        let fixture = Fixture::of(2);
        let standing = &fixture.standings[0];
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(standing.on_failure(0, policy().consecutive_failures, 1), OnFailure::Counted);
            }
            standing.on_success();
        }
        assert_eq!(standing.failures(), 0);
    }

    #[test]
    fn a_success_that_comes_between_the_last_failure_and_the_lock_wins() {
        let fixture = Fixture::of(2);
        let standing = &fixture.standings[0];
        for _ in 0..5 {
            let _ = standing.on_failure(0, policy().consecutive_failures, 1);
        }
        standing.on_success();
        let done = fixture.ejections.lock().eject(standing, fixture.standings.iter(), &policy(), 0);
        assert_eq!((done, fixture.ejections.ejected()), (Ejection::Already, 0));
    }

    #[test]
    fn the_one_too_many_stays_and_goes_when_there_is_room() {
        let fixture = Fixture::of(3);
        assert!(matches!(fixture.fail(0, 0), Ejection::Now { .. }));
        assert_eq!(fixture.fail(1, 0), Ejection::TooMany);
        assert!(fixture.probe(0, 1_000) && fixture.probe_succeeds(0, 1_000));
        assert_eq!(fixture.standings[1].on_failure(1_000, policy().consecutive_failures, 1), OnFailure::Due);
        let done = fixture.ejections.lock().eject(&fixture.standings[1], fixture.standings.iter(), &policy(), 1_000);
        assert_eq!(done, Ejection::Now { until: 2_000 });
    }

    #[test]
    fn only_ready_members_are_counted() {
        let fixture = Fixture::of(4);
        fixture.fail(0, 0);
        fixture.fail(1, 0);
        assert_eq!(fixture.ejections.ejected(), 2);
        // The first one starts draining.
        fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings[1..].iter(), &policy());
        assert_eq!(fixture.ejections.ejected(), 1);
        assert_eq!(fixture.standings[0].on_failure(0, policy().consecutive_failures, 1), OnFailure::Ignored);
        // Its probe, had there been one, does not count it out a second time.
        assert!(!fixture.probe(0, 5_000));
        fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings.iter(), &policy());
        assert_eq!(fixture.ejections.ejected(), 2);
    }

    #[test]
    fn switching_detection_off_brings_everyone_back() {
        let fixture = Fixture::of(2);
        fixture.fail(0, 0);
        let off = OutlierPolicy { consecutive_failures: None, ..policy() };
        fixture.ejections.lock().replace(fixture.standings.iter(), fixture.standings.iter(), &off);
        assert!(fixture.standings[0].in_use() && fixture.ejections.ejected() == 0);
        assert!(!fixture.ejections.probe_due(u64::MAX - 1));
        assert_eq!(fixture.standings[0].on_failure(0, None, 1), OnFailure::Ignored);
    }

    #[test]
    fn a_failing_endpoint_is_rechecked_once_per_interval() {
        let fixture = Fixture::of(2);
        let standing = &fixture.standings[0];
        assert!(!standing.take_recheck(1_000), "it has not failed");
        let _ = standing.on_failure(1_000, policy().consecutive_failures, 1);
        let taken: Vec<u64> = (1_000..1_200).step_by(10).filter(|now| standing.take_recheck(*now)).collect();
        assert_eq!(taken, [1_050, 1_100, 1_150]);
        standing.on_success();
        assert!(!standing.take_recheck(2_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_word_keeps_what_is_put_in(phase in 0u8..3, level in 0u8..=LEVEL_MAX, failures: u16, when in 0..=WHEN_MAX) {
            let phase = [Phase::InUse, Phase::Ejected, Phase::Probing][usize::from(phase)];
            let word = Word { phase, level, failures, when };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }

        #[test]
        fn no_policy_makes_an_ejection_that_cannot_be_told(base: u64, max: u64, level in 0u8..=LEVEL_MAX) {
            let policy = OutlierPolicy { base: Duration::from_millis(base), max: Duration::from_millis(max), ..policy() };
            prop_assert!(length_ms(&policy, level) <= WHEN_MAX / 2);
        }
    }
}
