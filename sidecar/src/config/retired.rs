//! Route tables that were replaced, until nobody uses them. To give back 10,000 expressions takes a tenth of a second
//! (`compile/cost.rs`), and the last to let go of a table may be a worker, where a request ends. Held here too, a table
//! ends on the control thread: after the next response, or with the next sweep.
//!
//! Bound: the tables that requests still use, and those that were replaced since the last sweep.

use std::sync::Arc;

use super::model::{Service, ServicePort};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retired(Vec<Arc<ServicePort>>);

impl Retired {
    /// Keeps the tables of a service that is not in the store any more.
    pub(super) fn keep(&mut self, service: &Service) {
        self.0.extend(service.ports.values().filter(|port| port.routes.is_some()).cloned());
    }

    /// Those that nobody uses any more: to be dropped outside the lock.
    #[must_use]
    pub(super) fn unused(&mut self) -> Vec<Arc<ServicePort>> {
        self.0.extract_if(.., |port| Arc::strong_count(port) == 1).collect()
    }
}
