//! What can go wrong between a request and its answer, and whether the server can have seen the request.
//!
//! Three enums, by who must act: [`BodyError`] (a body ended before its end), [`SendError`] (no response head came:
//! the caller decides about a retry from [`Processed`]) and [`ServeError`] (a downstream connection ended badly: for
//! the log only). Errors are grouped so that "provably not processed" is settled here and at the line that knows it,
//! never guessed from a message later (SEMANTICS.md §3, retries (a) and (b)).

use std::sync::Arc;

/// Why a body ended before its end. Never confused with a clean end: a server truncates or resets on any of these.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The HTTP/2 stream it arrived on was reset.
    #[error("the stream was reset: {0}")]
    Reset(h2::Reason),
    /// The connection ended before the body did.
    #[error("the connection closed before the end of the body: was the sender killed, or its Content-Length wrong?")]
    Truncated,
    /// Its framing broke the protocol (chunk sizes, lengths).
    #[error("the body's framing is malformed: {0}")]
    Framing(Box<str>),
    /// The connection failed.
    #[error("the connection failed inside a body: {0}")]
    Io(Arc<std::io::Error>),
    /// More or fewer bytes than its Content-Length promised.
    #[error("the body is not as long as its Content-Length says")]
    Length,
    /// Whoever produced it went away without ending it.
    #[error("the body was abandoned by its producer")]
    Abandoned,
    /// The code that produced it panicked.
    #[error("a panic while producing the body was caught: please report it")]
    Panicked,
    /// Its request's deadline passed before its end.
    #[error("the request's deadline passed inside the body")]
    Late,
    /// From a body made elsewhere.
    #[error("the body failed: {0}")]
    Other(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl BodyError {
    /// The code a stream that carried this body on is reset with: a reset is passed on as it came, all else is
    /// `INTERNAL_ERROR`, but for a body nobody wants any more.
    pub fn h2_reason(&self) -> h2::Reason {
        match self {
            // A reset stream carries no clean end: NO_ERROR must not be mistaken for one further on.
            Self::Reset(h2::Reason::NO_ERROR) => h2::Reason::INTERNAL_ERROR,
            Self::Reset(reason) => *reason,
            Self::Abandoned | Self::Late => h2::Reason::CANCEL,
            Self::Truncated | Self::Framing(_) | Self::Io(_) | Self::Length | Self::Panicked | Self::Other(_) => {
                h2::Reason::INTERNAL_ERROR
            }
        }
    }

    pub(crate) fn from_h2(error: h2::Error) -> Self {
        if error.is_io() {
            return match error.into_io() {
                Some(error) => Self::Io(Arc::new(error)),
                None => Self::Truncated,
            };
        }
        // A reset of this stream keeps its code. GOAWAY's code speaks of the connection, not of this stream.
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason),
            _ => Self::Truncated,
        }
    }
}

impl From<std::io::Error> for BodyError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(Arc::new(error)) }
    }
}

/// Whether the server can have seen the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processed {
    /// It provably did nothing with it: no connection, not one byte written, `REFUSED_STREAM`, or a stream id above
    /// GOAWAY's last. Any method may be retried.
    No,
    /// It may have run. Only safe methods may be retried.
    Unknown,
}

/// No response head came.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// What happened.
    #[source]
    pub kind: SendErrorKind,
    /// Whether the server can have seen the request.
    pub processed: Processed,
    /// Whether the connection had served a request before. Servers close idle connections just as a request is on
    /// its way; for these, the loss says nothing about the endpoint's health.
    pub reused: bool,
}

impl SendError {
    pub(crate) fn not_processed(kind: SendErrorKind) -> Self {
        Self { kind, processed: Processed::No, reused: false }
    }

    pub(crate) fn unknown(kind: SendErrorKind) -> Self {
        Self { kind, processed: Processed::Unknown, reused: false }
    }

    pub(crate) fn on_reused(mut self, reused: bool) -> Self {
        self.reused = reused;
        self
    }
}

/// What happened to a request that got no response head.
#[derive(Debug, thiserror::Error)]
pub enum SendErrorKind {
    /// No connection could be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A limit of the pool was reached: too many requests were waiting for a connection.
    #[error("{waiting} requests already wait for a connection: raise the limit or add endpoints")]
    Overflow {
        /// The limit on waiting requests that was reached.
        waiting: usize,
    },
    /// The backend has as many connections as it may have, and this request needs one of its own.
    #[error(transparent)]
    Full(#[from] crate::resilience::Overflow),
    /// The pool takes no more requests.
    #[error("the pool is draining")]
    Draining,
    /// The connection was closed or failed before the response head.
    #[error("the connection was lost before the response head: {0}")]
    Lost(#[source] std::io::Error),
    /// The server reset the stream.
    #[error("the server reset the stream before the response head: {0}")]
    Reset(h2::Reason),
    /// The server sent GOAWAY, and this stream was beyond the last it will serve.
    #[error("the server is going away and did not take this stream: {0}")]
    GoAway(h2::Reason),
    /// The server did not answer a keep-alive ping.
    #[error("the server did not answer an HTTP/2 ping in time: is it, or the way to it, gone?")]
    Silent,
    /// The response broke the protocol.
    #[error("the response breaks the protocol: {0}")]
    Protocol(Box<str>),
    /// The request cannot be expressed in the connection's protocol: a bug of ours.
    #[error("the request cannot be sent on this connection: {0}")]
    Unsendable(Box<str>),
    /// The request's own body failed: the client went away, or broke the protocol.
    #[error("the request body failed: {0}")]
    RequestBody(#[source] BodyError),
}

/// Why no connection could be made. Cheap to clone: everyone who waited for the attempt gets the same one.
#[derive(Debug, Clone)]
pub struct ConnectError(Arc<dyn std::error::Error + Send + Sync>);

impl ConnectError {
    /// Wraps what the connector met; get it back with [`ConnectError::downcast_ref`].
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// What the connector met, if it is an `E`.
    pub fn downcast_ref<E: std::error::Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no connection: {}", self.0)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// How a downstream connection ended badly. Its requests were answered or reset already; this is for the log.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection failed.
    #[error("the downstream connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The client broke the protocol, and was told so.
    #[error("the client broke the protocol: {0}")]
    Protocol(Box<str>),
    /// No complete request head came in time.
    #[error("no request head within {0:?}")]
    HeadTimeout(std::time::Duration),
    /// The client did not answer a keep-alive ping.
    #[error("the client did not answer an HTTP/2 ping in time")]
    Silent,
    /// A response ended before its end, so the connection was aborted (HTTP/1 has no other way to say it).
    #[error("a response was cut short: {0}")]
    Truncated(#[source] BodyError),
}

impl From<h2::Error> for ServeError {
    fn from(error: h2::Error) -> Self {
        let text = error.to_string();
        match error.into_io() {
            Some(error) => Self::Io(error),
            None => Self::Protocol(text.into_boxed_str()),
        }
    }
}
