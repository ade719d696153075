//! The forwarding engine: HTTP/1 by our own strict codec, HTTP/2 by the `h2` crate, and nothing above either but a
//! request with a body, a response with a body, and the truth about what was processed.
//!
//! Life of a request: [`server`] reads it from the downstream connection and hands it to a [`Handler`] (`outbound/` or
//! `inbound/`), which picks an endpoint and sends it through that endpoint's [`pool::Pool`]; the response's [`Body`] owns
//! the upstream exchange and gives the connection back when both directions are done. Nothing is spawned per HTTP/1
//! exchange: whoever polls the response body also carries the rest of the request body up ([`Body::poll_progress`]),
//! so an early response and an upload that never ends live side by side, and neither can starve the other.
//!
//! HTTP/1 and HTTP/2 tell the same story through [`translate`] and [`hygiene`]; the engine forwards what it is given.
//!
//! Not here: choosing (`route/`, `balance/`), deciding about retries (`resilience/`), dialling and TLS (`outbound/`).
//! Bounds: each connection holds one read buffer, one write buffer and one frame in hand per direction; see
//! [`server::ServerSettings`], [`h2::client::ClientSettings`] and [`pool::PoolSettings`] for the numbers.

pub mod body;
pub mod error;
pub mod h1;
pub mod h2;
pub mod host;
pub mod hygiene;
pub mod io;
pub mod pool;
pub mod replay;
pub mod server;
mod timer;
pub mod translate;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::request;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::reason::Reason;

pub use body::Body;
pub use error::{BodyError, ConnectError, Processed, SendError, SendErrorKind, ServeError};
pub use io::{BoxedIo, Io};

/// A request on its way.
pub type Request = ::http::Request<Body>;
/// A response on its way back.
pub type Response = ::http::Response<Body>;

/// A request about to be sent: given away, or lent by whoever may have to send it again. HTTP/1 writes a head from where it
/// is; only HTTP/2, whose streams own theirs, has to copy a lent one.
#[derive(Debug)]
pub enum Outgoing<'r> {
    /// Given away. Boxed: each future it passes through would have room for it.
    Owned(Box<Request>),
    /// Lent. Its extensions are not sent.
    Lent(&'r request::Parts, Body),
}

impl Outgoing<'_> {
    /// The version its client spoke.
    pub fn version(&self) -> ::http::Version {
        match self {
            Self::Owned(request) => request.version(),
            Self::Lent(parts, _) => parts.version,
        }
    }

    /// Its fields.
    pub fn headers(&self) -> &::http::HeaderMap {
        match self {
            Self::Owned(request) => request.headers(),
            Self::Lent(parts, _) => &parts.headers,
        }
    }

    /// The request itself: a copy, if it was lent.
    pub fn into_owned(self) -> Request {
        match self {
            Self::Owned(request) => *request,
            Self::Lent(parts, body) => {
                let mut request = Request::new(body);
                request.method_mut().clone_from(&parts.method);
                request.uri_mut().clone_from(&parts.uri);
                *request.version_mut() = parts.version;
                request.headers_mut().clone_from(&parts.headers);
                request
            }
        }
    }
}

impl From<Request> for Outgoing<'_> {
    fn from(request: Request) -> Self {
        Self::Owned(Box::new(request))
    }
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    /// HTTP/1.0 or HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// What forwards: `outbound/` and `inbound/`. Cloned once per stream, so keep it an `Arc` or two.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one request, whose head has arrived `now`. The future is dropped when the client goes away, which must cancel
    /// what it began.
    fn handle(&self, request: Request, now: Instant) -> impl Future<Output = Answer> + Send;

    /// The server answered by itself, without asking: malformed or late heads, and caught panics. For counting.
    fn answered(&self, _reason: Reason) {}
}

/// What a handler answers.
#[derive(Debug)]
pub enum Answer {
    /// A response. A pointer, as all the way from the upstream connection: it is handed on some twenty times.
    Response(Box<Response>),
    /// No response. HTTP/2: the stream is reset with this code. HTTP/1 cannot say it: 503, `connection: close`, and
    /// towards a mesh peer `x-weft-not-processed: 1` when refused.
    Reset(Reset),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Response(Box::new(response))
    }
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Nothing was done with the request (`REFUSED_STREAM`).
    Refused,
    /// It may have been processed (`INTERNAL_ERROR`).
    Internal,
    /// Nobody wants the answer any more (`CANCEL`).
    Cancel,
}

impl Reset {
    /// The code on the wire.
    pub const fn h2_reason(self) -> ::h2::Reason {
        match self {
            Self::Refused => ::h2::Reason::REFUSED_STREAM,
            Self::Internal => ::h2::Reason::INTERNAL_ERROR,
            Self::Cancel => ::h2::Reason::CANCEL,
        }
    }
}

/// The connection behind a 101 response, or a 2xx to CONNECT, in the response's extensions: the HTTP/1 server writes
/// the head and then relays bytes both ways, with half-close. Clones share it, the first to take it has it; when the last
/// clone is dropped with it still inside, the connection closes.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<TunnelEnd>>>);

/// One end of a tunnel.
pub struct TunnelEnd {
    /// The connection.
    pub io: BoxedIo,
    /// Bytes of the tunnel that were already read behind the head.
    pub read: Bytes,
    /// What lasts as long as the tunnel: the pool's count of this connection, and what rode in the response's body.
    pub(crate) guard: Option<Box<dyn Send>>,
    /// Boxed: most have none.
    pub(crate) limits: Option<Box<TunnelLimits>>,
}

/// When a tunnel is ended by us.
pub(crate) struct TunnelLimits {
    /// Without a byte either way for so long.
    pub(crate) idle: Option<Duration>,
    /// At this moment: the peer's proof of who it is ends.
    pub(crate) until: Option<tokio::time::Instant>,
    /// Told why it was.
    pub(crate) over: Box<dyn FnOnce(Reason) + Send>,
}

impl Tunnel {
    /// A tunnel over `io`, of which `read` was read already.
    pub fn new(io: impl Io, read: Bytes) -> Self {
        Self::guarded(Box::new(io), read, None)
    }

    pub(crate) fn guarded(io: BoxedIo, read: Bytes, guard: Option<Box<dyn Send>>) -> Self {
        Self(Arc::new(Mutex::new(Some(TunnelEnd { io, read, guard, limits: None }))))
    }

    /// Ends it when nothing has passed for `idle`, and `until` then; `over` is told which. Nothing, if it is taken already.
    pub(crate) fn limit(
        &self,
        idle: Option<Duration>,
        until: Option<tokio::time::Instant>,
        over: impl FnOnce(Reason) + Send + 'static,
    ) {
        if let Some(end) = &mut *self.0.lock()
            && (idle.is_some() || until.is_some())
        {
            end.limits = Some(Box::new(TunnelLimits { idle, until, over: Box::new(over) }));
        }
    }

    /// Takes it out.
    pub fn take(&self) -> Option<TunnelEnd> {
        self.0.lock().take()
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tunnel")
    }
}

#[cfg(test)]
mod tests;
