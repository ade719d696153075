//! Serves one downstream connection: HTTP/1 in [`super::h1::server`], HTTP/2 in [`super::h2::server`]; what they share is in
//! `shared.rs`.
//!
//! A client's connection is its own: whatever it sends can cost it that connection and nothing else (SEMANTICS.md §6).

pub(super) mod shared;

use super::error::ServeError;
use super::io::Io;
use super::{Handler, Proto};
use crate::listen::drain::Watch;

pub use self::shared::ServerSettings;

/// Serves `io` until it closes. `drain` asks for a graceful end: requests that were received are answered,
/// the client is told to open no more here, and the connection closes (SEMANTICS.md §3, drain).
///
/// # Errors
/// The connection did not end well. All its requests were answered, reset or cancelled; this is for the log.
///
/// # Cancel safety
/// Dropping the future closes the connection and cancels its requests.
pub async fn serve<IO: Io, H: Handler>(
    io: IO,
    proto: Proto,
    handler: H,
    settings: &ServerSettings,
    drain: Watch,
) -> Result<(), ServeError> {
    // Boxed: a connection of the one protocol should not have room for the other.
    match proto {
        Proto::H1 => Box::pin(super::h1::server::serve(io, handler, settings, drain)).await,
        Proto::H2 => Box::pin(super::h2::server::serve(io, handler, settings, drain)).await,
    }
}
