//! App → mesh: destination → route → backend → endpoint → connection (SEMANTICS.md §1, "outbound lookup").
//!
//! Life of a connection the app opened:
//!
//! ```text
//! accepted, original destination read ── our own listener ─► closed
//!   │ config.destination()
//!   ├─ no such port on a VIP ──────────────────────────────► RST (`no-port`)
//!   ├─ control plane did not say ──────────────────────────► 503 or RST (`config-unavailable`), never passed through
//!   ├─ unknown, Host or SNI names a known host ────────────► that Service (`host.rs`)
//!   ├─ unknown, policy REGISTRY_ONLY ──────────────────────► 502 or RST (`registry-only`)
//!   ├─ unknown, policy ALLOW_ANY ──────────────────────────► relayed as it is
//!   ├─ Service port with rules for connections ───────────► one of their backends, or RST (`ruled.rs`)
//!   └─ Service or Workload: what does the client speak? (`connection.rs`)
//!        ├─ HTTP ─► each request: route, tries, response (`request.rs`, `tries.rs`)
//!        └─ else ─► an endpoint picked, bytes relayed (`opaque.rs`)
//! ```
//!
//! | file | what |
//! |---|---|
//! | `collect.rs` | what is measured of backends |
//! | `connection.rs` | destination and protocol of a connection; whoever speaks first |
//! | `explain/` | what would become of a request, for `weft explain` |
//! | `host.rs` | a destination outside: the host that is asked for may lead somewhere (lookup 3) |
//! | `request.rs` | one request: match, filters, answer, what is counted |
//! | `fault.rs` | waits and answers that a FaultInjection wants |
//! | `mirror.rs` | copies of requests that nobody waits for |
//! | `tries.rs` | one backend's tries: pick, send, retry |
//! | `judge.rs` | what a try means |
//! | `upstream.rs` | connections to endpoints: dialling, mesh TLS, pools |
//! | `warm.rs` | connections to new endpoints of busy backends, before their first request |
//! | `opaque.rs` | bytes we do not understand |
//! | `cut.rs` | what is told of such a connection when we end it |
//! | `ruled.rs` | connections that have rules themselves, by server name or without |
//!
//! Decisions are in `route/`, `balance/` and `resilience/`; this room acts on them.
//! Bounds: connections by the worker's file limit; pools by [`upstream::MAX_POOLS`]; copies of requests by `mirror::MAX_COPIES`.

mod collect;
mod connection;
mod cut;
mod explain;
mod fault;
mod host;
mod judge;
mod mirror;
mod opaque;
mod request;
mod ruled;
mod tries;
pub mod upstream;
mod warm;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::http::server::ServerSettings;
use crate::inbound::Inbound;
use crate::listen::drain;
use crate::settings::Settings;
use crate::telemetry::Telemetry;

pub use mirror::Mirrors;
pub use upstream::Upstreams;

/// Everything outbound traffic needs, shared by all workers.
pub struct Outbound {
    /// Settings.
    pub settings: Arc<Settings>,
    /// What the control plane said.
    pub config: Config,
    /// Connections to endpoints.
    pub upstreams: Upstreams,
    /// For calls to this very pod: policy applies once.
    pub inbound: Arc<Inbound>,
    /// What is counted and logged.
    pub telemetry: Telemetry,
    /// How downstream HTTP connections are served.
    pub server: ServerSettings,
    /// Told when outbound connections must end.
    pub drain: drain::Watch,
    /// Places for copies of requests.
    pub mirrors: Mirrors,
}

impl Outbound {
    /// Whether this address is this very pod's.
    fn is_own(&self, addr: SocketAddr) -> bool {
        addr.ip() == self.settings.args.pod_address || self.config.has_other_address(addr.ip())
    }
}
