//! End-to-end tests: real binaries in pods made of network namespaces. Run as root by `make test-e2e`, one at a time,
//! since two cores that carry two worlds at once measure nothing; without root each fails with what to do.

#![expect(clippy::tests_outside_test_module, reason = "the whole crate is tests")]

mod balancing;
mod config;
mod endpoints;
mod faults;
mod idle;
mod locality;
mod outside;
mod pods;
mod protocols;
mod ratelimits;
mod redirect;
mod rollouts;
mod routes;
mod shop;
mod soak;
mod status;
mod tcp_routes;
mod tls_routes;
mod traffic_policies;
mod wire;
