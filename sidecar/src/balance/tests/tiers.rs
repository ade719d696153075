//! Zones, hints and priorities, through the balancer.

use super::*;

fn in_zone(id: u8, zone: &str) -> EndpointSpec {
    EndpointSpec { zone: zone.into(), ..spec(id) }
}

fn at_priority(id: u8, priority: u32) -> EndpointSpec {
    EndpointSpec { priority, ..spec(id) }
}

/// This proxy is in zone a, on node 1, with as many like it in all in zones a and b.
fn among(a: u32, b: u32) -> Arc<Place> {
    let callers = Box::new([("a".into(), a), ("b".into(), b)]);
    Arc::new(Place { zone: "a".into(), node: "node-1".into(), callers })
}

fn world_in(place: &Arc<Place>, policy: BalancePolicy, specs: Vec<EndpointSpec>) -> World {
    let world = World::new(policy, specs);
    world.balancer.set_place(place);
    world
}

/// Three of four callers are in zone a.
fn zone_aware(specs: Vec<EndpointSpec>) -> World {
    world_in(&among(3, 1), BalancePolicy::default(), specs)
}

/// In a zone, and meant for the clients of it, or of one node of it.
fn meant(id: u8, zone: &str, node: &str) -> EndpointSpec {
    let of = |name: &str| if name.is_empty() { Box::default() } else { [name.into()].into() };
    let hints = Hints { zones: of(zone), nodes: of(node) };
    EndpointSpec { hints: Some(Box::new(hints)), ..in_zone(id, zone) }
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
        let mut world = zone_aware(zones(here, all));
        let got = part(&mut world, here);
        assert!((got - want).abs() < 0.015, "{here} of {all}: {got} for {want}");
    }
}

#[test]
fn a_retry_leaves_the_zone() {
    let mut world = world_in(&among(1, 9), BalancePolicy::default(), zones(2, 8));
    assert!((0..100).all(|_| id(&world.pick()) <= 2));
    assert!((0..100).all(|_| id(&world.avoiding(&[1])) > 2), "where there is a second one here as well");
    assert_eq!(id(&world.avoiding(&[1, 3, 4, 5, 6, 7, 8])), 2, "unless there is no other");
}

#[test]
fn a_retry_of_what_failed_elsewhere_comes_home() {
    // A third of the requests is for zone b, which does not answer.
    let mut world = zone_aware(zones(4, 8));
    assert!((0..100).all(|_| id(&world.avoiding(&[5])) <= 4));
    assert!((0..100).all(|_| id(&world.avoiding(&[5, 1])) != 5), "both zones have been tried");
    let place = || Arc::new(Place { callers: Box::default(), ..(*among(1, 1)).clone() });
    let hinted = |id: u8| meant(id, ["a", "b", "c"][usize::from(id % 3)], "");
    let mut three = world_in(&place(), BalancePolicy::default(), (0..9).map(hinted).collect());
    assert!((0..100).all(|_| id(&three.avoiding(&[1])).is_multiple_of(3)), "what is near before the third");
    assert!((0..100).all(|_| id(&three.avoiding(&[0, 1])) % 3 == 2), "the one that has not been tried");
}

#[test]
fn who_keeps_its_endpoint_probes_it_where_that_is_near() {
    let policy = BalancePolicy { client_ip_affinity: Some(ms(10_800_000)), ..BalancePolicy::default() };
    for n in 0..20 {
        let specs = (1..=6).map(|id| meant(id, if id <= 2 { "a" } else { "b" }, "")).collect();
        let mut world = world_in(&among(1, 1), policy.clone(), specs);
        let client = PickRequest { client: client(n), ..PickRequest::default() };
        let home = id(&world.pick_for(client).unwrap());
        for _ in 0..5 {
            let pick = world.pick_for(client).unwrap();
            let _ = world.done(pick, TryResult::Failure);
        }
        let meanwhile = id(&world.pick_for(client).unwrap());
        assert!(home <= 2 && meanwhile <= 2 && meanwhile != home);
        world.now += ms(1_000);
        let probe = world.pick_for(client).unwrap();
        assert!(probe.is_probe() && id(&probe) == home, "client {n}");
    }
}

#[test]
fn a_zone_whose_endpoints_are_out_is_no_zone() {
    let mut world = zone_aware(zones(4, 8));
    (1..=2).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert!((part(&mut world, 4) - 2.0 / 3.0).abs() < 0.015, "two of the zone are left");
    (3..=4).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert!(part(&mut world, 4) == 0.0);
}

