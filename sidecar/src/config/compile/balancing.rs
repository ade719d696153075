//! How endpoints are chosen among. What a field may hold and what its absence means is in `resources.proto`; what
//! the numbers do, in `balance/`.

use weft_proto::v1;

use super::error::{CompileError, In};
use super::values::{span, unknown};
use crate::balance::{Algorithm, BalancePolicy, Locality, Prefer, SlowStart};
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

/// Zero is the default.
pub(super) fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

pub(super) fn percent(value: Option<u32>, default: u32) -> Result<u32, CompileError> {
    match value.unwrap_or(default) {
        percent @ 0..=100 => Ok(percent),
        _ => Err(CompileError::new("more than 100 %")),
    }
}
