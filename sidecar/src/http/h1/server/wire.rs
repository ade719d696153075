//! A downstream HTTP/1 connection between its exchanges: the next head, the refusal of one, and the close.
//!
//! Lingering (RFC 9112 §9.6): we close our side, then read and drop for a while, or a reset would destroy the response
//! before the client has read it.
//!
//! Bound: one head, or what is read ahead of an exchange; the queue's is in `writer.rs`.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::http::h1::encode::{self, Framing, encode_response};
use crate::http::h1::reader::{HEAD_READ, poll_read};
use crate::http::h1::writer::Queue;
use crate::http::h1::{HeadError, HeadScan, Progress, RequestHead, spare};
use crate::http::io::Io;
use crate::http::server::shared::{ServerSettings, drop_rest, own_answer};
use crate::http::timer::Timer;
use crate::reason::Reason;

/// The connection.
pub(super) struct Wire<IO> {
    pub(super) io: IO,
    /// Read and not yet used: at most a head, or what is read ahead.
    pub(super) read: BytesMut,
    pub(super) queue: Queue,
    pub(super) timer: Timer,
    /// The client has closed its side.
    pub(super) eof: bool,
}

/// What came instead of, or as, a request's head.
#[expect(clippy::large_enum_variant, reason = "it is nearly always the large one")]
pub(super) enum NextHead {
    Request(RequestHead),
    /// Nothing more is to come, or wanted.
    Closed,
    Gone(io::Error),
    Late,
    Refused(HeadError),
}

/// For a head.
pub(super) struct Waiting {
    /// Since when, for the timeout that runs.
    pub(super) since: Instant,
    /// Whether its first byte is here.
    pub(super) started: bool,
    /// Whether `since` is from before that byte: the connection has been idle. Of its first head it has not.
    pub(super) was_idle: bool,
    /// Whether it is the connection's first.
    pub(super) first: bool,
}

impl<IO: Io> Wire<IO> {
    /// Whether there is some of a head. An empty line is none: some clients end a body with one (RFC 9112 §2.2).
    pub(super) fn has_begun(&self) -> bool {
        !matches!(&self.read[..], b"" | b"\r" | b"\r\n")
    }

    /// Reads the next head. While there is none, [`Self::poll_patience`] is to be asked.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        settings: &ServerSettings,
        scan: &mut HeadScan,
        waiting: &mut Waiting,
    ) -> Poll<NextHead> {
        loop {
            match scan.take_request(&mut self.read, &settings.head) {
                Ok(Progress::Complete(head)) => return Poll::Ready(NextHead::Request(head)),
                Ok(Progress::Incomplete) => {}
                Err(error) => return Poll::Ready(NextHead::Refused(error)),
            }
            if self.eof {
                return Poll::Ready(NextHead::Closed);
            }
            match poll_read(&mut self.io, &mut self.read, HEAD_READ, cx) {
                Poll::Ready(Ok(0)) => self.eof = true,
                Poll::Ready(Ok(_)) => waiting.started = self.has_begun(),
                Poll::Ready(Err(error)) => {
                    // A reset between requests is how many clients close.
                    return Poll::Ready(if waiting.started { NextHead::Gone(error) } else { NextHead::Closed });
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// How long a head is waited for: as long as a connection may be idle until its first byte, then as long as a head may
    /// take.
    pub(super) fn poll_patience(
        &mut self,
        cx: &mut Context<'_>,
        settings: &ServerSettings,
        waiting: &mut Waiting,
        closing: bool,
    ) -> Poll<NextHead> {
        let idle = !waiting.started;
        if waiting.was_idle && !idle {
            (waiting.was_idle, waiting.since) = (false, Instant::now());
        }
        if self.read.is_empty() {
            // Most of what an idle connection would hold.
            spare::give(&mut self.read);
            self.queue.release();
        }
        // A connection that has not been used yet has its first request on the way: it may not be told to go away.
        if idle && closing && !waiting.first {
            return Poll::Ready(NextHead::Closed);
        }
        let timeout = if idle && !waiting.first { settings.idle_timeout } else { settings.head_timeout };
        if self.timer.poll_at(cx, waiting.since + timeout).is_ready() {
            return Poll::Ready(if idle { NextHead::Closed } else { NextHead::Late });
        }
        Poll::Pending
    }

    /// Answers what was not understood, and closes. Best effort: the client may be gone, or never read.
    pub(super) async fn refuse(&mut self, reason: Reason, status: StatusCode, settings: &ServerSettings) {
        let (parts, _) = own_answer(reason, status, false, settings).into_parts();
        self.queue.write(|dst| {
            encode_response(dst, &parts, &Method::GET, Framing::Length(0), encode::Connection::Close);
        });
        let Self { io, queue, .. } = self;
        let written = std::future::poll_fn(|cx| queue.poll_flush(io, cx));
        if matches!(tokio::time::timeout(settings.linger, written).await, Ok(Ok(()))) {
            self.close(settings.linger).await;
        }
    }

    /// Closes our side, and reads and drops what the client still sends until it closes its own, for at most `linger`.
    pub(super) async fn close(&mut self, linger: Duration) {
        /// For a peer that does not take our end of TLS: it has stopped reading altogether.
        const SHUTDOWN: Duration = Duration::from_secs(1);
        let shut = tokio::time::timeout(SHUTDOWN, self.io.shutdown()).await;
        if linger.is_zero() || self.eof || !matches!(shut, Ok(Ok(()))) {
            return;
        }
        drop_rest(&mut self.io, &mut self.read, linger).await;
    }
}
