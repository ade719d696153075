//! `outlierDetection` of a BackendPolicy: Envoy's, with Envoy's defaults, which are said here in full: on the wire absence is the
//! mesh's own default.
//!
//! Where Envoy counts something and ejects for it in no case unless asked to (`enforcingConsecutiveGatewayFailure`,
//! `enforcingFailurePercentage`), here naming a field of it is asking.
//! Bound: nothing is kept.

use weft_proto::v1;

use super::super::gateway_api::millis;
use crate::model::{FailurePercentage, LocalOrigin, OutlierDetection, SuccessRate};

/// Envoy's defaults (`envoy.config.cluster.v3.OutlierDetection`).
const BASE_MS: u64 = 30_000;
const MAX_MS: u64 = 300_000;
const MAX_PERCENT: u32 = 10;
const CONSECUTIVE: u32 = 5;

pub(super) fn outlier_detection(said: &OutlierDetection) -> v1::OutlierDetection {
    let base = said.base_ejection_time.map_or(v1::Millis { value: BASE_MS }, millis);
    // Envoy's longest is never less than the base.
    let max = said.max_ejection_time.map_or(v1::Millis { value: MAX_MS.max(base.value) }, millis);
    let max = v1::Millis { value: max.value.max(base.value) };
    let server_error = consecutive(said.consecutive_5xx, said.enforcing_consecutive_5xx);
    let gateway = match (said.consecutive_gateway_failure, said.enforcing_consecutive_gateway_failure) {
        // In Envoy too it ejects nobody unless it is asked to.
        (None, None) => None,
        (failures, enforcing) => consecutive(failures, enforcing),
    };
    // To a proxy that counts one kind: gateway failures, which are server errors as well.
    let of_any = [&gateway, &server_error].into_iter().flatten().map(|one| one.failures).min();
    let envoy = v1::EnvoyOutlierDetection {
        interval: said.interval.map(millis),
        jitter: said.max_ejection_time_jitter.map(millis),
        no_consecutive: of_any.is_none(),
        success_rate: said.success_rate.as_ref().map(success_rate),
        failure_percentage: said.failure_percentage.as_ref().map(failure_percentage),
        consecutive: Some(v1::ConsecutiveEjection { server_error, gateway }),
        local_origin: said.local_origin.as_ref().map(local_origin),
    };
    v1::OutlierDetection {
        disabled: false,
        consecutive_failures: of_any.unwrap_or_default(),
        base_ejection: Some(base),
        max_ejection: Some(max),
        max_ejection_percent: said.max_ejection_percent.unwrap_or(MAX_PERCENT),
        envoy: Some(Box::new(envoy)),
    }
}

/// So many in a row; `None` for zero.
fn consecutive(failures: Option<u32>, enforcing_percent: Option<u32>) -> Option<v1::ConsecutiveFailures> {
    let failures = failures.unwrap_or(CONSECUTIVE);
    (failures > 0).then_some(v1::ConsecutiveFailures { failures, enforcing_percent })
}

fn local_origin(said: &LocalOrigin) -> v1::LocalOriginEjection {
    v1::LocalOriginEjection {
        consecutive: consecutive(said.consecutive, said.enforcing_consecutive),
        enforcing_success_rate: said.enforcing_success_rate,
        enforcing_failure_percentage: said.enforcing_failure_percentage,
    }
}

fn success_rate(said: &SuccessRate) -> v1::SuccessRateEjection {
    v1::SuccessRateEjection {
        minimum_endpoints: said.hosts,
        minimum_requests: said.requests,
        stdev_factor_milli: said.stdev_factor,
        enforcing_percent: said.enforcing,
    }
}