#[test]
fn what_is_meant_for_this_zone_or_node_has_all_as_long_as_one_of_it_is_in_use() {
    let near = |id: u8| meant(id, if id <= 2 { "a" } else { "b" }, "");
    let mut world = zone_aware((1..=4).map(near).collect());
    assert!(part(&mut world, 2) == 1.0);
    assert!(id(&world.avoiding(&[1])) > 2, "a retry leaves the zone");
    assert!(matches!(world.fail(1), Finished::Ejected { .. }));
    assert!(part(&mut world, 2) == 1.0, "one is left");
    assert!(matches!(world.fail(2), Finished::Ejected { .. }));
    assert!(part(&mut world, 2) == 0.0, "none is");
    // It is gone: then there is nobody for this zone, and hints do not matter.
    world.update((3..=4).map(near));
    assert!(world.shares(100).len() == 2);
    world.update((1..=4).map(|id| meant(id, "a", if id == 3 { "node-1" } else { "node-2" })));
    assert!(world.shares(100).keys().all(|id| *id == 3), "the node goes before the zone");
}

#[test]
fn a_zone_with_more_endpoints_than_may_be_ejected_is_left_all_the_same() {
    // Five of eight fail, and four may be out: the fifth stays in use, and has failed as often.
    let mut world = zone_aware((1..=8).map(|id| meant(id, if id <= 5 { "a" } else { "b" }, "")).collect());
    (1..=4).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert_eq!(world.fail(5), Finished::Kept);
    let there = 1.0 - part(&mut world, 5);
    assert!(there > 0.6, "{there} of the requests go to those that answer");
}

#[test]
fn clients_and_keys_stay_where_they_are_among_what_is_near() {
    let ring = Algorithm::RingHash { minimum: 64, maximum: 1_024 };
    let policy = BalancePolicy { algorithm: ring, ..BalancePolicy::default() };
    let asked = |world: &mut World, key: u8| {
        let hash = Some(hash_bytes(&[key]));
        id(&world.pick_for(PickRequest { hash, ..PickRequest::default() }).unwrap())
    };
    // Zones alone would have a key go to one of several endpoints, as the draw of zones falls.
    let mut by_zone = world_in(&among(3, 1), policy.clone(), zones(4, 8));
    for key in 0..50 {
        let home = asked(&mut by_zone, key);
        assert!((0..20).all(|_| asked(&mut by_zone, key) == home));
    }
    let mut hinted =
        world_in(&among(3, 1), policy, (1..=8).map(|id| meant(id, if id <= 4 { "a" } else { "b" }, "")).collect());
    for key in 0..50 {
        let home = asked(&mut hinted, key);
        assert!(home <= 4 && (0..20).all(|_| asked(&mut hinted, key) == home));
    }
}

#[test]
fn a_place_is_heard_of_before_and_after_the_endpoints_and_what_changes_nothing_makes_no_new_set() {
    let specs = zones(4, 8);
    let mut after = World::new(BalancePolicy::default(), specs.clone());
    assert!((part(&mut after, 4) - 0.5).abs() < 0.015, "it is not known where this is");
    after.balancer.set_place(&among(3, 1));
    assert!((part(&mut after, 4) - 2.0 / 3.0).abs() < 0.015);
    let mut before = World::new(BalancePolicy::default(), Vec::new());
    before.balancer.set_place(&among(3, 1));
    before.update(specs.clone());
    assert!((part(&mut before, 4) - 2.0 / 3.0).abs() < 0.015);
    before.balancer.set_place(&among(1, 1));
    assert!(part(&mut before, 4) == 1.0, "there are fewer callers");
    let policy = BalancePolicy {
        locality: Locality { prefer: Prefer::Nothing, ..Locality::default() },
        ..BalancePolicy::default()
    };
    before.balancer.set_policy(policy);
    assert!((part(&mut before, 4) - 0.5).abs() < 0.015, "a policy says that it does not matter");
    before.balancer.set_policy(BalancePolicy::default());
    assert!(part(&mut before, 4) == 1.0, "the place outlives the policy");
    // A new set begins its turns anew, at random: the chance that all go on as they were is one in 6^20.
    let turns = BalancePolicy { algorithm: Algorithm::RoundRobin, ..BalancePolicy::default() };
    let mut world = world_in(&among(1, 1), turns, zones(6, 8));
    let first = id(&world.pick());
    for turn in 1..=20_u8 {
        world.balancer.set_place(&among(turn.into(), turn.into()));
        assert_eq!((id(&world.pick()) + 6 - first) % 6, turn % 6, "the same shares: the same set");
    }
}

#[test]
fn the_view_says_which_are_near_and_why() {
    let mut world = zone_aware(zones(4, 8));
    let view = world.balancer.snapshot(world.now);
    let why = "zone a keeps 67 % of its requests: it has 4 of 8 ready endpoints (50 %) and 75 % of the callers";
    assert_eq!(view.near.as_deref(), Some(why));
    assert!(view.endpoints.iter().all(|one| one.near == Some(&*one.zone == "a")));
    world = zone_aware((1..=3).map(|id| meant(id, if id == 1 { "a" } else { "b" }, "")).collect());
    let view = world.balancer.snapshot(world.now);
    let why = "zone a is preferred, by the endpoints' hints: 1 of 3 ready endpoints";
    assert_eq!(view.near.as_deref(), Some(why));
    world = zone_aware(zones(5, 5));
    assert_eq!(world.balancer.snapshot(world.now).near, None);
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
