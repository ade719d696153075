//! One upstream HTTP/1 connection: one request at a time, both directions at once.
//!
//! The request's body is written while the response head is awaited and while the response body streams: a server may
//! answer before it has read everything (RFC 9112 §9.3), and may well read the rest. No task: [`Connection::send`] does
//! both until the head is there, then the response's body owns the connection and does both. When both directions are
//! over and the server keeps the connection, it goes home (to its pool) by itself; in every other case, and when the
//! body is dropped early, it is closed.
//!
//! Interim responses: `100 Continue` lets the request body go; the rest (102, 103 …) are dropped, at most
//! [`MAX_INTERIM`] of them. Bound: one read buffer (64 KiB of head, 32 KiB of body) and the writer's.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::BytesMut;
use http::header::{EXPECT, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::encode::{self, Framing, encode_request};
use super::reader::{BODY_READ, HEAD_READ, poll_read};
use super::unread::{self, Aborts, Gather};
use super::writer::{Queue, WriteError, Writer};
use super::{BodyLength, Decoded, Decoder, FramingError, HeadLimits, HeadScan, Progress, ResponseHead, spare};
#[cfg(doc)]
use crate::http::Answer;
use crate::http::body::{Body, PollFrame, Source};
use crate::http::error::{BodyError, SendError, SendErrorKind};
use crate::http::h2::client::CONTINUE_WAIT;
use crate::http::io::{BoxedIo, Io};
use crate::http::{Outgoing, Response, Tunnel, hygiene};
use crate::resilience::ConnectionGuard;

/// Interim responses before the real one; more are a flood.
const MAX_INTERIM: u32 = 16;

/// A connection used this recently is believed when the runtime has heard nothing from it, without asking the kernel: servers
/// close idle connections after seconds, and asking is a system call for each request. What closes sooner, a server that
/// dies, is heard of within the few milliseconds that the runtime takes to look at its sockets again.
const JUST_USED: Duration = Duration::from_millis(50);

/// Where a connection goes when it may be used again, and who counts it.
pub(crate) trait Home: Send + Sync {
    /// The connection is idle. It is not closed by coming home; the count goes on.
    fn give_back(&self, connection: Connection, now: Instant);
    /// A connection of this home is gone.
    fn closed(&self);
}

/// The connection's place in its home's count, and in its backend's. The home counts it out first: the backend's place
/// may come straight back to it.
struct Place {
    home: Option<Weak<dyn Home>>,
    /// Held, never read.
    _backend: ConnectionGuard,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(home) = self.home() {
            home.closed();
        }
    }
}

impl Place {
    fn home(&self) -> Option<Arc<dyn Home>> {
        self.home.as_ref().and_then(Weak::upgrade)
    }
}

/// An upstream connection that is not in use. A pointer: it is handed on several times for each request.
pub struct Connection(Box<Open>);

struct Open {
    io: BoxedIo,
    read: BytesMut,
    queue: Queue,
    limits: HeadLimits,
    served: u64,
    thread: ThreadId,
    place: Option<Place>,
    /// The server is the app of this pod (`unread.rs`).
    to_app: bool,
}

impl Connection {
    /// A fresh connection.
    pub fn new(io: impl Io, limits: HeadLimits) -> Self {
        Self(Box::new(Open {
            io: Box::new(io),
            read: BytesMut::new(),
            queue: Queue::default(),
            limits,
            served: 0,
            thread: std::thread::current().id(),
            place: None,
            to_app: false,
        }))
    }

    /// Whether the server is the app of this pod, whose resets tell whether it read a request.
    pub fn to_app(mut self, to_app: bool) -> Self {
        self.0.to_app = to_app;
        self
    }

    /// `home` gets it back after each exchange that leaves it usable, and hears of its end. Set before the first one.
    pub(crate) fn at_home(mut self, home: Weak<dyn Home>, place: ConnectionGuard) -> Self {
        self.0.place = Some(Place { home: Some(home), _backend: place });
        self
    }

