//! Which units a changed object marks.
//!
//! It is enough to look at the indexes *after* the whole batch: whatever linked a unit to this object before either still
//! does, or is itself an object that changed and marks the unit by what it was.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_proto::{EndpointsName, ServiceName};

use super::super::MeshConfig;
use super::super::kubernetes::{counted, selects_pod, zone_label};
use crate::model::{
    BackendPolicy, BackendTlsPolicy, Change, EndpointSlice, Kind, Model, Node, Object, ObjectKey, ObjectName,
    PeerAuthentication, Pod, RateLimit, Service, TrafficPolicy, selects,
};

/// Units to compute anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) vips: BTreeSet<IpAddr>,
    pub(super) routes: BTreeSet<ObjectKey>,
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) endpoints: BTreeSet<EndpointsName>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Of pods: who is told where they are.
    pub(super) owners: BTreeSet<ObjectName>,
    pub(super) policies: BTreeSet<ObjectName>,
    pub(super) traffic_policies: BTreeSet<ObjectName>,
    /// Whether objects of Weft's own kinds do what they say.
    pub(super) own: BTreeSet<ObjectKey>,
}

impl Dirty {
    /// Marks what depends on the object as it was and as the model has it now.
    pub(super) fn mark(&mut self, change: &Change, model: &Model, config: &MeshConfig) {
        let name = &change.key.name;
        let before = change.before.as_ref();
        match change.key.kind {
            // Nothing depends on it yet.
            Kind::Namespace => {}
            Kind::Service => {
                let before = before.and_then(|object| if let Object::Service(old) = object { Some(old) } else { None });
                for service in [before, model.service(name)].into_iter().flatten() {
                    self.service(service, model);
                }
            }
            Kind::BackendPolicy => {
                self.own.insert(change.key.clone());
                let before =
                    before.and_then(|object| if let Object::BackendPolicy(old) = object { Some(old) } else { None });
                for policy in [before, model.backend_policy(name)].into_iter().flatten() {
                    self.backend_policy(policy, model);
                }
            }
            Kind::EndpointSlice => {
                if let Some(Object::EndpointSlice(old)) = before {
                    self.slice(old, model);
                }
                if let Some(slice) = model.slice(name) {
                    self.slice(slice, model);
                }
            }
            Kind::Pod => {
                let before = before.and_then(|object| if let Object::Pod(old) = object { Some(old) } else { None });
                let pods = [before, model.pod(name)];
                for pod in pods.into_iter().flatten() {
                    self.pod(pod, model);
                }
                // Pods change often, where they are hardly ever.
                let [before, after] = pods.map(|pod| pod.and_then(counted));
                if before != after {
                    self.owners.extend([before, after].into_iter().flatten().map(|(owner, _)| owner));
                }
            }
            Kind::Node => {
                let before = before.and_then(|object| if let Object::Node(old) = object { Some(old) } else { None });
                let zone = |node: Option<&Node>| node.and_then(zone_label).map(str::to_owned);
                // Nodes change often, their zone hardly ever.
                if zone(before) != zone(model.node(&name.name)) {
                    self.node(&name.name, model);
                }
            }
            Kind::GrpcRoute | Kind::HttpRoute | Kind::TlsRoute | Kind::TcpRoute => {
                // What it was is in the analysis that is replaced.
                self.routes.insert(change.key.clone());
            }
            Kind::BackendTlsPolicy => {
                self.policies.insert(name.clone());
                if let Some(Object::BackendTlsPolicy(old)) = before {
                    self.backend_tls_policy(old, model);
                }
                if let Some(policy) = model.backend_tls_policy(name) {
                    self.backend_tls_policy(policy, model);
                }
            }
            Kind::TrafficPolicy => {
                self.traffic_policies.insert(name.clone());
                if let Some(Object::TrafficPolicy(old)) = before {
                    self.traffic_policy(old, model);
                }
                if let Some(policy) = model.traffic_policy(name) {
                    self.traffic_policy(policy, model);
                }
            }
            Kind::ConfigMap => {
                for policy in model.backend_tls_policies_with(name) {
                    self.backend_tls_policy(policy, model);
                }
            }
            Kind::FaultInjection => {
                self.own.insert(change.key.clone());
                self.routes.extend(model.routes_with_fault(name).map(|route| route.key()));
            }
            Kind::RateLimit => {
                self.own.insert(change.key.clone());
                if let Some(Object::RateLimit(old)) = before {
                    self.rate_limit(old, model);
                }
                if let Some(limit) = model.rate_limit(name) {
                    self.rate_limit(limit, model);
                }
            }
            Kind::PeerAuthentication => {
                if let Some(Object::PeerAuthentication(old)) = before {
                    self.peer_authentication(old, model, config);
                }
                if let Some(policy) = model.peer_authentication(name) {
                    self.peer_authentication(policy, model, config);
                }
            }
        }
    }

