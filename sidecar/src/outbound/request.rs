//! One request from the app: what it asks for, which rule and backend that is, and the answer.
//!
//! ```text
//! request ─► trusted headers only ─► destination ─► entry that matches ─► limits ─► filters ─► target by weight
//!                                       │                │                └ 429            ├─ fixed answer (500)
//!                                       └ own answer     └ none: 404 `no-route`            └─ backend: tries (`tries.rs`)
//! response ◄─ filters ◄─ own headers off ◄─ the try that was kept
//! ```
//!
//! Filters may answer by themselves (redirects, preflights, faults), have the request wait (`fault.rs`) or copied (`mirror.rs`),
//! and say what the response tells browsers, also one that we made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use weft_proto::{ServiceName, headers};

use super::Outbound;
use super::tries::{Guards, Held, Kept, Plan, Tries};
use super::{fault, mirror};
use crate::answer::OwnAnswer;
use crate::config::{Backend, Destination, LOOKUP_TIMEOUT, Protocol};
use crate::http::{Answer, Body, Handler, Request, Response, h1, host, hygiene};
use crate::limit;
use crate::reason::Reason;
use crate::resilience::{Asking, Deadline};
use crate::route::{After, Filters, Found, Made, RequestView, RouteTable, Rule, Target, Token, Unsendable};
use crate::telemetry::record::{Direction, Record, Riding};

/// What says where a connection's requests go.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// Its original destination.
    Address(SocketAddr),
    /// The host each of them asks for; those that ask for none that the mesh knows go to the original destination, if
    /// policy lets them.
    Host(SocketAddr),
}

impl By {
    /// The original destination.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Address(address) | Self::Host(address) => address,
        }
    }
}

/// Serves one downstream connection's requests. The destination is looked up again for each request, so that a changed
/// weight acts on the next request of a connection that is already open.
#[derive(Clone)]
pub(super) struct RequestHandler {
    pub(super) outbound: Arc<Outbound>,
    pub(super) by: By,
    pub(super) client: SocketAddr,
    /// What the first request is answered, where the connection itself has already waited in vain.
    pub(super) refused: Option<Arc<Mutex<Option<OwnAnswer>>>>,
}

impl Handler for RequestHandler {
    fn handle(&self, request: Request, now: Instant) -> impl Future<Output = Answer> + Send {
        // Made where it is to lie: a box filled afterwards is a copy of kilobytes.
        let place = Box::new_uninit();
        let answer = Box::into_pin(Box::write(place, self.answer(request, now)));
        async move { Answer::Response(answer.await) }
    }

    fn answered(&self, reason: Reason) {
        self.outbound.telemetry.metrics.refused("outbound", reason);
        if reason == Reason::Internal {
            self.outbound.telemetry.metrics.panics.inc();
        }
    }
}

impl RequestHandler {
    async fn answer(&self, request: Request, now: Instant) -> Box<Response> {
        let (mut parts, body) = request.into_parts();
        // From the local app only the deadline is believed (SEMANTICS.md §6).
        hygiene::strip_untrusted(&mut parts.headers, true);
        self.outbound.settings.args.panic_if_asked(parts.uri.path());
        let per_10000 = || self.outbound.config.settings().tracing_sample_per_10000;
        let mut record = Record::of(&self.outbound.telemetry, Direction::Outbound, &mut parts, per_10000, now);
        let mut after = After::default();
        let forwarded = self.forward(&mut parts, body, &mut record, &mut after).await;
        h1::give_map(parts.headers);
        let mut response = match forwarded {
            Ok(Kept { mut response, guards }) => {
                record.status = response.status();
                let body = response.body_mut();
                *body = std::mem::take(body).observed(Riding { record, _guards: guards });
                response
            }
            Err(own) => {
                tracing::debug!(reason = %own.reason, detail = %own.detail, service = %record.told.service.get(), "answered by the sidecar");
                record.reason = Some(own.reason);
                record.status = own.status();
                self.outbound.telemetry.metrics.refused("outbound", own.reason);
                let response = own.response(record.is_grpc(), true);
                let (parts, body) = response.into_parts();
                Box::new(Response::from_parts(parts, body.observed(Riding { record, _guards: () })))
            }
        };
        if let Some(shared) = &after.shared {
            shared.apply(response.headers_mut());
        }
        if let Some(verdict) = after.limited {
            limit::tell(*verdict, response.headers_mut());
        }
        response
    }

