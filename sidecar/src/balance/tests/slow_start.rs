//! New endpoints, through the balancer: their share over time.

use super::*;

fn warming(algorithm: Algorithm, aggression_milli: u32) -> BalancePolicy {
    let slow_start = SlowStart { window: ms(60_000), aggression_milli, least_percent: 10 };
    BalancePolicy { algorithm, slow_start, ..BalancePolicy::default() }
}

fn algorithms() -> [Algorithm; 4] {
    let least_request = Algorithm::LeastRequest { choices: 2, bias_milli: 1_000 };
    [Algorithm::PowerOfTwo, Algorithm::RoundRobin, least_request, Algorithm::Random]
}

/// Three that are warm, and a fourth that has just come.
fn joined(policy: BalancePolicy) -> World {
    let mut world = World::new(policy, (1..=3).map(spec).collect());
    world.now += ms(60_000);
    world.update((1..=4).map(spec));
    world
}

#[test]
fn the_share_of_a_new_endpoint_grows_with_time() {
    for algorithm in algorithms() {
        let mut world = joined(warming(algorithm.clone(), 1_000));
        let mut at = 0;
        for (seconds, part) in [(0, 0.1), (6, 0.1), (30, 0.5), (60, 1.0)] {
            world.now += ms((seconds - at) * 1_000);
            at = seconds;
            let got = f64::from(world.shares(10_000)[&4]) / 1e4;
            let want = part / (3.0 + part);
            assert!((got - want).abs() < 0.015, "{algorithm:?} after {seconds} s: {got} for {want}");
        }
    }
}

#[test]
fn aggression_brings_it_forward() {
    let mut world = joined(warming(Algorithm::RoundRobin, 2_000));
    world.now += ms(15_000);
    // (1/4)^(1/2)
    let got = f64::from(world.shares(10_000)[&4]) / 1e4;
    assert!((got - 0.5 / 3.5).abs() < 0.01, "{got}");
}

#[test]
fn endpoints_that_are_all_new_share_as_ever() {
    for algorithm in algorithms() {
        let shares = World::new(warming(algorithm, 1_000), (1..=4).map(spec).collect()).shares(10_000);
        assert!(shares.values().all(|n| (2_200..2_800).contains(n)), "{shares:?}");
    }
}

#[test]
fn one_that_was_not_ready_starts_slowly_and_one_that_only_changed_does_not() {
    let mut world = joined(warming(Algorithm::RoundRobin, 1_000));
    world.now += ms(60_000);
    world.update((1..=4).map(|id| EndpointSpec { zone: "a".into(), ..spec(id) }));
    let share = |world: &mut World| f64::from(world.shares(10_000)[&4]) / 1e4;
    assert!((share(&mut world) - 0.25).abs() < 0.01, "its zone has changed");
    let health = |health| (1..=4).map(move |id| if id == 4 { EndpointSpec { health, ..spec(id) } } else { spec(id) });
    world.update(health(Health::NotReady));
    world.update(health(Health::Ready));
    assert!((share(&mut world) - 0.1 / 3.1).abs() < 0.01, "it was not ready");
}

#[test]
fn a_new_one_is_used_at_once_where_there_is_no_other() {
    for algorithm in algorithms() {
        let mut world = joined(warming(algorithm, 1_000));
        assert_eq!(id(&world.avoiding(&[1, 2, 3])), 4);
    }
}
