//! Connections to endpoints: dialling, mesh TLS, and one pool per backend, endpoint and kind of connection.
//!
//! | endpoint | request | connection |
//! |---|---|---|
//! | meshed | any HTTP | HTTP/2 over mesh TLS (`weft/h2`), shared, further ones when streams run out |
//! | meshed | upgrade, CONNECT | HTTP/1 over mesh TLS (`weft/h1`), one of its own |
//! | plain | HTTP/1 | HTTP/1, kept alive 4 s |
//! | plain | HTTP/2, or the backend is h2c | HTTP/2 with prior knowledge |
//! | this very pod | any | handed to `inbound/` in-process |
//!
//! A meshed endpoint has no [`PlainAddr`](crate::balance::PlainAddr), so plain text towards it does not type-check.
//! Bound: [`MAX_POOLS`]; a pool whose endpoint is gone is drained by [`Upstreams::prune`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};

use http::Version;
use parking_lot::Mutex;
use weft_proto::{EndpointsName, SpiffeId, headers};

use super::Outbound;
use crate::balance::{Balancer, Endpoint, EndpointKey};
use crate::config::{Backend, Protocol};
use crate::http::error::{ConnectError, SendError, SendErrorKind};
use crate::http::pool::{Connected, Pool, PoolSettings, Sizes};
use crate::http::translate::{self, AppVersion};
use crate::http::{BoxedIo, Proto, Request, Response, h1, hygiene};
use crate::identity::{HandshakeError, IdentityManager, MeshProtocol};
use crate::settings::Timeouts;
use crate::tcp;

/// Most pools at a time. Past it, idle ones are dropped first.
pub const MAX_POOLS: usize = 20_000;

#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    backend: EndpointsName,
    endpoint: EndpointKey,
    proto: Proto,
}

struct Entry {
    pool: Pool,
    /// Tells whether the backend still has the endpoint.
    balancer: Weak<Balancer>,
}

/// Every pool of this proxy, and how connections are made.
pub struct Upstreams {
    identity: IdentityManager,
    timeouts: Timeouts,
    pools: Mutex<HashMap<PoolKey, Entry>>,
}

/// Why an endpoint could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP.
    #[error(transparent)]
    Tcp(#[from] tcp::DialError),
    /// Neither plain nor meshed: cannot be.
    #[error("the endpoint has no way to be reached: please report it")]
    Nowhere,
    /// Mesh TLS.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl Upstreams {
    /// No connections yet.
    pub fn new(identity: IdentityManager, timeouts: Timeouts) -> Self {
        Self { identity, timeouts, pools: Mutex::default() }
    }

    /// Connects to a meshed endpoint and checks its identity before the first byte.
    pub(super) async fn dial_mesh(
        &self,
        addr: SocketAddr,
        expected: &SpiffeId,
        protocol: MeshProtocol,
        connect_timeout: std::time::Duration,
    ) -> Result<BoxedIo, DialError> {
        let tcp = tcp::dial_mesh_tcp(addr, connect_timeout).await?;
        let (tls, _) = self.identity.connect(tcp, expected, protocol).await?;
        Ok(Box::new(tls))
    }

    async fn dial(&self, endpoint: &Endpoint, protocol: MeshProtocol, backend: &Backend) -> Result<BoxedIo, DialError> {
        if let Some(addr) = endpoint.plain() {
            return Ok(Box::new(tcp::dial_plain(addr, backend.connect_timeout).await?));
        }
        match endpoint.mesh() {
            Some((addr, identity)) => self.dial_mesh(addr, identity, protocol, backend.connect_timeout).await,
            None => Err(DialError::Nowhere),
        }
    }

    /// A connection for opaque bytes.
    pub(super) async fn dial_opaque(&self, endpoint: &Endpoint, backend: &Backend) -> Result<BoxedIo, DialError> {
        self.dial(endpoint, MeshProtocol::Tcp, backend).await
    }

    fn pool(&self, backend: &Backend, endpoint: &Endpoint, proto: Proto) -> Pool {
        let key = PoolKey { backend: backend.name.clone(), endpoint: endpoint.key().clone(), proto };
        let mut pools = self.pools.lock();
        if let Some(entry) = pools.get(&key) {
            return entry.pool.clone();
        }
        if pools.len() >= MAX_POOLS {
            pools.retain(|_, entry| entry.pool.sizes() != Sizes::default());
        }
        let idle = if endpoint.mesh().is_some() { self.timeouts.idle_mesh } else { self.timeouts.idle_plain };
        let limits = backend.limits.limits();
        let or_default = |limit: Option<NonZeroU32>, default| limit.map_or(default, |limit| limit.get() as usize);
        let defaults = PoolSettings::default();
        let pool = Pool::new(PoolSettings {
            max_connections: or_default(limits.max_connections, defaults.max_connections),
            max_pending: or_default(limits.max_pending, defaults.max_pending),
            max_requests_per_connection: limits.max_requests_per_connection.map(|limit| limit.get().into()),
            idle_timeout: idle,
            expect: proto,
            ..defaults
        });
        pools.insert(key, Entry { pool: pool.clone(), balancer: Arc::downgrade(&backend.balancer) });
        pool
    }

    /// Drops the pools of endpoints that are gone: what is in flight finishes, nothing new begins.
    pub fn prune(&self) {
        let gone: Vec<_> = {
            let mut pools = self.pools.lock();
            pools.extract_if(|key, entry| !entry.has(&key.endpoint)).map(|(_, entry)| entry.pool).collect()
        };
        for pool in gone {
            pool.drain();
        }
    }
}

