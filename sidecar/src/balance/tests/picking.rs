//! Who is in the running, and what of an endpoint outlives an update.

use super::*;

#[test]
fn without_an_endpoint_the_reason_is_told() {
    let with = |health, node: &str| EndpointSpec { health, node: node.into(), ..spec(1) };
    let local = BalancePolicy { only_node: Some("here".into()), ..BalancePolicy::default() };
    let rows = [
        ("none at all", BalancePolicy::default(), vec![], NoEndpointReason::Empty),
        ("none ready", BalancePolicy::default(), vec![with(Health::NotReady, "here")], NoEndpointReason::AllNotReady),
        ("none here", local.clone(), vec![with(Health::Ready, "there")], NoEndpointReason::NoneOnNode),
        ("none ready here", local, vec![with(Health::NotReady, "here")], NoEndpointReason::AllNotReady),
    ];
    for (row, policy, specs, want) in rows {
        assert_eq!(World::new(policy, specs).pick_for(PickRequest::default()).map(drop), Err(want), "{row}");
    }
    let unfed = Balancer::new(BalancePolicy::default());
    let none = unfed.pick(Instant::now(), &mut SmallRng::seed_from_u64(1), PickRequest::default());
    assert_eq!(none.map(drop).map_err(|none| none.reason), Err(NoEndpointReason::Empty));
}

#[test]
fn health_and_node_decide_who_is_in_the_running() {
    let with = |id, health, node: &str| EndpointSpec { health, node: node.into(), ..spec(id) };
    let (ready, draining, not_ready) = (Health::Ready, Health::Draining, Health::NotReady);
    let plain = BalancePolicy::default();
    let publish = BalancePolicy { publish_not_ready: true, ..plain.clone() };
    let local = BalancePolicy { only_node: Some("here".into()), ..plain.clone() };
    let rows: [(&str, &BalancePolicy, Vec<EndpointSpec>, &[u8]); 6] = [
        ("ready ones only", &plain, vec![with(1, ready, ""), with(2, draining, ""), with(3, not_ready, "")], &[1]),
        ("draining ones when nothing is ready", &plain, vec![with(2, draining, ""), with(3, not_ready, "")], &[2]),
        ("published ones count as ready", &publish, vec![with(1, ready, ""), with(3, not_ready, "")], &[1, 3]),
        ("draining ones are not published", &publish, vec![with(2, draining, ""), with(3, not_ready, "")], &[3]),
        ("this node only", &local, vec![with(1, ready, "here"), with(2, ready, "there")], &[1]),
        ("draining here before ready there", &local, vec![with(1, draining, "here"), with(2, ready, "there")], &[1]),
    ];
    for (row, policy, specs, want) in rows {
        let mut got: Vec<u8> = World::new(policy.clone(), specs).shares(200).into_keys().collect();
        got.sort_unstable();
        assert_eq!(got, want, "{row}");
    }
}

#[test]
fn a_meshed_endpoint_has_no_plain_address() {
    let identity = SpiffeId::new("mesh", "ns", "sa").unwrap();
    let reach = Reach::Mesh(identity.clone());
    let meshed = EndpointSpec { key: EndpointKey { addr: addr(1), reach }, ..spec(1) };
    let mut world = World::new(BalancePolicy::default(), vec![meshed]);
    let pick = world.pick();
    assert_eq!(pick.endpoint().plain(), None);
    assert_eq!(pick.endpoint().mesh(), Some((addr(1), &identity)));
    world.update([spec(1)]);
    let pick = world.pick();
    assert_eq!(pick.endpoint().plain().map(PlainAddr::get), Some(addr(1)));
    assert_eq!(pick.endpoint().mesh(), None);
}

#[test]
fn the_endpoint_just_tried_is_avoided_while_there_is_another() {
    let mut world = World::of(3);
    for _ in 0..100 {
        assert_ne!(id(&world.avoiding(&[1])), 1);
        assert_eq!(id(&world.avoiding(&[1, 3])), 2);
    }
    // All tried: any will do.
    let again: std::collections::HashSet<u8> = (0..100).map(|_| id(&world.avoiding(&[1, 2, 3]))).collect();
    assert_eq!(again.len(), 3);
    // Another that is ejected, or draining, is no alternative.
    world.update([spec(1), spec(2), EndpointSpec { health: Health::Draining, ..spec(3) }]);
    assert!(matches!(world.fail(2), Finished::Ejected { .. }));
    for _ in 0..100 {
        assert_eq!(id(&world.avoiding(&[1])), 1);
    }
}

