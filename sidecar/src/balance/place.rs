//! Which of a backend's endpoints are near enough to this proxy.
//!
//! Two rules, of which the first that has something to say counts:
//!
//! 1. **Hints** (Kubernetes' topology-aware routing, KEP-2433, KEP-4444, KEP-3015): an endpoint may be meant for the clients of
//!    some nodes or zones. As in kube-proxy all of the ready ones must have hints of a kind, or those count for nothing; nodes
//!    go before zones; and where none is meant for this node or zone, there are no hints for this proxy. With
//!    [`Prefer::SameZone`] or [`Prefer::SameNode`] an endpoint without a hint is meant for its own zone or node: that is the
//!    hint that Kubernetes' controller gives it for a Service's `trafficDistribution`, before it has, and to slices that
//!    others write.
//! 2. **Shares** (`zone.rs`), with [`Prefer::Shares`]: the zone has as many of the requests as it has its share of endpoints.
//!    Not where requests keep their endpoint by key or client: a draw of zones before would send them to several.
//!
//! Neither counts where a policy asks for this node's endpoints alone (`internalTrafficPolicy: Local`), as in kube-proxy.
//!
//! What is near is preferred, and no more: a request that finds nobody there in use is for all (`tiers.rs`). What the rules say
//! is a value ([`Near`]), so that a change of callers that changes nothing makes no new set.
//!
//! Pure. Bound: an index for each ready endpoint, and a name and three numbers for each zone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rand::Rng;

use super::endpoint::Endpoint;
use super::policy::{Algorithm, BalancePolicy, Locality, Prefer};
use super::zone::Shares;

/// Where this proxy is, and where those like it are. The default is nowhere: nothing is near.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its zone, or empty.
    pub zone: Box<str>,
    /// Its node, or empty.
    pub node: Box<str>,
    /// In what proportion the pods of its workload, it among them, are in which zone. Where its own is not listed nobody has
    /// counted, and there are no shares.
    pub callers: Box<[(Box<str>, u32)]>,
}

/// What is near.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Near {
    /// These, by index. Never all of them, nor none.
    Meant { why: Why, by: By, of: Box<[usize]>, all: usize },
    /// A part of the requests for each zone.
    Shares(ZoneShares),
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Hints,
    Asked,
}

/// What an endpoint is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    Node(Box<str>),
    Zone(Box<str>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ZoneShares {
    shares: Shares,
    /// By name. The nameless one is of endpoints whose zone is not known; nobody is in it.
    zones: Box<[Box<str>]>,
    own: usize,
    /// Of a hundred callers and of a hundred by weight, in this zone.
    callers: f64,
    weight: f64,
    /// Endpoints, of how many.
    here: usize,
    all: usize,
}

impl Near {
    /// Of these ready endpoints; `None`: all alike.
    pub(super) fn new(ready: &[Arc<Endpoint>], policy: &BalancePolicy, place: &Place) -> Option<Self> {
        let Locality { prefer, least_endpoints } = policy.locality;
        if prefer == Prefer::Nothing || policy.only_node.is_some() {
            return None;
        }
        let by_node =
            || meant(ready, &place.node, |one| one.hint_nodes(), |one| one.node(), prefer == Prefer::SameNode);
        let by_zone = || {
            let asked = matches!(prefer, Prefer::SameZone | Prefer::SameNode);
            meant(ready, &place.zone, |one| one.hint_zones(), |one| one.zone(), asked)
        };
        // Who asks for the zone has not asked for the node.
        let node = if prefer == Prefer::SameZone { None } else { by_node() };
        let (by, (why, of)) = match node {
            Some(node) => (By::Node(place.node.clone()), node),
            None => match by_zone() {
                Some(zone) => (By::Zone(place.zone.clone()), zone),
                None => {
                    let keeps = policy.client_ip_affinity.is_some()
                        || matches!(policy.algorithm, Algorithm::RingHash { .. } | Algorithm::Maglev { .. });
                    let shares = || ZoneShares::new(ready, place, least_endpoints);
                    return if prefer == Prefer::Shares && !keeps { shares().map(Self::Shares) } else { None };
                }
            },
        };
        (of.len() < ready.len()).then_some(Self::Meant { why, by, of, all: ready.len() })
    }

    /// The endpoints of each pool that a request may be for first.
    pub(super) fn pools(&self, ready: &[Arc<Endpoint>]) -> Vec<Vec<Arc<Endpoint>>> {
        match self {
            Self::Meant { of, .. } => vec![of.iter().filter_map(|index| ready.get(*index)).cloned().collect()],
            Self::Shares(ZoneShares { zones, .. }) => {
                let of = |zone: &str| ready.iter().filter(|one| one.zone() == zone).cloned().collect();
                zones.iter().map(|zone| of(zone)).collect()
            }
        }
    }

    /// The pool that one request is for first.
    pub(super) fn draw<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        match self {
            Self::Meant { .. } => 0,
            Self::Shares(shares) => shares.shares.draw(rng),
        }
    }

    /// The pool of what is here.
    pub(super) fn home(&self) -> usize {
        match self {
            Self::Meant { .. } => 0,
            Self::Shares(shares) => shares.own,
        }
    }
}

