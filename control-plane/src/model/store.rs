//! The [`Model`]: objects by name, and indexes for every question `translate/` asks when one of them changes (`queries.rs`).
//!
//! An index maps what an object mentions to the names of the objects that mention it. It is kept by one rule: what
//! `Model::index` lists for an object is there exactly while the object is.

mod queries;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::{
    BackendPolicy, BackendTlsPolicy, ConfigMap, EndpointSlice, FaultInjection, GrpcRoute, HttpRoute, HttpRouteRule,
    Kind, Namespace, Node, Object, ObjectName, ParentRef, PeerAuthentication, Pod, RateLimit, Route, Service, TcpRoute,
    TlsRoute, TrafficPolicy,
};

/// The key of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
}

impl From<(Kind, ObjectName)> for ObjectKey {
    fn from((kind, name): (Kind, ObjectName)) -> Self {
        Self { kind, name }
    }
}

/// What changed at once: seen by proxies together or not at all. Removals come first, so an object that is in both is
/// there afterwards; of two upserts of one object the later counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Objects that are gone.
    pub removes: Vec<ObjectKey>,
    /// Objects that are new or changed. Unchanged ones cost a comparison.
    pub upserts: Vec<Object>,
}

/// One object that is not what it was. What it is now, the [`Model`] knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which.
    pub key: ObjectKey,
    /// What it was; `None` when it is new.
    pub before: Option<Object>,
}

