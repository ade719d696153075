//! Who speaks first (SEMANTICS.md §1, "protocol"): reads a client's first bytes without losing any, and replays them.
//!
//! A client that says nothing for 10 ms is [`FirstSpeaker::Silent`]: it may be waiting for the server to speak. What then
//! (dialling early, listening to both) is decided in `outbound/` and `inbound/`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use super::detect::{Detected, MAX_PREFIX, detect};
use crate::tcp::Abort;

/// How long a client may be silent before it is believed to wait for the server.
pub const SILENCE: Duration = Duration::from_millis(10);
/// How long an incomplete first message may take to become one that can be told.
pub const FIRST_MESSAGE: Duration = Duration::from_secs(5);

/// What came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSpeaker {
    /// Bytes: they are in the buffer.
    Client,
    /// Nothing, for as long as was waited.
    Silent,
    /// The end: the client sends nothing, ever.
    Eof,
}

/// Waits at most `wait` for bytes and appends them to `buf`, whose spare capacity bounds the read (it is given 4 KiB if it
/// has none). Dropping the future loses no byte.
///
/// # Errors
/// What reading returns.
pub async fn first_bytes<IO>(io: &mut IO, buf: &mut BytesMut, wait: Duration) -> io::Result<FirstSpeaker>
where
    IO: AsyncRead + Unpin,
{
    if buf.capacity() == buf.len() {
        buf.reserve(MAX_PREFIX);
    }
    match timeout(wait, io.read_buf(buf)).await {
        Err(_) => Ok(FirstSpeaker::Silent),
        Ok(Ok(0)) => Ok(FirstSpeaker::Eof),
        Ok(Ok(_)) => Ok(FirstSpeaker::Client),
        Ok(Err(error)) => Err(error),
    }
}

/// Reads on until [`detect`] knows what the client, which has begun to speak, speaks. An end or a pause of the client
/// before that, or `deadline`, makes it [`Detected::Opaque`]. Never [`Detected::NeedMore`].
///
/// # Errors
/// What reading returns.
pub async fn detect_more<IO>(io: &mut IO, buf: &mut BytesMut, deadline: Instant) -> io::Result<Detected>
where
    IO: AsyncRead + Unpin,
{
    loop {
        match detect(buf) {
            Detected::NeedMore => {}
            detected => return Ok(detected),
        }
        if buf.capacity() == buf.len() {
            buf.reserve(MAX_PREFIX);
        }
        match timeout_at(deadline, io.read_buf(buf)).await {
            Err(_) | Ok(Ok(0)) => return Ok(Detected::Opaque),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

pin_project! {
    /// A stream that yields bytes read earlier before its own.
    #[derive(Debug)]
    pub struct Prefixed<IO> {
        prefix: BytesMut,
        #[pin]
        io: IO,
    }
}

impl<IO> Prefixed<IO> {
    /// `prefix` first, then what `io` yields.
    pub fn new(prefix: BytesMut, io: IO) -> Self {
        Self { prefix, io }
    }

    /// The stream behind.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream behind. Reading from it leaves the prefix behind.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// What is left of the prefix.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// What is left of the prefix, and the stream.
    pub fn into_parts(self) -> (BytesMut, IO) {
        (self.prefix, self.io)
    }
}

impl<IO: AsyncRead> AsyncRead for Prefixed<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.prefix.is_empty() {
            return this.io.poll_read(cx, buf);
        }
        let len = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..len]);
        this.prefix.advance(len);
        if this.prefix.is_empty() {
            // A connection lives longer than its first bytes.
            *this.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite> AsyncWrite for Prefixed<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().io.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().io.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Abort> Abort for Prefixed<IO> {
    fn abort_on_drop(&self) {
        self.get_ref().abort_on_drop();
    }

    fn plain(&self) -> Option<&tokio::net::TcpStream> {
        if self.prefix.is_empty() { self.io.plain() } else { None }
    }
}

#[cfg(test)]
mod tests;
