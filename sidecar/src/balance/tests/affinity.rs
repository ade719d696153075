//! Clients that stay with their endpoint.

use super::*;

fn sticky(specs: impl IntoIterator<Item = EndpointSpec>) -> World {
    let policy = BalancePolicy { client_ip_affinity: Some(ms(10_800_000)), ..BalancePolicy::default() };
    World::new(policy, specs.into_iter().collect())
}

fn homes(world: &mut World, avoid: &[EndpointKey]) -> Vec<u8> {
    (0..1_000).map(|n| id(&world.pick_for(PickRequest { avoid, client: client(n), session: None }).unwrap())).collect()
}

#[test]
fn a_client_stays_and_a_change_moves_only_who_has_to_move() {
    let mut world = sticky((1..=5).map(spec));
    let before = homes(&mut world, &[]);
    assert_eq!(homes(&mut world, &[]), before);
    assert_eq!(homes(&mut sticky((1..=5).rev().map(spec)), &[]), before, "another proxy makes the same choice");
    world.update((1..=4).map(spec));
    for (before, after) in before.iter().zip(homes(&mut world, &[])) {
        assert!(*before == after || *before == 5, "{before} → {after}");
    }
    let avoiding = homes(&mut world, &[key(1)]);
    assert!(avoiding.iter().all(|home| *home != 1));
}

#[test]
fn clients_are_spread_by_weight() {
    let mut world = sticky((1..=3).map(|id| EndpointSpec { weight: u32::from(id), ..spec(id) }));
    let mut got = HashMap::new();
    homes(&mut world, &[]).into_iter().for_each(|home| *got.entry(home).or_insert(0) += 1);
    let chi_square = chi_square(&got, &(1..=3).map(|id| (id, f64::from(id))).collect());
    assert!(chi_square < 25.0, "{got:?} χ²={chi_square}");
}

#[test]
fn only_a_client_that_belongs_there_probes() {
    let mut world = sticky((1..=3).map(spec));
    let before = homes(&mut world, &[]);
    let of = |home: u8| {
        before
            .iter()
            .zip(0..)
            .find(|(h, _)| **h == home)
            .map(|(_, n)| PickRequest { client: client(n), ..PickRequest::default() })
    };
    let (belongs, other) = (of(1).unwrap(), of(2).unwrap());
    for _ in 0..5 {
        let pick = world.pick_for(belongs).unwrap();
        let _ = world.done(pick, TryResult::Failure);
    }
    assert_ne!(id(&world.pick_for(belongs).unwrap()), 1);
    world.now += ms(1_000);
    assert_eq!(id(&world.pick_for(other).unwrap()), 2);
    let probe = world.pick_for(belongs).unwrap();
    assert!(probe.is_probe() && id(&probe) == 1);
}

#[test]
fn a_session_stays_with_its_endpoint_until_that_is_ejected_or_gone() {
    let mut world = World::new(BalancePolicy::default(), (1..=3).map(spec).collect());
    let at = PickRequest { session: Some(key(2).addr), ..PickRequest::default() };
    for _ in 0..50 {
        assert_eq!(id(&world.pick_for(at).unwrap()), 2);
    }
    let avoid = [key(2)];
    assert_ne!(id(&world.pick_for(PickRequest { avoid: &avoid, ..at }).unwrap()), 2, "a retry goes elsewhere");
    for _ in 0..5 {
        let pick = world.pick_for(at).unwrap();
        let _ = world.done(pick, TryResult::Failure);
    }
    assert_ne!(id(&world.pick_for(at).unwrap()), 2, "ejected");
    world.update([1, 3].map(spec));
    assert_ne!(id(&world.pick_for(at).unwrap()), 2, "gone");
}
