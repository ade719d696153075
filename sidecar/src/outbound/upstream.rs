//! Connections to endpoints: dialling, mesh TLS, and one pool per backend, endpoint and kind of connection.
//!
//! | endpoint | request | connection |
//! |---|---|---|
//! | meshed | any HTTP | HTTP/2 over mesh TLS (`weft/h2`), shared, further ones when streams run out |
//! | meshed | upgrade, CONNECT | HTTP/1 over mesh TLS (`weft/h1`), one of its own |
//! | plain | HTTP/1 | HTTP/1, kept alive 4 s unless a policy says how long; by backend TLS where the backend has a policy, as are the others of this kind |
//! | plain | HTTP/2, or the backend is h2c | HTTP/2 with prior knowledge |
//! | this very pod | any | handed to `inbound/` in-process |
//!
//! A meshed endpoint has no [`PlainAddr`](crate::balance::PlainAddr), so plain text towards it does not type-check.
//! Bound: [`MAX_POOLS`]; a pool whose endpoint is gone is drained by [`Upstreams::prune`].

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, Method, Version};
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_proto::{EndpointsName, SpiffeId, headers};

use super::Outbound;
use super::cut::Cut;
use crate::backend_tls::{BackendTlsError, Speaks};
use crate::balance::{Balancer, Endpoint};
use crate::config::{Backend, Protocol};
use crate::http::error::{ConnectError, SendError, SendErrorKind};
use crate::http::h2::client::ClientSettings;
use crate::http::pool::{Connected, IdleClosed, Pool, PoolSettings, Sizes, Wait};
use crate::http::translate::{self, AppVersion};
use crate::http::{BoxedIo, Outgoing, Proto, Request, Response, Tunnel, h1, hygiene};
use crate::identity::{HandshakeError, IdentityManager, MeshProtocol, left, usable_for};
use crate::reason::Reason;
use crate::resilience::Limits;
use crate::settings::Timeouts;
use crate::tcp;
use crate::telemetry::{Label, Metrics};

/// Most pools at a time. Past it, idle ones are dropped first.
pub const MAX_POOLS: usize = 20_000;

/// For how long a new endpoint is held back while it is connected to: as long as connecting may take.
const HELD_BACK: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PoolKey {
    /// [`Endpoint::id`]
    endpoint: u64,
    proto: Proto,
    /// Changed limits make another pool: what is in flight on the old one finishes there, and it idles away.
    limits: Limits,
    /// A changed idle timeout does the same.
    idle: Option<Duration>,
    /// [`BackendTls::id`](crate::backend_tls::BackendTls::id), so that a changed policy makes another pool as well.
    tls: Option<u64>,
}

struct Entry {
    pool: Pool,
    backend: EndpointsName,
    /// Tells whether the backend still has the endpoint.
    balancer: Weak<Balancer>,
}

/// Looked into for each request. The keys are ours alone, so that a hash needs no defence.
type Pools = foldhash::HashMap<PoolKey, Entry>;

/// Every pool of this proxy, and how connections are made.
pub struct Upstreams {
    identity: IdentityManager,
    timeouts: Timeouts,
    metrics: Arc<Metrics>,
    pools: Mutex<Pools>,
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
    /// Backend TLS. Boxed: every other error would have room for it.
    #[error(transparent)]
    BackendTls(#[from] Box<BackendTlsError>),
}

/// A connection just made.
pub(super) struct Dialled {
    io: BoxedIo,
    /// When it is to take no further request; `None` in plain text.
    expires: Option<Instant>,
    /// When the peer's certificate ends.
    ends: Option<Instant>,
}

impl DialError {
    /// Whether it says something about this proxy and nothing about the endpoint.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Nowhere | Self::Tcp(tcp::DialError::Exhausted { .. }) | Self::Handshake(HandshakeError::NoSvid) => {
                true
            }
            Self::BackendTls(error) => error.is_ours(),
            Self::Tcp(_) | Self::Handshake(_) => false,
        }
    }
}

