//! Bytes we do not understand: an endpoint is picked, dialled (another one if that fails: nothing has been sent yet, so
//! that is always safe) and the bytes are relayed both ways with half-close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Outbound;
use super::cut::Cut;
use crate::answer::OwnAnswer;
use crate::balance::{EndpointKey, Pick, PickRequest, PlainAddr, TryResult};
use crate::config::{Backend, Protocol};
use crate::http::BoxedIo;
use crate::listen::{Detected, detect};
use crate::reason::Reason;
use crate::resilience::ConnectionGuard;
use crate::tcp::{self, Abort, Counters, Ended};
use crate::telemetry::Telemetry;

/// Connections tried before the client is told.
const TRIES: usize = 3;

/// A connection made before, or instead of, knowing what travels on it.
pub(super) struct Early {
    pub(super) io: BoxedIo,
    /// What the server has said already.
    pub(super) said: BytesMut,
    pub(super) meshed: bool,
    /// It is for what the client says in plain text, or for TLS of its own: where a policy has backend TLS, never for both.
    pub(super) own_tls: bool,
    /// When the peer's certificate ends; `None` in plain text.
    pub(super) ends: Option<Instant>,
    /// Kept to the connection's end.
    pub(super) held: Held,
}

/// A connection's place in the endpoint's load and under the backend's limit.
pub(super) struct Held {
    pick: Pick,
    _place: ConnectionGuard,
}

impl Held {
    /// What is told of the connection if we end it, and how long it may be idle.
    pub(super) fn cut(&self, backend: &Backend, meshed: bool) -> (Cut, Option<Duration>) {
        (Cut::new(backend, self.pick.endpoint().addr(), meshed, "tcp"), backend.idle.tcp)
    }
}

/// Whether a client that has said this so far brings TLS of its own to `backend`: backend TLS is not put around it.
pub(super) fn brings_tls(backend: &Backend, said: &[u8]) -> bool {
    backend.protocol == Protocol::Tls || detect(said) == Detected::Tls
}

/// Connects to an endpoint of `backend` for opaque bytes.
pub(super) async fn dial(
    outbound: &Outbound,
    backend: &Arc<Backend>,
    client: SocketAddr,
    own_tls: bool,
) -> Result<Early, OwnAnswer> {
    let place = backend
        .limits
        .connection_now()
        .map_err(|full| OwnAnswer::new(Reason::Overflow, format!("{}: {full}", backend.name)))?;
    let mut tried: SmallVec<[EndpointKey; TRIES]> = SmallVec::new();
    let hash = backend.hash_by.as_ref().and_then(|by| by.of_connection(client.ip()));
    loop {
        let now = tokio::time::Instant::now().into_std();
        let request = PickRequest { avoid: &tried, client: Some(client.ip()), session: None, hash };
        let pick = backend
            .balancer
            .pick(now, &mut rand::rng(), request)
            .map_err(|none| OwnAnswer::new(Reason::NoEndpoints, format!("{}: {none}", backend.name)))?;
        let endpoint = pick.endpoint();
        let own = outbound.is_own(endpoint.addr());
        let dialled = if own {
            // This very pod: nobody to authenticate to but ourselves.
            let addr = PlainAddr::outside_mesh(endpoint.addr());
            tcp::dial_plain(addr, backend.connect_timeout)
                .await
                .map(|io| -> (BoxedIo, _) { (Box::new(io), None) })
                .map_err(Into::into)
        } else {
            outbound.upstreams.dial_opaque(endpoint, backend, own_tls).await
        };
        let took = tokio::time::Instant::now().into_std();
        let latency = took.saturating_duration_since(now);
        match dialled {
            Ok((io, ends)) => {
                outbound.record(backend, &pick, took, latency, TryResult::Connected);
                let meshed = !own && endpoint.mesh().is_some();
                return Ok(Early {
                    io,
                    said: BytesMut::new(),
                    meshed,
                    own_tls,
                    ends,
                    held: Held { pick, _place: place },
                });
            }
            Err(error) => {
                let result = if error.is_ours() { TryResult::Neutral } else { TryResult::Failure };
                outbound.record(backend, &pick, took, latency, result);
                tried.push(endpoint.key().clone());
                if tried.len() == TRIES || !outbound.settings.args.retries.is_on() {
                    return Err(OwnAnswer::new(Reason::ConnectFailed, error.to_string()));
                }
            }
        }
    }
}

/// Relays to the end and counts the bytes. At the latest until `ends`, and for `cut`'s idle timeout without a byte either way;
/// there is none where there is no policy that could say one.
pub(super) async fn relay_counted<A, B>(
    telemetry: &Telemetry,
    ends: Option<Instant>,
    cut: Option<(Cut, Option<Duration>)>,
    a: A,
    b: B,
) where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let counters = Arc::new(Counters::default());
    let mut reason = Reason::PeerExpired;
    let relayed = match (ends, cut.as_ref().and_then(|(_, idle)| *idle)) {
        (None, None) => tcp::relay(a, b, Arc::clone(&counters)).await,
        (Some(ends), None) => tcp::relay_until(a, b, Arc::clone(&counters), tokio::time::sleep_until(ends)).await,
        (ends, Some(idle)) => {
            // Boxed: every connection's future would have room for it.
            let until = Box::pin(async {
                let expired = async {
                    match ends {
                        Some(ends) => tokio::time::sleep_until(ends).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = expired => {}
                    () = tcp::idle(&counters, idle) => reason = Reason::IdleTimeout,
                }
            });
            tcp::relay_until(a, b, Arc::clone(&counters), until).await
        }
    };
    if matches!(relayed.ended, Ended::Cut)
        && let Some((cut, _)) = cut
    {
        cut.told(telemetry, reason);
    }
    let bytes = counters.a_to_b.load(Ordering::Relaxed) + counters.b_to_a.load(Ordering::Relaxed);
    telemetry.metrics.tcp_bytes.inc_by(bytes);
    tracing::trace!(?relayed, "opaque connection ended");
}
