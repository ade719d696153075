//! Kubernetes objects into resources. kube-proxy is bypassed, so its rules are ours (SEMANTICS.md §1 "Service
//! semantics"): what a VIP leads to, which endpoints may be used, what a pod's ports speak.

mod callers;
mod endpoints;
mod protocol;
mod rate_limits;
mod selection;
mod service;
#[cfg(test)]
mod tests;
mod workload;

pub(super) use callers::{callers, counted};
pub(super) use endpoints::endpoints;
pub(super) use protocol::{declared, is_opaque, may_carry, may_carry_http};
pub(super) use rate_limits::rule_rate_limits;
pub(super) use selection::selects_pod;
pub(super) use service::{RoutedPort, known_hosts, service_forms, vip_owner};
pub(super) use workload::workload;

use weft_proto::v1;

use crate::model::{Model, Pod};

/// The zone of a Node, or empty.
fn zone_of(node: &str, model: &Model) -> String {
    model.node(node).and_then(zone_label).unwrap_or_default().to_owned()
}

/// The zone label of a Node: all that matters of it.
pub(super) fn zone_label(node: &crate::model::Node) -> Option<&str> {
    node.meta.labels.get("topology.kubernetes.io/zone").map(String::as_str)
}

/// A Pod's labels, sorted by name.
fn labels(pod: &Pod) -> Vec<v1::Label> {
    pod.meta.labels.iter().map(|(name, value)| v1::Label { name: name.clone(), value: value.clone() }).collect()
}