    async fn forward(
        &self,
        request: &mut Parts,
        body: Body,
        record: &mut Record,
        after: &mut After<Arc<Backend>>,
    ) -> Result<Kept<Guards>, OwnAnswer> {
        if let Some(own) = self.refused.as_ref().and_then(|refused| refused.lock().take()) {
            return Err(own);
        }
        let address = self.by.address();
        let host = match self.by {
            By::Host(_) => host::of_request(&request.method, &request.uri, request.version, &request.headers),
            By::Address(_) => None,
        };
        let host = host.map(str::to_owned);
        let port;
        let mut called = Protocol::Auto;
        // The rule that matched, and the filters of the target it chose.
        let mut chosen = None;
        let mut token: Option<Token> = None;
        let mut now = record.started();
        let known = if host.is_none() { self.outbound.config.known_destination(address, now) } else { None };
        let destination = match known {
            Some(known) => known,
            None => {
                let destination = self.destination(host.as_deref()).await;
                now = tokio::time::Instant::now().into_std();
                destination
            }
        };
        let backend = match destination {
            Destination::Service { port: found } => {
                record.told.service.tell(&found.label);
                port = found;
                called = port.protocol;
                match &port.routes {
                    None => {
                        token = session_at(&port.backend, &request.headers);
                        Arc::clone(&port.backend)
                    }
                    Some(routes) => {
                        let rule = find(routes, request).ok_or_else(|| no_route(&port.service))?.rule;
                        record.told.route.tell(&rule.route);
                        self.limit(rule, request, now, after)?;
                        // Before a filter takes its header or cookie away.
                        token = session_of(rule, &request.headers);
                        let made = apply(&rule.filters, rule, request, after)?;
                        if !after.delay.is_zero() {
                            let delay = std::mem::take(&mut after.delay);
                            now = Box::pin(fault::wait(&self.outbound, delay, rule, request, record.started())).await?;
                        }
                        if let Some(made) = made {
                            return made_by(made, rule, &[&rule.filters], record);
                        }
                        let stays = token.and_then(|token| rule.choose_for(|backend| holds(backend, token)));
                        let (target, filters) = stays.unwrap_or_else(|| rule.choose(&mut rand::rng()));
                        let made = apply(filters, rule, request, after)?;
                        if !after.delay.is_zero() {
                            let delay = std::mem::take(&mut after.delay);
                            now = Box::pin(fault::wait(&self.outbound, delay, rule, request, record.started())).await?;
                        }
                        if let Some(made) = made {
                            return made_by(made, rule, &[filters, &rule.filters], record);
                        }
                        chosen = Some((rule, filters));
                        match target {
                            Target::Backend(backend) => Arc::clone(backend),
                            Target::Answer(fixed) => {
                                let own = OwnAnswer::new(Reason::InvalidBackend, fixed.detail.clone());
                                return Err(OwnAnswer {
                                    status: Some(fixed.status),
                                    ..own.with_context(name_of(rule))
                                });
                            }
                        }
                    }
                }
            }
            Destination::Workload(workload) => {
                // Pods come and go, so what they belong to is what is counted.
                let owner = if workload.owner.is_empty() { &workload.name } else { &workload.owner };
                record.told.service.set(format!("{}/{owner}", workload.namespace));
                record.told.backend.set(format!("{}/{owner}:{}", workload.namespace, address.port()));
                self.outbound.config.direct(&workload, address)
            }
            Destination::Outside if matches!(self.by, By::Host(_)) => {
                // One name for all of them: which addresses there are is not ours to bound.
                record.told.service.set("outside");
                record.told.backend.set("outside");
                self.outbound.config.outside(address)
            }
            other => return Err(refusal(&other, address)),
        };
        let rule = chosen.map(|(rule, _)| rule);
        let plan = Plan {
            backend: &backend,
            called,
            deadline: request_deadline(request, rule.and_then(|rule| rule.request_timeout), record.started())?,
            per_try: rule.and_then(|rule| rule.backend_request_timeout),
            retry: rule.and_then(|rule| rule.retry.as_ref()),
            session: token,
        };
        let body = if after.copies.is_empty() {
            body
        } else {
            mirror::with_copies(&self.outbound, std::mem::take(&mut after.copies), body, self.client, called)
        };
        let Kept { mut response, guards } = match (self.try_backend(plan, request, body, record, now).await, rule) {
            (Ok(kept), _) => kept,
            (Err(own), Some(rule)) => return Err(own.with_context(name_of(rule))),
            (Err(own), None) => return Err(own),
        };
        for_the_app(response.headers_mut());
        if let Some((rule, filters)) = chosen {
            filters.apply_response(response.headers_mut());
            rule.filters.apply_response(response.headers_mut());
        }
        let session = rule.and_then(|rule| rule.session.as_deref()).or(backend.session.as_deref());
        if let (Some(session), Some(endpoint)) = (session, record.endpoint) {
            let here = |token: Token| token.is_of(&backend.label) && token.is_at(endpoint);
            if !token.is_some_and(here) {
                session.write(Token::new(&backend.label, endpoint, seconds()), response.headers_mut());
            }
        }
        let left = guards.map(Held::leave);
        let guards = left.map(|pick| Guards::new(pick, backend));
        Ok(Kept { response, guards })
    }

