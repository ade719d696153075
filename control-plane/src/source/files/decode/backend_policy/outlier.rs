//! `outlierDetection`: Envoy's fields, by Envoy's names.
//!
//! What is for failures of local origin needs `splitExternalLocalOriginErrors`: Envoy passes over it without a word, which
//! is a trap.

use super::{number, positive};
use crate::model::{FailurePercentage, LocalOrigin, OutlierDetection, SuccessRate};
use crate::source::files::field::Field;
use crate::source::files::values;

const OWN: [&str; 11] = [
    "consecutive5xx",
    "enforcingConsecutive5xx",
    "consecutiveGatewayFailure",
    "enforcingConsecutiveGatewayFailure",
    "splitExternalLocalOriginErrors",
    "interval",
    "baseEjectionTime",
    "maxEjectionTime",
    "maxEjectionTimeJitter",
    "maxEjectionPercent",
    "minHealthPercent",
];

const LOCAL: [&str; 4] = [
    "consecutiveLocalOriginFailure",
    "enforcingConsecutiveLocalOriginFailure",
    "enforcingLocalOriginSuccessRate",
    "enforcingFailurePercentageLocalOrigin",
];

/// Any of these switches it on; so does that of `LOCAL` which is about it.
const SUCCESS: [&str; 4] =
    ["successRateMinimumHosts", "successRateRequestVolume", "successRateStdevFactor", "enforcingSuccessRate"];

const FAILURE: [&str; 4] = [
    "failurePercentageMinimumHosts",
    "failurePercentageRequestVolume",
    "failurePercentageThreshold",
    "enforcingFailurePercentage",
];

/// Most failures in a row: what a sidecar counts to.
const MOST: i64 = 65_535;

pub(super) fn outlier_detection(field: &Field<'_>) -> OutlierDetection {
    if !field.only(&[&OWN[..], &LOCAL, &SUCCESS, &FAILURE].concat(), &[]) {
        return OutlierDetection::default();
    }
    let any = |keys: &[&str]| keys.iter().any(|key| field.get(key).is_some());
    let many = i64::from(u32::MAX);
    let base = field.get("baseEjectionTime").and_then(|field| positive(&field));
    let max = field.get("maxEjectionTime").and_then(|field| positive(&field));
    if let (Some(base), Some(max), Some(at)) = (base, max, field.get("maxEjectionTime"))
        && max < base
    {
        at.error("must not be shorter than baseEjectionTime");
    }
    let in_a_row = |key: &str| number(field, key, 0, MOST);
    let percent = |key: &str| number(field, key, 0, 100);
    OutlierDetection {
        consecutive_5xx: in_a_row("consecutive5xx"),
        enforcing_consecutive_5xx: percent("enforcingConsecutive5xx"),
        consecutive_gateway_failure: in_a_row("consecutiveGatewayFailure"),
        enforcing_consecutive_gateway_failure: percent("enforcingConsecutiveGatewayFailure"),
        local_origin: local_origin(field),
        interval: field.get("interval").and_then(|field| positive(&field)),
        base_ejection_time: base,
        max_ejection_time: max,
        max_ejection_time_jitter: field.get("maxEjectionTimeJitter").and_then(|field| values::duration(&field)),
        max_ejection_percent: number(field, "maxEjectionPercent", 1, 100),
        min_health_percent: percent("minHealthPercent"),
        success_rate: any(&[&SUCCESS[..], &LOCAL[2..3]].concat()).then(|| SuccessRate {
            hosts: number(field, SUCCESS[0], 0, many),
            requests: number(field, SUCCESS[1], 0, many),
            stdev_factor: number(field, SUCCESS[2], 0, many),
            enforcing: percent(SUCCESS[3]),
        }),
        failure_percentage: any(&[&FAILURE[..], &LOCAL[3..]].concat()).then(|| FailurePercentage {
            hosts: number(field, FAILURE[0], 0, many),
            requests: number(field, FAILURE[1], 0, many),
            threshold: percent(FAILURE[2]),
            enforcing: percent(FAILURE[3]),
        }),
    }
}

fn local_origin(field: &Field<'_>) -> Option<LocalOrigin> {
    let split = field.get("splitExternalLocalOriginErrors").and_then(|split| split.bool()).unwrap_or(false);
    if !split {
        for own in LOCAL.iter().filter_map(|key| field.get(key)) {
            own.error("needs splitExternalLocalOriginErrors: true");
        }
        return None;
    }
    Some(LocalOrigin {
        consecutive: number(field, LOCAL[0], 0, MOST),
        enforcing_consecutive: number(field, LOCAL[1], 0, 100),
        enforcing_success_rate: number(field, LOCAL[2], 0, 100),
        enforcing_failure_percentage: number(field, LOCAL[3], 0, 100),
    })
}
