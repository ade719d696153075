//! Mesh → app: authenticate, deliver, tell the truth about what happened (SEMANTICS.md §1 "inbound detection",
//! "delivery to the app", "telling the truth across two sidecars").
//!
//! ```text
//! accepted, original destination read ── our own listener ─► closed
//!   │ mTLS mode of the port (no policy yet: closed)
//!   ├─ STRICT ─────► a ClientHello with ALPN `weft/*`, or closed; the app is never dialled before
//!   ├─ PERMISSIVE ─► that, or the app's own TLS (relayed), or plain bytes; a silent client: whoever speaks first
//!   └─ DISABLE ────► the port is the app's own
//! mesh TLS done, peer verified
//!   ├─ weft/h2 ─► requests (`request.rs`) ─► rate limits (`crate::limit`) ─► the app in the version its client spoke
//!   ├─ weft/h1 ─► one exchange that becomes a tunnel
//!   └─ weft/tcp ► detected again on an HTTP or undeclared port, else relayed
//! ```
//!
//! Not here: authorization (a later room, `authz/`). Bound: pools by the ports of the pod.

mod connection;
mod request;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::answer::OwnAnswer;
use crate::config::Config;
use crate::http::h2::client::ClientSettings;
use crate::http::pool::{Pool, PoolSettings};
use crate::http::server::ServerSettings;
use crate::http::{Proto, Request, Response, SendError, hygiene};
use crate::identity::IdentityManager;
use crate::limit;
use crate::listen::drain;
use crate::resilience::{Asking, Verdict};
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// Connections to the app at once, and requests waiting for one. The app's own limits come first.
const MAX_TO_APP: usize = 10_000;
/// Pools to the app: ports times protocols. Past it, idle ones go first.
const MAX_POOLS: usize = 256;

/// Everything inbound traffic needs, shared by all workers.
pub struct Inbound {
    settings: Arc<Settings>,
    config: Config,
    identity: IdentityManager,
    telemetry: Telemetry,
    /// For plain-text clients, and for peers.
    server: ServerSettings,
    mesh_server: ServerSettings,
    drain: drain::Watch,
    pools: Mutex<HashMap<(SocketAddr, Proto), Pool>>,
}

impl Inbound {
    /// Ready to serve; `drain` ends it.
    pub fn new(
        settings: Arc<Settings>,
        config: Config,
        identity: IdentityManager,
        telemetry: Telemetry,
        drain: drain::Watch,
    ) -> Self {
        let server = ServerSettings::default();
        // A peer's connection carries the requests of all its clients.
        let mesh_server = ServerSettings { mesh_peer: true, explain: true, max_streams: 1_000, ..server.clone() };
        Self { settings, config, identity, telemetry, server, mesh_server, drain, pools: Mutex::default() }
    }

    /// A request of this pod's own app to itself: handed over in-process, so that policy applies once.
    ///
    /// # Errors
    /// As any request that gets no response head.
    pub async fn deliver_own(&self, destination: SocketAddr, request: Request) -> Result<Response, SendError> {
        let client = self.settings.args.pod_address;
        let asking = Asking { client, peer: Some(&self.settings.identity), headers: request.headers() };
        let (verdict, may) = self.limit(destination, asking, tokio::time::Instant::now().into_std());
        let mut response = match may {
            Ok(()) => request::to_app(self, &request::App::new(destination), request).await?,
            Err(own) => {
                self.telemetry.metrics.refused("inbound", own.reason);
                own.response(hygiene::is_grpc(request.headers()), true)
            }
        };
        verdict.into_iter().for_each(|verdict| limit::tell(verdict, response.headers_mut()));
        Ok(response)
    }

    /// Asks the workload's rate limits, if it has any.
    fn limit(
        &self,
        destination: SocketAddr,
        asking: Asking<'_>,
        now: Instant,
    ) -> (Option<Verdict>, Result<(), OwnAnswer>) {
        match self.config.inbound_policy().filter(|policy| !policy.rate_limits.is_empty()) {
            Some(policy) => {
                let limits = policy.rate_limits.iter().filter(|limit| limit.ports.contains(&destination.port()));
                limit::ask(limits, asking, now)
            }
            None => (None, Ok(())),
        }
    }

    /// Tells of the drain.
    pub(crate) fn drain(&self) -> &drain::Watch {
        &self.drain
    }

    fn pool(&self, destination: SocketAddr, proto: Proto) -> Pool {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(&(destination, proto)) {
            return pool.clone();
        }
        if pools.len() >= MAX_POOLS {
            pools.retain(|_, pool| pool.sizes() != crate::http::pool::Sizes::default());
        }
        let pool = Pool::new(PoolSettings {
            max_connections: MAX_TO_APP,
            max_pending: MAX_TO_APP,
            idle_timeout: self.settings.timeouts.idle_app,
            expect: proto,
            to_app: true,
            h2: ClientSettings { ping_after: None, ..ClientSettings::default() },
            ..PoolSettings::default()
        });
        pools.insert((destination, proto), pool.clone());
        pool
    }
}
