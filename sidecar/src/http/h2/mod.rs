//! HTTP/2 (RFC 9113) on top of the `h2` crate: what client and server share.
//!
//! `h2` keeps the protocol; here lives what a proxy adds to it: bodies that respect the flow control of both sides
//! ([`Pump`], [`Incoming`]), and knowing within seconds that a peer has vanished without a word ([`Liveness`]).
//! Bound per stream: one received frame in hand, plus `h2`'s send buffer and receive window, both in the settings.
//! Bound per connection: what [`gather`] and [`Wide`] say.

pub mod client;
mod gather;
pub(crate) mod server;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http_body::{Body as _, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::body::{Body, PollFrame};
use super::error::BodyError;
use super::hygiene;
use super::io::Io;
use super::timer::Timer;
use crate::tcp::Wide;

/// Carries a body into a stream. Takes the next frame only when the one before is in `h2`'s send buffer.
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data waiting for capacity, and whether the body ends with it.
    hand: Option<(Bytes, bool)>,
    sent: u64,
}

/// Why a body did not reach the peer in full.
pub(super) enum PumpError {
    /// It failed itself; the stream was reset with the matching code.
    Body(BodyError),
    /// The peer reset the stream, or the connection is gone.
    Stream,
}

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, hand: None, sent: 0 }
    }

    /// Bytes handed to the stream.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Ready when the whole body, with its end, is in the send buffer. Not to be polled after that.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            match self.hand.take() {
                Some((mut data, last)) => {
                    self.stream.reserve_capacity(data.len());
                    let capacity = match self.stream.capacity() {
                        0 => match self.stream.poll_capacity(cx) {
                            Poll::Ready(Some(Ok(capacity))) => capacity,
                            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(PumpError::Stream)),
                            Poll::Pending => {
                                self.hand = Some((data, last));
                                // While this direction is blocked the other one must move on.
                                let _ = self.body.poll_progress(cx);
                                return Poll::Pending;
                            }
                        },
                        capacity => capacity,
                    };
                    let now = data.split_to(capacity.min(data.len()));
                    let ends = last && data.is_empty();
                    self.sent += now.len() as u64;
                    if self.stream.send_data(now, ends).is_err() {
                        return Poll::Ready(Err(PumpError::Stream));
                    }
                    if ends {
                        return Poll::Ready(Ok(()));
                    }
                    if !data.is_empty() {
                        self.hand = Some((data, last));
                    }
                }
                None => {
                    let Poll::Ready(next) = self.body.poll_next(cx) else {
                        // Asked here only: what cannot be sent says so by itself.
                        return self.stream.poll_reset(cx).map(|_| Err(PumpError::Stream));
                    };
                    match next {
                        None => return Poll::Ready(self.finish(self_end)),
                        Some(Err(error)) => {
                            self.stream.send_reset(error.h2_reason());
                            return Poll::Ready(Err(PumpError::Body(error)));
                        }
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(data) => {
                                let last = self.body.is_end_stream();
                                if !data.is_empty() {
                                    self.hand = Some((data, last));
                                } else if last {
                                    return Poll::Ready(self.finish(self_end));
                                }
                            }
                            Err(frame) => {
                                if let Ok(mut trailers) = frame.into_trailers() {
                                    hygiene::strip_forbidden_trailers(&mut trailers);
                                    return Poll::Ready(self.finish(|stream| stream.send_trailers(trailers)));
                                }
                            }
                        },
                    }
                }
            }
        }
    }

    fn finish(&mut self, end: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>) -> Result<(), PumpError> {
        end(&mut self.stream).map_err(|_| PumpError::Stream)
    }

    /// What the body keeps going besides itself; also after the body's end.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_progress(cx)
    }

    /// Whether the peer reset the stream meanwhile.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }
}

fn self_end(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.send_data(Bytes::new(), true)
}

