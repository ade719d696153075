//! An endpoint: what the control plane says of it, and the state that outlives an update (kept by [`EndpointKey`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use weft_proto::SpiffeId;

use super::latency::Latency;
use super::outlier::Standing;
use super::outlier::rates::Counter;

/// What tells one endpoint from another: state (latency, failures, ejection) is kept across updates by this key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Address and port.
    pub addr: SocketAddr,
    /// How it is reached.
    pub reach: Reach,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Plain text: it has no sidecar (or not on this port).
    Plain,
    /// Mesh TLS, by the identity it must prove.
    Mesh(SpiffeId),
}

/// A plain-text address: only [`Endpoint::plain`] makes one, so a meshed endpoint is never dialled in plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainAddr(SocketAddr);

impl PlainAddr {
    /// The address.
    pub fn get(self) -> SocketAddr {
        self.0
    }

    /// A destination outside the mesh that policy lets through: the control plane knows no endpoint there.
    pub fn outside_mesh(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Yes.
    Ready,
    /// Terminating and still serving: only when nothing is ready.
    Draining,
    /// Only where the backend publishes addresses that are not ready.
    NotReady,
}

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its key.
    pub key: EndpointKey,
    /// `namespace/name` of the pod, for logs.
    pub pod: Box<str>,
    /// Whether it takes requests.
    pub health: Health,
    /// At least one; zero counts as one.
    pub weight: u32,
    /// Zone, or empty.
    pub zone: Box<str>,
    /// Node, or empty.
    pub node: Box<str>,
    /// Zero comes first: others are used as far as those before are not enough (`priority.rs`).
    pub priority: u32,
    /// Whose clients it is meant for; `None`: nobody says.
    pub hints: Option<Box<Hints>>,
}

/// Whose clients an endpoint is meant for (EndpointSlice `hints`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// Of these zones; none: it is not said.
    pub zones: Box<[Box<str>]>,
    /// Of these nodes; none: it is not said.
    pub nodes: Box<[Box<str>]>,
}

/// What outlives an update of the spec. Shared by every [`Endpoint`] made for the same key while it stays in the set.
#[derive(Debug)]
pub(super) struct State {
    /// Different from every other state's, ever.
    id: u64,
    /// Requests between their pick and the end of their body.
    in_flight: AtomicU32,
    pub(super) latency: Latency,
    pub(super) standing: Standing,
    /// Results of the interval, where they are counted.
    pub(super) rate: Counter,
    /// The same of getting an answer at all, where that is told apart.
    pub(super) local_rate: Counter,
    /// Since when it is ready (ms since the balancer's epoch), for slow start.
    ready_since: AtomicU64,
    /// Until when it is held back (ms since the balancer's epoch, and [`RELEASED`] more); [`NEVER_HELD`] before it was.
    held_until: AtomicU64,
}

const NEVER_HELD: u64 = 0;
/// In the past for every pick.
const RELEASED: u64 = 1;

impl Default for State {
    fn default() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: being different is all there is to it.
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            in_flight: AtomicU32::default(),
            latency: Latency::default(),
            standing: Standing::default(),
            rate: Counter::default(),
            local_rate: Counter::default(),
            ready_since: AtomicU64::new(0),
            held_until: AtomicU64::new(NEVER_HELD),
        }
    }
}

