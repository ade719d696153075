//! Port 15012: TLS connections that carry discovery and certificates over gRPC.
//!
//! Each connection is a task: handshake (3 s), HTTP/2, then an end that is planned from the start. After 30 min ± 20 %,
//! so that proxies spread over replicas, or when the peer's certificate ends, whichever is first, its streams are
//! told to end and it gets a GOAWAY; five seconds later it is closed. One without a client certificate lives a minute. A handshake that fails costs only itself.
//!
//! tonic's own server cannot end one connection by its peer's certificate, so hyper is driven here and tonic's services
//! are called by path.
//!
//! At a stop it serves on for [`Ages::leaving`], because peers are sent here for as long as load balancers have not heard;
//! then the streams are told to end, each at a moment of its own within [`Ages::spread`], so that the other replicas
//! are not stampeded. A proxy loses nothing by it: it says on its next stream what it has.
//!
//! What a call may be is decided before a byte of its message is read: tonic reads a message as a whole before a service sees
//! it, and nobody is to fill our memory before we know that we want to hear them (`Server::refusal`).
//!
//! Bound: handshakes and connections as `entrance.rs` says, [`MAX_STREAMS`] calls per connection ([`MAX_STREAMS_ANONYMOUS`]
//! without a certificate), each of a message as large as its service needs; discovery requests as `requests.rs` says.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng as _;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::server::NamedService;
use weft_proto::discovery::AggregatedDiscoveryServiceServer;
use weft_proto::identity::v1::identity_server::IdentityServer;
use weft_proto::v1::replicas_server::ReplicasServer;

use super::entrance::{Bounds, Entrance, Handshake, NoRoom, Stay};
use super::requests::{Bounded, Calls, MAX_REQUEST, Room};
use super::{Denied, Discovery, Lifetime, Metrics};
use crate::identity::{Caller, Certifier, Peer, peer_of};
use crate::line_limit::Lines;
use crate::replicas::{self, Answers};

#[cfg(test)]
mod tests;

/// Calls under way on one connection: a discovery stream, and a certificate now and then.
const MAX_STREAMS: u32 = 32;
/// Of a caller without a certificate, who has one thing to ask.
const MAX_STREAMS_ANONYMOUS: u32 = 4;
/// What a connection may send ahead of being read, in bytes: requests are few and small, connections may be thousands.
const WINDOW: u32 = 64 << 10;
/// Largest `CertifyRequest`: a signing request of at most 8 KiB, and what is around it.
const MAX_CERTIFY: usize = 16 << 10;

const DISCOVERY: &str = <AggregatedDiscoveryServiceServer<Discovery> as NamedService>::NAME;
const IDENTITY: &str = <IdentityServer<Certifier> as NamedService>::NAME;
const REPLICAS: &str = <ReplicasServer<Answers> as NamedService>::NAME;

/// After a failed accept (no more open files), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The times of a connection and its streams. Not flags: each is right for every mesh, and tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// For the TLS handshake. Default 3 s (SEMANTICS.md §3).
    pub handshake: Duration,
    /// A connection's age, ± 20 %. Default 30 min (SEMANTICS.md §4).
    pub connection: Duration,
    /// The age of a connection without a client certificate, which is good for one `Certify`. Default 60 s.
    pub anonymous: Duration,
    /// From GOAWAY to the end. Default 5 s.
    pub drain: Duration,
    /// From the stop until no connection is taken any more and streams are told to end. Behind a Kubernetes Service 3 s:
    /// kube-proxy hears of a terminating pod within one or two. Default 0.
    pub leaving: Duration,
    /// Over how long the ends of streams are spread at a stop. Behind a Kubernetes Service 3 s. Default 0.
    pub spread: Duration,
    /// How long a stream waits for its pod to appear, since pods and manifests come in any order. Default 5 s.
    pub pod_appears: Duration,
    /// Silence before a PING. Default 20 s.
    pub keepalive: Duration,
    /// For the PING's answer. Default 10 s.
    pub keepalive_timeout: Duration,
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(3),
            connection: Duration::from_secs(30 * 60),
            anonymous: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            leaving: Duration::ZERO,
            spread: Duration::ZERO,
            pod_appears: Duration::from_secs(5),
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

