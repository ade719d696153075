//! How much of discovery requests is taken in at once. tonic reads a message as a whole before a service sees it, so this stands
//! before tonic: it follows the lengths that precede gRPC's messages (gRPC over HTTP/2, "Length-Prefixed-Message") and lets bytes
//! pass for which there is room.
//!
//! | bound | where it is reached |
//! |---|---|
//! | [`MAX_REQUEST`] bytes a request | its call ends, RESOURCE_EXHAUSTED, before any of it is read |
//! | [`MAX_CALLS`] calls a connection | one more is refused, RESOURCE_EXHAUSTED |
//! | [`MAX_TOGETHER`] bytes of requests that are not read yet, in this process | the next waits its turn; HTTP/2 holds its sender back |
//! | [`MESSAGE_TIME`] from a request's length to its last byte, the wait included | its call ends: nobody keeps room by being slow |
//!
//! A request has its room until the one who reads it wants more. Who is sent away comes back after its back-off.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// The largest discovery request: 10,000 names and as many versions (`session.rs`) are some 3 MB at worst.
pub(super) const MAX_REQUEST: usize = 4 << 20;
/// Discovery calls under way on a connection, of which a proxy needs one.
pub(super) const MAX_CALLS: usize = 8;
/// Bytes of requests that are being read, of all connections.
const MAX_TOGETHER: usize = 64 << 20;
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// gRPC's: a flag and the length.
const HEAD: usize = 5;

/// The room that all connections share.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TOGETHER)))
    }
}

/// The discovery calls of one connection.
#[derive(Clone)]
pub(super) struct Calls(Arc<Semaphore>);

impl Default for Calls {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CALLS)))
    }
}

impl Calls {
    /// Room for one more.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are [`MAX_CALLS`].
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this connection has {MAX_CALLS} discovery calls under way, which is the most; a proxy needs one"
            ))
        })
    }
}

/// Where in a message the bytes are.
enum At {
    /// So many bytes of the head are there.
    Head([u8; HEAD], usize),
    /// The head is there, and so many bytes are to come; waits for room.
    Waiting { head: [u8; HEAD], left: usize, room: BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>> },
    /// There is room; the head is still to be passed on.
    Admitted { head: [u8; HEAD], left: usize },
    /// So many bytes are to come.
    Body { left: usize },
}

/// A request's body, of which passes what there is room for.
pub(super) struct Bounded<B> {
    inner: B,
    room: Room,
    at: At,
    /// Read, and not passed on yet: of one frame of HTTP/2.
    pending: Bytes,
    /// Of the message that is being passed on, or was passed on last.
    held: Option<OwnedSemaphorePermit>,
    /// When the head of the message was there.
    since: Option<Instant>,
    /// Made where it has to be waited.
    late: Option<Pin<Box<Sleep>>>,
    /// The call's place on its connection.
    _call: OwnedSemaphorePermit,
}

impl<B> Bounded<B> {
    pub(super) fn new(inner: B, room: Room, call: OwnedSemaphorePermit) -> Self {
        let (pending, at) = (Bytes::new(), At::Head([0; HEAD], 0));
        Self { inner, room, at, pending, held: None, since: None, late: None, _call: call }
    }

    /// What can be done with what is read; `None` where more has to be.
    fn advance(&mut self, context: &mut Context<'_>) -> Option<Poll<Result<Bytes, Status>>> {
        loop {
            match &mut self.at {
                At::Head(head, have) => {
                    // Whoever reads has the message before.
                    if *have == 0 {
                        (self.held, self.since, self.late) = (None, None, None);
                    }
                    let take = (HEAD - *have).min(self.pending.len());
                    self.pending.copy_to_slice(&mut head[*have..*have + take]);
                    *have += take;
                    if *have < HEAD {
                        return None;
                    }
                    let [_, length @ ..] = *head;
                    let (head, left) = (*head, usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX));
                    if left > MAX_REQUEST {
                        return Some(Poll::Ready(Err(Status::resource_exhausted(format!(
                            "a discovery request of {left} bytes is more than this replica reads ({MAX_REQUEST}): ask for \
                             fewer names at once"
                        )))));
                    }
                    self.since = Some(Instant::now());
                    let bytes = u32::try_from(left).unwrap_or(u32::MAX);
                    self.at = match Arc::clone(&self.room.0).try_acquire_many_owned(bytes) {
                        Ok(permit) => {
                            self.held = Some(permit);
                            At::Admitted { head, left }
                        }
                        Err(_) => {
                            let room = Box::pin(Arc::clone(&self.room.0).acquire_many_owned(bytes));
                            At::Waiting { head, left, room }
                        }
                    };
                }
                At::Waiting { head, left, room } => match room.as_mut().poll(context) {
                    Poll::Ready(Ok(permit)) => {
                        self.held = Some(permit);
                        self.at = At::Admitted { head: *head, left: *left };
                    }
                    // It is never closed.
                    Poll::Ready(Err(_)) => return Some(Poll::Ready(Err(Status::internal("no room any more")))),
                    Poll::Pending => return Some(self.wait(context)),
                },
                At::Admitted { head, left } => {
                    let (head, left) = (Bytes::copy_from_slice(head), *left);
                    self.at = if left == 0 { At::Head([0; HEAD], 0) } else { At::Body { left } };
                    return Some(Poll::Ready(Ok(head)));
                }
                At::Body { left } => {
                    if self.pending.is_empty() {
                        return None;
                    }
                    let part = self.pending.split_to((*left).min(self.pending.len()));
                    *left -= part.len();
                    if *left == 0 {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    return Some(Poll::Ready(Ok(part)));
                }
            }
        }
    }

    /// For room, or for the rest of a message.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let Some(since) = self.since else { return Poll::Pending };
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + MESSAGE_TIME)));
        late.as_mut().poll(context).map(|()| {
            Err(match self.at {
                At::Waiting { .. } => Status::resource_exhausted(format!(
                    "this replica is reading {MAX_TOGETHER} bytes of discovery requests, which is the most; try again"
                )),
                _ => Status::deadline_exceeded(format!(
                    "a discovery request did not come whole within {} s",
                    MESSAGE_TIME.as_secs()
                )),
            })
        })
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(done) = this.advance(context) {
                return done.map(|passed| Some(passed.map(Frame::data).map_err(Into::into)));
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.pending = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    return this.wait(context).map(|late| Some(late.map(Frame::data).map_err(Into::into)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
