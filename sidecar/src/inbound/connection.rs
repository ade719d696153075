//! One connection from the mesh: who it is, and what it speaks. The module's drawing is in `mod.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use weft_proto::SpiffeId;

use super::Inbound;
use super::request::{App, Caller, RequestHandler, client_cert};
use crate::aside::unless;
use crate::balance::PlainAddr;
use crate::config::{Config, MtlsMode, Protocol};
use crate::http::server::{ServerSettings, serve};
use crate::http::{Io, Proto};
use crate::identity::{MeshProtocol, left, usable_for};
use crate::listen::client_hello::{self, read_client_hello};
use crate::listen::first::{FIRST_MESSAGE, SILENCE, detect_more};
use crate::listen::{Detected, FirstSpeaker, Prefixed, drain, first_bytes, original_dst};
use crate::reason::Reason;
use crate::settings::is_own_port;
use crate::tcp::{self, Abort, Counters, Ended};

/// How long a peer's connection that comes while we drain is served like any other: the control plane tells it of us sooner.
const LATE: Duration = Duration::from_millis(500);

/// What a first message turned out to be.
enum Hello {
    /// A ClientHello that offers `weft/*`.
    Mesh,
    /// Any other ClientHello: the app's own TLS.
    Other,
    /// No ClientHello.
    NotTls,
}

/// Where a connection was going, and who opened it.
#[derive(Clone)]
struct Visit {
    client: SocketAddr,
    destination: SocketAddr,
    peer: Option<SpiffeId>,
    /// When the peer's proof of that ends.
    expiry: Option<SystemTime>,
    /// A sidecar speaks: what it says of its client in `x-weft-*` counts. Not so inside `weft/tcp`, which carries the
    /// bytes of an app.
    sidecar: bool,
    /// Mesh TLS is done, so no mTLS mode takes it back.
    proven: Arc<AtomicBool>,
    protocol: Protocol,
}

impl Inbound {
    /// Serves one connection to its end. What goes wrong costs this connection only.
    pub async fn serve(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        match original_dst(&stream, client) {
            Ok(destination) => self.serve_to(stream, client, destination).await,
            Err(error) => {
                tracing::debug!(%client, %error, "inbound: the connection was gone before it was looked at");
            }
        }
    }

    /// The same for a connection whose original destination is known already.
    pub(crate) async fn serve_to(self: Arc<Self>, stream: TcpStream, client: SocketAddr, destination: SocketAddr) {
        let _guard = self.drain.guard();
        let _open = self.telemetry.metrics.open();
        // No packet from outside is for loopback: one that came all the same would reach what the app shows nobody else.
        if is_own_port(destination.port())
            || is_never_from_outside(destination.ip(), client.ip())
            || !self.is_ours(destination.ip())
        {
            self.refuse(stream, client, Reason::OwnListener);
            return;
        }
        let protocol = self.config.own().map_or(Protocol::Auto, |own| own.protocol(destination.port()));
        let opaque = self.config.settings().opaque_ports.contains(&destination.port());
        let protocol = if protocol == Protocol::Auto && opaque { Protocol::Tcp } else { protocol };
        let visit =
            Visit { client, destination, peer: None, expiry: None, sidecar: false, proven: Arc::default(), protocol };
        // A security object that is not there yet fails closed (SEMANTICS.md §4).
        let mode = self.config.inbound_policy().map_or(MtlsMode::Refuse, |policy| policy.mode(destination.port()));
        match mode {
            MtlsMode::Refuse => self.refuse(stream, client, Reason::MtlsRequired),
            MtlsMode::Strict => self.strict(stream, visit).await,
            MtlsMode::Disable | MtlsMode::Permissive => {
                let narrowed = narrowed(self.config.clone(), destination.port(), Arc::clone(&visit.proven));
                let served = async {
                    match mode {
                        MtlsMode::Disable => Arc::clone(&self).carry(stream, BytesMut::new(), visit).await,
                        _ => Arc::clone(&self).permissive(stream, visit).await,
                    }
                };
                if unless(served, narrowed).await.is_err() {
                    tracing::debug!(%client, %destination, "inbound connection closed: policy no longer allows plain text");
                    self.telemetry.metrics.refused("inbound", Reason::MtlsRequired);
                }
            }
        }
    }

