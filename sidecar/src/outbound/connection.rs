//! One connection from the app: where it was going, and what it speaks (SEMANTICS.md §1 "outbound lookup", "protocol").
//!
//! First it is decided what is to become of it, then that is done ([`Carrying`]): what deciding needs, which is several
//! kilobytes, is gone by then, and a connection that only waits holds little.
//!
//! What the address does not lead to, a host may (`host.rs`). A declared protocol is final. Otherwise whoever speaks first
//! decides:
//!
//! ```text
//! client bytes ──► HTTP/1, HTTP/2 or opaque (TLS among it)
//! 10 ms silence ─► an endpoint is dialled without deciding; then
//!                    client bytes first ─► HTTP: the early connection is closed, the request is routed
//!                                          opaque: the early connection is used
//!                    server bytes first ─► opaque, the early connection is used
//! ```

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Outbound;
use super::opaque::{self, Early};
use super::request::{By, RequestHandler, refusal};
use crate::answer::OwnAnswer;
use crate::balance::PlainAddr;
use crate::config::{Backend, Destination, Protocol, ServicePort};
use crate::http::Proto;
use crate::http::server::serve;
use crate::listen::first::{FIRST_MESSAGE, SILENCE, detect_more};
use crate::listen::{Detected, FirstSpeaker, Prefixed, first_bytes, original_dst};
use crate::reason::Reason;
use crate::redirect;
use crate::settings::is_own_port;
use crate::tcp;

/// What becomes of a connection, to its end. `None` in its place: it is over already.
pub(super) type Carrying = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a destination came to.
enum Way {
    /// Into the mesh.
    Backend(Arc<Backend>, Protocol),
    /// By the port's rules for connections.
    Ruled(Arc<ServicePort>),
    /// As it is.
    Outside,
    /// Nowhere: the answer says why.
    Refused(OwnAnswer),
}

impl Outbound {
    /// Serves one connection to its end. What goes wrong costs this connection only.
    pub async fn serve(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        match original_dst(&stream, client) {
            Ok(destination) if redirect::check::is_question(destination) => redirect::check::answer(stream).await,
            Ok(destination) => self.serve_to(stream, client, destination).await,
            Err(error) => {
                tracing::debug!(%client, %error, "outbound: the connection was gone before it was looked at");
            }
        }
    }

    /// The same for a connection whose original destination is known already.
    pub(crate) async fn serve_to(self: Arc<Self>, stream: TcpStream, client: SocketAddr, destination: SocketAddr) {
        let _guard = self.drain.guard();
        let _open = self.telemetry.metrics.open();
        if is_own_port(destination.port()) && (destination.ip().is_loopback() || self.is_own(destination)) {
            // Nobody redirected this one: relaying it would be a loop.
            self.telemetry.metrics.refused("outbound", Reason::OwnListener);
            tcp::reset(stream);
            return;
        }
        let carrying = Box::pin(Arc::clone(&self).lead(stream, client, destination)).await;
        drop(self);
        if let Some(carrying) = carrying {
            carrying.await;
        }
    }

    async fn lead(self: Arc<Self>, stream: TcpStream, client: SocketAddr, destination: SocketAddr) -> Option<Carrying> {
        let way = match self.config.destination(destination).await {
            Destination::Service { port, .. } if port.connections.is_some() => Way::Ruled(port),
            Destination::Service { port, .. } => {
                let protocol = port.spoken();
                Way::Backend(Arc::clone(&port.backend), protocol)
            }
            Destination::Workload(workload) => {
                Way::Backend(self.config.direct(&workload, destination), workload.protocol(destination.port()))
            }
            Destination::Outside => Way::Outside,
            other => Way::Refused(refusal(&other, destination)),
        };
        match way {
            Way::Backend(backend, protocol) => self.into_mesh(stream, client, destination, backend, protocol).await,
            Way::Ruled(port) => {
                let rules = port.connections.as_ref()?;
                self.by_rule(stream, client, &port, rules).await
            }
            Way::Outside if self.config.knows_hosts() => self.by_host(stream, client, destination, None).await,
            Way::Refused(own) if own.reason == Reason::RegistryOnly && self.config.knows_hosts() => {
                self.by_host(stream, client, destination, Some(own)).await
            }
            Way::Outside => Some(self.pass_through(stream, destination)),
            Way::Refused(own) => self.refuse(stream, BytesMut::new(), client, By::Address(destination), own).await,
        }
    }

