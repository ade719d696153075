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
//! # Envoy's way
//!
//! With [`OutlierPolicy::envoy`] set, times grow as Envoy's do (`outlier/time.rs`), and there are no probes: when its time is
//! over, an endpoint is simply back (the edge from `Ejected` to `InUse` that the picture has not). Once per interval
//! endpoints are also ejected by rate (`outlier/rates.rs`). Both (`outlier/envoy.rs`) fall to the next pick after they are due: without
//! requests there is nothing to decide. The moment of the next sweep is kept among those of the probes, so that a pick looks
//! at one number.
//!
//! Failures in a row are of several kinds there (`outlier/kinds.rs`), counted in a word of their own. `failures` is then the longest
//! of the rows: what a success looks at, which ends them all. It may be behind that word by a result of another worker, so
//! whether to eject is decided by that word, under the lock.
//!
//! Not here: what counts as a failure (`outbound/`), the penalty in latency (`latency.rs`).
//! Bound: four words per endpoint.

mod envoy;
pub(super) mod kinds;
pub(super) mod rates;
mod time;
mod word;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

pub(super) use self::envoy::Sweep;
use self::time::length_ms;
use self::word::{LEVEL_MAX, Phase, Word};
use super::hash::{mix, unit};
use super::policy::OutlierPolicy;

/// An endpoint that has begun to fail is offered a request this often until it is ejected or succeeds. Without it the
/// first failure's charge (1 s) would keep requests away and the verdict would never come.
const RECHECK_MS: u64 = 50;

const NEVER: u64 = u64::MAX;
/// When the first sweep is due. Later ones are after an interval, which is 1 ms or more.
const AT_ONCE: u64 = 0;

/// One endpoint's word, and two hints beside it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    word: AtomicU64,
    /// Envoy's way: its failures in a row, by kind.
    counts: AtomicU64,
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
    pub(super) fn is_kept(&self, policy: &OutlierPolicy) -> bool {
        let word = self.get();
        let enough = || match &policy.envoy {
            None => policy.consecutive_failures.is_some_and(|threshold| reached(word.failures, threshold)),
            Some(envoy) => self.deserves(envoy),
        };
        word.phase == Phase::InUse && word.failures > 0 && enough()
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
            self.forget_counts();
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
    /// The earliest `when` of a member that is `Ejected`, or the next sweep, or [`NEVER`]. Written under the lock, read by
    /// every pick.
    next_probe_at: AtomicU64,
    /// When rates are next looked at, or [`NEVER`]. Read and written under the lock.
    next_sweep_at: AtomicU64,
    /// Ejections since the start.
    total: AtomicU64,
    /// Findings of which chance decided whether they eject. Written under the lock.
    drawn: AtomicU64,
}

impl Default for Ejections {
    fn default() -> Self {
        Self {
            lock: Mutex::new(()),
            ejected: AtomicUsize::new(0),
            next_probe_at: AtomicU64::new(NEVER),
            next_sweep_at: AtomicU64::new(NEVER),
            total: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
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

    /// Whether some member is due for a probe (or, Envoy's way, to be back), or all are for a sweep.
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
            if policy.is_off() {
                standing.word.store(0, Ordering::Release);
                standing.forget_counts();
            } else if policy.envoy.is_none() && standing.forget_counts() {
                // Of kinds that are no failures in the mesh's own way.
                standing.on_success();
            }
        }
        // Switched on, the first sweep is due at once: it drops what was counted before, and sets the time of the next.
        let sweep_at = match self.ejections.next_sweep_at.load(Ordering::Relaxed) {
            _ if !policy.counts_rates() => NEVER,
            NEVER => AT_ONCE,
            at => at,
        };
        self.ejections.next_sweep_at.store(sweep_at, Ordering::Relaxed);
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
        self.eject_if(standing, ready, policy, now, |word| reached(word.failures, threshold))
    }

    fn eject_if<'s>(
        &self,
        standing: &Standing,
        ready: impl ExactSizeIterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
        deserved: impl Fn(&Word) -> bool,
    ) -> Ejection {
        if !standing.member.load(Ordering::Acquire) {
            return Ejection::Already;
        }
        if self.ejections.ejected() >= policy.cap(ready.len()) {
            return Ejection::TooMany;
        }
        let chance = self.chance(now);
        let out = |word: Word| {
            let level = word.level_at(now, policy.interval_ms()).saturating_add(1).min(LEVEL_MAX);
            Word { phase: Phase::Ejected, level, failures: 0, when: now + length_ms(policy, level, chance) }
        };
        let due = |word: &Word| word.phase == Phase::InUse && deserved(word);
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

    /// What jitter is multiplied by. From the moment and the number of ejections, which no two proxies share: an ejection
    /// follows a result, and there is no random source where results are recorded.
    fn chance(&self, now: u64) -> f64 {
        unit(mix(now ^ mix(self.ejections.total())))
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
        let chance = self.chance(now);
        let out = |word: Word| {
            let level = word.level.saturating_add(1).min(LEVEL_MAX);
            Word { phase: Phase::Ejected, level, failures: 0, when: now + length_ms(policy, level, chance) }
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
        let sweep_at = self.ejections.next_sweep_at.load(Ordering::Relaxed);
        self.ejections.next_probe_at.store(next.unwrap_or(NEVER).min(sweep_at), Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