impl Upstreams {
    /// No connections yet.
    pub fn new(identity: IdentityManager, timeouts: Timeouts, metrics: Arc<Metrics>) -> Self {
        Self { identity, timeouts, metrics, pools: Mutex::default() }
    }

    /// Connects to a meshed endpoint and checks its identity before the first byte.
    pub(super) async fn dial_mesh(
        &self,
        addr: SocketAddr,
        expected: &SpiffeId,
        protocol: MeshProtocol,
        connect_timeout: Duration,
    ) -> Result<Dialled, DialError> {
        let tcp = tcp::dial_mesh_tcp(addr, connect_timeout).await?;
        if protocol == MeshProtocol::H2 {
            tcp::expect_reader(&tcp);
        }
        let (tls, peer) = self.identity.connect(tcp, expected, protocol).await?;
        let (now, clock) = (Instant::now(), SystemTime::now());
        let expires = Some(now + usable_for(peer.not_after(), clock));
        Ok(Dialled { io: Box::new(tls), expires, ends: Some(now + left(peer.not_after(), clock)) })
    }

    /// `speaks`: what a server outside the mesh is spoken to by backend TLS, if there is a policy; `None`: never by that.
    async fn dial(
        &self,
        endpoint: &Endpoint,
        protocol: MeshProtocol,
        speaks: Option<Speaks>,
        backend: &Backend,
    ) -> Result<Dialled, DialError> {
        if let Some(addr) = endpoint.plain() {
            let tcp = tcp::dial_plain(addr, backend.connect_timeout).await?;
            if protocol == MeshProtocol::H2 {
                // Requests, and no tunnel.
                tcp::expect_reader(&tcp);
            }
            let io: BoxedIo = match (&backend.tls, speaks) {
                (Some(tls), Some(speaks)) => Box::new(Box::pin(tls.connect(tcp, speaks)).await.map_err(Box::new)?),
                _ => Box::new(tcp),
            };
            return Ok(Dialled { io, expires: None, ends: None });
        }
        match endpoint.mesh() {
            Some((addr, identity)) => self.dial_mesh(addr, identity, protocol, backend.connect_timeout).await,
            None => Err(DialError::Nowhere),
        }
    }

    /// A connection for opaque bytes, and when it has to end. `own_tls`: they are TLS of the app's own.
    pub(super) async fn dial_opaque(
        &self,
        endpoint: &Endpoint,
        backend: &Backend,
        own_tls: bool,
    ) -> Result<(BoxedIo, Option<Instant>), DialError> {
        let speaks = (!own_tls).then_some(Speaks::Bytes);
        let Dialled { io, ends, .. } = self.dial(endpoint, MeshProtocol::Tcp, speaks, backend).await?;
        Ok((io, ends))
    }

    fn pool(&self, backend: &Backend, endpoint: &Endpoint, proto: Proto) -> Pool {
        let limits = backend.limits.limits();
        let tls = backend.tls.as_ref().map(|tls| tls.id());
        let key = PoolKey { endpoint: endpoint.id(), proto, limits, idle: backend.idle.http, tls };
        let mut pools = self.pools.lock();
        if let Some(entry) = pools.get(&key) {
            return entry.pool.clone();
        }
        if pools.len() >= MAX_POOLS {
            pools.retain(|_, entry| entry.pool.sizes() != Sizes::default());
        }
        let idle = if endpoint.mesh().is_some() { self.timeouts.idle_mesh } else { self.timeouts.idle_plain };
        let (metrics, label) = (Arc::clone(&self.metrics), Label::from(&backend.label));
        let or_default = |limit: Option<NonZeroU32>, default| limit.map_or(default, |limit| limit.get() as usize);
        let defaults = PoolSettings::default();
        // The limits hold for the backend; to a pool of its own they only say that more than its default is meant.
        let settings = PoolSettings {
            max_connections: or_default(limits.max_connections, defaults.max_connections),
            max_pending: or_default(limits.max_pending, defaults.max_pending),
            max_requests_per_connection: limits.max_requests_per_connection.map(|limit| limit.get().into()),
            idle_timeout: backend.idle.http.unwrap_or(idle),
            on_idle: IdleClosed::tell(move |count| metrics.closed(&label, Reason::IdleTimeout, count as u64)),
            expect: proto,
            h2: ClientSettings {
                ping_after: defaults.h2.ping_after.filter(|_| endpoint.mesh().is_some()),
                ..defaults.h2
            },
            ..defaults
        };
        let pool = Pool::limited(settings, backend.limits.clone());
        let balancer = Arc::downgrade(&backend.balancer);
        pools.insert(key, Entry { pool: pool.clone(), backend: backend.name.clone(), balancer });
        pool
    }

