//! Bytes we do not look into, and the sockets they travel on: dialling, options, and the relay with its half-closes.
//!
//! Not here: what the bytes are (`listen::detect`), who may go where (`outbound/`, `inbound/`), and moving bytes inside
//! the kernel (splice), which comes later behind [`relay::relay`].

pub mod dial;
pub mod options;
pub mod relay;

pub use dial::{DialError, dial_mesh_tcp, dial_plain};
pub use options::reset;
pub use relay::{Abort, Counters, Ended, Relayed, relay, relay_until};
