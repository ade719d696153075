//! Each rule that a policy may ask for, through the balancer.

use proptest::prelude::*;

use super::*;

fn by(algorithm: Algorithm) -> BalancePolicy {
    BalancePolicy { algorithm, ..BalancePolicy::default() }
}

fn least_request() -> Algorithm {
    Algorithm::LeastRequest { choices: 2, bias_milli: 1_000 }
}

fn ring() -> Algorithm {
    Algorithm::RingHash { minimum: 1_024, maximum: 65_536 }
}

fn all() -> [Algorithm; 6] {
    let maglev = Algorithm::maglev(0).expect("the default is a size");
    [Algorithm::PowerOfTwo, Algorithm::RoundRobin, least_request(), Algorithm::Random, ring(), maglev]
}

fn weighing(weights: &[u32]) -> Vec<EndpointSpec> {
    (1..).zip(weights).map(|(id, weight)| EndpointSpec { weight: *weight, ..spec(id) }).collect()
}

impl World {
    fn hashed(&mut self, key: u32) -> u8 {
        let hash = Some(hash_bytes(&key.to_be_bytes()));
        id(&self.pick_for(PickRequest { hash, ..PickRequest::default() }).expect("an endpoint"))
    }

    fn homes(&mut self, keys: u32) -> Vec<u8> {
        (0..keys).map(|key| self.hashed(key)).collect()
    }
}

#[test]
fn idle_endpoints_share_by_weight_whatever_the_rule() {
    for algorithm in all() {
        for weights in [&[1, 1, 1, 1][..], &[1, 3], &[1, 2, 3, 4]] {
            let got = World::new(by(algorithm.clone()), weighing(weights)).shares(10_000);
            let sum: u32 = weights.iter().sum();
            for (id, weight) in (1..).zip(weights) {
                let (got, want) = (f64::from(got[&id]) / 1e4, f64::from(*weight) / f64::from(sum));
                assert!((got - want).abs() < 0.02, "{algorithm:?} {weights:?}: {id} has {got}");
            }
        }
    }
}

#[test]
fn round_robin_takes_turns() {
    let mut world = World::new(by(Algorithm::RoundRobin), (1..=4).map(spec).collect());
    let mut round = || (0..4).map(|_| id(&world.pick())).collect::<Vec<_>>();
    let first = round();
    assert!((1..=4).all(|id| first.contains(&id)), "{first:?}");
    assert!((0..50).all(|_| round() == first));
}

#[test]
fn round_robin_passes_over_one_that_is_ejected() {
    let mut world = World::new(by(Algorithm::RoundRobin), (1..=4).map(spec).collect());
    assert!(matches!(world.fail(2), Finished::Ejected { .. }));
    let shares = world.shares(3_000);
    assert_eq!([1, 2, 3, 4].map(|id| shares.get(&id).copied().unwrap_or(0)), [1_000, 0, 1_000, 1_000]);
}

#[test]
fn least_request_prefers_who_has_less_to_do_and_knows_no_latency() {
    let mut world = World::new(by(least_request()), (1..=2).map(spec).collect());
    // The first is slow, which does not matter while nothing is in flight.
    for _ in 0..50 {
        for (one, latency) in [(1, ms(900)), (2, ms(1))] {
            let pick = world.pick_of(one);
            let _ = world.balancer.finish(pick, world.now, latency, TryResult::Success);
        }
    }
    let idle = world.shares(10_000)[&1];
    assert!((4_700..5_300).contains(&idle), "{idle}");
    let held = world.pick_of(2);
    let busy = world.shares(10_000);
    // Only two draws of the busy one lead there.
    assert!((2_200..2_800).contains(&busy[&2]), "{busy:?}");
    drop(held);
}

#[test]
fn least_request_divides_weight_by_load_where_weights_differ() {
    for (bias_milli, want) in [(0, 0.75), (1_000, 0.6), (2_000, 0.4286)] {
        let algorithm = Algorithm::LeastRequest { choices: 2, bias_milli };
        let mut world = World::new(by(algorithm), weighing(&[3, 1]));
        // 3 / 2^bias against 1.
        let held = world.pick_of(1);
        let got = f64::from(world.shares(10_000)[&1]) / 1e4;
        assert!((got - want).abs() < 0.002, "{bias_milli}: {got} for {want}");
        drop(held);
    }
}

