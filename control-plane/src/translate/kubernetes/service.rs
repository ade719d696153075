//! The `Service` resource, in one form per view.
//!
//! Hosts: `name.ns.svc.CLUSTER-DOMAIN`, `name.ns.svc`, `name.ns`, and for clients in the Service's own namespace `name`.
//! A VIP that several Services list is the oldest one's alone. A headless Service has hosts and ports and no VIP; its pods
//! are reached as `Workload`s or, through a route, as endpoints.
//!
//! An ExternalName has no VIP either: the app resolves the CNAME and dials an address that is not ours, so what says that
//! this Service is meant is the host it asks for ([`known_hosts`]; SEMANTICS.md §1, outbound lookup 3). Without ports there
//! is nothing to say about it, and one whose name is the cluster's own leads to another Service's VIP by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::v1::{self, BackendPolicy, ConnectionRoutes, RouteEntry, RouteRule};
use weft_proto::{ServiceName, type_url};

use super::super::translated::ServiceForms;
use super::super::{MeshConfig, Resource, backend_tls, traffic_policy};
use super::protocol;
use crate::model::{Model, Service, ServiceKind, ServicePort};

/// What routes make of one port for one view.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct RoutedPort {
    /// What the port is taken to speak where it declares nothing.
    pub(in super::super) protocol: v1::Protocol,
    pub(in super::super) entries: Vec<RouteEntry>,
    pub(in super::super) rules: Vec<RouteRule>,
    /// Instead of both, where routes are of whole connections.
    pub(in super::super) connections: Option<ConnectionRoutes>,
}

/// Who answers at a VIP: the oldest Service that lists it, then by name.
pub(in super::super) fn vip_owner(vip: IpAddr, model: &Model) -> Option<ServiceName> {
    model
        .services_with_vip(vip)
        .filter(|service| service.kind == ServiceKind::ClusterIp)
        .min_by(|a, b| (&a.meta.age, &a.meta.name).cmp(&(&b.meta.age, &b.meta.name)))
        .map(|service| ServiceName::new(&*service.meta.name.namespace, &*service.meta.name.name))
}

/// Every form of a Service. `owns` says which of the VIPs it lists are its; `namespaces` are those with consumer routes;
/// `routed` gives what routes make of a port for clients of a namespace (`None`: no route is attached).
pub(in super::super) fn service_forms(
    service: &Service,
    model: &Model,
    config: &MeshConfig,
    owns: impl Fn(IpAddr) -> bool,
    namespaces: impl IntoIterator<Item = String>,
    routed: impl Fn(Option<&str>, u16) -> Option<RoutedPort>,
) -> ServiceForms {
    let own = &service.meta.name.namespace;
    let mut vips: Vec<IpAddr> = match service.kind {
        ServiceKind::ClusterIp => service.vips.iter().copied().filter(|vip| owns(*vip)).collect(),
        ServiceKind::Headless | ServiceKind::ExternalName(_) => Vec::new(),
    };
    vips.sort_unstable();
    vips.dedup();
    let form = |namespace: Option<&str>| Arc::new(form(service, model, config, &vips, namespace, &routed));
    let by_namespace: BTreeMap<_, _> =
        namespaces.into_iter().chain([own.clone()]).map(|view| (view.clone(), form(Some(&view)))).collect();
    ServiceForms { default: form(None), by_namespace }
}

fn form(
    service: &Service,
    model: &Model,
    config: &MeshConfig,
    vips: &[IpAddr],
    view: Option<&str>,
    routed: &impl Fn(Option<&str>, u16) -> Option<RoutedPort>,
) -> Resource {
    let (namespace, name) = (&service.meta.name.namespace, &service.meta.name.name);
    let mut hosts = hosts(namespace, name, config);
    if view == Some(namespace) {
        hosts.push(name.clone());
    }
    hosts.sort_unstable();

    let mut ports: Vec<_> = match &service.kind {
        ServiceKind::ExternalName(external) if in_cluster(external, config) => Vec::new(),
        _ => service.ports.iter().collect(),
    };
    // The API server refuses two TCP ports of one number; the files source cannot, so the first counts.
    ports.sort_by_key(|port| port.port);
    ports.dedup_by_key(|port| port.port);
    let ports = ports.into_iter().map(|port| {
        let routes = routed(view, port.port);
        let routed = routes.as_ref().map(|routes| routes.protocol);
        let protocol = protocol::with_defaults(protocol::declared(port), routed, port.port, config);
        let is_routed = routes.as_ref().is_some_and(|routes| routes.connections.is_none());
        let routes = routes.map(|routes| (routes.entries, routes.rules, routes.connections));
        let (entries, rules, connections) = routes.unwrap_or_default();
        v1::ServicePort {
            port: port.port.into(),
            name: port.name.clone(),
            protocol: protocol.into(),
            policy: backend_policy(service, port, model),
            routed: is_routed,
            entries,
            rules,
            connections,
        }
    });
    let vips: Vec<_> = vips.iter().map(IpAddr::to_string).collect();
    let message = v1::Service {
        namespace: namespace.clone(),
        name: name.clone(),
        ports: ports.collect(),
        hosts: hosts.clone(),
        vips: vips.clone(),
    };
    let mut aliases = [hosts, vips].concat();
    aliases.sort_unstable();
    Resource::new(type_url::SERVICE, ServiceName::new(&**namespace, &**name).to_string(), aliases, &message)
}

/// The names by which clients of every namespace may call a Service.
fn hosts(namespace: &str, name: &str, config: &MeshConfig) -> Vec<String> {
    vec![
        format!("{name}.{namespace}.svc.{}", config.cluster_domain),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ]
}

/// The hosts that lead to this Service where its address does not: those of an ExternalName with ports.
pub(in super::super) fn known_hosts(service: &Service, config: &MeshConfig) -> Vec<String> {
    match &service.kind {
        ServiceKind::ExternalName(external) if !service.ports.is_empty() && !in_cluster(external, config) => {
            hosts(&service.meta.name.namespace, &service.meta.name.name, config)
        }
        _ => Vec::new(),
    }
}

/// Whether a DNS name is one of the cluster's Services. Such an ExternalName must not become an endpoint: its address is
/// a VIP, and what a proxy sends to one is plain text to whatever pod answers, in the mesh or not.
pub(super) fn in_cluster(name: &str, config: &MeshConfig) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = format!(".svc.{}", config.cluster_domain.to_ascii_lowercase());
    name.ends_with(".svc") || name.ends_with(&domain)
}

/// What the Service object itself, and policies for it, say about reaching the endpoints of a port; `None` when nothing.
pub(in super::super) fn backend_policy(service: &Service, port: &ServicePort, model: &Model) -> Option<BackendPolicy> {
    let traffic = traffic_policy::of_port(service, port, model);
    let policy = BackendPolicy {
        // Kubernetes allows 1 s to 1 day; less than a second still means "on".
        client_ip_affinity_seconds: service
            .client_ip_affinity
            .map_or(0, |timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1)),
        publish_not_ready: service.publish_not_ready,
        node_local: service.node_local,
        tls: backend_tls::of_port(service, port, model).map(Box::new),
        retry_budget: traffic.budget.map(Box::new),
        session: traffic.session.map(Box::new),
        ..BackendPolicy::default()
    };
    (policy != BackendPolicy::default()).then_some(policy)
}