    /// Whether this worker has lately sent requests to the backend by the mesh.
    pub(super) fn is_in_use(&self, backend: &EndpointsName) -> bool {
        let pools = self.pools.lock();
        pools.iter().any(|(key, entry)| key.proto == Proto::H2 && entry.backend == *backend && entry.pool.is_in_use())
    }

    /// Connects to a meshed endpoint before there is a request for it, unless this worker is connected to it already. A new
    /// one is held back meanwhile.
    pub(super) fn warm(outbound: &Arc<Outbound>, backend: &Arc<Backend>, endpoint: &Arc<Endpoint>) {
        let pool = outbound.upstreams.pool(backend, endpoint, Proto::H2);
        pool.warm(|| {
            let held = backend.balancer.hold_back(endpoint, Instant::now().into_std(), HELD_BACK);
            let connecting = connect(outbound, backend, endpoint, Proto::H2);
            async move {
                let connected = connecting.await;
                drop(held);
                connected
            }
        });
    }

    /// Takes an endpoint's connections out of use: one of them has gone silent, and the others lead the same way, whether
    /// they have noticed yet or not. What is in flight on them ends by itself; the next request dials anew.
    pub(super) fn suspect(&self, endpoint: &Endpoint) {
        let suspects: Vec<_> = {
            let mut pools = self.pools.lock();
            pools.extract_if(|key, _| key.endpoint == endpoint.id()).map(|(_, entry)| entry.pool).collect()
        };
        for pool in suspects {
            pool.drain();
        }
    }

    /// Connections without a request, by backend.
    pub(super) fn idle(&self) -> HashMap<EndpointsName, usize> {
        let pools: Vec<_> =
            self.pools.lock().values().map(|entry| (entry.backend.clone(), entry.pool.clone())).collect();
        let mut idle = HashMap::new();
        for (backend, pool) in pools {
            *idle.entry(backend).or_default() += pool.idle();
        }
        idle
    }

    /// Drops the pools of endpoints that are gone: what is in flight finishes, nothing new begins.
    pub fn prune(&self) {
        // Looked for without the lock, which every request takes.
        let pools: Vec<_> = self.pools.lock().iter().map(|(key, entry)| (*key, entry.balancer.clone())).collect();
        let mut endpoints: HashMap<*const Balancer, HashSet<u64>> = HashMap::new();
        let is_there = |(key, balancer): &(PoolKey, Weak<Balancer>)| {
            let Some(alive) = balancer.upgrade() else { return false };
            let known = endpoints
                .entry(balancer.as_ptr())
                .or_insert_with(|| alive.endpoints().iter().map(|endpoint| endpoint.id()).collect());
            known.contains(&key.endpoint)
        };
        let gone: Vec<_> = {
            let mut is_there = is_there;
            let gone: Vec<_> = pools.into_iter().filter(|pool| !is_there(pool)).collect();
            let mut pools = self.pools.lock();
            // Unless another backend of that name has taken the place meanwhile.
            let still = |pools: &Pools, key: &PoolKey, balancer: &Weak<Balancer>| {
                pools.get(key).is_some_and(|entry| Weak::ptr_eq(&entry.balancer, balancer))
            };
            gone.into_iter()
                .filter_map(|(key, balancer)| if still(&pools, &key, &balancer) { pools.remove(&key) } else { None })
                .collect()
        };
        for entry in gone {
            entry.pool.drain();
        }
    }
}

