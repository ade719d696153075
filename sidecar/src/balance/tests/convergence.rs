//! Each rule's shares after 100,000 requests, against what its weights say.
//!
//! Where chance decides, the bound is five standard deviations; the seed is fixed, so a run that passes keeps passing. Where
//! a table does, it is what the table can be off, and chance is only which keys come.

use super::*;

const REQUESTS: u32 = 100_000;
const WEIGHTS: [u32; 4] = [1, 2, 3, 4];

/// Five standard deviations of a share.
fn chance(share: f64) -> f64 {
    5.0 * (share * (1.0 - share) / f64::from(REQUESTS)).sqrt()
}

/// Asserts that each endpoint of [`WEIGHTS`] has its share of 100,000 requests, none of which is under way when the next
/// one comes, give or take what `bound` makes of the share.
fn converges(algorithm: Algorithm, keyed: bool, bound: impl Fn(f64) -> f64) {
    let policy = BalancePolicy { algorithm: algorithm.clone(), ..BalancePolicy::default() };
    let specs = (1..).zip(WEIGHTS).map(|(id, weight)| EndpointSpec { weight, ..spec(id) });
    let mut world = World::new(policy, specs.collect());
    let mut got = [0u32; WEIGHTS.len()];
    for key in 0..REQUESTS {
        let hash = keyed.then(|| hash_bytes(&key.to_be_bytes()));
        let pick = world.pick_for(PickRequest { hash, ..PickRequest::default() }).expect("an endpoint");
        got[usize::from(id(&pick)) - 1] += 1;
    }
    let sum: u32 = WEIGHTS.iter().sum();
    for (got, weight) in got.iter().zip(WEIGHTS) {
        let (got, want) = (f64::from(*got) / f64::from(REQUESTS), f64::from(weight) / f64::from(sum));
        let bound = bound(want);
        assert!((got - want).abs() <= bound, "{algorithm:?}: {got} for {want}, give or take {bound}");
    }
}

#[test]
fn power_of_two_gives_idle_endpoints_their_weight() {
    converges(Algorithm::PowerOfTwo, false, chance);
}

#[test]
fn round_robin_gives_every_endpoint_its_weight_to_a_request() {
    converges(Algorithm::RoundRobin, false, |_| f64::from(WEIGHTS.len() as u32) / f64::from(REQUESTS));
}

#[test]
fn least_request_gives_idle_endpoints_their_weight_to_a_request() {
    let algorithm = Algorithm::LeastRequest { choices: 2, bias_milli: 1_000 };
    converges(algorithm, false, |_| f64::from(WEIGHTS.len() as u32) / f64::from(REQUESTS));
}

#[test]
fn random_gives_every_endpoint_its_weight() {
    converges(Algorithm::Random, false, chance);
}

#[test]
fn a_ring_gives_every_endpoint_its_weight_the_better_the_more_points_it_has() {
    // An endpoint's part is a sum of as many gaps as it has points, each of which is as uneven as chance.
    for points in [1_024, 65_536] {
        let algorithm = Algorithm::RingHash { minimum: points, maximum: 65_536 };
        converges(algorithm, true, |share| chance(share) + 5.0 * (share / f64::from(points)).sqrt());
    }
}

#[test]
fn maglev_gives_every_endpoint_its_weight_to_a_cell_and_what_keys_come() {
    let algorithm = Algorithm::maglev(0).expect("the default is a size");
    converges(algorithm, true, |share| chance(share) + f64::from(WEIGHTS.len() as u32) / 65_537.0);
}

#[test]
fn the_fewest_requests_of_two_draws_keep_endpoints_even_while_requests_last() {
    let policy = BalancePolicy {
        algorithm: Algorithm::LeastRequest { choices: 2, bias_milli: 1_000 },
        ..BalancePolicy::default()
    };
    let mut world = World::new(policy, (1..=4).map(spec).collect());
    // Forty are under way at any time, and the oldest ends first.
    let mut held = std::collections::VecDeque::new();
    let mut got = [0u32; 4];
    for _ in 0..REQUESTS {
        if held.len() == 40 {
            held.pop_front();
        }
        let pick = world.pick();
        got[usize::from(id(&pick)) - 1] += 1;
        held.push_back(pick);
    }
    assert!(got.iter().all(|n| n.abs_diff(REQUESTS / 4) < REQUESTS / 200), "{got:?}");
}

#[test]
fn zones_have_their_shares_and_endpoints_in_them_an_equal_part() {
    // Three of four callers are in zone a, and half of the endpoints: of what a's callers send, two thirds stay.
    let callers = Box::new([("a".into(), 3), ("b".into(), 1)]);
    let place = Place { zone: "a".into(), node: "".into(), callers };
    let zone = |id: u8| if id <= 4 { "a" } else { "b" };
    let specs = (1..=8).map(|id| EndpointSpec { zone: zone(id).into(), ..spec(id) }).collect();
    let mut world = World::new(BalancePolicy::default(), specs);
    world.balancer.set_place(&Arc::new(place));
    let shares = world.shares(REQUESTS);
    for id in 1..=8 {
        let want = if id <= 4 { 2.0 / 3.0 / 4.0 } else { 1.0 / 3.0 / 4.0 };
        let got = f64::from(shares[&id]) / f64::from(REQUESTS);
        assert!((got - want).abs() <= chance(want), "{id}: {got} for {want}");
    }
}