    /// Whether an address is this pod's. A neighbour on the same link can send us packets for any address, and dialling it
    /// on its behalf would make us its relay, past whatever policy holds for it.
    fn is_ours(&self, addr: IpAddr) -> bool {
        addr.is_loopback()
            || addr == self.settings.args.pod_address
            || self.config.own().is_some_and(|own| own.addresses.contains(&addr))
    }

    /// Under STRICT refusing is a close, never an HTTP answer: there may be no HTTP.
    fn refuse(&self, stream: TcpStream, client: SocketAddr, reason: Reason) {
        tracing::debug!(%client, %reason, "inbound connection refused");
        self.telemetry.metrics.refused("inbound", reason);
        tcp::reset(stream);
    }

    async fn strict(self: Arc<Self>, mut stream: TcpStream, visit: Visit) {
        let mut buf = BytesMut::with_capacity(2048);
        match read_hello(&mut stream, &mut buf, Instant::now() + FIRST_MESSAGE).await {
            Ok(Hello::Mesh) => self.mesh(stream, buf, visit).await,
            Ok(Hello::Other | Hello::NotTls) | Err(_) => self.refuse(stream, visit.client, Reason::MtlsRequired),
        }
    }

    async fn permissive(self: Arc<Self>, mut stream: TcpStream, visit: Visit) {
        let mut buf = BytesMut::with_capacity(2048);
        let http = is_http(visit.protocol);
        let first = if http {
            // Silence means nothing on a declared HTTP port.
            self.first_of_request(&mut stream, &mut buf).await
        } else {
            first_bytes(&mut stream, &mut buf, SILENCE).await
        };
        match first {
            Ok(FirstSpeaker::Eof) | Err(_) => {}
            Ok(FirstSpeaker::Client) => self.permissive_spoke(stream, buf, visit, None).await,
            Ok(FirstSpeaker::Silent) => {
                // Whoever speaks first: the app may be the one, and until it has, a mesh ClientHello is still welcome.
                let Some(mut app) = self.dial(&visit).await else {
                    return self.refuse(stream, visit.client, Reason::ConnectFailed);
                };
                let mut said = BytesMut::with_capacity(2048);
                tokio::select! {
                    read = stream.read_buf(&mut buf) => match read {
                        Ok(0) => self.relay(stream, app, &visit).await,
                        Ok(_) => self.permissive_spoke(stream, buf, visit, Some(app)).await,
                        Err(_) => {}
                    },
                    read = app.read_buf(&mut said) => match read {
                        Ok(0) | Err(_) => {
                            // It hung up on a silent connection: an HTTP client about to speak gets another one.
                            let spoke = timeout(FIRST_MESSAGE, stream.read_buf(&mut buf)).await;
                            if matches!(spoke, Ok(Ok(n)) if n > 0) {
                                self.permissive_spoke(stream, buf, visit, None).await;
                            }
                        }
                        Ok(_) => self.relay(stream, Prefixed::new(said, app), &visit).await,
                    },
                }
            }
        }
    }

    /// The client's first bytes are in `buf`.
    async fn permissive_spoke(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut buf: BytesMut,
        visit: Visit,
        app: Option<TcpStream>,
    ) {
        match read_hello(&mut stream, &mut buf, Instant::now() + FIRST_MESSAGE).await {
            Ok(Hello::Mesh) => {
                drop(app);
                self.mesh(stream, buf, visit).await;
            }
            Ok(Hello::Other) => {
                let app = match app {
                    Some(app) => app,
                    None => match self.dial(&visit).await {
                        Some(app) => app,
                        None => return self.refuse(stream, visit.client, Reason::ConnectFailed),
                    },
                };
                self.telemetry.metrics.connection("inbound", "tls", false);
                self.relay(Prefixed::new(buf, stream), app, &visit).await;
            }
            Ok(Hello::NotTls) => self.spoke(stream, buf, visit, app).await,
            Err(_) => {}
        }
    }

