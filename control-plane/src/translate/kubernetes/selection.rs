//! Which pods a Service leads to, and to which of their ports.

use crate::model::{Pod, Service, ServiceKind, TargetPort, selects};

/// Whether a Service's selector picks a pod. No selector picks nothing.
pub(in super::super) fn selects_pod(service: &Service, pod: &Pod) -> bool {
    !matches!(service.kind, ServiceKind::ExternalName(_))
        && !service.selector.is_empty()
        && service.meta.name.namespace == pod.meta.name.namespace
        && selects(&service.selector, &pod.meta.labels)
}

/// A named target port may be another number in each pod.
pub(super) fn target(target: &TargetPort, pod: &Pod) -> Option<u16> {
    match target {
        TargetPort::Number(port) => Some(*port),
        TargetPort::Name(name) => pod.ports.iter().find(|port| port.name == *name).map(|port| port.port),
    }
}
