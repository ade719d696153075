//! What is due in Envoy's way (`outlier.rs`): endpoints whose time is over are back, and once per interval those that fail
//! more often than they may go (`outlier/rates.rs`).
//!
//! Envoy's order: first by success rate, then by failure percentage. Of several that deserve it, those that come first in
//! the list go, up to the cap. Endpoints that are ejected have no part in what the others are measured by, and begin the next
//! interval with nothing.
//! Bound: two words per ready endpoint while it runs; under the lock of `ejections`, once per interval.

use std::sync::Arc;

use rand::Rng;

use super::endpoint::Endpoint;
use super::outlier::Locked;
use super::outlier::rates::Rate;
use super::policy::OutlierPolicy;
use super::set::Pool;

/// Does what is due at `ms`.
#[cold]
pub(super) fn sweep<R: Rng + ?Sized>(locked: &Locked<'_>, ready: &Pool, policy: &OutlierPolicy, ms: u64, rng: &mut R) {
    let Some(envoy) = &policy.envoy else { return };
    locked.give_back(ready.standings(), ms);
    if !locked.begin_sweep(ready.standings(), policy, ms) {
        return;
    }
    let rate = |endpoint: &Arc<Endpoint>| {
        let rate = endpoint.state.rate.take();
        if endpoint.state.standing.in_use() { rate } else { Rate::default() }
    };
    let rates: Vec<Rate> = ready.iter().map(rate).collect();
    let by_success = envoy.success_rate.iter().map(|by| (by.outliers(&rates), by.enforcing_percent));
    let by_failure = envoy.failure_percentage.iter().map(|by| (by.outliers(&rates), by.enforcing_percent));
    for (outliers, enforcing) in by_success.chain(by_failure) {
        for index in outliers {
            if rng.random_range(0..100) < enforcing {
                // What the cap forbids, or the other finding has done, is left as it is.
                let _ = locked.eject_by_rate(&ready.endpoints()[index].state.standing, ready.standings(), policy, ms);
            }
        }
    }
}
