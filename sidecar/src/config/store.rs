//! The compiled resources and the snapshot made of them.
//!
//! A [`Snapshot`] is immutable: its maps are shared with the store and copied only when the store changes one that a
//! published snapshot still holds, so publishing costs a few pointers and a change at most one map. What changes most,
//! endpoints, is not in it: a [`Backend`]'s balancer takes them in place.
//!
//! Everything here happens under the lock of `Config`, in the order of one response: commit → remove → settle (which
//! backends are wanted now) → publish. So readers see all of a response or nothing of it. What it is made of was compiled
//! before, without the lock ([`Interner`]).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_proto::EndpointsName;

use super::compile::{CompiledEndpoints, Intern};
use super::model::{
    Backend, BackendState, InboundPolicy, MeshSettings, Policy, Protocol, Service, Workload, wildcards,
};
use super::named::Follower;
use super::retired::Retired;
use super::subscriptions::LastUse;
use crate::balance::{Balancer, Cut, Place, Room};
use crate::resilience::{KnownLimits, RateLimit};

/// Everything requests need to know, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// By address is looked for each request; the addresses are the control plane's, so that a hash needs no defence.
    by_address: Arc<foldhash::HashMap<IpAddr, Arc<Service>>>,
    by_host: Arc<HashMap<Box<str>, Arc<Service>>>,
    workloads: Arc<foldhash::HashMap<IpAddr, Known>>,
    pub(super) own: Option<Arc<Workload>>,
    pub(super) inbound: Option<Arc<InboundPolicy>>,
    pub(super) settings: Arc<MeshSettings>,
}

#[derive(Debug, Clone)]
struct Known {
    workload: Arc<Workload>,
    used: Arc<LastUse>,
}

impl Snapshot {
    /// The service behind a VIP.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The service that answers to a host (lower case, no port), exactly or by wildcard.
    pub fn service_for_host(&self, host: &str) -> Option<&Arc<Service>> {
        self.by_host.get(host).or_else(|| wildcards(host).find_map(|wildcard| self.by_host.get(wildcard.as_str())))
    }

    /// The workload with this address.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address.to_canonical()).map(|known| &known.workload)
    }

    pub(super) fn workload_use(&self, address: IpAddr) -> Option<&LastUse> {
        self.workloads.get(&address.to_canonical()).map(|known| &*known.used)
    }

    /// This workload itself.
    pub fn own(&self) -> Option<&Arc<Workload>> {
        self.own.as_ref()
    }

    /// Who may connect to this workload; `None` until the control plane has said.
    pub fn inbound_policy(&self) -> Option<&Arc<InboundPolicy>> {
        self.inbound.as_ref()
    }

    /// The mesh's settings, or the defaults until they are known.
    pub fn settings(&self) -> &Arc<MeshSettings> {
        &self.settings
    }
}

struct Interned {
    state: Arc<BackendState>,
    /// The last one committed.
    latest: Option<Arc<Backend>>,
    /// Services' ports that refer to it.
    refs: usize,
    /// Keeps endpoints that are names resolved.
    follower: Option<Follower>,
}

/// A service in the store, and the addresses and hosts it was indexed by.
struct Stored {
    service: Arc<Service>,
    addresses: Vec<IpAddr>,
    hosts: Vec<Box<str>>,
}

/// See the module.
pub(super) struct Store {
    snapshot: Snapshot,
    services: HashMap<Arc<str>, Stored>,
    workloads: HashMap<Arc<str>, (Arc<Workload>, Vec<IpAddr>)>,
    backends: HashMap<EndpointsName, Interned>,
    /// Backends whose `refs` changed since the last [`Store::settle`].
    touched: BTreeSet<EndpointsName>,
    pub(super) retired: Retired,
    /// Where this workload is, for every balancer.
    place: Arc<Place>,
}

/// Endpoints to subscribe to and to give up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) wanted: Vec<EndpointsName>,
    pub(super) dropped: Vec<EndpointsName>,
}

impl Settled {
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.dropped.is_empty()
    }
}

