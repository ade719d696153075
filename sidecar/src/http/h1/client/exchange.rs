//! The second half of an exchange: the response's body, which owns the connection and carries on what is left of the request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::{Connection, Home, Place};
use crate::http::body::{Body, PollFrame, Source};
use crate::http::error::BodyError;
use crate::http::h1::reader::{poll_read, room_for};
use crate::http::h1::writer::{WriteError, Writer};
use crate::http::h1::{BodyLength, Decoded, Decoder, FramingError, spare};

/// An exchange whose response head has come: the response's body, and what is left of the request's.
pub(super) struct Exchange {
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
    /// `writer`: what is left of the request. `keep_alive`: both sides want the connection kept.
    pub(super) fn new(connection: Connection, writer: Option<Writer>, body: BodyLength, keep_alive: bool) -> Self {
        Self {
            connection: Some(connection),
            writer,
            decoder: Decoder::new(body),
            length: if let BodyLength::Length(length) = body { Some(length) } else { None },
            keep_alive,
            eof: false,
            failed: None,
        }
    }

    /// A body that is here already needs no exchange any more.
    pub(super) fn into_body(mut self, now: Instant, home: Option<&dyn Home>) -> Body {
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
                    match ready!(poll_read(&mut connection.0.io, &mut connection.0.read, room_for(self.length), cx)) {
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