    /// Nobody's: it keeps its backend's place to its end.
    pub(crate) fn on_its_own(mut self, place: ConnectionGuard) -> Self {
        self.0.place = Some(Place { home: None, _backend: place });
        self
    }

    /// Whose runtime hears of its events.
    pub(crate) fn thread(&self) -> ThreadId {
        self.0.thread
    }

    /// Requests it has served.
    pub fn served(&self) -> u64 {
        self.0.served
    }

    /// Whether it can take another request: the server has neither closed it nor said anything meanwhile. `idle`: for how
    /// long it has not been used.
    pub fn is_reusable(&mut self, idle: Duration) -> bool {
        self.0.read.is_empty()
            && self.0.queue.is_empty()
            && self.0.io.is_quiet()
            && (idle < JUST_USED || self.0.io.is_silent())
    }

    /// Sends a request and waits for the response's head. An `Upgrade` field in the request is an offer to change the
    /// protocol; if the server takes it (101), or accepts a CONNECT (2xx), the response has a [`Tunnel`] among its
    /// extensions.
    ///
    /// # Errors
    /// No response head came. The connection is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(self, request: impl Into<Outgoing<'_>>) -> Result<Response, SendError> {
        self.send_noting(request, &mut None, None).await.map(|response| *response)
    }

    /// As [`Self::send`], and `answered` tells when the head was there. The response is a pointer, as in [`Answer`]. `home` is
    /// the connection's, if the caller has it: it need not be looked for when all of the response is here at once.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub(crate) async fn send_noting(
        self,
        request: impl Into<Outgoing<'_>>,
        answered: &mut Option<Instant>,
        home: Option<&dyn Home>,
    ) -> Result<Box<Response>, SendError> {
        let reused = self.0.served > 0;
        let opening = match request.into() {
            Outgoing::Owned(request) => {
                let (parts, body) = request.into_parts();
                let opening = Opening::new(self, &parts, body);
                spare::give_map(parts.headers);
                opening
            }
            Outgoing::Lent(parts, body) => Opening::new(self, parts, body),
        };
        let mut opening = match opening {
            Ok(opening) => opening,
            Err(kind) => return Err(SendError::not_processed(kind).on_reused(reused)),
        };
        match std::future::poll_fn(|cx| opening.poll(cx)).await {
            Ok(head) => {
                let now = *answered.insert(Instant::now());
                opening.finish(head, now, home).map_err(|kind| SendError::unknown(kind).on_reused(reused))
            }
            Err(kind) => {
                let unread = opening.written() == 0 || (opening.may_be_unread(&kind) && opening.is_unread(&kind).await);
                if !unread && opening.aborts.is_some() {
                    let (fin, one_piece, written) = (is_fin(&kind), opening.is_one_piece(), opening.written());
                    tracing::debug!(fin, one_piece, written, "the app is lost with a request that it may have read");
                }
                opening.tell_if_closed(&kind);
                let error = if unread { SendError::not_processed(kind) } else { SendError::unknown(kind) };
                Err(error.on_reused(reused))
            }
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("h1::Connection").field("served", &self.0.served).finish_non_exhaustive()
    }
}

/// An exchange without a response head so far.
struct Opening {
    connection: Option<Connection>,
    writer: Option<Writer>,
    /// The request expects `100 Continue`: its body is held until that, or this moment.
    hold: Option<Pin<Box<Sleep>>>,
    gather: Gather,
    written_before: u64,
    writes_before: u64,
    scan: HeadScan,
    interim: u32,
    method: Method,
    upgrades: bool,
    request_keeps_alive: bool,
    upload_failed: bool,
    /// For a request to the app that is not safe to repeat: whether it was read, if the app is lost (`unread.rs`).
    aborts: Option<Aborts>,
    /// For any request to the app: before its first byte was written.
    began: Option<Instant>,
}

fn is_fin(kind: &SendErrorKind) -> bool {
    matches!(kind, SendErrorKind::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof)
}

