//! What `/config` and the metrics show of a balancer.

use std::time::Instant;

use super::Balancer;
use crate::balance::endpoint::{Endpoint, EndpointView};

impl Balancer {
    /// What `/config` and the metrics show.
    pub fn snapshot(&self, now: Instant) -> BalancerView {
        let set = self.shared.set.load();
        let ms = self.shared.ms(now);
        let view = |endpoint: &std::sync::Arc<Endpoint>| {
            let state = &endpoint.state;
            EndpointView {
                addr: endpoint.addr(),
                identity: endpoint.mesh().map(|(_, identity)| identity.to_string()),
                pod: endpoint.pod().to_owned(),
                health: endpoint.health(),
                weight: endpoint.weight(),
                in_flight: state.in_flight(),
                ewma_ms: state.latency.average_us(ms).map(|us| f64::from(us) / 1e3),
                consecutive_failures: state.standing.failures(),
                ejected_ms: state.standing.ejected_for(ms),
            }
        };
        BalancerView {
            endpoints: set.all.iter().map(view).collect(),
            ready: set.ready.len(),
            ejected: self.ejected(),
            ejections_total: self.ejections_total(),
            panics_total: self.panics_total(),
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
}
