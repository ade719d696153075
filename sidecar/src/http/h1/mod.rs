//! HTTP/1.0 and HTTP/1.1 as bytes (RFC 9112): a strict reader and a plain writer, both pure; and on top of them the
//! connections.
//!
//! This is a security boundary (SEMANTICS.md §6): what two parsers could read in two ways is refused here and never
//! forwarded. A head is read into `http` types and written anew from them, so no byte of a peer's framing survives.
//!
//! * [`head`]: a request or response head, complete or not at all; [`error`]: why not
//! * `section`: its lines, or a trailer section's
//! * [`target`]: request targets and the Host field
//! * [`length`]: how long the body is (RFC 9112 §6.3)
//! * [`body`]: the body's bytes, out of their framing
//! * [`encode`]: heads, chunks and trailers, into their framing
//! * [`server`], [`client`]: a downstream and an upstream connection, with their shared `writer`, and `spare` buffers and maps
//!
//! Not here: pools (`pool`), which headers may pass (`hygiene`), HTTP/2 (`translate`).

pub mod body;
pub mod client;
#[cfg(test)]
mod differential;
pub mod encode;
pub mod error;
pub mod head;
pub mod length;
pub(crate) mod reader;
mod section;
pub(crate) mod server;
mod spare;
pub mod target;
mod unread;
pub(crate) mod writer;

pub use body::{Decoded, Decoder, FramingError};
pub use encode::{Connection, EncodeError, Framing};
pub use error::HeadError;
pub use head::{HeadScan, Progress, ReasonPhrase, RequestHead, ResponseHead, Upgrade};
pub use length::BodyLength;
pub use section::HeadLimits;
pub(crate) use spare::give_map;
