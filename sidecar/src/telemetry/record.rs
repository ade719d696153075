//! What is noted when a response has ended: one metric, one log line, one span. The record travels inside the response's
//! body, so that durations reach to the last byte and guards (the endpoint's load, limits, the budget) live exactly as
//! long as the exchange.

use std::net::SocketAddr;
use std::time::Instant;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{StatusCode, Version};
use time::format_description::well_known::Rfc3339;
use weft_proto::SpiffeId;

use super::access_log::Entry;
use super::metrics::OutboundRequest;
use super::told::Told;
use super::{Telemetry, trace};
use crate::http::body::Observer;
use crate::http::error::BodyError;
use crate::http::hygiene;
use crate::reason::Reason;

/// Which way a request went, seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Mesh → app.
    Inbound,
    /// App → mesh.
    Outbound,
}

impl Direction {
    /// As in metrics and log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One request as it will be reported.
pub struct Record {
    telemetry: Telemetry,
    direction: Direction,
    started: Instant,
    span: Option<tracing::Span>,
    /// Only when the access log is on.
    logged: Option<Box<Logged>>,
    pub(crate) protocol: &'static str,
    /// What it is counted under.
    pub(crate) told: Told,
    /// The endpoint tried last.
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) mtls: bool,
    pub(crate) tries: u32,
    pub(crate) reason: Option<Reason>,
    pub(crate) status: StatusCode,
    done: bool,
}

/// What the log says beyond the metrics.
#[derive(Default)]
struct Logged {
    method: String,
    path: String,
    authority: String,
    /// Set by [`Record::peer`].
    peer: String,
}

impl Record {
    pub(crate) fn new(
        telemetry: &Telemetry,
        direction: Direction,
        protocol: &'static str,
        span: Option<tracing::Span>,
        now: Instant,
    ) -> Self {
        Self {
            telemetry: telemetry.clone(),
            direction,
            started: now,
            span,
            logged: None,
            protocol,
            told: Told::take(),
            endpoint: None,
            mtls: false,
            tries: 0,
            reason: None,
            // 499 as nginx has it: the client went away before there was an answer.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            done: false,
        }
    }

    /// Starts the record of `request`, which arrived at `now`, and, where one is due, its span.
    pub(crate) fn of(
        telemetry: &Telemetry,
        direction: Direction,
        request: &mut Parts,
        sample_per_10000: impl FnOnce() -> u32,
        now: Instant,
    ) -> Self {
        let grpc = hygiene::is_grpc(&request.headers);
        let mut span = None;
        if telemetry.spans {
            let incoming = trace::read(&request.headers);
            let declined = incoming.is_none() && trace::is_declined(&request.headers);
            if !declined && trace::sample(incoming.as_ref(), sample_per_10000(), &mut rand::rng()) {
                let started = trace::start(direction.name(), incoming.as_ref(), &mut request.headers);
                started.record("http.request.method", request.method.as_str());
                started.record("url.path", request.uri.path());
                span = Some(started);
            }
        }
        let mut record = Self::new(telemetry, direction, protocol_label(request.version, grpc), span, now);
        if telemetry.access_log.is_some() {
            record.logged = Some(Box::new(Logged {
                method: request.method.to_string(),
                path: request.uri.path().to_owned(),
                authority: authority(request),
                peer: String::new(),
            }));
        }
        record
    }

    /// The record of a request that nobody waits for: it is never reported.
    pub(crate) fn unreported(telemetry: &Telemetry, request: &Parts, now: Instant) -> Self {
        let protocol = protocol_label(request.version, hygiene::is_grpc(&request.headers));
        let mut record = Self::new(telemetry, Direction::Outbound, protocol, None, now);
        record.done = true;
        record
    }

    /// Whether it is gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.protocol == GRPC
    }

    /// When the request arrived.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The other end proved to be `identity`; nobody without one.
    pub(crate) fn peer(&mut self, identity: Option<&SpiffeId>) {
        if let Some(logged) = &mut self.logged {
            identity.map_or("", SpiffeId::as_str).clone_into(&mut logged.peer);
        }
    }

    fn endpoint(&self) -> String {
        self.endpoint.map(|address| address.to_string()).unwrap_or_default()
    }

    fn report(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let flags = self.reason.map_or("", Reason::code);
        // Read only where it is wanted.
        let elapsed = || tokio::time::Instant::now().into_std().saturating_duration_since(self.started);
        match self.direction {
            Direction::Inbound => {
                let local = &self.telemetry.local;
                self.telemetry.metrics.inbound(&local.namespace, &local.pod, self.status.as_u16(), elapsed());
            }
            Direction::Outbound => self.telemetry.metrics.outbound(OutboundRequest {
                source_workload: &self.telemetry.local.workload,
                destination_service: self.told.service.get(),
                backend: self.told.backend.get(),
                route: self.told.route.get(),
                protocol: self.protocol,
                response_code: self.status.as_u16(),
                response_flags: flags,
                mtls: if self.mtls { "true" } else { "false" },
            }),
        }
        if let Some(span) = &self.span {
            span.record("http.response.status_code", self.status.as_u16());
            span.record("weft.service", self.told.service.get().as_str());
            span.record("weft.endpoint", self.endpoint());
            span.record("weft.reason", flags);
            if self.status.is_server_error() {
                span.record("otel.status_code", "ERROR");
            }
        }
        if let Some(log) = &self.telemetry.access_log {
            let elapsed = elapsed();
            let Logged { method, path, authority, peer } = self.logged.take().map(|logged| *logged).unwrap_or_default();
            log.log(Entry {
                time: time::OffsetDateTime::from(std::time::SystemTime::now() - elapsed)
                    .format(&Rfc3339)
                    .unwrap_or_default(),
                direction: self.direction.name(),
                method,
                path,
                authority,
                protocol: self.protocol,
                status: self.status.as_u16(),
                reason: self.reason.map(Reason::code),
                duration_ms: elapsed.as_secs_f64() * 1e3,
                service: self.told.service.get().clone(),
                route: self.told.route.get().clone(),
                endpoint: self.endpoint(),
                peer,
                tries: self.tries,
                mtls: self.mtls,
                trace_id: self.span.as_ref().map(trace::id_of).unwrap_or_default(),
            });
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.report();
        std::mem::take(&mut self.told).give();
    }
}

/// Rides in the response body: the record, and whatever must live as long as the exchange.
pub(crate) struct Riding<G> {
    pub(crate) record: Record,
    /// Held, never read.
    pub(crate) _guards: G,
}

impl<G: Send> Observer for Riding<G> {
    fn end(&mut self, result: Result<(), &BodyError>) {
        if let Err(error) = result {
            let reason = if matches!(error, BodyError::Late) { Reason::Timeout } else { Reason::UpstreamReset };
            self.record.reason.get_or_insert(reason);
        }
        self.record.report();
    }
}

/// What metrics and log call gRPC.
const GRPC: &str = "grpc";

/// What metrics and log call the client's protocol.
fn protocol_label(version: Version, grpc: bool) -> &'static str {
    match version {
        _ if grpc => GRPC,
        Version::HTTP_10 => "http/1.0",
        Version::HTTP_11 => "http/1.1",
        _ => "http/2",
    }
}

/// `:authority`, or Host.
fn authority(request: &Parts) -> String {
    match request.uri.authority() {
        Some(authority) => authority.to_string(),
        None => {
            let host = request.headers.get(HOST).map(HeaderValue::as_bytes);
            String::from_utf8_lossy(host.unwrap_or_default()).into_owned()
        }
    }
}
