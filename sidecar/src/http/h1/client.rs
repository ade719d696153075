//! One upstream HTTP/1 connection: one request at a time, both directions at once.
//!
//! The request's body is written while the response head is awaited and while the response body streams: a server may
//! answer before it has read everything (RFC 9112 §9.3), and may well read the rest. No task: [`Connection::send`] does
//! both until the head is there, then the response's body owns the connection and does both. When both directions are
//! over and the server keeps the connection, it goes home (to its pool) by itself; in every other case, and when the
//! body is dropped early, it is closed.
//!
//! Up to the head it is an `Opening` (`opening.rs`), from then on an `Exchange` (`exchange.rs`). Bound: one read buffer (64 KiB of head, 32 KiB of body) and the writer's.

mod exchange;
mod opening;

use std::sync::{Arc, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use self::opening::Opening;
use super::writer::Queue;
use super::{HeadLimits, spare};
#[cfg(doc)]
use crate::http::Answer;
#[cfg(doc)]
use crate::http::Tunnel;
use crate::http::error::SendError;
use crate::http::io::{BoxedIo, Io};
use crate::http::{Outgoing, Response};
use crate::resilience::ConnectionGuard;

/// A connection used this recently is believed when the runtime has heard nothing from it, without asking the kernel: servers
/// close idle connections after seconds, and asking is a system call for each request. What closes sooner, a server that
/// dies, is heard of within the few milliseconds that the runtime takes to look at its sockets again.
const JUST_USED: Duration = Duration::from_millis(50);

/// Where a connection goes when it may be used again, and who counts it.
pub(crate) trait Home: Send + Sync {
    /// The connection is idle. It is not closed by coming home; the count goes on.
    fn give_back(&self, connection: Connection, now: Instant);
    /// A connection of this home is gone.
    fn closed(&self);
}

/// The connection's place in its home's count, and in its backend's. The home counts it out first: the backend's place
/// may come straight back to it.
struct Place {
    home: Option<Weak<dyn Home>>,
    /// Held, never read.
    _backend: ConnectionGuard,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(home) = self.home() {
            home.closed();
        }
    }
}

impl Place {
    fn home(&self) -> Option<Arc<dyn Home>> {
        self.home.as_ref().and_then(Weak::upgrade)
    }
}

/// An upstream connection that is not in use. A pointer: it is handed on several times for each request.
pub struct Connection(Box<Open>);

struct Open {
    io: BoxedIo,
    read: BytesMut,
    queue: Queue,
    limits: HeadLimits,
    served: u64,
    thread: ThreadId,
    place: Option<Place>,
    /// The server is the app of this pod (`unread.rs`).
    to_app: bool,
}

impl Connection {
    /// A fresh connection.
    pub fn new(io: impl Io, limits: HeadLimits) -> Self {
        Self(Box::new(Open {
            io: Box::new(io),
            read: BytesMut::new(),
            queue: Queue::default(),
            limits,
            served: 0,
            thread: std::thread::current().id(),
            place: None,
            to_app: false,
        }))
    }

    /// Whether the server is the app of this pod, whose resets tell whether it read a request.
    pub fn to_app(mut self, to_app: bool) -> Self {
        self.0.to_app = to_app;
        self
    }

    /// `home` gets it back after each exchange that leaves it usable, and hears of its end. Set before the first one.
    pub(crate) fn at_home(mut self, home: Weak<dyn Home>, place: ConnectionGuard) -> Self {
        self.0.place = Some(Place { home: Some(home), _backend: place });
        self
    }

    /// Nobody's: it keeps its backend's place to its end.
    pub(crate) fn on_its_own(mut self, place: ConnectionGuard) -> Self {
        self.0.place = Some(Place { home: None, _backend: place });
        self
    }

    /// Whose runtime hears of its events.
    pub(crate) fn thread(&self) -> ThreadId {
        self.0.thread
    }

    /// Requests it has served.
    pub fn served(&self) -> u64 {
        self.0.served
    }

    /// Whether it can take another request: the server has neither closed it nor said anything meanwhile. `idle`: for how
    /// long it has not been used.
    pub fn is_reusable(&mut self, idle: Duration) -> bool {
        self.0.read.is_empty()
            && self.0.queue.is_empty()
            && self.0.io.is_quiet()
            && (idle < JUST_USED || self.0.io.is_silent())
    }

    /// Sends a request and waits for the response's head. An `Upgrade` field in the request is an offer to change the
    /// protocol; if the server takes it (101), or accepts a CONNECT (2xx), the response has a [`Tunnel`] among its
    /// extensions.
    ///
    /// # Errors
    /// No response head came. The connection is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(self, request: impl Into<Outgoing<'_>>) -> Result<Response, SendError> {
        self.send_noting(request, &mut None, None).await.map(|response| *response)
    }

    /// As [`Self::send`], and `answered` tells when the head was there. The response is a pointer, as in [`Answer`]. `home` is
    /// the connection's, if the caller has it: it need not be looked for when all of the response is here at once.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// As [`Self::send`].
    pub(crate) async fn send_noting(
        self,
        request: impl Into<Outgoing<'_>>,
        answered: &mut Option<Instant>,
        home: Option<&dyn Home>,
    ) -> Result<Box<Response>, SendError> {
        let reused = self.0.served > 0;
        let opening = match request.into() {
            Outgoing::Owned(request) => {
                let (parts, body) = request.into_parts();
                let opening = Opening::new(self, &parts, body);
                spare::give_map(parts.headers);
                opening
            }
            Outgoing::Lent(parts, body) => Opening::new(self, parts, body),
        };
        let mut opening = match opening {
            Ok(opening) => opening,
            Err(kind) => return Err(SendError::not_processed(kind).on_reused(reused)),
        };
        match std::future::poll_fn(|cx| opening.poll(cx)).await {
            Ok(head) => {
                let now = *answered.insert(Instant::now());
                opening.finish(head, now, home).map_err(|kind| SendError::unknown(kind).on_reused(reused))
            }
            Err(kind) => Err(opening.give_up(kind).await.on_reused(reused)),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("h1::Connection").field("served", &self.0.served).finish_non_exhaustive()
    }
}