/// A body as it arrives on a stream. Window is given back frame by frame, when the reader takes the frame: the reader
/// holds one at a time, so what a peer can make us hold is the window and that frame.
pub(super) struct Incoming {
    stream: RecvStream,
    /// What Content-Length promised, less what has come. `h2` itself resets a stream that breaks the promise.
    remaining: Option<u64>,
    received: u64,
    data_ended: bool,
    /// What `h2` said at the head or the last frame: asking takes the connection's lock. An end that came by itself after that is
    /// found by reading.
    ended: bool,
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let ended = stream.is_end_stream();
        Self { stream, remaining: length, received: 0, data_ended: false, ended }
    }

    /// Bytes received.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.received += data.len() as u64;
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    // An error means that the stream is closed: there is no window left to give back.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.ended = self.stream.is_end_stream();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::from_h2(error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.ended = true;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(Some(Err(BodyError::from_h2(error)))),
        }
    }

    /// Whether nothing more comes. "No" may mean that it is not known yet.
    pub(super) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.remaining {
            Some(remaining) => SizeHint::with_exact(remaining),
            None if self.ended => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

/// The length a Content-Length field gives, if there is exactly one good one. `h2` refuses bad ones by itself.
pub(super) fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How many bytes passed, shared between a connection's [`Metered`] stream and those who wonder.
#[derive(Debug, Default)]
pub(super) struct Meter {
    read: AtomicU64,
    written: AtomicU64,
}

impl Meter {
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Only the connection's own task counts, so nothing can come between.
    fn add(count: &AtomicU64, bytes: usize) {
        count.store(count.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}

/// A connection whose bytes are counted, and that is read wide: `h2` reads into what the frames before left of 8 KiB.
pub(super) struct Metered<T> {
    io: Wide<T>,
    meter: Arc<Meter>,
}

impl<T> Metered<T> {
    pub(super) fn new(io: T) -> (Self, Arc<Meter>) {
        let meter = Arc::new(Meter::default());
        (Self { io: Wide::new(io), meter: Arc::clone(&meter) }, meter)
    }
}

impl<T: Io> AsyncRead for Metered<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        // What TLS has decrypted is in memory already.
        let read = if self.io.is_ahead() || self.io.get_ref().plain().is_some() {
            self.io.poll_wide(cx, buf)
        } else {
            Pin::new(self.io.get_mut()).poll_read(cx, buf)
        };
        Meter::add(&self.meter.read, buf.filled().len() - before);
        read
    }
}

impl<T: Io> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T> Metered<T> {
    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = written {
            Meter::add(&self.meter.written, *written);
        }
    }
}

/// What unread small frames of a connection may take: `h2` counts by how much less than 256 bytes each carries. By its own
/// default one stalled stream of small messages, in a window it may fill, would bring down all the others.
pub(super) const FRAMES_UNREAD: usize = 16 * 1024 * 1024;
/// The same for clients that nothing is known of: a stream's window of 8-byte messages.
pub(super) const FRAMES_UNREAD_OF_STRANGERS: usize = 8 * 1024 * 1024;
/// Streams that we reset, of which what comes late is dropped in silence; of others it is a breach of the protocol. As many as
/// may end together.
pub(super) const RESETS_REMEMBERED: usize = 1_000;
/// Streams reset for what came on them, over the life of a connection between sidecars or to a server: late frames add up over weeks,
/// and yet there is an end, for each is an answer that a hostile peer may leave in our memory (RUSTSEC-2024-0003).
pub(super) const RESETS_BY_FAULT: usize = 16 * 1024;

/// Notices that a peer has vanished: pings after a silence while streams are open, and gives up when nothing comes back
/// in time (SEMANTICS.md §3, connections). To be polled by the connection's task after each poll of the connection, so
/// that it sees every read as it happens. An idle connection is never pinged.
pub(super) struct Liveness {
    ping: Option<PingPong>,
    meter: Arc<Meter>,
    after: Duration,
    timeout: Duration,
    /// What the meter showed when something was last heard, and when that was.
    heard: u64,
    quiet_since: Instant,
    awaiting_pong: bool,
    was_open: bool,
    timer: Timer,
}

impl Liveness {
    /// `after`: `None` never gives up.
    pub(super) fn new(ping: Option<PingPong>, meter: Arc<Meter>, after: Option<Duration>, timeout: Duration) -> Self {
        let heard = meter.read();
        let (ping, after) = after.map_or((None, Duration::MAX), |after| (ping, after));
        Self {
            ping,
            meter,
            after,
            timeout,
            heard,
            quiet_since: Instant::now(),
            awaiting_pong: false,
            was_open: false,
            timer: Timer::default(),
        }
    }

    /// Ready when the peer must be given up.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, streams_open: bool) -> Poll<()> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        loop {
            if self.awaiting_pong && ping.poll_pong(cx).is_ready() {
                self.awaiting_pong = false;
                self.quiet_since = Instant::now();
            }
            let read = self.meter.read();
            if read != self.heard {
                self.heard = read;
                self.quiet_since = Instant::now();
            }
            if streams_open && !self.was_open && !self.awaiting_pong {
                self.quiet_since = Instant::now();
            }
            self.was_open = streams_open;
            if !streams_open && !self.awaiting_pong {
                return Poll::Pending;
            }
            let deadline = self.quiet_since + if self.awaiting_pong { self.timeout } else { self.after };
            if Instant::now() >= deadline {
                if self.awaiting_pong {
                    return Poll::Ready(());
                }
                if ping.send_ping(Ping::opaque()).is_err() {
                    // The connection is closing: its own poll says so.
                    return Poll::Pending;
                }
                self.awaiting_pong = true;
                self.quiet_since = Instant::now();
                continue;
            }
            ready!(self.timer.poll_at(cx, deadline));
        }
    }
}