    async fn mesh(self: Arc<Self>, stream: TcpStream, buf: BytesMut, mut visit: Visit) {
        let (tls, peer) = match Box::pin(self.identity.accept(Prefixed::new(buf, stream))).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(client = %visit.client, %error, "mesh TLS handshake failed");
                self.telemetry.metrics.handshake_failures.inc();
                return;
            }
        };
        visit.peer = Some(peer.identity().clone());
        visit.expiry = Some(peer.not_after());
        visit.proven.store(true, Ordering::Relaxed);
        visit.sidecar = peer.protocol() != MeshProtocol::Tcp;
        match peer.protocol() {
            MeshProtocol::H2 => self.http(tls, visit, Proto::H2).await,
            MeshProtocol::H1 => self.http(tls, visit, Proto::H1).await,
            MeshProtocol::Tcp => Box::pin(self.carry(tls, BytesMut::new(), visit)).await,
        }
    }

    /// A stream whose client is who it is, and has said nothing yet: what does it speak?
    async fn carry<IO>(self: Arc<Self>, mut io: IO, mut buf: BytesMut, visit: Visit)
    where
        IO: Io + Abort,
    {
        let patience = if visit.peer.is_some() { Duration::ZERO } else { SILENCE };
        match visit.protocol {
            Protocol::Tcp | Protocol::Tls => self.opaque(Prefixed::new(buf, io), &visit, None).await,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                if matches!(self.first_of_request(&mut io, &mut buf).await, Ok(FirstSpeaker::Client)) {
                    self.spoke(io, buf, visit, None).await;
                }
            }
            // A peer's sidecar opens `weft/tcp` when its client was silent already: waiting again would only add up.
            Protocol::Auto => match first_bytes(&mut io, &mut buf, patience).await {
                Ok(FirstSpeaker::Eof) | Err(_) => {}
                Ok(FirstSpeaker::Client) => self.spoke(io, buf, visit, None).await,
                Ok(FirstSpeaker::Silent) => {
                    let Some(mut app) = self.dial(&visit).await else { return io.abort_on_drop() };
                    let mut said = BytesMut::with_capacity(2048);
                    tokio::select! {
                        read = io.read_buf(&mut buf) => match read {
                            Ok(0) => self.relay(io, app, &visit).await,
                            Ok(_) => self.spoke(io, buf, visit, Some(app)).await,
                            Err(_) => {}
                        },
                        read = app.read_buf(&mut said) => match read {
                            Ok(0) | Err(_) => {}
                            Ok(_) => self.relay(io, Prefixed::new(said, app), &visit).await,
                        },
                    }
                }
            },
        }
    }

    /// The client's first bytes are in `buf`, and they are no mesh TLS.
    async fn spoke<IO>(self: Arc<Self>, mut io: IO, mut buf: BytesMut, visit: Visit, app: Option<TcpStream>)
    where
        IO: Io + Abort,
    {
        if matches!(visit.protocol, Protocol::Tcp | Protocol::Tls) {
            return self.opaque(Prefixed::new(buf, io), &visit, app).await;
        }
        let Ok(detected) = detect_more(&mut io, &mut buf, Instant::now() + FIRST_MESSAGE).await else { return };
        let proto = match detected {
            Detected::Http1 => Proto::H1,
            Detected::Http2 => Proto::H2,
            // Declared HTTP, and it is not: the engine says so to the client.
            Detected::Opaque | Detected::NeedMore if is_http(visit.protocol) => Proto::H1,
            Detected::Tls | Detected::Opaque | Detected::NeedMore => {
                return self.opaque(Prefixed::new(buf, io), &visit, app).await;
            }
        };
        drop(app);
        self.http(Prefixed::new(buf, io), visit, proto).await;
    }

    /// Requests, until the connection ends, the proxy drains, or the peer's certificate is about to expire.
    async fn http<IO: Io>(self: Arc<Self>, io: IO, visit: Visit, proto: Proto) {
        let meshed = visit.peer.is_some();
        self.telemetry.metrics.connection("inbound", if proto == Proto::H1 { "http/1" } else { "http/2" }, meshed);
        let settings: &ServerSettings = if visit.sidecar { &self.mesh_server } else { &self.server };
        let (signal, watch) = drain::new();
        let late = visit.sidecar && self.drain.is_draining();
        let handler = RequestHandler::new(Caller {
            inbound: Arc::clone(&self),
            app: App::new(visit.destination),
            client: visit.client.ip(),
            client_cert: visit.peer.as_ref().and_then(|peer| client_cert(&self.settings.identity, peer)),
            peer: visit.peer.clone(),
            expiry: visit.expiry.map(|expiry| Instant::now() + left(expiry, SystemTime::now())),
            sidecar: visit.sidecar,
        });
        // Boxed: the other ways a connection may go should not pay for this one's size.
        let mut served = Box::pin(serve(io, proto, handler, settings, watch));
        let ended = match unless(&mut served, self.tell_to_end(signal, visit.expiry, late)).await {
            Ok(ended) => ended,
            Err(()) => served.await,
        };
        if let Err(error) = ended {
            tracing::debug!(client = %visit.client, destination = %visit.destination, %error, "inbound connection ended");
        }
    }

    /// Tells a connection when to begin its end: the proxy drains, or the peer's leaf has a tenth of its life left, at most
    /// a minute (SEMANTICS.md §1: drained by the expiry). Resolves when it has been told to close.
    ///
    /// `late`: a peer came while we drain. Its view of the endpoints is stale, and told at once it would dial anew for every
    /// request until it hears.
    async fn tell_to_end(&self, signal: drain::Signal, expiry: Option<SystemTime>, late: bool) {
        let expires = async {
            match expiry {
                None => std::future::pending().await,
                Some(expiry) => tokio::time::sleep(usable_for(expiry, SystemTime::now())).await,
            }
        };
        let drains = async {
            self.drain.draining().await;
            if late {
                tokio::time::sleep(LATE).await;
            }
            signal.start();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = drains => {}
            () = self.drain.closing() => {}
            () = expires => {}
        }
        signal.close();
    }

    /// The first bytes on a port declared HTTP: silence means nothing there, but it does not last for ever.
    async fn first_of_request<IO>(&self, io: &mut IO, buf: &mut BytesMut) -> std::io::Result<FirstSpeaker>
    where
        IO: AsyncRead + Unpin,
    {
        let wait = async {
            tokio::select! {
                () = tokio::time::sleep(self.server.head_timeout) => {}
                () = async {
                    self.drain.draining().await;
                    tokio::time::sleep(FIRST_MESSAGE).await;
                } => {}
            }
        };
        tokio::select! {
            read = io.read_buf(buf) => Ok(if read? == 0 { FirstSpeaker::Eof } else { FirstSpeaker::Client }),
            () = wait => Ok(FirstSpeaker::Eof),
        }
    }

    async fn opaque<IO>(&self, io: IO, visit: &Visit, app: Option<TcpStream>)
    where
        IO: Io + Abort,
    {
        let app = match app {
            Some(app) => app,
            None => match self.dial(visit).await {
                Some(app) => app,
                None => {
                    self.telemetry.metrics.refused("inbound", Reason::ConnectFailed);
                    return io.abort_on_drop();
                }
            },
        };
        self.relay(io, app, visit).await;
    }

    async fn dial(&self, visit: &Visit) -> Option<TcpStream> {
        match tcp::dial_plain(PlainAddr::outside_mesh(visit.destination), self.settings.timeouts.connect).await {
            Ok(app) => Some(app),
            Err(error) => {
                tracing::debug!(client = %visit.client, %error, "the app cannot be reached");
                None
            }
        }
    }

    async fn relay<A, B>(&self, client: A, app: B, visit: &Visit)
    where
        A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Abort + Unpin,
        B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Abort + Unpin,
    {
        self.telemetry.metrics.connection("inbound", "tcp", visit.peer.is_some());
        let counters = Arc::new(Counters::default());
        let relayed = match visit.expiry {
            None => tcp::relay(client, app, counters).await,
            Some(expiry) => {
                tcp::relay_until(client, app, counters, tokio::time::sleep(left(expiry, SystemTime::now()))).await
            }
        };
        if matches!(relayed.ended, Ended::Cut) {
            self.telemetry.metrics.refused("inbound", Reason::PeerExpired);
        }
        self.telemetry.metrics.tcp_bytes.inc_by(relayed.a_to_b + relayed.b_to_a);
        tracing::trace!(client = %visit.client, ?relayed, "opaque connection ended");
    }
}