impl Opening {
    fn new(mut connection: Connection, parts: &Parts, body: Body) -> Result<Self, SendErrorKind> {
        let declared = super::length::content_length(&parts.headers)
            .map_err(|error| SendErrorKind::Unsendable(error.to_string().into()))?
            .or_else(|| body.exact_len().filter(|length| *length > 0));
        let upgrades = hygiene::has(&parts.headers, &UPGRADE);
        let expects = !body.is_end_stream()
            && parts.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let version = parts.version;
        // A client of HTTP/1.0 expects its server to close, and some servers behave by it: nothing is saved here.
        let keeps_alive = version != http::Version::HTTP_10;
        let become_ = match (upgrades, keeps_alive) {
            (true, _) => encode::Connection::Upgrade,
            (false, true) => encode::Connection::KeepAlive,
            (false, false) => encode::Connection::Close,
        };
        let framing = Framing::for_request(&parts.method, version, declared, body.is_end_stream())
            .and_then(|framing| {
                connection.0.queue.write(|dst| encode_request(dst, parts, framing, become_)).map(|()| framing)
            })
            .map_err(|error| SendErrorKind::Unsendable(error.to_string().into()))?;
        let mut writer = Writer::for_request(body, framing);
        writer.hold(expects);
        let matters = connection.0.to_app && !parts.method.is_idempotent();
        // Also of what is safe to repeat: an app that does not read what comes with a GET closes, and resets what comes later.
        let short = declared.is_some_and(|length| connection.0.queue.len() as u64 + length <= unread::ONE_PIECE);
        Ok(Self {
            written_before: connection.0.queue.written(),
            writes_before: connection.0.queue.writes(),
            gather: if connection.0.to_app && short && !expects { Gather::If } else { Gather::No },
            aborts: matters.then(Aborts::so_far),
            began: connection.0.to_app.then(Instant::now),
            connection: Some(connection),
            writer: Some(writer),
            hold: expects.then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT))),
            scan: HeadScan::default(),
            interim: 0,
            method: parts.method.clone(),
            upgrades,
            request_keeps_alive: keeps_alive,
            upload_failed: false,
        })
    }

    /// Whether what was written may not have been read: then it is worth a closer look.
    fn may_be_unread(&self, kind: &SendErrorKind) -> bool {
        matches!(kind, SendErrorKind::Lost(_))
            && self.aborts.is_some()
            && self.is_one_piece()
            && self.interim == 0
            && self.written() <= unread::ONE_PIECE
            && self.connection.as_ref().is_some_and(|connection| connection.0.read.is_empty())
    }

    async fn is_unread(&mut self, kind: &SendErrorKind) -> bool {
        let (Some(connection), Some(aborts)) = (&mut self.connection, self.aborts) else { return false };
        let fin = is_fin(kind);
        // Boxed: nearly no request pays for this.
        Box::pin(async move { unread::was_reset(&mut connection.0.io).await && (fin || aborts.none_since().await) })
            .await
    }

    /// Tells the others (`unread.rs`) when the app had closed the connection before the request came. Nobody waits for that: the
    /// reset that shows it may be on its way.
    fn tell_if_closed(&mut self, kind: &SendErrorKind) {
        if let Some(began) = self.began
            && is_fin(kind)
            && self.written() > 0
            && let Some(connection) = self.connection.take()
        {
            // Its place is free already.
            let Open { io, .. } = *connection.0;
            unread::tell_if_closed(io, began);
        }
    }

    fn written(&self) -> u64 {
        self.connection.as_ref().map_or(u64::MAX, |connection| connection.0.queue.written() - self.written_before)
    }

    /// Whether what was written so far, be it the whole request or not, was one write.
    fn is_one_piece(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.0.queue.writes() - self.writes_before == 1)
    }

    fn release(&mut self) {
        self.hold = None;
        if let Some(writer) = &mut self.writer {
            writer.hold(false);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendErrorKind>> {
        if let Some(hold) = &mut self.hold
            && hold.as_mut().poll(cx).is_ready()
        {
            self.release();
        }
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(Err(SendErrorKind::Lost(io::ErrorKind::NotConnected.into())));
            };
            if let Some(writer) = &mut self.writer
                && !matches!(self.gather, Gather::No)
            {
                match writer.poll_gather(&mut connection.0.queue, cx) {
                    Poll::Pending if !self.gather.is_over(cx) => {}
                    Poll::Ready(Err(WriteError::Body(error))) => {
                        return Poll::Ready(Err(SendErrorKind::RequestBody(error)));
                    }
                    Poll::Pending | Poll::Ready(_) => self.gather = Gather::No,
                }
            }
            if let Some(writer) = &mut self.writer
                && matches!(self.gather, Gather::No)
            {
                match writer.poll(&mut connection.0.queue, &mut connection.0.io, cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => self.writer = None,
                    Poll::Ready(Err(WriteError::Body(error))) => {
                        // A reader of what was sent so far must not take it for the whole.
                        connection.0.io.abort_on_drop();
                        return Poll::Ready(Err(SendErrorKind::RequestBody(error)));
                    }
                    Poll::Ready(Err(WriteError::Io(error))) => {
                        // It may have answered before it stopped reading: the read below finds out.
                        tracing::debug!(%error, "a request could not be written in full");
                        self.writer = None;
                        self.upload_failed = true;
                    }
                }
            }
            let head = self
                .scan
                .take_response(&mut connection.0.read, &self.method, &connection.0.limits)
                .map_err(|error| SendErrorKind::Protocol(error.to_string().into()));
            match head? {
                Progress::Complete(head) if is_interim(&head, self.upgrades) => {
                    self.scan = HeadScan::default();
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Poll::Ready(Err(SendErrorKind::Protocol("a flood of interim responses".into())));
                    }
                    if head.status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Err(SendErrorKind::Protocol("101 to a request without Upgrade".into())));
                    }
                    if head.status == StatusCode::CONTINUE {
                        self.release();
                    }
                }
                Progress::Complete(head) => return Poll::Ready(Ok(head)),
                Progress::Incomplete => {
                    match ready!(poll_read(&mut connection.0.io, &mut connection.0.read, HEAD_READ, cx)) {
                        Ok(0) => return Poll::Ready(Err(SendErrorKind::Lost(io::ErrorKind::UnexpectedEof.into()))),
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(Err(SendErrorKind::Lost(error))),
                    }
                }
            }
        }
    }

    /// Makes the response out of its head and what is left to do.
    fn finish(self, head: ResponseHead, now: Instant, home: Option<&dyn Home>) -> Result<Box<Response>, SendErrorKind> {
        let tunnels = head.status == StatusCode::SWITCHING_PROTOCOLS
            || (self.method == Method::CONNECT && head.status.is_success());
        let Some(mut connection) = self.connection else {
            return Err(SendErrorKind::Lost(io::ErrorKind::NotConnected.into()));
        };
        connection.0.served += 1;
        let mut response = Box::new(http::Response::new(Body::empty()));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.headers;
        if let Some(reason) = head.reason
            && head.status.canonical_reason().map(str::as_bytes) != Some(reason.as_bytes())
        {
            response.extensions_mut().insert(reason);
        }
        if tunnels {
            if self.writer.is_some() {
                return Err(SendErrorKind::Protocol("the protocol changed in the middle of a request body".into()));
            }
            let Open { io, read, place, .. } = *connection.0;
            let guard = place.map(|place| Box::new(place) as Box<dyn Send>);
            response.extensions_mut().insert(Tunnel::guarded(io, read.freeze(), guard));
            return Ok(response);
        }
        let mut exchange = Exchange {
            connection: Some(connection),
            writer: self.writer,
            decoder: Decoder::new(head.body),
            length: if let BodyLength::Length(length) = head.body { Some(length) } else { None },
            // Still held: it answered without asking for the body, so the body stays unsent and the connection ends.
            keep_alive: head.keep_alive && self.request_keeps_alive && !self.upload_failed && self.hold.is_none(),
            eof: false,
            failed: None,
        };
        if self.hold.is_some() {
            exchange.writer = None;
        }
        *response.body_mut() = exchange.into_body(now, home);
        Ok(response)
    }
}

