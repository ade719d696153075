//! The connections to one endpoint, shared by all workers: which one a request goes out on, when another is opened, and
//! who waits.
//!
//! * HTTP/1: idle connections, newest first, checked for a FIN or RST before reuse. One request, one connection.
//! * HTTP/2: a connection with streams left; another is opened when streams run out, or when all are busy with large
//!   streams (SEMANTICS.md §1, head of line).
//! * Otherwise a connection is opened, or waited for. Attempts are tasks of their own: one belongs to all who wait, so
//!   a requester that gives up takes nothing from the others, and many who want streams share one attempt.
//! * Waiters are served in the order they came; newcomers go behind them.
//!
//! A limit is exact: connections are counted from before they are dialled until they are closed, tunnels included. Every
//! connection lives on the worker that opened it. A worker prefers its own; it takes another's idle HTTP/1 connection
//! rather than dial, and another's HTTP/2 streams until it has a connection of its own ([`PoolSettings::per_worker`]). One
//! lock, held for bookkeeping only: never across I/O or the end of an HTTP/1 connection.
//!
//! A backend's limits ([`Pool::limited`]) hold for all its pools together. A request waits for a connection to its own
//! endpoint: one that another pool has done with is no use to it, but its place is. So a pool that may not open what its
//! waiters need queues with the backend ([`crate::resilience::Holder`]), and is woken with a place in hand. While any
//! pool of the backend queues, the others keep no connection without a request; for one without any connection they
//! also give up one in use, as soon as it is free of requests.
//!
//! Bounds: [`PoolSettings::max_connections`] and [`PoolSettings::max_pending`].

mod attempt;
mod limited;
mod settings;
mod state;
mod wait;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use self::attempt::Attempt;
pub use self::settings::{IdleClosed, PoolSettings};
pub use self::state::IN_USE;
use self::state::{Choice, Left, State, Worker};
pub use self::wait::Wait;
use super::error::{ConnectError, SendError, SendErrorKind};
use super::h1::client::{Connection as H1, Home};
use super::h2::client::{Handle, Permit};
use super::io::BoxedIo;
use super::{Outgoing, Proto, Request, Response};
use crate::resilience::{ConnectionGuard, Limiter};
use crate::spin::Waits;

/// A connection just made, TLS and all.
pub struct Connected {
    /// Its bytes.
    pub io: BoxedIo,
    /// What was agreed to speak.
    pub proto: Proto,
    /// When an HTTP/2 connection is to take no further request, for the server's proof of who it is ends: it closes after
    /// those that are on it (SEMANTICS.md §1, "mesh TLS"). HTTP/1 to mesh peers is not pooled, so there it means nothing.
    pub expires: Option<Instant>,
}

impl Connected {
    /// A connection to a server that proved nothing.
    pub fn new(io: BoxedIo, proto: Proto) -> Self {
        Self { io, proto, expires: None }
    }
}

/// How full a pool is, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Connections open, in use or not.
    pub open: usize,
    /// Connections being opened.
    pub connecting: usize,
    /// Of the open ones: HTTP/1 connections without a request.
    pub idle: usize,
    /// Of the open ones: HTTP/2 connections that take new streams.
    pub h2: usize,
    /// Streams open on these.
    pub streams: usize,
    /// Requests waiting.
    pub pending: usize,
}

/// The connections to one endpoint. Clones share them; with the last one go the idle connections, while those in use close
/// after what is on them.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    settings: PoolSettings,
    limits: Limiter,
    state: Mutex<State>,
    /// How long requests wait for their answers.
    waits: Waits,
    me: Weak<Shared>,
}

/// A place for one request.
enum Lease {
    H1(H1),
    H2(Handle, Permit),
}

impl Pool {
    /// An empty pool, with no limits but its own.
    pub fn new(settings: PoolSettings) -> Self {
        Self::limited(settings, Limiter::default())
    }

    /// An empty pool of a backend, whose limits it shares with the backend's other pools.
    pub fn limited(settings: PoolSettings, limits: Limiter) -> Self {
        let pool = Self(Arc::new_cyclic(|me| Shared {
            state: Mutex::new(State::new(&settings, limits.clone())),
            settings,
            limits,
            waits: Waits::default(),
            me: me.clone(),
        }));
        pool.0.limits.join(pool.0.holder());
        pool
    }

