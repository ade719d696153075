//! How endpoints are ejected. What a field may hold and what its absence means is in `resources.proto`; what the numbers do, in
//! `balance/outlier/`.

use std::num::NonZeroU32;
use std::time::Duration;

use weft_proto::v1;

use super::balancing::{or, percent};
use super::error::{CompileError, In};
use super::values::{at_least_1_ms, span};
use crate::balance::{Consecutive, EnvoyOutlier, FailurePercentage, LocalOrigin, OutlierPolicy, SuccessRate};

pub(super) fn outlier(outlier: Option<&v1::OutlierDetection>) -> Result<OutlierPolicy, CompileError> {
    let defaults = OutlierPolicy::default();
    let Some(outlier) = outlier else { return Ok(defaults) };
    let base = at_least_1_ms(outlier.base_ejection.as_ref()).field("base_ejection")?.unwrap_or(defaults.base);
    let max = at_least_1_ms(outlier.max_ejection.as_ref()).field("max_ejection")?.unwrap_or(defaults.max.max(base));
    if max < base {
        return Err(CompileError::new("shorter than base_ejection")).field("max_ejection");
    }
    if outlier.max_ejection_percent > 100 {
        return Err(CompileError::new("more than 100 %")).field("max_ejection_percent");
    }
    let envoy = outlier.envoy.as_deref().filter(|_| !outlier.disabled);
    let none_in_a_row = outlier.disabled || envoy.is_some_and(|envoy| envoy.no_consecutive);
    let or_default = NonZeroU32::new(outlier.consecutive_failures).or(defaults.consecutive_failures);
    let consecutive_failures = if none_in_a_row { None } else { or_default };
    Ok(OutlierPolicy {
        consecutive_failures,
        base,
        max,
        max_percent: or(outlier.max_ejection_percent, defaults.max_percent),
        envoy: envoy.map(|envoy| envoys(envoy, consecutive_failures)).transpose().field("envoy")?,
    })
}

/// `before`: what a control plane that knows one kind of failures in a row says of them.
fn envoys(wire: &v1::EnvoyOutlierDetection, before: Option<NonZeroU32>) -> Result<EnvoyOutlier, CompileError> {
    let defaults = EnvoyOutlier::default();
    let [server_error, gateway] = match &wire.consecutive {
        None => [None, before.and_then(|failures| Consecutive::of(failures.get()))],
        Some(wire) => [
            wire.server_error.as_ref().map(consecutive).transpose().field("consecutive.server_error")?,
            wire.gateway.as_ref().map(consecutive).transpose().field("consecutive.gateway")?,
        ],
    };
    Ok(EnvoyOutlier {
        interval: at_least_1_ms(wire.interval.as_ref()).field("interval")?.unwrap_or(defaults.interval),
        jitter: span(wire.jitter.as_ref()).field("jitter")?.unwrap_or(Duration::ZERO),
        server_error,
        gateway,
        local: wire.local_origin.as_ref().map(local_origin).transpose().field("local_origin")?,
        success_rate: wire.success_rate.as_ref().map(success_rate).transpose().field("success_rate")?,
        failure_percentage: {
            let wire = wire.failure_percentage.as_ref();
            wire.map(failure_percentage).transpose().field("failure_percentage")?
        },
    })
}

fn consecutive(wire: &v1::ConsecutiveFailures) -> Result<Consecutive, CompileError> {
    let zero = || CompileError::new("zero");
    Ok(Consecutive {
        failures: NonZeroU32::new(wire.failures).ok_or_else(zero).field("failures")?,
        enforcing_percent: percent(wire.enforcing_percent, 100).field("enforcing_percent")?,
    })
}

fn local_origin(wire: &v1::LocalOriginEjection) -> Result<LocalOrigin, CompileError> {
    Ok(LocalOrigin {
        consecutive: wire.consecutive.as_ref().map(consecutive).transpose().field("consecutive")?,
        enforcing_success_rate: percent(wire.enforcing_success_rate, 100).field("enforcing_success_rate")?,
        enforcing_failure_percentage: {
            percent(wire.enforcing_failure_percentage, 100).field("enforcing_failure_percentage")?
        },
    })
}

fn success_rate(wire: &v1::SuccessRateEjection) -> Result<SuccessRate, CompileError> {
    let defaults = SuccessRate::default();
    Ok(SuccessRate {
        endpoints: wire.minimum_endpoints.unwrap_or(defaults.endpoints),
        requests: wire.minimum_requests.unwrap_or(defaults.requests),
        factor_milli: wire.stdev_factor_milli.unwrap_or(defaults.factor_milli),
        enforcing_percent: percent(wire.enforcing_percent, defaults.enforcing_percent).field("enforcing_percent")?,
    })
}

fn failure_percentage(wire: &v1::FailurePercentageEjection) -> Result<FailurePercentage, CompileError> {
    let defaults = FailurePercentage::default();
    Ok(FailurePercentage {
        endpoints: wire.minimum_endpoints.unwrap_or(defaults.endpoints),
        requests: wire.minimum_requests.unwrap_or(defaults.requests),
        percent: percent(wire.threshold_percent, defaults.percent).field("threshold_percent")?,
        enforcing_percent: percent(wire.enforcing_percent, defaults.enforcing_percent).field("enforcing_percent")?,
    })
}
