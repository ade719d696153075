//! The whole: a set behind one pointer, and what a pick and its result do to it.
//!
//! A pick, in order (SEMANTICS.md §3):
//! 1. nothing ready → the draining ones, drawn the same way and outside outlier detection; none → [`NoEndpoint`];
//! 2. the endpoint that the client's session is at, if it is in the running and not to be avoided;
//! 3. an ejected endpoint is due, and this is a first try → this request is its probe. With affinity only a request of
//!    a client that belongs there;
//! 4. more than half of the ready ones ejected → panic: all ready ones are in the running again;
//! 5. among those in the running and not to be avoided: affinity's choice, or the draw;
//!    one that is being connected to for the first time only if there is no other ([`Balancer::hold_back`]);
//! 6. only endpoints to be avoided are left → among those;
//! 7. even the one chosen has failed so often that only the cap keeps it in use → panic as well: an ejected one is no
//!    worse, and may have recovered. (Of two endpoints, the one that was out comes back just as the other one fails:
//!    without this, nobody would ask the first until its time is over.)
//!
//! In the draw, a first try prefers two kinds of candidates, whatever they cost:
//! - one that has begun to fail and was not tried for 50 ms, as long as it could still be ejected: see `outlier.rs`;
//! - once in 200 picks at most: an endpoint that looked slow and was asked nothing for 250 ms. It may be as fast as ever,
//!   or dead, and nobody would know. Should it still be slow, that costs one request in 200.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rand::Rng;

use super::endpoint::{Endpoint, EndpointSpec, EndpointView, HeldBack, State};
use super::outlier::{Ejection, Ejections, OnFailure};
use super::policy::{BalancePolicy, PickRequest, TryResult};
use super::set::{Pool, Set};

/// A backend's endpoints and who gets the next request. Shared by all workers.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Replaced under the lock of `ejections`.
    set: ArcSwap<Set>,
    ejections: Ejections,
    panics: AtomicU64,
    turns: Turns,
    /// The moment that the atomics count from: the first update, since without one there is nothing to count.
    epoch: OnceLock<Instant>,
}

/// No endpoint can be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoEndpoint {
    /// Why not.
    pub reason: NoEndpointReason,
}

/// Why no endpoint can be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpointReason {
    /// There is none at all.
    #[error("the backend has no endpoints: does its selector match any pod?")]
    Empty,
    /// There are some, and none is ready or draining.
    #[error("none of the backend's endpoints is ready: do its pods pass their readiness probes?")]
    AllNotReady,
    /// There are some, and none on this node.
    #[error("the backend has no endpoint on this node, and its internalTrafficPolicy is Local")]
    NoneOnNode,
}

/// The turns of neglected endpoints: every pick is a 200th of one, and one is kept.
///
/// Apart from what is only read: every worker writes here at every pick.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turns {
    picks: AtomicU32,
    /// `picks` at the last turn.
    last: AtomicU32,
}

impl Turns {
    /// Picks for one turn.
    const PRICE: u32 = 200;

