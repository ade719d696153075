//! What results lead to: ejection, the probe that decides on the return, the cap, panic.

use super::*;

#[test]
fn five_failures_in_a_row_eject_and_nothing_less() {
    use TryResult::{Failure, Neutral, Success};
    let rows: [(&str, Vec<TryResult>, bool); 5] = [
        ("four", vec![Failure; 4], false),
        ("five", vec![Failure; 5], true),
        ("a success between", [vec![Failure; 4], vec![Success], vec![Failure; 4]].concat(), false),
        (
            "what says nothing does not break the row",
            [vec![Failure; 4], vec![Neutral; 9], vec![Failure]].concat(),
            true,
        ),
        ("what says nothing adds nothing", [vec![Failure; 4], vec![Neutral; 9]].concat(), false),
    ];
    for (row, results, want) in rows {
        let mut world = World::of(4);
        for result in results {
            let pick = world.pick_of(1);
            let _ = world.done(pick, result);
        }
        assert_eq!(world.view(1).ejected_ms.is_some(), want, "{row}");
        assert_eq!(world.balancer.ejections_total(), u64::from(want), "{row}");
    }
}

#[test]
fn as_many_are_ejected_as_the_cap_allows() {
    for (ready, cap) in [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)] {
        let mut world = World::of(ready);
        // Whatever the order, every endpoint fails all the time. Ejected ones are not due: no time passes.
        for _ in 0..500 {
            let pick = world.pick();
            let _ = world.done(pick, TryResult::Failure);
        }
        assert_eq!(world.balancer.ejected(), cap, "{ready} ready");
    }
}

#[test]
fn an_ejected_endpoint_is_left_alone_until_one_probe_brings_it_back() {
    let mut world = World::of(3);
    let until = world.now + ms(1_000);
    assert_eq!(world.fail(2), Finished::Ejected { until });
    assert_eq!(world.shares(500).get(&2), None);
    world.now = until;
    assert_ne!(id(&world.avoiding(&[1])), 2, "a retry is not spent on a probe");
    let probe = world.pick();
    assert!(probe.is_probe() && id(&probe) == 2);
    assert_eq!(world.shares(500).get(&2), None, "one probe at a time");
    assert_eq!(world.done(probe, TryResult::Success), Finished::Returned);
    assert_eq!(world.balancer.ejected(), 0);
    assert!(world.shares(500)[&2] > 50, "it is trusted at once");
}

#[test]
fn a_probe_that_fails_doubles_the_time_and_one_that_says_nothing_is_repeated() {
    let mut world = World::of(2);
    let _ = world.fail(2);
    world.now += ms(1_000);
    let probe = world.pick();
    drop(probe);
    let probe = world.pick();
    assert!(probe.is_probe());
    let _ = world.done(probe, TryResult::Neutral);
    let probe = world.pick();
    assert!(probe.is_probe());
    assert_eq!(world.done(probe, TryResult::Failure), Finished::Ejected { until: world.now + ms(2_000) });
    world.now += ms(1_999);
    assert!(!world.pick().is_probe());
    world.now += ms(1);
    assert!(world.pick().is_probe());
    assert_eq!(world.balancer.ejections_total(), 2);
}

#[test]
fn results_of_requests_picked_before_the_ejection_change_nothing() {
    let mut world = World::of(2);
    let (late_failure, late_success) = (world.pick_of(1), world.pick_of(1));
    let _ = world.fail(1);
    assert_eq!(world.done(late_failure, TryResult::Failure), Finished::Ignored);
    let _ = world.done(late_success, TryResult::Success);
    assert_eq!((world.view(1).ejected_ms, world.balancer.ejections_total()), (Some(1_000), 1));
}

#[test]
fn a_result_counts_once_and_the_request_is_in_flight_until_dropped() {
    let mut world = World::of(2);
    let pick = world.pick_of(1);
    assert_eq!(world.balancer.record(&pick, world.now, ms(1), TryResult::Failure), Finished::Counted);
    assert_eq!(world.balancer.record(&pick, world.now, ms(1), TryResult::Failure), Finished::Ignored);
    assert_eq!((world.view(1).in_flight, world.view(1).consecutive_failures), (1, 1));
    drop(pick);
    assert_eq!((world.view(1).in_flight, world.view(1).consecutive_failures), (0, 1));
}

#[test]
fn when_more_than_half_are_ejected_all_are_used_again() {
    let mut world = World::of(4);
    let _ = (world.fail(1), world.fail(2));
    assert_eq!(world.shares(400).len(), 2, "half is not more than half");
    world.update([1, 2, 3].map(spec));
    let shares = world.shares(400);
    assert_eq!((shares.len(), world.balancer.panics_total()), (3, 400));
    // Draining ones are in no number: they neither cause a panic nor end one.
    world.update([1, 2, 3, 4].map(|id| match id {
        4 => EndpointSpec { health: Health::Draining, ..spec(id) },
        _ => spec(id),
    }));
    assert_eq!(world.shares(400).len(), 3);
    world.update([1, 2, 3, 4].map(spec));
    assert_eq!(world.shares(400).len(), 2);
}

#[test]
fn when_only_the_cap_keeps_an_endpoint_the_ejected_ones_are_used_again() {
    let mut world = World::of(2);
    let _ = world.fail(1);
    assert_eq!(id(&world.avoiding(&[2])), 2, "the other one is fine");
    assert_eq!(world.fail(2), Finished::Kept);
    assert_eq!(id(&world.avoiding(&[2])), 1);
    assert_eq!(world.shares(100).len(), 2);
    assert_eq!(world.balancer.panics_total(), 101);
    let pick = world.pick_for(PickRequest { avoid: &[key(1)], ..PickRequest::default() }).unwrap();
    let _ = world.done(pick, TryResult::Success);
    assert_eq!(world.shares(100).len(), 1);
}

#[test]
fn under_panic_a_probe_still_brings_an_endpoint_back() {
    let mut world = World::of(2);
    let _ = world.fail(1);
    world.update([spec(1)]);
    assert!(!world.pick().is_probe());
    world.now += ms(1_000);
    let probe = world.pick();
    assert!(probe.is_probe());
    assert_eq!(world.done(probe, TryResult::Success), Finished::Returned);
    assert_eq!(world.balancer.ejected(), 0);
}

#[test]
fn a_policy_may_change_while_endpoints_are_out() {
    let mut world = World::of(4);
    let _ = world.fail(1);
    let mut policy = BalancePolicy::default();
    policy.outlier.consecutive_failures = None;
    world.balancer.set_policy(policy);
    assert_eq!((world.view(1).ejected_ms, world.balancer.ejected()), (None, 0));
    let mut policy = BalancePolicy::default();
    policy.outlier.consecutive_failures = NonZeroU32::new(1);
    world.balancer.set_policy(policy);
    let pick = world.pick_of(2);
    assert!(matches!(world.done(pick, TryResult::Failure), Finished::Ejected { .. }));
}