    /// Sends a request on a connection of this pool, opening one with `connect` where needed. What `connect` makes may
    /// serve another request, and outlives this one: it is run as a task, so it must bound itself in time. The request
    /// must be ready for the protocol it will meet ([`translate`](super::translate)).
    ///
    /// # Errors
    /// No response head came. A limit, a failed connect and a drain are [`Processed::No`](super::Processed::No).
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place among the waiters, or cancels the request (HTTP/1: closes its
    /// connection; HTTP/2: resets its stream).
    pub async fn send<C, F>(&self, request: Request, connect: C) -> Result<Response, SendError>
    where
        C: Fn() -> F + Send,
        F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    {
        self.send_noting(request, connect, &Wait::since(Instant::now())).await.map(|response| *response)
    }

    /// As [`Self::send`], and `wait` tells how long a connection was waited for.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn send_noting<C, F>(
        &self,
        request: impl Into<Outgoing<'_>>,
        connect: C,
        wait: &Wait,
    ) -> Result<Box<Response>, SendError>
    where
        C: Fn() -> F + Send,
        F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    {
        let (lease, now) = {
            let mut waiting = Waiting { shared: &self.0, ticket: None, wait };
            let mut now = Some(wait.began());
            std::future::poll_fn(|cx| waiting.poll(&connect, now.take().unwrap_or_else(Instant::now), cx)).await?
        };
        let awaited = self.0.waits.begin(now.into_std());
        let mut answered = None;
        let sent = match lease {
            Lease::H1(connection) => connection.send_noting(request, &mut answered, Some(&*self.0)).await,
            Lease::H2(handle, permit) => handle.send(permit, request).await.map(Box::new),
        };
        if sent.is_ok() {
            let answered = answered.unwrap_or_else(Instant::now);
            wait.set_answered(answered);
            awaited.over(answered.into_std());
        }
        sent
    }

    /// Opens a connection of this worker's before there is a request for it, unless it has one, or limits leave no room. It
    /// idles away like any other.
    pub fn warm<F>(&self, connect: impl FnOnce() -> F)
    where
        F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    {
        let place = self.0.state.lock().begin_unasked(Worker::current());
        if let Some(place) = place {
            tokio::spawn(Attempt::new(&self.0, place).run(connect()));
        }
    }

    /// Whether HTTP/2 connections of this worker carry requests, or did in the last [`IN_USE`].
    pub fn is_in_use(&self) -> bool {
        self.0.state.lock().is_in_use(Worker::current(), Instant::now())
    }

    /// Closes every connection without a request.
    pub fn close_idle(&self) {
        let closed = self.0.state.lock().take_idle(|_| true);
        drop(closed);
    }

    /// Takes no more requests: idle connections close now, the others after what is on them. Waiters are told.
    pub fn drain(&self) {
        let (closed, wakers, spare) = self.0.state.lock().drain();
        drop((closed, spare));
        wake(wakers);
    }

    /// Open connections without a request, whatever they speak.
    pub fn idle(&self) -> usize {
        self.0.state.lock().idle()
    }

    /// How full it is.
    pub fn sizes(&self) -> Sizes {
        self.0.state.lock().sizes()
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.sizes()).finish()
    }
}

/// A request waiting for its lease.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    /// Its place among the waiters, once it has one.
    ticket: Option<u64>,
    wait: &'a Wait,
}

