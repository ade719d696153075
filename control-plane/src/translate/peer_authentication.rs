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
            .filter(|(port, own)| *port != 0 && *own != mode)
            .collect();
        let meshed = !pod.host_network && pod.meta.labels.get(MESH_TLS_LABEL).is_some_and(|value| value == "1");
        let excluded = pod.meta.annotations.get(EXCLUDE_INBOUND_PORTS).map_or("", String::as_str);
        let excluded =
            excluded.split(',').filter_map(|port| port.trim().parse().ok()).filter(|port| *port != 0).collect();
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
        InboundPolicy { mode: self.mode.into(), ports: ports.collect(), ..InboundPolicy::default() }
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

#[cfg(test)]
mod tests {
    use super::super::fixtures::{aged, decode, ip, map, peer_authentication, pod, upserts, world};
    use super::*;
    use crate::model::Object;

    const UNSET: MtlsMode = MtlsMode::Unset;
    const DISABLE: MtlsMode = MtlsMode::Disable;
    const STRICT: MtlsMode = MtlsMode::Strict;
    const PERMISSIVE: MtlsMode = MtlsMode::Permissive;

    fn policy(name: &str, age: i64, app: &str, mode: MtlsMode, ports: &[(u16, MtlsMode)]) -> PeerAuthentication {
        let base = peer_authentication(name, mode);
        let selector = if app.is_empty() { map(&[]) } else { map(&[("app", app)]) };
        PeerAuthentication { meta: aged(base.meta, age), selector, ports: ports.iter().copied().collect(), mode }
    }

    /// The mode of ports 80 and 81 of shop/a (app: web), and whether they speak mesh TLS.
    fn modes(policies: &[PeerAuthentication]) -> ([Wire; 2], [bool; 2]) {
        let mut model = Model::default();
        let mut batch = upserts![pod("shop/a", "web", "10.0.0.1")];
        batch.upserts.extend(policies.iter().cloned().map(Object::from));
        model.apply(batch);
        let pod = model.pods().next().unwrap();
        let security = PodSecurity::of(pod, &model, &MeshConfig::default());
        ([80, 81].map(|port| security.mode(port)), [80, 81].map(|port| security.speaks_mesh_tls(port)))
    }

    #[test]
    fn the_nearest_policy_counts_and_the_oldest_of_equals() {
        let root = |mode| policy("weft-system/mesh", 0, "", mode, &[]);
        let namespace = |mode| policy("shop/all", 0, "", mode, &[]);
        let workload = |mode, ports: &[_]| policy("shop/web", 0, "web", mode, ports);
        for (row, policies, expected) in [
            ("none", vec![], [Wire::Permissive; 2]),
            ("mesh", vec![root(STRICT)], [Wire::Strict; 2]),
            ("namespace before mesh", vec![root(STRICT), namespace(DISABLE)], [Wire::Disable; 2]),
            ("workload before namespace", vec![namespace(STRICT), workload(PERMISSIVE, &[])], [Wire::Permissive; 2]),
            ("UNSET inherits", vec![root(STRICT), namespace(UNSET), workload(UNSET, &[])], [Wire::Strict; 2]),
            ("UNSET everywhere", vec![namespace(UNSET)], [Wire::Permissive; 2]),
            ("port level", vec![workload(STRICT, &[(80, PERMISSIVE)])], [Wire::Permissive, Wire::Strict]),
            (
                "an UNSET port inherits from its workload",
                vec![namespace(DISABLE), workload(STRICT, &[(80, UNSET)])],
                [Wire::Strict; 2],
            ),
            (
                "a port level without a selector",
                vec![policy("shop/all", 0, "", STRICT, &[(80, DISABLE)])],
                [Wire::Strict; 2],
            ),
            ("another app", vec![policy("shop/db", 0, "db", STRICT, &[])], [Wire::Permissive; 2]),
            ("another namespace", vec![policy("web/all", 0, "", STRICT, &[])], [Wire::Permissive; 2]),
            (
                "a selector in the root namespace",
                vec![policy("weft-system/web", 0, "web", STRICT, &[])],
                [Wire::Permissive; 2],
            ),
            (
                "the oldest of two",
                vec![
                    policy("shop/new", 9, "web", DISABLE, &[(80, DISABLE)]),
                    policy("shop/old", 1, "web", STRICT, &[]),
                ],
                [Wire::Strict; 2],
            ),
            (
                "the oldest of two, though UNSET",
                vec![policy("shop/new", 9, "", DISABLE, &[]), policy("shop/old", 1, "", UNSET, &[])],
                [Wire::Permissive; 2],
            ),
            (
                "of one age, by name",
                vec![policy("shop/b", 1, "", STRICT, &[]), policy("shop/a", 1, "", DISABLE, &[])],
                [Wire::Disable; 2],
            ),
        ] {
            let (modes, speaks) = modes(&policies);
            assert_eq!(modes, expected, "{row}");
            assert_eq!(speaks, expected.map(|mode| mode != Wire::Disable), "{row}");
        }
    }

    #[test]
    fn a_pod_is_told_its_mode_and_the_ports_that_differ() {
        let world = world(upserts![
            pod("shop/a", "web", "10.0.0.1"),
            policy("shop/web", 0, "web", STRICT, &[(81, STRICT), (80, DISABLE)]),
        ]);
        let told: InboundPolicy = decode(world.own(weft_proto::type_url::INBOUND_POLICY, ip("10.0.0.1")));
        assert_eq!(told.mode(), Wire::Strict);
        assert_eq!(told.ports, [PortMtls { port: 80, mode: Wire::Disable.into() }]);
    }

    #[test]
    fn only_a_labelled_pod_with_its_own_network_speaks_mesh_tls() {
        let meshed = || pod("shop/a", "web", "10.0.0.1");
        let labelled = |value: &str| {
            let mut pod = meshed();
            pod.meta.labels.insert(MESH_TLS_LABEL.to_owned(), value.to_owned());
            pod
        };
        let excluding = |ports: &str| {
            let mut pod = meshed();
            pod.meta.annotations = map(&[(EXCLUDE_INBOUND_PORTS, ports)]);
            pod
        };
        for (row, pod, expected) in [
            ("meshed", meshed(), [true, true]),
            ("another value", labelled("0"), [false, false]),
            ("on its node's network", Pod { host_network: true, ..meshed() }, [false, false]),
            ("excluded", excluding("9000, 80,x,0"), [false, true]),
        ] {
            let security = PodSecurity::of(&pod, &Model::default(), &MeshConfig::default());
            assert_eq!([80, 81].map(|port| security.speaks_mesh_tls(port)), expected, "{row}");
        }
    }
}