/// Names by what they mention.
#[derive(Debug)]
struct Index<K>(HashMap<K, BTreeSet<ObjectName>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Index<K> {
    fn set(&mut self, key: K, name: &ObjectName, present: bool) {
        if present {
            self.0.entry(key).or_default().insert(name.clone());
        } else if let Some(names) = self.0.get_mut(&key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    fn get<'a, Q>(&'a self, key: &Q) -> impl Iterator<Item = &'a ObjectName> + use<'a, K, Q>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(key).into_iter().flatten()
    }
}

/// All objects, indexed.
#[derive(Debug, Default)]
pub struct Model {
    namespaces: HashMap<ObjectName, Namespace>,
    services: HashMap<ObjectName, Service>,
    backend_policies: HashMap<ObjectName, BackendPolicy>,
    slices: HashMap<ObjectName, EndpointSlice>,
    pods: HashMap<ObjectName, Pod>,
    nodes: HashMap<ObjectName, Node>,
    fault_injections: HashMap<ObjectName, FaultInjection>,
    rate_limits: HashMap<ObjectName, RateLimit>,
    routes: HashMap<ObjectName, HttpRoute>,
    grpc_routes: HashMap<ObjectName, GrpcRoute>,
    tls_routes: HashMap<ObjectName, TlsRoute>,
    tcp_routes: HashMap<ObjectName, TcpRoute>,
    backend_tls_policies: HashMap<ObjectName, BackendTlsPolicy>,
    traffic_policies: HashMap<ObjectName, TrafficPolicy>,
    config_maps: HashMap<ObjectName, ConfigMap>,
    peer_authentications: HashMap<ObjectName, PeerAuthentication>,

    services_by_namespace: Index<String>,
    services_by_vip: Index<IpAddr>,
    backend_policies_by_service: Index<ObjectName>,
    slices_by_service: Index<ObjectName>,
    slices_by_pod: Index<ObjectName>,
    slices_by_address: Index<IpAddr>,
    slices_by_node: Index<String>,
    pods_by_namespace: Index<String>,
    pods_by_address: Index<IpAddr>,
    pods_by_node: Index<String>,
    pods_by_owner: Index<ObjectName>,
    routes_by_parent: Index<ObjectName>,
    routes_by_backend: Index<ObjectName>,
    rate_limits_by_target: Index<ObjectKey>,
    routes_by_fault: Index<ObjectName>,
    grpc_routes_by_fault: Index<ObjectName>,
    grpc_routes_by_parent: Index<ObjectName>,
    grpc_routes_by_backend: Index<ObjectName>,
    tls_routes_by_parent: Index<ObjectName>,
    tls_routes_by_backend: Index<ObjectName>,
    tcp_routes_by_parent: Index<ObjectName>,
    tcp_routes_by_backend: Index<ObjectName>,
    backend_tls_policies_by_service: Index<ObjectName>,
    backend_tls_policies_by_config_map: Index<ObjectName>,
    traffic_policies_by_service: Index<ObjectName>,
    peer_authentications_by_namespace: Index<String>,
}

impl Model {
    /// Takes in a batch and says what is not as it was.
    pub fn apply(&mut self, batch: Batch) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in batch.removes {
            if let Some(before) = self.take(&key) {
                self.index(&before, false);
                changes.push(Change { key, before: Some(before) });
            }
        }
        for object in batch.upserts {
            let key = object.key();
            if self.holds(&object) {
                continue;
            }
            let before = self.take(&key);
            if let Some(before) = &before {
                self.index(before, false);
            }
            self.index(&object, true);
            self.put(object);
            changes.push(Change { key, before });
        }
        changes
    }

    fn holds(&self, object: &Object) -> bool {
        match object {
            Object::Namespace(new) => self.namespaces.get(&new.meta.name) == Some(new),
            Object::Service(new) => self.services.get(&new.meta.name) == Some(new),
            Object::BackendPolicy(new) => self.backend_policies.get(&new.meta.name) == Some(new),
            Object::EndpointSlice(new) => self.slices.get(&new.meta.name) == Some(new),
            Object::Pod(new) => self.pods.get(&new.meta.name) == Some(new),
            Object::Node(new) => self.nodes.get(&new.meta.name) == Some(new),
            Object::FaultInjection(new) => self.fault_injections.get(&new.meta.name) == Some(new),
            Object::RateLimit(new) => self.rate_limits.get(&new.meta.name) == Some(new),
            Object::GrpcRoute(new) => self.grpc_routes.get(&new.meta.name) == Some(new),
            Object::HttpRoute(new) => self.routes.get(&new.meta.name) == Some(new),
            Object::TlsRoute(new) => self.tls_routes.get(&new.meta.name) == Some(new),
            Object::TcpRoute(new) => self.tcp_routes.get(&new.meta.name) == Some(new),
            Object::BackendTlsPolicy(new) => self.backend_tls_policies.get(&new.meta.name) == Some(new),
            Object::TrafficPolicy(new) => self.traffic_policies.get(&new.meta.name) == Some(new),
            Object::ConfigMap(new) => self.config_maps.get(&new.meta.name) == Some(new),
            Object::PeerAuthentication(new) => self.peer_authentications.get(&new.meta.name) == Some(new),
        }
    }

    fn put(&mut self, object: Object) {
        let name = object.meta().name.clone();
        match object {
            Object::Namespace(new) => drop(self.namespaces.insert(name, new)),
            Object::Service(new) => drop(self.services.insert(name, new)),
            Object::BackendPolicy(new) => drop(self.backend_policies.insert(name, new)),
            Object::EndpointSlice(new) => drop(self.slices.insert(name, new)),
            Object::Pod(new) => drop(self.pods.insert(name, new)),
            Object::Node(new) => drop(self.nodes.insert(name, new)),
            Object::FaultInjection(new) => drop(self.fault_injections.insert(name, new)),
            Object::RateLimit(new) => drop(self.rate_limits.insert(name, new)),
            Object::GrpcRoute(new) => drop(self.grpc_routes.insert(name, new)),
            Object::HttpRoute(new) => drop(self.routes.insert(name, new)),
            Object::TlsRoute(new) => drop(self.tls_routes.insert(name, new)),
            Object::TcpRoute(new) => drop(self.tcp_routes.insert(name, new)),
            Object::BackendTlsPolicy(new) => drop(self.backend_tls_policies.insert(name, new)),
            Object::TrafficPolicy(new) => drop(self.traffic_policies.insert(name, new)),
            Object::ConfigMap(new) => drop(self.config_maps.insert(name, new)),
            Object::PeerAuthentication(new) => drop(self.peer_authentications.insert(name, new)),
        }
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Object> {
        let name = &key.name;
        match key.kind {
            Kind::Namespace => self.namespaces.remove(name).map(Object::Namespace),
            Kind::Service => self.services.remove(name).map(Object::Service),
            Kind::BackendPolicy => self.backend_policies.remove(name).map(Object::BackendPolicy),
            Kind::EndpointSlice => self.slices.remove(name).map(Object::EndpointSlice),
            Kind::Pod => self.pods.remove(name).map(Object::Pod),
            Kind::Node => self.nodes.remove(name).map(Object::Node),
            Kind::FaultInjection => self.fault_injections.remove(name).map(Object::FaultInjection),
            Kind::RateLimit => self.rate_limits.remove(name).map(Object::RateLimit),
            Kind::GrpcRoute => self.grpc_routes.remove(name).map(Object::GrpcRoute),
            Kind::HttpRoute => self.routes.remove(name).map(Object::HttpRoute),
            Kind::TlsRoute => self.tls_routes.remove(name).map(Object::TlsRoute),
            Kind::TcpRoute => self.tcp_routes.remove(name).map(Object::TcpRoute),
            Kind::BackendTlsPolicy => self.backend_tls_policies.remove(name).map(Object::BackendTlsPolicy),
            Kind::TrafficPolicy => self.traffic_policies.remove(name).map(Object::TrafficPolicy),
            Kind::ConfigMap => self.config_maps.remove(name).map(Object::ConfigMap),
            Kind::PeerAuthentication => self.peer_authentications.remove(name).map(Object::PeerAuthentication),
        }
    }

    /// Adds an object to the indexes, or takes it out. One function for both, so that they cannot differ.
    fn index(&mut self, object: &Object, present: bool) {
        let name = &object.meta().name;
        match object {
            Object::Namespace(_) | Object::Node(_) | Object::ConfigMap(_) | Object::FaultInjection(_) => {}
            Object::Service(service) => {
                self.services_by_namespace.set(name.namespace.clone(), name, present);
                for vip in &service.vips {
                    self.services_by_vip.set(*vip, name, present);
                }
            }
            Object::BackendPolicy(policy) => {
                for service in policy.services() {
                    self.backend_policies_by_service.set(service, name, present);
                }
            }
            Object::EndpointSlice(slice) => {
                self.slices_by_service.set(ObjectName::new(&*name.namespace, &*slice.service), name, present);
                for endpoint in &slice.endpoints {
                    if let Some(pod) = &endpoint.pod {
                        self.slices_by_pod.set(ObjectName::new(&*name.namespace, &**pod), name, present);
                    }
                    for addr in &endpoint.addresses {
                        self.slices_by_address.set(*addr, name, present);
                    }
                    if !endpoint.node.is_empty() {
                        self.slices_by_node.set(endpoint.node.clone(), name, present);
                    }
                }
            }
            Object::Pod(pod) => {
                self.pods_by_namespace.set(name.namespace.clone(), name, present);
                self.pods_by_owner.set(pod.owner_name(), name, present);
                for addr in &pod.addresses {
                    self.pods_by_address.set(*addr, name, present);
                }
                if !pod.node.is_empty() {
                    self.pods_by_node.set(pod.node.clone(), name, present);
                }
            }
            Object::RateLimit(limit) => {
                for target in &limit.targets {
                    self.rate_limits_by_target.set(target.object.clone(), name, present);
                }
            }
            Object::GrpcRoute(route) => {
                let (by_parent, by_backend) = (&mut self.grpc_routes_by_parent, &mut self.grpc_routes_by_backend);
                index_route(Route::from(route), by_parent, by_backend, present);
                index_faults(Route::from(route), &mut self.grpc_routes_by_fault, present);
            }
            Object::HttpRoute(route) => {
                let (by_parent, by_backend) = (&mut self.routes_by_parent, &mut self.routes_by_backend);
                index_route(Route::from(route), by_parent, by_backend, present);
                index_faults(Route::from(route), &mut self.routes_by_fault, present);
            }
            Object::TlsRoute(route) => {
                let (by_parent, by_backend) = (&mut self.tls_routes_by_parent, &mut self.tls_routes_by_backend);
                index_route(Route::from(route), by_parent, by_backend, present);
            }
            Object::TcpRoute(route) => {
                let (by_parent, by_backend) = (&mut self.tcp_routes_by_parent, &mut self.tcp_routes_by_backend);
                index_route(Route::from(route), by_parent, by_backend, present);
            }
            Object::BackendTlsPolicy(policy) => {
                for service in policy.services() {
                    self.backend_tls_policies_by_service.set(service, name, present);
                }
                for config_map in policy.config_maps() {
                    self.backend_tls_policies_by_config_map.set(config_map, name, present);
                }
            }
            Object::TrafficPolicy(policy) => {
                for service in policy.services() {
                    self.traffic_policies_by_service.set(service, name, present);
                }
            }
            Object::PeerAuthentication(_) => {
                self.peer_authentications_by_namespace.set(name.namespace.clone(), name, present);
            }
        }
    }
}

/// Adds a route of one kind to that kind's indexes, or takes it out.
fn index_route(route: Route<'_>, by_parent: &mut Index<ObjectName>, by_backend: &mut Index<ObjectName>, present: bool) {
    let name = &route.meta.name;
    for parent in route.parents {
        by_parent.set(parent_name(parent, name), name, present);
    }
    for backend in route.rules.iter().flat_map(HttpRouteRule::backend_refs) {
        let backend = ObjectName::new(&*backend.namespace, &*backend.name);
        by_backend.set(backend, name, present);
    }
}

/// The same of the FaultInjections that a route names.
fn index_faults(route: Route<'_>, by_fault: &mut Index<ObjectName>, present: bool) {
    for reference in route.rules.iter().flat_map(HttpRouteRule::extension_refs) {
        if reference.is_fault_injection() {
            by_fault.set(reference.name.clone(), &route.meta.name, present);
        }
    }
}

/// What a parentRef names, whatever its kind.
fn parent_name(parent: &ParentRef, route: &ObjectName) -> ObjectName {
    ObjectName::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &*parent.name)
}

