//! Endpoint sets and who gets the next request: P2C over averaged latency, outlier detection with one probe on return,
//! panic, draining, client affinity (SEMANTICS.md §3 "balancing", "outlier detection", "panic"; §1 "Service semantics").
//!
//! | file | decides |
//! |---|---|
//! | `policy.rs` | nothing: the numbers, as configured |
//! | `endpoint.rs` | what an endpoint is, and what of it outlives an update |
//! | `latency.rs` | how slow an endpoint is believed to be |
//! | `outlier.rs` | ejection: one word per endpoint, its bits and its transitions |
//! | `set.rs` | which endpoints are in the running, and the draw among them |
//! | `balancer.rs` | the whole: update, pick, record |
//!
//! Pure: `now` and the random source are arguments. Workers share one [`Balancer`]; a pick takes no lock, and neither
//! does its result unless it ejects an endpoint or brings it back.
//!
//! Not here: limits and retries (`resilience/`), connections (`http/`), locality and the other pickers (later).
//!
//! Bound: one [`Endpoint`] (some 200 bytes) for each spec given; nothing else grows.

mod balancer;
mod endpoint;
mod latency;
mod outlier;
mod policy;
mod set;

#[cfg(test)]
mod tests;

pub use balancer::{Balancer, BalancerView, Finished, NoEndpoint, NoEndpointReason, Pick};
pub use endpoint::{Endpoint, EndpointKey, EndpointSpec, EndpointView, Health, HeldBack, PlainAddr, Reach};
pub use policy::{BalancePolicy, OutlierPolicy, PickRequest, TryResult};