    /// Asks the rule's rate limits, if it has any: by the request as the app sent it.
    fn limit(
        &self,
        rule: &Rule<Arc<Backend>>,
        request: &Parts,
        now: Instant,
        after: &mut After<Arc<Backend>>,
    ) -> Result<(), OwnAnswer> {
        if rule.rate_limits.is_empty() {
            return Ok(());
        }
        let identity = &self.outbound.settings.identity;
        let asking = Asking { client: self.client.ip(), peer: Some(identity), headers: &request.headers };
        let (verdict, may) = limit::ask(&rule.rate_limits, asking, now);
        after.limited = verdict.map(Box::new);
        may
    }

    async fn destination(&self, host: Option<&str>) -> Destination {
        let address = self.by.address();
        if let Some(host) = host
            && let Some(named) = Box::pin(self.outbound.config.host(host, address.port())).await
        {
            return named;
        }
        self.outbound.config.destination(address).await
    }

    async fn try_backend<'a>(
        &'a self,
        plan: Plan<'a>,
        request: &mut Parts,
        body: Body,
        record: &mut Record,
        mut now: Instant,
    ) -> Result<Kept<Held<'a>>, OwnAnswer> {
        if record.told.backend.get().is_empty() {
            record.told.backend.tell(&plan.backend.label);
        }
        // A rule that has just changed may name a backend whose endpoints are one round trip away.
        if !plan.backend.is_known() {
            if !Box::pin(plan.backend.endpoints_known(LOOKUP_TIMEOUT)).await {
                let detail = format!("the control plane did not say in time which endpoints {} has", plan.backend.name);
                return Err(OwnAnswer::new(Reason::ConfigUnavailable, detail));
            }
            now = tokio::time::Instant::now().into_std();
        }
        Tries { outbound: &self.outbound, client: self.client, plan, now }.run(request, body, record).await
    }
}

/// What a rule's filters, or its target's, do to a request.
fn apply(
    filters: &Filters<Arc<Backend>>,
    rule: &Rule<Arc<Backend>>,
    request: &mut Parts,
    after: &mut After<Arc<Backend>>,
) -> Result<Option<Made>, OwnAnswer> {
    filters
        .apply_request(request, &mut rand::rng(), after)
        .map_err(|error: Unsendable| OwnAnswer::new(Reason::BadRequest, error.to_string()).with_context(name_of(rule)))
}

