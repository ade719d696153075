//! Discovery: who is told what, over incremental xDS (ARCHITECTURE.md "The wire contract"; xDS transport protocol, delta).
//!
//! | file | what it decides |
//! |---|---|
//! | `tracked.rs` | per type: what a proxy asked for, has, and is due (pure) |
//! | `session.rs` | per stream: nonces, ACK and NACK, limits (pure) |
//! | `admission.rs` | whether a peer may open a stream for the pod it claims to be (pure) |
//! | `feed.rs` | how a change reaches every stream without waiting for any |
//! | `stream.rs` | one stream: a session, its requests, the feed, and its end |
//! | `server.rs` | port 15012: connections, handshakes, their age, and which calls are read |
//! | `entrance.rs` | who gets in when more want to than there is room for |
//! | `requests.rs` | how much of requests is taken in at once |
//! | `acks.rs` | who has which version of a Service or the trust bundle (pure) |
//! | `proxies.rs`, `metrics.rs` | what an operator sees of it |
//!
//! Not here: what resources are (`translate/`), certificates (`identity/`). Bound: per stream as `session.rs` says; streams,
//! handshakes and requests as `server.rs`, `entrance.rs` and `requests.rs` say; log lines of refusals as `line_limit` says.

mod acks;
mod admission;
mod entrance;
mod feed;
mod kinds;
mod metrics;
mod proxies;
mod requests;
mod server;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod tracked;

pub use acks::{Held, MAX_LAGGARDS, Moved};
pub use admission::{Denied, admit};
pub use feed::Feed;
pub use kinds::ResourceKind;
pub use metrics::Metrics;
pub use proxies::{Proxies, ProxyInfo};
pub use server::{Ages, Server};
pub use session::{Counts, MAX_NAME, MAX_SUBSCRIPTIONS, Nack, Received, Seen, Session, SessionError, Truth};
pub use stream::{Discovery, Lifetime};
