//! A connection of bytes that we end ourselves: what is counted and logged of it. There is no answer to tell the reason with,
//! so it is told here alone: `weft_refused`, `weft_backend_connections_closed` and a line of the access log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::config::Backend;
use crate::reason::Reason;
use crate::telemetry::access_log::Entry;
use crate::telemetry::{Label, Telemetry};

/// What will be told of a connection if we end it. It begins when this is made.
pub(super) struct Cut {
    backend: Arc<str>,
    endpoint: SocketAddr,
    mtls: bool,
    protocol: &'static str,
    began: Instant,
}

impl Cut {
    /// Of a connection to `endpoint`, which carries `protocol`.
    pub(super) fn new(backend: &Backend, endpoint: SocketAddr, mtls: bool, protocol: &'static str) -> Self {
        Self { backend: Arc::clone(&backend.label), endpoint, mtls, protocol, began: Instant::now() }
    }

    /// It is ended, for this reason.
    pub(super) fn told(self, telemetry: &Telemetry, reason: Reason) {
        let backend = Label::from(&self.backend);
        telemetry.metrics.refused("outbound", reason);
        telemetry.metrics.closed(&backend, reason, 1);
        let Some(log) = &telemetry.access_log else { return };
        let lasted = self.began.elapsed();
        log.log(Entry {
            time: time::OffsetDateTime::from(SystemTime::now() - lasted).format(&Rfc3339).unwrap_or_default(),
            direction: "outbound",
            method: String::new(),
            path: String::new(),
            authority: String::new(),
            protocol: self.protocol,
            status: 0,
            reason: Some(reason.code()),
            duration_ms: lasted.as_secs_f64() * 1e3,
            service: backend,
            route: Label::default(),
            endpoint: self.endpoint.to_string(),
            peer: String::new(),
            tries: 1,
            mtls: self.mtls,
            trace_id: String::new(),
        });
    }
}