/// Whether another head follows. 101 is final where it was asked for.
fn is_interim(head: &ResponseHead, upgrades: bool) -> bool {
    head.status.is_informational() && !(upgrades && head.status == StatusCode::SWITCHING_PROTOCOLS)
}

/// An exchange whose response head has come: the response's body, and what is left of the request's.
struct Exchange {
    connection: Option<Connection>,
    writer: Option<Writer>,
    decoder: Decoder,
    /// Bytes still to come, where Content-Length said so.
    length: Option<u64>,
    keep_alive: bool,
    eof: bool,
    failed: Option<BodyError>,
}

impl Exchange {
    /// A body that is here already needs no exchange any more.
    fn into_body(mut self, now: Instant, home: Option<&dyn Home>) -> Body {
        if self.writer.is_none()
            && let Some(connection) = &mut self.connection
            && !connection.0.read.is_empty()
            && !self.decoder.is_end()
            && self.length.is_some_and(|length| length <= connection.0.read.len() as u64)
            && let Ok(Decoded::Data(data)) = self.decoder.decode(&mut connection.0.read, false)
        {
            self.settle_at(|| now, home);
            return Body::full(data);
        }
        self.settle_at(|| now, home);
        if self.decoder.is_end() && self.writer.is_none() {
            return Body::empty();
        }
        Body::from_source(self)
    }

