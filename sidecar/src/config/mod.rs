//! What this proxy knows of the mesh: a delta client, a subscription table, and the compiled snapshot that requests read
//! (ARCHITECTURE.md "The wire contract"; SEMANTICS.md §1 "outbound lookup", "on-demand lookup").
//!
//! | file | what |
//! |---|---|
//! | `subscriptions.rs` | pure: names, aliases, states, least recently used; what to say next |
//! | `compile/` | pure: wire resource → tables, or the field that is wrong |
//! | `model.rs` | the tables |
//! | `store.rs` | the compiled resources, what refers to what, the snapshot |
//! | `retired.rs` | route tables that were replaced and may be in use |
//! | `named.rs` | endpoints that are DNS names |
//! | `apply.rs` | one response → one new snapshot |
//! | `client.rs` | the stream to the control plane |
//! | `view.rs` | `/config` |
//!
//! [`Config`] ties them together. Readers load the snapshot without a lock. One mutex guards table and store; it is
//! taken for each response and for a destination this proxy has not met (or that does not exist), never across an
//! await and never while something is compiled (`apply.rs`), and the client task and the sweep are its only other users.
//!
//! Bound: see `subscriptions.rs`; direct backends are at most [`MAX_DIRECT`].

mod apply;
mod client;
mod compile;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kind;
mod model;
mod named;
mod rate_limit;
mod retired;
mod stats;
mod store;
mod subscriptions;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use weft_proto::{EndpointsName, MESH_SETTINGS, SELF, ServiceName};

pub use compile::CompileError;
pub use kind::Kind;
pub use model::{
    Backend, IdleTimeouts, InboundPolicy, MeshSettings, MtlsMode, OutboundPolicy, Protocol, RuleView, Service,
    ServicePort, Workload, WorkloadPort,
};
pub use stats::ConfigStats;
pub use store::Snapshot;
pub use subscriptions::{Bounds, LastUse, Request};
pub use view::ConfigView;

use crate::balance::{EndpointKey, EndpointSpec, Health, Reach, Room};
use crate::dns::{Dns, DnsError};
use crate::identity::IdentityManager;
use crate::reason::Reason;
use crate::resilience::KnownLimits;
use model::{BackendState, Policy};
use stats::count;
use store::Store;
use subscriptions::{State, Subscriptions, Wanted};

/// How long a connection may wait for an answer about its destination, in total (SEMANTICS.md §1).
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Backends for traffic to workloads themselves. Least recently made go first; who uses one keeps it.
const MAX_DIRECT: usize = 4096;

/// What a sidecar tells of itself and decides for itself.
#[derive(Debug, Clone, Default)]
pub struct ConfigSettings {
    /// The pod's address: who asks.
    pub pod_address: String,
    /// The node this proxy runs on, for `internalTrafficPolicy: Local`; empty where there are no nodes.
    pub node: String,
    /// The cluster's ranges, used until and unless the control plane names them (`--cluster-cidr`). None: every private
    /// address counts as the cluster's.
    pub cluster_cidrs: Vec<IpNet>,
    /// Limits of the subscription table.
    pub bounds: Bounds,
}

/// Where a connection goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A port of a service.
    Service {
        /// Which.
        port: Arc<ServicePort>,
    },
    /// The address is this service's, and it has no such port.
    NoPort(Arc<Service>),
    /// A workload itself, without route rules; [`Config::direct`] gives its backend.
    Workload(Arc<Workload>),
    /// Not of the mesh, and policy lets it pass.
    Outside,
    /// Not of the mesh, and policy does not let it pass.
    Refused(Reason),
    /// It may be of the mesh, and nobody can say now: never passed through.
    Unavailable,
}

/// What a host leads to.
enum Named {
    Service(Arc<Service>),
    /// Something that nobody can say, or that does not compile.
    Unusable,
    Nothing,
}

struct Inner {
    settings: ConfigSettings,
    identity: IdentityManager,
    dns: Dns,
    epoch: Instant,
    snapshot: ArcSwap<Snapshot>,
    /// This workload has addresses besides the pod's first.
    has_others: AtomicBool,
    /// Changes after each response: wakes those who wait for an answer.
    published: watch::Sender<()>,
    tables: Mutex<Tables>,
    /// Held while a response is applied: taken before `tables`, and by nobody else.
    applying: Mutex<()>,
    /// There is something to ask for.
    wake: Notify,
    direct: Mutex<HashMap<EndpointKey, (u64, Arc<Backend>)>>,
    /// Of rules.
    limits: KnownLimits,
    room: Arc<Room>,
    stats: ConfigStats,
}