impl Store {
    pub(super) fn new(settings: MeshSettings) -> Self {
        let snapshot = Snapshot {
            by_address: Arc::default(),
            by_host: Arc::default(),
            workloads: Arc::default(),
            own: None,
            inbound: None,
            settings: Arc::new(settings),
        };
        Self {
            snapshot,
            services: HashMap::new(),
            workloads: HashMap::new(),
            backends: HashMap::new(),
            touched: BTreeSet::new(),
            retired: Retired::default(),
            place: Arc::default(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().map(|stored| &stored.service)
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values().map(|(workload, _)| workload)
    }

    /// Those somebody refers to.
    pub(super) fn backends(&self) -> Vec<Arc<Backend>> {
        self.backends.values().filter_map(|interned| interned.latest.clone()).collect()
    }

    /// The state that backends of this name share, and the one that was committed last.
    pub(super) fn known(&self, name: &EndpointsName) -> Option<(Arc<BackendState>, Option<Arc<Backend>>)> {
        self.backends.get(name).map(|interned| (Arc::clone(&interned.state), interned.latest.clone()))
    }

    pub(super) fn set_settings(&mut self, settings: MeshSettings) {
        self.snapshot.settings = Arc::new(settings);
    }

    pub(super) fn set_inbound(&mut self, mut inbound: InboundPolicy) {
        if let Some(before) = &self.snapshot.inbound {
            inbound.rate_limits.iter_mut().for_each(|limit| limit.succeed(&before.rate_limits));
        }
        self.snapshot.inbound = Some(Arc::new(inbound));
    }

    pub(super) fn set_own(&mut self, resource: &str) {
        let Some((workload, _)) = self.workloads.get(resource) else { return };
        self.snapshot.own = Some(Arc::clone(workload));
        let place = workload.place();
        if *self.place != place {
            self.place = Arc::new(place);
            for (name, Interned { state, .. }) in &self.backends {
                noting_cuts(name, state.balancer(), || state.set_place(&self.place));
            }
        }
    }

    /// `names` are the resource's aliases: it answers to them as to the VIPs and hosts it lists.
    pub(super) fn commit_service(
        &mut self,
        resource: &str,
        mut service: Service,
        used: Arc<LastUse>,
        names: &[String],
    ) {
        service.used = used;
        let service = Arc::new(service);
        for backend in service.ports.values().flat_map(|port| port.backends()) {
            let name = &backend.name;
            let interned = self.backends.entry(name.clone()).or_insert_with(|| Interned {
                state: Arc::clone(&backend.state),
                latest: None,
                refs: 0,
                follower: None,
            });
            interned.refs += 1;
            self.touched.insert(name.clone());
            noting_cuts(name, &backend.balancer, || {
                backend.balancer.set_policy(backend.balance.clone());
                backend.balancer.set_place(&self.place);
            });
            interned.latest = Some(Arc::clone(backend));
        }
        // After counting the new references: a backend named before and after is never dropped in between.
        self.remove_service(resource);
        let mut addresses = service.vips.clone();
        let mut hosts = service.hosts.clone();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(address) => addresses.push(address.to_canonical()),
                Err(_) => hosts.push(name.to_ascii_lowercase().into()),
            }
        }
        let by_address = Arc::make_mut(&mut self.snapshot.by_address);
        by_address.extend(addresses.iter().map(|address| (*address, Arc::clone(&service))));
        let by_host = Arc::make_mut(&mut self.snapshot.by_host);
        by_host.extend(hosts.iter().map(|host| (host.clone(), Arc::clone(&service))));
        self.services.insert(resource.into(), Stored { service, addresses, hosts });
    }

    pub(super) fn remove_service(&mut self, resource: &str) {
        let Some(old) = self.services.remove(resource) else { return };
        // An address may have moved to another service already.
        let by_address = Arc::make_mut(&mut self.snapshot.by_address);
        for address in &old.addresses {
            if by_address.get(address).is_some_and(|now| Arc::ptr_eq(now, &old.service)) {
                by_address.remove(address);
            }
        }
        let by_host = Arc::make_mut(&mut self.snapshot.by_host);
        for host in &old.hosts {
            if by_host.get(host).is_some_and(|now| Arc::ptr_eq(now, &old.service)) {
                by_host.remove(host);
            }
        }
        self.retired.keep(&old.service);
        for backend in old.service.ports.values().flat_map(|port| port.backends()) {
            if let Some(interned) = self.backends.get_mut(&backend.name) {
                interned.refs = interned.refs.saturating_sub(1);
                self.touched.insert(backend.name.clone());
            }
        }
    }

    pub(super) fn commit_workload(
        &mut self,
        resource: &str,
        workload: Workload,
        used: &Arc<LastUse>,
        names: &[String],
    ) {
        self.remove_workload(resource);
        let named = names.iter().map(String::as_str).chain([resource]);
        let mut addresses: Vec<IpAddr> = named.filter_map(|name| name.parse().ok()).collect();
        addresses.extend(&workload.addresses);
        let workload = Arc::new(workload);
        let index = Arc::make_mut(&mut self.snapshot.workloads);
        for address in &mut addresses {
            *address = address.to_canonical();
            index.insert(*address, Known { workload: Arc::clone(&workload), used: Arc::clone(used) });
        }
        self.workloads.insert(resource.into(), (workload, addresses));
    }

