//! How endpoints are chosen among and ejected. What a field may hold and what its absence means is in `resources.proto`; what
//! the numbers do, in `balance/`.

use std::num::NonZeroU32;
use std::time::Duration;

use weft_proto::v1;

use super::error::{CompileError, In};
use super::values::{at_least_1_ms, span, unknown};
use crate::balance::{
    Algorithm, BalancePolicy, EnvoyOutlier, FailurePercentage, Locality, OutlierPolicy, Prefer, SlowStart, SuccessRate,
};
use crate::route::HashBy;

/// Most points on a ring.
const MOST_POINTS: u32 = 1 << 20;

/// What of a policy `Balancing` says; the rest is left as by default.
pub(super) fn balancing(balancing: Option<&v1::Balancing>) -> Result<BalancePolicy, CompileError> {
    let defaults = BalancePolicy::default();
    let Some(balancing) = balancing else { return Ok(defaults) };
    Ok(BalancePolicy {
        algorithm: algorithm(balancing)?,
        slow_start: slow_start(balancing.slow_start.as_ref()).field("slow_start")?,
        locality: locality(balancing.zone_aware.as_ref()).field("zone_aware")?,
        min_health_percent: percent(balancing.min_health_percent, defaults.min_health_percent)
            .field("min_health_percent")?,
        ..defaults
    })
}

fn algorithm(balancing: &v1::Balancing) -> Result<Algorithm, CompileError> {
    use v1::BalancingAlgorithm as Wire;
    match Wire::try_from(balancing.algorithm) {
        Ok(Wire::PowerOfTwo) => Ok(Algorithm::PowerOfTwo),
        Ok(Wire::RoundRobin) => Ok(Algorithm::RoundRobin),
        Ok(Wire::LeastRequest) => match or(balancing.choices, 2) {
            choices @ 2..=32 => Ok(Algorithm::LeastRequest {
                choices,
                bias_milli: balancing.active_request_bias_milli.unwrap_or(1_000),
            }),
            choices => Err(CompileError::new(format_args!("{choices} is not from 2 to 32"))).field("choices"),
        },
        Ok(Wire::Random) => Ok(Algorithm::Random),
        Ok(Wire::RingHash) => {
            let maximum = or(balancing.maximum_ring_size, MOST_POINTS);
            let minimum = or(balancing.minimum_ring_size, maximum.min(1_024));
            if maximum > MOST_POINTS {
                return Err(CompileError::new(format_args!("more than {MOST_POINTS}"))).field("maximum_ring_size");
            }
            if minimum > maximum {
                return Err(CompileError::new("more than maximum_ring_size")).field("minimum_ring_size");
            }
            Ok(Algorithm::RingHash { minimum, maximum })
        }
        Ok(Wire::Maglev) => {
            let none = || CompileError::new(format_args!("{} is no prime up to 5000011", balancing.table_size));
            Algorithm::maglev(balancing.table_size).ok_or_else(none).field("table_size")
        }
        Err(_) => Err(unknown(balancing.algorithm)).field("algorithm"),
    }
}

/// What keys come from; said of a rule that has none, it does nothing.
pub(super) fn hash_by(balancing: Option<&v1::Balancing>) -> Result<Option<HashBy>, CompileError> {
    let Some(wire) = balancing.and_then(|balancing| balancing.hash_by.as_ref()) else { return Ok(None) };
    let by = match &wire.by {
        None => return Err(unknown(0)).field("hash_by.by"),
        Some(v1::hash_by::By::Header(name)) => HashBy::header(name).field("hash_by.header")?,
        Some(v1::hash_by::By::Cookie(cookie)) => {
            let lasts = span(cookie.lasts.as_ref()).field("hash_by.cookie.lasts")?;
            HashBy::cookie(&cookie.name, &cookie.path, lasts).field("hash_by.cookie")?
        }
        Some(v1::hash_by::By::Client(v1::HashClient {})) => HashBy::Client,
        Some(v1::hash_by::By::QueryParameter(name)) => HashBy::query(name).field("hash_by.query_parameter")?,
    };
    Ok(Some(by))
}

fn slow_start(wire: Option<&v1::SlowStart>) -> Result<SlowStart, CompileError> {
    let defaults = SlowStart::default();
    let Some(wire) = wire else { return Ok(defaults) };
    Ok(SlowStart {
        window: span(wire.window.as_ref()).field("window")?.unwrap_or_default(),
        aggression_milli: or(wire.aggression_milli, defaults.aggression_milli),
        least_percent: percent(wire.least_percent, defaults.least_percent).field("least_percent")?,
    })
}

fn locality(wire: Option<&v1::ZoneAware>) -> Result<Locality, CompileError> {
    use v1::ZonePreference as Wire;
    let defaults = Locality::default();
    let Some(wire) = wire else { return Ok(defaults) };
    let prefer = match Wire::try_from(wire.preference) {
        _ if wire.disabled => Prefer::Nothing,
        Ok(Wire::Shares) => Prefer::Shares,
        Ok(Wire::SameZone) => Prefer::SameZone,
        Ok(Wire::SameNode) => Prefer::SameNode,
        Err(_) => return Err(unknown(wire.preference)).field("preference"),
    };
    Ok(Locality { prefer, least_endpoints: wire.least_endpoints.unwrap_or(defaults.least_endpoints) })
}

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
    Ok(OutlierPolicy {
        consecutive_failures: if none_in_a_row { None } else { or_default },
        base,
        max,
        max_percent: or(outlier.max_ejection_percent, defaults.max_percent),
        envoy: envoy.map(envoys).transpose().field("envoy")?,
    })
}

fn envoys(wire: &v1::EnvoyOutlierDetection) -> Result<EnvoyOutlier, CompileError> {
    let defaults = EnvoyOutlier::default();
    Ok(EnvoyOutlier {
        interval: at_least_1_ms(wire.interval.as_ref()).field("interval")?.unwrap_or(defaults.interval),
        jitter: span(wire.jitter.as_ref()).field("jitter")?.unwrap_or(Duration::ZERO),
        success_rate: wire.success_rate.as_ref().map(success_rate).transpose().field("success_rate")?,
        failure_percentage: {
            let wire = wire.failure_percentage.as_ref();
            wire.map(failure_percentage).transpose().field("failure_percentage")?
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

/// Zero is the default.
fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

fn percent(value: Option<u32>, default: u32) -> Result<u32, CompileError> {
    match value.unwrap_or(default) {
        percent @ 0..=100 => Ok(percent),
        _ => Err(CompileError::new("more than 100 %")),
    }
}