#[test]
fn state_is_kept_by_key_across_updates() {
    let mut world = World::of(3);
    let _ = world.fail(1);
    let held = world.pick_of(2);
    world.update([EndpointSpec { weight: 7, ..spec(1) }, spec(2)]);
    assert_eq!((world.view(1).ejected_ms, world.view(1).weight), (Some(1_000), 7));
    assert_eq!(world.view(2).in_flight, 1);
    // Reached otherwise it is another endpoint.
    let reach = Reach::Mesh(SpiffeId::new("mesh", "ns", "sa").unwrap());
    world.update([EndpointSpec { key: EndpointKey { addr: addr(1), reach }, ..spec(1) }, spec(3)]);
    assert_eq!(world.view(1).ejected_ms, None);
    assert_eq!(world.balancer.ejected(), 0);
    // One that went and came back is new, and what is still in flight to its predecessor does not concern it.
    world.update([spec(2), spec(3)]);
    assert_eq!(world.view(2).in_flight, 0);
    assert_eq!(world.done(held, TryResult::Failure), Finished::Ignored);
    assert_eq!(world.view(2).consecutive_failures, 0);
}

#[test]
fn of_two_specs_with_one_key_the_first_counts() {
    let world = World::new(BalancePolicy::default(), vec![spec(1), EndpointSpec { weight: 9, ..spec(1) }]);
    assert_eq!(world.balancer.endpoints().len(), 1);
    assert_eq!(world.view(1).weight, 1);
}

#[test]
fn the_snapshot_serializes() {
    let mut world = World::of(2);
    for _ in 0..4 {
        let pick = world.pick_of(1);
        let _ = world.balancer.finish(pick, world.now, ms(4), TryResult::Success);
    }
    let pick = world.pick_of(1);
    let _ = world.balancer.record(&pick, world.now, ms(4), TryResult::Success);
    let json = serde_json::to_value(world.balancer.snapshot(world.now)).unwrap();
    assert_eq!(json["ready"], 2);
    assert_eq!(json["endpoints"][0]["addr"], "10.0.0.1:8080");
    assert_eq!(json["endpoints"][0]["health"], "ready");
    assert_eq!(json["endpoints"][0]["in_flight"], 1);
    assert!((json["endpoints"][0]["ewma_ms"].as_f64().unwrap() - 4.0).abs() < 0.01);
    assert!(json["endpoints"][1]["ewma_ms"].is_null());
}

#[test]
fn a_new_endpoint_is_held_back_while_it_is_connected_to_where_there_is_another() {
    let mut world = World::of(3);
    let all = world.balancer.endpoints();
    let held = world.balancer.hold_back(&all[2], world.now, ms(5000));
    let seen = |world: &mut World| -> Vec<u8> {
        let mut seen: Vec<u8> = world.shares(200).into_keys().collect();
        seen.sort_unstable();
        seen
    };
    assert_eq!(seen(&mut world), [1, 2]);
    // What was tried already is worse than one that is being connected to.
    let avoid = [key(1), key(2)];
    let pick = world.pick_for(PickRequest { avoid: &avoid, ..PickRequest::default() }).unwrap();
    assert_eq!(id(&pick), 3);
    drop(pick);
    drop(held);
    assert_eq!(seen(&mut world), [1, 2, 3], "connected");
    let _again = world.balancer.hold_back(&all[2], world.now, ms(5000));
    assert_eq!(seen(&mut world), [1, 2, 3], "it has been reached before");

    let held: Vec<_> = all[..2].iter().map(|one| world.balancer.hold_back(one, world.now, ms(5000))).collect();
    assert_eq!(seen(&mut world), [3]);
    world.update([spec(1), spec(2)]);
    assert_eq!(seen(&mut world), [1, 2], "there is no other");
    world.update([spec(1), spec(2), spec(4)]);
    assert_eq!(seen(&mut world), [4]);
    world.now += ms(5000);
    assert_eq!(seen(&mut world), [1, 2, 4], "for so long only");
    assert_eq!(world.balancer.panics_total(), 0);
    drop(held);
}
