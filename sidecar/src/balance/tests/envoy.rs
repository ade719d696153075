//! Outlier detection as a DestinationRule asks for it: Envoy's.

use super::*;

fn envoy(success_rate: Option<SuccessRate>, failure_percentage: Option<FailurePercentage>) -> BalancePolicy {
    let outlier = OutlierPolicy {
        consecutive_failures: None,
        base: ms(30_000),
        max: ms(300_000),
        max_percent: 50,
        envoy: Some(EnvoyOutlier { success_rate, failure_percentage, ..EnvoyOutlier::default() }),
    };
    // In turns: so that each gets its number of requests.
    BalancePolicy { algorithm: Algorithm::RoundRobin, outlier, ..BalancePolicy::default() }
}

/// `n` endpoints, whose first interval begins now.
fn world(policy: BalancePolicy, n: u8) -> World {
    let mut world = World::new(policy, (1..=n).map(spec).collect());
    drop(world.pick());
    world
}

/// Requests to each that is in use, of which some fail, by endpoint; then the interval ends.
fn interval(world: &mut World, requests: u32, failures: &[u32]) {
    for (id, failures) in (1..).zip(failures) {
        if world.view(id).ejected_ms.is_some() {
            continue;
        }
        for n in 0..requests {
            let pick = world.pick_of(id);
            let _ = world.done(pick, if n < *failures { TryResult::Failure } else { TryResult::Success });
        }
    }
    world.now += ms(10_000);
    // What is due is done by a request.
    drop(world.pick());
}

fn out(world: &World) -> Vec<u8> {
    let view = world.balancer.snapshot(world.now);
    (1..).zip(view.endpoints).filter(|(_, view)| view.ejected_ms.is_some()).map(|(id, _)| id).collect()
}

#[test]
fn who_succeeds_less_often_than_the_others_is_ejected_after_the_interval() {
    #[rustfmt::skip]
    let rows: [(&str, u32, &[u32], &[u8]); 5] = [
        ("one of five",       100, &[0, 0, 0, 0, 50],         &[5]),
        ("all are well",      100, &[1, 1, 1, 1, 1],          &[]),
        ("too few requests",   99, &[0, 0, 0, 0, 99],         &[]),
        ("too few endpoints", 100, &[0, 0, 0, 100],           &[]),
        ("two of ten",        100, &[0, 0, 99, 0, 0, 0, 0, 0, 99, 0], &[3, 9]),
    ];
    for (what, requests, failures, want) in rows {
        let mut world = world(envoy(Some(SuccessRate::default()), None), failures.len() as u8);
        interval(&mut world, requests, failures);
        assert_eq!(out(&world), want, "{what}");
        let shares = world.shares(1_000);
        assert!(want.iter().all(|id| !shares.contains_key(id)), "{what}: {shares:?}");
    }
}

#[test]
fn who_fails_too_often_is_ejected_up_to_the_cap() {
    #[rustfmt::skip]
    let rows: [(&str, u32, &[u32], &[u8]); 4] = [
        ("84 of 100",    100, &[0, 0, 84, 0, 0],          &[]),
        ("85 of 100",    100, &[0, 0, 85, 0, 0],          &[3]),
        ("two of five",   50, &[0, 50, 0, 50, 0],         &[2, 4]),
        ("all",           50, &[50, 50, 50, 50, 50, 50],  &[1, 2, 3]),
    ];
    for (what, requests, failures, want) in rows {
        let mut world = world(envoy(None, Some(FailurePercentage::default())), failures.len() as u8);
        interval(&mut world, requests, failures);
        assert_eq!(out(&world), want, "{what}");
    }
}

#[test]
fn a_finding_that_is_not_enforced_ejects_nobody_and_half_of_those_that_are_half() {
    let mut ejected = [0; 3];
    for (enforcing_percent, ejected) in [0, 50, 100].into_iter().zip(&mut ejected) {
        let by = FailurePercentage { enforcing_percent, ..FailurePercentage::default() };
        for seed in 0..60 {
            let mut world = world(envoy(None, Some(by.clone())), 5);
            world.rng = SmallRng::seed_from_u64(seed);
            interval(&mut world, 50, &[50, 0, 0, 0, 0]);
            *ejected += out(&world).len();
        }
    }
    assert!(ejected[0] == 0 && (18..=42).contains(&ejected[1]) && ejected[2] == 60, "{ejected:?}");
}

