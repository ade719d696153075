//! What a change touches, and nothing else, is computed again.
//!
//! The outcome consists of units: a VIP, a route, a Service, the endpoints of one of its ports, an address, an owner of pods. A changed
//! object marks the units that depend on it, as it was and as it is now (`dirty`); marked units are computed anew, in an order
//! in which none depends on a later one: VIPs and routes before Services, and of the routes the kinds that go before others
//! on a port before those. A route that comes out different marks the Services it acts or acted on, and there the routes of
//! later kinds. The unit of a policy, or of an object of
//! Weft's own kinds, is its status: what it says of a Service is the Service's. What comes out equal is kept as it is, and nobody is told.

mod dirty;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use weft_proto::v1::{TrustBundle, Workload};
use weft_proto::{EndpointsName, MESH_SETTINGS, ServiceName, type_url};

use self::dirty::Dirty;
use super::gateway_api::{self, Analysis};
use super::settings::{self, DerivedRanges, KnownHosts};
use super::translated::ServiceForms;
use super::{MeshConfig, Resource, Translated, backend_tls, kubernetes, own, traffic_policy};
use crate::model::{Batch, Kind, Model, ObjectKey, ObjectName, Service};
use crate::status::RouteStatus;

/// What a change touched, so that discovery looks only at that. A name in here may turn out to be unchanged for a
/// given proxy (compare versions); a name not in here did not change for anyone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Look at every subscription: the first batch was applied, so what was held no longer is.
    pub everything: bool,
    /// By type URL: canonical names of resources that changed, appeared or went, and the aliases gained or lost.
    pub names: BTreeMap<&'static str, BTreeSet<String>>,
    /// Addresses of pods whose `self` resources or [`WorkloadIdentity`](super::WorkloadIdentity) changed.
    pub own: BTreeSet<IpAddr>,
    /// Routes, policies and objects of Weft's own kinds whose status changed, appeared or went.
    pub statuses: BTreeSet<ObjectKey>,
}

impl Touched {
    /// Nothing changed for anyone.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.names.is_empty() && self.own.is_empty() && self.statuses.is_empty()
    }

    fn name(&mut self, type_url: &'static str, name: impl Into<String>) {
        self.names.entry(type_url).or_default().insert(name.into());
    }
}

/// Owns the objects and keeps their translation up to date. Pure: no clock, no I/O.
pub struct Translator {
    config: MeshConfig,
    model: Model,
    routes: HashMap<ObjectKey, Analysis>,
    ranges: DerivedRanges,
    known: KnownHosts,
    current: Translated,
}

impl Translator {
    /// Nothing known yet: every lookup is held until the first [`Translator::apply`].
    pub fn new(config: MeshConfig) -> Self {
        let current = Translated::empty(&config);
        Self {
            config,
            model: Model::default(),
            routes: HashMap::new(),
            ranges: DerivedRanges::default(),
            known: KnownHosts::default(),
            current,
        }
    }

    /// The state as of the last change.
    pub fn translated(&self) -> Arc<Translated> {
        Arc::new(self.current.clone())
    }

    /// The objects as of the last change.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Takes in a batch of changes, as one: the returned state has all of it. The first batch must be the complete
    /// initial state of the source; it may be empty.
    pub fn apply(&mut self, batch: Batch) -> (Arc<Translated>, Touched) {
        let changes = self.model.apply(batch);
        let mut dirty = Dirty::default();
        for change in &changes {
            dirty.mark(change, &self.model, &self.config);
        }
        let mut touched = Touched { everything: !self.current.synced, ..Touched::default() };
        self.current.synced = true;

        let mut ranges_changed = false;
        for vip in std::mem::take(&mut dirty.vips) {
            ranges_changed |= self.update_vip(vip, &mut dirty, &mut touched);
        }
        for kind in gateway_api::PRECEDENCE {
            // Its routes mark routes of later kinds only.
            for route in dirty.routes.iter().filter(|route| route.kind == kind).cloned().collect::<Vec<_>>() {
                self.update_route(&route, &mut dirty, &mut touched);
            }
        }
        for policy in &dirty.policies {
            self.update_policy(policy, &mut touched);
        }
        for policy in &dirty.traffic_policies {
            let status =
                self.model.traffic_policy(policy).and_then(|policy| traffic_policy::status(policy, &self.model));
            self.set_status(&ObjectKey { kind: Kind::TrafficPolicy, name: policy.clone() }, status, &mut touched);
        }
        for object in &dirty.own {
            self.update_own(object, &mut touched);
        }
        let mut known_changed = false;
        for service in &dirty.services {
            self.update_service(service, &mut touched);
            known_changed |= self.update_known_hosts(service);
        }
        for name in &dirty.endpoints {
            self.update_endpoints(name, &mut touched);
        }
        for addr in &dirty.addresses {
            ranges_changed |= self.update_workload(*addr, &mut touched);
        }
        for owner in &dirty.owners {
            self.update_callers(owner, &mut touched);
        }
        if known_changed || (ranges_changed && self.config.derive_cidrs) {
            self.update_settings(&mut touched);
        }
        (self.translated(), touched)
    }

