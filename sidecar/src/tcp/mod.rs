//! Bytes we do not look into, and the sockets they travel on: dialling, options, and the relay with its half-closes.
//!
//! Not here: what the bytes are (`listen::detect`) and who may go where (`outbound/`, `inbound/`).

mod buffers;
pub mod dial;
mod idle;
pub mod options;
pub mod relay;
mod wide;

pub use dial::{DialError, dial_mesh_tcp, dial_plain};
pub use idle::idle;
pub use options::{expect_reader, reset};
pub use relay::{Abort, Counters, Ended, Relayed, relay, relay_until};
pub use wide::Wide;
