//! Serves a downstream HTTP/1 connection: one request after the other, each with both directions at once.
//!
//! One task and no spawn: the same future reads heads, runs the handler, feeds the request's body when the handler asks
//! for it, and writes the response ([`Exchange`], in `exchange.rs`). Pipelined requests wait in the buffer, so they are
//! answered in order. This file has what lies between exchanges: heads, refusals, drain, and how a connection closes.
//!
//! Lingering (RFC 9112 §9.6): we close our side, then read and drop for a while, or a reset would destroy the response
//! before the client has read it.

mod exchange;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use self::exchange::{Exchange, Next};
use super::encode::{self, Framing, encode_response};
use super::reader::{HEAD_READ, poll_read};
use super::writer::Queue;
use super::{HeadError, HeadScan, Progress, RequestHead};
use crate::http::error::ServeError;
use crate::http::io::Io;
use crate::http::server::{ServerSettings, own_answer};
use crate::http::timer::Timer;
use crate::http::{Handler, TunnelEnd};
use crate::listen::Prefixed;
use crate::listen::drain::Watch;
use crate::reason::Reason;
use crate::tcp::relay::{Counters, relay};

/// Most bytes read and dropped while lingering.
const MAX_LINGER: usize = 1024 * 1024;

pub(crate) async fn serve<IO: Io, H: Handler>(
    io: IO,
    handler: H,
    settings: &ServerSettings,
    drain: Watch,
) -> Result<(), ServeError> {
    let mut wire = Wire { io, read: BytesMut::new(), queue: Queue::default(), timer: Timer::default(), eof: false };
    let mut draining = pin!(drain.draining());
    let mut first = true;
    loop {
        let head = {
            let mut scan = HeadScan::default();
            let mut waiting = Waiting { since: Instant::now(), started: !wire.read.is_empty(), first };
            std::future::poll_fn(|cx| {
                let draining = drain.is_draining() || draining.as_mut().poll(cx).is_ready();
                wire.poll_head(cx, settings, &mut scan, &mut waiting, draining)
            })
            .await
        };
        first = false;
        let head = match head {
            NextHead::Request(head) => *head,
            NextHead::Closed => {
                wire.close(Duration::ZERO).await;
                return Ok(());
            }
            NextHead::Gone(error) => return Err(error.into()),
            NextHead::Late => {
                handler.answered(Reason::HeadTimeout);
                wire.refuse(Reason::HeadTimeout, Reason::HeadTimeout.status(), settings).await;
                return Err(ServeError::HeadTimeout(settings.head_timeout));
            }
            NextHead::Refused(error) => {
                handler.answered(error.reason());
                wire.refuse(error.reason(), error.status(), settings).await;
                return Err(ServeError::Protocol(error.to_string().into()));
            }
        };
        let (request, mut exchange) = Exchange::new(head);
        let answer = {
            // Called inside the future, so that a panic before the first await is caught as well.
            let mut handling = pin!(async { handler.handle(request).await });
            std::future::poll_fn(|cx| exchange.poll_answer(&mut wire, &handler, handling.as_mut(), settings, cx)).await
        };
        let Some(answer) = answer else { return Ok(()) };
        exchange.respond(&mut wire, answer, settings, drain.is_draining());
        match std::future::poll_fn(|cx| exchange.poll_response(&mut wire, settings, cx)).await {
            Next::Request => {}
            Next::Close { linger } => {
                wire.close(if linger { settings.linger } else { Duration::ZERO }).await;
                return Ok(());
            }
            Next::Gone => return Ok(()),
            Next::Abort(error) => {
                wire.io.abort_on_drop();
                return Err(ServeError::Truncated(error));
            }
            Next::Tunnel(tunnel) => {
                drop(exchange);
                tunnel_through(wire, tunnel).await;
                return Ok(());
            }
        }
    }
}

/// The connection.
struct Wire<IO> {
    io: IO,
    /// Read and not yet used: at most a head, or what is read ahead.
    read: BytesMut,
    queue: Queue,
    timer: Timer,
    /// The client has closed its side.
    eof: bool,
}

enum NextHead {
    Request(Box<RequestHead>),
    /// Nothing more is to come, or wanted.
    Closed,
    Gone(io::Error),
    Late,
    Refused(HeadError),
}

