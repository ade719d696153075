//! The way in: bound sockets, where a redirected connection was going, what it speaks, and drain.
//!
//! * [`accept`]: listeners that survive whatever `accept` returns
//! * [`original_dst`]: the destination before redirection
//! * [`first`]: who speaks first; bytes read for detection are replayed
//! * [`detect`]: HTTP/1, HTTP/2, TLS or opaque, by the first bytes
//! * [`client_hello`]: SNI and ALPN of a TLS client
//! * [`sni`]: a TLS client's server name, read off the connection
//! * [`drain`]: one signal, and a guard per thing that must finish
//!
//! `detect` and `client_hello` are pure. What follows from the answers is decided in `outbound/` and `inbound/`.

pub mod accept;
pub mod client_hello;
pub mod detect;
pub mod drain;
pub mod first;
pub mod original_dst;
pub mod sni;

pub use accept::{Accept, Scope};
pub use client_hello::{ClientHello, NotTls, read_client_hello};
pub use detect::{Detected, detect};
pub use first::{FirstSpeaker, Prefixed, first_bytes};
pub use original_dst::original_dst;
