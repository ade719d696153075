//! Endpoint sets and who gets the next request: P2C over averaged latency and the rules that a policy may ask for instead,
//! slow start, zones and priorities, outlier detection with one probe on return or as Envoy has it, panic, draining, client
//! affinity (SEMANTICS.md §3 "balancing", "slow start", "locality", "outlier detection", "panic"; §1 "Service semantics").
//!
//! | file | decides |
//! |---|---|
//! | `policy.rs` | nothing: the numbers, as configured |
//! | `endpoint.rs` | what an endpoint is, and what of it outlives an update |
//! | `latency.rs` | how slow an endpoint is believed to be |
//! | `outlier.rs` | ejection: one word per endpoint, its bits and its transitions; kinds of failures in `outlier/kinds.rs`; by rate, in `sweep.rs` |
//! | `set.rs` | which endpoints are in the running, and the draw among them |
//! | `picker.rs` | who is chosen by another rule: `round_robin.rs`, `least_request.rs` (both on `edf.rs`), `ring.rs`, `maglev.rs` |
//! | `room.rs` | how large the tables of ring hash and Maglev may be, all of a proxy together |
//! | `hash.rs` | what is the same in every proxy: the hashes |
//! | `slow_start.rs` | how much of its weight a new endpoint has |
//! | `tiers.rs` | which of the ready endpoints a request is for: by `priority.rs` and `place.rs` |
//! | `place.rs` | which are near: by hints, or by the shares of `zone.rs` |
//! | `turns.rs` | when an endpoint is asked that nobody has asked for a while |
//! | `balancer.rs` | the whole: update and pick; what a result does in `pick.rs`, what is shown in `view.rs` |
//!
//! Pure: `now` and the random source are arguments. Workers share one [`Balancer`]; a pick takes no lock, and neither
//! does its result unless it ejects an endpoint or brings it back. (Round robin and least request take a short one where
//! weights differ: see `edf.rs`.)
//!
//! Not here: limits and retries (`resilience/`), connections (`http/`), what a request is hashed by (`outbound/`).
//!
//! Bound: one [`Endpoint`] (some 250 bytes) for each spec given, and what the policy's rule keeps for it (tables within
//! [`Room::MOST`]); nothing else grows.

mod balancer;
mod edf;
mod endpoint;
mod hash;
mod latency;
mod least_request;
mod maglev;
mod outlier;
mod picker;
mod place;
mod policy;
mod priority;
mod ring;
mod room;
mod round_robin;
mod set;
mod slow_start;
mod sweep;
mod tiers;
mod turns;
mod zone;

#[cfg(test)]
mod tests;

pub use balancer::{Balancer, BalancerView, Finished, NoEndpoint, NoEndpointReason, Pick};
pub use endpoint::{Endpoint, EndpointKey, EndpointSpec, EndpointView, Health, HeldBack, Hints, PlainAddr, Reach};
pub use hash::{hash_bytes, hash_client};
pub use outlier::rates::{FailurePercentage, SuccessRate};
pub use place::Place;
pub use policy::{
    Algorithm, BalancePolicy, Consecutive, EnvoyOutlier, LocalOrigin, Locality, OutlierPolicy, PickRequest, Prefer,
    TryResult,
};
pub use room::{Cut, Room};
pub use slow_start::SlowStart;
