//! The `Workload` and `InboundPolicy` of the pod at an address.
//!
//! A pod on its node's network shares its address, so an address alone says nothing about it: it has no Workload. Ports are
//! those of its containers, the targets of Services that select it, and those whose TLS mode differs from the rest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_proto::v1::{self, Health, Protocol, WorkloadPort};
use weft_proto::{SELF, type_url};

use super::super::peer_authentication::{PodSecurity, identity};
use super::super::translated::{WorkloadEntry, WorkloadIdentity};
use super::super::{MeshConfig, Resource};
use super::rate_limits::rate_limits;
use super::selection::{selects_pod, target};
use super::{labels, protocol, zone_of};
use crate::model::{Model, Pod};

/// Who has an address to itself. Addresses are reused: a finished pod has none, one that terminates gives way to one that
/// does not, and then the youngest holds it.
pub(in super::super) fn holder(addr: IpAddr, model: &Model) -> Option<&Pod> {
    model
        .pods_with_address(addr)
        .filter(|pod| !pod.finished && !pod.host_network)
        .max_by(|a, b| (!a.terminating, &a.meta.age, &a.meta.name).cmp(&(!b.terminating, &b.meta.age, &b.meta.name)))
}

/// What is served about the pod at an address; `None` when no pod has it to itself.
pub(in super::super) fn workload(addr: IpAddr, model: &Model, config: &MeshConfig) -> Option<WorkloadEntry> {
    let pod = holder(addr, model)?;
    let security = PodSecurity::of(pod, model, config);
    let identity = identity(pod, config);
    let mut addresses = pod.addresses.clone();
    addresses.sort_unstable();
    addresses.dedup();
    let message = v1::Workload {
        namespace: pod.meta.name.namespace.clone(),
        name: pod.meta.name.name.clone(),
        service_account: pod.service_account.clone(),
        identity: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        addresses: addresses.iter().map(IpAddr::to_string).collect(),
        ports: ports(pod, &security, model, config),
        mesh_tls: security.speaks_mesh_tls_elsewhere(),
        zone: zone_of(&pod.node, model),
        node: pod.node.clone(),
        labels: labels(pod),
        owner: pod.owner.clone(),
        health: match (pod.terminating, pod.ready) {
            (true, _) => Health::Draining,
            (false, true) => Health::Ready,
            (false, false) => Health::NotReady,
        }
        .into(),
        // Of `self`, where they are added.
        callers: Vec::new(),
    };
    let inbound = v1::InboundPolicy { rate_limits: rate_limits(pod, model), ..security.inbound_policy() };
    Some(WorkloadEntry {
        owner: pod.owner_name(),
        workload: Arc::new(Resource::new(type_url::WORKLOAD, addr.to_string(), Vec::new(), &message)),
        inbound: Arc::new(Resource::new(type_url::INBOUND_POLICY, SELF.to_owned(), Vec::new(), &inbound)),
        identity: Arc::new(WorkloadIdentity {
            namespace: message.namespace,
            name: message.name,
            service_account: message.service_account,
            identity,
            labels: pod.meta.labels.clone(),
        }),
    })
}

fn ports(pod: &Pod, security: &PodSecurity, model: &Model, config: &MeshConfig) -> Vec<WorkloadPort> {
    // What Services declare about each port. Where they contradict each other, nothing is declared.
    let mut declared: BTreeMap<u16, Declared> = BTreeMap::new();
    for port in pod.ports.iter().map(|port| port.port).chain(security.special_ports()) {
        declared.entry(port).or_insert(Declared::Nothing);
    }
    for service in model.services_in(&pod.meta.name.namespace).filter(|service| selects_pod(service, pod)) {
        for port in &service.ports {
            if let Some(target) = target(&port.target, pod) {
                let entry = declared.entry(target).or_insert(Declared::Nothing);
                if let Some(protocol) = protocol::declared(port) {
                    entry.by(protocol);
                }
            }
        }
    }
    let ports = declared.into_iter().map(|(port, declared)| WorkloadPort {
        port: port.into(),
        protocol: match declared {
            Declared::Nothing => protocol::with_defaults(None, None, port, config),
            Declared::As(protocol) => protocol,
            Declared::Contradictory => Protocol::Auto,
        }
        .into(),
        mesh_tls: security.speaks_mesh_tls(port),
    });
    ports.collect()
}

#[derive(Clone, Copy)]
enum Declared {
    Nothing,
    As(Protocol),
    Contradictory,
}

impl Declared {
    fn by(&mut self, protocol: Protocol) {
        *self = match *self {
            Self::Nothing => Self::As(protocol),
            Self::As(other) if other == protocol => Self::As(protocol),
            Self::As(_) | Self::Contradictory => Self::Contradictory,
        };
    }
}