/// For a head.
struct Waiting {
    /// Since when, for the timeout that runs.
    since: Instant,
    /// Whether its first byte is here.
    started: bool,
    /// Whether it is the connection's first.
    first: bool,
}

impl<IO: Io> Wire<IO> {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        settings: &ServerSettings,
        scan: &mut HeadScan,
        waiting: &mut Waiting,
        draining: bool,
    ) -> Poll<NextHead> {
        loop {
            match scan.read_request(&self.read, &settings.head) {
                Ok(Progress::Complete(head)) => {
                    let _ = self.read.split_to(head.len);
                    return Poll::Ready(NextHead::Request(Box::new(head)));
                }
                Ok(Progress::Incomplete) => {}
                Err(error) => return Poll::Ready(NextHead::Refused(error)),
            }
            if self.eof {
                return Poll::Ready(NextHead::Closed);
            }
            if self.read.is_empty() {
                // An idle connection holds no buffer worth the name.
                self.read = BytesMut::new();
            }
            match poll_read(&mut self.io, &mut self.read, HEAD_READ, cx) {
                Poll::Ready(Ok(0)) => self.eof = true,
                Poll::Ready(Ok(_)) => {
                    if !std::mem::replace(&mut waiting.started, true) && !waiting.first {
                        waiting.since = Instant::now();
                    }
                }
                Poll::Ready(Err(error)) => {
                    // A reset between requests is how many clients close.
                    return Poll::Ready(if waiting.started { NextHead::Gone(error) } else { NextHead::Closed });
                }
                Poll::Pending => break,
            }
        }
        let idle = !waiting.started;
        // A connection that has not been used yet has its first request on the way: it may not be told to go away.
        if idle && draining && !waiting.first {
            return Poll::Ready(NextHead::Closed);
        }
        let timeout = if idle && !waiting.first { settings.idle_timeout } else { settings.head_timeout };
        if self.timer.poll_at(cx, waiting.since + timeout).is_ready() {
            return Poll::Ready(if idle { NextHead::Closed } else { NextHead::Late });
        }
        Poll::Pending
    }

    /// Answers what was not understood, and closes. Best effort: the client may be gone, or never read.
    async fn refuse(&mut self, reason: Reason, status: StatusCode, settings: &ServerSettings) {
        let (parts, _) = own_answer(reason, status, false, settings).into_parts();
        self.queue.write(|dst| {
            encode_response(dst, &parts, &Method::GET, Framing::Length(0), encode::Connection::Close);
        });
        let Self { io, queue, .. } = self;
        let written = std::future::poll_fn(|cx| queue.poll_flush(io, cx));
        if matches!(tokio::time::timeout(settings.linger, written).await, Ok(Ok(()))) {
            self.close(settings.linger).await;
        }
    }

    /// Closes our side, and reads and drops what the client still sends until it closes its own, for at most `linger`.
    async fn close(&mut self, linger: Duration) {
        /// For a peer that does not take our end of TLS: it has stopped reading altogether.
        const SHUTDOWN: Duration = Duration::from_secs(1);
        let shut = tokio::time::timeout(SHUTDOWN, self.io.shutdown()).await;
        if linger.is_zero() || self.eof || !matches!(shut, Ok(Ok(()))) {
            return;
        }
        let drop_rest = async {
            let mut dropped = 0;
            loop {
                self.read.clear();
                self.read.reserve(HEAD_READ);
                match self.io.read_buf(&mut self.read).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => dropped += read,
                }
                if dropped > MAX_LINGER {
                    return;
                }
            }
        };
        // Out of time or bytes: closing now may reset the connection, which the client has earned.
        let _ = tokio::time::timeout(linger, drop_rest).await;
    }
}

/// The head is written: from here on it is bytes.
async fn tunnel_through<IO: Io>(wire: Wire<IO>, tunnel: TunnelEnd) {
    let client = Prefixed::new(wire.read, wire.io);
    let TunnelEnd { io, read, guard } = tunnel;
    let server = Prefixed::new(BytesMut::from(read), io);
    let relayed = relay(client, server, Arc::new(Counters::default())).await;
    tracing::debug!(?relayed, "a tunnel ended");
    drop(guard);
}
