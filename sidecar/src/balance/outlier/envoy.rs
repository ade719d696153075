//! What only Envoy's way has: ejection by rate, the way back without a probe, and when rates are looked at.

use std::sync::atomic::Ordering;

use super::word::{Phase, Word};
use super::{Ejection, Locked, Standing};
use crate::balance::policy::OutlierPolicy;

impl Locked<'_> {
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
                self.ejections.ejected.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.schedule(ready);
    }

    /// Whether rates are to be looked at: true for one caller, who then does.
    pub(in crate::balance) fn begin_sweep<'s>(
        &self,
        ready: impl Iterator<Item = &'s Standing>,
        policy: &OutlierPolicy,
        now: u64,
    ) -> bool {
        if self.ejections.next_sweep_at.load(Ordering::Relaxed) > now {
            return false;
        }
        self.ejections.next_sweep_at.store(now.saturating_add(policy.interval_ms()), Ordering::Relaxed);
        self.schedule(ready);
        true
    }
}
