//! Serves a downstream HTTP/1 connection: one request after the other, each with both directions at once.
//!
//! One task and no spawn: the same future reads heads, runs the handler, feeds the request's body when the handler asks
//! for it, and writes the response ([`Exchange`], in `exchange.rs`). Pipelined requests wait in the buffer, so they are
//! answered in order. What lies between exchanges (heads, refusals, how a connection closes) is in `wire.rs`; this file
//! is the order of it all.

mod exchange;
mod wire;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::exchange::{Exchange, Next};
use self::wire::{NextHead, Waiting, Wire};
use super::HeadScan;
use super::writer::Queue;
use crate::http::error::ServeError;
use crate::http::io::Io;
use crate::http::server::shared::ServerSettings;
use crate::http::timer::Timer;
use crate::http::{Handler, TunnelEnd, TunnelLimits};
use crate::listen::Prefixed;
use crate::listen::drain::Watch;
use crate::reason::Reason;
use crate::tcp;
use crate::tcp::relay::{Abort, Counters, Ended, Relayed, relay, relay_until};

/// Not an `async fn`, and what is rare is boxed: this future is most of what a waiting connection holds, and an `async fn` has
/// room for its arguments twice (`pair::cost::memory_of_an_idle_connection`).
pub(crate) fn serve<IO: Io, H: Handler>(
    io: IO,
    handler: H,
    settings: &ServerSettings,
    drain: Watch,
) -> impl Future<Output = Result<(), ServeError>> {
    let mut wire = Wire { io, read: BytesMut::new(), queue: Queue::default(), timer: Timer::default(), eof: false };
    async move {
        let mut closing = pin!(drain.closing());
        let mut closed = false;
        // Whom it wakes: asked again at each wait, it would only find that out.
        let mut wakes: Option<Waker> = None;
        let mut first = true;
        loop {
            let head = {
                let mut scan = HeadScan::default();
                let started = wire.has_begun();
                let mut waiting = Waiting { since: Instant::now(), started, was_idle: !started && !first, first };
                std::future::poll_fn(|cx| {
                    if let Poll::Ready(head) = wire.poll_head(cx, settings, &mut scan, &mut waiting) {
                        return Poll::Ready(head);
                    }
                    let asked = drain.is_draining() || !wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
                    if asked {
                        wakes = Some(cx.waker().clone());
                    }
                    closed = closed || (asked && closing.as_mut().poll(cx).is_ready());
                    wire.poll_patience(cx, settings, &mut waiting, closed)
                })
                .await
            };
            first = false;
            let head = match head {
                NextHead::Request(head) => head,
                NextHead::Closed => {
                    wire.close(Duration::ZERO).await;
                    return Ok(());
                }
                NextHead::Gone(error) => return Err(error.into()),
                NextHead::Late => {
                    handler.answered(Reason::HeadTimeout);
                    Box::pin(wire.refuse(Reason::HeadTimeout, Reason::HeadTimeout.status(), settings)).await;
                    return Err(ServeError::HeadTimeout(settings.head_timeout));
                }
                NextHead::Refused(error) => {
                    handler.answered(error.reason());
                    Box::pin(wire.refuse(error.reason(), error.status(), settings)).await;
                    return Err(ServeError::Protocol(error.to_string().into()));
                }
            };
            // One reading for all that begins with it.
            let arrived = Instant::now().into_std();
            let mut exchange = Exchange::new(&head);
            let body = exchange.body();
            let answer = {
                // Called inside the future, so that a panic before the first await is caught as well.
                let mut handling = pin!(async { handler.handle(exchange::request(head, body), arrived).await });
                std::future::poll_fn(|cx| exchange.poll_answer(&mut wire, &handler, handling.as_mut(), settings, cx))
                    .await
            };
            let Some(answer) = answer else { return Ok(()) };
            exchange.respond(&mut wire, answer, settings, drain.is_draining());
            match std::future::poll_fn(|cx| exchange.poll_response(&mut wire, settings, cx)).await {
                Next::Request => {}
                Next::Close { linger } => {
                    wire.close(if linger { settings.linger } else { Duration::ZERO }).await;
                    return Ok(());
                }
                Next::Gone => {
                    if exchange.is_cut() {
                        // Where the end of the connection is the end of the body, half of it must not look like all.
                        wire.io.abort_on_drop();
                    }
                    return Ok(());
                }
                Next::Abort(error) => {
                    wire.io.abort_on_drop();
                    return Err(ServeError::Truncated(error));
                }
                Next::Tunnel(tunnel) => {
                    drop(exchange);
                    Box::pin(tunnel_through(wire, tunnel)).await;
                    return Ok(());
                }
            }
        }
    }
}

/// The head is written: from here on it is bytes.
async fn tunnel_through<IO: Io>(wire: Wire<IO>, tunnel: TunnelEnd) {
    let client = Prefixed::new(wire.read, wire.io);
    let TunnelEnd { io, read, guard, limits } = tunnel;
    let server = Prefixed::new(BytesMut::from(read), io);
    let counters = Arc::new(Counters::default());
    let relayed = match limits {
        None => relay(client, server, counters).await,
        Some(limits) => relay_within(client, server, counters, *limits).await,
    };
    tracing::debug!(?relayed, "a tunnel ended");
    drop(guard);
}

/// What does not begin never ends.
async fn or_never(limit: Option<impl Future<Output = ()>>) {
    match limit {
        Some(limit) => limit.await,
        None => std::future::pending().await,
    }
}

/// As [`relay`], until a limit ends it.
async fn relay_within<A, B>(client: A, server: B, counters: Arc<Counters>, limits: TunnelLimits) -> Relayed
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let mut reason = Reason::PeerExpired;
    let cut = async {
        tokio::select! {
            () = or_never(limits.until.map(tokio::time::sleep_until)) => {}
            () = or_never(limits.idle.map(|timeout| tcp::idle(&counters, timeout))) => reason = Reason::IdleTimeout,
        }
    };
    let relayed = relay_until(client, server, Arc::clone(&counters), cut).await;
    if matches!(relayed.ended, Ended::Cut) {
        (limits.over)(reason);
    }
    relayed
}