/// Opens a connection for a pool. It holds what it needs: whoever asked for it may be gone before it is there.
fn connect(
    outbound: &Arc<Outbound>,
    backend: &Arc<Backend>,
    endpoint: &Arc<Endpoint>,
    proto: Proto,
) -> impl Future<Output = Result<Connected, ConnectError>> + Send + use<> {
    let (outbound, backend, endpoint) = (Arc::clone(outbound), Arc::clone(backend), Arc::clone(endpoint));
    async move {
        let speaks = if proto == Proto::H1 { Speaks::Http1 } else { Speaks::Http2 };
        let dialled = outbound.upstreams.dial(&endpoint, MeshProtocol::H2, Some(speaks), &backend).await;
        let Dialled { io, expires, .. } = dialled.map_err(ConnectError::new)?;
        Ok(Connected { io, proto, expires })
    }
}

/// One try's exchange with one endpoint.
pub(super) struct Exchange<'a> {
    pub(super) outbound: &'a Arc<Outbound>,
    pub(super) backend: &'a Arc<Backend>,
    /// The request is an upgrade or CONNECT.
    pub(super) tunnels: bool,
    /// What the port that the client called declares; its backend may declare something else.
    pub(super) called: Protocol,
    pub(super) wait: &'a Wait,
}

impl Exchange<'_> {
    /// A lent head is free of what belongs to the client's connection alone.
    pub(super) async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        request: Outgoing<'_>,
    ) -> Result<Box<Response>, SendError> {
        let mut response = self.exchange(endpoint, request).await?;
        if endpoint.mesh().is_none() {
            // Nobody vouches for what it says in a sidecar's name: "not processed" would have a POST sent again.
            hygiene::strip_untrusted(response.headers_mut(), false);
        }
        Ok(response)
    }

    async fn exchange(&self, endpoint: &Arc<Endpoint>, request: Outgoing<'_>) -> Result<Box<Response>, SendError> {
        let client = AppVersion::from(request.version());
        let request = match self.is_for_http1(&request) {
            true => in_http1(request.into_owned()).map_err(|conflict| unsendable(&conflict))?.into(),
            false => request,
        };
        // What is rare is boxed: every request's future would have room for it.
        if self.outbound.is_own(endpoint.addr()) {
            let response = Box::pin(self.to_ourselves(endpoint.addr(), request.into_owned())).await?;
            self.limit(&response, endpoint, None);
            return Ok(Box::new(response));
        }
        if self.tunnels {
            return Box::pin(self.tunnel(endpoint, request.into_owned())).await.map(Box::new);
        }
        if endpoint.mesh().is_some() {
            let response = self.pooled(endpoint, Proto::H2, self.for_mesh(request.into_owned())?.into()).await?;
            return Ok(for_client(response, client));
        }
        let (proto, request) = match request {
            // As it is, unless it holds something of ours, which only mesh peers are told.
            Outgoing::Lent(parts, _) if is_plain_h1(parts, self.backend.protocol) => (Proto::H1, request),
            request => {
                let (parts, body) = request.into_owned().into_parts();
                let (proto, parts) =
                    to_plain(parts, self.backend.protocol).map_err(|conflict| unsendable(&conflict))?;
                (proto, Request::from_parts(parts, body).into())
            }
        };
        Ok(for_client(self.pooled(endpoint, proto, request).await?, client))
    }

    /// A route may lead from a port that speaks HTTP/2 to a backend whose port says that it does not. Otherwise the client
    /// knows what the app speaks, and its version is kept; gRPC is nothing without it.
    fn is_for_http1(&self, request: &Outgoing<'_>) -> bool {
        self.called == Protocol::Http2
            && self.backend.protocol == Protocol::Http
            && request.version() == Version::HTTP_2
            && !hygiene::is_grpc(request.headers())
    }

    /// The endpoint is this very pod.
    async fn to_ourselves(&self, address: SocketAddr, request: Request) -> Result<Response, SendError> {
        let (inbound, client) = (&self.outbound.inbound, AppVersion::from(request.version()));
        if self.tunnels || !is_h2c(self.backend.protocol) {
            return inbound.deliver_own(address, request).await;
        }
        let mut response = inbound.deliver_own(address, self.for_mesh(request)?).await?;
        translate::response_from_mesh_h2(&mut response, client);
        Ok(response)
    }

    /// As it travels between sidecars.
    fn for_mesh(&self, request: Request) -> Result<Request, SendError> {
        let (parts, body) = request.into_parts();
        let version = parts.version;
        let mut parts = translate::to_mesh_h2(parts, version).map_err(|conflict| unsendable(&conflict))?;
        if is_h2c(self.backend.protocol) {
            // Without it the app is spoken to in HTTP/2: what was declared goes before what the client spoke.
            parts.headers.remove(headers::VERSION);
        }
        Ok(Request::from_parts(parts, body))
    }

    async fn pooled(
        &self,
        endpoint: &Arc<Endpoint>,
        proto: Proto,
        request: Outgoing<'_>,
    ) -> Result<Box<Response>, SendError> {
        let pool = self.outbound.upstreams.pool(self.backend, endpoint, proto);
        pool.send_noting(request, || connect(self.outbound, self.backend, endpoint, proto), self.wait).await
    }

    /// What the request was upgraded to ends when nothing passes, and when the server's certificate does, as opaque bytes do.
    fn limit(&self, response: &Response, endpoint: &Endpoint, ends: Option<Instant>) {
        let Some(tunnel) = response.extensions().get::<Tunnel>() else { return };
        let meshed = endpoint.mesh().is_some() && !self.outbound.is_own(endpoint.addr());
        let cut = Cut::new(self.backend, endpoint.addr(), meshed, "upgraded");
        let telemetry = self.outbound.telemetry.clone();
        tunnel.limit(self.backend.idle.tcp, ends, move |reason| cut.told(&telemetry, reason));
    }

    /// Upgrades and CONNECT: a connection of their own, HTTP/1 all the way.
    async fn tunnel(&self, endpoint: &Arc<Endpoint>, mut request: Request) -> Result<Response, SendError> {
        ready_for_tunnel(request.method() == Method::CONNECT, request.headers_mut());
        if endpoint.mesh().is_none() {
            hygiene::strip_untrusted(request.headers_mut(), false);
        }
        let place = self.backend.limits.connection_now();
        let place = place.map_err(|full| SendError::not_processed(SendErrorKind::Full(full)))?;
        let dialled = self.outbound.upstreams.dial(endpoint, MeshProtocol::H1, Some(Speaks::Http1), self.backend).await;
        let Dialled { io, ends, .. } =
            dialled.map_err(|error| SendError::not_processed(SendErrorKind::Connect(ConnectError::new(error))))?;
        let mut response =
            h1::client::Connection::new(io, h1::HeadLimits::default()).on_its_own(place).send(request).await?;
        hygiene::strip_all_but_upgrade(response.headers_mut());
        if endpoint.mesh().is_none() {
            hygiene::strip_untrusted(response.headers_mut(), false);
        }
        self.limit(&response, endpoint, ends);
        Ok(response)
    }
}

