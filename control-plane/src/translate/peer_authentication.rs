//! The mTLS mode of a port of a pod, and so who speaks mesh TLS.
//!
//! PeerAuthentication (Istio API reference, security/v1): the policy whose selector matches the pod, in the pod's
//! namespace, goes before the namespace's policy (no selector), which goes before the mesh's (no selector, in the root
//! namespace). Of several on one level the oldest counts and the others do not, not even where it says UNSET, which
//! inherits from the level above. `portLevelMtls` counts only together with a selector. Default: PERMISSIVE.
//!
//! A policy with a selector in the root namespace is for the pods of that namespace: it does not reach into others.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::v1::{InboundPolicy, MtlsMode as Wire, PortMtls};
use weft_proto::{MESH_TLS_LABEL, SpiffeId};

use super::MeshConfig;
use crate::model::{Model, MtlsMode, PeerAuthentication, Pod, selects};

/// Ports whose traffic is not redirected to the sidecar: it cannot speak mesh TLS there.
const EXCLUDE_INBOUND_PORTS: &str = "weft.dev/exclude-inbound-ports";

/// What a pod's ports expect of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PodSecurity {
    /// It has a sidecar that speaks mesh TLS, on an address of its own.
    meshed: bool,
    excluded: BTreeSet<u16>,
    mode: Wire,
    /// The ports that differ from `mode`.
    ports: BTreeMap<u16, Wire>,
}

impl PodSecurity {
    pub(super) fn of(pod: &Pod, model: &Model, config: &MeshConfig) -> Self {
        let in_namespace = || model.peer_authentications_in(&pod.meta.name.namespace);
        let mesh = oldest(model.peer_authentications_in(&config.root_namespace).filter(|p| p.selector.is_empty()));
        let namespace = oldest(in_namespace().filter(|p| p.selector.is_empty()));
        let workload =
            oldest(in_namespace().filter(|p| !p.selector.is_empty() && selects(&p.selector, &pod.meta.labels)));

        let mode = [mesh, namespace, workload]
            .into_iter()
            .flatten()
            .fold(Wire::Permissive, |inherited, policy| resolve(policy.mode, inherited));
        let ports = workload
            .into_iter()
            .flat_map(|policy| &policy.ports)
            .map(|(port, own)| (*port, resolve(*own, mode)))
            .filter(|(_, own)| *own != mode)
            .collect();
        let meshed = !pod.host_network && pod.meta.labels.get(MESH_TLS_LABEL).is_some_and(|value| value == "1");
        let excluded = pod.meta.annotations.get(EXCLUDE_INBOUND_PORTS).map_or("", String::as_str);
        let excluded = excluded.split(',').filter_map(|port| port.trim().parse().ok()).collect();
        Self { meshed, excluded, mode, ports }
    }

    pub(super) fn mode(&self, port: u16) -> Wire {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// Such a port is never sent plain text (SEMANTICS.md §1, "who speaks mesh TLS").
    pub(super) fn speaks_mesh_tls(&self, port: u16) -> bool {
        self.meshed && !self.excluded.contains(&port) && self.mode(port) != Wire::Disable
    }

    /// For a port that nothing mentions.
    pub(super) fn speaks_mesh_tls_elsewhere(&self) -> bool {
        self.meshed && self.mode != Wire::Disable
    }

    /// The ports that may differ from the rest.
    pub(super) fn special_ports(&self) -> impl Iterator<Item = u16> {
        self.excluded.iter().chain(self.ports.keys()).copied()
    }

    pub(super) fn inbound_policy(&self) -> InboundPolicy {
        let ports = self.ports.iter().map(|(port, mode)| PortMtls { port: (*port).into(), mode: (*mode).into() });
        InboundPolicy { mode: self.mode.into(), ports: ports.collect() }
    }
}

/// The identity of a pod's service account; `None` where a name holds what a SPIFFE ID may not.
pub(super) fn identity(pod: &Pod, config: &MeshConfig) -> Option<SpiffeId> {
    SpiffeId::new(&config.trust_domain, &pod.meta.name.namespace, &pod.service_account).ok()
}

fn oldest<'a>(policies: impl Iterator<Item = &'a PeerAuthentication>) -> Option<&'a PeerAuthentication> {
    policies.min_by(|a, b| (&a.meta.age, &a.meta.name).cmp(&(&b.meta.age, &b.meta.name)))
}

fn resolve(own: MtlsMode, inherited: Wire) -> Wire {
    match own {
        MtlsMode::Unset => inherited,
        MtlsMode::Disable => Wire::Disable,
        MtlsMode::Permissive => Wire::Permissive,
        MtlsMode::Strict => Wire::Strict,
    }
}
