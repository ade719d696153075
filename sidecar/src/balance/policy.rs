//! The numbers, as configured, and the two small types a caller hands over with each request.

mod outlier;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use self::outlier::{Consecutive, EnvoyOutlier, LocalOrigin, OutlierPolicy};
use super::slow_start::SlowStart;
use super::{EndpointKey, maglev};

/// By which rule the next endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The cheaper of two by latency and requests in flight (`set.rs`).
    #[default]
    PowerOfTwo,
    /// In turns, by weight (`round_robin.rs`).
    RoundRobin,
    /// The one with the fewest requests in flight (`least_request.rs`).
    LeastRequest {
        /// Of how many drawn at random, where weights are equal. Envoy's default is 2; counts as 2 to 32.
        choices: u32,
        /// How much requests in flight count against the weight where weights differ, in thousandths. Envoy's default is
        /// 1000.
        bias_milli: u32,
    },
    /// Any, by weight. (Envoy's does not look at weights; whoever sets one means it.)
    Random,
    /// By [`PickRequest::hash`], on a ring (`ring.rs`). Requests without a hash go to any.
    RingHash {
        /// Points on the ring. Istio's default is 1024.
        minimum: u32,
        /// Bounds what weights that differ much need; 12 bytes each, and no more than 1,048,576.
        maximum: u32,
    },
    /// By [`PickRequest::hash`], in a table (`maglev.rs`). Requests without a hash go to any.
    Maglev {
        /// How many cells: see [`Algorithm::maglev`].
        cells: u32,
    },
}

impl Algorithm {
    /// Maglev with a table of `cells`, a prime number of at most 5,000,011; zero is the default, 65,537. `None` if it is
    /// none.
    pub fn maglev(cells: u32) -> Option<Self> {
        match cells {
            0 => Some(Self::Maglev { cells: maglev::CELLS }),
            _ => maglev::is_size(cells).then_some(Self::Maglev { cells }),
        }
    }
}

/// How far requests stay near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locality {
    /// By which rule.
    pub prefer: Prefer,
    /// With fewer ready endpoints than this, there are no shares. Envoy's default is 6.
    pub least_endpoints: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self { prefer: Prefer::Shares, least_endpoints: 6 }
    }
}

/// By which rule requests stay near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// Hints, where all have them; else shares.
    Shares,
    /// The zone, as long as it has a ready endpoint.
    SameZone,
    /// The node, else the zone.
    SameNode,
    /// None: all endpoints are alike.
    Nothing,
}

/// How a backend's endpoints are chosen among. The default is the mesh's: nothing not ready, any node, no affinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancePolicy {
    /// By which rule. Client affinity, if there is any, comes first.
    pub algorithm: Algorithm,
    /// How new endpoints are started. Default off.
    pub slow_start: SlowStart,
    /// How far requests stay near (`place.rs`). Default: by hints, else by shares.
    pub locality: Locality,
    /// With less than this part of ready endpoints in use, in percent, ejected ones are used too. Default 50; zero is
    /// never, but for when all are ejected; more than 100 count as 100.
    pub min_health_percent: u32,
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

impl Default for BalancePolicy {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            slow_start: SlowStart::default(),
            locality: Locality::default(),
            min_health_percent: 50,
            outlier: OutlierPolicy::default(),
            publish_not_ready: false,
            only_node: None,
            client_ip_affinity: None,
        }
    }
}

impl BalancePolicy {
    /// The most endpoints of `ready` that may be ejected without panic: ⌊n·(100 − `min_health_percent`) %⌋.
    pub(super) fn calm(&self, ready: usize) -> usize {
        let percent = usize::try_from(self.min_health_percent.min(100)).unwrap_or(100);
        ready * (100 - percent) / 100
    }
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
    /// What ring hash and Maglev go by: [`hash_bytes`](super::hash_bytes) of the header or cookie that the policy names,
    /// or [`hash_client`](super::hash_client).
    pub hash: Option<u64>,
}

/// How one try went, for latency and outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// The endpoint answered, with something that is no server error.
    Success,
    /// A connection for bytes that nobody understands was made: there are no answers to judge.
    Connected,
    /// The app answered with an error of its own, 500 say: no failure of its endpoint, except in Envoy's way.
    AppError {
        /// It is one of gRPC that Envoy takes for 503 or 504.
        gateway: bool,
    },
    /// It answered 502, 503 or 504.
    GatewayError,
    /// No answer: connect failure, reset before the response head, a response that breaks the protocol, or a timeout of the
    /// try (or of the request, where that was the try's fault).
    Failure,
    /// Its connection was open and did not answer a PING: counts as all the failures in a row that eject. Such an
    /// endpoint holds one or two requests (the balancer prefers those that answer), so that counting them would take
    /// another round of connect timeouts after the seconds it took to find out.
    Silent,
    /// Nothing can be said of the endpoint (the client went away, a limit of ours, an answer with a reason of ours
    /// such as `overflow`).
    Neutral,
}

impl TryResult {
    /// How many failures it is, in the mesh's own way; zero is a success (or nothing, [`Self::Neutral`]).
    pub(super) fn failures(self) -> u16 {
        match self {
            Self::Success | Self::Connected | Self::AppError { .. } | Self::Neutral => 0,
            Self::GatewayError | Self::Failure => 1,
            Self::Silent => u16::MAX,
        }
    }
}
