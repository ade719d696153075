//! A BackendPolicy of `weft.dev`: how clients call a Service, where neither the Gateway API nor the Service has a field for it.
//! What is absent is the mesh's default (SEMANTICS.md §3).

use std::time::Duration;

use super::{Meta, ObjectName};

/// A BackendPolicy.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct BackendPolicy {
    /// Metadata.
    pub meta: Meta,
    /// Services of its own namespace, by name.
    pub targets: Vec<String>,
    /// `loadBalancer`
    pub load_balancer: Option<LoadBalancer>,
    /// `outlierDetection`
    pub outlier_detection: Option<Box<OutlierDetection>>,
    /// `connectionLimits`; zero is no limit.
    pub limits: ConnectionLimits,
    /// `connectTimeout`
    pub connect_timeout: Option<Duration>,
    /// `httpIdleTimeout`
    pub http_idle_timeout: Option<Duration>,
    /// `tcpIdleTimeout`
    pub tcp_idle_timeout: Option<Duration>,
}

impl BackendPolicy {
    /// The Services it is for.
    pub fn services(&self) -> impl Iterator<Item = ObjectName> {
        self.targets.iter().map(|name| ObjectName::new(&*self.meta.name.namespace, &**name))
    }
}

/// Who gets the next request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoadBalancer {
    /// By which rule.
    pub algorithm: Algorithm,
    /// How a new endpoint is started.
    pub slow_start: Option<SlowStart>,
    /// How far requests stay near; `None`: as the Service says.
    pub locality: Option<Locality>,
}

/// How far requests stay near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Locality {
    /// By which rule.
    pub mode: LocalityMode,
    /// With fewer ready endpoints, zones have no shares; `None` is 6.
    pub min_endpoints: Option<u32>,
}

/// By which rule requests stay near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalityMode {
    /// By hints, else as far as the zone has its share of endpoints.
    ZoneAware,
    /// In the zone, as long as one of it is ready.
    PreferSameZone,
    /// On the node, else in the zone.
    PreferSameNode,
    /// Not at all. (Not `Off`: YAML 1.1 takes that for `false`.)
    Disabled,
}

/// By which rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The mesh's own.
    PowerOfTwo,
    /// In turns.
    RoundRobin,
    /// The fewest requests in flight, of `choices` drawn; zero is the default.
    LeastRequest {
        /// Of how many.
        choices: u32,
        /// What requests in flight count against the weight, in percent; `None` is 100.
        bias_percent: Option<u32>,
    },
    /// Any.
    Random,
    /// By key, on a ring; zeros are defaults.
    RingHash {
        /// What the key is.
        key: HashKey,
        /// Points at least.
        minimum: u32,
        /// Points at most.
        maximum: u32,
    },
    /// By key, in a table; zero is the default.
    Maglev {
        /// What the key is.
        key: HashKey,
        /// Cells.
        cells: u32,
    },
}

/// What of a request is its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// A header, lower case.
    Header(String),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Of one that is made; may be empty.
        path: String,
        /// How long one that is made lasts; `None`: none is made.
        lasts: Option<Duration>,
    },
    /// The client's address.
    Client,
    /// A query parameter.
    Query(String),
}

/// How a new endpoint is started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlowStart {
    /// How long until it has all of its weight.
    pub window: Duration,
    /// In percent; `None` is 100.
    pub aggression_percent: Option<u32>,
    /// `None` is 10.
    pub min_weight_percent: Option<u32>,
}

/// Caps of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ConnectionLimits {
    /// `maxConnections`
    pub connections: u32,
    /// `maxPendingRequests`
    pub pending: u32,
    /// `maxRequests`
    pub requests: u32,
    /// `maxRequestsPerConnection`
    pub requests_per_connection: u32,
}

/// Envoy's outlier detection. `None` is Envoy's default, but for what is said of a field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OutlierDetection {
    /// `consecutive5xx`; zero is never.
    pub consecutive_5xx: Option<u32>,
    /// `enforcingConsecutive5xx`
    pub enforcing_consecutive_5xx: Option<u32>,
    /// Zero is never. Off where neither this nor the next is said.
    pub consecutive_gateway_failure: Option<u32>,
    /// `enforcingConsecutiveGatewayFailure`
    pub enforcing_consecutive_gateway_failure: Option<u32>,
    /// `splitExternalLocalOriginErrors`
    pub local_origin: Option<LocalOrigin>,
    /// Between two looks at the rates.
    pub interval: Option<Duration>,
    /// The first ejection.
    pub base_ejection_time: Option<Duration>,
    /// The longest.
    pub max_ejection_time: Option<Duration>,
    /// At random.
    pub max_ejection_time_jitter: Option<Duration>,
    /// Of ready endpoints; one of two or more may always be ejected.
    pub max_ejection_percent: Option<u32>,
    /// `None` is 50.
    pub min_health_percent: Option<u32>,
    /// Off where it is not said.
    pub success_rate: Option<SuccessRate>,
    /// Off where it is not said.
    pub failure_percentage: Option<FailurePercentage>,
}

/// Failures to get an answer, told apart from answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LocalOrigin {
    /// `consecutiveLocalOriginFailure`; zero is never.
    pub consecutive: Option<u32>,
    /// `enforcingConsecutiveLocalOriginFailure`
    pub enforcing_consecutive: Option<u32>,
    /// `enforcingLocalOriginSuccessRate`
    pub enforcing_success_rate: Option<u32>,
    /// `enforcingFailurePercentageLocalOrigin`
    pub enforcing_failure_percentage: Option<u32>,
}

/// Ejects who succeeds less often than the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SuccessRate {
    /// `successRateMinimumHosts`
    pub hosts: Option<u32>,
    /// `successRateRequestVolume`
    pub requests: Option<u32>,
    /// `successRateStdevFactor`, in thousandths as in Envoy.
    pub stdev_factor: Option<u32>,
    /// `enforcingSuccessRate`
    pub enforcing: Option<u32>,
}

/// Ejects who fails too often.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FailurePercentage {
    /// `failurePercentageMinimumHosts`
    pub hosts: Option<u32>,
    /// `failurePercentageRequestVolume`
    pub requests: Option<u32>,
    /// `failurePercentageThreshold`
    pub threshold: Option<u32>,
    /// `enforcingFailurePercentage`
    pub enforcing: Option<u32>,
}