impl Ages {
    /// Those of a replica behind a Kubernetes Service.
    pub fn behind_a_service() -> Self {
        let heard = Duration::from_secs(3);
        Self { leaving: heard, spread: heard, ..Self::default() }
    }

    /// The longest that a graceful stop takes.
    pub fn stop(&self) -> Duration {
        self.leaving + self.spread + self.drain + self.handshake
    }
}

/// What port 15012 serves.
pub struct Server {
    discovery: AggregatedDiscoveryServiceServer<Discovery>,
    identity: IdentityServer<Certifier>,
    replicas: ReplicasServer<Answers>,
    answers: Answers,
    entrance: Arc<Entrance>,
    tls: TlsAcceptor,
    trust_domain: String,
    metrics: Metrics,
    lines: Lines,
    room: Room,
    ages: Ages,
}

impl Server {
    /// Puts the services behind `tls`.
    pub fn new(discovery: Discovery, certifier: Certifier, tls: ServerConfig, ages: Ages) -> Self {
        let (metrics, lines) = (discovery.metrics.clone(), discovery.lines.clone());
        let trust_domain = certifier.trust_domain.clone();
        let answers = Answers::new(Arc::clone(&discovery.proxies), &trust_domain);
        Self {
            discovery: AggregatedDiscoveryServiceServer::new(discovery).max_decoding_message_size(MAX_REQUEST),
            identity: IdentityServer::new(certifier).max_decoding_message_size(MAX_CERTIFY),
            replicas: ReplicasServer::new(answers.clone()).max_decoding_message_size(replicas::MAX_REQUEST),
            answers,
            entrance: Entrance::new(Bounds::default()),
            tls: TlsAcceptor::from(Arc::new(tls)),
            trust_domain,
            metrics,
            lines,
            room: Room::default(),
            ages,
        }
    }

