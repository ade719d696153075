//! One request and its response on a downstream HTTP/1 connection. How it ends:
//!
//! | the response | the request's body | then |
//! |---|---|---|
//! | complete | complete | the next request, or close if either side asked |
//! | complete | still being carried up | both go on; then as above |
//! | complete | unread, and its reader gone | a short rest is read and dropped; otherwise close, lingering |
//! | failed midway | any | abort with RST: HTTP/1 has no other way to say "this is not all" |
//!
//! A client that closes its side before its request is complete is gone, which cancels the handler. One that does so
//! after it may be gone or may have half-closed, which TCP does not tell: it is served on while it takes what is written,
//! and counts as gone when nothing was written for [`HALF_CLOSED`].

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version, response};
use http_body::{Body as _, Frame};
use tokio::time::Instant;

use super::wire::Wire;
use crate::http::body::{Body, Sender};
use crate::http::error::BodyError;
use crate::http::h1::encode::{self, Framing, encode_response};
use crate::http::h1::length::content_length;
use crate::http::h1::reader::{BODY_READ, HEAD_READ, poll_read};
use crate::http::h1::writer::{WriteError, Writer};
use crate::http::h1::{BodyLength, Decoded, Decoder, FramingError, RequestHead, give_map};
use crate::http::io::Io;
use crate::http::server::shared::{ServerSettings, guarded, own_answer, panic_answer, wants_grpc};
use crate::http::{Answer, Handler, Request, Reset, Response, Tunnel, TunnelEnd, hygiene};
use crate::reason::Reason;

/// What is read ahead of any demand, to notice that the client went away; pipelined requests wait in it too.
const READ_AHEAD: usize = 16 * 1024;
/// A rest of a request body that nobody wants is read to its end, to save the connection, if it is at most this long.
const MAX_DISCARD: u64 = 64 * 1024;
/// See the module's text.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// What follows an exchange.
pub(super) enum Next {
    Request,
    Close {
        linger: bool,
    },
    /// The client is.
    Gone,
    Abort(BodyError),
    Tunnel(TunnelEnd),
}

pub(super) struct Exchange {
    method: Method,
    version: Version,
    grpc: bool,
    keep_alive: bool,
    decoder: Decoder,
    /// Bytes of the request body still to come, where Content-Length said so.
    left: Option<u64>,
    /// The request body's reader, while there is one and there is more to come.
    sender: Option<Sender>,
    /// The client waits for `100 Continue` and was not told.
    expects: bool,
    /// The request body's framing broke: nothing more can be read from this connection.
    broken: bool,
    response: Option<Writer>,
    sent: bool,
    tunnel: Option<TunnelEnd>,
    /// When and how far writing last moved, once the client has closed its side.
    moved: Option<(Instant, u64)>,
    discard_by: Option<Instant>,
}

enum Fed {
    /// Something was handed over: poll its reader again.
    Some,
    /// Nothing to do now.
    Nothing,
    /// The client is gone.
    Gone,
}

impl Exchange {
    pub(super) fn new(head: &RequestHead) -> Self {
        let decoder = Decoder::new(head.body);
        Self {
            method: head.method.clone(),
            version: head.version,
            grpc: wants_grpc(&head.headers),
            keep_alive: head.keep_alive,
            expects: head.expect_continue && !decoder.is_end(),
            decoder,
            left: if let BodyLength::Length(length) = head.body { Some(length) } else { None },
            sender: None,
            broken: false,
            response: None,
            sent: false,
            tunnel: None,
            moved: None,
            discard_by: None,
        }
    }

    /// The request's body, fed from here. Taken once, before the handler runs.
    pub(super) fn body(&mut self) -> Body {
        if self.decoder.is_end() {
            return Body::empty();
        }
        let (sender, body) = Body::channel(self.left);
        self.sender = Some(sender);
        body
    }