/// The answer that a filter made. `filters` act on a redirect as on any response, in this order.
fn made_by(
    made: Made,
    rule: &Rule<Arc<Backend>>,
    filters: &[&Filters<Arc<Backend>>],
    record: &mut Record,
) -> Result<Kept<Guards>, OwnAnswer> {
    let (reason, mut response) = match made {
        Made::Redirect(response) if record.is_grpc() => {
            let to = response.headers().get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
            let detail =
                format!("the rule redirects to {}, and gRPC follows no redirects", String::from_utf8_lossy(to));
            return Err(OwnAnswer::new(Reason::Redirect, detail).with_context(name_of(rule)));
        }
        Made::Redirect(mut response) => {
            filters.iter().for_each(|filters| filters.apply_response(response.headers_mut()));
            (Reason::Redirect, response)
        }
        Made::Preflight(response) => (Reason::Preflight, response),
        Made::Abort(abort) => return Err(fault::aborted(abort).with_context(name_of(rule))),
    };
    record.reason = Some(reason);
    if let Ok(value) = HeaderValue::try_from(format!("{reason}; {}", name_of(rule))) {
        response.headers_mut().insert(headers::REASON, value);
    }
    Ok(Kept { response: Box::new(response.map(|()| Body::empty())), guards: None })
}

/// The session of a request that this rule is for: the rule's, else that of a backend it may go to, which goes before weights
/// as the rule's does (GEP-1619 "Traffic Splitting").
pub(super) fn session_of(rule: &Rule<Arc<Backend>>, headers: &HeaderMap) -> Option<Token> {
    match &rule.session {
        Some(session) => session.read(headers, seconds()),
        None => rule.backends().find_map(|backend| session_at(backend, headers)),
    }
}

/// The session that a request has with a backend which keeps them.
pub(super) fn session_at(backend: &Backend, headers: &HeaderMap) -> Option<Token> {
    let token = backend.session.as_ref()?.read(headers, seconds())?;
    holds(backend, token).then_some(token)
}

/// Whether the backend has a session's endpoint, as far as is known. One that is gone takes its sessions with it: they are
/// balanced anew by weight.
pub(super) fn holds(backend: &Backend, token: Token) -> bool {
    let has = || backend.balancer.endpoints().iter().any(|endpoint| token.is_at(endpoint.addr()));
    token.is_of(&backend.label) && (!backend.is_known() || has())
}

/// Since 1970.
pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// For `x-weft-reason`.
pub(super) fn name_of(rule: &Rule<Arc<Backend>>) -> String {
    format!("rule={}#{}", rule.route, rule.name)
}

/// What a mesh peer's sidecar says about itself is for us; the app is told only why (`x-weft-reason`).
fn for_the_app(headers: &mut HeaderMap) {
    if !hygiene::has_untrusted(headers, false) {
        return;
    }
    let reason = headers.get(headers::REASON).cloned();
    hygiene::strip_untrusted(headers, false);
    if let Some(reason) = reason {
        headers.insert(headers::REASON, reason);
    }
}

/// The one place where a request meets the rules: `explain.rs` asks here as well.
pub(super) fn find<'a>(routes: &'a RouteTable<Arc<Backend>>, request: &Parts) -> Option<Found<'a, Arc<Backend>>> {
    routes.find_entry(&RequestView {
        method: &request.method,
        path: request.uri.path(),
        query: request.uri.query(),
        headers: &request.headers,
    })
}

/// What is answered where a route is attached to the Service and no rule matches.
pub(super) fn no_route(service: &ServiceName) -> OwnAnswer {
    OwnAnswer::new(Reason::NoRoute, format!("no rule of the routes attached to {service} matches this request"))
}

/// The earlier of the route's request timeout and what the client is willing to wait. Spent already: 504 without calling.
pub(super) fn request_deadline(
    request: &Parts,
    timeout: Option<std::time::Duration>,
    now: Instant,
) -> Result<Deadline, OwnAnswer> {
    let timeout = timeout.filter(|timeout| !timeout.is_zero());
    let deadline = Deadline::of_request(now, timeout, &request.headers);
    if deadline.is_spent(now) {
        return Err(OwnAnswer::new(Reason::Timeout, "the client's deadline had passed when the request arrived"));
    }
    Ok(deadline)
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
        Destination::Outside | Destination::Service { .. } | Destination::Workload(_) => {
            OwnAnswer::new(Reason::ConfigUnavailable, format!("what {addr} is has just changed: try again"))
        }
    }
}
