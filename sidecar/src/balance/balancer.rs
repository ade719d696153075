//! The whole: a set behind one pointer, and what a pick and its result do to it.
//!
//! A pick, in order (SEMANTICS.md §3):
//! 1. nothing ready → the draining ones, drawn the same way and outside outlier detection; none → [`NoEndpoint`];
//! 2. the endpoint that the client's session is at, if it is in the running and not to be avoided;
//! 3. an ejected endpoint is due, and this is a first try → this request is its probe. With affinity only a request of
//!    a client that belongs there;
//! 4. more than half of the ready ones ejected (or what the policy says) → panic: all ready ones are in the running again;
//! 5. among those in the running and not to be avoided, of the level that this request is for, and there of what is near, if
//!    there are such (`tiers.rs`), or else of all: the choice of the policy's rule (`picker.rs`), usually the draw;
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

mod pick;
mod view;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng;

use super::endpoint::{Endpoint, EndpointSpec, Health, HeldBack, State};
use super::outlier::Ejections;
use super::picker::Picker;
use super::place::Place;
use super::policy::{BalancePolicy, PickRequest};
use super::room::{Claims, Cut, Room};
use super::set::{Pool, Set};
use super::sweep::{Rated, sweep};
use super::tiers::Tiers;
use super::turns::Turns;