impl State {
    pub(super) fn in_flight(&self) -> u32 {
        // Relaxed: a load estimate, and nothing else is published through it.
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// It is ready, and was not before.
    pub(super) fn on_ready(&self, ms: u64) {
        // Relaxed: an estimate of age, and nothing else is published through it.
        self.ready_since.store(ms, Ordering::Relaxed);
    }

    /// Whether another is to be picked, if there is one.
    pub(super) fn is_held(&self, ms: u64) -> bool {
        self.held_until.load(Ordering::Relaxed) > ms + RELEASED
    }

    /// Once in its life: who has been reached before is not held back.
    pub(super) fn hold(&self, until_ms: u64) {
        // Lost: another worker holds it, or did. Relaxed: a preference, and nothing else is published through it.
        let until = until_ms.saturating_add(RELEASED);
        let _ = self.held_until.compare_exchange(NEVER_HELD, until, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn release(&self) {
        self.held_until.store(RELEASED, Ordering::Relaxed);
    }
}

/// Holds an endpoint back while it lives: see [`Balancer::hold_back`](super::Balancer::hold_back).
#[derive(Debug)]
#[must_use = "dropped, it holds nothing back"]
pub struct HeldBack(pub(super) Arc<State>);

impl Drop for HeldBack {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// One address and port that answers for a backend.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) spec: EndpointSpec,
    pub(super) state: Arc<State>,
}

impl Endpoint {
    /// A number for it, the same for as long as the backend keeps an endpoint of this key, and never used again: what
    /// others keep for an endpoint is found by it without looking at its key.
    pub fn id(&self) -> u64 {
        self.state.id
    }

    /// What tells it from others.
    pub fn key(&self) -> &EndpointKey {
        &self.spec.key
    }

    /// Address and port. For logs and metrics: dialling takes [`plain`](Self::plain) or [`mesh`](Self::mesh).
    pub fn addr(&self) -> SocketAddr {
        self.spec.key.addr
    }

    /// Its address, if it is reached in plain text.
    pub fn plain(&self) -> Option<PlainAddr> {
        match self.spec.key.reach {
            Reach::Plain => Some(PlainAddr(self.spec.key.addr)),
            Reach::Mesh(_) => None,
        }
    }

    /// Its address and the identity it must prove, if it is reached by mesh TLS.
    pub fn mesh(&self) -> Option<(SocketAddr, &SpiffeId)> {
        match &self.spec.key.reach {
            Reach::Plain => None,
            Reach::Mesh(identity) => Some((self.spec.key.addr, identity)),
        }
    }

    /// `namespace/name` of its pod.
    pub fn pod(&self) -> &str {
        &self.spec.pod
    }

    /// Whether it takes requests, as configured: an ejected endpoint is still [`Health::Ready`] here.
    pub fn health(&self) -> Health {
        self.spec.health
    }

    /// Its zone, or empty.
    pub fn zone(&self) -> &str {
        &self.spec.zone
    }

    /// Its node, or empty.
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// The zones whose clients it is meant for; none: it is not said.
    pub(super) fn hint_zones(&self) -> &[Box<str>] {
        self.spec.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// The nodes whose clients it is meant for; none: it is not said.
    pub(super) fn hint_nodes(&self) -> &[Box<str>] {
        self.spec.hints.as_ref().map_or(&[], |hints| &hints.nodes)
    }

    /// Lower ones first.
    pub fn priority(&self) -> u32 {
        self.spec.priority
    }

    /// For how many milliseconds it has been ready.
    pub(super) fn ready_for(&self, ms: u64) -> u64 {
        ms.saturating_sub(self.state.ready_since.load(Ordering::Relaxed))
    }

    /// Its weight, at least one.
    pub fn weight(&self) -> u32 {
        self.spec.weight.max(1)
    }

    /// Requests picked for it whose [`Pick`](super::Pick) is not dropped yet.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight()
    }
}

/// One endpoint as `/config` and the metrics show it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct EndpointView {
    /// Address and port.
    pub addr: SocketAddr,
    /// The identity it must prove; `None` is plain text.
    pub identity: Option<String>,
    /// `namespace/name` of its pod.
    pub pod: String,
    /// As configured.
    pub health: Health,
    /// Zone, or empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub zone: Box<str>,
    /// At least one.
    pub weight: u32,
    /// Requests picked and not ended.
    pub in_flight: u32,
    /// Believed latency in milliseconds, decayed to the moment of the view; `None` before the fifth measurement.
    pub ewma_ms: Option<f64>,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Milliseconds until it may be probed, if it is ejected; zero: the next request, or a probe is under way.
    pub ejected_ms: Option<u64>,
    /// Whether a request may be given to it now, a probe aside.
    pub candidate: bool,
    /// Where some are preferred for being near: whether it is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<bool>,
}