    pub(super) fn remove_workload(&mut self, resource: &str) {
        let Some((old, addresses)) = self.workloads.remove(resource) else { return };
        let index = Arc::make_mut(&mut self.snapshot.workloads);
        for address in addresses {
            if index.get(&address).is_some_and(|now| Arc::ptr_eq(&now.workload, &old)) {
                index.remove(&address);
            }
        }
    }

    /// The endpoints of a backend; ones nobody refers to any more are ignored. `follow` starts to resolve those that
    /// are names.
    pub(super) fn commit_endpoints(
        &mut self,
        name: &EndpointsName,
        endpoints: CompiledEndpoints,
        now: Instant,
        follow: impl FnOnce(CompiledEndpoints, Arc<BackendState>) -> Follower,
    ) {
        let Some(interned) = self.backends.get_mut(name) else { return };
        if endpoints.named.is_empty() {
            interned.follower = None;
            let state = &interned.state;
            noting_cuts(name, state.balancer(), || state.set_endpoints(endpoints.endpoints, now));
        } else {
            interned.follower = Some(follow(endpoints, Arc::clone(&interned.state)));
        }
    }

    /// There are none, as far as anybody can say.
    pub(super) fn no_endpoints(&mut self, name: &EndpointsName, now: Instant) {
        if let Some(interned) = self.backends.get_mut(name) {
            interned.follower = None;
            interned.state.set_endpoints(Vec::new(), now);
        }
    }

    /// Whether a backend's endpoints have been answered.
    pub(super) fn knows_endpoints(&self, name: &EndpointsName) -> bool {
        self.backends.get(name).is_some_and(|interned| interned.state.is_known())
    }

    /// Which backends somebody refers to now. Those nobody does are forgotten, with what they learnt.
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        for name in std::mem::take(&mut self.touched) {
            if self.backends.get(&name).is_some_and(|interned| interned.refs > 0) {
                settled.wanted.push(name);
            } else if self.backends.remove(&name).is_some() {
                settled.dropped.push(name);
            }
        }
        settled
    }
}

/// Changes a balancer. That there is no room for a table is worth a line, once.
pub(super) fn noting_cuts(backend: &EndpointsName, balancer: &Balancer, change: impl FnOnce()) {
    let before = balancer.cut();
    change();
    if let Some(cut) = balancer.cut().filter(|cut| before != Some(*cut)) {
        let Cut { wanted, given } = cut;
        tracing::warn!(%backend, wanted, given, "no room for a hash table of this size: a smaller one is used");
    }
}

/// For the resources of one response: a backend two of them name is one backend. It looks into the store for moments
/// only: compiling may take a second or two (`compile/cost.rs`), and workers want the lock meanwhile. So the store may drop a
/// backend that was found here, with the last service that named it; it is committed anew then, with the state it had.
/// A backend cannot come to be there meanwhile: responses are applied one at a time.
pub(super) struct Interner<'a, L> {
    look: L,
    limits: &'a KnownLimits,
    room: &'a Arc<Room>,
    /// By name: found in the store, or made. Kept, or a backend that is dropped in between would have two.
    states: HashMap<EndpointsName, Arc<BackendState>>,
    latest: HashMap<EndpointsName, Arc<Backend>>,
}

impl<'a, L: Fn(&EndpointsName) -> Option<(Arc<BackendState>, Option<Arc<Backend>>)>> Interner<'a, L> {
    /// `look` is [`Store::known`], under the lock; `limits` those that rules have; `room` is for the tables of backends.
    pub(super) fn new(look: L, limits: &'a KnownLimits, room: &'a Arc<Room>) -> Self {
        Self { look, limits, room, states: HashMap::new(), latest: HashMap::new() }
    }
}

impl<L: Fn(&EndpointsName) -> Option<(Arc<BackendState>, Option<Arc<Backend>>)>> Intern for Interner<'_, L> {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend> {
        if !self.states.contains_key(&name) {
            let (state, latest) =
                (self.look)(&name).unwrap_or_else(|| (BackendState::sharing(&policy, self.room), None));
            self.states.insert(name.clone(), state);
            self.latest.extend(latest.map(|latest| (name.clone(), latest)));
        }
        if let Some(latest) = self.latest.get(&name)
            && latest.says(protocol, &policy)
        {
            return Arc::clone(latest);
        }
        let state = self.states.get(&name).map_or_else(|| BackendState::sharing(&policy, self.room), Arc::clone);
        let backend = Arc::new(Backend::new(name.clone(), protocol, policy, state));
        self.latest.insert(name, Arc::clone(&backend));
        backend
    }

    fn limit(&mut self, limit: RateLimit) -> RateLimit {
        self.limits.join(limit)
    }
}