/// Resolves when the port's policy no longer allows a connection that has proven nothing (SEMANTICS.md §4: a policy that
/// narrows access closes what it no longer allows).
async fn narrowed(config: Config, port: u16, proven: Arc<AtomicBool>) {
    let mut changes = config.changes();
    loop {
        if proven.load(Ordering::Relaxed) {
            // For good: it need not be woken for changes any more.
            return std::future::pending().await;
        }
        let mode = config.inbound_policy().map(|policy| policy.mode(port));
        if matches!(mode, Some(MtlsMode::Strict | MtlsMode::Refuse)) {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Whether a connection to `destination` cannot have come from outside, and yet `client` is not of this pod.
fn is_never_from_outside(destination: IpAddr, client: IpAddr) -> bool {
    (destination.is_loopback() || destination.is_unspecified() || destination.is_multicast()) && !client.is_loopback()
}

fn is_http(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
}

/// Reads until the first message is a whole ClientHello or cannot become one. It may span segments: the hybrid key share
/// alone is larger than one.
async fn read_hello<IO>(io: &mut IO, buf: &mut BytesMut, deadline: Instant) -> std::io::Result<Hello>
where
    IO: AsyncRead + Unpin,
{
    loop {
        if !buf.is_empty() {
            match read_client_hello(buf) {
                Ok(client_hello::Progress::Complete(hello)) => {
                    let mesh = MeshProtocol::ALL.iter().any(|protocol| hello.offers(protocol.alpn()));
                    return Ok(if mesh { Hello::Mesh } else { Hello::Other });
                }
                Ok(client_hello::Progress::Incomplete) => {}
                Err(_) => return Ok(Hello::NotTls),
            }
        }
        buf.reserve(2048);
        match timeout_at(deadline, io.read_buf(buf)).await {
            Ok(Ok(n)) if n > 0 => {}
            Ok(Ok(_)) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_outside_reaches_what_listens_on_loopback_only() {
        for (destination, client, refused) in [
            ("127.0.0.1", "10.0.0.9", true),
            ("127.8.0.1", "10.0.0.9", true),
            ("::1", "fd00::9", true),
            ("0.0.0.0", "10.0.0.9", true),
            ("224.0.0.1", "10.0.0.9", true),
            ("10.0.0.7", "10.0.0.9", false),
            ("fd00::7", "fd00::9", false),
            ("127.0.0.1", "127.0.0.1", false),
        ] {
            let got = is_never_from_outside(destination.parse().unwrap(), client.parse().unwrap());
            assert_eq!(got, refused, "{client} to {destination}");
        }
    }
}