/// Those of `ready` that are meant for `here`, and who says so: `None` unless it is said of all, and of one that it is for `here`.
fn meant<'e>(
    ready: &'e [Arc<Endpoint>],
    here: &str,
    hints: impl Fn(&'e Endpoint) -> &'e [Box<str>],
    own: impl Fn(&'e Endpoint) -> &'e str,
    asked: bool,
) -> Option<(Why, Box<[usize]>)> {
    if here.is_empty() {
        return None;
    }
    let (mut of, mut why) = (Vec::new(), Why::Hints);
    for (index, endpoint) in ready.iter().enumerate() {
        let is_meant = match hints(endpoint) {
            [] if asked && !own(endpoint).is_empty() => {
                why = Why::Asked;
                own(endpoint) == here
            }
            [] => return None,
            hints => hints.iter().any(|hint| **hint == *here),
        };
        if is_meant {
            of.push(index);
        }
    }
    (!of.is_empty()).then(|| (why, of.into()))
}

impl ZoneShares {
    fn new(ready: &[Arc<Endpoint>], place: &Place, least: u32) -> Option<Self> {
        let is_counted = |(zone, callers): &(Box<str>, u32)| *zone == place.zone && *callers > 0;
        if place.zone.is_empty() || !place.callers.iter().any(is_counted) {
            return None;
        }
        // By name: every proxy's list is the same.
        let mut zones: BTreeMap<&str, (u64, u64, usize)> = BTreeMap::new();
        for (zone, callers) in place.callers.iter().filter(|(zone, _)| !zone.is_empty()) {
            zones.entry(zone).or_default().0 += u64::from(*callers);
        }
        for endpoint in ready {
            let (_, weight, endpoints) = zones.entry(endpoint.zone()).or_default();
            *weight += u64::from(endpoint.weight());
            *endpoints += 1;
        }
        let own = zones.keys().position(|zone| **zone == *place.zone)?;
        let callers: Vec<u64> = zones.values().map(|(callers, ..)| *callers).collect();
        let weights: Vec<u64> = zones.values().map(|(_, weight, _)| *weight).collect();
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        let shares = Shares::new(own, &callers, &weights, ready.len(), least)?;
        let percent = |of: &[u64]| 100.0 * of[own] as f64 / of.iter().sum::<u64>().max(1) as f64;
        Some(Self {
            shares,
            own,
            callers: percent(&callers),
            weight: percent(&weights),
            here: zones.values().nth(own).map_or(0, |(.., endpoints)| *endpoints),
            all: ready.len(),
            zones: zones.into_keys().map(Box::from).collect(),
        })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Zone(name) => write!(f, "zone {name}"),
        }
    }
}

/// For people.
impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meant { why, by, of, all } => {
                let why = match why {
                    Why::Hints => "by the endpoints' hints",
                    Why::Asked => "as the Service or its policy asks",
                };
                write!(f, "{by} is preferred, {why}: {} of {all} ready endpoints", of.len())
            }
            Self::Shares(ZoneShares { shares, zones, own, callers, weight, here, all }) => {
                let zone = zones.get(*own).map_or("", |zone| zone);
                let stay = 100.0 * shares.stay();
                write!(
                    f,
                    "zone {zone} keeps {stay:.0} % of its requests: it has {here} of {all} ready endpoints ({weight:.0} %) \
                     and {callers:.0} % of the callers"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