    /// Serves `listener` until `shutdown`, then until every connection is drained.
    pub async fn run(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let (stop, stopping) = watch::channel(false);
        let mut shutdown = pin!(async {
            shutdown.await;
            tokio::time::sleep(server.ages.leaving).await;
        });
        loop {
            let accepted = tokio::select! {
                accepted = server.accept(&listener) => accepted,
                () = &mut shutdown => break,
            };
            let Some((socket, from, handshake)) = accepted else { continue };
            let (server, stopping) = (Arc::clone(&server), stopping.clone());
            tokio::spawn(async move {
                let (tls, peer) = match handshake.within(server.handshake(socket)).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        server.metrics.handshakes_failed.inc();
                        if server.lines.may("handshake") {
                            tracing::info!(%from, error, "connection refused");
                        }
                        return;
                    }
                };
                match server.entrance.stay(from.ip(), peer.as_ref()) {
                    Ok(stay) => server.serve(tls, from.ip(), peer, stay, stopping).await,
                    Err(error) => {
                        server.metrics.on_no_room(peer.is_some());
                        let reason = match error {
                            NoRoom::Known => "too-many-proxies",
                            NoRoom::Anonymous => "too-many-without-certificate",
                        };
                        if server.lines.may(reason) {
                            tracing::warn!(%from, %error, "connection refused");
                        }
                    }
                }
            });
        }
        drop(listener);
        drop(stopping);
        stop.send_replace(true);
        // Every connection holds a receiver and is gone `spread` and `drain` after this at the latest.
        let _ = tokio::time::timeout(server.ages.stop(), stop.closed()).await;
    }

    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr, Handshake)> {
        match listener.accept().await {
            Ok((socket, from)) => Some((socket, from, self.entrance.begin(from.ip()).await)),
            Err(error) => {
                if self.lines.may("accept") {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    async fn handshake(&self, socket: TcpStream) -> Result<(TlsStream<TcpStream>, Option<Peer>), String> {
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let tls = tokio::time::timeout(self.ages.handshake, self.tls.accept(socket))
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|e| e.to_string())?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = leaf.map(|leaf| peer_of(leaf, &self.trust_domain)).transpose()?;
        Ok((tls, peer))
    }

    /// Serves one connection to its end.
    async fn serve(
        &self,
        tls: TlsStream<TcpStream>,
        source: IpAddr,
        peer: Option<Peer>,
        mut stay: Stay,
        mut stopping: watch::Receiver<bool>,
    ) {
        let _open = Counted::new(&self.metrics);
        let (end, ending) = watch::channel(false);
        let calls = peer.as_ref().map(|peer| self.room.connection(&peer.id));
        let on = On { source, peer: peer.as_ref(), ending: &ending, calls: calls.as_ref() };
        let service = service_fn(|request: http::Request<Incoming>| self.call(request, &on));
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(Some(self.ages.keepalive))
            .keep_alive_timeout(self.ages.keepalive_timeout)
            .max_concurrent_streams(if peer.is_some() { MAX_STREAMS } else { MAX_STREAMS_ANONYMOUS })
            .max_header_list_size(16 << 10)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            ended = connection.as_mut() => return log_end(ended),
            () = tokio::time::sleep(self.age(peer.as_ref())) => {}
            () = self.stopped(&mut stopping) => {}
            () = stay.over() => {
                self.metrics.on_no_room(false);
                if self.lines.may("closed-for-a-newer-one") {
                    tracing::info!(%source, "a connection without a certificate was closed for a newer one");
                }
                return;
            }
        }
        end.send_replace(true);
        connection.as_mut().graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(self.ages.drain, connection).await {
            log_end(ended);
        }
    }

    /// Waits for the stop, and then for this connection's turn.
    async fn stopped(&self, stopping: &mut watch::Receiver<bool>) {
        // An error says that the server is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
        let turn = self.ages.spread * rand::rng().random_range(0..=1000_u32) / 1000;
        tokio::time::sleep(turn).await;
    }

    /// How old a connection may get.
    fn age(&self, peer: Option<&Peer>) -> Duration {
        let Some(peer) = peer else { return self.ages.anonymous };
        let age = self.ages.connection * rand::rng().random_range(800..=1200_u32) / 1000;
        age.min(peer.not_after.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Hands a call to the service its path names.
    fn call(
        &self,
        mut request: http::Request<Incoming>,
        &On { source, peer, ending, calls }: &On<'_>,
    ) -> impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + use<> {
        request.extensions_mut().insert(Caller { source, certified: peer.is_some() });
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer.clone());
        }
        request.extensions_mut().insert(Lifetime::new(ending.clone()));
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let entered = match (self.refusal(&service, peer), calls) {
            (Some((reason, status)), _) => Err((reason, status)),
            (None, Some(calls)) if service == DISCOVERY => {
                calls.enter().map(Some).map_err(|status| ("too-many-calls", status))
            }
            (None, _) => Ok(None),
        };
        if let Err((reason, status)) = &entered
            && self.lines.may(reason)
        {
            tracing::warn!(%source, service, reason = status.message(), "call refused");
        }
        let (mut discovery, mut identity) = (self.discovery.clone(), self.identity.clone());
        let mut replicas = self.replicas.clone();
        async move {
            let call = match entered {
                Ok(call) => call,
                Err((_, refusal)) => return Ok(refusal.into_http()),
            };
            match (call, &*service) {
                (Some(call), _) => {
                    request.extensions_mut().insert(call.held());
                    discovery.call(request.map(|body| Bounded::new(body, call))).await
                }
                (None, IDENTITY) => identity.call(request).await,
                (None, REPLICAS) => replicas.call(request).await,
                _ => Ok(Status::unimplemented("this port serves discovery and certificates").into_http()),
            }
        }
    }

    /// Why a call of `service` by `peer` is not even read, and a word for it.
    fn refusal(&self, service: &str, peer: Option<&Peer>) -> Option<(&'static str, Status)> {
        match service {
            DISCOVERY if peer.is_none() => {
                let denied = Denied::NoCertificate;
                self.metrics.on_denied(denied.reason());
                Some((denied.reason(), Status::unauthenticated(denied.to_string())))
            }
            REPLICAS => self.answers.check(peer).err().map(|status| ("not-a-replica", status)),
            _ => None,
        }
    }
}

/// The connection on which a call comes.
struct On<'a> {
    source: IpAddr,
    peer: Option<&'a Peer>,
    ending: &'a watch::Receiver<bool>,
    /// Where it has a certificate.
    calls: Option<&'a Calls>,
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Counts a connection while it lives.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
