//! The replicas of the control plane, to each other: how far are the proxies that *you* serve? (SEMANTICS.md §2 "Status".)
//!
//! Every replica knows what its own proxies ACKed (`discovery/acks.rs`). The leader asks all of them, itself included, and
//! adds up. Nothing is kept and nothing is pushed: a question names a version, an answer is a few counts, so a leader
//! that dies takes nothing with it. A replica that does not answer makes the whole unknown, never good.
//!
//! | file | what it decides |
//! |---|---|
//! | `peers.rs` | who the replicas are: the EndpointSlices of Service `weft-control-plane` |
//! | `tls.rs` | that both ends are the control plane: its own SPIFFE identity, or nothing |
//! | `service.rs` | the answers (`weft.v1.Replicas` on port 15012) |
//! | `gather.rs` | one question to all, and the sum (pure) of what they say |
//! | `trust.rs` | whether every connected proxy has ACKed the trust bundle in force |
//!
//! Bound: one connection per replica, one request of at most [`MAX_QUESTIONS`] questions and [`MAX_REQUEST`] bytes to each at
//! a time and caller, [`gather::TIME_LIMIT`] for each.

pub mod gather;
mod peers;
mod service;
#[cfg(test)]
mod tests;
mod tls;
mod trust;

pub use gather::{Gathered, Progresses, Replicas};
pub use peers::{Peer, Peers};
pub use service::{Answers, MAX_ASKED, MAX_QUESTIONS, MAX_REQUEST};
pub use tls::client_config;
pub use trust::all_acked;

/// Which replica this is, and where the others are found.
#[derive(Debug, Clone)]
pub struct Place {
    /// The control plane's namespace.
    pub namespace: String,
    /// The Service in front of the replicas of this revision: `weft-control-plane`, or `weft-control-plane-REVISION`.
    pub service: String,
    /// This replica's pod.
    pub pod: String,
    /// The port all replicas serve discovery on: 15012.
    pub port: u16,
}
