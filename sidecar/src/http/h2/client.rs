//! One upstream HTTP/2 connection: requests as streams, and what the pool needs to know to choose a connection.
//!
//! No task per request: sending waits for the response head and carries the request body meanwhile; after that the
//! response's body owns the stream and carries the rest of it. The connection itself has one task, the driver.
//!
//! "Was it processed?" is answered where the evidence is: `REFUSED_STREAM` and an id above GOAWAY's last say no
//! (RFC 9113 §8.7), and so does a connection on which not one byte was written since the stream was opened. All else
//! is unknown.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::StatusCode;
use http_body::{Body as _, SizeHint};
use tokio::time::Sleep;

use super::gather::gather;
use super::{Incoming, Liveness, Meter, Metered, Pump, PumpError, content_length};
use crate::http::body::{Body, PollFrame, Source};
use crate::http::error::{BodyError, SendError, SendErrorKind};
use crate::http::io::Io;
use crate::http::{Outgoing, Response, hygiene};

/// How long a request that expects `100 Continue` waits for it before it sends its body all the same (RFC 9110
/// §10.1.1 asks not to wait forever). Shared with HTTP/1.
pub(crate) const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What a client connection allows.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Receive window of a stream, in bytes: what a response can make us hold. Default 256 KiB (SEMANTICS.md §1).
    pub stream_window: u32,
    /// Receive window of the connection, at least 16 stream windows so that few slow readers do not stall the rest.
    /// Default 4 MiB.
    pub connection_window: u32,
    /// Most streams at once, whatever the server allows. Default 100: RFC 9113 §6.5.2's least recommended number, and
    /// what is assumed until the server's settings arrive.
    pub max_streams: usize,
    /// Largest list of response header fields. Default 64 KiB (SEMANTICS.md §6).
    pub max_header_list: u32,
    /// Bytes of a request buffered per stream for writing. Default 256 KiB.
    pub max_send_buffer: usize,
    /// Silence after which a connection with open streams is pinged; `None`: never. Default 5 s (SEMANTICS.md §3). For servers of
    /// the mesh alone: to one of gRPC as it comes, more than a ping in five minutes is a flood.
    pub ping_after: Option<Duration>,
    /// How long the ping may go unanswered. Default 3 s (SEMANTICS.md §3).
    pub ping_timeout: Duration,
    /// A stream that has carried this many bytes makes the pool prefer other connections. Default 1 MiB
    /// (SEMANTICS.md §1, head of line).
    pub large_stream: u64,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_streams: 100,
            max_header_list: 64 * 1024,
            max_send_buffer: 256 * 1024,
            ping_after: Some(Duration::from_secs(5)),
            ping_timeout: Duration::from_secs(3),
            large_stream: 1024 * 1024,
        }
    }
}

/// Opens connections.
#[derive(Debug)]
pub struct Connection;