    fn on_pick(&self) {
        self.picks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it is a neglected endpoint's turn: true for one caller.
    fn take(&self) -> bool {
        let (picks, last) = (self.picks.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        picks.wrapping_sub(last) >= Self::PRICE
            && self.last.compare_exchange(last, picks, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// What recording a result led to. Ejections and returns are worth a line in the log.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It counted, and nothing else changed.
    Counted,
    /// It says nothing of the endpoint, or came from a request picked before an ejection, or was already recorded.
    Ignored,
    /// The endpoint is ejected (again, if this was a probe) until then.
    Ejected {
        /// When a probe is due.
        until: Instant,
    },
    /// The endpoint has failed often enough, and as many are ejected already as the cap allows.
    Kept,
    /// The probe succeeded: the endpoint is back in use.
    Returned,
}

impl Balancer {
    /// Without endpoints.
    pub fn new(policy: BalancePolicy) -> Self {
        let set = Set::new(Arc::default(), policy);
        Self {
            shared: Arc::new(Shared {
                set: ArcSwap::from_pointee(set),
                ejections: Ejections::default(),
                panics: AtomicU64::new(0),
                turns: Turns::default(),
                epoch: OnceLock::new(),
            }),
        }
    }

    /// Changes the policy. Endpoints keep their state, but when detection is switched off the ejected ones are back.
    pub fn set_policy(&self, policy: BalancePolicy) {
        self.shared.replace(|old| (old.policy != policy).then(|| Set::new(Arc::clone(&old.all), policy)));
    }

    /// Changes the endpoints. Those whose key was there before keep their state; of specs with equal keys the first
    /// counts.
    pub fn update(&self, specs: Vec<EndpointSpec>, now: Instant) {
        self.shared.epoch.get_or_init(|| now);
        self.shared.replace(|old| {
            let before: std::collections::HashMap<_, _> = old.all.iter().map(|e| (e.key(), e)).collect();
            let mut seen = std::collections::HashSet::with_capacity(specs.len());
            let all: Arc<[Arc<Endpoint>]> = specs
                .iter()
                .filter(|spec| seen.insert(&spec.key))
                .map(|spec| match before.get(&spec.key) {
                    Some(endpoint) if endpoint.spec == *spec => Arc::clone(endpoint),
                    Some(endpoint) => Arc::new(Endpoint { spec: spec.clone(), state: Arc::clone(&endpoint.state) }),
                    None => Arc::new(Endpoint { spec: spec.clone(), state: Arc::new(State::default()) }),
                })
                .collect();
            Some(Set::new(all, old.policy.clone()))
        });
    }

    /// Chooses an endpoint for one try. The [`Pick`] counts as in flight until it is dropped.
    ///
    /// # Errors
    /// When no endpoint is ready or draining. Ejection never leads here.
    pub fn pick<R: Rng + ?Sized>(
        &self,
        now: Instant,
        rng: &mut R,
        request: PickRequest<'_>,
    ) -> Result<Pick, NoEndpoint> {
        let set = self.shared.set.load();
        let ms = self.shared.ms(now);
        if set.ready.is_empty() {
            return match self.choose(&set, &set.draining, rng, ms, request, |_| true, |_| false) {
                Some(endpoint) => Ok(self.picked(endpoint, false, ms)),
                None => Err(none_of(&set)),
            };
        }
        if let Some(address) = request.session {
            let stays = |endpoint: &&Arc<Endpoint>| {
                endpoint.addr() == address
                    && endpoint.state.standing.in_use()
                    && !request.avoid.contains(endpoint.key())
            };
            if let Some(endpoint) = set.ready.iter().find(stays) {
                return Ok(self.picked(endpoint, false, ms));
            }
        }
        let first_try = request.avoid.is_empty();
        if first_try
            && self.shared.ejections.probe_due(ms)
            && let Some(endpoint) = self.begin_probe(&set, ms, request)
        {
            return Ok(self.picked(&endpoint, true, ms));
        }
        self.shared.turns.on_pick();
        let ejected = self.shared.ejections.ejected();
        let outlier = &set.policy.outlier;
        let recheck = first_try && ejected < outlier.cap(set.ready.len());
        let in_use = |endpoint: &Endpoint| endpoint.state.standing.in_use();
        let first = |endpoint: &Endpoint| {
            let State { latency, standing, .. } = &*endpoint.state;
            (recheck && standing.take_recheck(ms))
                || (first_try && standing.failures() == 0 && latency.is_neglected(ms) && self.shared.turns.take())
        };
        let hopeless = |endpoint: &Endpoint| endpoint.state.standing.is_kept(outlier.consecutive_failures);
        let chosen = if is_panic(ejected, &set) {
            None
        } else {
            let chosen = self.choose(&set, &set.ready, rng, ms, request, in_use, first);
            chosen.filter(|endpoint| ejected == 0 || !hopeless(endpoint))
        };
        chosen
            .or_else(|| {
                self.shared.panics.fetch_add(1, Ordering::Relaxed);
                self.choose(&set, &set.ready, rng, ms, request, |_| true, |_| false)
            })
            .map(|endpoint| self.picked(endpoint, false, ms))
            .ok_or(NoEndpoint { reason: NoEndpointReason::AllNotReady })
    }

    /// Holds a new endpoint back, which is being connected to: until the returned value is dropped, at most for `at_most`, it
    /// is picked only where there is no other. So a pod that has just started, and is slow to shake hands since others start
    /// beside it, costs no request. Once in an endpoint's life: later it changes nothing.
    pub fn hold_back(&self, endpoint: &Endpoint, now: Instant, at_most: Duration) -> HeldBack {
        endpoint.state.hold(self.shared.ms(now + at_most));
        HeldBack(Arc::clone(&endpoint.state))
    }

    /// Every endpoint of the set, in the order given, whatever its health.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.shared.set.load().all)
    }

    /// Why no request can be given to any; `None` if one can.
    pub fn why_none(&self) -> Option<NoEndpoint> {
        let set = self.shared.set.load();
        (set.ready.is_empty() && set.draining.is_empty()).then(|| none_of(&set))
    }

    /// Endpoints that take requests (ejected ones included).
    pub fn ready(&self) -> usize {
        self.shared.set.load().ready.len()
    }

    /// Endpoints ejected now, those being probed included.
    pub fn ejected(&self) -> usize {
        self.shared.ejections.ejected()
    }

    /// Ejections since the start; one that a failed probe prolonged counts again.
    pub fn ejections_total(&self) -> u64 {
        self.shared.ejections.total()
    }

    /// Picks made under panic since the start.
    pub fn panics_total(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// What `/config` and the metrics show.
    pub fn snapshot(&self, now: Instant) -> BalancerView {
        let set = self.shared.set.load();
        let ms = self.shared.ms(now);
        let pool = if set.ready.is_empty() { &set.draining } else { &set.ready };
        let pooled: std::collections::HashSet<*const Endpoint> = pool.iter().map(Arc::as_ptr).collect();
        let panics = is_panic(self.ejected(), &set);
        let view = |endpoint: &Arc<Endpoint>| {
            let state = &endpoint.state;
            let usable = set.ready.is_empty() || panics || state.standing.in_use();
            EndpointView {
                addr: endpoint.addr(),
                identity: endpoint.mesh().map(|(_, identity)| identity.to_string()),
                pod: endpoint.pod().to_owned(),
                health: endpoint.health(),
                weight: endpoint.weight(),
                in_flight: state.in_flight(),
                ewma_ms: state.latency.average_us(ms).map(|us| f64::from(us) / 1e3),
                consecutive_failures: state.standing.failures(),
                ejected_ms: state.standing.ejected_for(ms),
                candidate: usable && pooled.contains(&Arc::as_ptr(endpoint)),
            }
        };
        BalancerView {
            endpoints: set.all.iter().map(view).collect(),
            ready: set.ready.len(),
            ejected: self.ejected(),
            ejections_total: self.ejections_total(),
            panics_total: self.panics_total(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call's state, split only so that two pools share the steps")]
    fn choose<'s, R: Rng + ?Sized>(
        &self,
        set: &Set,
        pool: &'s Pool,
        rng: &mut R,
        ms: u64,
        request: PickRequest<'_>,
        running: impl Fn(&Endpoint) -> bool,
        first: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'s Arc<Endpoint>> {
        let client = request.client.filter(|_| set.policy.client_ip_affinity.is_some());
        let mut among = |usable: &dyn Fn(&Endpoint) -> bool| match client {
            Some(client) => pool.ranked_first(client, usable),
            None => pool.draw(rng, ms, usable, &first),
        };
        let fresh = |endpoint: &Endpoint| !request.avoid.contains(endpoint.key()) && running(endpoint);
        among(&|endpoint| fresh(endpoint) && !endpoint.state.is_held(ms))
            .or_else(|| among(&fresh))
            .or_else(|| if request.avoid.is_empty() { None } else { among(&running) })
    }

    /// Makes this request the probe of an endpoint that is due, unless another worker takes it first.
    fn begin_probe(&self, set: &Set, ms: u64, request: PickRequest<'_>) -> Option<Arc<Endpoint>> {
        let due = |endpoint: &Endpoint| endpoint.state.standing.is_due(ms);
        let endpoint = match request.client.filter(|_| set.policy.client_ip_affinity.is_some()) {
            Some(client) => set.ready.ranked_first(client, |_| true).filter(|endpoint| due(endpoint)),
            None => set.ready.iter().find(|endpoint| due(endpoint)),
        }?;
        let locked = self.shared.ejections.lock();
        let current = self.shared.set.load();
        locked.begin_probe(&endpoint.state.standing, current.ready.standings(), ms).then(|| Arc::clone(endpoint))
    }

    fn picked(&self, endpoint: &Arc<Endpoint>, probe: bool, ms: u64) -> Pick {
        endpoint.state.begin();
        endpoint.state.latency.on_begin(ms);
        Pick {
            shared: Arc::clone(&self.shared),
            endpoint: Arc::clone(endpoint),
            probe,
            recorded: AtomicBool::new(false),
        }
    }
}

/// Whether so many are ejected that all are used again.
fn is_panic(ejected: usize, set: &Set) -> bool {
    ejected * 2 > set.ready.len()
}

/// Why none of a set can be picked.
fn none_of(set: &Set) -> NoEndpoint {
    let reason = match (set.all.is_empty(), set.on_node) {
        (true, _) => NoEndpointReason::Empty,
        (false, false) => NoEndpointReason::NoneOnNode,
        (false, true) => NoEndpointReason::AllNotReady,
    };
    NoEndpoint { reason }
}

impl Shared {
    fn ms(&self, now: Instant) -> u64 {
        let since = self.epoch.get().map_or(Duration::ZERO, |epoch| now.saturating_duration_since(*epoch));
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn replace(&self, make: impl FnOnce(&Set) -> Option<Set>) {
        let locked = self.ejections.lock();
        let old = self.set.load_full();
        let Some(new) = make(&old) else { return };
        let left = old.all.iter().map(|endpoint| &endpoint.state.standing);
        locked.replace(left, new.ready.standings(), &new.policy.outlier);
        self.set.store(Arc::new(new));
    }

    fn failed(&self, endpoint: &Endpoint, now: Instant, times: u16) -> Finished {
        let ms = self.ms(now);
        let set = self.set.load();
        let policy = &set.policy.outlier;
        match endpoint.state.standing.on_failure(ms, policy.consecutive_failures, times) {
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
        match locked.eject(&endpoint.state.standing, set.ready.standings(), &set.policy.outlier, ms) {
            Ejection::Now { until } => Finished::Ejected { until: now + Duration::from_millis(until - ms) },
            Ejection::Already => Finished::Counted,
            Ejection::TooMany => Finished::Kept,
        }
    }
}

/// One try's endpoint. In flight until dropped; its result is recorded once, usually at the response head. Dropped
/// without a result it says nothing of the endpoint ([`TryResult::Neutral`]), and a probe's slot is free again.
#[derive(Debug)]
#[must_use = "dropping it ends the try"]
pub struct Pick {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    probe: bool,
    recorded: AtomicBool,
}

impl Pick {
    /// Whom to call.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether this request decides on the return of an ejected endpoint.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// How the try went, `latency` after its start. Only the first call counts.
    pub fn record(&self, now: Instant, latency: Duration, result: TryResult) -> Finished {
        if self.recorded.swap(true, Ordering::Relaxed) {
            return Finished::Ignored;
        }
        let ms = self.shared.ms(now);
        let State { latency: believed, standing, .. } = &*self.endpoint.state;
        believed.on_result(ms);
        match result {
            TryResult::Neutral => {
                self.end_probe();
                return Finished::Ignored;
            }
            TryResult::Success => believed.on_success(ms, latency),
            TryResult::Failure | TryResult::Silent => believed.on_failure(ms),
        }
        if !self.probe {
            return match result {
                TryResult::Failure => self.shared.failed(&self.endpoint, now, 1),
                TryResult::Silent => self.shared.failed(&self.endpoint, now, u16::MAX),
                TryResult::Success | TryResult::Neutral => {
                    standing.on_success();
                    Finished::Counted
                }
            };
        }
        let locked = self.shared.ejections.lock();
        let set = self.shared.set.load();
        if result == TryResult::Success {
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
    pub fn finish(self, now: Instant, latency: Duration, result: TryResult) -> Finished {
        self.record(now, latency, result)
    }

    fn end_probe(&self) {
        if self.probe {
            let locked = self.shared.ejections.lock();
            let set = self.shared.set.load();
            locked.probe_ended(&self.endpoint.state.standing, set.ready.standings());
        }
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

/// A balancer as `/config` and the metrics show it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BalancerView {
    /// In the order configured.
    pub endpoints: Vec<EndpointView>,
    /// How many take requests, ejected ones included.
    pub ready: usize,
    /// How many of them are ejected.
    pub ejected: usize,
    /// Since the start.
    pub ejections_total: u64,
    /// Picks made under panic since the start.
    pub panics_total: u64,
}
