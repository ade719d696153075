//! Outlier detection as a BackendPolicy asks for it: Envoy's.

use super::*;

/// By rates, and by failures in a row where no rate is asked for.
fn envoy(success_rate: Option<SuccessRate>, failure_percentage: Option<FailurePercentage>) -> BalancePolicy {
    let defaults = EnvoyOutlier::default();
    let by_rate = success_rate.is_some() || failure_percentage.is_some();
    let server_error = if by_rate { None } else { defaults.server_error };
    let outlier = OutlierPolicy {
        consecutive_failures: None,
        base: ms(30_000),
        max: ms(300_000),
        max_percent: 50,
        envoy: Some(EnvoyOutlier { server_error, success_rate, failure_percentage, ..defaults }),
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

#[test]
fn what_was_counted_before_detection_was_switched_off_is_not_counted_after() {
    let mut world = world(in_a_row(5, 0, None), 5);
    for _ in 0..4 {
        let pick = world.pick_of(1);
        let _ = world.done(pick, APP);
    }
    world.balancer.set_policy(in_a_row(0, 0, None));
    world.balancer.set_policy(in_a_row(5, 0, None));
    let pick = world.pick_of(1);
    assert_eq!(world.done(pick, APP), Finished::Counted, "the first in a row");

    let rates = || envoy(None, Some(FailurePercentage::default()));
    let mut world = World::new(rates(), (1..=5).map(spec).collect());
    drop(world.pick());
    for id in (1..=5).flat_map(|id| [id; 50]) {
        let pick = world.pick_of(id);
        let _ = world.done(pick, if id == 1 { TryResult::Failure } else { TryResult::Success });
    }
    let mut off = rates();
    off.outlier.envoy = None;
    world.balancer.set_policy(off);
    world.balancer.set_policy(rates());
    drop(world.pick());
    assert_eq!(out(&world), [0; 0], "the interval was cut short");
}

const APP: TryResult = TryResult::AppError { gateway: false };
const GRPC: TryResult = TryResult::AppError { gateway: true };

/// By failures in a row alone.
fn in_a_row(server_error: u32, gateway: u32, local: Option<u32>) -> BalancePolicy {
    let mut policy = envoy(None, None);
    let envoy = policy.outlier.envoy.as_mut().expect("Envoy's");
    envoy.server_error = Consecutive::of(server_error);
    envoy.gateway = Consecutive::of(gateway);
    let consecutive = local.map(Consecutive::of);
    envoy.local = consecutive.map(|consecutive| LocalOrigin { consecutive, ..LocalOrigin::default() });
    policy
}

#[test]
fn failures_of_each_kind_eject_at_their_number() {
    use TryResult::{Connected, Failure, GatewayError, Neutral, Silent, Success};
    #[rustfmt::skip]
    let rows: [(&str, BalancePolicy, &[TryResult], bool); 17] = [
        //                              5xx gateway local
        ("500s",              in_a_row(3, 0, None),    &[APP, APP, APP],                             true),
        ("two 500s",          in_a_row(3, 0, None),    &[APP, APP],                                  false),
        ("any of them",       in_a_row(3, 0, None),    &[APP, GatewayError, Failure],                true),
        ("with a success",    in_a_row(3, 0, None),    &[APP, APP, Success, APP, APP],               false),
        ("with nothing",      in_a_row(3, 0, None),    &[APP, APP, Neutral, APP],                    true),
        ("a connection",      in_a_row(3, 0, None),    &[Failure, Failure, Connected, Failure],      false),
        ("500s, not asked",   in_a_row(0, 3, None),    &[APP, APP, APP, APP],                        false),
        ("gateway",           in_a_row(0, 3, None),    &[GatewayError, Failure, GRPC],               true),
        ("gateway, broken",   in_a_row(0, 3, None),    &[GatewayError, GatewayError, APP, Failure],  false),
        ("silent",            in_a_row(9, 0, None),    &[Silent],                                    true),
        ("off",               in_a_row(0, 0, None),    &[Failure, Silent, GatewayError, APP],        false),
        ("local",             in_a_row(9, 9, Some(3)), &[Failure, Failure, Failure],                 true),
        ("local, silent",     in_a_row(9, 9, Some(3)), &[Silent],                                    true),
        ("local, answered",   in_a_row(9, 9, Some(3)), &[Failure, Failure, APP, Failure],            false),
        ("local, connected",  in_a_row(9, 9, Some(3)), &[Failure, Failure, Connected, Failure],      false),
        ("local and answers", in_a_row(3, 0, Some(9)), &[APP, Failure, APP, Failure, GatewayError],  true),
        ("local off",         in_a_row(3, 3, Some(0)), &[Failure, Silent, Failure, Failure],         false),
    ];
    for (what, policy, results, want) in rows {
        let mut world = world(policy, 5);
        let (last, before) = results.split_last().expect("some");
        for result in before {
            let pick = world.pick_of(1);
            assert!(!matches!(world.done(pick, *result), Finished::Ejected { .. }), "{what}: too early");
        }
        let pick = world.pick_of(1);
        let finished = world.done(pick, *last);
        assert_eq!(matches!(finished, Finished::Ejected { .. }), want, "{what}: {finished:?}");
        assert_eq!(out(&world).len(), usize::from(want), "{what}");
    }
}

#[test]
fn to_the_meshs_own_detection_an_apps_error_is_an_answer() {
    let mut world = World::of(5);
    for result in [APP, GRPC].repeat(10) {
        let pick = world.pick_of(1);
        assert_eq!(world.done(pick, result), Finished::Counted);
    }
    // Nor does it leave a row that others made as it is.
    for result in [TryResult::Failure, TryResult::GatewayError, TryResult::Failure, TryResult::Failure, APP] {
        let pick = world.pick_of(1);
        assert_eq!(world.done(pick, result), Finished::Counted);
    }
    assert_eq!((world.view(1).consecutive_failures, world.balancer.ejections_total()), (0, 0));
}

#[test]
fn a_row_is_enforced_in_as_many_cases_as_asked_and_else_begins_anew() {
    for (enforcing_percent, want) in [(0, 0..=0), (30, 35..=85), (100, 200..=200)] {
        let mut policy = in_a_row(3, 0, None);
        let by = policy.outlier.envoy.as_mut().and_then(|envoy| envoy.server_error.as_mut()).expect("said");
        by.enforcing_percent = enforcing_percent;
        let mut ejected = 0;
        for _ in 0..200 {
            let mut world = world(policy.clone(), 5);
            for n in 1..=3 {
                let pick = world.pick_of(1);
                match world.done(pick, APP) {
                    Finished::Ejected { .. } if n == 3 => ejected += 1,
                    Finished::Counted => assert_eq!(world.view(1).consecutive_failures, n % 3, "{enforcing_percent} %"),
                    other => panic!("{other:?} at {n}"),
                }
            }
        }
        assert!(want.contains(&ejected), "{enforcing_percent} %: {ejected} of 200");
    }
}

#[test]
fn the_one_too_many_is_kept_and_goes_as_soon_as_there_is_room() {
    let mut policy = in_a_row(2, 0, None);
    policy.outlier.max_percent = 10;
    let mut world = world(policy, 3);
    let fail = |world: &mut World, id| {
        let pick = world.pick_of(id);
        world.done(pick, APP)
    };
    assert_eq!(fail(&mut world, 1), Finished::Counted);
    assert!(matches!(fail(&mut world, 1), Finished::Ejected { .. }));
    assert_eq!([fail(&mut world, 2), fail(&mut world, 2)], [Finished::Counted, Finished::Kept]);
    world.now += ms(30_000);
    drop(world.pick());
    assert!(out(&world).is_empty());
    assert!(matches!(fail(&mut world, 2), Finished::Ejected { .. }));
    // Who is back begins anew.
    world.now += ms(30_000);
    drop(world.pick());
    assert_eq!((world.view(1).consecutive_failures, world.view(2).consecutive_failures), (0, 0));
    assert_eq!(fail(&mut world, 1), Finished::Counted);
}

#[test]
fn what_was_counted_in_envoys_way_is_no_failure_in_ours() {
    let mut world = world(in_a_row(9, 0, None), 5);
    for _ in 0..4 {
        let pick = world.pick_of(1);
        let _ = world.done(pick, APP);
    }
    assert_eq!(world.view(1).consecutive_failures, 4);
    world.balancer.set_policy(BalancePolicy::default());
    assert_eq!(world.view(1).consecutive_failures, 0);
}

/// Results of one interval by endpoint: successes, the app's errors, tries without an answer.
fn mixed(world: &mut World, rows: &[(u32, u32, u32)]) {
    for (id, (well, app, none)) in (1..).zip(rows) {
        for (times, result) in [(well, TryResult::Success), (app, APP), (none, TryResult::Failure)] {
            for _ in 0..*times {
                let pick = world.pick_of(id);
                let _ = world.done(pick, result);
            }
        }
    }
    world.now += ms(10_000);
    drop(world.pick());
}

#[test]
fn rates_are_of_answers_and_of_tries_where_the_two_are_told_apart() {
    type Row = (&'static str, [(u32, u32, u32); 5], &'static [u8], &'static [u8]);
    let rows: &[Row] = &[
        // successes, errors, no answer                                         together  split
        ("a 500 is a failure", [(60, 0, 0), (60, 0, 0), (5, 55, 0), (60, 0, 0), (60, 0, 0)], &[3], &[3]),
        ("no answer", [(60, 0, 0), (60, 0, 0), (60, 0, 0), (5, 0, 55), (60, 0, 0)], &[4], &[4]),
        // 54 of 104 failed; of the answers 4 of 54, of the tries 50 of 104.
        ("both, neither enough", [(60, 0, 0), (50, 4, 50), (60, 0, 0), (60, 0, 0), (60, 0, 0)], &[], &[]),
        // 92 of 100; of 50 answers 42, of 100 tries 50.
        ("together alone", [(60, 0, 0), (8, 42, 50), (60, 0, 0), (60, 0, 0), (60, 0, 0)], &[2], &[]),
    ];
    for (what, rows, together, split) in rows {
        for (local, want) in [(None, together), (Some(0), split)] {
            let mut policy = in_a_row(0, 0, local);
            policy.outlier.envoy.as_mut().expect("Envoy's").failure_percentage = Some(FailurePercentage::default());
            let mut world = world(policy, 5);
            mixed(&mut world, rows);
            assert_eq!(out(&world), **want, "{what}, split: {}", local.is_some());
        }
    }
}

#[test]
fn each_rate_has_its_own_probability_of_ejecting() {
    let answers = [(5, 95, 0), (100, 0, 0), (100, 0, 0), (100, 0, 0), (100, 0, 0)];
    let tries = [(5, 0, 95), (100, 0, 0), (100, 0, 0), (100, 0, 0), (100, 0, 0)];
    // (of answers, of tries) in percent; whether each ejects.
    for ((of_answers, of_tries), want) in [((100, 0), [1, 0]), ((0, 100), [0, 1]), ((0, 0), [0, 0])] {
        for by_success in [true, false] {
            for (rows, want) in [answers, tries].iter().zip(want) {
                // Of the second, 5 answers are too few for a rate of answers.
                let mut policy = in_a_row(0, 0, Some(0));
                let envoy = policy.outlier.envoy.as_mut().expect("Envoy's");
                let local = envoy.local.as_mut().expect("split");
                (local.enforcing_success_rate, local.enforcing_failure_percentage) = (of_tries, of_tries);
                if by_success {
                    envoy.success_rate = Some(SuccessRate { enforcing_percent: of_answers, ..SuccessRate::default() });
                } else {
                    let by = FailurePercentage { enforcing_percent: of_answers, ..FailurePercentage::default() };
                    envoy.failure_percentage = Some(by);
                }
                let mut world = world(policy, 5);
                mixed(&mut world, rows);
                assert_eq!(out(&world).len(), want, "{of_answers} {of_tries} {by_success}");
            }
        }
    }
}
