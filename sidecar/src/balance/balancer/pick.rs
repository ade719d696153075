//! One try: its endpoint is in flight until it ends, and its result changes where the endpoint stands.
//!
//! A result takes no lock unless it ejects an endpoint or is a probe's. Bound: what is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Balancer, Finished, Shared};
use crate::balance::endpoint::{Endpoint, State};
use crate::balance::outlier::{Ejection, OnFailure};
use crate::balance::policy::TryResult;

/// One try's endpoint. In flight until dropped; its result is recorded once ([`Balancer::record`]), usually at the response
/// head. Dropped without a result it says nothing of the endpoint ([`TryResult::Neutral`]), and a probe's slot is free again.
#[derive(Debug)]
#[must_use = "dropping it ends the try"]
pub struct Pick {
    pub(super) endpoint: Arc<Endpoint>,
    /// Of a probe: whose slot it has. The others, which are nearly all, refer to nobody.
    pub(super) probe: Option<Arc<Shared>>,
    pub(super) recorded: AtomicBool,
}

impl Pick {
    /// Whom to call.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether this request decides on the return of an ejected endpoint.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    fn end_probe(&self) {
        if let Some(shared) = &self.probe {
            let locked = shared.ejections.lock();
            let set = shared.set.load();
            locked.probe_ended(&self.endpoint.state.standing, set.ready.standings());
        }
    }
}

impl Balancer {
    /// How a try went that was picked here, `latency` after its start. Only the first call counts.
    pub fn record(&self, pick: &Pick, now: Instant, latency: Duration, result: TryResult) -> Finished {
        // Not a swap: whoever has the pick is alone with it.
        if pick.recorded.load(Ordering::Relaxed) {
            return Finished::Ignored;
        }
        pick.recorded.store(true, Ordering::Relaxed);
        let ms = self.shared.ms(now);
        let State { latency: believed, standing, .. } = &*pick.endpoint.state;
        believed.on_result(ms);
        match result {
            TryResult::Neutral => {
                pick.end_probe();
                return Finished::Ignored;
            }
            _ if result.failures() == 0 => believed.on_success(ms, latency),
            _ => believed.on_failure(ms),
        }
        self.shared.rated.count(&pick.endpoint.state, result);
        if !pick.is_probe() {
            if result != TryResult::Success {
                return self.shared.unsuccessful(&pick.endpoint, now, result);
            }
            standing.on_success();
            return Finished::Counted;
        }
        let locked = self.shared.ejections.lock();
        let set = self.shared.set.load();
        if result.failures() == 0 {
            believed.forgive();
            if locked.probe_succeeded(standing, ms) { Finished::Returned } else { Finished::Ignored }
        } else {
            match locked.probe_failed(standing, set.ready.standings(), &set.policy.outlier, ms) {
                Some(until) => Finished::Ejected { until: now + Duration::from_millis(until - ms) },
                None => Finished::Ignored,
            }
        }
    }

    /// [`record`](Self::record), and the end of the try.
    pub fn finish(&self, pick: Pick, now: Instant, latency: Duration, result: TryResult) -> Finished {
        self.record(&pick, now, latency, result)
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint.state.end();
        if !*self.recorded.get_mut() {
            self.endpoint.state.latency.on_abandoned();
            self.end_probe();
        }
    }
}

impl Shared {
    /// What may be a failure, by the policy.
    fn unsuccessful(&self, endpoint: &Endpoint, now: Instant, result: TryResult) -> Finished {
        let ms = self.ms(now);
        let set = self.set.load();
        let policy = &set.policy.outlier;
        let standing = &endpoint.state.standing;
        let on_failure = match (&policy.envoy, result.failures()) {
            (Some(envoy), _) => standing.on_result(ms, envoy, result),
            (None, 0) => {
                standing.on_success();
                return Finished::Counted;
            }
            (None, times) => standing.on_failure(ms, policy.consecutive_failures, times),
        };
        match on_failure {
            OnFailure::Counted => return Finished::Counted,
            OnFailure::Ignored => return Finished::Ignored,
            OnFailure::Due => {}
        }
        // With the whole backend failing, every failure comes here: do not queue for the lock in vain.
        if self.ejections.ejected() >= policy.cap(set.ready.len()) {
            return Finished::Kept;
        }
        let locked = self.ejections.lock();
        let set = self.set.load();
        let (ready, policy) = (set.ready.standings(), &set.policy.outlier);
        let ejection = match &policy.envoy {
            None => locked.eject(standing, ready, policy, ms),
            Some(envoy) => locked.eject_in_a_row(standing, ready, policy, envoy, ms, endpoint.id()),
        };
        match ejection {
            Ejection::Now { until } => Finished::Ejected { until: now + Duration::from_millis(until - ms) },
            Ejection::Already => Finished::Counted,
            Ejection::TooMany => Finished::Kept,
        }
    }
}
