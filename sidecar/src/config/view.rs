//! `/config`: what this proxy knows, readable. Sorted, so that two of them can be compared. There is nothing secret in
//! it: keys and certificates are `identity/`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::model::{Backend, MtlsMode, Protocol, RuleView, ServicePort};
use super::{Config, InboundPolicy, MeshSettings, Service, Workload, WorkloadPort};
use crate::balance::BalancerView;
use crate::config::kind::Kind;

/// The whole view.
#[derive(Debug, Serialize)]
pub struct ConfigView {
    connected: bool,
    own: Option<WorkloadView>,
    inbound_policy: Option<InboundView>,
    settings: MeshSettings,
    services: BTreeMap<String, ServiceView>,
    workloads: BTreeMap<String, WorkloadView>,
    /// Kind → resource → version.
    versions: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug, Serialize)]
struct InboundView {
    mode: MtlsMode,
    ports: BTreeMap<u16, MtlsMode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rate_limits: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ServiceView {
    hosts: Vec<String>,
    vips: Vec<String>,
    ports: BTreeMap<u16, PortView>,
}

#[derive(Debug, Serialize)]
struct PortView {
    protocol: Protocol,
    routed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleView>,
    backends: BTreeMap<String, BackendView>,
}

#[derive(Debug, Serialize)]
struct BackendView {
    protocol: Protocol,
    endpoints_known: bool,
    connect_timeout_ms: u128,
    /// Where a policy says one.
    #[serde(skip_serializing_if = "Option::is_none")]
    http_idle_timeout_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_idle_timeout_ms: Option<u128>,
    max_retries: u32,
    /// Where an object asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_budget: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    active_requests: u32,
    balancer: BalancerView,
}

#[derive(Debug, Serialize)]
struct WorkloadView {
    identity: Option<String>,
    addresses: Vec<String>,
    owner: String,
    mesh_tls: bool,
    ports: BTreeMap<u16, WorkloadPort>,
}

impl Config {
    /// Every backend there is, for metrics: those of services, and those of workloads called directly. Not for the data
    /// path.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        let mut backends = self.0.tables.lock().store.backends();
        backends.extend(self.0.direct.lock().values().map(|(_, backend)| Arc::clone(backend)));
        backends
    }

    /// How long ago the last response of the control plane was applied; `None` before the first. It grows as long as
    /// nothing changes, also while the stream is open.
    pub fn age(&self) -> Option<Duration> {
        let applied = self.stats().applied.load(std::sync::atomic::Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.ms(super::now()).saturating_sub(applied)))
    }

    /// What `/config` answers. Not for the data path: it holds the tables' lock while it copies.
    pub fn view(&self, now: Instant) -> ConfigView {
        let tables = self.0.tables.lock();
        let snapshot = tables.store.snapshot();
        let versions = Kind::ALL.into_iter().map(|kind| {
            let held = tables.subscriptions.held(kind);
            (format!("{kind:?}"), held.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
        });
        ConfigView {
            connected: self.stats().connected.load(std::sync::atomic::Ordering::Relaxed),
            own: snapshot.own().map(|own| WorkloadView::of(own)),
            inbound_policy: snapshot.inbound_policy().map(|policy| InboundView::of(policy)),
            settings: MeshSettings::clone(snapshot.settings()),
            services: tables
                .store
                .services()
                .map(|service| (service.name.to_string(), ServiceView::of(service, now)))
                .collect(),
            workloads: tables
                .store
                .workloads()
                .map(|workload| (format!("{}/{}", workload.namespace, workload.name), WorkloadView::of(workload)))
                .collect(),
            versions: versions.collect(),
        }
    }
}

#[cfg(test)]
impl ConfigView {
    pub(super) fn version(&self, kind: &str, resource: &str) -> Option<u32> {
        self.versions.get(kind)?.get(resource)?.parse().ok()
    }
}

impl InboundView {
    fn of(policy: &InboundPolicy) -> Self {
        Self {
            mode: policy.mode,
            ports: policy.ports.iter().map(|(port, mode)| (*port, *mode)).collect(),
            rate_limits: policy.rate_limits.iter().map(ToString::to_string).collect(),
        }
    }
}

impl ServiceView {
    fn of(service: &Service, now: Instant) -> Self {
        Self {
            hosts: service.hosts.iter().map(|host| host.to_string()).collect(),
            vips: service.vips.iter().map(ToString::to_string).collect(),
            ports: service.ports.iter().map(|(number, port)| (*number, PortView::of(port, now))).collect(),
        }
    }
}

impl PortView {
    fn of(port: &ServicePort, now: Instant) -> Self {
        let backends = port.backends().map(|backend| (backend.name.to_string(), BackendView::of(backend, now)));
        Self {
            protocol: port.protocol,
            routed: port.routes.is_some() || port.connections.is_some(),
            rules: port.rules.clone(),
            backends: backends.collect(),
        }
    }
}

impl BackendView {
    fn of(backend: &Backend, now: Instant) -> Self {
        Self {
            protocol: backend.protocol,
            endpoints_known: backend.is_known(),
            connect_timeout_ms: backend.connect_timeout.as_millis(),
            http_idle_timeout_ms: backend.idle.http.map(|timeout| timeout.as_millis()),
            tcp_idle_timeout_ms: backend.idle.tcp.map(|timeout| timeout.as_millis()),
            max_retries: backend.retry.max_retries,
            retry_budget: backend.budget.recent().map(ToString::to_string),
            session: backend.session.as_ref().map(ToString::to_string),
            active_requests: backend.budget.active(),
            balancer: backend.balancer.snapshot(now),
        }
    }
}

impl WorkloadView {
    fn of(workload: &Workload) -> Self {
        Self {
            identity: workload.identity.as_ref().map(ToString::to_string),
            addresses: workload.addresses.iter().map(ToString::to_string).collect(),
            owner: workload.owner.to_string(),
            mesh_tls: workload.mesh_tls,
            ports: workload.ports.iter().map(|(number, port)| (*number, *port)).collect(),
        }
    }
}