struct Tables {
    subscriptions: Subscriptions,
    store: Store,
}

/// The handle: cheap to clone, safe from any thread.
#[derive(Clone)]
pub struct Config(Arc<Inner>);

impl Config {
    /// Knows nothing yet: [`Config::run`] asks the control plane. Trust bundles go to `identity`.
    pub fn new(settings: ConfigSettings, identity: IdentityManager, dns: Dns) -> Self {
        let now = now();
        let mut subscriptions = Subscriptions::new(settings.bounds, now);
        let trust_domain = identity.identity().trust_domain();
        for (kind, name) in [
            (Kind::MeshSettings, MESH_SETTINGS),
            (Kind::TrustBundle, trust_domain),
            (Kind::InboundPolicy, SELF),
            (Kind::Workload, SELF),
        ] {
            subscriptions.subscribe(kind, name, Wanted::Always, now);
        }
        let local = (!settings.cluster_cidrs.is_empty()).then(|| settings.cluster_cidrs.clone());
        let store = Store::new(MeshSettings { cluster_cidrs: local, ..MeshSettings::default() });
        Self(Arc::new(Inner {
            settings,
            identity,
            dns,
            epoch: now,
            snapshot: ArcSwap::from_pointee(store.snapshot()),
            has_others: AtomicBool::new(false),
            published: watch::Sender::new(()),
            tables: Mutex::new(Tables { subscriptions, store }),
            applying: Mutex::default(),
            wake: Notify::new(),
            direct: Mutex::default(),
            limits: KnownLimits::default(),
            room: Arc::default(),
            stats: ConfigStats::default(),
        }))
    }