/// Whether labels have everything a selector asks for. An empty selector asks for nothing.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Age, Meta};

    fn pod(name: &str, addresses: &[&str], node: &str) -> Object {
        Object::Pod(Pod {
            meta: Meta {
                name: ObjectName::new("shop", name),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                generation: 1,
                age: Age(0, String::new(), 0),
            },
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
            service_account: "default".to_owned(),
            host_network: false,
            node: node.to_owned(),
            ports: Vec::new(),
            finished: false,
            ready: true,
            terminating: false,
            owner: name.to_owned(),
        })
    }

    fn upsert(objects: &[Object]) -> Batch {
        Batch { upserts: objects.to_vec(), ..Batch::default() }
    }

    #[test]
    fn an_unchanged_object_is_no_change() {
        let mut model = Model::default();
        let a = pod("a", &["10.0.0.1"], "n1");
        assert_eq!(model.apply(upsert(std::slice::from_ref(&a))), [Change { key: a.key(), before: None }]);
        assert_eq!(model.apply(upsert(std::slice::from_ref(&a))), []);
    }

    #[test]
    fn an_index_forgets_what_an_object_no_longer_mentions() {
        let mut model = Model::default();
        let (old, new) = (pod("a", &["10.0.0.1"], "n1"), pod("a", &["10.0.0.2"], ""));
        model.apply(upsert(std::slice::from_ref(&old)));
        assert_eq!(model.apply(upsert(std::slice::from_ref(&new))), [Change { key: old.key(), before: Some(old) }]);
        let at = |model: &Model, addr: &str| model.pods_with_address(addr.parse().unwrap()).count();
        assert_eq!((at(&model, "10.0.0.1"), at(&model, "10.0.0.2"), model.pods_on_node("n1").count()), (0, 1, 0));
        model.apply(Batch { removes: vec![new.key()], ..Batch::default() });
        assert_eq!((at(&model, "10.0.0.2"), model.pods_in("shop").count()), (0, 0));
        assert!(model.pods_by_address.0.is_empty() && model.pods_by_namespace.0.is_empty());
    }

    #[test]
    fn an_object_both_removed_and_upserted_is_there_afterwards() {
        let mut model = Model::default();
        let a = pod("a", &["10.0.0.1"], "n1");
        model.apply(upsert(std::slice::from_ref(&a)));
        model.apply(Batch { removes: vec![a.key()], upserts: vec![a.clone()] });
        assert!(model.pod(&a.key().name).is_some());
    }
}
