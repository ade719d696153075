//! How endpoints are chosen among and ejected.

use weft_proto::v1::BalancingAlgorithm as Wire;

use super::super::balancing::{balancing, hash_by};
use super::super::outlier::outlier;
use super::*;
use crate::balance::{
    Algorithm, Consecutive, EnvoyOutlier, FailurePercentage, LocalOrigin, Locality, Prefer, SlowStart, SuccessRate,
};
use crate::route::HashBy;

fn by(algorithm: Wire) -> v1::Balancing {
    v1::Balancing { algorithm: algorithm.into(), ..v1::Balancing::default() }
}

const fn ms(value: u64) -> Option<v1::Millis> {
    Some(v1::Millis { value })
}

#[test]
fn what_is_absent_is_the_default() {
    assert_eq!(balancing(None).unwrap(), BalancePolicy::default());
    assert_eq!(balancing(Some(&v1::Balancing::default())).unwrap(), BalancePolicy::default());
    assert_eq!(outlier(Some(&v1::OutlierDetection::default())).unwrap(), OutlierPolicy::default());
}

#[test]
fn each_algorithm_takes_its_own_fields() {
    let least = |choices, active_request_bias_milli| v1::Balancing {
        choices,
        active_request_bias_milli,
        ..by(Wire::LeastRequest)
    };
    let ring = |minimum_ring_size, maximum_ring_size| v1::Balancing {
        minimum_ring_size,
        maximum_ring_size,
        ..by(Wire::RingHash)
    };
    #[rustfmt::skip]
    let rows = [
        (by(Wire::PowerOfTwo),   Algorithm::PowerOfTwo),
        (by(Wire::RoundRobin),   Algorithm::RoundRobin),
        (by(Wire::LeastRequest), Algorithm::LeastRequest { choices: 2, bias_milli: 1_000 }),
        (least(5, Some(0)),      Algorithm::LeastRequest { choices: 5, bias_milli: 0 }),
        (by(Wire::Random),       Algorithm::Random),
        (by(Wire::RingHash),     Algorithm::RingHash { minimum: 1_024, maximum: 1 << 20 }),
        (ring(64, 128),          Algorithm::RingHash { minimum: 64, maximum: 128 }),
        (ring(0, 100),           Algorithm::RingHash { minimum: 100, maximum: 100 }),
        (by(Wire::Maglev),       Algorithm::Maglev { cells: 65_537 }),
        (v1::Balancing { table_size: 251, ..by(Wire::Maglev) }, Algorithm::Maglev { cells: 251 }),
    ];
    for (wire, want) in rows {
        let policy = BalancePolicy { algorithm: want, ..BalancePolicy::default() };
        assert_eq!(balancing(Some(&wire)).unwrap(), policy, "{wire:?}");
    }
}

