//! Writes one message: its head, then its body in its framing, to a connection that may block at any byte.
//!
//! The same for requests (client) and responses (server). Small pieces are gathered and large ones written from where
//! they are, in one vectored write. While the connection blocks, whatever the body keeps going is carried on, so that
//! two directions that wait for each other's buffers cannot deadlock.
//!
//! A body that is not as long as declared is an error, and so is one that fails: the caller aborts the connection, since
//! HTTP/1 has no other way to tell the reader. Bound: [`HIGH_WATER`] and one frame.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::encode::{CHUNK_END, Framing, encode_chunk_head, encode_last_chunk};
use super::spare;
use crate::http::body::Body;
use crate::http::error::BodyError;

/// No further frame is taken from a body while this many bytes wait to be written.
pub(crate) const HIGH_WATER: usize = 64 * 1024;
/// Pieces shorter than this are copied together, which costs less than a vectored write; longer ones are written from where
/// they are.
const COPY_BELOW: usize = 2 * 1024;
/// Pieces in one vectored write.
const MAX_SLICES: usize = 16;

/// Bytes waiting to be written.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pieces: VecDeque<Bytes>,
    /// After all pieces.
    tail: BytesMut,
    len: usize,
    /// Bytes the connection has taken, ever, and in how many writes.
    written: u64,
    writes: u64,
}

impl Queue {
    /// Lets `write` append.
    pub(crate) fn write<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        if self.tail.capacity() == 0 {
            self.tail = spare::take();
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        self.len += self.tail.len() - before;
        result
    }

    fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.write(|tail| tail.extend_from_slice(&bytes));
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        self.len += bytes.len();
        self.pieces.push_back(bytes);
    }

    /// Gives back its room, if nothing waits in it.
    pub(crate) fn release(&mut self) {
        if self.len == 0 {
            self.pieces = VecDeque::new();
            spare::give(&mut self.tail);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes the connection has taken, ever.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// In how many writes it has taken them.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// Ready when all of it has been written and flushed.
    pub(crate) fn poll_flush<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut count = 0;
            for piece in self.pieces.iter().take(MAX_SLICES) {
                slices[count] = IoSlice::new(piece);
                count += 1;
            }
            if count < MAX_SLICES && !self.tail.is_empty() {
                slices[count] = IoSlice::new(&self.tail);
                count += 1;
            }
            // One piece, as most messages are: `send` costs the kernel less than `writev`.
            let written = if count > 1 && io.is_write_vectored() {
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?
            } else {
                ready!(Pin::new(&mut *io).poll_write(cx, &slices[0]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, mut by: usize) {
        self.written += by as u64;
        self.writes += 1;
        self.len -= by;
        while by > 0 {
            match self.pieces.front_mut() {
                Some(piece) if piece.len() > by => {
                    piece.advance(by);
                    return;
                }
                Some(piece) => {
                    by -= piece.len();
                    self.pieces.pop_front();
                }
                None if by == self.tail.len() => {
                    // From its start again, so that nothing has to be moved for the next message.
                    self.tail.clear();
                    return;
                }
                None => {
                    self.tail.advance(by);
                    return;
                }
            }
        }
    }
}

/// A body on its way out.
#[derive(Debug)]
pub(crate) struct Writer {
    body: Body,
    framing: Framing,
    /// Bytes still owed, with [`Framing::Length`].
    owed: u64,
    ended: bool,
    held: bool,
    /// The body's error, told when what came before it has been written.
    failed: Option<BodyError>,
    /// Responses: a reader that waits for them gets what there is. Requests: who sent one that failed is gone.
    flush_before_failing: bool,
}

/// Why a message was not written in full.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The connection failed.
    Io(io::Error),
    /// The body failed.
    Body(BodyError),
}

impl Writer {
    pub(crate) fn for_request(body: Body, framing: Framing) -> Self {
        Self::new(body, framing, false)
    }

    pub(crate) fn for_response(body: Body, framing: Framing) -> Self {
        Self::new(body, framing, true)
    }

    fn new(body: Body, framing: Framing, flush_before_failing: bool) -> Self {
        let owed = if let Framing::Length(length) = framing { length } else { 0 };
        // With no content there is nothing to take from the body; it is kept for what it keeps going.
        let ended = framing == Framing::None || (framing == Framing::Length(0) && body.is_end_stream());
        Self { body, framing, owed, ended, held: false, failed: None, flush_before_failing }
    }

    /// Holds the body back (`Expect: 100-continue`) or lets it go; what is queued is written either way.
    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// What the body keeps going besides itself.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.body.poll_progress(cx)
    }

    /// Takes what there is of the body, and writes nothing. Pending while more of it is to come.
    pub(crate) fn poll_gather(&mut self, queue: &mut Queue, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.ended && !self.held && queue.len < HIGH_WATER {
            let taken = match ready!(self.body.poll_next(cx)) {
                Some(frame) => self.take(queue, frame),
                None => self.end(queue, None),
            };
            match taken {
                Ok(()) => {}
                Err(error) if self.flush_before_failing => {
                    self.ended = true;
                    self.failed = Some(error);
                }
                Err(error) => return Poll::Ready(Err(WriteError::Body(error))),
            }
        }
        if self.held && !self.ended { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Ready when everything has been written and flushed.
    pub(crate) fn poll<IO: AsyncWrite + Unpin>(
        &mut self,
        queue: &mut Queue,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            let waiting = self.poll_gather(queue, cx)?.is_pending();
            match queue.poll_flush(io, cx).map_err(WriteError::Io)? {
                Poll::Ready(()) if self.ended => {
                    return Poll::Ready(self.failed.take().map_or(Ok(()), |error| Err(WriteError::Body(error))));
                }
                Poll::Ready(()) if waiting => return Poll::Pending,
                Poll::Ready(()) => {}
                Poll::Pending => {
                    // While this direction is blocked the other one must move on.
                    let _ = self.body.poll_progress(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn take(&mut self, queue: &mut Queue, frame: Result<Frame<Bytes>, BodyError>) -> Result<(), BodyError> {
        match frame?.into_data() {
            Ok(data) => self.take_data(queue, data),
            Err(frame) => self.end(queue, frame.into_trailers().ok()),
        }
    }

    fn take_data(&mut self, queue: &mut Queue, data: Bytes) -> Result<(), BodyError> {
        if !data.is_empty() {
            match self.framing {
                Framing::Length(_) => {
                    self.owed = self.owed.checked_sub(data.len() as u64).ok_or(BodyError::Length)?;
                    queue.push(data);
                }
                Framing::Chunked => {
                    queue.write(|tail| encode_chunk_head(tail, data.len() as u64));
                    queue.push(data);
                    queue.write(|tail| tail.extend_from_slice(CHUNK_END));
                }
                Framing::UntilClose => queue.push(data),
                Framing::None => {}
            }
        }
        // Known to be over: the end goes out with the last data, in one write.
        if self.body.is_end_stream() { self.end(queue, None) } else { Ok(()) }
    }

    fn end(&mut self, queue: &mut Queue, trailers: Option<HeaderMap>) -> Result<(), BodyError> {
        if self.owed > 0 {
            return Err(BodyError::Length);
        }
        if self.framing == Framing::Chunked {
            queue.write(|tail| encode_last_chunk(tail, trailers));
        }
        self.ended = true;
        Ok(())
    }
}
