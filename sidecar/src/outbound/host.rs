//! A connection whose address says nothing: the host it asks for may (SEMANTICS.md §1 "outbound lookup" 3).
//!
//! ```text
//! HTTP/1 with a Host that the mesh knows ─► requests by host, each one by its own
//! HTTP/2 ─────────────────────────────────► likewise: its authorities are compressed, so nobody can look ahead
//! TLS with SNI that the mesh knows ───────► that Service's endpoints, as it is
//! anything else ──────────────────────────► policy: to the original destination as it is, or refused
//! ```
//!
//! Only on the ports that the Service declares, and only where some host is known at all: otherwise what is outside is
//! relayed without a look. The looking delays nobody who waits for the server to speak: the original destination is
//! dialled meanwhile, as in `connection.rs`. Bound: one head or ClientHello, for [`FIRST_MESSAGE`].

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Outbound;
use super::connection::{Carrying, First, proto_of};
use super::opaque::Early;
use super::request::{By, refusal};
use crate::answer::OwnAnswer;
use crate::config::{Backend, Destination, Protocol};
use crate::http::Proto;
use crate::http::h1::Progress;
use crate::http::host::HostScan;
use crate::listen::client_hello::{self, read_client_hello};
use crate::listen::detect::MAX_PREFIX;
use crate::listen::first::{FIRST_MESSAGE, SILENCE, detect_more};
use crate::listen::{Detected, FirstSpeaker, first_bytes};
use crate::tcp;

/// What a connection's first message leads to.
enum Leads {
    /// Its requests, each by its host.
    Requests(Proto),
    /// It, as it is.
    Relay(Arc<Backend>),
    /// Somewhere that nobody can say now.
    Unavailable,
    /// Nowhere we know.
    Nowhere,
}

impl Outbound {
    /// `refused`: what policy answers where no known host leads away; `None` if it lets everything pass.
    pub(super) async fn by_host(
        self: Arc<Self>,
        mut stream: TcpStream,
        client: SocketAddr,
        destination: SocketAddr,
        refused: Option<OwnAnswer>,
    ) -> Option<Carrying> {
        let mut buf = BytesMut::new();
        let mut early: Option<Early> = None;
        // Where policy lets nothing pass there is no server that might speak first.
        let patience = if refused.is_some() { FIRST_MESSAGE } else { SILENCE };
        match (first_bytes(&mut stream, &mut buf, patience).await, &refused) {
            (Ok(FirstSpeaker::Client), _) => {}
            (_, Some(own)) => {
                self.telemetry.metrics.refused("outbound", own.reason);
                tcp::reset(stream);
                return None;
            }
            // It may still want to hear what the server says.
            (Ok(FirstSpeaker::Eof), None) => return Some(self.pass_through(stream, destination)),
            (Ok(FirstSpeaker::Silent), None) => {
                let outside = self.config.outside(destination);
                match self.whoever_speaks_first(&mut stream, &mut buf, client, &outside).await {
                    First::Client(dialled) => early = dialled,
                    First::Server(early) => return Some(self.opaque(stream, buf, client, outside, Some(early))),
                    First::Over => return None,
                }
            }
            (Err(_), None) => return None,
        }
        match self.leads(&mut stream, &mut buf, destination.port()).await {
            Leads::Requests(proto) => {
                drop(early);
                Some(self.http(stream, buf, client, By::Host(destination), proto, None))
            }
            Leads::Relay(backend) => {
                drop(early);
                Some(self.opaque(stream, buf, client, backend, None))
            }
            Leads::Unavailable => {
                let own = refusal(&Destination::Unavailable, destination);
                self.refuse(stream, buf, client, By::Host(destination), own).await
            }
            Leads::Nowhere => match refused {
                Some(own) => self.refuse(stream, buf, client, By::Host(destination), own).await,
                None => {
                    let outside = self.config.outside(destination);
                    Some(self.opaque(stream, buf, client, outside, early))
                }
            },
        }
    }

    /// Reads as much of the first message as it takes.
    async fn leads(&self, stream: &mut TcpStream, buf: &mut BytesMut, port: u16) -> Leads {
        let deadline = Instant::now() + FIRST_MESSAGE;
        let host = match detect_more(stream, buf, deadline).await {
            Ok(Detected::Http2) => return Leads::Requests(Proto::H2),
            Ok(Detected::Http1) => {
                let mut scan = HostScan::default();
                read_until(stream, buf, deadline, |buf| match scan.read(buf, &self.server.head) {
                    Progress::Incomplete => None,
                    Progress::Complete(host) => Some(host),
                })
                .await
            }
            Ok(Detected::Tls) => {
                read_until(stream, buf, deadline, |buf| match read_client_hello(buf) {
                    Ok(client_hello::Progress::Incomplete) => None,
                    Ok(client_hello::Progress::Complete(hello)) => Some(hello.sni),
                    Err(_) => Some(None),
                })
                .await
            }
            Ok(Detected::Opaque | Detected::NeedMore) | Err(_) => None,
        };
        let Some(host) = host else { return Leads::Nowhere };
        match self.config.host(&host, port).await {
            Some(Destination::Service { port, .. }) => match (proto_of(&crate::listen::detect(buf)), port.protocol) {
                (Some(proto), Protocol::Auto | Protocol::Http | Protocol::Http2 | Protocol::Grpc) => {
                    Leads::Requests(proto)
                }
                _ => Leads::Relay(Arc::clone(&port.backend)),
            },
            Some(_) => Leads::Unavailable,
            None => Leads::Nowhere,
        }
    }
}

/// Reads on until `found` says what there is. `None` also when the client ends, fails or takes too long.
async fn read_until(
    stream: &mut TcpStream,
    buf: &mut BytesMut,
    deadline: Instant,
    mut found: impl FnMut(&[u8]) -> Option<Option<String>>,
) -> Option<String> {
    loop {
        if let Some(host) = found(buf) {
            return host;
        }
        if buf.capacity() == buf.len() {
            buf.reserve(MAX_PREFIX);
        }
        if !matches!(timeout_at(deadline, stream.read_buf(buf)).await, Ok(Ok(1..))) {
            return None;
        }
    }
}
