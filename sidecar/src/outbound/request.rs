//! One request from the app: what it asks for, which rule and backend that is, and the answer.
//!
//! ```text
//! request ─► trusted headers only ─► destination ─► entry that matches ─► filters ─► target by weight
//!                                       │                │                            ├─ fixed answer (500)
//!                                       └ own answer     └ none: 404 `no-route`       └─ backend: tries (`tries.rs`)
//! response ◄─ filters ◄─ own headers off ◄─ the try that was kept
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use weft_proto::headers;

use super::Outbound;
use super::observe::{Record, Riding};
use super::tries::{Kept, Tries};
use crate::answer::OwnAnswer;
use crate::config::{Backend, Destination, ServicePort};
use crate::http::{Answer, Handler, Request, Response, hygiene};
use crate::reason::Reason;
use crate::resilience::{Deadline, RetryPolicy};
use crate::route::{Filters, RequestView, Rule, Target};
use crate::telemetry::trace;

/// Serves one downstream connection's requests. The destination is looked up again for each request, so that a changed
/// weight acts on the next request of a connection that is already open.
#[derive(Clone)]
pub(super) struct RequestHandler {
    pub(super) outbound: Arc<Outbound>,
    pub(super) destination: SocketAddr,
    pub(super) client: SocketAddr,
}

impl Handler for RequestHandler {
    async fn handle(&self, request: Request) -> Answer {
        Answer::Response(Box::pin(self.answer(request)).await)
    }

    fn answered(&self, reason: Reason) {
        self.outbound.telemetry.metrics.refused("outbound", reason);
        if reason == Reason::Internal {
            self.outbound.telemetry.metrics.panics.inc();
        }
    }
}

impl RequestHandler {
    async fn answer(&self, mut request: Request) -> Response {
        // From the local app only the deadline is believed (SEMANTICS.md §6).
        hygiene::strip_untrusted(request.headers_mut(), true);
        let grpc = hygiene::is_grpc(request.headers());
        let mut record = self.record(&mut request, grpc);
        match self.forward(request, &mut record).await {
            Ok((kept, filters)) => {
                let Kept { mut response, guards } = kept;
                record.status = response.status();
                // What our peer's sidecar tells us is for us; the app is told only why (`x-weft-reason`).
                let reason = response.headers().get(headers::REASON).cloned();
                hygiene::strip_untrusted(response.headers_mut(), false);
                if let Some(reason) = reason {
                    response.headers_mut().insert(headers::REASON, reason);
                }
                for filters in filters.iter().flatten() {
                    filters.apply_response(response.headers_mut());
                }
                let (parts, body) = response.into_parts();
                Response::from_parts(parts, body.observed(Riding { record, _guards: guards }))
            }
            Err(own) => {
                tracing::debug!(reason = %own.reason, detail = %own.detail, service = record.service, "answered by the sidecar");
                record.reason = Some(own.reason);
                record.status = own.status();
                self.outbound.telemetry.metrics.refused("outbound", own.reason);
                let response = own.response(grpc, true);
                let (parts, body) = response.into_parts();
                Response::from_parts(parts, body.observed(Riding { record, _guards: () }))
            }
        }
    }

    /// Starts the record and, for sampled requests, the span.
    fn record(&self, request: &mut Request, grpc: bool) -> Record {
        let telemetry = &self.outbound.telemetry;
        let protocol = hygiene::protocol_label(request.version(), grpc);
        let mut span = None;
        if telemetry.spans {
            let incoming = trace::read(request.headers());
            let per_10000 = self.outbound.config.settings().tracing_sample_per_10000;
            if trace::sample(incoming.as_ref(), per_10000, &mut rand::rng()) {
                let started = trace::start("outbound", incoming.as_ref(), request.headers_mut());
                started.record("http.request.method", request.method().as_str());
                started.record("url.path", request.uri().path());
                span = Some(started);
            }
        }
        let mut record = Record::new(telemetry, protocol, span);
        if telemetry.access_log.is_some() {
            record.method = request.method().to_string();
            record.path = request.uri().path().to_owned();
            record.authority = hygiene::authority(request).unwrap_or_default().to_owned();
        }
        record
    }