/// A connection's handle. Cheap to clone; the connection closes when the last one and the last stream are gone.
#[derive(Clone)]
pub struct Handle {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Streams reserved or open.
    open: AtomicUsize,
    /// Of these, streams past `large_stream`.
    large: AtomicUsize,
    /// Streams opened ever.
    opened: AtomicU64,
    /// The driver has ended.
    closed: AtomicBool,
    /// Ended because a ping went unanswered.
    silent: AtomicBool,
    meter: Arc<Meter>,
    /// Most streams at once, by our limit and the server's: what the driver saw last. Asking `h2` takes the connection's lock, and a
    /// pool asks of all its connections for each request.
    max_streams: AtomicUsize,
    large_stream: u64,
    /// Called after each stream's end, and when the server allows more of them.
    on_free: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// The right to open one stream, and then that stream's place in the count.
pub struct Permit {
    shared: Arc<Shared>,
    large: bool,
}

impl Connection {
    /// Starts HTTP/2 on a fresh connection. The second part drives the connection and must be spawned; it ends when the
    /// connection does.
    ///
    /// # Errors
    /// The preface could not be written.
    pub async fn handshake<T: Io>(
        io: T,
        settings: &ClientSettings,
    ) -> Result<(Handle, impl Future<Output = ()> + Send + 'static), SendError> {
        let (io, meter) = Metered::new(io);
        let (io, outlet) = gather(io);
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .initial_max_send_streams(settings.max_streams)
            .max_header_list_size(settings.max_header_list)
            .max_send_buffer_size(settings.max_send_buffer)
            .data_frame_budget(super::FRAMES_UNREAD)
            .max_concurrent_reset_streams(super::RESETS_REMEMBERED)
            .max_local_error_reset_streams(Some(super::RESETS_BY_FAULT))
            .enable_push(false);
        let (send, mut connection) = builder
            .handshake::<_, Bytes>(io)
            .await
            .map_err(|error| SendError::not_processed(SendErrorKind::Lost(to_io(error))))?;
        let mut liveness =
            Liveness::new(connection.ping_pong(), Arc::clone(&meter), settings.ping_after, settings.ping_timeout);
        let shared = Arc::new(Shared {
            open: AtomicUsize::new(0),
            large: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            meter,
            max_streams: AtomicUsize::new(settings.max_streams),
            large_stream: settings.large_stream,
            on_free: OnceLock::new(),
        });
        let (watched, our_limit) = (Arc::clone(&shared), settings.max_streams);
        outlet.open();
        let driver = async move {
            // Set before the connection is dropped, so that its streams find the cause when they fail.
            let mut connection = Some(connection);
            std::future::poll_fn(|cx| {
                let Some(running) = &mut connection else { return Poll::Ready(()) };
                let ended = match Pin::new(running).poll(cx) {
                    Poll::Ready(Ok(())) => true,
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "an upstream HTTP/2 connection ended");
                        true
                    }
                    Poll::Pending => match outlet.poll(cx) {
                        Poll::Ready(Err(error)) => {
                            tracing::debug!(%error, "an upstream HTTP/2 connection was lost");
                            true
                        }
                        Poll::Ready(Ok(())) | Poll::Pending => false,
                    },
                };
                if let Some(running) = connection.as_ref().filter(|_| !ended) {
                    let most = our_limit.min(running.max_concurrent_send_streams());
                    if most > watched.max_streams.swap(most, Ordering::Relaxed) {
                        // Whoever waits for a stream may have one now.
                        watched.freed();
                    }
                    ready!(liveness.poll(cx, watched.open.load(Ordering::Relaxed) > 0));
                    watched.silent.store(true, Ordering::Release);
                }
                watched.closed.store(true, Ordering::Release);
                connection = None;
                Poll::Ready(())
            })
            .await;
            watched.freed();
        };
        Ok((Handle { send, shared }, driver))
    }
}

impl Handle {
    /// Whether new streams may be opened at all: the connection lives and no GOAWAY has come.
    pub fn is_usable(&mut self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
            && matches!(self.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    /// How many more streams fit now, by our limit and the server's.
    pub fn capacity(&self) -> usize {
        self.limit().saturating_sub(self.open())
    }

    /// Streams reserved or open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Streams opened ever.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Whether a stream that has carried more than [`ClientSettings::large_stream`] is open: new requests should go
    /// elsewhere, for all streams share one TCP connection's order.
    pub fn is_busy_large(&self) -> bool {
        self.shared.large.load(Ordering::Relaxed) > 0
    }

    /// Called when a new stream may fit: after each one's end, and when the server allows more. Only the first call sets it.
    pub(crate) fn on_free(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.on_free.set(Box::new(call));
    }

    /// Takes a place for one stream, if there is one.
    pub fn reserve(&self) -> Option<Permit> {
        let limit = self.limit();
        self.shared
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < limit).then_some(open + 1))
            .ok()
            .map(|_| Permit { shared: Arc::clone(&self.shared), large: false })
    }

    fn limit(&self) -> usize {
        self.shared.max_streams.load(Ordering::Relaxed)
    }

    /// Sends a request on a stream of its own.
    ///
    /// # Errors
    /// No response head came; see [`SendError::processed`].
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream with `CANCEL`.
    pub async fn send(self, permit: Permit, request: impl Into<Outgoing<'_>>) -> Result<Response, SendError> {
        let Self { mut send, shared } = self;
        let reused = shared.opened.fetch_add(1, Ordering::Relaxed) > 0;
        let (parts, body) = request.into().into_owned().into_parts();
        let expects = !body.is_end_stream() && hygiene::expects_continue(parts.version, &parts.headers);
        let written = shared.meter.written();
        let (response, stream) = send
            .send_request(http::Request::from_parts(parts, ()), body.is_end_stream())
            .map_err(|error| SendError::not_processed(kind_of(&shared, error)).on_reused(reused))?;
        drop(send);
        let pump = (!body.is_end_stream()).then(|| Pump::new(stream, body));
        let hold = expects.then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
        let mut opening = Opening { response, pump, hold };
        let head = match std::future::poll_fn(|cx| opening.poll(cx)).await {
            Ok(head) => head,
            Err(Failed::RequestBody(error)) => {
                return Err(SendError::unknown(SendErrorKind::RequestBody(error)).on_reused(reused));
            }
            Err(Failed::Stream(error)) => {
                let refused = error.is_remote()
                    && (error.is_go_away() || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)));
                let unwritten = error.is_io() && shared.meter.written() == written;
                let kind = kind_of(&shared, error);
                let error =
                    if refused || unwritten { SendError::not_processed(kind) } else { SendError::unknown(kind) };
                return Err(error.on_reused(reused));
            }
        };
        let (parts, recv) = head.into_parts();
        let incoming = Incoming::new(recv, content_length(&parts.headers));
        let body = if incoming.is_end_stream() && opening.pump.is_none() {
            drop(permit);
            Body::empty()
        } else {
            Body::from_source(Exchange { incoming, pump: opening.pump, permit, pushed: 0, failed: None })
        };
        Ok(http::Response::from_parts(parts, body))
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("h2::Handle").field("open", &self.open()).field("opened", &self.opened()).finish()
    }
}

