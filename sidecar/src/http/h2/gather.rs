//! Writes of one poll of an HTTP/2 connection, gathered into one.
//!
//! `h2` writes and flushes for each DATA frame of more than a few hundred bytes. Behind TLS each of those is a record and
//! a `send`, which wakes the receiver, who reads one record. So what `h2` writes is gathered here, its flushes do nothing,
//! and whoever polls the connection empties the gathering afterwards, once for all streams that had something to say:
//!
//! ```text
//! loop { connection.poll(cx) → Gathered (h2's end) ; Outlet::poll(cx) → the connection }
//! ```
//!
//! Nothing waits longer for it than until the end of the poll it was written in. Bound: [`CAPACITY`] for a connection that
//! does not take what it is sent; none for the others, for workers lend the buffer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered before they are written all the same: four TLS records.
const CAPACITY: usize = 64 * 1024;

thread_local! {
    /// A worker polls one connection at a time, and nearly always all is written when that ends.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

struct Gather<T> {
    io: T,
    /// Written by `h2`; from `at` on not to `io` yet. Without capacity when empty.
    buffer: Vec<u8>,
    at: usize,
    /// Somebody empties it. Before that (the preface), writes go through.
    gathers: bool,
}

/// The end that `h2` has.
pub(super) struct Gathered<T>(Arc<Mutex<Gather<T>>>);

/// The end of whoever polls the connection.
pub(super) struct Outlet<T>(Arc<Mutex<Gather<T>>>);

/// Both ends of `io`. Writes go through until [`Outlet::open`].
pub(super) fn gather<T>(io: T) -> (Gathered<T>, Outlet<T>) {
    let shared = Arc::new(Mutex::new(Gather { io, buffer: Vec::new(), at: 0, gathers: false }));
    (Gathered(Arc::clone(&shared)), Outlet(shared))
}

impl<T: AsyncWrite + Unpin> Outlet<T> {
    /// From here on writes are gathered: [`poll`](Self::poll) must follow every poll of the connection.
    pub(super) fn open(&self) {
        self.0.lock().gathers = true;
    }

    /// The connection itself, once `h2` is done with it; `None` before.
    pub(super) fn into_io(self) -> Option<T> {
        Arc::into_inner(self.0).map(|gather| gather.into_inner().io)
    }

    /// Writes what was gathered. Pending: the task is woken when there is room again.
    ///
    /// # Errors
    /// The connection's. It will not carry another byte.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_empty(cx)
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    fn poll_empty(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.at < self.buffer.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.at += written,
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.at = 0;
        self.buffer.clear();
        SPARE.set(std::mem::take(&mut self.buffer));
        Poll::Ready(Ok(()))
    }

    /// Takes what fits, or is pending when nothing does.
    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.buffer.len() == CAPACITY {
            ready!(self.poll_empty(cx))?;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = SPARE.take();
            self.buffer.reserve_exact(CAPACITY);
        }
        let before = self.buffer.len();
        for buf in bufs {
            let fits = buf.len().min(CAPACITY - self.buffer.len());
            self.buffer.extend_from_slice(&buf[..fits]);
        }
        Poll::Ready(Ok(self.buffer.len() - before))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gather = self.0.lock();
        if gather.gathers { gather.poll_take(cx, bufs) } else { Pin::new(&mut gather.io).poll_write_vectored(cx, bufs) }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        if gather.gathers { Poll::Ready(Ok(())) } else { Pin::new(&mut gather.io).poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gather = self.0.lock();
        ready!(gather.poll_empty(cx))?;
        Pin::new(&mut gather.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Keeps each write apart.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.push(b"end".to_vec());
            Poll::Ready(Ok(()))
        }
    }

    fn written(outlet: &Outlet<Writes>) -> Vec<Vec<u8>> {
        outlet.0.lock().io.0.clone()
    }

    #[tokio::test]
    async fn what_is_written_in_one_poll_leaves_at_its_end_at_once() {
        let (mut h2, outlet) = gather(Writes::default());
        h2.write_all(b"preface").await.unwrap();
        assert_eq!(written(&outlet), [b"preface"], "nobody empties it yet");
        outlet.open();
        for part in [&b"head"[..], b"data", b"data"] {
            h2.write_all(part).await.unwrap();
            h2.flush().await.unwrap();
        }
        assert_eq!(written(&outlet).len(), 1);
        std::future::poll_fn(|cx| outlet.poll(cx)).await.unwrap();
        assert_eq!(written(&outlet)[1..], [b"headdatadata"]);
        std::future::poll_fn(|cx| outlet.poll(cx)).await.unwrap();
        assert_eq!(written(&outlet).len(), 2, "nothing is nothing to write");
        assert_eq!(outlet.0.lock().buffer.capacity(), 0, "an idle connection holds no buffer");
        h2.write_all(b"goaway").await.unwrap();
        h2.shutdown().await.unwrap();
        assert_eq!(written(&outlet)[2..], [&b"goaway"[..], b"end"], "the end is behind what was written");
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_holds_so_much_and_then_gets_all_in_order() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut h2, outlet) = gather(near);
        outlet.open();
        let all: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
        let mut cx = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while let Poll::Ready(taken) = Pin::new(&mut h2).poll_write(&mut cx, &all[sent..(sent + 777).min(all.len())]) {
            sent += taken.unwrap();
            let _ = outlet.poll(&mut cx);
        }
        assert!((CAPACITY..=CAPACITY + 1000).contains(&sent), "{sent} taken");
        let rest = &all[sent..];
        let write = async {
            for part in rest.chunks(5_000) {
                h2.write_all(part).await.unwrap();
            }
            std::future::poll_fn(|cx| outlet.poll(cx)).await.unwrap();
        };
        let mut got = vec![0; all.len()];
        let (_, read) = tokio::join!(write, far.read_exact(&mut got));
        read.unwrap();
        assert!(got == all, "in order and whole");
    }

    #[tokio::test]
    async fn a_connection_that_is_lost_says_so() {
        let (near, far) = tokio::io::duplex(1000);
        let (mut h2, outlet) = gather(near);
        outlet.open();
        drop(far);
        h2.write_all(b"to nobody").await.unwrap();
        std::future::poll_fn(|cx| outlet.poll(cx)).await.unwrap_err();
    }
}
