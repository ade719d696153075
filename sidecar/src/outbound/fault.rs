//! Faults that somebody asked for, done: the wait, and the answer. Whether a request gets one is drawn in `route/fault.rs`.
//!
//! A wait is a part of the request's time: it ends at the deadline, with the answer that a slow server would have made
//! (SEMANTICS.md §3 "fault injection"). Bound: a request that waits holds what any request holds whose server is slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;

use super::Outbound;
use super::request::{name_of, request_deadline};
use crate::answer::OwnAnswer;
use crate::config::Backend;
use crate::reason::Reason;
use crate::route::{Abort, Rule};

/// Has a request that came at `started` wait; when that is over.
///
/// # Errors
/// When its time was over before.
pub(super) async fn wait(
    outbound: &Outbound,
    delay: Duration,
    rule: &Rule<Arc<Backend>>,
    request: &Parts,
    started: Instant,
) -> Result<Instant, OwnAnswer> {
    outbound.telemetry.metrics.faults_delayed.inc();
    let deadline = request_deadline(request, rule.request_timeout, started)?;
    let now = tokio::time::Instant::now();
    let left = deadline.remaining(now.into_std()).filter(|left| *left <= delay);
    tokio::time::sleep_until(now + left.unwrap_or(delay)).await;
    if left.is_some() {
        let detail = format!("a FaultInjection has this request wait {delay:?}, and its time was over before that");
        return Err(OwnAnswer::new(Reason::Timeout, detail).with_context(name_of(rule)));
    }
    Ok(tokio::time::Instant::now().into_std())
}

/// The answer in the app's place.
pub(super) fn aborted(abort: Abort) -> OwnAnswer {
    let own = OwnAnswer::new(Reason::Fault, format!("FaultInjection {} wants this request to fail", abort.by));
    OwnAnswer { status: Some(abort.status), grpc_status: Some(abort.grpc_status), ..own }
}
