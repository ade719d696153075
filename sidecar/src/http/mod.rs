//! The forwarding engine: HTTP/1 by our own strict codec (`h1`), HTTP/2 by the `h2` crate, and what keeps the two
//! telling the same story (`translate`, `hygiene`).

pub mod h1;
pub mod hygiene;
pub mod translate;
