//! Which endpoints are in the running, and the draw among them.
//!
//! **The draw** is power of two choices: two candidates at random, the cheaper one wins, a tie is tossed for. Cost is
//! the expected latency × (requests in flight + 1), the requests in flight counted against the endpoint's share of the
//! weight. Latencies within a factor of 1.5 count as equal: what differs less is mostly chance, and of equal endpoints the
//! one that chance makes the slowest would win no draw at all. Where weights differ they also decide how often an endpoint is a candidate (drawn with replacement), so that
//! an idle backend is shared by weight too: dividing the cost by the weight alone would send everything to the heaviest.
//!
//! **A new endpoint**, of which no latency is known, is taken to be as fast as the one it is compared with. So it is
//! tried at once, and its requests in flight keep it from being flooded before the first answer is in.
//!
//! **Affinity** is a weighted rendezvous hash of the client's address: every proxy makes the same choice without
//! talking to another, and an endpoint that comes or goes moves only its own share of clients. It costs one pass over
//! the endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use super::endpoint::{Endpoint, Health};
use super::outlier::Standing;
use super::policy::BalancePolicy;

/// Draws before falling back to one pass over all. At most half are ejected and three avoided, so this is rare.
const DRAWS: usize = 8;

/// What an endpoint is taken to cost when nothing is known of it nor of the one it is compared with: no more than a
/// unit, but for one that has only ever failed (which is charged a second) it is the better choice.
const UNKNOWN_US: f32 = 1_000.0;

/// Latencies whose ratio is no greater count as equal.
const ALIKE: f32 = 1.5;

/// An immutable list, with the policy it was made under.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) policy: BalancePolicy,
    pub(super) all: Arc<[Arc<Endpoint>]>,
    pub(super) ready: Pool,
    pub(super) draining: Pool,
    /// Whether any endpoint is on the node the policy asks for (true where it asks for none).
    pub(super) on_node: bool,
}

impl Set {
    pub(super) fn new(all: Arc<[Arc<Endpoint>]>, policy: BalancePolicy) -> Self {
        let here = |endpoint: &&Arc<Endpoint>| policy.only_node.as_deref().is_none_or(|node| node == endpoint.node());
        let of = |wanted: &[Health]| -> Pool {
            Pool::new(all.iter().filter(here).filter(|e| wanted.contains(&e.health())).cloned().collect())
        };
        let ready =
            if policy.publish_not_ready { of(&[Health::Ready, Health::NotReady]) } else { of(&[Health::Ready]) };
        let draining = of(&[Health::Draining]);
        let on_node = all.iter().any(|endpoint| here(&endpoint));
        Self { ready, draining, on_node, all, policy }
    }
}

/// Endpoints that may be drawn.
#[derive(Debug)]
pub(super) struct Pool {
    endpoints: Vec<Arc<Endpoint>>,
    /// Running sums of the weights, where they differ.
    sums: Option<Vec<u64>>,
    mean_weight: f32,
}

impl Pool {
    fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let mut sum = 0;
        let sums: Vec<u64> = endpoints
            .iter()
            .map(|endpoint| {
                sum += u64::from(endpoint.weight());
                sum
            })
            .collect();
        let equal = endpoints.windows(2).all(|pair| pair[0].weight() == pair[1].weight());
        let mean_weight = if endpoints.is_empty() { 1.0 } else { sum as f32 / endpoints.len() as f32 };
        Self { endpoints, sums: (!equal).then_some(sums), mean_weight }
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Arc<Endpoint>> {
        self.endpoints.iter()
    }

    pub(super) fn standings(&self) -> impl ExactSizeIterator<Item = &Standing> + Clone {
        self.endpoints.iter().map(|endpoint| &endpoint.state.standing)
    }