#[test]
fn an_interval_does_not_remember_the_one_before() {
    let mut world = world(envoy(None, Some(FailurePercentage::default())), 5);
    interval(&mut world, 30, &[30, 0, 0, 0, 0]);
    interval(&mut world, 30, &[30, 0, 0, 0, 0]);
    assert!(out(&world).is_empty());
}

#[test]
fn an_endpoint_is_back_when_its_time_is_over_without_a_probe() {
    let mut world = world(envoy(None, Some(FailurePercentage::default())), 5);
    interval(&mut world, 50, &[50, 0, 0, 0, 0]);
    assert_eq!(world.view(1).ejected_ms, Some(30_000));
    world.now += ms(29_999);
    drop(world.pick());
    assert_eq!(out(&world), [1]);
    world.now += ms(1);
    assert!((0..100).all(|_| !world.pick().is_probe()));
    assert!(out(&world).is_empty() && world.shares(500)[&1] == 100);
}

#[test]
fn ejections_grow_by_addition_and_are_forgotten_one_by_one() {
    let mut policy = envoy(None, None);
    policy.outlier.consecutive_failures = NonZeroU32::new(5);
    policy.outlier.max = ms(100_000);
    let mut world = world(policy, 5);
    for seconds in [30, 60, 90, 100, 100] {
        assert!(matches!(world.fail(1), Finished::Ejected { .. }));
        assert_eq!(world.view(1).ejected_ms, Some(seconds * 1_000));
        world.now += ms(seconds * 1_000);
        drop(world.pick());
        assert!(out(&world).is_empty());
    }
    // Five are remembered, and three are forgotten in 30 s.
    world.now += ms(30_000);
    assert!(matches!(world.fail(1), Finished::Ejected { .. }));
    assert_eq!(world.view(1).ejected_ms, Some(90_000));
}

#[test]
fn jitter_lengthens_an_ejection_by_up_to_what_it_says() {
    let mut policy = envoy(None, None);
    policy.outlier.consecutive_failures = NonZeroU32::new(5);
    policy.outlier.envoy.as_mut().expect("Envoy's").jitter = ms(10_000);
    let mut lengths = Vec::new();
    for n in 0..50 {
        let mut world = world(policy.clone(), 5);
        world.now += ms(n * 137);
        let _ = world.fail(1);
        lengths.extend(world.view(1).ejected_ms);
    }
    assert!(lengths.len() == 50 && lengths.iter().all(|length| (30_000..40_000).contains(length)), "{lengths:?}");
    assert!(lengths.iter().any(|length| *length < 33_000) && lengths.iter().any(|length| *length > 37_000));
}

#[test]
fn all_may_be_ejected_where_the_policy_says_so_and_then_all_are_used() {
    let mut policy = envoy(None, None);
    policy.outlier.consecutive_failures = NonZeroU32::new(5);
    policy.outlier.max_percent = 100;
    policy.min_health_percent = 0;
    let mut world = world(policy, 3);
    (1..=3).for_each(|id| assert!(matches!(world.fail(id), Finished::Ejected { .. })));
    assert_eq!(world.balancer.ejected(), 3);
    assert!(world.shares(300).values().all(|n| *n == 100));
    assert_eq!(world.balancer.panics_total(), 300);
}

#[test]
fn switching_between_the_two_ways_loses_nobody() {
    let mut world = World::of(5);
    let _ = world.fail(1);
    world.balancer.set_policy(envoy(Some(SuccessRate::default()), None));
    assert_eq!(out(&world), [1], "it stays out for its second");
    world.now += ms(1_000);
    drop(world.pick());
    assert!(out(&world).is_empty());
    let mut off = envoy(None, None);
    off.outlier.envoy = None;
    world.balancer.set_policy(off);
    assert!(matches!(world.fail(1), Finished::Ignored), "detection is off");
}
