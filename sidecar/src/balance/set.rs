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
//! the endpoints. It and the rules that a policy may ask for instead of the draw are in `picker.rs`.

use std::sync::Arc;

use rand::Rng;

use super::endpoint::{Endpoint, Health};
use super::outlier::Standing;
use super::picker::Picker;
use super::place::Place;
use super::policy::BalancePolicy;
use super::room::{Claims, Cut};
use super::slow_start::SlowStart;
use super::tiers::Tiers;

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
    /// Where they are not all one.
    pub(super) tiers: Option<Box<Tiers>>,
    /// So many of the ready ones may be ejected: with more there is panic.
    pub(super) calm: usize,
    /// Bytes of the tables of its pools.
    pub(super) claimed: usize,
    /// That which is smaller than it was to be, if any is.
    pub(super) cut: Option<Cut>,
    /// Whether any endpoint is on the node the policy asks for (true where it asks for none).
    pub(super) on_node: bool,
}

impl Set {
    pub(super) fn new(all: Arc<[Arc<Endpoint>]>, policy: BalancePolicy, claims: &Claims<'_>, place: &Place) -> Self {
        let here = |endpoint: &&Arc<Endpoint>| policy.only_node.as_deref().is_none_or(|node| node == endpoint.node());
        let of = |wanted: &[Health]| -> Pool {
            let wanted = all.iter().filter(here).filter(|e| wanted.contains(&e.health()));
            Pool::new(wanted.cloned().collect(), &policy, claims)
        };
        let ready =
            if policy.publish_not_ready { of(&[Health::Ready, Health::NotReady]) } else { of(&[Health::Ready]) };
        let draining = of(&[Health::Draining]);
        let on_node = all.iter().any(|endpoint| here(&endpoint));
        let tiers = Tiers::new(all.iter().filter(here), &ready, &policy, claims, place);
        let calm = policy.calm(ready.len());
        Self { ready, draining, tiers, calm, claimed: claims.claimed(), cut: claims.cut(), on_node, all, policy }
    }

    /// Whether it would be the same from another place.
    pub(super) fn is_as_from(&self, place: &Place) -> bool {
        Tiers::is_near_as_from(self.tiers.as_deref(), &self.ready, &self.policy, place)
    }
}

/// Endpoints that may be drawn.
#[derive(Debug)]
pub(super) struct Pool {
    endpoints: Vec<Arc<Endpoint>>,
    /// Running sums of the weights, where they differ.
    sums: Option<Vec<u64>>,
    mean_weight: f32,
    /// By which rule.
    pub(super) picker: Picker,
    pub(super) slow_start: SlowStart,
}

impl Pool {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, policy: &BalancePolicy, claims: &Claims<'_>) -> Self {
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
        let picker = Picker::new(policy, &endpoints, equal, claims);
        let slow_start = policy.slow_start.clone();
        Self { endpoints, sums: (!equal).then_some(sums), mean_weight, picker, slow_start }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
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
        Some(self.cheaper(rng, now, &self.endpoints[a], &self.endpoints[b]))
    }

    /// The cheaper of two; a tie is tossed for.
    #[inline]
    pub(super) fn cheaper<'p, R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        now: u64,
        a: &'p Arc<Endpoint>,
        b: &'p Arc<Endpoint>,
    ) -> &'p Arc<Endpoint> {
        let (cost_a, cost_b) = self.costs(now, a, b);
        let b_wins = cost_b < cost_a || (cost_a == cost_b && rng.random());
        if b_wins { b } else { a }
    }

    pub(super) fn candidate<R: Rng + ?Sized>(
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
