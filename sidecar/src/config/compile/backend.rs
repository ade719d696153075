//! Backends, which ports and route targets name alike, and their policy.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use weft_proto::{EndpointsName, ServiceName, v1};

use super::balancing::{balancing, hash_by};
use super::error::{CompileError, In};
use super::outlier::outlier;
use super::values::{at_least_1_ms, port_number, protocol, span, status_codes};
use crate::backend_tls::BackendTls;
use crate::balance::BalancePolicy;
use crate::config::model::{Backend, IdleTimeouts, Policy, Protocol};
use crate::resilience::{Limits, RateLimit, RecentPolicy, RetryPolicy};
use crate::route::Session;

/// An HTTP connection is kept so long at least: one that closes before the request that it was opened for has it, because
/// a worker is busy, would be opened in vain.
const LEAST_HTTP_IDLE: Duration = Duration::from_millis(100);

/// Gives a [`Backend`] for a name: the one that exists if it says the same, or a new one around the same state.
pub(in crate::config) trait Intern {
    fn intern(&mut self, name: EndpointsName, protocol: Protocol, policy: Policy) -> Arc<Backend>;

    /// Gives a rule's limit, counting with what is counted under its name elsewhere.
    fn limit(&mut self, limit: RateLimit) -> RateLimit {
        limit
    }
}

/// What a rule's target names.
pub(super) fn compile_backend(
    backend: &v1::Backend,
    node: &str,
    backends: &mut dyn Intern,
) -> Result<Arc<Backend>, CompileError> {
    let service: ServiceName = backend.service.parse().field("service")?;
    let port = port_number(backend.port).field("port")?;
    let protocol = protocol(backend.protocol).field("protocol")?;
    let policy = policy(backend.policy.as_ref(), node).field("policy")?;
    Ok(backends.intern(service.endpoints(port), protocol, policy))
}

pub(super) fn policy(policy: Option<&v1::BackendPolicy>, node: &str) -> Result<Policy, CompileError> {
    let Some(policy) = policy else { return Ok(Policy::default()) };
    let defaults = Policy::default();
    let limits = policy.limits.as_ref().map_or_else(Limits::default, |limits| Limits {
        max_connections: NonZeroU32::new(limits.max_connections),
        max_pending: NonZeroU32::new(limits.max_pending),
        max_requests: NonZeroU32::new(limits.max_requests),
        max_requests_per_connection: NonZeroU32::new(limits.max_requests_per_connection),
    });
    let retry = match &policy.retry {
        None => defaults.retry,
        Some(retry) => RetryPolicy {
            max_retries: retry.max_retries,
            status_codes: status_codes(&retry.status_codes).field("retry")?,
            backoff_floor: span(retry.backoff.as_ref()).field("retry.backoff")?.unwrap_or_default(),
            any_method: retry.any_method,
            ..defaults.retry
        },
    };
    let affinity = policy.client_ip_affinity_seconds;
    Ok(Policy {
        balance: BalancePolicy {
            outlier: outlier(policy.outlier_detection.as_ref()).field("outlier_detection")?,
            publish_not_ready: policy.publish_not_ready,
            only_node: policy.node_local.then(|| node.into()),
            client_ip_affinity: (affinity > 0).then(|| Duration::from_secs(affinity.into())),
            ..balancing(policy.balancing.as_deref()).field("balancing")?
        },
        hash_by: hash_by(policy.balancing.as_deref()).field("balancing")?,
        limits,
        retry,
        connect_timeout: at_least_1_ms(policy.connect_timeout.as_ref())
            .field("connect_timeout")?
            .unwrap_or(defaults.connect_timeout),
        idle: IdleTimeouts {
            http: at_least_1_ms(policy.http_idle_timeout.as_ref())
                .field("http_idle_timeout")?
                .map(|timeout| timeout.max(LEAST_HTTP_IDLE)),
            tcp: at_least_1_ms(policy.tcp_idle_timeout.as_ref()).field("tcp_idle_timeout")?,
        },
        tls: policy.tls.as_ref().map(|tls| BackendTls::new(tls).map(Arc::new)).transpose().field("tls")?,
        budget: policy.retry_budget.as_deref().map(budget).transpose().field("retry_budget")?,
        session: policy.session.as_deref().map(session).transpose().field("session")?.map(Arc::new),
    })
}

fn budget(wire: &v1::RetryBudget) -> Result<RecentPolicy, CompileError> {
    let interval = at_least_1_ms(wire.interval.as_ref()).field("interval")?.unwrap_or_default();
    let min_interval = at_least_1_ms(wire.min_interval.as_ref()).field("min_interval")?.unwrap_or_default();
    Ok(RecentPolicy::new(wire.percent, interval, wire.min_count, min_interval)?)
}

/// A backend's: rules of any path lead there, so its cookie need have none (GEP-1619 "Path").
fn session(wire: &v1::SessionPersistence) -> Result<Session, CompileError> {
    let lasts = at_least_1_ms(wire.absolute_timeout.as_ref()).field("absolute_timeout")?;
    let session = match (wire.header, wire.path.is_empty()) {
        (true, _) => Session::header(&wire.name, lasts),
        (false, true) => Session::cookie_for_any_path(&wire.name, lasts, wire.permanent),
        (false, false) => Session::cookie(&wire.name, &wire.path, lasts, wire.permanent),
    };
    Ok(session?)
}