#[test]
fn a_key_comes_from_what_the_policy_names() {
    use v1::hash_by::By;
    let cookie =
        |name: &str, path: &str, lasts| By::Cookie(v1::HashCookie { name: name.into(), path: path.into(), lasts });
    let hour = Some(Duration::from_secs(3_600));
    let compiled = |by| hash_by(Some(&v1::Balancing { hash_by: Some(v1::HashBy { by }), ..by_ring() }));
    #[rustfmt::skip]
    let rows = [
        (By::Header("X-User".into()),             HashBy::header("x-user").unwrap()),
        (cookie("u", "/a", ms(3_600_000)),        HashBy::cookie("u", "/a", hour).unwrap()),
        (cookie("u", "", None),                   HashBy::cookie("u", "", None).unwrap()),
        (By::Client(v1::HashClient {}),           HashBy::Client),
        (By::QueryParameter("u".into()),          HashBy::query("u").unwrap()),
    ];
    for (wire, want) in rows {
        assert_eq!(compiled(Some(wire)).unwrap(), Some(want));
    }
    assert_eq!(hash_by(Some(&by_ring())).unwrap(), None);
    #[rustfmt::skip]
    let refused = [
        (None,                                    "hash_by.by"),
        (Some(By::Header("a b".into())),          "hash_by.header"),
        (Some(cookie("", "", None)),              "hash_by.cookie"),
        (Some(cookie("u", "a", None)),            "hash_by.cookie"),
        (Some(By::QueryParameter(String::new())), "hash_by.query_parameter"),
    ];
    for (by, field) in refused {
        let error = compiled(by).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

fn by_ring() -> v1::Balancing {
    by(Wire::RingHash)
}

#[test]
fn slow_start_zones_and_panic_are_taken_over() {
    let wire = v1::Balancing {
        slow_start: Some(v1::SlowStart { window: ms(60_000), aggression_milli: 0, least_percent: Some(0) }),
        zone_aware: Some(v1::ZoneAware { least_endpoints: Some(2), ..v1::ZoneAware::default() }),
        min_health_percent: Some(0),
        ..v1::Balancing::default()
    };
    let want = BalancePolicy {
        slow_start: SlowStart { window: Duration::from_secs(60), aggression_milli: 1_000, least_percent: 0 },
        locality: Locality { prefer: Prefer::Shares, least_endpoints: 2 },
        min_health_percent: 0,
        ..BalancePolicy::default()
    };
    assert_eq!(balancing(Some(&wire)).unwrap(), want);
}

#[test]
fn how_near_requests_stay_is_said_by_default_and_may_be_switched_off() {
    use v1::ZonePreference as Zone;
    let rows = [
        (None, Prefer::Shares),
        (Some((false, Zone::Shares)), Prefer::Shares),
        (Some((false, Zone::SameZone)), Prefer::SameZone),
        (Some((false, Zone::SameNode)), Prefer::SameNode),
        (Some((true, Zone::SameNode)), Prefer::Nothing),
    ];
    for (said, want) in rows {
        let zone_aware = said.map(|(disabled, preference)| v1::ZoneAware {
            disabled,
            preference: preference.into(),
            ..v1::ZoneAware::default()
        });
        let got = balancing(Some(&v1::Balancing { zone_aware, ..v1::Balancing::default() })).unwrap();
        assert_eq!(got.locality, Locality { prefer: want, least_endpoints: 6 }, "{said:?}");
    }
    assert_eq!(balancing(None).unwrap().locality.prefer, Prefer::Shares, "nothing is said at all");
}

#[test]
fn outlier_detection_may_be_envoys() {
    let wire = v1::OutlierDetection {
        base_ejection: ms(30_000),
        max_ejection: ms(300_000),
        max_ejection_percent: 10,
        envoy: Some(Box::new(v1::EnvoyOutlierDetection {
            interval: ms(5_000),
            jitter: ms(100),
            no_consecutive: true,
            success_rate: Some(v1::SuccessRateEjection::default()),
            failure_percentage: Some(v1::FailurePercentageEjection {
                minimum_endpoints: Some(0),
                threshold_percent: Some(60),
                ..v1::FailurePercentageEjection::default()
            }),
            ..v1::EnvoyOutlierDetection::default()
        })),
        ..v1::OutlierDetection::default()
    };
    let want = OutlierPolicy {
        consecutive_failures: None,
        base: Duration::from_secs(30),
        max: Duration::from_secs(300),
        max_percent: 10,
        envoy: Some(EnvoyOutlier {
            interval: Duration::from_secs(5),
            jitter: Duration::from_millis(100),
            server_error: None,
            gateway: None,
            local: None,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: Some(FailurePercentage { endpoints: 0, percent: 60, ..FailurePercentage::default() }),
        }),
    };
    assert_eq!(outlier(Some(&wire)).unwrap(), want);
    let off = outlier(Some(&v1::OutlierDetection { disabled: true, ..wire })).unwrap();
    assert_eq!((off.consecutive_failures, off.envoy), (None, None), "disabled is all of it");
}

#[test]
fn failures_in_a_row_are_of_kinds_or_as_a_control_plane_has_them_that_knows_one() {
    let times = |failures, enforcing_percent| Some(v1::ConsecutiveFailures { failures, enforcing_percent });
    let compiled = |consecutive_failures, envoy| {
        let envoy = Some(Box::new(envoy));
        let wire = v1::OutlierDetection { consecutive_failures, envoy, ..v1::OutlierDetection::default() };
        let envoy = outlier(Some(&wire)).unwrap().envoy.unwrap();
        (envoy.server_error, envoy.gateway, envoy.local)
    };
    let before = |no_consecutive| v1::EnvoyOutlierDetection { no_consecutive, ..Default::default() };
    assert_eq!(compiled(3, before(false)), (None, Consecutive::of(3), None));
    assert_eq!(compiled(0, before(false)), (None, Consecutive::of(5), None));
    assert_eq!(compiled(3, before(true)), (None, None, None));
    let local = |consecutive, enforcing_success_rate| v1::LocalOriginEjection {
        consecutive,
        enforcing_success_rate,
        enforcing_failure_percentage: Some(7),
    };
    let wire = v1::EnvoyOutlierDetection {
        consecutive: Some(v1::ConsecutiveEjection { server_error: times(4, None), gateway: times(2, Some(50)) }),
        local_origin: Some(local(times(9, Some(0)), None)),
        no_consecutive: true,
        ..Default::default()
    };
    let by = |failures, enforcing_percent| Consecutive::of(failures).map(|by| Consecutive { enforcing_percent, ..by });
    let want = LocalOrigin { consecutive: by(9, 0), enforcing_success_rate: 100, enforcing_failure_percentage: 7 };
    assert_eq!(compiled(3, wire), (by(4, 100), by(2, 50), Some(want)));
    let wire = v1::EnvoyOutlierDetection {
        consecutive: Some(v1::ConsecutiveEjection::default()),
        local_origin: Some(local(None, Some(1))),
        ..Default::default()
    };
    let want = LocalOrigin { consecutive: None, enforcing_success_rate: 1, enforcing_failure_percentage: 7 };
    assert_eq!(compiled(3, wire), (None, None, Some(want)));
}

#[test]
fn what_is_wrong_with_balancing_is_named() {
    let slow = |slow_start| v1::Balancing { slow_start: Some(slow_start), ..v1::Balancing::default() };
    #[rustfmt::skip]
    let rows = [
        (v1::Balancing { algorithm: 77, ..v1::Balancing::default() },                 "algorithm: 77 is not known"),
        (v1::Balancing { choices: 1, ..by(Wire::LeastRequest) },                      "choices: 1 is not from 2 to 32"),
        (v1::Balancing { choices: 33, ..by(Wire::LeastRequest) },                     "choices: 33"),
        (v1::Balancing { minimum_ring_size: 9, maximum_ring_size: 8, ..by(Wire::RingHash) }, "minimum_ring_size: more"),
        (v1::Balancing { maximum_ring_size: 8_388_608, ..by(Wire::RingHash) },        "maximum_ring_size: more than"),
        (v1::Balancing { table_size: 65_536, ..by(Wire::Maglev) },                    "table_size: 65536 is no prime"),
        (v1::Balancing { min_health_percent: Some(101), ..v1::Balancing::default() }, "min_health_percent: more"),
        (
            v1::Balancing {
                zone_aware: Some(v1::ZoneAware { preference: 77, ..v1::ZoneAware::default() }),
                ..v1::Balancing::default()
            },
            "zone_aware.preference: 77 is not known",
        ),
        (slow(v1::SlowStart { window: ms(u64::MAX), ..v1::SlowStart::default() }),    "slow_start.window: longer"),
        (slow(v1::SlowStart { least_percent: Some(101), ..v1::SlowStart::default() }), "slow_start.least_percent: more"),
    ];
    for (wire, expected) in rows {
        let error = balancing(Some(&wire)).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
    let rows = [
        (v1::EnvoyOutlierDetection { interval: ms(0), ..v1::EnvoyOutlierDetection::default() }, "envoy.interval: zero"),
        (
            v1::EnvoyOutlierDetection {
                success_rate: Some(v1::SuccessRateEjection { enforcing_percent: Some(101), ..Default::default() }),
                ..v1::EnvoyOutlierDetection::default()
            },
            "envoy.success_rate.enforcing_percent: more than 100 %",
        ),
        (
            v1::EnvoyOutlierDetection {
                consecutive: Some(v1::ConsecutiveEjection {
                    server_error: Some(v1::ConsecutiveFailures::default()),
                    gateway: None,
                }),
                ..v1::EnvoyOutlierDetection::default()
            },
            "envoy.consecutive.server_error.failures: zero",
        ),
        (
            v1::EnvoyOutlierDetection {
                local_origin: Some(v1::LocalOriginEjection { enforcing_success_rate: Some(101), ..Default::default() }),
                ..v1::EnvoyOutlierDetection::default()
            },
            "envoy.local_origin.enforcing_success_rate: more than 100 %",
        ),
    ];
    for (envoy, expected) in rows {
        let wire = v1::OutlierDetection { envoy: Some(Box::new(envoy)), ..v1::OutlierDetection::default() };
        let error = outlier(Some(&wire)).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{expected}\n  {error}");
    }
}
