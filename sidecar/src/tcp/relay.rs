//! Moves bytes both ways between two streams until both have ended, each end told to the other side as it came: a
//! half-close as a half-close, an abrupt end as a RST. No idle limit (SEMANTICS.md §3) but where a policy asks for one
//! (`idle.rs`): the kernel's keep-alive finds the dead.
//!
//! `relay/direction.rs` is one of the two ways; `buffers.rs` lends it memory while it copies and `relay/pipes.rs` a
//! pipe while it splices. An idle relay owns neither.
//!
//! Both ways share one task and its budget, so they take turns in going first: a busy way leaves the other its half.
//!
//! Bound: per way what one read or splice brought, 256 KiB at most; a poll moves some 256 KiB each way before it lets
//! others run.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use self::direction::Direction;
use super::options;

#[cfg(test)]
mod bulk;
mod direction;
mod pipes;

/// A stream that can end abruptly, in a way its peer can tell from a clean end.
pub trait Abort {
    /// Makes dropping the stream an abrupt end: a RST where there is TCP beneath.
    fn abort_on_drop(&self);

    /// The socket, while its bytes are the stream's bytes: nothing encrypted, nothing read ahead. They may then be moved
    /// past the stream, in the kernel.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl Abort for TcpStream {
    fn abort_on_drop(&self) {
        options::abort_on_drop(self);
    }

    fn plain(&self) -> Option<&TcpStream> {
        Some(self)
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
    // Asked last, when a busy pair may have used up what a task may do: without a bound of its own it would never be heard.
    let mut cut = pin!(tokio::task::coop::unconstrained(cut));
    let mut a_to_b = Direction::new(Side::A, Side::B);
    let mut b_to_a = Direction::new(Side::B, Side::A);
    let mut a_first = false;
    let ended = poll_fn(|cx| {
        a_first = !a_first;
        // Both are polled whatever the first says: each has to be woken for itself.
        let (there, back) = if a_first {
            let there = a_to_b.poll(cx, &mut a, &mut b, &counters.a_to_b);
            (there, b_to_a.poll(cx, &mut b, &mut a, &counters.b_to_a))
        } else {
            let back = b_to_a.poll(cx, &mut b, &mut a, &counters.b_to_a);
            (a_to_b.poll(cx, &mut a, &mut b, &counters.a_to_b), back)
        };
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
    Relayed { a_to_b: a_to_b.moved(), b_to_a: b_to_a.moved(), ended }
}

#[cfg(test)]
mod tests;
