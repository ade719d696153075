//! EndpointSlices that the API server's controllers would make: from a Service's selector and the Pods, for every
//! Service that has a selector and no slice written by hand. Pure: one namespace in, its slices out.
//!
//! Rules of the EndpointSlice controller: a pod without an address or finished is left out; `serving` is the Ready
//! condition; `ready` is that and not terminating, or `publishNotReadyAddresses`; a `targetPort` by name is looked up
//! in each pod, and pods whose numbers differ go into slices of their own, as do address families.
//! Bound: one slice per family and set of port numbers, so no more endpoints than pods times families.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::SERVICE_NAME_LABEL;
use crate::model::{
    EndpointSlice, Hints, Meta, ObjectName, Pod, Service, ServiceKind, SliceEndpoint, SlicePort, TargetPort,
};

/// What one namespace holds that matters here.
#[derive(Debug, Default)]
pub(super) struct Input<'a> {
    pub(super) services: Vec<&'a Service>,
    /// Written by hand.
    pub(super) slices: Vec<&'a EndpointSlice>,
    pub(super) pods: Vec<&'a Pod>,
    /// Zones by node, of all namespaces.
    pub(super) zones: BTreeMap<&'a str, &'a str>,
}

/// The slices of a namespace, named `SERVICE-weft`, further ones `SERVICE-weft-2` and so on.
pub(super) fn slices(input: &Input<'_>) -> Vec<EndpointSlice> {
    let by_hand: BTreeSet<&str> = input.slices.iter().map(|slice| slice.service.as_str()).collect();
    let mut taken: BTreeSet<String> = input.slices.iter().map(|slice| slice.meta.name.name.clone()).collect();
    let mut out = Vec::new();
    for service in &input.services {
        let selects = !service.selector.is_empty() && !matches!(service.kind, ServiceKind::ExternalName(_));
        if !selects || by_hand.contains(service.meta.name.name.as_str()) {
            continue;
        }
        for ((_, ports), endpoints) in groups(service, input) {
            let mut number = 1;
            let name = loop {
                let base = &service.meta.name.name;
                let name = if number == 1 { format!("{base}-weft") } else { format!("{base}-weft-{number}") };
                if taken.insert(name.clone()) {
                    break name;
                }
                number += 1;
            };
            out.push(EndpointSlice {
                meta: Meta {
                    name: ObjectName { namespace: service.meta.name.namespace.clone(), name },
                    labels: BTreeMap::from([
                        (SERVICE_NAME_LABEL.to_owned(), service.meta.name.name.clone()),
                        ("endpointslice.kubernetes.io/managed-by".to_owned(), "weft.dev".to_owned()),
                    ]),
                    annotations: BTreeMap::new(),
                    generation: 0,
                    age: service.meta.age.clone(),
                },
                service: service.meta.name.name.clone(),
                ports: ports.into_iter().map(|(name, port)| SlicePort { name, port }).collect(),
                endpoints,
            });
        }
    }
    out
}

/// A Service's ports as one pod has them: name and number.
type Ports = Vec<(String, u16)>;

/// Endpoints of a Service by family (IPv4 first) and resolved ports.
fn groups(service: &Service, input: &Input<'_>) -> BTreeMap<(bool, Ports), Vec<SliceEndpoint>> {
    let mut groups: BTreeMap<_, Vec<SliceEndpoint>> = BTreeMap::new();
    for pod in &input.pods {
        if pod.finished || !matches_selector(service, pod) {
            continue;
        }
        let Some(ports) = ports_in(service, pod) else { continue };
        for is_v6 in [false, true] {
            let Some(address) = pod.addresses.iter().find(|address| address.is_ipv6() == is_v6) else { continue };
            groups.entry((is_v6, ports.clone())).or_default().push(SliceEndpoint {
                addresses: vec![*address],
                pod: Some(pod.meta.name.name.clone()),
                ready: service.publish_not_ready || (pod.ready && !pod.terminating),
                serving: pod.ready,
                terminating: pod.terminating,
                node: pod.node.clone(),
                zone: input.zones.get(pod.node.as_str()).copied().unwrap_or_default().to_owned(),
                // Proxies make those of `trafficDistribution` themselves.
                hints: Hints::default(),
            });
        }
    }
    groups
}

fn matches_selector(service: &Service, pod: &Pod) -> bool {
    service.selector.iter().all(|(key, value)| pod.meta.labels.get(key) == Some(value))
}

/// The Service's ports in this pod. A name that the pod does not have leaves out that port, and the pod where it has
/// none of them.
fn ports_in(service: &Service, pod: &Pod) -> Option<Ports> {
    let mut ports: Ports = service
        .ports
        .iter()
        .filter_map(|port| {
            let number = match &port.target {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => pod.ports.iter().find(|port| port.name == *name)?.port,
            };
            Some((port.name.clone(), number))
        })
        .collect();
    // A headless Service may have no ports at all; its pods are endpoints all the same.
    if ports.is_empty() && !service.ports.is_empty() {
        return None;
    }
    ports.sort_unstable();
    Some(ports)
}
