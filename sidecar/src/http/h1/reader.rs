//! Reading into a buffer, with room to suit what is expected.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::spare;

/// Room for heads: most fit at once.
pub(crate) const HEAD_READ: usize = spare::ROOM;
/// Room for bodies: two TLS records.
pub(crate) const BODY_READ: usize = 32 * 1024;

/// Room for a body of which `left` bytes are to come, where that is known.
pub(crate) fn room_for(left: Option<u64>) -> usize {
    left.and_then(|left| usize::try_from(left).ok()).map_or(BODY_READ, |left| left.clamp(HEAD_READ, BODY_READ))
}

/// Appends what can be read to `buf`, at least a quarter of `room` having been made. `Ok(0)` is the end of the connection.
pub(crate) fn poll_read<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buf: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if buf.capacity() == 0 && room == HEAD_READ {
        *buf = spare::take();
    } else if buf.capacity() - buf.len() < room / 4 {
        buf.reserve(room);
    }
    // The future holds nothing of its own between polls.
    pin!(io.read_buf(buf)).poll(cx)
}
