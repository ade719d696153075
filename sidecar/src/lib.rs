//! Weft's sidecar proxy. `docs/ARCHITECTURE.md` says what each room is for and what it may know; this list is in the
//! order a request meets them.
//!
//! Decisions (`route`, `balance`, `resilience`) are pure: they are handed `now` and a random source. Everything that
//! opens a socket is a thin shell around them.

pub mod admin;
pub mod answer;
mod aside;
pub mod backend_tls;
pub mod balance;
pub mod config;
#[cfg(test)]
mod cost;
pub mod dns;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod identity;
pub mod inbound;
mod limit;
pub mod listen;
pub mod outbound;
#[cfg(test)]
mod pair;
pub mod reason;
pub mod redirect;
pub mod resilience;
pub mod route;
pub mod runtime;
pub mod settings;
mod spin;
pub mod tcp;
pub mod telemetry;