#[test]
fn hashed_requests_stay_and_those_without_a_hash_go_anywhere() {
    for algorithm in &all()[4..] {
        let mut world = World::new(by(algorithm.clone()), (1..=5).map(spec).collect());
        let homes = world.homes(2_000);
        assert_eq!(world.homes(2_000), homes);
        let mut other = World::new(by(algorithm.clone()), (1..=5).rev().map(spec).collect());
        assert_eq!(other.homes(2_000), homes, "another proxy makes the same choice");
        assert!(world.shares(1_000).values().all(|n| *n > 100));
    }
}

#[test]
fn an_endpoint_that_goes_moves_its_keys_and_few_others() {
    for algorithm in &all()[4..] {
        let mut world = World::new(by(algorithm.clone()), (1..=10).map(spec).collect());
        let before = world.homes(20_000);
        world.update((1..=9).map(spec));
        let after = world.homes(20_000);
        let moved = before.iter().zip(&after).filter(|(before, after)| **before != 10 && before != after).count();
        assert!(moved < 2_200 && after.iter().all(|home| *home != 10), "{algorithm:?}: {moved} of 20,000");
    }
}

#[test]
fn an_ejected_endpoint_moves_its_keys_alone_and_only_one_of_them_probes_it() {
    for algorithm in &all()[4..] {
        let mut world = World::new(by(algorithm.clone()), (1..=5).map(spec).collect());
        let before = world.homes(2_000);
        assert!(matches!(world.fail(3), Finished::Ejected { .. }));
        let after = world.homes(2_000);
        assert!(before.iter().zip(&after).all(|(before, after)| (before == after) == (*before != 3)));
        world.now += ms(1_000);
        let probes = before.iter().zip(0..).filter(|(home, _)| **home == 3).map(|(_, key)| key).next().unwrap();
        let other = before.iter().zip(0..).filter(|(home, _)| **home == 1).map(|(_, key)| key).next().unwrap();
        let hash = |key: u32| PickRequest { hash: Some(hash_bytes(&key.to_be_bytes())), ..PickRequest::default() };
        assert!(!world.pick_for(hash(other)).unwrap().is_probe());
        let probe = world.pick_for(hash(probes)).unwrap();
        assert!(probe.is_probe() && id(&probe) == 3);
    }
}

#[test]
fn a_rule_can_be_changed_while_it_is_used() {
    let mut world = World::of(3);
    let held = world.pick();
    for algorithm in all() {
        world.balancer.set_policy(by(algorithm));
        assert_eq!(world.shares(100).values().sum::<u32>(), 100);
    }
    assert_eq!(world.view(id(&held)).in_flight, 1);
}

#[test]
fn a_table_of_a_size_that_is_none_is_refused_and_does_no_harm() {
    assert_eq!(Algorithm::maglev(65_536), None);
    assert_eq!(Algorithm::maglev(65_537), Algorithm::maglev(0));
    for cells in [0, 1, 4] {
        assert_eq!(World::new(by(Algorithm::Maglev { cells }), vec![spec(1)]).hashed(7), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `properties.rs` has the rest, for P2C: here is what choosing alone could break.
    #[test]
    fn whatever_the_rule_a_usable_endpoint_is_found_and_one_to_be_avoided_is_not(
        which in 0usize..6,
        weights in prop::collection::vec(1u32..2_000, 1..8),
        avoid in prop::collection::btree_set(1u8..9, 0..6),
        out in 1u8..9,
        slow in any::<bool>(),
        keys in prop::collection::vec(any::<Option<u64>>(), 20),
    ) {
        let n = weights.len() as u8;
        let mut policy = by(all()[which].clone());
        policy.slow_start.window = if slow { ms(60_000) } else { Duration::ZERO };
        let mut world = World::new(policy, weighing(&weights));
        let ejected = out <= n && matches!(world.fail(out), Finished::Ejected { .. });
        let avoided: Vec<_> = avoid.iter().copied().map(key).collect();
        for hash in keys {
            let picked = id(&world.pick_for(PickRequest { avoid: &avoided, hash, ..PickRequest::default() }).unwrap());
            prop_assert!((1..=n).contains(&picked));
            let unfit = |id: u8| avoid.contains(&id) || (ejected && id == out);
            let another = (1..=n).any(|id| !unfit(id));
            prop_assert!(!another || !unfit(picked));
        }
    }
}
