//! The numbers, as configured, and the two small types a caller hands over with each request.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::EndpointKey;

/// Outlier detection's numbers (SEMANTICS.md §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Consecutive failures that eject; `None` switches ejection off. Default 5; more than 65,535 count as that many.
    pub consecutive_failures: Option<NonZeroU32>,
    /// First ejection. Default 1 s; doubles each time.
    pub base: Duration,
    /// Longest ejection. Default 60 s.
    pub max: Duration,
    /// Largest part of ready endpoints ejected, in percent. Default 50. One endpoint of two or more may always be
    /// ejected, a single one never.
    pub max_percent: u32,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU32::new(5),
            base: Duration::from_secs(1),
            max: Duration::from_secs(60),
            max_percent: 50,
        }
    }
}

impl OutlierPolicy {
    /// The most endpoints of `ready` that may be ejected at a time: max(1 if n ≥ 2, ⌊n·`max_percent` %⌋), and never
    /// all of them.
    pub(super) fn cap(&self, ready: usize) -> usize {
        if self.consecutive_failures.is_none() || ready < 2 {
            return 0;
        }
        let percent = usize::try_from(self.max_percent.min(100)).unwrap_or(100);
        (ready * percent / 100).clamp(1, ready - 1)
    }
}

/// How a backend's endpoints are chosen among. The default is the mesh's: nothing not ready, any node, no affinity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BalancePolicy {
    /// Outlier detection.
    pub outlier: OutlierPolicy,
    /// Use endpoints that are not ready too (`publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// Only endpoints on this node (`internalTrafficPolicy: Local`).
    pub only_node: Option<Box<str>>,
    /// Keep a client address on its endpoint (`sessionAffinity: ClientIP`). The choice is a rendezvous hash of the
    /// client's address, so it needs no memory and outlives the configured time: as long as that endpoint is usable.
    pub client_ip_affinity: Option<Duration>,
}

/// What a pick has to respect.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickRequest<'a> {
    /// Endpoints already tried: used again only when nothing else is left. A request that names any here is a retry,
    /// and is not spent on a probe.
    pub avoid: &'a [EndpointKey],
    /// The client's address, for affinity.
    pub client: Option<IpAddr>,
    /// Where the client's session is: that endpoint, as long as it is ready, not ejected and not to be avoided.
    pub session: Option<SocketAddr>,
}

/// How one try went, for latency and outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// The endpoint answered, with something that is no gateway error.
    Success,
    /// Connect failure, reset before the response head, 502/503/504 from the app, or a timeout of the try (or
    /// of the request, where that was the try's fault).
    Failure,
    /// Its connection was open and did not answer a PING: counts as all the failures in a row that eject. Such an
    /// endpoint holds one or two requests (the balancer prefers those that answer), so that counting them would take
    /// another round of connect timeouts after the seconds it took to find out.
    Silent,
    /// Nothing can be said of the endpoint (the client went away, a limit of ours, an answer with a reason of ours
    /// such as `overflow`).
    Neutral,
}
