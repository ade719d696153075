//! What is due in Envoy's way (`outlier.rs`): endpoints whose time is over are back, and once per interval those that fail
//! more often than they may go (`outlier/rates.rs`).
//!
//! Every 5xx is a failure here, as in Envoy. Where failures to get an answer are told apart (`splitExternalLocalOriginErrors`),
//! there are two rates of each endpoint: of its answers, how many were no 5xx; of tries, how many were answered, or a connection
//! made. Each is looked at for itself, by the same numbers, but that each has its own probability of ejecting.
//!
//! Envoy's order: first by success rate, then by failure percentage, of answers and then of tries. Of several that deserve it, those
//! that come first in the list go, up to the cap. Endpoints that are ejected have no part in what the others are measured by,
//! and begin the next interval with nothing.
//! Bound: four words per ready endpoint while it runs; under the lock of `ejections`, once per interval.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rand::Rng;

use super::endpoint::{Endpoint, State};
use super::outlier::rates::{Counter, FailurePercentage, Rate, SuccessRate};
use super::outlier::{Locked, Sweep};
use super::policy::{OutlierPolicy, TryResult};
use super::set::Pool;

/// How results are counted, for every result to ask without looking for the policy.
#[derive(Debug)]
pub(super) struct Rated(AtomicU8);

const NOT: u8 = 0;
const TOGETHER: u8 = 1;
const SPLIT: u8 = 2;

impl Rated {
    fn as_asked(policy: &OutlierPolicy) -> u8 {
        match &policy.envoy {
            Some(envoy) if policy.counts_rates() => {
                if envoy.splits() {
                    SPLIT
                } else {
                    TOGETHER
                }
            }
            _ => NOT,
        }
    }

    pub(super) fn of(policy: &OutlierPolicy) -> Self {
        Self(AtomicU8::new(Self::as_asked(policy)))
    }

    pub(super) fn set(&self, policy: &OutlierPolicy) {
        // Relaxed: a result more or less in the first interval.
        self.0.store(Self::as_asked(policy), Ordering::Relaxed);
    }

    /// Counts a result that says something.
    #[inline]
    pub(super) fn count(&self, state: &State, result: TryResult) {
        match self.0.load(Ordering::Relaxed) {
            NOT => {}
            SPLIT => count_split(state, result),
            _ => state.rate.on_result(matches!(result, TryResult::Success | TryResult::Connected)),
        }
    }
}

fn count_split(state: &State, result: TryResult) {
    let (answer, reached) = match result {
        TryResult::Neutral => return,
        TryResult::Success => (Some(true), true),
        TryResult::AppError { .. } | TryResult::GatewayError => (Some(false), true),
        TryResult::Connected => (None, true),
        TryResult::Failure | TryResult::Silent => (None, false),
    };
    if let Some(success) = answer {
        state.rate.on_result(success);
    }
    state.local_rate.on_result(reached);
}

/// Does what is due at `ms`.
#[cold]
pub(super) fn sweep<R: Rng + ?Sized>(locked: &Locked<'_>, ready: &Pool, policy: &OutlierPolicy, ms: u64, rng: &mut R) {
    let Some(envoy) = &policy.envoy else { return };
    locked.give_back(ready.standings(), ms);
    let Some(sweep) = locked.begin_sweep(ready.standings(), policy, ms) else { return };
    // Taken also where they are not looked at: they are of this interval.
    let rates = |of: fn(&State) -> &Counter| -> Vec<Rate> {
        let rate = |endpoint: &Arc<Endpoint>| {
            let rate = of(&endpoint.state).take();
            if endpoint.state.standing.in_use() { rate } else { Rate::default() }
        };
        ready.iter().map(rate).collect()
    };
    let (answers, tries) = (rates(|state| &state.rate), rates(|state| &state.local_rate));
    if sweep == Sweep::First {
        return;
    }
    let (by_success, by_failure) = (envoy.success_rate.as_ref(), envoy.failure_percentage.as_ref());
    let enforcing = (by_success.map_or(0, |by| by.enforcing_percent), by_failure.map_or(0, |by| by.enforcing_percent));
    let local = envoy.local.as_ref().map(|local| (local.enforcing_success_rate, local.enforcing_failure_percentage));
    let looks = [(&answers, Some(enforcing)), (&tries, local)];
    for (rates, (if_success, if_failure)) in looks.into_iter().filter_map(|(rates, by)| Some((rates, by?))) {
        let by_success = by_success.map(|by: &SuccessRate| (by.outliers(rates), if_success));
        let by_failure = by_failure.map(|by: &FailurePercentage| (by.outliers(rates), if_failure));
        for (outliers, enforcing) in by_success.into_iter().chain(by_failure) {
            for index in outliers {
                if rng.random_range(0..100) < enforcing {
                    // What the cap forbids, or another finding has done, is left as it is.
                    let standing = &ready.endpoints()[index].state.standing;
                    let _ = locked.eject_by_rate(standing, ready.standings(), policy, ms);
                }
            }
        }
    }
}
