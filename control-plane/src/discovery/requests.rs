//! How much of discovery requests is taken in at once. tonic reads a message as a whole before a service sees it, so this stands
//! before tonic: it follows the lengths that precede gRPC's messages (gRPC over HTTP/2, "Length-Prefixed-Message") and lets bytes
//! pass for which there is room.
//!
//! | bound | where it is reached |
//! |---|---|
//! | [`MAX_REQUEST`] bytes a request | its call ends, RESOURCE_EXHAUSTED, before any of it is read |
//! | [`MAX_CALLS`] calls a connection | one more is refused, RESOURCE_EXHAUSTED |
//! | [`LARGE_TOGETHER`] bytes of requests that are not read yet, in this process | the next waits its turn; HTTP/2 holds its sender back |
//! | [`SMALL_TOGETHER`] bytes of those of at most [`SMALL_REQUEST`] | the same: answers never wait for large requests |
//! | a quarter of either for the connections of one identity, [`MAX_REQUEST`] of the large for one connection | the same |
//! | [`MESSAGE_TIME`] from a request's length to its last byte, the wait included | its call ends: nobody keeps room by being slow |
//!
//! A request has its room until it is decoded ([`Held`]). Who is sent away comes back after its back-off. Not counted: the buffer in
//! which tonic gathers a message, which stays with its call as large as the largest was ([`MAX_CALLS`] of [`MAX_REQUEST`] a
//! connection at worst).

use std::collections::HashMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use weft_proto::SpiffeId;

/// The largest discovery request: 10,000 names and as many versions (`session.rs`) are some 3 MB at worst.
pub(super) const MAX_REQUEST: usize = 4 << 20;
/// Discovery calls under way on a connection. A proxy needs one, and while it opens another the one before may not have ended yet.
pub(super) const MAX_CALLS: usize = 3;
/// What every ACK is well below; a NACK, too, whose message is of a sane length.
const SMALL_REQUEST: usize = 16 << 10;
/// Bytes of larger requests that are being read, of all connections.
const LARGE_TOGETHER: usize = 64 << 20;
/// The same of small ones.
const SMALL_TOGETHER: usize = 16 << 20;
/// What of either the connections of one identity may have: one over so many.
const SHARES: usize = 4;
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// gRPC's: a flag and the length.
const HEAD: usize = 5;

/// Room for bytes of requests, apart by their size.
struct Sizes {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Sizes {
    fn new(small: usize, large: usize) -> Self {
        Self { small: Arc::new(Semaphore::new(small)), large: Arc::new(Semaphore::new(large)) }
    }

    /// Where a request of so many bytes has its room.
    fn of(&self, bytes: usize) -> Arc<Semaphore> {
        Arc::clone(if bytes <= SMALL_REQUEST { &self.small } else { &self.large })
    }
}

/// The room that all connections share.
#[derive(Clone)]
pub(super) struct Room(Arc<Shared>);

struct Shared {
    sizes: Sizes,
    /// Of identities that are connected.
    shares: Mutex<HashMap<SpiffeId, Weak<Share>>>,
}

/// What of the room the connections of one identity may have.
struct Share {
    id: SpiffeId,
    room: Room,
    sizes: Sizes,
}

impl Default for Room {
    fn default() -> Self {
        let sizes = Sizes::new(SMALL_TOGETHER, LARGE_TOGETHER);
        Self(Arc::new(Shared { sizes, shares: Mutex::default() }))
    }
}

impl Room {
    /// A connection of `id`.
    pub(super) fn connection(&self, id: &SpiffeId) -> Calls {
        let (calls, sizes) = (Arc::new(Semaphore::new(MAX_CALLS)), Sizes::new(MAX_CALLS * SMALL_REQUEST, MAX_REQUEST));
        Calls(Arc::new(Connection { calls, sizes, share: self.share(id) }))
    }

