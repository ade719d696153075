//! One direction of a relay: read, hand on, and end as the other side ended.
//!
//! ```text
//!            ┌── copy: a thread's buffer, 16 KiB … 256 KiB ──┐
//!  reader ──►┤                                               ├──► writer
//!            └── splice: a thread's pipe, once it is long ───┘
//! ```
//!
//! Nothing is read before what was read has been taken, so a slow writer holds its reader back. Splicing needs a TCP socket
//! on either side with nothing around it ([`Abort::plain`]); setting it up costs more than a short stream does, hence
//! [`LONG`]. Whatever the kernel refuses to splice is copied, including what is in the pipe already.
//!
//! Bound: [`TURN`] bytes and a few system calls more per poll; memory as in `buffers.rs` or `pipes.rs`.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::pipes::{self, NoPipe, Pipe};
use super::{Abort, Side};
use crate::tcp::buffers::{self, Buffer};

/// Bytes of one direction after which it lets the other direction, and other tasks, run.
const TURN: usize = 256 * 1024;
/// A stream that has moved this much in one direction is worth a pipe.
pub(super) const LONG: u64 = 256 * 1024;

/// Which side failed, and how.
pub(super) type Failed = (Side, io::Error);

pub(super) struct Direction {
    from: Side,
    to: Side,
    held: Held,
    /// How much to read at a time, when copying.
    size: usize,
    /// Whether splicing may still be tried.
    splices: bool,
    moved: u64,
    unflushed: bool,
    state: State,
}

/// What has been read and the other side has not taken yet.
enum Held {
    Nothing,
    Bytes(Buffer),
    Piped(Pipe),
}

/// `Open ─EOF─► Closing ─shut down─► Closed`
#[derive(PartialEq, Eq)]
enum State {
    Open,
    Closing,
    Closed,
}

impl Direction {
    pub(super) fn new(from: Side, to: Side) -> Self {
        Self {
            from,
            to,
            held: Held::Nothing,
            size: buffers::SMALLEST,
            splices: true,
            moved: 0,
            unflushed: false,
            state: State::Open,
        }
    }

    /// Bytes the writer has taken.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Ready when the reader has ended and the writer has been told.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Abort + Unpin,
        W: AsyncWrite + Abort + Unpin,
    {
        let start = self.moved;
        while self.state == State::Open {
            ready!(self.poll_empty(cx, writer, counter))?;
            if self.moved - start >= TURN as u64 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_fill(cx, reader, writer) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => {
                    // Nothing to read for now: what a TLS stream still buffers has to go.
                    if self.unflushed {
                        let flushed = ready!(Pin::new(&mut *writer).poll_flush(cx));
                        flushed.map_err(|error| (self.to, error))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.state == State::Closing {
            match ready!(Pin::new(writer).poll_shutdown(cx)) {
                // Gone in the meantime: reading from it will say how.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Poll::Ready(Err((self.to, error))),
                _ => self.state = State::Closed,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. Ready with something held, or with the end.
    fn poll_fill<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &W) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Abort + Unpin,
        W: Abort,
    {
        if self.splices
            && self.moved >= LONG
            && let (Some(from), Some(_)) = (reader.plain(), writer.plain())
        {
            ready!(self.poll_splice(cx, from))?;
            if !matches!(self.held, Held::Nothing) || self.state != State::Open {
                return Poll::Ready(Ok(()));
            }
        }
        let mut buffer = Buffer::take(self.size);
        let mut read = ReadBuf::new(buffer.space());
        ready!(Pin::new(reader).poll_read(cx, &mut read)).map_err(|error| (self.from, error))?;
        let len = read.filled().len();
        if len == 0 {
            self.state = State::Closing;
            return Poll::Ready(Ok(()));
        }
        self.size = buffers::next_size(self.size, len);
        buffer.set_filled(len);
        self.held = Held::Bytes(buffer);
        Poll::Ready(Ok(()))
    }

    /// Splices once. Ready with a pipe held, with the end, or with nothing when this read has to be a copy.
    fn poll_splice(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<Result<(), Failed>> {
        loop {
            ready!(from.poll_read_ready(cx)).map_err(|error| (self.from, error))?;
            let mut pipe = match Pipe::take() {
                Ok(pipe) => pipe,
                Err(none) => {
                    self.splices = none == NoPipe::ForNow;
                    return Poll::Ready(Ok(()));
                }
            };
            match from.try_io(Interest::READABLE, || pipe.fill(from)) {
                Ok(0) => self.state = State::Closing,
                Ok(_) => self.held = Held::Piped(pipe),
                // The socket was ready no longer: the runtime knows now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if pipes::is_no_way(&error) => {
                    tracing::debug!(%error, "a stream cannot be spliced: it is copied");
                    self.splices = false;
                }
                Err(error) => return Poll::Ready(Err((self.from, error))),
            }
            return Poll::Ready(Ok(()));
        }
    }

    /// Writes what is held. Ready when nothing is.
    fn poll_empty<W>(&mut self, cx: &mut Context<'_>, writer: &mut W, counter: &AtomicU64) -> Poll<Result<(), Failed>>
    where
        W: AsyncWrite + Abort + Unpin,
    {
        loop {
            let written = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Bytes(buffer) if buffer.filled().is_empty() => {
                    self.held = Held::Nothing;
                    return Poll::Ready(Ok(()));
                }
                Held::Bytes(buffer) => match Pin::new(&mut *writer).poll_write(cx, buffer.filled()) {
                    Poll::Ready(written) => written.inspect(|&written| buffer.consume(written)),
                    Poll::Pending => {
                        self.shrink();
                        return Poll::Pending;
                    }
                },
                Held::Piped(pipe) if pipe.filled() == 0 => {
                    self.held = Held::Nothing;
                    return Poll::Ready(Ok(()));
                }
                Held::Piped(pipe) => {
                    let emptied = match writer.plain() {
                        Some(to) => {
                            ready!(to.poll_write_ready(cx)).map_err(|error| (self.to, error))?;
                            to.try_io(Interest::WRITABLE, || pipe.empty(to))
                        }
                        None => Err(io::ErrorKind::Unsupported.into()),
                    };
                    match emptied {
                        // The socket was ready no longer: the runtime knows now.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        Err(error) if pipes::is_no_way(&error) || error.kind() == io::ErrorKind::Unsupported => {
                            tracing::debug!(%error, "a stream cannot be spliced: it is copied");
                            self.splices = false;
                            self.unpipe().map_err(|error| (self.to, error))?;
                            continue;
                        }
                        emptied => emptied,
                    }
                }
            };
            match written {
                Ok(0) => return Poll::Ready(Err((self.to, io::ErrorKind::WriteZero.into()))),
                Ok(written) => {
                    // A socket keeps nothing back.
                    self.unflushed = writer.plain().is_none();
                    self.moved += written as u64;
                    counter.fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(error) => return Poll::Ready(Err((self.to, error))),
            }
        }
    }

    /// Out of the pipe into a buffer.
    fn unpipe(&mut self) -> io::Result<()> {
        if let Held::Piped(pipe) = &mut self.held {
            let mut buffer = Buffer::take(pipe.filled());
            let len = pipe.filled().min(buffer.space().len());
            let mut at = 0;
            while at < len {
                match pipe.read(&mut buffer.space()[at..len])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => at += read,
                }
            }
            buffer.set_filled(at);
            self.held = Held::Bytes(buffer);
        }
        Ok(())
    }

    fn shrink(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Bytes(buffer) => Held::Bytes(buffer.shrunk()),
            held => held,
        };
    }
}