/// `Upgrade` goes with an upgrade only: beside CONNECT it would offer the server another protocol (h2c, say) unasked.
fn ready_for_tunnel(connects: bool, headers: &mut HeaderMap) {
    if connects {
        hygiene::strip_hop_by_hop(headers);
    } else {
        hygiene::strip_all_but_upgrade(headers);
    }
}

/// What is sent to an endpoint without a sidecar, and in which protocol: nothing of ours, nothing of the connection's,
/// and one host.
fn to_plain(mut parts: Parts, declared: Protocol) -> Result<(Proto, Parts), translate::Conflict> {
    let version = parts.version;
    let proto = if version == Version::HTTP_2 || is_h2c(declared) { Proto::H2 } else { Proto::H1 };
    match proto {
        // Also from HTTP/2, where Host may disagree with `:authority`.
        Proto::H2 => parts = translate::to_mesh_h2(parts, version)?,
        Proto::H1 => hygiene::strip_hop_by_hop(&mut parts.headers),
    }
    // Last, since only mesh peers restore versions.
    hygiene::strip_untrusted(&mut parts.headers, false);
    Ok((proto, parts))
}

/// As if the client had spoken HTTP/1.1.
fn in_http1(request: Request) -> Result<Request, translate::Conflict> {
    let (parts, body) = request.into_parts();
    let (parts, _) = translate::from_mesh_h2(translate::to_mesh_h2(parts, Version::HTTP_11)?)?;
    Ok(Request::from_parts(parts, body))
}

