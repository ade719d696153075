//! What is left of keys and endpoints where there is no room for the tables that policies ask for.

use std::sync::Arc;

use super::*;

/// By a table of so many cells.
fn maglev(cells: u32) -> BalancePolicy {
    BalancePolicy { algorithm: Algorithm::maglev(cells).expect("a prime number"), ..BalancePolicy::default() }
}

fn world(policy: BalancePolicy, room: &Arc<Room>, endpoints: u8) -> World {
    let mut world = World::new(BalancePolicy::default(), Vec::new());
    world.balancer = Balancer::sharing(policy, Arc::clone(room));
    world.balancer.update((1..=endpoints).map(spec).collect(), world.now);
    world
}

fn homes(world: &mut World) -> Vec<u8> {
    let mut home = |hash| id(&world.pick_for(PickRequest { hash: Some(hash), ..PickRequest::default() }).expect("one"));
    (0..2_000).map(|key| home(hash_bytes(&u64::to_le_bytes(key)))).collect()
}

#[test]
fn a_table_without_room_is_smaller_and_keys_stay_all_the_same() {
    // 65,537 cells are 262,148 bytes.
    let room = Arc::new(Room::of(300_000));
    let first = world(maglev(65_537), &room, 5);
    assert_eq!((first.balancer.cut(), room.taken()), (None, 262_148));
    let mut second = world(maglev(65_537), &room, 5);
    assert_eq!(second.balancer.cut(), Some(Cut { wanted: 65_537, given: 8_191 }));
    assert_eq!((room.cut(), room.taken()), (1, 262_148 + 4 * 8_191));
    let before = homes(&mut second);
    assert_eq!(homes(&mut second), before);
    for endpoint in 1..=5 {
        let share = before.iter().filter(|home| **home == endpoint).count();
        assert!((300..=500).contains(&share), "{endpoint}: {share}");
    }
    // The first needs none any more: with its next change the second has what it asked for.
    first.balancer.set_policy(BalancePolicy::default());
    assert_eq!(room.taken(), 4 * 8_191);
    second.balancer.update((1..=6).map(spec).collect(), second.now);
    assert_eq!((second.balancer.cut(), room.taken()), (None, 262_148));
    drop(second);
    drop(first);
    assert_eq!(room.taken(), 0);
}

#[test]
fn an_update_does_not_cut_what_fits() {
    let room = Arc::new(Room::of(300_000));
    let mut world = world(maglev(65_537), &room, 5);
    for endpoints in [6, 3, 5, 4] {
        world.balancer.update((1..=endpoints).map(spec).collect(), world.now);
        assert_eq!((world.balancer.cut(), room.taken()), (None, 262_148));
    }
    world.balancer.set_policy(BalancePolicy {
        algorithm: Algorithm::RingHash { minimum: 20_000, maximum: 1 << 20 },
        ..BalancePolicy::default()
    });
    assert_eq!((world.balancer.cut(), room.taken()), (None, 240_000));
    world.balancer.update(Vec::new(), world.now);
    assert_eq!((room.taken(), room.cut()), (0, 0));
    homes_of_nobody(&mut world);
}

fn homes_of_nobody(world: &mut World) {
    assert!(world.pick_for(PickRequest { hash: Some(7), ..PickRequest::default() }).is_err());
}

#[test]
fn each_pool_of_a_set_claims_and_all_of_them_are_given_back() {
    let room = Arc::new(Room::default());
    let mut world = world(maglev(65_537), &room, 4);
    let mut specs: Vec<_> = (1..=4).map(spec).collect();
    (specs[2].priority, specs[3].health) = (1, Health::Draining);
    world.balancer.update(specs, world.now);
    // The ready ones, those that are draining, and the two levels.
    assert_eq!(room.taken(), 4 * 262_148);
    world.now += ms(1);
    world.balancer.update(vec![spec(1)], world.now);
    assert_eq!(room.taken(), 262_148);
}
