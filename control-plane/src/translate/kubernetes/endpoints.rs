//! The `Endpoints` resource: who answers for one port of a Service.
//!
//! An endpoint's Pod is the one its `targetRef` names, or without one the Pod that holds the address. The Pod gives identity,
//! labels and whether the port speaks mesh TLS. An endpoint whose Pod is named and not known, or finished, is left out: its
//! address may be another's by now, and nobody could say whether it may be sent plain text.
//!
//! Health (EndpointSlice conditions): ready → ready; terminating and serving → draining; anything else only where the
//! Service publishes addresses that are not ready. A Pod being deleted is terminating at once, before its slice says so.
//!
//! An ExternalName's one endpoint is its DNS name, which proxies resolve; its `targetPort` means nothing, as in Kubernetes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_proto::v1::{self, Health};
use weft_proto::{EndpointsName, type_url};

use super::super::peer_authentication::{PodSecurity, identity};
use super::super::{MeshConfig, Resource};
use super::service::in_cluster;
use super::{labels, workload, zone_of};
use crate::model::{EndpointSlice, Model, ObjectName, Pod, Service, ServiceKind, SliceEndpoint};

/// The endpoints of a Service's port; `None` when there is no such port.
pub(in super::super) fn endpoints(name: &EndpointsName, model: &Model, config: &MeshConfig) -> Option<Resource> {
    let service = model.service(&ObjectName::new(&*name.service.namespace, &*name.service.name))?;
    let port = service.ports.iter().find(|port| port.port == name.port)?;
    if let ServiceKind::ExternalName(external) = &service.kind {
        return (!in_cluster(external, config)).then(|| by_name(name, external));
    }

    let mut found: Vec<(IpAddr, v1::Endpoint)> = Vec::new();
    for slice in model.slices_of(&service.meta.name) {
        for slice_port in slice.ports.iter().filter(|slice_port| slice_port.name == port.name) {
            found.extend(
                slice
                    .endpoints
                    .iter()
                    .filter_map(|endpoint| translate(endpoint, slice, slice_port.port, service, model, config)),
            );
        }
    }
    // An endpoint may be in two slices for a while; the healthier one counts, then any fixed choice.
    found.sort_by(|(a_addr, a), (b_addr, b)| {
        let key = |e: &v1::Endpoint| (e.port, e.health, e.pod.clone(), e.zone.clone(), e.node.clone());
        let hints = |e: &v1::Endpoint| (e.hint_zones.clone(), e.hint_nodes.clone());
        a_addr.cmp(b_addr).then_with(|| key(a).cmp(&key(b))).then_with(|| hints(a).cmp(&hints(b)))
    });
    found.dedup_by(|(b_addr, b), (a_addr, a)| a_addr == b_addr && a.port == b.port);
    let prefers_v6 = service.vips.first().is_some_and(IpAddr::is_ipv6);
    keep_one_address_per_pod(&mut found, prefers_v6);
    let message = v1::Endpoints { endpoints: found.into_iter().map(|(_, endpoint)| endpoint).collect() };
    Some(Resource::new(type_url::ENDPOINTS, name.to_string(), Vec::new(), &message))
}

fn by_name(name: &EndpointsName, external: &str) -> Resource {
    let endpoint = v1::Endpoint {
        address: external.to_owned(),
        port: name.port.into(),
        health: Health::Ready.into(),
        ..v1::Endpoint::default()
    };
    let message = v1::Endpoints { endpoints: vec![endpoint] };
    Resource::new(type_url::ENDPOINTS, name.to_string(), Vec::new(), &message)
}

/// A dual-stack Pod has an address in a slice of each family, and it is one endpoint all the same: counted twice it would
/// get twice its share, and a retry that avoids its one address could go to the other. The family of the Service's first
/// VIP is the one kept (its primary, `ipFamilies[0]`); a Pod without an address of it keeps the other.
fn keep_one_address_per_pod(found: &mut Vec<(IpAddr, v1::Endpoint)>, prefers_v6: bool) {
    let kept: BTreeSet<(String, u32)> = found
        .iter()
        .filter(|(addr, endpoint)| addr.is_ipv6() == prefers_v6 && !endpoint.pod.is_empty())
        .map(|(_, endpoint)| (endpoint.pod.clone(), endpoint.port))
        .collect();
    found.retain(|(addr, endpoint)| {
        addr.is_ipv6() == prefers_v6 || !kept.contains(&(endpoint.pod.clone(), endpoint.port))
    });
}

/// The Pod behind an endpoint.
enum Behind<'a> {
    Pod(&'a Pod),
    /// A machine or something outside the cluster: its address is all there is to know.
    Nobody,
    /// Not to be used.
    Gone,
}

fn behind<'a>(endpoint: &SliceEndpoint, addr: IpAddr, namespace: &str, model: &'a Model) -> Behind<'a> {
    let Some(name) = &endpoint.pod else {
        return workload::holder(addr, model).map_or(Behind::Nobody, Behind::Pod);
    };
    match model.pod(&ObjectName::new(namespace, &**name)) {
        // A Pod of that name that has another address is a later one (StatefulSets reuse names).
        Some(pod) if !pod.finished && (pod.addresses.is_empty() || pod.addresses.contains(&addr)) => Behind::Pod(pod),
        _ => Behind::Gone,
    }
}

fn translate(
    endpoint: &SliceEndpoint,
    slice: &EndpointSlice,
    port: u16,
    service: &Service,
    model: &Model,
    config: &MeshConfig,
) -> Option<(IpAddr, v1::Endpoint)> {
    // All addresses of one endpoint are interchangeable (EndpointSlice API): one of them is enough.
    let addr = *endpoint.addresses.first()?;
    let pod = match behind(endpoint, addr, &slice.meta.name.namespace, model) {
        Behind::Pod(pod) => Some(pod),
        Behind::Nobody => None,
        Behind::Gone => return None,
    };
    let health = if endpoint.terminating || pod.is_some_and(|pod| pod.terminating) {
        if endpoint.serving { Health::Draining } else { Health::NotReady }
    } else if endpoint.ready {
        Health::Ready
    } else {
        Health::NotReady
    };
    if health == Health::NotReady && !service.publish_not_ready {
        return None;
    }
    let mut out = v1::Endpoint {
        address: addr.to_string(),
        port: port.into(),
        health: health.into(),
        node: endpoint.node.clone(),
        zone: endpoint.zone.clone(),
        hint_zones: endpoint.hints.zones.clone(),
        hint_nodes: endpoint.hints.nodes.clone(),
        ..v1::Endpoint::default()
    };
    if let Some(pod) = pod {
        out.pod = pod.meta.name.to_string();
        out.labels = labels(pod);
        if out.node.is_empty() {
            out.node.clone_from(&pod.node);
        }
        out.mesh_tls = PodSecurity::of(pod, model, config).speaks_mesh_tls(port);
        if !pod.host_network {
            match identity(pod, config) {
                Some(identity) => identity.as_str().clone_into(&mut out.identity),
                // It could be neither verified nor sent plain text.
                None if out.mesh_tls => return None,
                None => {}
            }
        }
    }
    if out.zone.is_empty() {
        out.zone = zone_of(&out.node, model);
    }
    Some((addr, out))
}
