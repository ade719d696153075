//! Zones and priorities, through the balancer.

use super::*;

fn in_zone(id: u8, zone: &str) -> EndpointSpec {
    EndpointSpec { zone: zone.into(), ..spec(id) }
}

fn at_priority(id: u8, priority: u32) -> EndpointSpec {
    EndpointSpec { priority, ..spec(id) }
}

/// This proxy and two more in zone a, one in b.
fn zone_aware() -> BalancePolicy {
    among(3, 1)
}

/// This proxy is in zone a, with as many like it in all in zones a and b.
fn among(a: u32, b: u32) -> BalancePolicy {
    let callers: Box<[(Box<str>, u32)]> = Box::new([("a".into(), a), ("b".into(), b)]);
    BalancePolicy {
        zone_aware: Some(ZoneAware { zone: "a".into(), callers, least_endpoints: 6 }),
        ..BalancePolicy::default()
    }
}

/// Endpoints of which the first `here` are in zone a, the others in b.
fn zones(here: u8, all: u8) -> Vec<EndpointSpec> {
    (1..=all).map(|id| in_zone(id, if id <= here { "a" } else { "b" })).collect()
}

/// What part of 10,000 requests goes to endpoints up to `last`.
fn part(world: &mut World, last: u8) -> f64 {
    let shares = world.shares(10_000);
    f64::from(shares.iter().filter(|(id, _)| **id <= last).map(|(_, n)| n).sum::<u32>()) / 1e4
}

#[test]
fn requests_stay_in_their_zone_as_far_as_it_has_its_share_of_endpoints() {
    #[rustfmt::skip]
    let rows = [
        // here, all, want
        (8,       10, 1.0),
        (6,        8, 1.0),
        (4,        8, 0.5 / 0.75),
        (1,        8, 0.125 / 0.75),
        (0,        8, 0.0),
        // With five, zones do not matter.
        (2,        5, 0.4),
    ];
    for (here, all, want) in rows {
        let mut world = World::new(zone_aware(), zones(here, all));
        let got = part(&mut world, here);
        assert!((got - want).abs() < 0.015, "{here} of {all}: {got} for {want}");
    }
}

#[test]
fn a_retry_leaves_the_zone_rather_than_ask_again_whom_it_has_asked() {
    let mut world = World::new(among(1, 9), zones(1, 8));
    assert_eq!(id(&world.pick()), 1);
    assert!((0..100).all(|_| id(&world.avoiding(&[1])) > 1));
}

#[test]
fn a_zone_whose_endpoints_are_out_is_no_zone() {
    let mut world = World::new(zone_aware(), zones(4, 8));
    (1..=2).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert!((part(&mut world, 4) - 2.0 / 3.0).abs() < 0.015, "two of the zone are left");
    (3..=4).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert!(part(&mut world, 4) == 0.0);
}

#[test]
fn the_next_priority_gets_what_the_first_cannot_carry() {
    let specs = || (1..=10).map(|id| at_priority(id, 0)).chain((11..=20).map(|id| at_priority(id, 7))).collect();
    let mut world = World::new(BalancePolicy::default(), specs());
    assert!((part(&mut world, 10) - 1.0).abs() < 1e-9);
    for (out, want) in [(1, 1.0), (2, 1.0), (3, 0.98), (4, 0.84), (5, 0.70)] {
        assert!(matches!(world.fail(out), Finished::Ejected { .. }));
        let got = part(&mut world, 10);
        assert!((got - want).abs() < 0.015, "{out} out: {got} for {want}");
    }
}

#[test]
fn endpoints_that_are_not_ready_count_against_their_priority() {
    let health = |id| if id <= 5 { Health::NotReady } else { Health::Ready };
    let specs = (1..=20).map(|id| EndpointSpec { health: health(id), ..at_priority(id, u32::from(id > 10)) });
    let got = part(&mut World::new(BalancePolicy::default(), specs.collect()), 10);
    assert!((got - 0.7).abs() < 0.015, "{got}");
}

#[test]
fn priorities_hold_for_every_rule() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::RingHash { minimum: 64, maximum: 1_024 }] {
        let policy = BalancePolicy { algorithm, ..BalancePolicy::default() };
        let mut world = World::new(policy, vec![at_priority(1, 0), at_priority(2, 0), at_priority(3, 1)]);
        assert!((0..200).all(|key| {
            let hash = Some(hash_bytes(&[key]));
            id(&world.pick_for(PickRequest { hash, ..PickRequest::default() }).unwrap()) < 3
        }));
    }
}

#[test]
fn a_first_priority_without_endpoints_is_passed_over() {
    let gone = EndpointSpec { health: Health::NotReady, ..at_priority(1, 0) };
    let mut world = World::new(BalancePolicy::default(), vec![gone, at_priority(2, 1)]);
    assert!((0..100).all(|_| id(&world.pick()) == 2));
}

#[test]
fn panic_uses_all_of_every_priority() {
    let policy = BalancePolicy { algorithm: Algorithm::Random, min_health_percent: 100, ..BalancePolicy::default() };
    let mut world = World::new(policy, vec![at_priority(1, 0), at_priority(2, 0), at_priority(3, 1)]);
    assert!(matches!(world.fail(1), Finished::Ejected { .. }));
    let shares = world.shares(3_000);
    assert!((1..=3).all(|id| shares[&id] > 0), "{shares:?}");
    assert!(world.balancer.panics_total() >= 3_000);
}