impl Waiting<'_> {
    fn poll<C, F>(
        &mut self,
        connect: &C,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Lease, Instant), SendError>>
    where
        C: Fn() -> F + Send,
        F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    {
        loop {
            let mut state = self.shared.state.lock();
            self.wait.hold(false);
            match state.choose(self.ticket, Worker::current(), cx.waker(), now) {
                Choice::H1(mut idle) => {
                    // Who never waited leaves nothing behind, and nobody to be told.
                    let alone = self.ticket.is_none() && state.is_calm();
                    drop(state);
                    // A connection this young has not been anybody's yet.
                    let idle_for = now.saturating_duration_since(idle.since);
                    let fresh = idle.connection.served() == 0 && idle_for < Duration::from_secs(1);
                    if fresh || idle.connection.is_reusable(idle_for) {
                        if !alone {
                            self.served(self.shared.state.lock(), now);
                        }
                        return Poll::Ready(Ok((Lease::H1(idle.connection), now)));
                    }
                    // Closed by the server while it was idle: dropping it tells the count. Its place among the waiters is
                    // kept, so that nobody overtakes while it looks again.
                }
                Choice::H2(handle, permit, own) => {
                    self.served(state, now);
                    if let Some(place) = own {
                        self.attempt(place, connect);
                    }
                    return Poll::Ready(Ok((Lease::H2(handle, permit), now)));
                }
                Choice::Failed(error) => {
                    self.served(state, now);
                    return Poll::Ready(Err(SendError::not_processed(SendErrorKind::Connect(error))));
                }
                Choice::Draining => return Poll::Ready(Err(SendError::not_processed(SendErrorKind::Draining))),
                Choice::Overflow(waiting) => {
                    return Poll::Ready(Err(SendError::not_processed(SendErrorKind::Overflow { waiting })));
                }
                Choice::Wait { ticket, places, short } => {
                    self.ticket = Some(ticket);
                    self.wait.hold(!state.is_connecting());
                    drop(state);
                    for place in places {
                        self.attempt(place, connect);
                    }
                    if short {
                        self.shared.queue();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn attempt<C, F>(&self, place: ConnectionGuard, connect: &C)
    where
        C: Fn() -> F + Send,
        F: Future<Output = Result<Connected, ConnectError>> + Send + 'static,
    {
        tokio::spawn(Attempt::new(self.shared, place).run(connect()));
    }

    /// It has what it waited for, if it had to wait.
    fn served(&mut self, state: MutexGuard<'_, State>, now: Instant) {
        if self.ticket.is_some() {
            self.wait.set_over(now);
        }
        self.leave(state);
    }

    /// Leaves the queue; whoever is first now may find something as well.
    fn leave(&mut self, mut state: MutexGuard<'_, State>) {
        let Left { waker, surplus, leaves } = state.leave(self.ticket.take());
        drop(state);
        wake(waker);
        drop(surplus);
        if leaves {
            self.shared.limits.leave(&self.shared.holder());
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.leave(self.shared.state.lock());
        }
    }
}

impl Shared {
    fn stream_ended(&self, id: u64) {
        // A connection that was retired before is owed to somebody already.
        if self.limits.claim() {
            // Takes no more streams, and closes after those it has.
            let retired = self.state.lock().remove_h2(id);
            if retired.is_none() {
                self.limits.unclaim();
            }
        }
        let (idle, waker, reaps) = {
            let mut state = self.state.lock();
            let (idle, waker) = state.stream_ended(id, Instant::now());
            (idle, waker, state.is_reaping())
        };
        wake(waker);
        if idle {
            self.idle(reaps);
        }
    }

    fn h2_closed(&self, id: u64) {
        let (removed, waker, starves) = {
            let mut state = self.state.lock();
            let removed = state.remove_h2(id);
            state.closed();
            (removed, state.first_waker(), state.starves())
        };
        drop(removed);
        wake(waker);
        if starves {
            self.queue();
        }
    }

    /// Keeps a task while something is idle, which closes it in time.
    fn reap(&self) {
        // A body may be dropped anywhere, also where no task can be started any more.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.state.lock().start_reaper() {
            return;
        }
        let me = self.me.clone();
        let timeout = self.settings.idle_timeout;
        runtime.spawn(async move {
            loop {
                let Some(shared) = me.upgrade() else { return };
                let now = Instant::now();
                let (closed, next) = {
                    let mut state = shared.state.lock();
                    let closed = state.take_idle(|since| now >= since + timeout);
                    (closed, state.next_expiry(timeout))
                };
                let count = closed.0.len() + closed.1.len();
                drop(closed);
                if count > 0 {
                    shared.settings.on_idle.closed(count);
                }
                drop(shared);
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => return,
                }
            }
        });
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Home for Shared {
    fn give_back(&self, connection: H1, now: Instant) {
        if self.limits.claim() {
            drop(connection);
            return;
        }
        let (refused, waker, reaps) = {
            let mut state = self.state.lock();
            let (refused, waker) = state.give_back(connection, now);
            (refused, waker, state.is_reaping())
        };
        drop(refused);
        wake(waker);
        self.idle(reaps);
    }

    fn closed(&self) {
        let (waker, starves) = {
            let mut state = self.state.lock();
            state.closed();
            (state.first_waker(), state.starves())
        };
        wake(waker);
        if starves {
            self.queue();
        }
    }
}

#[cfg(test)]
mod tests;
