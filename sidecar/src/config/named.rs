//! Endpoints whose address is a DNS name (ExternalName; SEMANTICS.md §2 ServiceEntry "DNS"): resolved when they arrive
//! and again whenever an answer's TTL ends, for as long as somebody refers to the backend. All addresses of a name are
//! endpoints of their own. Bound: [`MAX_NAMES`] names per backend, and what `dns.rs` keeps of each answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use weft_proto::EndpointsName;

use super::compile::CompiledEndpoints;
use super::model::BackendState;
use super::store::noting_cuts;
use crate::dns::Dns;

/// Names of one backend that are resolved.
const MAX_NAMES: usize = 64;
/// Until a failed name is asked for again.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Resolves until it is dropped.
#[derive(Debug)]
pub(super) struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to keep `state` up to date with the endpoints and the addresses of the names among them.
pub(super) fn follow(
    name: EndpointsName,
    endpoints: CompiledEndpoints,
    state: Arc<BackendState>,
    dns: Dns,
) -> Follower {
    let task = tokio::spawn(async move {
        loop {
            let again = resolve_once(&name, &endpoints, &state, &dns).await;
            tokio::time::sleep_until(again).await;
        }
    });
    Follower(task.abort_handle())
}

/// Returns when the first answer ends.
async fn resolve_once(name: &EndpointsName, endpoints: &CompiledEndpoints, state: &BackendState, dns: &Dns) -> Instant {
    let mut all = endpoints.endpoints.clone();
    let mut again = Instant::now() + Duration::from_secs(3600);
    let mut seen = HashSet::new();
    for named in endpoints.named.iter().take(MAX_NAMES) {
        // Absolute: in a pod the search list would ask for `db.example.com.NAMESPACE.svc.…` first, which may be another's.
        match dns.resolve(&format!("{}.", named.host)).await {
            Ok(resolved) => {
                again = again.min(Instant::from_std(resolved.fresh_until()));
                let specs = resolved.addresses().iter().map(|address| named.at(*address));
                all.extend(specs.filter(|spec| seen.insert(spec.key.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "an endpoint's name cannot be resolved");
                again = again.min(Instant::now() + AFTER_FAILURE);
            }
        }
    }
    noting_cuts(name, state.balancer(), || state.set_endpoints(all, Instant::now().into_std()));
    // An answer may end while the next name is looked up; one lookup a second is enough.
    again.max(Instant::now() + Duration::from_secs(1))
}