fn failure_percentage(said: &FailurePercentage) -> v1::FailurePercentageEjection {
    v1::FailurePercentageEjection {
        minimum_endpoints: said.hosts,
        minimum_requests: said.requests,
        threshold_percent: said.threshold,
        enforcing_percent: said.enforcing,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Failures in a row and in how many percent of cases they eject.
    type Row = Option<(u32, Option<u32>)>;

    fn row(wire: Option<v1::ConsecutiveFailures>) -> Row {
        wire.map(|wire| (wire.failures, wire.enforcing_percent))
    }

    #[test]
    fn outlier_detection_is_envoys_with_envoys_defaults() {
        let ms = |value| Some(v1::Millis { value });
        let wire = outlier_detection(&OutlierDetection::default());
        assert_eq!((wire.base_ejection, wire.max_ejection), (ms(30_000), ms(300_000)));
        assert_eq!(wire.max_ejection_percent, 10);
        let envoy = wire.envoy.unwrap();
        assert!(envoy.success_rate.is_none() && envoy.failure_percentage.is_none() && envoy.local_origin.is_none());

        let said = OutlierDetection {
            base_ejection_time: Some(Duration::from_secs(600)),
            success_rate: Some(SuccessRate { stdev_factor: Some(1_500), ..SuccessRate::default() }),
            ..OutlierDetection::default()
        };
        let wire = outlier_detection(&said);
        assert_eq!(wire.max_ejection, ms(600_000), "never less than the base");
        assert_eq!(wire.envoy.unwrap().success_rate.unwrap().stdev_factor_milli, Some(1_500));
    }

    #[test]
    fn failures_in_a_row_by_kind_and_what_older_proxies_are_told() {
        type Said = (Option<u32>, Option<u32>, Option<u32>, Option<u32>);
        #[rustfmt::skip]
        let rows: [(&str, Said, Row, Row, u32); 8] = [
            // 5xx, enforcing, gateway, enforcing            5xx                  gateway              older
            ("nothing is said",   (None, None, None, None),          Some((5, None)),     None,                5),
            ("5xx",               (Some(7), None, None, None),       Some((7, None)),     None,                7),
            ("no 5xx",            (Some(0), None, None, None),       None,                None,                0),
            ("gateway alone",     (Some(0), None, Some(3), None),    None,                Some((3, None)),     3),
            ("both",              (None, None, Some(3), None),       Some((5, None)),     Some((3, None)),     3),
            ("no gateway",        (None, None, Some(0), None),       Some((5, None)),     None,                5),
            ("gateway, some",     (None, None, None, Some(50)),      Some((5, None)),     Some((5, Some(50))), 5),
            ("5xx, none",         (None, Some(0), None, None),       Some((5, Some(0))),  None,                5),
        ];
        for (what, (server_error, enforcing_server_error, gateway, enforcing_gateway), five, of_gateway, older) in rows
        {
            let wire = outlier_detection(&OutlierDetection {
                consecutive_5xx: server_error,
                enforcing_consecutive_5xx: enforcing_server_error,
                consecutive_gateway_failure: gateway,
                enforcing_consecutive_gateway_failure: enforcing_gateway,
                ..OutlierDetection::default()
            });
            let envoy = wire.envoy.unwrap();
            let said = envoy.consecutive.unwrap();
            assert_eq!((row(said.server_error), row(said.gateway)), (five, of_gateway), "{what}");
            assert_eq!((wire.consecutive_failures, envoy.no_consecutive), (older, older == 0), "{what}");
        }
    }

    #[test]
    fn local_origin_has_envoys_five_and_what_it_says() {
        let of = |local| {
            let said = OutlierDetection { local_origin: Some(local), ..OutlierDetection::default() };
            outlier_detection(&said).envoy.unwrap().local_origin.unwrap()
        };
        let default = of(LocalOrigin::default());
        assert_eq!(row(default.consecutive), Some((5, None)));
        assert_eq!((default.enforcing_success_rate, default.enforcing_failure_percentage), (None, None));
        let said = of(LocalOrigin {
            consecutive: Some(0),
            enforcing_consecutive: Some(1),
            enforcing_success_rate: Some(2),
            enforcing_failure_percentage: Some(3),
        });
        assert_eq!(row(said.consecutive), None);
        assert_eq!((said.enforcing_success_rate, said.enforcing_failure_percentage), (Some(2), Some(3)));
    }
}