    /// The better of two `usable` candidates. A candidate that `first` accepts wins outright.
    pub(super) fn draw<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        usable: impl Fn(&Endpoint) -> bool,
        first: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let a = self.candidate(rng, None, &usable)?;
        if first(&self.endpoints[a]) {
            return Some(&self.endpoints[a]);
        }
        // With replacement where weights differ: the second draw must not hand the lighter one more than its share.
        let not = if self.sums.is_some() { None } else { Some(a) };
        let Some(b) = self.candidate(rng, not, &usable).filter(|b| *b != a) else { return Some(&self.endpoints[a]) };
        if first(&self.endpoints[b]) {
            return Some(&self.endpoints[b]);
        }
        let (cost_a, cost_b) = self.costs(now, &self.endpoints[a], &self.endpoints[b]);
        let b_wins = cost_b < cost_a || (cost_a == cost_b && rng.random());
        Some(&self.endpoints[if b_wins { b } else { a }])
    }

    /// The usable endpoint to which `client` belongs.
    pub(super) fn ranked_first(&self, client: IpAddr, usable: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let client = hash_ip(client);
        self.endpoints
            .iter()
            .filter(|endpoint| usable(endpoint))
            .max_by(|a, b| rank(client, a).total_cmp(&rank(client, b)))
    }

    fn candidate<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        not: Option<usize>,
        usable: &impl Fn(&Endpoint) -> bool,
    ) -> Option<usize> {
        let fits = |index: usize| Some(index) != not && usable(&self.endpoints[index]);
        if self.endpoints.len() > usize::from(not.is_some()) {
            for _ in 0..DRAWS {
                let index = match &self.sums {
                    None => rng.random_range(0..self.endpoints.len()),
                    Some(sums) => {
                        let point = rng.random_range(0..sums.last().copied().unwrap_or(1));
                        sums.partition_point(|sum| *sum <= point)
                    }
                };
                if fits(index) {
                    return Some(index);
                }
            }
        }
        let weight = |index: &usize| u64::from(self.endpoints[*index].weight());
        // An endpoint may stop being usable between the two passes; then the last one that was seen serves.
        let total: u64 = (0..self.endpoints.len()).filter(|index| fits(*index)).map(|index| weight(&index)).sum();
        if total == 0 {
            return None;
        }
        let mut point = rng.random_range(0..total);
        let mut last = None;
        for index in (0..self.endpoints.len()).filter(|index| fits(*index)) {
            last = Some(index);
            match point.checked_sub(weight(&index)) {
                Some(rest) => point = rest,
                None => break,
            }
        }
        last
    }

    fn costs(&self, now: u64, a: &Endpoint, b: &Endpoint) -> (f32, f32) {
        let (latency_a, latency_b) = (&a.state.latency, &b.state.latency);
        let expected_a = latency_a.expected_us(now);
        let expected_b = latency_b.expected_us(now);
        let us_a = expected_a.or_else(|| latency_b.average_us(now)).unwrap_or(UNKNOWN_US);
        let us_b = expected_b.or_else(|| latency_a.average_us(now)).unwrap_or(UNKNOWN_US);
        if us_a.max(us_b) <= us_a.min(us_b) * ALIKE {
            (self.load(a), self.load(b))
        } else {
            (us_a * self.load(a), us_b * self.load(b))
        }
    }

    fn load(&self, endpoint: &Endpoint) -> f32 {
        endpoint.in_flight() as f32 * self.mean_weight / endpoint.weight() as f32 + 1.0
    }
}

/// Weighted rendezvous: −w / ln(u), u uniform in (0, 1) by the hash of client and endpoint.
fn rank(client: u64, endpoint: &Endpoint) -> f64 {
    let hash = mix(client ^ hash_addr(endpoint.addr()));
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -f64::from(endpoint.weight()) / unit.ln()
}

fn hash_ip(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix((bits >> 64) as u64) ^ bits as u64)
        }
    }
}

fn hash_addr(addr: SocketAddr) -> u64 {
    mix(hash_ip(addr.ip()) ^ (u64::from(addr.port()) << 32))
}

/// Spreads every input bit over the word (the finisher of SplitMix64). Part of the affinity contract between proxies:
/// changing it moves clients.
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