impl Entry {
    fn has(&self, key: &EndpointKey) -> bool {
        self.balancer.upgrade().is_some_and(|balancer| balancer.endpoints().iter().any(|e| e.key() == key))
    }
}

/// One try's exchange with one endpoint.
pub(super) struct Exchange<'a> {
    pub(super) outbound: &'a Arc<Outbound>,
    pub(super) backend: &'a Arc<Backend>,
    /// The request is an upgrade or CONNECT.
    pub(super) tunnels: bool,
}

impl Exchange<'_> {
    pub(super) async fn send(&self, endpoint: &Arc<Endpoint>, request: Request) -> Result<Response, SendError> {
        let mut response = self.exchange(endpoint, request).await?;
        if endpoint.mesh().is_none() {
            // No sidecar of ours said it.
            hygiene::strip_untrusted(response.headers_mut(), false);
        }
        Ok(response)
    }

    async fn exchange(&self, endpoint: &Arc<Endpoint>, request: Request) -> Result<Response, SendError> {
        let client = AppVersion::from(request.version());
        if self.outbound.is_own(endpoint.addr()) {
            let inbound = &self.outbound.inbound;
            if self.tunnels || !self.app_is_h2c() {
                return inbound.deliver_own(endpoint.addr(), request).await;
            }
            let response = inbound.deliver_own(endpoint.addr(), self.for_mesh(request)?).await?;
            return Ok(for_client(response, client));
        }
        if self.tunnels {
            return self.tunnel(endpoint, request).await;
        }
        if endpoint.mesh().is_some() {
            let response = self.pooled(endpoint, Proto::H2, self.for_mesh(request)?).await?;
            return Ok(for_client(response, client));
        }
        let (mut parts, body) = request.into_parts();
        let proto = if parts.version == Version::HTTP_2 || self.app_is_h2c() { Proto::H2 } else { Proto::H1 };
        let from_h2 = parts.version == Version::HTTP_2;
        hygiene::strip_untrusted(&mut parts.headers, false);
        if proto == Proto::H2 && !from_h2 {
            let version = parts.version;
            parts = translate::to_mesh_h2(parts, version).map_err(|conflict| unsendable(&conflict))?;
            // Only mesh peers restore versions.
            hygiene::strip_untrusted(&mut parts.headers, false);
        } else {
            hygiene::strip_hop_by_hop(&mut parts.headers);
        }
        let response = self.pooled(endpoint, proto, Request::from_parts(parts, body)).await?;
        Ok(for_client(response, client))
    }

    /// As it travels between sidecars.
    fn for_mesh(&self, request: Request) -> Result<Request, SendError> {
        let (parts, body) = request.into_parts();
        let version = parts.version;
        let mut parts = translate::to_mesh_h2(parts, version).map_err(|conflict| unsendable(&conflict))?;
        if self.app_is_h2c() {
            // Without it the app is spoken to in HTTP/2: what was declared goes before what the client spoke.
            parts.headers.remove(headers::VERSION);
        }
        Ok(Request::from_parts(parts, body))
    }

    /// The port says that its app speaks HTTP/2 with prior knowledge.
    fn app_is_h2c(&self) -> bool {
        matches!(self.backend.protocol, Protocol::Http2 | Protocol::Grpc)
    }

    async fn pooled(&self, endpoint: &Arc<Endpoint>, proto: Proto, request: Request) -> Result<Response, SendError> {
        let pool = self.outbound.upstreams.pool(self.backend, endpoint, proto);
        let connect = {
            let (outbound, backend, endpoint) = (Arc::clone(self.outbound), Arc::clone(self.backend), Arc::clone(endpoint));
            move || {
                let (outbound, backend, endpoint) = (Arc::clone(&outbound), Arc::clone(&backend), Arc::clone(&endpoint));
                async move {
                    let io = outbound.upstreams.dial(&endpoint, MeshProtocol::H2, &backend).await.map_err(ConnectError::new)?;
                    Ok(Connected { io, proto })
                }
            }
        };
        pool.send(request, connect).await
    }

    /// Upgrades and CONNECT: a connection of their own, HTTP/1 all the way.
    async fn tunnel(&self, endpoint: &Arc<Endpoint>, mut request: Request) -> Result<Response, SendError> {
        hygiene::strip_all_but_upgrade(request.headers_mut());
        let io = self
            .outbound
            .upstreams
            .dial(endpoint, MeshProtocol::H1, self.backend)
            .await
            .map_err(|error| SendError::not_processed(SendErrorKind::Connect(ConnectError::new(error))))?;
        let mut response = h1::client::Connection::new(io, h1::HeadLimits::default()).send(request).await?;
        hygiene::strip_all_but_upgrade(response.headers_mut());
        Ok(response)
    }
}

fn for_client(response: Response, client: AppVersion) -> Response {
    let (parts, body) = response.into_parts();
    Response::from_parts(translate::response_from_mesh_h2(parts, client), body)
}

fn unsendable(conflict: &translate::Conflict) -> SendError {
    SendError::not_processed(SendErrorKind::Unsendable(conflict.to_string().into()))
}