    async fn forward(
        &self,
        mut request: Request,
        record: &mut Record,
    ) -> Result<(Kept, [Option<Arc<Filters>>; 2]), OwnAnswer> {
        let now = tokio::time::Instant::now().into_std();
        let (service, port) = match self.outbound.config.destination(self.destination).await {
            Destination::Service { service, port } => {
                record.service = service.name.to_string();
                (service.name.to_string(), port)
            }
            Destination::Workload(workload) => {
                let Some(backend) = workload.backend(self.destination.port()) else {
                    return Err(OwnAnswer::new(Reason::NoEndpoints, "this pod address has no such port in the mesh"));
                };
                record.service = workload.name().to_owned();
                let own = request_deadline(&request, None, now)?;
                let kept = self.try_backend(&backend, request, own, None, None, record).await?;
                return Ok((kept, [None, None]));
            }
            other => return Err(refusal(&other, self.destination)),
        };
        let Some(routes) = &port.routes else {
            let deadline = request_deadline(&request, None, now)?;
            let kept = self.try_backend(&port.backend, request, deadline, None, None, record).await?;
            return Ok((kept, [None, None]));
        };
        let rule = find(routes, &request).ok_or_else(|| {
            OwnAnswer::new(Reason::NoRoute, format!("no rule of the routes attached to {service} matches this request"))
        })?;
        record.route = rule.route.to_string();
        let context = || format!("rule={}#{}", rule.route, rule.name);
        rule.filters.apply_request(request.headers_mut());
        let (target, target_filters) = rule.choose(&mut rand::rng());
        let backend = match target {
            Target::Backend(backend) => backend,
            Target::Answer(fixed) => {
                let mut own = OwnAnswer::new(Reason::InvalidBackend, fixed.detail.clone()).with_context(context());
                own.status = Some(fixed.status);
                return Err(own);
            }
        };
        target_filters.apply_request(request.headers_mut());
        let deadline = request_deadline(&request, rule.request_timeout, now)?;
        let kept = self
            .try_backend(backend, request, deadline, rule.backend_request_timeout, rule.retry.as_ref(), record)
            .await
            .map_err(|own| own.with_context(context()))?;
        Ok((kept, [Some(Arc::clone(target_filters)), Some(Arc::clone(&rule.filters))]))
    }

    async fn try_backend(
        &self,
        backend: &Arc<Backend>,
        request: Request,
        deadline: Option<Deadline>,
        per_try: Option<std::time::Duration>,
        retry: Option<&RetryPolicy>,
        record: &mut Record,
    ) -> Result<Kept, OwnAnswer> {
        record.backend = backend.name.to_string();
        Tries { outbound: &self.outbound, backend, client: self.client, deadline, per_try, retry }
            .run(request, record)
            .await
    }
}

fn find<'a>(
    routes: &'a crate::route::RouteTable<Arc<Backend>>,
    request: &Request,
) -> Option<&'a Rule<Arc<Backend>>> {
    routes.find(&RequestView {
        method: request.method(),
        path: if request.method() == Method::OPTIONS && request.uri().path() == "*" { "*" } else { request.uri().path() },
        query: request.uri().query(),
        headers: request.headers(),
    })
}

/// The earlier of the route's request timeout and what the client is willing to wait. Spent already: 504 without calling.
fn request_deadline(
    request: &Request,
    timeout: Option<std::time::Duration>,
    now: std::time::Instant,
) -> Result<Option<Deadline>, OwnAnswer> {
    let deadline = Deadline::of_request(request.headers(), timeout, now);
    match deadline {
        Some(deadline) if deadline.is_spent(now) => {
            Err(OwnAnswer::new(Reason::Timeout, "the client's deadline had passed when the request arrived"))
        }
        deadline => Ok(deadline),
    }
}

/// The answer where there is no backend to try.
pub(super) fn refusal(destination: &Destination, addr: SocketAddr) -> OwnAnswer {
    match destination {
        Destination::NoPort(service) => OwnAnswer::new(
            Reason::NoPort,
            format!("Service {} has no port {}: check its spec.ports", service.name, addr.port()),
        ),
        Destination::Refused(reason) => OwnAnswer::new(
            *reason,
            format!("{addr} is not known to the mesh and outbound policy is REGISTRY_ONLY: declare it, or allow any"),
        ),
        Destination::Unavailable => OwnAnswer::new(
            Reason::ConfigUnavailable,
            format!("the control plane did not say in time what {addr} is; is it running?"),
        ),
        Destination::Outside | Destination::Service { .. } | Destination::Workload(_) => OwnAnswer::new(
            Reason::ConfigUnavailable,
            format!("what {addr} is has just changed: try again"),
        ),
    }
}

/// Kept for callers that only need to know whether a port is HTTP.
pub(super) fn is_http(port: &ServicePort) -> bool {
    port.protocol.is_http()
}
