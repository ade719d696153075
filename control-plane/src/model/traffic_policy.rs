//! XBackendTrafficPolicy of the Gateway API's experimental channel: how traffic to a Service is handled, whoever sends it.

use std::time::Duration;

use super::{LocalRef, Meta, ObjectName, SessionPersistence};

/// An XBackendTrafficPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrafficPolicy {
    /// Metadata.
    pub meta: Meta,
    /// What it is for, in its own namespace.
    pub targets: Vec<LocalRef>,
    /// `retryConstraint`, with its defaults.
    pub retries: Option<RetryConstraint>,
    /// `sessionPersistence`
    pub session: Option<SessionPersistence>,
}

/// A budget of retries (GEP-3388).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryConstraint {
    /// `budget.percent`: of the requests of `interval`; at most 100.
    pub percent: u32,
    /// `budget.interval`: 1 s to 1 h.
    pub interval: Duration,
    /// `minRetryRate.count`: so many are always allowed ...
    pub min_count: u32,
    /// `minRetryRate.interval`: ... in so long; above zero, 1 h at most.
    pub min_interval: Duration,
}

impl TrafficPolicy {
    /// The Services it is for.
    pub fn services(&self) -> impl Iterator<Item = ObjectName> {
        let targets = self.targets.iter().filter(|target| target.is_service());
        targets.map(|target| ObjectName::new(&*self.meta.name.namespace, &*target.name))
    }
}