    /// Runs the handler. `None`: the client is gone.
    pub(super) fn poll_answer<IO: Io, H: Handler>(
        &mut self,
        wire: &mut Wire<IO>,
        handler: &H,
        mut handling: Pin<&mut impl Future<Output = Answer>>,
        settings: &ServerSettings,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer>> {
        loop {
            match guarded(|| handling.as_mut().poll(cx)) {
                Ok(Poll::Ready(answer)) => return Poll::Ready(Some(answer)),
                Ok(Poll::Pending) => {}
                Err(panic) => {
                    let answer = panic_answer(handler, &*panic, self.grpc, settings);
                    return Poll::Ready(Some(answer.into()));
                }
            }
            match self.feed(wire, cx) {
                Fed::Some => {}
                Fed::Nothing => return Poll::Pending,
                Fed::Gone => return Poll::Ready(None),
            }
        }
    }

    /// Settles how the response is framed and what becomes of the connection, and queues its head.
    pub(super) fn respond<IO: Io>(
        &mut self,
        wire: &mut Wire<IO>,
        answer: Answer,
        settings: &ServerSettings,
        draining: bool,
    ) {
        let response = match answer {
            Answer::Response(response) => response,
            Answer::Reset(reset) => {
                self.keep_alive = false;
                Box::new(not_answered(reset, settings))
            }
        };
        let tunnel = response.extensions().get::<Tunnel>().and_then(Tunnel::take);
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let connects = self.method == Method::CONNECT && response.status().is_success();
        let response = if tunnel.is_none() && (connects || response.status().is_informational()) {
            tracing::error!(status = %response.status(), "a handler answered without the tunnel it announced: please report this");
            Box::new(own_answer(Reason::Internal, Reason::Internal.status(), self.grpc, settings))
        } else {
            response
        };
        let (mut parts, body) = response.into_parts();
        if let Some(mut tunnel) = tunnel
            && (switches || connects)
        {
            // The body has nothing to say any more, but what rides in it (load, limits) lasts as long as the tunnel.
            tunnel.guard = Some(Box::new((tunnel.guard.take(), body)));
            self.tunnel = Some(tunnel);
            parts.version = Version::HTTP_11;
            let become_ = if switches { encode::Connection::Upgrade } else { encode::Connection::KeepAlive };
            wire.queue.write(|dst| encode_response(dst, &parts, &self.method, Framing::None, become_));
            self.response = Some(Writer::for_response(Body::empty(), Framing::None));
            return;
        }

        if self.sender.as_ref().is_some_and(Sender::is_unwanted) {
            self.sender = None;
        }
        // Dropping what is here already may well complete the request.
        while self.sender.is_none() && matches!(self.discard(wire), Some(true)) {}
        let request_will_end = self.decoder.is_end()
            || (!self.expects
                && !self.broken
                && (self.sender.is_some() || self.left.is_some_and(|left| left <= MAX_DISCARD)));
        // The real response takes the place of `100 Continue`: an interim one inside it would be content.
        self.expects = false;
        let asked_to_close = hygiene::lists(&parts.headers, &CONNECTION, "close");
        self.keep_alive &= request_will_end && !draining && !asked_to_close && !wire.eof;
        // What follows a CONNECT may have been meant for the tunnel that there is none of: it is not read as a request.
        self.keep_alive &= self.method != Method::CONNECT;

        parts.version = self.version;
        let length = declared_length(&parts, &body);
        let framing = Framing::for_response(&self.method, parts.status, self.version, length, body.is_end_stream());
        self.keep_alive &= framing != Framing::UntilClose;
        let become_ = if self.keep_alive { encode::Connection::KeepAlive } else { encode::Connection::Close };
        wire.queue.write(|dst| encode_response(dst, &parts, &self.method, framing, become_));
        give_map(parts.headers);
        self.response = Some(Writer::for_response(body, framing));
    }

    /// Writes the response, and goes on with the request while anybody wants it.
    pub(super) fn poll_response<IO: Io>(
        &mut self,
        wire: &mut Wire<IO>,
        settings: &ServerSettings,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        loop {
            if let Some(writer) = &mut self.response
                && !self.sent
            {
                match guarded(|| writer.poll(&mut wire.queue, &mut wire.io, cx)) {
                    Ok(Poll::Pending) => {}
                    Ok(Poll::Ready(Ok(()))) => {
                        self.sent = true;
                        if let Some(tunnel) = self.tunnel.take() {
                            return Poll::Ready(Next::Tunnel(tunnel));
                        }
                    }
                    Ok(Poll::Ready(Err(WriteError::Io(_)))) => return Poll::Ready(Next::Gone),
                    Ok(Poll::Ready(Err(WriteError::Body(error)))) => return Poll::Ready(Next::Abort(error)),
                    Err(_) => return Poll::Ready(Next::Abort(BodyError::Panicked)),
                }
            }
            if self.is_over(cx) {
                return self.poll_end(wire, settings, cx);
            }
            match self.feed(wire, cx) {
                Fed::Some => continue,
                Fed::Nothing => {}
                Fed::Gone => return Poll::Ready(Next::Gone),
            }
            if !self.sent {
                return Poll::Pending;
            }
            // The response is complete. The request may still be on its way to a server that wants the rest of it.
            if let Some(writer) = &mut self.response {
                match guarded(|| writer.poll_progress(cx)) {
                    Ok(progress) => ready!(progress),
                    Err(_) => self.keep_alive = false,
                }
                self.response = None;
                continue;
            }
            return self.poll_end(wire, settings, cx);
        }
    }

    /// Whether both messages are complete and nothing is kept going, as mostly when the response has been written: what the
    /// client says from here on is read as its next request.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.sent || !self.decoder.is_end() || self.sender.is_some() {
            return false;
        }
        let Some(writer) = &mut self.response else { return true };
        match guarded(|| writer.poll_progress(cx)) {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(())) => {}
            Err(_) => self.keep_alive = false,
        }
        self.response = None;
        true
    }

    /// Whether a response has begun that is not complete.
    pub(super) fn is_cut(&self) -> bool {
        self.response.is_some() && !self.sent
    }

    /// After both the response and what it kept going are over.
    fn poll_end<IO: Io>(&mut self, wire: &mut Wire<IO>, settings: &ServerSettings, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if self.decoder.is_end() {
                let more = !wire.read.is_empty();
                return Poll::Ready(if self.keep_alive { Next::Request } else { Next::Close { linger: more } });
            }
            if self.broken || !self.keep_alive && self.sender.is_none() {
                return Poll::Ready(Next::Close { linger: true });
            }
            if self.sender.is_some() {
                // Somebody else reads it, and `feed` will be woken.
                return Poll::Pending;
            }
            match self.discard(wire) {
                Some(true) => {}
                // The chunk that says so was all that was missing.
                Some(false) if self.decoder.is_end() => {}
                Some(false) => {
                    let by = *self.discard_by.get_or_insert_with(|| Instant::now() + settings.linger);
                    if self.left.is_none_or(|left| left > MAX_DISCARD) || wire.timer.poll_at(cx, by).is_ready() {
                        return Poll::Ready(Next::Close { linger: true });
                    }
                    match ready!(poll_read(&mut wire.io, &mut wire.read, BODY_READ, cx)) {
                        Ok(0) | Err(_) => return Poll::Ready(Next::Gone),
                        Ok(_) => {}
                    }
                }
                None => return Poll::Ready(Next::Close { linger: true }),
            }
        }
    }

    /// Takes a piece of the request body off the buffer and drops it. `Some(false)`: nothing there. `None`: broken.
    fn discard<IO: Io>(&mut self, wire: &mut Wire<IO>) -> Option<bool> {
        if self.broken {
            return None;
        }
        match self.decoder.decode(&mut wire.read, false) {
            Ok(Decoded::Data(data)) => {
                self.expects = false;
                if let Some(left) = &mut self.left {
                    *left -= data.len() as u64;
                }
                Some(true)
            }
            Ok(Decoded::Trailers(_)) => Some(true),
            Ok(Decoded::End | Decoded::NeedMore) => Some(false),
            Err(_) => {
                self.broken = true;
                self.keep_alive = false;
                None
            }
        }
    }

    /// Hands the request body's reader what it asked for, and notices when the client goes away.
    fn feed<IO: Io>(&mut self, wire: &mut Wire<IO>, cx: &mut Context<'_>) -> Fed {
        loop {
            let Some(mut sender) = self.sender.take() else { return self.read_ahead(wire, cx) };
            match sender.poll_wanted(cx) {
                // Its reader is gone; the rest is for `discard`.
                Poll::Ready(Err(_)) => continue,
                Poll::Pending => {
                    self.sender = Some(sender);
                    return self.read_ahead(wire, cx);
                }
                Poll::Ready(Ok(())) => {}
            }
            match self.decoder.decode(&mut wire.read, wire.eof) {
                Ok(Decoded::Data(data)) => {
                    self.expects = false;
                    if let Some(left) = &mut self.left {
                        *left -= data.len() as u64;
                    }
                    if self.decoder.is_end() {
                        sender.send_last(data);
                    } else {
                        sender.send(Frame::data(data));
                        self.sender = Some(sender);
                    }
                    return Fed::Some;
                }
                Ok(Decoded::Trailers(trailers)) => {
                    sender.send(Frame::trailers(trailers));
                    return Fed::Some;
                }
                Ok(Decoded::End) => {
                    sender.end();
                    return Fed::Some;
                }
                Err(error) => {
                    self.broken = true;
                    self.keep_alive = false;
                    let gone = matches!(error, FramingError::Truncated);
                    sender.fail(if gone { BodyError::Truncated } else { BodyError::Framing(error.to_string().into()) });
                    return if gone { Fed::Gone } else { Fed::Some };
                }
                Ok(Decoded::NeedMore) => {
                    self.sender = Some(sender);
                    if std::mem::replace(&mut self.expects, false) {
                        wire.queue.write(|dst| dst.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
                    }
                    if !wire.queue.is_empty()
                        && let Poll::Ready(Err(_)) = wire.queue.poll_flush(&mut wire.io, cx)
                    {
                        return Fed::Gone;
                    }
                    match poll_read(&mut wire.io, &mut wire.read, BODY_READ, cx) {
                        Poll::Pending => return Fed::Nothing,
                        Poll::Ready(Ok(0)) => wire.eof = true,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(_)) => return Fed::Gone,
                    }
                }
            }
        }
    }

    /// Without demand: reads a little, for the sake of noticing the end.
    fn read_ahead<IO: Io>(&mut self, wire: &mut Wire<IO>, cx: &mut Context<'_>) -> Fed {
        while !wire.eof && wire.read.len() < READ_AHEAD {
            match poll_read(&mut wire.io, &mut wire.read, HEAD_READ, cx) {
                Poll::Pending => return Fed::Nothing,
                Poll::Ready(Ok(0)) => wire.eof = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Fed::Gone,
            }
        }
        if !wire.eof || (self.sent && self.response.is_none()) {
            return Fed::Nothing;
        }
        // What it sent of its request may still be here in full; if not, the reader finds it truncated.
        let written = wire.queue.written();
        let since = match self.moved {
            Some((since, before)) if before == written => since,
            _ => {
                let now = Instant::now();
                self.moved = Some((now, written));
                now
            }
        };
        if wire.timer.poll_at(cx, since + HALF_CLOSED).is_ready() { Fed::Gone } else { Fed::Nothing }
    }
}

/// What the handler gets.
pub(super) fn request(head: RequestHead, body: Body) -> Request {
    let mut request = http::Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    if let Some(upgrade) = head.upgrade {
        request.extensions_mut().insert(upgrade);
    }
    request
}

/// What a response says of its length, or what its body knows.
fn declared_length(parts: &response::Parts, body: &Body) -> Option<u64> {
    match content_length(&parts.headers) {
        Ok(Some(length)) => Some(length),
        // An unreadable length is not repeated: the body is framed by what it is.
        Ok(None) | Err(_) => body.exact_len(),
    }
}

/// HTTP/1 has no reset: the nearest to it.
fn not_answered(reset: Reset, settings: &ServerSettings) -> Response {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    if reset == Reset::Refused && settings.mesh_peer {
        let name = HeaderName::from_static(weft_proto::headers::NOT_PROCESSED);
        response.headers_mut().insert(name, HeaderValue::from_static("1"));
    }
    response
}