    /// Sets the mesh's root certificates (DER): those in use and, during a rotation, the next one. Their order is kept,
    /// so it must be the same on all replicas. None at all: the bundle is held.
    pub fn set_trust_roots(&mut self, roots: Vec<Vec<u8>>) -> (Arc<Translated>, Touched) {
        let name = self.config.trust_domain.clone();
        let bundle = (!roots.is_empty()).then(|| Arc::new(trust_bundle(&name, roots)));
        let mut touched = Touched::default();
        if self.current.trust != bundle {
            self.current.trust = bundle;
            touched.name(type_url::TRUST_BUNDLE, name);
        }
        (self.translated(), touched)
    }

    /// Returns whether the derived ranges changed.
    fn update_vip(&mut self, vip: IpAddr, dirty: &mut Dirty, touched: &mut Touched) -> bool {
        let owner = kubernetes::vip_owner(vip, &self.model);
        let before = match &owner {
            Some(owner) => self.current.vips.insert(vip, owner.clone()),
            None => self.current.vips.remove(&vip),
        };
        if before == owner {
            return false;
        }
        touched.name(type_url::SERVICE, vip.to_string());
        let changed = match (&before, &owner) {
            (None, Some(_)) => self.ranges.add(vip),
            (Some(_), None) => self.ranges.remove(vip),
            _ => false,
        };
        dirty.services.extend(before.into_iter().chain(owner));
        changed
    }

    fn update_route(&mut self, key: &ObjectKey, dirty: &mut Dirty, touched: &mut Touched) {
        let after = self.model.route(key).map(|route| {
            let rivals = |service: &ServiceName| self.analyses(service).collect::<Vec<_>>();
            gateway_api::analyse(route, &self.model, &self.config, rivals)
        });
        let before = self.routes.remove(key);
        if before != after {
            dirty.services.extend([&before, &after].into_iter().flatten().flat_map(Analysis::services).cloned());
        }
        if before.as_ref().map(Analysis::claim) != after.as_ref().map(Analysis::claim) {
            for service in [&before, &after].into_iter().flatten().flat_map(Analysis::services) {
                dirty.routes.extend(self.behind(key.kind, service));
            }
        }
        let status = after.as_ref().and_then(|analysis| analysis.status.clone());
        if status.is_some() != self.current.statuses.get(key).is_some() {
            dirty.limits_of(key, &self.model);
        }
        self.set_status(key, status, touched);
        if let Some(after) = after {
            self.routes.insert(key.clone(), after);
        }
    }

    fn update_policy(&mut self, name: &ObjectName, touched: &mut Touched) {
        let policy = self.model.backend_tls_policy(name);
        let status = policy.and_then(|policy| backend_tls::status(policy, &self.model));
        self.set_status(&ObjectKey { kind: Kind::BackendTlsPolicy, name: name.clone() }, status, touched);
    }

    fn update_own(&mut self, key: &ObjectKey, touched: &mut Touched) {
        let routed = |route: &ObjectKey| self.current.statuses.get(route).is_some();
        let after = own::accepted(key, &self.model, routed).map(Arc::new);
        let before = match &after {
            Some(after) => self.current.own.insert(key.clone(), after.clone()),
            None => self.current.own.remove(key),
        };
        if before != after {
            touched.statuses.insert(key.clone());
        }
    }

    fn set_status(&mut self, key: &ObjectKey, status: Option<RouteStatus>, touched: &mut Touched) {
        if self.current.statuses.get(key).map(|status| &**status) == status.as_ref() {
            return;
        }
        touched.statuses.insert(key.clone());
        match status {
            Some(status) => drop(self.current.statuses.insert(key.clone(), Arc::new(status))),
            None => drop(self.current.statuses.remove(key)),
        }
    }

    /// What is known of the routes with a parentRef to a Service.
    fn analyses(&self, service: &ServiceName) -> impl Iterator<Item = &Analysis> {
        let name = ObjectName::new(&*service.namespace, &*service.name);
        let routes: Vec<_> = self.model.routes_with_parent(&name).collect();
        routes.into_iter().filter_map(|route| self.routes.get(&route.key()))
    }