/// Whether a head without hop-by-hop fields may be written to a plain HTTP/1 server as it is.
fn is_plain_h1(parts: &Parts, declared: Protocol) -> bool {
    parts.version != Version::HTTP_2 && !is_h2c(declared) && !hygiene::has_ours(&parts.headers)
}

/// The port says that its app speaks HTTP/2 with prior knowledge.
fn is_h2c(declared: Protocol) -> bool {
    matches!(declared, Protocol::Http2 | Protocol::Grpc)
}

fn for_client(mut response: Box<Response>, client: AppVersion) -> Box<Response> {
    translate::response_from_mesh_h2(&mut response, client);
    response
}

fn unsendable(conflict: &translate::Conflict) -> SendError {
    SendError::not_processed(SendErrorKind::Unsendable(conflict.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_endpoint_without_a_sidecar_gets_nothing_of_ours_or_of_the_connections() {
        let dirty = [
            ("x-weft-deadline-ms", "5"),
            ("x-weft-version", "1.0"),
            ("x-forwarded-client-cert", "By=me"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("te", "trailers, gzip"),
            ("x-kept", "1"),
        ];
        let rows = [
            ("HTTP/1 to HTTP/1", Version::HTTP_11, "/a", Protocol::Http, Proto::H1),
            ("HTTP/1 to h2c", Version::HTTP_11, "/a", Protocol::Http2, Proto::H2),
            ("HTTP/2 to h2c", Version::HTTP_2, "http://reviews/a", Protocol::Http, Proto::H2),
            ("gRPC", Version::HTTP_2, "http://reviews/a", Protocol::Grpc, Proto::H2),
        ];
        for (row, version, uri, declared, want) in rows {
            let mut given = parts(version, uri, &dirty);
            if version == Version::HTTP_11 {
                given.headers.insert("host", http::HeaderValue::from_static("reviews"));
            }
            let (proto, sent) = to_plain(given, declared).unwrap();
            assert_eq!(proto, want, "{row}");
            let host_in = if want == Proto::H1 { "host" } else { "te" };
            let mut names: Vec<_> = sent.headers.keys().map(http::HeaderName::as_str).collect();
            names.sort_unstable();
            let mut expected = vec!["te", "x-kept", host_in];
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(names, expected, "{row}");
            assert_eq!(sent.headers["te"], "trailers", "{row}");
        }
    }

    #[test]
    fn two_hosts_are_refused_towards_plain_http2_as_well() {
        let given = parts(Version::HTTP_2, "http://reviews/a", &[("host", "admin")]);
        assert_eq!(to_plain(given, Protocol::Http).unwrap_err(), translate::Conflict::Host);
    }

    #[test]
    fn connect_offers_no_upgrade() {
        for (connects, kept) in [(true, false), (false, true)] {
            let mut given = parts(Version::HTTP_11, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
            ready_for_tunnel(connects, &mut given.headers);
            assert_eq!(given.headers.contains_key("upgrade"), kept, "CONNECT: {connects}");
            assert!(!given.headers.contains_key("connection"));
        }
    }
}
