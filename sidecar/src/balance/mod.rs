//! Endpoint sets and who gets the next request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use weft_proto::SpiffeId;

/// What tells one endpoint from another: state (latency, failures, ejection) is kept across updates by this key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Address and port.
    pub addr: SocketAddr,
    /// How it is reached.
    pub reach: Reach,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Plain text: it has no sidecar (or not on this port).
    Plain,
    /// Mesh TLS, by the identity it must prove.
    Mesh(SpiffeId),
}

/// A plain-text address: only [`Endpoint::plain`] makes one, so a meshed endpoint is never dialled in plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainAddr(SocketAddr);

impl PlainAddr {
    /// The address.
    pub fn get(self) -> SocketAddr {
        self.0
    }

    /// A destination outside the mesh that policy lets through: the control plane knows no endpoint there.
    pub fn outside_mesh(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

/// Whether an endpoint takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Health {
    /// Yes.
    Ready,
    /// Terminating and still serving: only when nothing is ready.
    Draining,
    /// Only where the backend publishes addresses that are not ready.
    NotReady,
}

/// An endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its key.
    pub key: EndpointKey,
    /// `namespace/name` of the pod, for logs.
    pub pod: Box<str>,
    /// Whether it takes requests.
    pub health: Health,
    /// At least one.
    pub weight: u32,
    /// Zone, or empty.
    pub zone: Box<str>,
    /// Node, or empty.
    pub node: Box<str>,
}

/// Outlier detection's numbers (SEMANTICS.md §3).
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierPolicy {
    /// Consecutive failures that eject; `None` switches ejection off. Default 5.
    pub consecutive_failures: Option<std::num::NonZeroU32>,
    /// First ejection. Default 1 s; doubles each time.
    pub base: std::time::Duration,
    /// Longest ejection. Default 60 s.
    pub max: std::time::Duration,
    /// Largest part of ready endpoints ejected, in percent. Default 50.
    pub max_percent: u32,
}

/// How a backend's endpoints are chosen among.
#[derive(Debug, Clone, PartialEq)]
pub struct BalancePolicy {
    /// Outlier detection.
    pub outlier: OutlierPolicy,
    /// Use endpoints that are not ready too (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// Only endpoints on this node (`internalTrafficPolicy: Local`).
    pub only_node: Option<Box<str>>,
    /// Keep a client address on its endpoint this long (`sessionAffinity: ClientIP`).
    pub client_ip_affinity: Option<std::time::Duration>,
}

/// What a pick has to respect.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickRequest<'a> {
    /// Endpoints already tried: used again only when nothing else is left.
    pub avoid: &'a [EndpointKey],
    /// The client's address, for affinity.
    pub client: Option<IpAddr>,
}

/// How one try went, for latency and outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// The endpoint answered, with something that is no gateway error.
    Success,
    /// Connect failure, reset before the response head, 502/503/504 from the app, or a timeout of the try.
    Failure,
    /// Nothing can be said of the endpoint (the client went away, a limit of ours, an answer with a reason of ours such as `overflow`).
    Neutral,
}
// API to be implemented by this room (signatures are the contract; see the helper brief):
//   Balancer::new(BalancePolicy) / set_policy(BalancePolicy) / update(Vec<EndpointSpec>, now)
//   Balancer::pick(now, rng, PickRequest) -> Result<Pick, NoEndpoint>
//   Pick { endpoint(): &Arc<Endpoint>, is_probe(), finish(self, now, TryResult) -> Finished } (dropping = Neutral)

#[doc(hidden)]
pub fn _placeholder(_: Arc<()>, _: Instant) {}
