//! Reads wide from a connection whose user reads narrow.
//!
//! rustls asks for at most one record, often for 4 KiB of one, and each read of a socket costs a system call and mostly
//! an acknowledgement that goes through the whole network stack: on a bulk stream that is more than the cryptography.
//! Here a stream that keeps filling what it is given is read ahead, into a buffer of the thread's, and handed on from
//! there. The copy is the price, a tenth of what it saves.
//!
//! A quiet stream is read as before, straight into its user's buffer, and owns nothing here. Where that buffer is what others
//! left of it, one read in three or so then brings only a part of what is there: such a user asks for wide ones always
//! ([`Wide::poll_wide`]).
//!
//! Bound: [`MOST`] bytes per stream ([`FIRST`] by `poll_wide`), only while its user has not taken what has been read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Abort;
use super::buffers::{self, Buffer};

/// The first wide read: several records.
const FIRST: usize = 64 * 1024;
/// Most bytes read at once.
const MOST: usize = buffers::LARGEST;

/// A stream that is read wide while it is hot.
#[derive(Debug)]
pub struct Wide<IO> {
    io: IO,
    ahead: Option<Buffer>,
    /// How much to read; 0 while it is not hot.
    size: usize,
}

impl<IO> Wide<IO> {
    /// Around `io`, of which nothing has been read ahead.
    pub fn new(io: IO) -> Self {
        Self { io, ahead: None, size: 0 }
    }

    /// The stream behind.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Whether bytes have been read that nobody has taken yet.
    pub fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// The stream behind. What has been read ahead must be taken first.
    pub(crate) fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(ahead) = &mut self.ahead else { return false };
        let filled = ahead.filled();
        let len = filled.len().min(buf.remaining());
        buf.put_slice(&filled[..len]);
        ahead.consume(len);
        if ahead.filled().is_empty() {
            self.ahead = None;
        }
        true
    }
}

impl<IO: AsyncRead + Unpin> Wide<IO> {
    /// As `poll_read`, but wide also while the stream is quiet: [`FIRST`] bytes.
    pub(crate) fn poll_wide(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_ahead() {
            // As much of the task's budget as a read: whoever reads in small parts lets others run as often as without this.
            let budget = ready!(tokio::task::coop::poll_proceed(cx));
            self.hand_on(buf);
            budget.made_progress();
            return Poll::Ready(Ok(()));
        }
        self.poll_ahead(cx, buf, FIRST).map_ok(drop)
    }

    /// Reads up to `size` bytes, hands on what fits, and says how many there were.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, size: usize) -> Poll<io::Result<usize>> {
        let mut buffer = Buffer::take(size);
        let mut read = ReadBuf::new(buffer.space());
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        let len = read.filled().len();
        buffer.set_filled(len);
        if len > 0 {
            self.ahead = Some(buffer);
            self.hand_on(buf);
        }
        Poll::Ready(Ok(len))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wide<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.hand_on(buf) {
            return Poll::Ready(Ok(()));
        }
        let room = buf.remaining();
        if this.size <= room {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            // Cold, or its user reads as wide: it gets hot when there was at least what was asked for.
            if room > 0 && buf.filled().len() - before == room {
                this.size = FIRST.max(this.size);
            }
            return Poll::Ready(Ok(()));
        }
        let len = ready!(this.poll_ahead(cx, buf, this.size))?;
        this.size = if len <= room { 0 } else { buffers::next_size(this.size, len).min(MOST) };
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wide<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Abort> Abort for Wide<IO> {
    fn abort_on_drop(&self) {
        self.io.abort_on_drop();
    }

    fn plain(&self) -> Option<&TcpStream> {
        if self.is_ahead() { None } else { self.io.plain() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Reads until the end, `room` bytes at a time; with it how many bytes were held ahead at most.
    async fn read_narrow<IO: AsyncRead + Unpin>(wide: &mut Wide<IO>, room: usize) -> (Vec<u8>, usize) {
        let (mut data, mut most, mut buf) = (Vec::new(), 0, vec![0; room]);
        loop {
            match wide.read(&mut buf).await.unwrap() {
                0 => return (data, most),
                n => data.extend_from_slice(&buf[..n]),
            }
            most = most.max(wide.ahead.as_ref().map_or(0, |ahead| ahead.filled().len()));
        }
    }

    #[tokio::test]
    async fn narrow_reads_of_a_hot_stream_get_every_byte_in_order_from_wide_ones() {
        let sent: Arc<Vec<u8>> = Arc::new((0..2_000_000_u32).map(|at| (at.wrapping_mul(31) >> 3) as u8).collect());
        for room in [1000, 4096, 16_406, 300_000] {
            let (mut near, far) = duplex(1 << 20);
            let data = Arc::clone(&sent);
            tokio::spawn(async move { near.write_all(&data).await.unwrap() });
            let mut wide = Wide::new(far);
            let (got, most) = read_narrow(&mut wide, room).await;
            assert!(got == *sent, "{room}");
            assert!(most < MOST, "{room}: {most}");
            assert_eq!(most > 0, room < MOST, "{room}: {most}");
            assert_eq!((wide.is_ahead(), buffers::lent()), (false, 0), "{room}");
        }
    }

    #[tokio::test]
    async fn a_quiet_stream_is_read_into_its_users_buffer_only() {
        let (mut near, far) = duplex(1 << 20);
        let mut wide = Wide::new(far);
        let mut buf = [0; 4096];
        for _ in 0..10 {
            near.write_all(&[7; 100]).await.unwrap();
            assert_eq!(wide.read(&mut buf).await.unwrap(), 100);
            assert_eq!((wide.size, buffers::lent()), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_stream_that_turns_quiet_is_read_narrow_again() {
        let (mut near, far) = duplex(1 << 20);
        let mut wide = Wide::new(far);
        near.write_all(&[7; 100_000]).await.unwrap();
        let mut buf = [0; 4096];
        wide.read_exact(&mut buf).await.unwrap();
        wide.read_exact(&mut buf).await.unwrap();
        assert!(wide.is_ahead());
        let mut rest = vec![0; 100_000 - 2 * buf.len()];
        wide.read_exact(&mut rest).await.unwrap();
        assert!(!wide.is_ahead());
        near.write_all(&[7; 5]).await.unwrap();
        assert_eq!((wide.read(&mut buf).await.unwrap(), wide.size), (5, 0));
    }

    #[tokio::test]
    async fn a_burst_larger_than_its_users_buffer_is_one_read_where_that_is_asked_for() {
        let (mut near, far) = duplex(1 << 20);
        let mut wide = Wide::new(far);
        for _ in 0..3 {
            near.write_all(&[7; 1000]).await.unwrap();
            for left in (0..1000).step_by(100).rev() {
                let mut buf = [0; 100];
                let mut buf = ReadBuf::new(&mut buf);
                std::future::poll_fn(|cx| wide.poll_wide(cx, &mut buf)).await.unwrap();
                assert_eq!(buf.filled(), [7; 100]);
                assert_eq!(wide.ahead.as_ref().map_or(0, |ahead| ahead.filled().len()), left);
            }
            assert_eq!((wide.is_ahead(), buffers::lent()), (false, 0), "nothing is owned between bursts");
        }
    }
}
