//! What the servers of both protocols share: the settings, answers of our own, and keeping a panic inside its request.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::http::body::Body;
use crate::http::h1::HeadLimits;
use crate::http::{Handler, Response, hygiene};
use crate::reason::Reason;

/// Most bytes read and dropped while lingering, and how many at a time.
const MAX_LINGER: usize = 1024 * 1024;
const LINGER_READ: usize = 4096;

/// What a downstream connection may do and cost. Worst-case memory of an HTTP/1 connection: one head or 64 KiB read, one
/// head and 64 KiB written. Of an HTTP/2 connection: its connection window, plus `max_send_buffer` for each stream.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Largest HTTP/1 request head, and the most fields of an HTTP/2 one; not of a mesh peer's, whose clients were counted by it.
    /// Default 64 KiB and 100 fields (SEMANTICS.md §6).
    pub head: HeadLimits,
    /// From a head's first byte (a connection's first head: from the start) to its last. Also bounds the HTTP/2
    /// preface. Default 30 s (SEMANTICS.md §6).
    pub head_timeout: Duration,
    /// A connection without an open request closes after this. Default 5 min (SEMANTICS.md §3).
    pub idle_timeout: Duration,
    /// After the last response of a connection on which the client may still send: how long its bytes are read and
    /// dropped, so that it gets to read the response before a reset destroys it. Default 2 s.
    pub linger: Duration,
    /// HTTP/2 streams at once. Default 100 (SEMANTICS.md §6); a mesh peer, which speaks for many clients, may get more.
    pub max_streams: u32,
    /// Receive window of an HTTP/2 stream, bytes. Default 256 KiB (SEMANTICS.md §1).
    pub stream_window: u32,
    /// Receive window of an HTTP/2 connection, at least 16 stream windows. Default 4 MiB (SEMANTICS.md §1).
    pub connection_window: u32,
    /// Largest list of HTTP/2 header fields. Default 64 KiB (SEMANTICS.md §6).
    pub max_header_list: u32,
    /// Bytes of a response buffered per HTTP/2 stream for writing. Default 256 KiB.
    pub max_send_buffer: usize,
    /// Silence after which a connection with open HTTP/2 streams is pinged; `None`: never, as for the app of this pod, which
    /// cannot vanish. Default 5 s (SEMANTICS.md §3).
    pub ping_after: Option<Duration>,
    /// How long that ping may go unanswered, and a client without open streams our GOAWAY. Default 3 s (SEMANTICS.md §3).
    pub ping_timeout: Duration,
    /// Streams the client opened and reset before we looked at them, at once; beyond, the connection is closed with
    /// `ENHANCE_YOUR_CALM` (rapid reset, CVE-2023-44487). Default 20; for a mesh peer at least `max_streams`.
    pub max_pending_resets: usize,
    /// Streams reset because the client broke the protocol on them, or that came when there was no room, over the connection's
    /// life; beyond, likewise. Default 1024; for a mesh peer, whose connection lives long, at least 16,384.
    pub max_local_resets: usize,
    /// The client is a verified mesh peer: it is told why, and what was not processed.
    pub mesh_peer: bool,
    /// The client is trusted to hear why an answer of ours came about (`x-weft-reason`): the local app, or a peer.
    pub explain: bool,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            linger: Duration::from_secs(2),
            max_streams: 100,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_header_list: 64 * 1024,
            max_send_buffer: 256 * 1024,
            ping_after: Some(Duration::from_secs(5)),
            ping_timeout: Duration::from_secs(3),
            max_pending_resets: 20,
            max_local_resets: 1024,
            mesh_peer: false,
            explain: false,
        }
    }
}

/// An answer of ours. To gRPC it is a trailers-only response, which is HTTP 200 (gRPC over HTTP/2, "Responses").
pub(crate) fn own_answer(reason: Reason, status: StatusCode, to_grpc: bool, settings: &ServerSettings) -> Response {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if settings.explain || settings.mesh_peer {
        headers.insert(HeaderName::from_static(weft_proto::headers::REASON), HeaderValue::from_static(reason.code()));
    }
    if to_grpc {
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(reason.grpc_status())));
        headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(reason.code()));
        *response.status_mut() = StatusCode::OK;
    }
    response
}

/// The answer to a request whose handler panicked.
pub(crate) fn panic_answer<H: Handler>(
    handler: &H,
    panic: &(dyn Any + Send),
    request_headers_grpc: bool,
    settings: &ServerSettings,
) -> Response {
    let what = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    tracing::error!(panic = what, "a request's handler panicked; that request is answered 500: please report this");
    handler.answered(Reason::Internal);
    own_answer(Reason::Internal, Reason::Internal.status(), request_headers_grpc, settings)
}

/// Reads and drops what a client still sends after our side is shut, until it shuts its own, for at most `linger`. Closed at once, the
/// kernel would answer its bytes with a reset: the client may lose what it has not read, and the network namespace's count of
/// aborts is no longer the apps' alone (`h1/unread.rs`).
pub(crate) async fn drop_rest<IO: AsyncRead + Unpin>(io: &mut IO, buffer: &mut BytesMut, linger: Duration) {
    let rest = async {
        let mut dropped = 0;
        while dropped <= MAX_LINGER {
            buffer.clear();
            buffer.reserve(LINGER_READ);
            match io.read_buf(buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => dropped += read,
            }
        }
    };
    // Out of time or bytes: closing now may reset the connection, which the client has earned.
    let _ = tokio::time::timeout(linger, rest).await;
}

/// Whether an answer of ours has to look like gRPC.
pub(crate) fn wants_grpc(headers: &HeaderMap) -> bool {
    hygiene::is_grpc(headers)
}

/// Runs one poll of a request's code; a panic in it is an `Err`. What it may leave half-changed belongs to that request
/// and is dropped with it, which is why unwinding past it is safe to assert.
pub(crate) fn guarded<T>(poll: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(poll))
}