    /// Carries the request on.
    fn push(&mut self, cx: &mut Context<'_>) {
        let (Some(writer), Some(connection)) = (&mut self.writer, &mut self.connection) else { return };
        match writer.poll(&mut connection.0.queue, &mut connection.0.io, cx) {
            Poll::Pending => return,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(WriteError::Io(error))) => {
                tracing::debug!(%error, "the server stopped reading a request it had answered");
                self.keep_alive = false;
            }
            Poll::Ready(Err(WriteError::Body(error))) => {
                connection.0.io.abort_on_drop();
                self.keep_alive = false;
                self.failed = Some(error);
            }
        }
        self.writer = None;
        self.settle();
    }

    /// Once both directions are over, lets the connection go: home, or closed.
    fn settle(&mut self) {
        self.settle_at(Instant::now, None);
    }

    fn settle_at(&mut self, now: impl FnOnce() -> Instant, home: Option<&dyn Home>) {
        if !self.decoder.is_end() {
            return;
        }
        if !self.keep_alive {
            // The server is done with this connection: nobody reads the rest of the request (RFC 9112 §9.6).
            self.writer = None;
        }
        if self.writer.is_some() {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        if self.keep_alive && !self.eof && connection.0.read.is_empty() {
            let found = if home.is_none() { connection.0.place.as_ref().and_then(Place::home) } else { None };
            if let Some(home) = home.or(found.as_deref()) {
                // Idle connections hold no buffers worth the name.
                connection.0.queue.release();
                spare::give(&mut connection.0.read);
                home.give_back(connection, now());
            }
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> PollFrame {
        loop {
            // Without a connection both directions are over.
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match self.decoder.decode(&mut connection.0.read, self.eof) {
                Ok(Decoded::Data(data)) => {
                    if let Some(length) = &mut self.length {
                        *length -= data.len() as u64;
                    }
                    self.settle();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.settle();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.settle();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {
                    match ready!(poll_read(&mut connection.0.io, &mut connection.0.read, BODY_READ, cx)) {
                        Ok(0) => self.eof = true,
                        Ok(_) => {}
                        Err(error) => return Poll::Ready(Some(Err(error.into()))),
                    }
                }
                Err(FramingError::Truncated) => return Poll::Ready(Some(Err(BodyError::Truncated))),
                Err(error) => return Poll::Ready(Some(Err(BodyError::Framing(error.to_string().into())))),
            }
        }
    }
}

impl Source for Exchange {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame {
        let this = self.get_mut();
        this.push(cx);
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        this.next(cx)
    }

    fn poll_progress(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.push(cx);
        if this.writer.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.decoder.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None if self.decoder.is_end() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