    fn service(&mut self, service: &Service, model: &Model) {
        let name = &service.meta.name;
        let wire_name = ServiceName::new(&*name.namespace, &*name.name);
        self.vips.extend(&service.vips);
        self.endpoints.extend(service.ports.iter().map(|port| wire_name.endpoints(port.port)));
        self.services.insert(wire_name);
        let routes = model.routes_with_parent(name).chain(model.routes_with_backend(name));
        self.routes.extend(routes.map(|route| route.key()));
        self.policies.extend(model.backend_tls_policies_for(name).map(|policy| policy.meta.name.clone()));
        self.traffic_policies.extend(model.traffic_policies_for(name).map(|policy| policy.meta.name.clone()));
        self.backend_policies_of(name, model);
        self.limits_of(&ObjectKey { kind: Kind::Service, name: name.clone() }, model);
        // Its ports declare what its pods' ports speak.
        if !service.selector.is_empty() {
            let pods = model.pods_in(&name.namespace).filter(|pod| selects_pod(service, pod));
            self.addresses.extend(pods.flat_map(|pod| &pod.addresses));
        }
    }

    /// Of its Services and of the routes to them: endpoints know nothing of it.
    fn backend_policy(&mut self, policy: &BackendPolicy, model: &Model) {
        for name in policy.services() {
            self.backend_policies_of(&name, model);
            self.routes.extend(model.routes_with_backend(&name).map(|route| route.key()));
            self.services.insert(ServiceName::new(name.namespace, name.name));
        }
    }

    /// Which of them counts for the Service.
    fn backend_policies_of(&mut self, service: &ObjectName, model: &Model) {
        let key = |policy: &BackendPolicy| ObjectKey { kind: Kind::BackendPolicy, name: policy.meta.name.clone() };
        self.own.extend(model.backend_policies_of(service).map(key));
    }

    /// The RateLimits that name it: whether it is there.
    pub(super) fn limits_of(&mut self, target: &ObjectKey, model: &Model) {
        let key = |limit: &RateLimit| ObjectKey { kind: Kind::RateLimit, name: limit.meta.name.clone() };
        self.own.extend(model.rate_limits_of(target).map(key));
    }

    /// Which of several policies acts on a Service, and what that says, travels with the Service and with whatever leads there.
    fn backend_tls_policy(&mut self, policy: &BackendTlsPolicy, model: &Model) {
        for service in policy.services() {
            self.policies.extend(model.backend_tls_policies_for(&service).map(|policy| policy.meta.name.clone()));
            self.routes.extend(model.routes_with_backend(&service).map(|route| route.key()));
            self.services.insert(ServiceName::new(service.namespace, service.name));
        }
    }

    /// As a BackendTLSPolicy.
    fn traffic_policy(&mut self, policy: &TrafficPolicy, model: &Model) {
        for service in policy.services() {
            self.traffic_policies.extend(model.traffic_policies_for(&service).map(|policy| policy.meta.name.clone()));
            self.routes.extend(model.routes_with_backend(&service).map(|route| route.key()));
            self.services.insert(ServiceName::new(service.namespace, service.name));
        }
    }

    fn rate_limit(&mut self, limit: &RateLimit, model: &Model) {
        // A Service that changed with it marks its own pods; a route's limits are read with it.
        for target in limit.targets.iter().map(|target| &target.object) {
            if target.kind != Kind::Service {
                self.routes.insert(target.clone());
                continue;
            }
            let Some(service) = model.service(&target.name) else { continue };
            let pods = model.pods_in(&service.meta.name.namespace).filter(|pod| selects_pod(service, pod));
            self.addresses.extend(pods.flat_map(|pod| &pod.addresses));
        }
    }

    fn slice(&mut self, slice: &EndpointSlice, model: &Model) {
        let name = ObjectName::new(&*slice.meta.name.namespace, &*slice.service);
        // A Service that changed with it marks its own ports.
        if let Some(service) = model.service(&name) {
            let wire_name = ServiceName::new(name.namespace, name.name);
            self.endpoints.extend(service.ports.iter().map(|port| wire_name.endpoints(port.port)));
        }
    }

    fn pod(&mut self, pod: &Pod, model: &Model) {
        self.addresses.extend(&pod.addresses);
        let by_address = pod.addresses.iter().flat_map(|addr| model.slices_with_address(*addr));
        for slice in model.slices_naming_pod(&pod.meta.name).chain(by_address) {
            self.slice(slice, model);
        }
    }

    fn node(&mut self, node: &str, model: &Model) {
        for pod in model.pods_on_node(node) {
            self.owners.insert(pod.owner_name());
            self.pod(pod, model);
        }
        for slice in model.slices_on_node(node) {
            self.slice(slice, model);
        }
    }

    fn peer_authentication(&mut self, policy: &PeerAuthentication, model: &Model, config: &MeshConfig) {
        let namespace = &policy.meta.name.namespace;
        if *namespace == config.root_namespace && policy.selector.is_empty() {
            for pod in model.pods() {
                self.pod(pod, model);
            }
        } else {
            for pod in model.pods_in(namespace).filter(|pod| selects(&policy.selector, &pod.meta.labels)) {
                self.pod(pod, model);
            }
        }
    }
}
