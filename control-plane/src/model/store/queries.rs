//! What is asked of the [`Model`]: an object by its name, or those that mention something.

use std::net::IpAddr;

use super::super::{
    BackendPolicy, BackendTlsPolicy, ConfigMap, EndpointSlice, FaultInjection, Kind, Namespace, Node, ObjectName,
    PeerAuthentication, Pod, RateLimit, Route, Service, TrafficPolicy,
};
use super::{Model, ObjectKey};

impl Model {
    /// A Namespace (its name's namespace is empty).
    pub fn namespace(&self, name: &ObjectName) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// A BackendPolicy.
    pub fn backend_policy(&self, name: &ObjectName) -> Option<&BackendPolicy> {
        self.backend_policies.get(name)
    }

    /// BackendPolicies that name this Service, by name.
    pub fn backend_policies_of(&self, service: &ObjectName) -> impl Iterator<Item = &BackendPolicy> {
        self.backend_policies_by_service.get(service).filter_map(|name| self.backend_policies.get(name))
    }

    /// An EndpointSlice.
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    /// A Pod.
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// A Node, by its bare name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", name))
    }

    /// A FaultInjection.
    pub fn fault_injection(&self, name: &ObjectName) -> Option<&FaultInjection> {
        self.fault_injections.get(name)
    }

    /// A RateLimit.
    pub fn rate_limit(&self, name: &ObjectName) -> Option<&RateLimit> {
        self.rate_limits.get(name)
    }

    /// RateLimits with a targetRef to this Service or route, by name.
    pub fn rate_limits_of(&self, target: &ObjectKey) -> impl Iterator<Item = &RateLimit> {
        self.rate_limits_by_target.get(target).filter_map(|name| self.rate_limits.get(name))
    }

    /// A route; `None` of any other kind.
    pub fn route(&self, key: &ObjectKey) -> Option<Route<'_>> {
        match key.kind {
            Kind::GrpcRoute => self.grpc_routes.get(&key.name).map(Route::from),
            Kind::HttpRoute => self.routes.get(&key.name).map(Route::from),
            Kind::TlsRoute => self.tls_routes.get(&key.name).map(Route::from),
            Kind::TcpRoute => self.tcp_routes.get(&key.name).map(Route::from),
            _ => None,
        }
    }

    /// A BackendTLSPolicy.
    pub fn backend_tls_policy(&self, name: &ObjectName) -> Option<&BackendTlsPolicy> {
        self.backend_tls_policies.get(name)
    }

    /// A ConfigMap.
    pub fn config_map(&self, name: &ObjectName) -> Option<&ConfigMap> {
        self.config_maps.get(name)
    }

    /// BackendTLSPolicies that target this Service or a port of it, by name.
    pub fn backend_tls_policies_for(&self, service: &ObjectName) -> impl Iterator<Item = &BackendTlsPolicy> {
        let names = self.backend_tls_policies_by_service.get(service);
        names.filter_map(|name| self.backend_tls_policies.get(name))
    }

    /// BackendTLSPolicies that name this ConfigMap, by name.
    pub fn backend_tls_policies_with(&self, config_map: &ObjectName) -> impl Iterator<Item = &BackendTlsPolicy> {
        let names = self.backend_tls_policies_by_config_map.get(config_map);
        names.filter_map(|name| self.backend_tls_policies.get(name))
    }

    /// An XBackendTrafficPolicy.
    pub fn traffic_policy(&self, name: &ObjectName) -> Option<&TrafficPolicy> {
        self.traffic_policies.get(name)
    }

    /// XBackendTrafficPolicies that target this Service, by name.
    pub fn traffic_policies_for(&self, service: &ObjectName) -> impl Iterator<Item = &TrafficPolicy> {
        self.traffic_policies_by_service.get(service).filter_map(|name| self.traffic_policies.get(name))
    }

    /// A PeerAuthentication.
    pub fn peer_authentication(&self, name: &ObjectName) -> Option<&PeerAuthentication> {
        self.peer_authentications.get(name)
    }

    /// Services of a namespace, by name.
    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.services_by_namespace.get(namespace).filter_map(|name| self.services.get(name))
    }

    /// Services that list this VIP, by name.
    pub fn services_with_vip(&self, vip: IpAddr) -> impl Iterator<Item = &Service> {
        self.services_by_vip.get(&vip).filter_map(|name| self.services.get(name))
    }

    /// Slices of a Service, by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_by_service.get(service).filter_map(|name| self.slices.get(name))
    }

    /// Slices with an endpoint whose `targetRef` is this Pod.
    pub fn slices_naming_pod(&self, pod: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_by_pod.get(pod).filter_map(|name| self.slices.get(name))
    }

    /// Slices with an endpoint at this address.
    pub fn slices_with_address(&self, addr: IpAddr) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_by_address.get(&addr).filter_map(|name| self.slices.get(name))
    }

    /// Slices with an endpoint on this Node.
    pub fn slices_on_node(&self, node: &str) -> impl Iterator<Item = &EndpointSlice> {
        self.slices_by_node.get(node).filter_map(|name| self.slices.get(name))
    }

    /// Pods of a namespace, by name.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        self.pods_by_namespace.get(namespace).filter_map(|name| self.pods.get(name))
    }

    /// Every Pod, in no particular order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Pods that have or had this address, by name.
    pub fn pods_with_address(&self, addr: IpAddr) -> impl Iterator<Item = &Pod> {
        self.pods_by_address.get(&addr).filter_map(|name| self.pods.get(name))
    }

    /// Pods on a Node, by name.
    pub fn pods_on_node(&self, node: &str) -> impl Iterator<Item = &Pod> {
        self.pods_by_node.get(node).filter_map(|name| self.pods.get(name))
    }

    /// Pods of an owner (Deployment, StatefulSet …), by name.
    pub fn pods_of(&self, owner: &ObjectName) -> impl Iterator<Item = &Pod> {
        self.pods_by_owner.get(owner).filter_map(|name| self.pods.get(name))
    }

    /// Routes with a parentRef to this Service, whether it is good or not.
    pub fn routes_with_parent(&self, service: &ObjectName) -> impl Iterator<Item = Route<'_>> {
        let grpc = self.grpc_routes_by_parent.get(service).filter_map(|name| self.grpc_routes.get(name));
        let http = self.routes_by_parent.get(service).filter_map(|name| self.routes.get(name));
        let tls = self.tls_routes_by_parent.get(service).filter_map(|name| self.tls_routes.get(name));
        let tcp = self.tcp_routes_by_parent.get(service).filter_map(|name| self.tcp_routes.get(name));
        let of_requests = grpc.map(Route::from).chain(http.map(Route::from));
        of_requests.chain(tls.map(Route::from)).chain(tcp.map(Route::from))
    }

    /// Routes with a backendRef to this Service, whether it is good or not.
    pub fn routes_with_backend(&self, service: &ObjectName) -> impl Iterator<Item = Route<'_>> {
        let grpc = self.grpc_routes_by_backend.get(service).filter_map(|name| self.grpc_routes.get(name));
        let http = self.routes_by_backend.get(service).filter_map(|name| self.routes.get(name));
        let tls = self.tls_routes_by_backend.get(service).filter_map(|name| self.tls_routes.get(name));
        let tcp = self.tcp_routes_by_backend.get(service).filter_map(|name| self.tcp_routes.get(name));
        let of_requests = grpc.map(Route::from).chain(http.map(Route::from));
        of_requests.chain(tls.map(Route::from)).chain(tcp.map(Route::from))
    }

    /// Routes with a filter that names this FaultInjection, whether it is there or not.
    pub fn routes_with_fault(&self, fault: &ObjectName) -> impl Iterator<Item = Route<'_>> {
        let grpc = self.grpc_routes_by_fault.get(fault).filter_map(|name| self.grpc_routes.get(name));
        let http = self.routes_by_fault.get(fault).filter_map(|name| self.routes.get(name));
        grpc.map(Route::from).chain(http.map(Route::from))
    }

    /// PeerAuthentications of a namespace, by name.
    pub fn peer_authentications_in(&self, namespace: &str) -> impl Iterator<Item = &PeerAuthentication> {
        self.peer_authentications_by_namespace.get(namespace).filter_map(|name| self.peer_authentications.get(name))
    }
}