    /// The routes with a parentRef to a Service whose kind a route of kind `kind` goes before.
    fn behind(&self, kind: Kind, service: &ServiceName) -> Vec<ObjectKey> {
        let name = ObjectName::new(&*service.namespace, &*service.name);
        let routes = self.model.routes_with_parent(&name);
        routes.filter(|route| gateway_api::goes_before(kind, route.kind)).map(|route| route.key()).collect()
    }

    fn update_service(&mut self, name: &ServiceName, touched: &mut Touched) {
        let object = ObjectName::new(&*name.namespace, &*name.name);
        let after = self.model.service(&object).map(|service| Arc::new(self.service_forms(name, service)));
        let before = match &after {
            Some(after) => self.current.services.insert(name.clone(), after.clone()),
            None => self.current.services.remove(name),
        };
        if before == after {
            return;
        }
        touched.name(type_url::SERVICE, name.to_string());
        let aliases = |forms: Option<&Arc<ServiceForms>>| -> BTreeSet<String> {
            forms.into_iter().flat_map(|forms| forms.all()).flat_map(|form| form.aliases.iter().cloned()).collect()
        };
        for alias in aliases(before.as_ref()).symmetric_difference(&aliases(after.as_ref())) {
            touched.name(type_url::SERVICE, &**alias);
        }
    }

    /// Returns whether they changed.
    fn update_known_hosts(&mut self, name: &ServiceName) -> bool {
        let service = self.model.service(&ObjectName::new(&*name.namespace, &*name.name));
        let hosts = service.map_or_else(Vec::new, |service| kubernetes::known_hosts(service, &self.config));
        self.known.set(name, hosts)
    }

    fn service_forms(&self, name: &ServiceName, service: &Service) -> ServiceForms {
        let routes: Vec<&Analysis> = self.analyses(name).collect();
        kubernetes::service_forms(
            service,
            &self.model,
            &self.config,
            |vip| self.current.vips.get(&vip) == Some(name),
            gateway_api::consumer_namespaces(name, &routes).into_iter().map(str::to_owned),
            |client, port| gateway_api::routed_port(name, port, client, &routes),
        )
    }

    fn update_endpoints(&mut self, name: &EndpointsName, touched: &mut Touched) {
        let after = kubernetes::endpoints(name, &self.model, &self.config).map(Arc::new);
        let before = match &after {
            Some(after) => self.current.endpoints.insert(name.clone(), after.clone()),
            None => self.current.endpoints.remove(name),
        };
        if before != after {
            touched.name(type_url::ENDPOINTS, name.to_string());
        }
    }

    /// Returns whether the derived ranges changed.
    fn update_workload(&mut self, addr: IpAddr, touched: &mut Touched) -> bool {
        let after = kubernetes::workload(addr, &self.model, &self.config).map(Arc::new);
        let before = match &after {
            Some(after) => self.current.workloads.insert(addr, after.clone()),
            None => self.current.workloads.remove(&addr),
        };
        if before == after {
            return false;
        }
        touched.own.insert(addr);
        if before.as_ref().map(|entry| &entry.workload) != after.as_ref().map(|entry| &entry.workload) {
            touched.name(type_url::WORKLOAD, addr.to_string());
        }
        match (before.is_some(), after.is_some()) {
            (false, true) => self.ranges.add(addr),
            (true, false) => self.ranges.remove(addr),
            _ => false,
        }
    }

    fn update_callers(&mut self, owner: &ObjectName, touched: &mut Touched) {
        let callers = kubernetes::callers(owner, &self.model);
        let after = Bytes::from(Workload { callers, ..Workload::default() }.encode_to_vec());
        if self.current.callers.get(owner).map_or(&[][..], |before| before) == after {
            return;
        }
        touched.own.extend(self.model.pods_of(owner).flat_map(|pod| &pod.addresses));
        if after.is_empty() {
            self.current.callers.remove(owner);
        } else {
            self.current.callers.insert(owner.clone(), after);
        }
    }

    fn update_settings(&mut self, touched: &mut Touched) {
        let derived = self.ranges.ranges().filter(|_| self.config.derive_cidrs);
        let after = settings::resource(&self.config, derived, &self.known);
        if *self.current.settings != after {
            self.current.settings = Arc::new(after);
            touched.name(type_url::MESH_SETTINGS, MESH_SETTINGS);
        }
    }
}

fn trust_bundle(trust_domain: &str, roots: Vec<Vec<u8>>) -> Resource {
    let message = TrustBundle { trust_domain: trust_domain.to_owned(), roots };
    Resource::new(type_url::TRUST_BUNDLE, trust_domain.to_owned(), Vec::new(), &message)
}

/// The version under which proxies get the trust bundle of these root certificates (DER).
pub fn trust_bundle_version(trust_domain: &str, roots: Vec<Vec<u8>>) -> String {
    trust_bundle(trust_domain, roots).version
}
