//! Connections made before their first request (SEMANTICS.md §3 "connections ahead"). Where a backend is in use, an endpoint that
//! has just come (a rollout, a scale-up) is connected to at once, so that no request waits for its handshake.
//!
//! Each worker does so for itself, since a connection is cheapest to use where it was made. Only mesh connections: a plain
//! one is a round trip away, and closes after four seconds without a request. What fails is told to nobody: the first
//! request finds out, as it would have.
//!
//! Bound: [`AT_ONCE`] endpoints for each change and worker; the others are connected to when they are picked.

use std::sync::Arc;
use std::time::Duration;

use super::{Outbound, Upstreams};
use crate::balance::Health;

/// Most endpoints connected to for one change.
const AT_ONCE: usize = 16;
/// Changes come in bursts: so long after one, the others are looked at with it.
const TOGETHER: Duration = Duration::from_millis(20);

impl Outbound {
    /// Looks at every change of endpoints, for the worker on whose runtime it runs. Never ends.
    pub(crate) async fn keep_warm(self: Arc<Self>) {
        let mut changes = self.config.changes();
        let mut next = 0;
        loop {
            if changes.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(TOGETHER).await;
            changes.mark_unchanged();
            if !self.drain.is_draining() {
                next = self.warm(next);
            }
        }
    }

    /// Connects to endpoints whose id is `next` or above, and says which is above them all.
    fn warm(self: &Arc<Self>, next: u64) -> u64 {
        let (mut above, mut left) = (next, AT_ONCE);
        for backend in self.config.backends() {
            let endpoints = backend.balancer.endpoints();
            above = endpoints.iter().map(|endpoint| endpoint.id() + 1).fold(above, u64::max);
            let mut new = endpoints
                .iter()
                .filter(|endpoint| endpoint.id() >= next && endpoint.health() == Health::Ready)
                .filter(|endpoint| endpoint.mesh().is_some() && !self.is_own(endpoint.addr()))
                .peekable();
            if left == 0 || new.peek().is_none() || !self.upstreams.is_in_use(&backend.name) {
                continue;
            }
            for endpoint in new.take(left) {
                left -= 1;
                tracing::debug!(backend = %backend.name, endpoint = %endpoint.addr(), "connecting before the first request");
                Upstreams::warm(self, &backend, endpoint);
            }
        }
        above
    }
}
