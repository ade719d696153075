//! What `/config` and the metrics show of a balancer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::{Balancer, is_panic};
use crate::balance::endpoint::{Endpoint, EndpointView};
use crate::balance::tiers::Tiers;

impl Balancer {
    /// What `/config` and the metrics show.
    pub fn snapshot(&self, now: Instant) -> BalancerView {
        let set = self.shared.set.load();
        let ms = self.shared.ms(now);
        let pool = if set.ready.is_empty() { &set.draining } else { &set.ready };
        let pooled: HashSet<*const Endpoint> = pool.iter().map(Arc::as_ptr).collect();
        let near = set.tiers.as_deref().and_then(Tiers::near);
        let preferred: Option<HashSet<*const Endpoint>> = near.map(|(_, pool)| pool.iter().map(Arc::as_ptr).collect());
        let panics = is_panic(self.ejected(), &set);
        let view = |endpoint: &Arc<Endpoint>| {
            let state = &endpoint.state;
            let usable = set.ready.is_empty() || panics || state.standing.in_use();
            EndpointView {
                addr: endpoint.addr(),
                identity: endpoint.mesh().map(|(_, identity)| identity.to_string()),
                pod: endpoint.pod().to_owned(),
                health: endpoint.health(),
                zone: endpoint.zone().into(),
                weight: endpoint.weight(),
                in_flight: state.in_flight(),
                ewma_ms: state.latency.average_us(ms).map(|us| f64::from(us) / 1e3),
                consecutive_failures: state.standing.failures(),
                ejected_ms: state.standing.ejected_for(ms),
                candidate: usable && pooled.contains(&Arc::as_ptr(endpoint)),
                near: preferred.as_ref().map(|near| near.contains(&Arc::as_ptr(endpoint))),
            }
        };
        BalancerView {
            endpoints: set.all.iter().map(view).collect(),
            ready: set.ready.len(),
            ejected: self.ejected(),
            ejections_total: self.ejections_total(),
            panics_total: self.panics_total(),
            near: near.map(|(near, _)| near.to_string()),
        }
    }
}

/// A balancer as `/config` and the metrics show it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct BalancerView {
    /// In the order configured.
    pub endpoints: Vec<EndpointView>,
    /// How many take requests, ejected ones included.
    pub ready: usize,
    /// How many of them are ejected.
    pub ejected: usize,
    /// Since the start.
    pub ejections_total: u64,
    /// Picks made under panic since the start.
    pub panics_total: u64,
    /// Which are preferred for being near, and why; `None`: all are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
}
