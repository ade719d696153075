//! What only Envoy's way has: failures in a row of several kinds, ejection by rate, the way back without a probe, and when rates
//! are looked at.

use std::sync::atomic::Ordering;

use super::kinds::{Counts, Failing};
use super::word::{Phase, Word};
use super::{AT_ONCE, Ejection, Locked, OnFailure, RECHECK_MS, Standing};
use crate::balance::hash::{mix, unit};
use crate::balance::policy::{EnvoyOutlier, OutlierPolicy, TryResult};

/// Of what the rates are that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::balance) enum Sweep {
    /// Of what was before rates were looked at.
    First,
    /// Of an interval.
    Usual,
}

impl Standing {
    fn counts(&self) -> Counts {
        Counts::unpack(self.counts.load(Ordering::Acquire))
    }

    fn change_counts(&self, change: impl Fn(Counts) -> Counts) -> Counts {
        let changed = |bits| Some(change(Counts::unpack(bits)).pack());
        match self.counts.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed) {
            Ok(before) | Err(before) => change(Counts::unpack(before)),
        }
    }

    /// All rows are over. Says whether there was any.
    pub(super) fn forget_counts(&self) -> bool {
        // Loaded first: in the mesh's own way it is never anything else.
        self.counts.load(Ordering::Acquire) != 0 && self.counts.swap(0, Ordering::AcqRel) != 0
    }

    /// Whether it has failed often enough in a row for something that may eject.
    pub(super) fn deserves(&self, envoy: &EnvoyOutlier) -> bool {
        envoy.reached(self.counts()).any(|(_, enforcing)| enforcing > 0)
    }

    fn show(&self, counts: Counts) {
        let failures = counts.most();
        self.change(|word| {
            (word.phase == Phase::InUse && word.failures != failures).then_some(Word { failures, ..word })
        });
    }

    /// Envoy's way: a try went so.
    pub(in crate::balance) fn on_result(&self, now: u64, envoy: &EnvoyOutlier, result: TryResult) -> OnFailure {
        if !envoy.counts_in_a_row() || !self.member.load(Ordering::Acquire) || !self.in_use() {
            return OnFailure::Ignored;
        }
        if !matches!(result, TryResult::Success | TryResult::Connected) {
            self.recheck_at.store(now + RECHECK_MS, Ordering::Relaxed);
        }
        let counts = self.change_counts(|counts| counts.after(result, envoy.splits()));
        self.show(counts);
        if envoy.reached(counts).next().is_some() { OnFailure::Due } else { OnFailure::Counted }
    }
}

impl Locked<'_> {
    /// Ejects `standing`, one of `ready`, if it still has failed often enough in a row, the cap allows and chance has it. A row
    /// that chance lets pass begins anew. `seed` is another for each endpoint.
    pub(in crate::balance) fn eject_in_a_row<'s>(
        &self,
        standing: &Standing,
        ready: impl ExactSizeIterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        envoy: &EnvoyOutlier,
        now: u64,
        seed: u64,
    ) -> Ejection {
        if !standing.member.load(Ordering::Acquire) {
            return Ejection::Already;
        }
        if self.ejections.ejected() >= policy.cap(ready.len()) {
            return Ejection::TooMany;
        }
        let reached: [Option<(Failing, u32)>; 3] = {
            let mut reached = envoy.reached(standing.counts());
            [reached.next(), reached.next(), reached.next()]
        };
        for (failing, enforcing_percent) in reached.into_iter().flatten() {
            if self.draws(now, seed, enforcing_percent) {
                let done = self.eject_if(standing, ready, policy, now, |_| true);
                if matches!(done, Ejection::Now { .. }) {
                    standing.forget_counts();
                }
                return done;
            }
            standing.show(standing.change_counts(|counts| counts.without(failing)));
        }
        Ejection::Already
    }

    /// Whether this is one of the cases in which a finding ejects. By the moment and the number of such draws, as
    /// [`chance`](Locked::chance) is: there is no random source where results are recorded.
    fn draws(&self, now: u64, seed: u64, percent: u32) -> bool {
        let nth = self.ejections.drawn.fetch_add(1, Ordering::Relaxed);
        unit(mix(now ^ mix(nth ^ mix(seed)))) * 100.0 < f64::from(percent)
    }

    /// Ejects `standing`, one of `ready`, for its rate, if it is in use and the cap allows.
    pub(in crate::balance) fn eject_by_rate<'s>(
        &self,
        standing: &Standing,
        ready: impl ExactSizeIterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
    ) -> Ejection {
        self.eject_if(standing, ready, policy, now, |_| true)
    }

    /// Envoy's way back: those of `ready` whose time is over are in use again.
    pub(in crate::balance) fn give_back<'s>(&self, ready: impl Iterator<Item = &'s Standing> + Clone, now: u64) {
        let back = |word: Word| Word { phase: Phase::InUse, failures: 0, when: now, ..word };
        for standing in ready.clone() {
            // A probe that began under another policy too: its result will find nothing to return from.
            let over = |word: Word| match word.phase {
                Phase::InUse => false,
                Phase::Ejected => word.when <= now,
                Phase::Probing => true,
            };
            if standing.change(|word| over(word).then(|| back(word))).is_some() {
                standing.forget_counts();
                self.ejections.ejected.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.schedule(ready);
    }

    /// Whether rates are to be looked at: something for one caller, who then takes them, and whether they are of an interval or
    /// of what was before the first.
    pub(in crate::balance) fn begin_sweep<'s>(
        &self,
        ready: impl Iterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
    ) -> Option<Sweep> {
        let due = self.ejections.next_sweep_at.load(Ordering::Relaxed);
        if due > now {
            return None;
        }
        self.ejections.next_sweep_at.store(now.saturating_add(policy.interval_ms()), Ordering::Relaxed);
        self.schedule(ready);
        Some(if due == AT_ONCE { Sweep::First } else { Sweep::Usual })
    }
}