    /// The tables in use. No lock.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.0.snapshot.load()
    }

    /// This workload itself, once known.
    pub fn own(&self) -> Option<Arc<Workload>> {
        self.snapshot().own.clone()
    }

    /// Whether this workload has an address besides the pod's that it was started with. Asked for each request, and most
    /// pods have none: then the snapshot is not looked at.
    pub fn has_other_address(&self, address: IpAddr) -> bool {
        self.0.has_others.load(Ordering::Acquire)
            && self.snapshot().own.as_ref().is_some_and(|own| own.addresses.contains(&address))
    }

    /// Who may connect to this workload, once known.
    pub fn inbound_policy(&self) -> Option<Arc<InboundPolicy>> {
        self.snapshot().inbound.clone()
    }

    /// The mesh's settings, or defaults until they are known.
    pub fn settings(&self) -> Arc<MeshSettings> {
        Arc::clone(&self.snapshot().settings)
    }

    /// Waits until the control plane has said who this workload is and who may connect to it.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn ready(&self) {
        let mut published = self.0.published.subscribe();
        while self.snapshot().own.is_none() || self.snapshot().inbound.is_none() {
            // The sender lives as long as `self`.
            let _ = published.changed().await;
        }
    }

    /// Follows the snapshots: changes after each one that is published.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.published.subscribe()
    }

    /// What is counted here.
    pub fn stats(&self) -> &ConfigStats {
        &self.0.stats
    }

    /// Where a connection to this original destination goes, and the endpoints behind it, if all that is known now.
    pub fn known_destination(&self, dst: SocketAddr, now: Instant) -> Option<Destination> {
        match self.decide(dst.ip().to_canonical(), dst.port(), now) {
            Some(Destination::Service { port, .. }) if !port.backends().all(|backend| backend.is_known()) => None,
            known => known,
        }
    }

    /// Where a connection to this original destination goes. Asks the control plane when it is new and may be of the
    /// mesh, and waits for the answer and for the endpoints behind it at most [`LOOKUP_TIMEOUT`] in total.
    ///
    /// # Cancel safety
    /// Yes: the question stays asked.
    pub async fn destination(&self, dst: SocketAddr) -> Destination {
        if let Some(known) = self.known_destination(dst, now()) {
            return known;
        }
        // Boxed: it happens once in a destination's life, and every request's future would have room for it.
        Box::pin(self.ask_about(dst.ip().to_canonical(), dst.port())).await
    }

    async fn ask_about(&self, address: IpAddr, port: u16) -> Destination {
        let deadline = tokio::time::Instant::now() + LOOKUP_TIMEOUT;
        let destination = match self.answer_by(deadline, || self.decide(address, port, now())).await {
            Some(destination) => destination,
            None => Destination::Unavailable,
        };
        if let Destination::Service { port, .. } = &destination {
            wait_for_endpoints(port, deadline).await;
        }
        destination
    }

    /// What this pod's resolver makes of a host, as the app would be told; an address is itself.
    ///
    /// # Errors
    /// When there is no answer.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        Ok(self.0.dns.resolve(host).await?.addresses().to_vec())
    }

    /// Whether any host leads somewhere by its name alone: if not, nobody needs to look for one.
    pub fn knows_hosts(&self) -> bool {
        !self.snapshot().settings.known_hosts.is_empty()
    }

    /// Where a connection to `port` goes whose address says nothing and which asks for `host` (a Host without its port,
    /// or SNI): SEMANTICS.md §1 "outbound lookup" 3. `None` when the mesh knows no such host
    /// (`MeshSettings.known_hosts`), or not on this port. A name without a dot is one of this workload's namespace, as
    /// its resolver has it. Waits like [`Self::destination`].
    ///
    /// # Cancel safety
    /// Yes: the question stays asked.
    pub async fn host(&self, host: &str, port: u16) -> Option<Destination> {
        let mut host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !host.contains('.') {
            host = format!("{host}.{}", self.0.identity.identity().namespace());
        }
        let deadline = tokio::time::Instant::now() + LOOKUP_TIMEOUT;
        let service = match self.answer_by(deadline, || self.decide_host(&host)).await {
            None | Some(Named::Unusable) => return Some(Destination::Unavailable),
            Some(Named::Nothing) => return None,
            Some(Named::Service(service)) => service,
        };
        let port = Arc::clone(service.ports.get(&port)?);
        wait_for_endpoints(&port, deadline).await;
        Some(Destination::Service { port })
    }

    /// Marks a use of what this address leads to, so that it does not age out: for connections that live long.
    /// [`Self::destination`] does it by itself.
    pub fn touch(&self, dst: SocketAddr) {
        let (snapshot, ms) = (self.snapshot(), self.ms(now()));
        if let Some(service) = snapshot.service_at(dst.ip()) {
            service.used.mark(ms);
        } else if let Some(used) = snapshot.workload_use(dst.ip()) {
            used.mark(ms);
        }
    }

    /// The backend for traffic to a workload itself: one endpoint. The same one each time, so that its latency and
    /// counts mean something.
    pub fn direct(&self, workload: &Workload, dst: SocketAddr) -> Arc<Backend> {
        let addr = SocketAddr::new(dst.ip().to_canonical(), dst.port());
        let name = ServiceName::new(&*workload.namespace, &*workload.name).endpoints(addr.port());
        self.alone(workload.endpoint(addr), name, workload.protocol(addr.port()))
    }

    /// The backend for requests to a destination outside the mesh that policy lets pass. Likewise the same one each time.
    pub fn outside(&self, dst: SocketAddr) -> Arc<Backend> {
        let addr = SocketAddr::new(dst.ip().to_canonical(), dst.port());
        let endpoint = EndpointSpec {
            key: EndpointKey { addr, reach: Reach::Plain },
            pod: "".into(),
            health: Health::Ready,
            weight: 1,
            zone: "".into(),
            node: "".into(),
            priority: 0,
            hints: None,
        };
        let name = ServiceName::new("outside", addr.ip().to_string()).endpoints(addr.port());
        self.alone(endpoint, name, Protocol::Auto)
    }

    fn alone(&self, endpoint: EndpointSpec, name: EndpointsName, protocol: Protocol) -> Arc<Backend> {
        let ms = self.ms(now());
        let mut direct = self.0.direct.lock();
        if let Some((used, backend)) = direct.get_mut(&endpoint.key)
            && backend.name == name
            && backend.protocol == protocol
        {
            *used = ms;
            return Arc::clone(backend);
        }
        if direct.len() >= MAX_DIRECT {
            let mut by_use: Vec<u64> = direct.values().map(|(used, _)| *used).collect();
            let (_, median, _) = by_use.select_nth_unstable(MAX_DIRECT / 2);
            let median = *median;
            direct.retain(|_, (used, _)| *used > median);
        }
        let key = endpoint.key.clone();
        let policy = Policy::default();
        let state = BackendState::new(&policy);
        state.set_endpoints(vec![endpoint], now());
        let backend = Arc::new(Backend::new(name, protocol, policy, state));
        direct.insert(key, (ms, Arc::clone(&backend)));
        backend
    }

    /// The room that tables of ring hashes and Maglevs have together.
    pub fn room(&self) -> &Room {
        &self.0.room
    }

    /// Runs `decide` after each response until it decides. `None`: not in time.
    async fn answer_by<T>(&self, deadline: tokio::time::Instant, decide: impl Fn() -> Option<T>) -> Option<T> {
        if let Some(decided) = decide() {
            return Some(decided);
        }
        count(&self.0.stats.lookups, 1);
        let mut published = self.0.published.subscribe();
        loop {
            // Subscribed before looking: an answer between the two is not missed.
            if let Some(decided) = decide() {
                return Some(decided);
            }
            if tokio::time::timeout_at(deadline, published.changed()).await.is_err() {
                count(&self.0.stats.lookups_unanswered, 1);
                return None;
            }
        }
    }

    /// SEMANTICS.md §1 "outbound lookup", steps 1, 2 and 4; `None` when it has been asked and not answered.
    fn decide(&self, address: IpAddr, port: u16, now: Instant) -> Option<Destination> {
        if let Some(known) = self.known(address, port, now) {
            return Some(known);
        }
        let settings = self.settings();
        let outside = match settings.outbound_policy {
            OutboundPolicy::AllowAny => Destination::Outside,
            OutboundPolicy::RegistryOnly => Destination::Refused(Reason::RegistryOnly),
        };
        if !settings.in_cluster(address) {
            return Some(outside);
        }
        let name = address.to_string();
        let mut tables = self.0.tables.lock();
        let states = [Kind::Service, Kind::Workload].map(|kind| tables.subscriptions.state(kind, &name, now).cloned());
        match states {
            // Published between our two looks, or it answers to the name and lists no such address.
            [Some(State::Present(_)), _] | [_, Some(State::Present(_))] => {
                drop(tables);
                Some(self.known(address, port, now).unwrap_or(Destination::Unavailable))
            }
            [Some(State::Refused), _] | [_, Some(State::Refused)] => Some(Destination::Unavailable),
            [Some(State::Absent(_)), Some(State::Absent(_))] => Some(outside),
            [Some(_), Some(_)] => None,
            _ => {
                tables.subscriptions.subscribe(Kind::Service, &name, Wanted::OnDemand, now);
                tables.subscriptions.subscribe(Kind::Workload, &name, Wanted::OnDemand, now);
                self.after_change(&mut tables, now);
                None
            }
        }
    }

    fn known(&self, address: IpAddr, port: u16, now: Instant) -> Option<Destination> {
        let snapshot = self.snapshot();
        if let Some(service) = snapshot.service_at(address) {
            service.used.mark(self.ms(now));
            return Some(match service.ports.get(&port).cloned() {
                Some(port) => Destination::Service { port },
                None => Destination::NoPort(Arc::clone(service)),
            });
        }
        snapshot.workload_use(address)?.mark(self.ms(now));
        Some(Destination::Workload(Arc::clone(snapshot.workload_at(address)?)))
    }

    /// Step 3. `None` when it has been asked and not answered.
    fn decide_host(&self, host: &str) -> Option<Named> {
        let snapshot = self.snapshot();
        // Only these: otherwise the answer would depend on what happened to be asked before.
        if !snapshot.settings.knows_host(host) {
            return Some(Named::Nothing);
        }
        if let Some(service) = snapshot.service_for_host(host) {
            service.used.mark(self.ms(now()));
            return Some(Named::Service(Arc::clone(service)));
        }
        let mut tables = self.0.tables.lock();
        let now = now();
        match tables.subscriptions.state(Kind::Service, host, now) {
            Some(State::Asked) => None,
            // Published between our two looks, or it answers to the name and lists no such host.
            Some(State::Present(_)) => {
                drop(tables);
                Some(self.snapshot().service_for_host(host).cloned().map_or(Named::Unusable, Named::Service))
            }
            Some(State::Absent(_)) => Some(Named::Nothing),
            Some(State::Refused) => Some(Named::Unusable),
            None => {
                tables.subscriptions.subscribe(Kind::Service, host, Wanted::OnDemand, now);
                self.after_change(&mut tables, now);
                None
            }
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.0.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

async fn wait_for_endpoints(port: &ServicePort, deadline: tokio::time::Instant) {
    for backend in port.backends() {
        if !backend.is_known() {
            backend.endpoints_known(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
