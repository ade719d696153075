//! What is noted when a response has ended: one metric, one log line, one span. The record travels inside the response's
//! body, so that durations reach to the last byte and guards (the endpoint's load, limits, the budget) live exactly as
//! long as the exchange.

use std::time::Instant;

use http::StatusCode;
use time::format_description::well_known::Rfc3339;

use crate::http::body::Observer;
use crate::http::error::BodyError;
use crate::reason::Reason;
use crate::telemetry::access_log::Entry;
use crate::telemetry::metrics::OutboundLabels;
use crate::telemetry::{Telemetry, trace};

/// One request as it will be reported.
pub(super) struct Record {
    telemetry: Telemetry,
    started: Instant,
    began: std::time::SystemTime,
    span: Option<tracing::Span>,
    /// Only read when the access log is on; empty otherwise.
    pub(super) method: String,
    pub(super) path: String,
    pub(super) authority: String,
    pub(super) protocol: &'static str,
    pub(super) service: String,
    pub(super) backend: String,
    pub(super) route: String,
    pub(super) endpoint: String,
    pub(super) peer: String,
    pub(super) mtls: bool,
    pub(super) tries: u32,
    pub(super) reason: Option<Reason>,
    pub(super) status: StatusCode,
    done: bool,
}

impl Record {
    pub(super) fn new(telemetry: &Telemetry, protocol: &'static str, span: Option<tracing::Span>) -> Self {
        Self {
            telemetry: telemetry.clone(),
            started: tokio::time::Instant::now().into_std(),
            began: std::time::SystemTime::now(),
            span,
            method: String::new(),
            path: String::new(),
            authority: String::new(),
            protocol,
            service: String::new(),
            backend: String::new(),
            route: String::new(),
            endpoint: String::new(),
            peer: String::new(),
            mtls: false,
            tries: 0,
            reason: None,
            // 499 as nginx has it: the client went away before there was an answer.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            done: false,
        }
    }

    fn report(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let flags = self.reason.map_or("", Reason::code);
        self.telemetry.metrics.outbound(OutboundLabels {
            source_workload: self.telemetry.local.workload.clone(),
            destination_service: self.service.clone(),
            backend: self.backend.clone(),
            route: self.route.clone(),
            protocol: self.protocol,
            response_code: self.status.as_u16(),
            response_flags: flags,
            mtls: if self.mtls { "true" } else { "false" },
        });
        if let Some(span) = &self.span {
            span.record("http.response.status_code", self.status.as_u16());
            span.record("weft.service", self.service.as_str());
            span.record("weft.endpoint", self.endpoint.as_str());
            span.record("weft.reason", flags);
            if self.status.is_server_error() {
                span.record("otel.status_code", "ERROR");
            }
        }
        if let Some(log) = &self.telemetry.access_log {
            let elapsed = tokio::time::Instant::now().into_std().saturating_duration_since(self.started);
            log.log(Entry {
                time: time::OffsetDateTime::from(self.began).format(&Rfc3339).unwrap_or_default(),
                direction: "outbound",
                method: std::mem::take(&mut self.method),
                path: std::mem::take(&mut self.path),
                authority: std::mem::take(&mut self.authority),
                protocol: self.protocol,
                status: self.status.as_u16(),
                reason: self.reason.map(Reason::code),
                duration_ms: elapsed.as_secs_f64() * 1e3,
                service: std::mem::take(&mut self.service),
                route: std::mem::take(&mut self.route),
                endpoint: std::mem::take(&mut self.endpoint),
                peer: std::mem::take(&mut self.peer),
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
    }
}

/// Rides in the response body: the record, and whatever must live as long as the exchange.
pub(super) struct Riding<G> {
    pub(super) record: Record,
    /// Held, never read.
    pub(super) _guards: G,
}

impl<G: Send> Observer for Riding<G> {
    fn end(&mut self, result: Result<(), &BodyError>) {
        if result.is_err() {
            self.record.reason.get_or_insert(Reason::UpstreamReset);
        }
        self.record.report();
    }
}
