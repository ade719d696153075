//! Moves bytes both ways between two streams until both have ended, each end told to the other side as it came: a
//! half-close as a half-close, an abrupt end as a RST. No idle limit (SEMANTICS.md §3): the kernel's keep-alive finds the
//! dead.
//!
//! An idle relay owns no buffer. Bytes are read into a scratch buffer of the thread's and written out in the same poll; only
//! what the other side does not take at once is kept, and nothing more is read in that direction until it has gone. A
//! direction reads 16 KiB at a time, and up to 256 KiB while it fills what it is given.
//!
//! Bound: one scratch buffer per thread, and per direction what one read brought; a poll moves at most [`TURN`] bytes
//! before it lets others run.

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::options;

const READ_MIN: usize = 16 * 1024;
const READ_MAX: usize = 256 * 1024;
/// Most bytes of one direction per poll.
const TURN: usize = 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that can end abruptly, in a way its peer can tell from a clean end.
pub trait Abort {
    /// Makes dropping the stream an abrupt end: a RST where there is TCP beneath.
    fn abort_on_drop(&self);
}

impl Abort for TcpStream {
    fn abort_on_drop(&self) {
        options::abort_on_drop(self);
    }
}

/// Without `close_notify` the peer knows as well (RFC 8446 §6.1); the RST tells it sooner.
impl<IO: Abort> Abort for tokio_rustls::client::TlsStream<IO> {
    fn abort_on_drop(&self) {
        self.get_ref().0.abort_on_drop();
    }
}

impl<IO: Abort> Abort for tokio_rustls::server::TlsStream<IO> {
    fn abort_on_drop(&self) {
        self.get_ref().0.abort_on_drop();
    }
}

impl<IO: Abort> Abort for tokio_rustls::TlsStream<IO> {
    fn abort_on_drop(&self) {
        self.get_ref().0.abort_on_drop();
    }
}

/// A pipe in memory only knows one kind of end.
impl Abort for DuplexStream {
    fn abort_on_drop(&self) {}
}

/// Bytes passed so far, to be read while the relay runs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Read from `a` and written to `b`.
    pub a_to_b: AtomicU64,
    /// Read from `b` and written to `a`.
    pub b_to_a: AtomicU64,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first argument.
    A,
    /// The second.
    B,
}

/// How a relay ended.
#[derive(Debug)]
pub enum Ended {
    /// Both sides ended what they sent, and the other side was told.
    Clean,
    /// Its time was up; both streams have been aborted.
    Cut,
    /// A stream failed; both have been aborted.
    Failed {
        /// Which.
        side: Side,
        /// How.
        error: io::Error,
    },
}

/// What a relay did.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes read from `a` and written to `b`.
    pub a_to_b: u64,
    /// Bytes read from `b` and written to `a`.
    pub b_to_a: u64,
    /// How it ended.
    pub ended: Ended,
}

/// Relays until both directions have ended or either stream fails. Dropping the future closes both streams.
pub async fn relay<A, B>(a: A, b: B, counters: Arc<Counters>) -> Relayed
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    relay_until(a, b, counters, pending()).await
}

/// As [`relay`], and until `cut` resolves: bytes that are not understood cannot be told to end, so both streams are then
/// aborted.
pub async fn relay_until<A, B>(mut a: A, mut b: B, counters: Arc<Counters>, cut: impl Future<Output = ()>) -> Relayed
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let mut cut = pin!(cut);
    let mut a_to_b = Direction::new(Side::A, Side::B);
    let mut b_to_a = Direction::new(Side::B, Side::A);
    let ended = poll_fn(|cx| {
        // Both are polled whatever the first says: each has to be woken for itself.
        let there = a_to_b.poll(cx, &mut a, &mut b, &counters.a_to_b);
        let back = b_to_a.poll(cx, &mut b, &mut a, &counters.b_to_a);
        match (there, back) {
            (Poll::Ready(Err((side, error))), _) | (_, Poll::Ready(Err((side, error)))) => {
                Poll::Ready(Ended::Failed { side, error })
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Clean),
            _ => cut.as_mut().poll(cx).map(|()| Ended::Cut),
        }
    })
    .await;
    if !matches!(ended, Ended::Clean) {
        a.abort_on_drop();
        b.abort_on_drop();
    }
    Relayed { a_to_b: a_to_b.moved, b_to_a: b_to_a.moved, ended }
}

struct Direction {
    from: Side,
    to: Side,
    /// What the other side has not taken yet; empty, and without capacity, most of the time.
    kept: Vec<u8>,
    /// How much of it has been taken.
    taken: usize,
    /// How much to read at a time.
    size: usize,
    moved: u64,
    unflushed: bool,
    state: State,
}

/// `Open ─EOF─► Closing ─shut down─► Closed`
#[derive(PartialEq, Eq)]
enum State {
    Open,
    Closing,
    Closed,
}

type Failed = (Side, io::Error);

impl Direction {
    fn new(from: Side, to: Side) -> Self {
        Self { from, to, kept: Vec::new(), taken: 0, size: READ_MIN, moved: 0, unflushed: false, state: State::Open }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut turn = 0;
        while self.state == State::Open {
            while self.taken < self.kept.len() {
                let written = Pin::new(&mut *writer).poll_write(cx, &self.kept[self.taken..]);
                let written = self.written(ready!(written), counter)?;
                self.taken += written;
                turn += written;
            }
            if !self.kept.is_empty() {
                (self.kept, self.taken) = (Vec::new(), 0);
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match with_scratch(self.size, |scratch| self.pass(cx, reader, writer, counter, scratch)) {
                Poll::Ready(passed) => turn += passed?,
                Poll::Pending => {
                    self.size = READ_MIN;
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

    /// Reads once and writes what can be written at once; keeps the rest. Returns how much was written.
    fn pass<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        counter: &AtomicU64,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(reader).poll_read(cx, &mut read)).map_err(|error| (self.from, error))?;
        let mut data = read.filled();
        if data.is_empty() {
            self.state = State::Closing;
            return Poll::Ready(Ok(0));
        }
        self.size = if data.len() == self.size { (self.size * 2).min(READ_MAX) } else { self.size };
        let mut passed = 0;
        while !data.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, data) {
                Poll::Ready(written) => {
                    let written = self.written(written, counter)?;
                    data = &data[written..];
                    passed += written;
                }
                Poll::Pending => {
                    // The other side is slower: what is kept for it stays small from now on.
                    self.size = READ_MIN;
                    self.kept = data.to_vec();
                    break;
                }
            }
        }
        Poll::Ready(Ok(passed))
    }

    fn written(&mut self, written: io::Result<usize>, counter: &AtomicU64) -> Result<usize, Failed> {
        match written {
            Ok(0) => Err((self.to, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                self.unflushed = true;
                self.moved += written as u64;
                counter.fetch_add(written as u64, Ordering::Relaxed);
                Ok(written)
            }
            Err(error) => Err((self.to, error)),
        }
    }
}

/// Lends `size` bytes of the thread's buffer. One inside another (a stream that is itself a relay) gets its own.
fn with_scratch<T>(size: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            work(&mut scratch[..size])
        }
        Err(_) => work(&mut vec![0; size]),
    })
}

#[cfg(test)]
mod tests;