impl Shared {
    fn freed(&self) {
        if let Some(call) = self.on_free.get() {
            call();
        }
    }
}

impl Permit {
    fn note_bytes(&mut self, bytes: u64) {
        if !self.large && bytes > self.shared.large_stream {
            self.large = true;
            self.shared.large.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.large {
            self.shared.large.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
        self.shared.freed();
    }
}

/// A stream whose response head has not come.
struct Opening {
    response: ResponseFuture,
    pump: Option<Pump>,
    /// The request expects `100 Continue`: its body is not touched before that, or this moment.
    hold: Option<Pin<Box<Sleep>>>,
}

enum Failed {
    RequestBody(BodyError),
    Stream(h2::Error),
}

impl Opening {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<h2::RecvStream>, Failed>> {
        if let Some(hold) = &mut self.hold {
            let mut released = hold.as_mut().poll(cx).is_ready();
            while let Poll::Ready(Some(Ok(informational))) = self.response.poll_informational(cx) {
                released |= informational.status() == StatusCode::CONTINUE;
            }
            if released {
                self.hold = None;
            }
        }
        if self.hold.is_none()
            && let Some(pump) = &mut self.pump
        {
            match pump.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(PumpError::Body(error))) => {
                    self.pump = None;
                    return Poll::Ready(Err(Failed::RequestBody(error)));
                }
                // A server may answer and refuse the rest of the body: the response says which it was.
                Poll::Ready(Ok(()) | Err(PumpError::Stream)) => self.pump = None,
            }
        }
        Pin::new(&mut self.response).poll(cx).map_err(Failed::Stream)
    }
}

/// A stream whose response head has come: the response's body, and what is left of the request's.
struct Exchange {
    incoming: Incoming,
    pump: Option<Pump>,
    permit: Permit,
    pushed: u64,
    failed: Option<BodyError>,
}

impl Exchange {
    fn push(&mut self, cx: &mut Context<'_>) {
        let Some(pump) = &mut self.pump else { return };
        let pushed = pump.poll(cx);
        self.pushed = pump.sent();
        match pushed {
            Poll::Pending => return,
            Poll::Ready(Ok(()) | Err(PumpError::Stream)) => {}
            Poll::Ready(Err(PumpError::Body(error))) => self.failed = Some(error),
        }
        self.pump = None;
    }
}

impl Source for Exchange {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        this.push(cx);
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = this.incoming.poll_frame(cx);
        this.permit.note_bytes(this.incoming.received() + this.pushed);
        frame
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.push(cx);
        this.permit.note_bytes(this.incoming.received() + this.pushed);
        if this.pump.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn kind_of(shared: &Shared, error: h2::Error) -> SendErrorKind {
    if error.is_io() && shared.silent.load(Ordering::Acquire) {
        return SendErrorKind::Silent;
    }
    match error.reason() {
        Some(reason) if error.is_remote() && error.is_reset() => SendErrorKind::Reset(reason),
        Some(reason) if error.is_remote() => SendErrorKind::GoAway(reason),
        Some(_) => SendErrorKind::Protocol(error.to_string().into_boxed_str()),
        None if error.is_io() => SendErrorKind::Lost(to_io(error)),
        None => SendErrorKind::Unsendable(error.to_string().into_boxed_str()),
    }
}

fn to_io(error: h2::Error) -> io::Error {
    let text = error.to_string();
    error.into_io().unwrap_or_else(|| io::Error::other(text))
}