pub use self::pick::Pick;
pub use self::view::BalancerView;

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
    /// How results are counted for the sweep. Written under the lock of `ejections`.
    rated: Rated,
    turns: Turns,
    /// For tables, shared with the proxy's other balancers.
    room: Arc<Room>,
    /// Where the proxy is. Read and written under the lock of `ejections`, when the set is replaced.
    place: Mutex<Arc<Place>>,
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
    /// Without endpoints, and with room of its own.
    pub fn new(policy: BalancePolicy) -> Self {
        Self::sharing(policy, Arc::default())
    }

    /// Without endpoints; its tables have their room with those of others.
    pub fn sharing(policy: BalancePolicy, room: Arc<Room>) -> Self {
        let rated = Rated::of(&policy.outlier);
        let set = Set::new(Arc::default(), policy, &Claims::new(&room, 0), &Place::default());
        Self {
            shared: Arc::new(Shared {
                set: ArcSwap::from_pointee(set),
                ejections: Ejections::default(),
                panics: AtomicU64::new(0),
                rated,
                turns: Turns::default(),
                room,
                place: Mutex::default(),
                epoch: OnceLock::new(),
            }),
        }
    }

    /// Changes the policy. Endpoints keep their state, but when detection is switched off the ejected ones are back.
    pub fn set_policy(&self, policy: BalancePolicy) {
        self.shared.replace(|old, claims, place| {
            (old.policy != policy).then(|| Set::new(Arc::clone(&old.all), policy, claims, place))
        });
    }

    /// Says where the proxy is, and where those like it are. Costs a look at each ready endpoint, where that changes which are
    /// near a new set, and nothing where it is the very place that was said last.
    pub fn set_place(&self, place: &Arc<Place>) {
        self.shared.replace(|old, claims, now| {
            if Arc::ptr_eq(now, place) {
                return None;
            }
            *now = Arc::clone(place);
            (!old.is_as_from(place)).then(|| Set::new(Arc::clone(&old.all), old.policy.clone(), claims, place))
        });
    }

    /// Changes the endpoints. Those whose key was there before keep their state; of specs with equal keys the first
    /// counts.
    pub fn update(&self, specs: Vec<EndpointSpec>, now: Instant) {
        self.shared.epoch.get_or_init(|| now);
        let ms = self.shared.ms(now);
        self.shared.replace(|old, claims, place| {
            let before: std::collections::HashMap<_, _> = old.all.iter().map(|e| (e.key(), e)).collect();
            let mut seen = std::collections::HashSet::with_capacity(specs.len());
            let endpoint = |spec: &EndpointSpec| {
                let before = before.get(&spec.key);
                let state = match before {
                    Some(endpoint) if endpoint.spec == *spec => return Arc::clone(endpoint),
                    Some(endpoint) => Arc::clone(&endpoint.state),
                    None => Arc::new(State::default()),
                };
                if spec.health == Health::Ready && before.is_none_or(|before| before.health() != Health::Ready) {
                    state.on_ready(ms);
                }
                Arc::new(Endpoint { spec: spec.clone(), state })
            };
            let all: Arc<[Arc<Endpoint>]> = specs.iter().filter(|spec| seen.insert(&spec.key)).map(endpoint).collect();
            Some(Set::new(all, old.policy.clone(), claims, place))
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
            return match self.choose(&set.draining, rng, ms, &request, |_| true, |_| false) {
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
            && let Some(endpoint) = self.begin_probe(&set, ms, rng, &request)
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
        let hopeless = |endpoint: &Endpoint| endpoint.state.standing.is_kept(outlier);
        let chosen = if is_panic(ejected, &set) {
            None
        } else {
            let chosen = match &set.tiers {
                None => None,
                // One that only the cap keeps in use is not preferred to others for being near.
                Some(tiers) => tiers
                    .choose(&set.ready, rng, ms, &request, ejected > 0, &first)
                    .filter(|endpoint| ejected == 0 || !hopeless(endpoint)),
            };
            let chosen = chosen.or_else(|| self.choose(&set.ready, rng, ms, &request, in_use, first));
            chosen.filter(|endpoint| ejected == 0 || !hopeless(endpoint))
        };
        chosen
            .or_else(|| {
                self.shared.panics.fetch_add(1, Ordering::Relaxed);
                self.choose(&set.ready, rng, ms, &request, |_| true, |_| false)
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

    /// A table of its rule that is smaller than the policy asks for, since there was no room (`room.rs`).
    pub fn cut(&self) -> Option<Cut> {
        self.shared.set.load().cut
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

    fn choose<'s, R: Rng + ?Sized>(
        &self,
        pool: &'s Pool,
        rng: &mut R,
        ms: u64,
        request: &PickRequest<'_>,
        running: impl Fn(&Endpoint) -> bool,
        first: impl Fn(&Endpoint) -> bool,
    ) -> Option<&'s Arc<Endpoint>> {
        let mut among = |usable: &dyn Fn(&Endpoint) -> bool| match &pool.picker {
            Picker::PowerOfTwo => pool.draw(rng, ms, usable, &first),
            _ => pool.choose(rng, ms, request, usable, &first),
        };
        let fresh = |endpoint: &Endpoint| !request.avoid.contains(endpoint.key()) && running(endpoint);
        among(&|endpoint| fresh(endpoint) && !endpoint.state.is_held(ms))
            .or_else(|| among(&fresh))
            .or_else(|| if request.avoid.is_empty() { None } else { among(&running) })
    }

    /// Makes this request the probe of an endpoint that is due, unless another worker takes it first. Envoy's way, does what
    /// is due instead.
    fn begin_probe<'s, R: Rng + ?Sized>(
        &self,
        set: &'s Set,
        ms: u64,
        rng: &mut R,
        request: &PickRequest<'_>,
    ) -> Option<Arc<Endpoint>> {
        if set.policy.outlier.envoy.is_some() {
            let locked = self.shared.ejections.lock();
            let current = self.shared.set.load();
            sweep(&locked, &current.ready, &current.policy.outlier, ms, rng);
            return None;
        }
        let due = |endpoint: &Endpoint| endpoint.state.standing.is_due(ms);
        // Where keys have a home, they have it among what is near, and where nobody there is in use, among all.
        let near = set.tiers.as_deref().and_then(Tiers::near).map(|(_, home)| home);
        let pools = || near.into_iter().chain([&set.ready]);
        let due_home = |pool: &'s Pool| pool.home_of(request, &|_| true).flatten().filter(|endpoint| due(endpoint));
        let endpoint = match set.ready.home_of(request, &|_| true) {
            Some(_) => pools().find_map(due_home),
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
            endpoint: Arc::clone(endpoint),
            probe: probe.then(|| Arc::clone(&self.shared)),
            recorded: AtomicBool::new(false),
        }
    }
}

/// Whether so many are ejected that all are used again.
fn is_panic(ejected: usize, set: &Set) -> bool {
    ejected > set.calm
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

    fn replace(&self, make: impl FnOnce(&Set, &Claims<'_>, &mut Arc<Place>) -> Option<Set>) {
        let locked = self.ejections.lock();
        let old = self.set.load_full();
        let claims = Claims::new(&self.room, old.claimed);
        let Some(new) = make(&old, &claims, &mut self.place.lock()) else { return };
        let left = old.all.iter().map(|endpoint| &endpoint.state.standing);
        locked.replace(left, new.ready.standings(), &new.policy.outlier);
        self.rated.set(&new.policy.outlier);
        self.set.store(Arc::new(new));
    }
}
