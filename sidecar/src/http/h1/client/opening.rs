//! The first half of an exchange: the request goes out, and its response's head is awaited.
//!
//! Interim responses: `100 Continue` lets the request body go; the rest (102, 103 …) are dropped, at most [`MAX_INTERIM`] of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::UPGRADE;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::Body as _;
use tokio::time::{Instant, Sleep};

use super::exchange::Exchange;
use super::{Connection, Home, Open};
use crate::http::body::Body;
use crate::http::error::{SendError, SendErrorKind};
use crate::http::h1::encode::{self, Framing, encode_request};
use crate::http::h1::reader::{HEAD_READ, poll_read};
use crate::http::h1::unread::{self, Aborts, Gather};
use crate::http::h1::writer::{WriteError, Writer};
use crate::http::h1::{self, HeadScan, Progress, ResponseHead};
use crate::http::h2::client::CONTINUE_WAIT;
use crate::http::{Response, Tunnel, hygiene};

/// Interim responses before the real one; more are a flood.
const MAX_INTERIM: u32 = 16;

/// An exchange without a response head so far.
pub(super) struct Opening {
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
    pub(super) fn new(mut connection: Connection, parts: &Parts, body: Body) -> Result<Self, SendErrorKind> {
        let declared = h1::length::content_length(&parts.headers)
            .map_err(|error| SendErrorKind::Unsendable(error.to_string().into()))?
            .or_else(|| body.exact_len().filter(|length| *length > 0));
        let upgrades = hygiene::has(&parts.headers, &UPGRADE);
        let expects = !body.is_end_stream() && hygiene::expects_continue(parts.version, &parts.headers);
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
        let short = declared
            .is_some_and(|length| (connection.0.queue.len() as u64).saturating_add(length) <= unread::ONE_PIECE);
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

    /// It came to nothing: whether the server did anything of it.
    pub(super) async fn give_up(mut self, kind: SendErrorKind) -> SendError {
        let unread = self.written() == 0 || (self.may_be_unread(&kind) && self.is_unread(&kind).await);
        if !unread && self.aborts.is_some() {
            let (fin, one_piece, written) = (is_fin(&kind), self.is_one_piece(), self.written());
            tracing::debug!(fin, one_piece, written, "the app is lost with a request that it may have read");
        }
        self.tell_if_closed(&kind);
        if unread { SendError::not_processed(kind) } else { SendError::unknown(kind) }
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

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendErrorKind>> {
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
    pub(super) fn finish(
        self,
        head: ResponseHead,
        now: Instant,
        home: Option<&dyn Home>,
    ) -> Result<Box<Response>, SendErrorKind> {
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
        // Still held: it answered without asking for the body, so the body stays unsent and the connection ends.
        let writer = if self.hold.is_some() { None } else { self.writer };
        let keep_alive = head.keep_alive && self.request_keeps_alive && !self.upload_failed && self.hold.is_none();
        *response.body_mut() = Exchange::new(connection, writer, head.body, keep_alive).into_body(now, home);
        Ok(response)
    }
}

/// Whether another head follows. 101 is final where it was asked for.
fn is_interim(head: &ResponseHead, upgrades: bool) -> bool {
    head.status.is_informational() && !(upgrades && head.status == StatusCode::SWITCHING_PROTOCOLS)
}