    fn share(&self, id: &SpiffeId) -> Arc<Share> {
        let mut shares = self.0.shares.lock();
        if let Some(share) = shares.get(id).and_then(Weak::upgrade) {
            return share;
        }
        let sizes = Sizes::new(SMALL_TOGETHER / SHARES, LARGE_TOGETHER / SHARES);
        let share = Arc::new(Share { id: id.clone(), room: self.clone(), sizes });
        shares.insert(id.clone(), Arc::downgrade(&share));
        share
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.room.0.shares.lock();
        // It may have come back meanwhile, and has another.
        if shares.get(&self.id).is_some_and(|share| share.strong_count() == 0) {
            shares.remove(&self.id);
        }
    }
}

/// The discovery calls of one connection.
#[derive(Clone)]
pub(super) struct Calls(Arc<Connection>);

struct Connection {
    calls: Arc<Semaphore>,
    sizes: Sizes,
    share: Arc<Share>,
}

/// One of them: its place among the others, and what its requests need of the room.
pub(super) struct Call {
    connection: Arc<Connection>,
    held: Held,
    _place: OwnedSemaphorePermit,
}

impl Calls {
    /// Room for one more.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are [`MAX_CALLS`].
    pub(super) fn enter(&self) -> Result<Call, Status> {
        let place = Arc::clone(&self.0.calls).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "this connection has {MAX_CALLS} discovery calls under way, which is the most; a proxy needs one"
            ))
        })?;
        Ok(Call { connection: Arc::clone(&self.0), held: Held::default(), _place: place })
    }
}

impl Call {
    /// The room of its requests, for whoever decodes them.
    pub(super) fn held(&self) -> Held {
        self.held.clone()
    }

    /// Room for a request of so many bytes, when there is. The narrowest first: who waits for its own keeps nobody else waiting.
    fn room(&self, bytes: usize) -> BoxFuture<'static, Result<Taken, AcquireError>> {
        let Connection { sizes, share, .. } = &*self.connection;
        let rooms = [sizes, &share.sizes, &share.room.0.sizes].map(|sizes| sizes.of(bytes));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Box::pin(async move {
            let [connection, share, all] = rooms;
            Ok([
                connection.acquire_many_owned(bytes).await?,
                share.acquire_many_owned(bytes).await?,
                all.acquire_many_owned(bytes).await?,
            ])
        })
    }
}

/// Of the connection, of its identity's share, of all.
type Taken = [OwnedSemaphorePermit; 3];

/// The room of the request of a call that is being read, or was read last.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<Option<Taken>>>);

impl Held {
    /// The request is decoded: what it needs from now on is its stream's.
    pub(super) fn release(&self) {
        self.set(None);
    }

    fn set(&self, taken: Option<Taken>) {
        *self.0.lock() = taken;
    }
}

/// Where in a message the bytes are.
enum At {
    /// So many bytes of the head are there.
    Head([u8; HEAD], usize),
    /// The head is there, and so many bytes are to come; waits for room.
    Waiting { head: [u8; HEAD], left: usize, room: BoxFuture<'static, Result<Taken, AcquireError>> },
    /// There is room; the head is still to be passed on.
    Admitted { head: [u8; HEAD], left: usize },
    /// So many bytes are to come.
    Body { left: usize },
}

/// A request's body, of which passes what there is room for.
pub(super) struct Bounded<B> {
    inner: B,
    at: At,
    /// Read, and not passed on yet: of one frame of HTTP/2.
    pending: Bytes,
    /// When the head of the message was there.
    since: Option<Instant>,
    /// Made where it has to be waited.
    late: Option<Pin<Box<Sleep>>>,
    call: Call,
}

impl<B> Bounded<B> {
    pub(super) fn new(inner: B, call: Call) -> Self {
        let (pending, at) = (Bytes::new(), At::Head([0; HEAD], 0));
        Self { inner, at, pending, since: None, late: None, call }
    }

    /// What can be done with what is read; `None` where more has to be.
    fn advance(&mut self, context: &mut Context<'_>) -> Option<Poll<Result<Bytes, Status>>> {
        loop {
            match &mut self.at {
                At::Head(head, have) => {
                    // Whoever reads has the message before.
                    if *have == 0 {
                        self.call.held.release();
                        (self.since, self.late) = (None, None);
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
                    self.at = At::Waiting { head, left, room: self.call.room(left) };
                }
                At::Waiting { head, left, room } => match room.as_mut().poll(context) {
                    Poll::Ready(Ok(taken)) => {
                        self.call.held.set(Some(taken));
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
                At::Waiting { .. } => Status::resource_exhausted(
                    "this replica is reading as many bytes of discovery requests as it does at once, of all or of this identity; \
                     try again",
                ),
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