    async fn into_mesh(
        self: Arc<Self>,
        mut stream: TcpStream,
        client: SocketAddr,
        destination: SocketAddr,
        backend: Arc<Backend>,
        protocol: Protocol,
    ) -> Option<Carrying> {
        let opaque_port = self.config.settings().opaque_ports.contains(&destination.port());
        let mut buf = BytesMut::new();
        if protocol.is_opaque(opaque_port) {
            return Some(self.opaque(stream, buf, client, backend, None));
        }
        match protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                // Declared, so silence means nothing: a throttled client keeps its routing. The server's own limits
                // on a first head begin with its first byte.
                tokio::select! {
                    read = stream.read_buf(&mut buf) => match read {
                        Ok(0) | Err(_) => return None,
                        Ok(_) => {}
                    },
                    // A drain does not wait for who has nothing to say.
                    () = async {
                        self.drain.draining().await;
                        tokio::time::sleep(FIRST_MESSAGE).await;
                    } => return None,
                }
            }
            Protocol::Auto | Protocol::Tcp | Protocol::Tls => match first_bytes(&mut stream, &mut buf, SILENCE).await {
                Ok(FirstSpeaker::Client) => {}
                Ok(FirstSpeaker::Eof) | Err(_) => return None,
                Ok(FirstSpeaker::Silent) => {
                    match self.whoever_speaks_first(&mut stream, &mut buf, client, &backend).await {
                        First::Client(early) => {
                            let deadline = Instant::now() + FIRST_MESSAGE;
                            let detected = detect_more(&mut stream, &mut buf, deadline).await.ok()?;
                            if proto_of(&detected).is_none() {
                                return Some(self.opaque(stream, buf, client, backend, early));
                            }
                            drop(early);
                        }
                        First::Server(early) => return Some(self.opaque(stream, buf, client, backend, Some(early))),
                        First::Over => return None,
                    }
                }
            },
        }
        let detected = detect_more(&mut stream, &mut buf, Instant::now() + FIRST_MESSAGE).await.ok()?;
        Some(match proto_of(&detected) {
            Some(proto) => self.http(stream, buf, client, By::Address(destination), proto, None),
            // Declared HTTP, and it is not: the engine says so to the client.
            None if protocol != Protocol::Auto && !matches!(detected, Detected::Tls) => {
                self.http(stream, buf, client, By::Address(destination), Proto::H1, None)
            }
            None => self.opaque(stream, buf, client, backend, None),
        })
    }

    /// Dials without deciding; see the module's drawing.
    pub(super) async fn whoever_speaks_first(
        &self,
        stream: &mut TcpStream,
        buf: &mut BytesMut,
        client: SocketAddr,
        backend: &Arc<Backend>,
    ) -> First {
        let dial = opaque::dial(self, backend, client, opaque::brings_tls(backend, &[]));
        tokio::pin!(dial);
        let mut early = tokio::select! {
            read = stream.read_buf(buf) => return match read {
                Ok(0) | Err(_) => First::Over,
                Ok(_) => First::Client(None),
            },
            dialled = &mut dial => match dialled {
                Ok(early) => early,
                // An HTTP client deserves an answer rather than a reset: it may only have been slow to speak. Any other
                // waits for a server that will never come.
                Err(_) => return said_at_last(stream, buf).await,
            },
        };
        let mut first = BytesMut::with_capacity(4096);
        tokio::select! {
            read = stream.read_buf(buf) => match read {
                Err(_) => First::Over,
                // The client ended without a word; the server may still have something to say.
                Ok(0) => First::Server(early),
                Ok(_) => First::Client(Some(early)),
            },
            read = early.io.read_buf(&mut first) => match read {
                // The server hung up before anybody spoke: the client may be an HTTP client yet.
                Ok(0) | Err(_) => said_at_last(stream, buf).await,
                Ok(_) => {
                    early.said = first;
                    First::Server(early)
                }
            },
        }
    }

    pub(super) fn http(
        self: Arc<Self>,
        stream: TcpStream,
        buf: BytesMut,
        client: SocketAddr,
        by: By,
        proto: Proto,
        refused: Option<OwnAnswer>,
    ) -> Carrying {
        self.telemetry.metrics.connection("outbound", if proto == Proto::H1 { "http/1" } else { "http/2" }, false);
        Box::pin(async move {
            let refused = refused.map(|own| Arc::new(Mutex::new(Some(own))));
            let handler = RequestHandler { outbound: Arc::clone(&self), by, client, refused };
            let served = serve(Prefixed::new(buf, stream), proto, handler, &self.server, self.drain.clone());
            if let Err(error) = served.await {
                tracing::debug!(%client, destination = %by.address(), %error, "outbound connection ended");
            }
        })
    }

    pub(super) fn pass_through(self: Arc<Self>, stream: TcpStream, destination: SocketAddr) -> Carrying {
        self.telemetry.metrics.connection("outbound", "outside", false);
        Box::pin(async move {
            let dial = tcp::dial_plain(PlainAddr::outside_mesh(destination), self.settings.timeouts.connect);
            match Box::pin(dial).await {
                Ok(upstream) => opaque::relay_counted(&self.telemetry, None, None, stream, upstream).await,
                Err(error) => {
                    tracing::debug!(%destination, %error, "outside destination");
                    self.telemetry.metrics.refused("outbound", Reason::ConnectFailed);
                    tcp::reset(stream);
                }
            }
        })
    }

    /// HTTP clients get an answer, everybody else a reset. `buf` is what the client has said. Where further requests go is
    /// `by`'s to say.
    pub(super) async fn refuse(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut buf: BytesMut,
        client: SocketAddr,
        by: By,
        own: OwnAnswer,
    ) -> Option<Carrying> {
        tracing::debug!(%client, reason = %own.reason, detail = %own.detail, "outbound connection refused");
        let silent = own.reason == Reason::NoPort
            || (buf.is_empty()
                && !matches!(first_bytes(&mut stream, &mut buf, SILENCE).await, Ok(FirstSpeaker::Client)));
        let proto = if silent { None } else { proto_of(&crate::listen::detect(&buf)) };
        let Some(proto) = proto else {
            // Where there are requests, each is counted by itself.
            self.telemetry.metrics.refused("outbound", own.reason);
            tcp::reset(stream);
            return None;
        };
        // The first request has waited for its answer already. Each further one asks again: the control plane may come back
        // while the client keeps its connection.
        Some(self.http(stream, buf, client, by, proto, Some(own)))
    }

    pub(super) fn opaque(
        self: Arc<Self>,
        stream: TcpStream,
        buf: BytesMut,
        client: SocketAddr,
        backend: Arc<Backend>,
        early: Option<Early>,
    ) -> Carrying {
        Box::pin(async move {
            let own_tls = opaque::brings_tls(&backend, &buf);
            let early = match early.filter(|early| early.own_tls == own_tls || backend.tls.is_none()) {
                Some(early) => early,
                None => match Box::pin(opaque::dial(&self, &backend, client, own_tls)).await {
                    Ok(early) => early,
                    Err(own) => {
                        tracing::debug!(%client, backend = %backend.name, detail = %own.detail, "opaque connection refused");
                        self.telemetry.metrics.refused("outbound", own.reason);
                        tcp::reset(stream);
                        return;
                    }
                },
            };
            self.telemetry.metrics.connection("outbound", "tcp", early.meshed);
            let Early { io, said, held, ends, meshed, .. } = early;
            let cut = Some(held.cut(&backend, meshed));
            let (client, server) = (Prefixed::new(buf, stream), Prefixed::new(said, io));
            opaque::relay_counted(&self.telemetry, ends, cut, client, server).await;
            drop(held);
        })
    }
}

/// Who spoke first, after a silence.
pub(super) enum First {
    Client(Option<Early>),
    Server(Early),
    Over,
}

pub(super) fn proto_of(detected: &Detected) -> Option<Proto> {
    match detected {
        Detected::Http1 => Some(Proto::H1),
        Detected::Http2 => Some(Proto::H2),
        Detected::Tls | Detected::Opaque | Detected::NeedMore => None,
    }
}

/// There is no server to speak: the client may, for as long as a first message may take.
async fn said_at_last(stream: &mut TcpStream, buf: &mut BytesMut) -> First {
    match timeout(FIRST_MESSAGE, stream.read_buf(buf)).await {
        Ok(Ok(n)) if n > 0 => First::Client(None),
        _ => First::Over,
    }
}
